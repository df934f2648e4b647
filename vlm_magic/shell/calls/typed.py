"""``%%vlm --type``: find the type in the notebook, hold the answer to it, show its value as a tree.

Neighbours: `ask` calls this before it asks, `chat` after; `vlm_magic.tasks.typed` does the work.
"""

from __future__ import annotations

import ast
import builtins
import typing
from collections.abc import Mapping
from typing import Any

from vlm_magic.errors import OptionError, near_names
from vlm_magic.messages import Reply
from vlm_magic.outputs.live_output import show_bundle
from vlm_magic.outputs.results.typed import typed_bundle
from vlm_magic.shell.calls.call import Call, Context
from vlm_magic.tasks.schemas import Schema, schema_of
from vlm_magic.tasks.typed import Constraint
from vlm_magic.wording import shorten

__all__ = ["find_schema", "find_type", "take"]

_FAMILIAR = ("Literal", "Optional", "Union", "Annotated", "Any")
"""Names of `typing` that need no import on a magic's line."""

_SIMPLE = (
    *(ast.Expression, ast.Load, ast.Name, ast.Attribute, ast.Constant, ast.UnaryOp, ast.USub),
    *(ast.Subscript, ast.Tuple, ast.List, ast.Starred, ast.BinOp, ast.BitOr),
)


def find_schema(call: Call, names: Mapping[str, Any]) -> Schema | None:
    """The form that ``--type`` asks for; None without it.

    Raises:
        OptionError: no such type, or an option that does not go together with one.
    """
    written = call.type
    if written is None:
        return None
    for other, value in (("stop", call.settings.get("stop")), ("choices", call.choices)):
        if value:
            raise OptionError(
                f"--type and --{other} do not go together",
                have="a type already says what the answer may be and where it ends",
                hint=f"--type {written}",
            )
    return schema_of(find_type(written, names))


def find_type(written: str, names: Mapping[str, Any]) -> Any:
    """The object that a line names: a name of the notebook, or a type made of such names. Nothing is called.

    Raises:
        OptionError: no such name, or an expression that is more than that.
    """
    try:
        tree = ast.parse(written.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise OptionError(
            f"--type {written} is not a type", have=shorten(error), hint="--type NameOfAType"
        ) from error
    for node in ast.walk(tree):
        if not isinstance(node, _SIMPLE):
            raise OptionError(
                f"--type {written} is not the name of a type",
                have="names, a.b, list[…], Literal['…'] and A | B; nothing is called here",
                hint="give it a name in a cell above, then --type NAME",
            )
        if isinstance(node, ast.Name) and node.id not in names and not _is_familiar(node.id):
            near = near_names(node.id, _types_in(names))
            raise OptionError(
                f"no type {node.id!r} in this notebook",
                have=", ".join(near or _types_in(names)[-8:]) or "no types yet",
                hint=f"--type {near[0]}" if near else f"define {node.id} in a cell above, or --type int",
                name=node.id,
            )
    familiar = {name: getattr(typing, name) for name in _FAMILIAR}
    try:
        found = eval(compile(tree, "--type", "eval"), {**familiar}, dict(names))
    except Exception as error:
        raise OptionError(
            f"--type {written} is not a type", have=f"{type(error).__name__}: {shorten(error, 120)}"
        ) from error
    _refuse_values(written, found)
    return found


def take(context: Context, constraint: Constraint, reply: Reply | None, out: str | None) -> None:
    """Show the value of an answer, and put it into the notebook under the name ``out``.

    Raises:
        TypedAnswerError: it is not whole; the name keeps what it had.
    """
    value = constraint.read(reply if reply is not None else Reply("", finish_reason="interrupted"))
    if out:
        context.names[out] = value
    show_bundle(typed_bundle(value, constraint.schema.name, out or ""))


def _is_familiar(name: str) -> bool:
    return name in _FAMILIAR or isinstance(getattr(builtins, name, None), type) or name == "None"


def _types_in(names: Mapping[str, Any]) -> list[str]:
    return [name for name, value in names.items() if isinstance(value, type) and not name.startswith("_")]


def _refuse_values(written: str, found: object) -> None:
    """A list of words or a picture is a common slip, and deserves better than pydantic's complaint."""
    if isinstance(found, (list, tuple, set, str, int, float)) and not isinstance(found, type):
        words = isinstance(found, (list, tuple, set)) and all(isinstance(item, str) for item in found)
        raise OptionError(
            f"--type {written}: {written} is a value ({type(found).__name__}), not a type",
            have=shorten(repr(found), 100),
            hint=f"--choices {written}, or --type Literal[*{written}]"
            if words
            else f"--type {type(found).__name__}",
        )
