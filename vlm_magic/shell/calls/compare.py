"""``%%vlm --compare``: one prompt under a grid of settings, shown as a table that fills row by row.

Neighbours: `vlm_magic.shell.line` has the form of the grid on the line, `vlm_magic.tasks.compare` answers
it, `vlm_magic.workspace` lends the models, `vlm_magic.outputs.results.compare_view` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_magic.errors import OptionError
from vlm_magic.messages import Part, Settings, Turn
from vlm_magic.outputs.results.compare_view import CompareView
from vlm_magic.shell.calls.call import Call, Context
from vlm_magic.shell.interrupted import Interrupted
from vlm_magic.shell.line import typed_value
from vlm_magic.shell.options import ASK_OPTIONS, LOAD_OPTIONS
from vlm_magic.tasks.forms import AnswerForm
from vlm_magic.wording import count_words
from vlm_magic.workspace import Workspace

if TYPE_CHECKING:
    from vlm_magic.tasks.compare.grid import Comparison

__all__ = ["compare"]


def compare(
    context: Context, call: Call, form: AnswerForm, parts: Sequence[Part], examples: Sequence[Turn]
) -> None:
    """Answer the grid and show it; ``-o`` gets the `Comparison`, also of an interrupted one."""
    from vlm_magic.tasks.compare.grid import Comparison
    from vlm_magic.tasks.compare.run import run

    settings = Settings().updated(form.settings_with(call.settings))
    comparison = Comparison(parts, _axes(call), settings, examples)
    if call.dry_run:
        print(_plan(context.workspace, comparison))
        return
    if call.out:
        context.names[call.out] = comparison
    view = CompareView(len(comparison))
    try:
        with context.workspace.models.lending() as lender:
            run(comparison, lender, lambda grid: _update(view, grid, context))
    except KeyboardInterrupt:
        raise Interrupted(
            f"{comparison.n_done} of {len(comparison)} answers are there; the models are as before."
        ) from None
    finally:
        view.finish(comparison.bundle(context.thumbnail))


def _update(view: CompareView, comparison: Comparison, context: Context) -> None:
    row = None if comparison.current is None else comparison[comparison.current]
    doing = f"{comparison.waiting} {row.label}" if row else ""
    view.update(comparison.n_done, doing, lambda: comparison.bundle(context.thumbnail))


def _axes(call: Call) -> dict[str, list[object]]:
    """The axes of the line with values of their kinds."""
    from vlm_magic.tasks.compare.grid import axis_name

    assert call.compare is not None
    if call.conversation is not None or call.new:
        raise OptionError(
            "a comparison belongs to no conversation", have="-c or --new", hint="--compare without them"
        )
    if call.type is not None:
        raise OptionError("typed answers cannot be compared", have="--type", hint="--compare without --type")
    axes: dict[str, list[object]] = {}
    for spelling, texts in call.compare.items():
        name = axis_name(spelling)
        if name in axes:
            raise OptionError(
                f"{spelling} appears twice", have=", ".join(call.compare), hint="each axis once", name=name
            )
        axes[name] = [_typed(name, text) for text in texts]
    if call.model is None:
        return axes
    if "model" in axes:
        raise OptionError("-m and models= both name the model", have=f"-m {call.model}", hint="one of them")
    return {"model": [call.model], **axes}


def _typed(name: str, text: str) -> object:
    """A value as its option on a line of its own would read it."""
    if name in ("model", "n_examples"):
        return int(text) if name == "n_examples" and text.isdigit() else text
    if name == "quantize" and text.lower() == "none":
        return None
    option = next(option for option in (*ASK_OPTIONS, *LOAD_OPTIONS) if option.dest == name)
    return typed_value(option, option.flags[-1].lstrip("-"), text)


def _plan(workspace: Workspace, comparison: Comparison) -> str:
    """What each row would need: whether its model is there, else what loading it takes."""
    from vlm_magic.errors import VLMError
    from vlm_magic.models.checkpoints.estimate import estimate
    from vlm_magic.tasks.compare.grid import load_changes

    lines = [count_words(len(comparison), "answer")]
    with workspace.models.lending() as lender:
        for row in comparison:
            name, changes = load_changes(row)
            try:
                if lender.is_resident(name, changes):
                    said = "loaded already"
                else:
                    said = str(estimate(*lender.wanted(name, changes))).partition("\n")[0]
            except VLMError as error:
                said = f"{type(error).__name__}: {error}"
            lines.append(f"  {row.label}: {said}")
    return "\n".join(lines)
