"""One call of ``%%vlm`` or ``%vlm``: from its line and text to one answer that is shown.

The order matters: whatever can be wrong with the line and the prompt is found before a model is
loaded, and the conversation changes only when there is an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Part, Text
from vlm_magic.outputs.bill import bill_bundle
from vlm_magic.outputs.views import AnswerView, choose_view
from vlm_magic.session import Answer
from vlm_magic.shell import choosing, comparing, mapping, typed
from vlm_magic.shell.chat import CellPanel, ChatDesk
from vlm_magic.shell.showing import Interrupted, show_bundle
from vlm_magic.workspace import Workspace

__all__ = ["Call", "ask", "body_of"]


@dataclass(frozen=True)
class Call:
    """What a line asked for, apart from the settings of the answer."""

    out: str | None = None
    conversation: str | None = None
    new: bool = False
    model: str | None = None
    raw: bool = False
    no_panel: bool = False
    dry_run: bool = False
    type: str | None = None
    choices: str | None = None
    examples: str | None = None
    map: str | None = None
    journal: str | None = None
    batch_size: int | None = None
    compare: Mapping[str, tuple[str, ...]] | None = None

    @classmethod
    def split(cls, values: Mapping[str, Any]) -> tuple[Call, dict[str, Any]]:
        """The call, and the settings of the answer, from a line's parsed options."""
        own = {name: value for name, value in values.items() if name in cls.__dataclass_fields__}
        settings = {name: value for name, value in values.items() if name not in own}
        return cls(**own), settings


def body_of(cell: str, values: Mapping[str, object]) -> str:
    """The text of a cell: without blank lines around it, but a text that is continued keeps those at its end.

    Of these IPython has added one, so a text that shall end in a line break is followed by an empty line.
    """
    if values.get("continuation") or values.get("raw"):
        return cell.lstrip("\n").removesuffix("\n")
    return cell.strip("\n")


def ask(
    shell: Any,
    workspace: Workspace,
    values: Mapping[str, object],
    text: str,
    *,
    first_line: int = 1,
    pictures: PictureOptions | None = None,
    save_thumbnails: bool = True,
) -> None:
    """Ask the model and show the answer; ``-o`` puts its text into the notebook."""
    call, settings = Call.split(values)
    _check_together(call)
    choices = choosing.find_choices(call.choices, shell.user_ns, settings)
    schema = typed.find_schema(call.type, shell.user_ns, settings)
    if call.map is not None:
        how: dict[str, Any] = {
            "first_line": first_line,
            "pictures": pictures,
            "save_thumbnails": save_thumbnails,
            "examples": choosing.find_examples(call.examples, shell.user_ns, text, pictures),
            "choices": choices,
            "schema": schema,
        }
        mapping.map_cell(shell, workspace, call, text, settings, **how)
        return
    parts: list[Part] = (
        [Text(text)]
        if call.raw
        else resolve_parts(
            parse_prompt(text, first_line=first_line), shell.user_ns, options=pictures or PictureOptions()
        )
    )
    examples = choosing.find_examples(call.examples, shell.user_ns, parts, pictures)
    if call.compare is not None:
        comparing.compare(
            shell, workspace, call, parts, settings, examples=examples, save_thumbnails=save_thumbnails
        )
        return
    remark = workspace.ensure_engine()
    if remark:
        print(remark)
    engine = workspace.engine(call.model)
    constraint = typed.hold(engine, schema)
    if call.dry_run:
        key = workspace.peek_key()
        session = workspace.session_for(key, call.conversation)
        asked: dict[str, Any] = {"engine": engine, "examples": examples, **settings}
        bill, shown = session.bill(*parts, key=key, fresh=call.new, **asked)
        show_bundle(bill_bundle(bill, shown, thumbnail_data_uri))
        return
    key = workspace.next_key()
    session = workspace.session_for(key, call.conversation, call.new)
    remarks = choosing.fit_remark(
        engine, session, examples, parts, key, call.examples, fresh=call.new, **settings
    )
    panel = CellPanel(
        workspace,
        session,
        lambda shown: ChatDesk(shell, workspace, session, pictures=pictures, panel=shown),
    )
    view = choose_view(
        use_panel=not call.no_panel,
        thumbnail=thumbnail_data_uri,
        save_thumbnails=save_thumbnails,
        model=engine.name,
        conversation=session.conversation.name,
        pictures_key=workspace.pictures.shown_key,
        on_action=panel.act,
        actions=CellPanel.actions,
    )
    answer = session.start(
        parts,
        key=key,
        fresh=call.new,
        engine=engine,
        on_commit=lambda exchange: workspace.settle(session, exchange),
        on_progress=view.progress,
        examples=examples,
        remarks=remarks,
        **settings,
    )
    panel.serve(answer, view)
    show(answer, view)
    if constraint is not None:
        typed.take(shell, constraint, answer.exchange.reply, call.out)
    elif call.out:
        shell.user_ns[call.out] = choosing.outcome(answer.exchange.reply, choices)


def _check_together(call: Call) -> None:
    """Options that say nothing without another one, or contradict it."""
    if call.map is None:
        for name, value in (("--journal", call.journal), ("--batch-size", call.batch_size)):
            if value is not None:
                raise OptionError(f"{name} is about a map", have="no --map", hint=f"--map pictures {name} …")
    elif call.compare is not None:
        raise OptionError("a map and a comparison at once", hint="either --map or --compare")


def show(answer: Answer, view: AnswerView) -> None:
    """Let the answer run through the view, whatever happens on the way."""
    try:
        view.begin(answer.exchange)
        for chunk in answer:
            view.push(chunk)
    except KeyboardInterrupt:
        answer.stop()
        answer.wait()
        view.finish(answer.exchange)
        raise Interrupted("the answer so far is kept, the model stays loaded.") from None
    except BaseException:
        view.fail()
        raise
    try:
        view.finish(answer.exchange)
    except KeyboardInterrupt:
        raise Interrupted("the answer was complete.") from None
