"""``%%vlm --choices`` and ``--examples``: find them in the notebook before anything is asked.

Neighbours: `ask` calls this before it asks; `vlm_magic.tasks.choices.choices` and
`vlm_magic.tasks.examples` do the work.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_magic.conversation import CellKey
from vlm_magic.errors import OptionError, near_names
from vlm_magic.inputs.cell_text.expressions import evaluate_field, read_field
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Engine, Part, Turn
from vlm_magic.session import Session
from vlm_magic.shell.calls.call import Call
from vlm_magic.shell.line import split_list
from vlm_magic.tasks.choices.choices import ChoiceSet
from vlm_magic.tasks.examples import example_turns, fit_examples
from vlm_magic.wording import shorten

__all__ = ["find_choices", "find_examples", "fit_remark", "value_of"]


def find_choices(call: Call, names: Mapping[str, Any]) -> ChoiceSet | None:
    """The choices that a line asks for; None without ``--choices``.

    Several items are the choices themselves; one name is a variable that holds them.

    Raises:
        OptionError: no such variable, or choices that cannot be compared.
    """
    if call.choices is not None:
        return _read_choices(call.choices.strip(), names)
    if "normalize" in call.settings:
        raise OptionError(
            "--normalize needs --choices",
            have="no --choices on the line",
            hint="--choices a,b --normalize length",
        )
    return None


def _read_choices(written: str, names: Mapping[str, Any]) -> ChoiceSet:
    if written.startswith(("[", "(")):
        try:
            return ChoiceSet.of(ast.literal_eval(written), "--choices")
        except (ValueError, SyntaxError) as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(
                f"--choices {shorten(written, 60)} is not a list",
                have=shorten(error, 80),
                hint="--choices a,b,c",
            ) from error
    items = split_list(written)
    is_quoted = written[:1] in "\"'"
    if len(items) > 1 or is_quoted:
        return ChoiceSet.of(items, "--choices")
    name = written.removeprefix("{").removesuffix("}")
    return ChoiceSet.of(value_of(name, names, "--choices", '--choices cat,dog,"city landscape"'), name)


def find_examples(
    written: str | None,
    names: Mapping[str, Any],
    parts: Sequence[Part] | str,
    pictures: PictureOptions | None,
) -> tuple[Turn, ...]:
    """The turns of ``--examples``, asked as the cell (or the text of a map) asks; none without it.

    Raises:
        OptionError: no such variable. PromptError, PictureError: what it holds are no examples.
    """
    if written is None:
        return ()
    name = written.removeprefix("{").removesuffix("}")
    return example_turns(
        value_of(name, names, "--examples", "--examples frame"), prompt=parts, options=pictures
    )


def fit_remark(
    engine: Engine,
    session: Session,
    examples: Sequence[Turn],
    parts: Sequence[Part],
    key: CellKey | None,
    written: str | None,
    *,
    fresh: bool,
    **settings: Any,
) -> tuple[str, ...]:
    """What the examples cost and how many such fit, in words; nothing without examples.

    Raises:
        ContextLengthError: they do not fit; says how many of the first would.
    """
    if not examples:
        return ()
    how = session.settings.updated(settings)
    question = session.conversation.turns_for(session.draft(parts, how, key), fresh=fresh)
    return (str(fit_examples(engine, examples, question, how, name=written or "examples")),)


def value_of(expression: str, names: Mapping[str, Any], option: str, hint: str) -> object:
    """What a name of the notebook, or an expression that starts from one, is worth."""
    field = read_field(f"{{{expression}}}", 0)
    if field is None or field.end != len(expression) + 2 or field.conversion or field.spec:
        raise OptionError(f"{option} {shorten(expression, 60)} names no variable", hint=hint)
    if field.root not in names and not field.is_known(names):
        near = near_names(field.root, [n for n, v in names.items() if n[:1] != "_" and not callable(v)])
        raise OptionError(
            f"no variable {field.root!r} in this notebook",
            have=", ".join(near) or "nothing with a similar name",
            hint=f"{option} {near[0]}" if near else hint,
            name=field.root,
        )
    return evaluate_field(field, names)
