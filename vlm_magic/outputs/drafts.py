"""Questions as text that a person can type into: pictures stand in it as marks and keep their place.

The same marks are written by the page (``static/state.mjs``). Pure functions.
Neighbours: `panel` uses them for messages that are sent or edited.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_magic.messages import Part, Picture, Text
from vlm_magic.outputs.parsing import clean_text

__all__ = ["marked_text", "parts_of_draft", "split_marks"]

_MARK = re.compile(r"«picture (\d+)»")


def marked_text(parts: Iterable[Part]) -> str:
    """A question as text, each picture as its mark."""
    words: list[str] = []
    n = 0
    for part in parts:
        if isinstance(part, Text):
            words.append(clean_text(part.text))
        else:
            n += 1
            words.append(f"«picture {n}»")
    return "".join(words).strip()


def split_marks(text: str, pictures: Mapping[int, Picture]) -> tuple[Part, ...]:
    """Text with marks as parts in their order; a mark without a picture stays text."""
    parts: list[Part] = []
    words = ""
    position = 0
    for found in _MARK.finditer(text):
        picture = pictures.get(int(found[1]))
        if picture is None:
            continue
        words += text[position : found.start()]
        if words:
            parts.append(Text(words))
        parts.append(picture)
        words, position = "", found.end()
    words += text[position:]
    return (*parts, Text(words)) if words.strip() or not parts else tuple(parts)


def parts_of_draft(
    text: str, pictures: Sequence[Mapping[str, Any]], buffers: Sequence[Any]
) -> tuple[Part, ...]:
    """A message of the page as parts: its words as typed, its pictures as raw bytes.

    Args:
        text: what was typed, with marks.
        pictures: for each picture the number of its mark and its name.
        buffers: their bytes, in the same order.
    """
    known = {
        int(about["n"]): Picture(bytes(data), name=clean_text(about.get("name", "")))
        for about, data in zip(pictures, buffers, strict=False)
    }
    return split_marks(text, known)
