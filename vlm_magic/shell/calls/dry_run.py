"""``%%vlm --dry-run``: what the model would be given and what it would cost; nothing is generated.

Neighbours: `vlm_magic.session` makes the bill, `vlm_magic.outputs.results.bill` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Part, Turn
from vlm_magic.outputs.live_output import show_bundle
from vlm_magic.outputs.results.bill import bill_bundle
from vlm_magic.shell.calls.call import Call, Context
from vlm_magic.shell.calls.chat import engine_for
from vlm_magic.tasks.forms import AnswerForm
from vlm_magic.tasks.map.mapping import PictureMap

__all__ = ["show_cost", "show_cost_of_first_row"]


def show_cost(
    context: Context, call: Call, form: AnswerForm, parts: Sequence[Part], examples: Sequence[Turn]
) -> None:
    """What this question would cost in its conversation."""
    engine = engine_for(context, call)
    form.reader(engine)  # says whether this model can be held to the type
    key = context.workspace.cell.peek_key()
    session = context.workspace.conversations.session_for(key, call.conversation)
    asked: dict[str, Any] = {"engine": engine, "examples": examples, **form.settings_with(call.settings)}
    bill, shown = session.bill(*parts, key=key, fresh=call.new, **asked)
    show_bundle(bill_bundle(bill, shown, thumbnail_data_uri))


def show_cost_of_first_row(run: PictureMap) -> None:
    """What the first row of a map would cost."""
    turns = run.preview()
    bill = run.engine.bill(turns, run.settings)
    n = "" if run.n_total is None else f" of {run.n_total}"
    print(f"The first row{n}:")
    pictures = [picture for turn in turns for picture in turn.pictures]
    show_bundle(bill_bundle(bill, pictures, thumbnail_data_uri))
