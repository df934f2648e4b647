"""One call of ``%%vlm`` or ``%vlm``: which kind it is, and who answers it.

The order matters: whatever can be wrong with the line and the prompt is found before a model is
loaded, and the conversation changes only when there is an answer. Neighbours: `call` is what the line
asked for; `chat`, `dry_run`, `map` and `compare` answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.messages import Part, Reply, Text
from vlm_magic.shell.calls.call import Call, Context
from vlm_magic.shell.calls.chat import answer
from vlm_magic.shell.calls.choices import find_choices, find_examples
from vlm_magic.shell.calls.compare import compare
from vlm_magic.shell.calls.dry_run import show_cost
from vlm_magic.shell.calls.map import map_pictures
from vlm_magic.shell.calls.typed import find_schema
from vlm_magic.tasks.forms import AnswerForm

__all__ = ["ask"]


def ask(context: Context, call: Call) -> Reply | None:
    """Ask the model and show the answer; ``-o`` puts it into the notebook.

    Returns:
        The reply to a question, for ``x = %vlm …``; None of a map, a comparison and a dry run.
    """
    form = AnswerForm(find_choices(call, context.names), find_schema(call, context.names))
    if call.map is not None:
        examples = find_examples(call.examples, context.names, call.text, context.pictures)
        map_pictures(context, call, form, examples)
        return None
    parts = _parts(context, call)
    examples = find_examples(call.examples, context.names, parts, context.pictures)
    if call.compare is not None:
        compare(context, call, form, parts, examples)
    elif call.dry_run:
        show_cost(context, call, form, parts, examples)
    else:
        return answer(context, call, form, parts, examples)
    return None


def _parts(context: Context, call: Call) -> Sequence[Part]:
    """The prompt, with what its names and references stand for."""
    if call.raw:
        return [Text(call.text)]
    marks = parse_prompt(call.text, first_line=call.first_line)
    return resolve_parts(marks, context.names, options=context.pictures)
