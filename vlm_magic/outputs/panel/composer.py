"""Questions as text that a person can type into: pictures stand in it as marks and keep their place.

The same marks are written by the page (``static/state.mjs``). Pure functions.
Neighbours: `panel` uses them for messages that are sent or edited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_magic.messages import Part, Picture, Text
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.outputs.panel.shown_pictures import part_of

__all__ = ["Typed", "marked_text", "parts_of_draft", "split_marks"]

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
    return (*parts, Text(words)) if words else tuple(parts)


@dataclass(frozen=True, slots=True)
class Typed:
    """Words that a person typed just now: names in braces and addresses in them are still to be looked up."""

    text: str


def parts_of_draft(
    text: str,
    pictures: Sequence[Mapping[str, Any]],
    buffers: Sequence[Any],
    kept: Sequence[Picture] = (),
    before: str = "",
    shown: Callable[[str, int], Picture | None] = lambda _turn, _index: None,
) -> tuple[Typed | Part, ...]:
    """A message of the page as parts: words, and pictures that are new or known.

    Args:
        text: the box's text, with marks.
        pictures: for each picture the number of its mark, its name, and where it comes from: for one that
            the edited question has already its index there (``kept``); for one of another turn the id of
            that and its index there (``of``), and the part of it that is meant (``region``), if not all.
        buffers: the bytes of the others, in the same order.
        kept: the pictures of the edited question.
        before: the marked text of the edited question. What stood there already is taken literally, for it
            may have come out of a variable; what was changed is `Typed`.
        shown: gives a picture of another turn, by the id of that and its index there.
    """
    known: dict[int, Picture] = {}
    new = iter(buffers)
    for about in pictures:
        index = about.get("kept")
        if about.get("of") is not None:
            picture = _of_other_turn(about, shown)
            if picture is not None:
                known[int(about["n"])] = picture
        elif index is None:
            data = next(new, None)
            if data is not None:
                known[int(about["n"])] = Picture(bytes(data), name=clean_text(about.get("name", "")))
        elif isinstance(index, int) and 0 <= index < len(kept):
            known[int(about["n"])] = kept[index]
    start, end = _changed(before, text)
    parts: list[Typed | Part] = []
    for piece, is_typed in ((text[:start], False), (text[start:end], True), (text[end:], False)):
        for part in split_marks(piece, known) if piece else ():
            is_word = isinstance(part, Text)
            parts.append(Typed(part.text) if is_word and is_typed else part)  # type: ignore[union-attr]
    if len(parts) > 1 and isinstance(parts[-1], (Text, Typed)) and not parts[-1].text.strip():
        parts.pop()
    return tuple(parts)


def _of_other_turn(about: Mapping[str, Any], shown: Callable[[str, int], Picture | None]) -> Picture | None:
    """A picture that another turn shows, or a part of it; None where there is no such thing."""
    match about["of"]:
        case [str() as turn, int() as index]:
            picture = shown(turn, index)
        case _:
            return None
    region = about.get("region")
    return picture if picture is None or region is None else part_of(picture, region)


def _changed(before: str, text: str) -> tuple[int, int]:
    """Where the part of ``text`` begins and ends that an edit has changed; it never cuts a mark in two."""
    n = min(len(before), len(text))
    start = next((i for i in range(n) if before[i] != text[i]), n)
    rest = n - start
    same = next((i for i in range(rest) if before[-1 - i] != text[-1 - i]), rest)
    end = len(text) - same
    for found in _MARK.finditer(text):
        if found.start() < start < found.end():
            start = found.start()
        if found.start() < end < found.end():
            end = found.end()
    return start, end
