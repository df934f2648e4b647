"""The view of the same question with other pictures, or with none, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlm_magic.messages import WithoutPicture
from vlm_magic.outputs.explain.marked import small
from vlm_magic.outputs.explain.pieces import (
    image_html,
    name_of,
    note,
    plain_table,
    quoted,
    section,
    sentence,
    share,
    table,
)

__all__ = ["without_html", "without_plain"]

_SIDE_PX = 72
_HOLDS = 0.5  # of its probability: then the answer stays


def without_html(rows: Sequence[WithoutPicture], *, pictures: bool = True) -> str:
    """The view as HTML."""
    heads, cells = _table(rows)
    shown = [[escape(cell) for cell in row] for row in cells]
    if pictures:
        for row, line in zip(rows, shown, strict=True):
            if row.picture is not None:
                image = image_html(small(row.picture, _SIDE_PX), f"picture {name_of(row.picture)}")
                line[0] = f"{image}<br>{line[0]}"
    return section(
        "Without",
        "did it need the picture?",
        sentence(_finding(rows)) + table(heads, shown, right=(2,)) + note(_LIMIT),
    )


def without_plain(rows: Sequence[WithoutPicture]) -> str:
    """The view in words."""
    return "\n".join([f"Without: {_finding(rows)}", *plain_table(*_table(rows))])


_LIMIT = (
    "A small share does not say that the model looked; it says that other pictures lead to other answers."
)


def _table(rows: Sequence[WithoutPicture]) -> tuple[list[str], list[list[str]]]:
    asked = rows[0]
    has_choices = bool(asked.choices)
    heads = ["shown", "it says", "p(first answer)", *(["choices"] if has_choices else [])]
    cells = []
    for row in rows:
        says = quoted(row.says) if row.probability is not None else f"cannot be asked: {row.note}"
        line = [row.shown, says, share(row.probability)]
        if has_choices:
            ranked = sorted(row.choices, key=lambda choice: -choice.probability)[:4]
            line.append(", ".join(f"{choice.text} {share(choice.probability)}" for choice in ranked))
        cells.append(line)
    return heads, cells


def _finding(rows: Sequence[WithoutPicture]) -> str:
    """What was measured, in a sentence."""
    asked, others = rows[0], [row for row in rows[1:] if row.probability is not None]
    held = [row for row in others if row.probability >= _HOLDS * (asked.probability or 0.0)]  # type: ignore[operator]
    if not others:
        return "It cannot be asked with other pictures."
    if len(held) == len(others):
        return (
            f"It did not need this picture: {quoted(asked.says)} stays without it, and with every other one."
        )
    if held:
        names = ", ".join(row.shown for row in held)
        return f"The answer {quoted(asked.says)} stays with {names}, and changes otherwise."
    return f"It needed the picture: without it, or with another, {quoted(asked.says)} does not hold."
