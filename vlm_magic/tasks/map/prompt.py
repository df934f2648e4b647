"""The prompt of a map: what is the same in every row is read once, the rest row by row.

``{picture}`` marks the place of the row's picture (before the words where nobody says), ``{row.title}``
is a column of its table; every other name is looked up as in any cell, once for all rows. Knows
prompts and rows, not engines. Neighbours: `rows` brings the items, `window` has them asked.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlm_magic.errors import PromptError
from vlm_magic.inputs.cell_text.expressions import field_names
from vlm_magic.inputs.cell_text.marks import Expression, Mark, Reference
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.messages import Part, Picture, Text, Turn
from vlm_magic.tasks.map.rows import RowView

__all__ = ["MapPrompt", "digest_of_parts"]

_OWN = ("picture", "row")  # the names that differ from row to row


@dataclass(frozen=True, slots=True)
class _Own:
    """A mark that is read for each row."""

    mark: Mark


class MapPrompt:
    """A prompt for many rows.

    Args:
        text: the words, with ``{picture}``, ``{row.column}`` and other ``{names}``.
        names: the variables of the notebook.
        raw: take the text as it stands.
        first_line: the line of the cell that it begins on, for errors.
        options: limits of pictures and downloads.

    Raises:
        PromptError: as in any prompt; ``{row.…}`` without a table is an error of its row.
    """

    def __init__(
        self,
        text: str,
        names: Mapping[str, object] | None = None,
        *,
        raw: bool = False,
        first_line: int = 1,
        options: PictureOptions | None = None,
    ) -> None:
        self.text = text
        self._names = dict(names or {})  # the notebook's as they are now
        self._options = options or PictureOptions()
        marks: Sequence[Mark] = () if raw else parse_prompt(text, first_line=first_line)
        self._n_lines = first_line + text.count("\n")
        self._pieces: list[Part | _Own] = [Text(text)] if raw and text else []
        for is_own, group in _grouped(marks):
            if is_own:
                self._pieces += [_Own(mark) for mark in group]
            else:
                self._pieces += resolve_parts(
                    group, self._names, options=self._options, n_lines=self._n_lines
                )
        if not any(isinstance(piece, _Own) and _is_place(piece.mark) for piece in self._pieces):
            self._pieces.insert(0, _Own(_only_mark("{picture}")))

    @classmethod
    def of_words(cls, text: str, options: PictureOptions | None = None) -> MapPrompt:
        """A prompt whose words are literal but for ``{picture}``."""
        prompt = cls("", options=options)
        prompt.text = text
        before, mark, after = text.partition("{picture}")
        place = prompt._pieces  # of an empty prompt: the place alone
        texts = (before, after) if mark else ("", text)
        prompt._pieces = [*map(Text, filter(None, texts[:1])), *place, *map(Text, filter(None, texts[1:]))]
        return prompt

    @property
    def identity(self) -> list[str]:
        """What the prompt says, its fixed pictures by content: equal for equal prompts."""
        return [piece.mark.raw if isinstance(piece, _Own) else _identity_of(piece) for piece in self._pieces]

    @property
    def needs_pixels(self) -> bool:
        """Whether the words say something of the row's picture itself, as ``{picture.size}`` does."""
        marks = [piece.mark for piece in self._pieces if isinstance(piece, _Own)]
        return any(not _is_place(mark) and _names_picture(mark) for mark in marks)

    def turn(self, pictures: Sequence[Picture], row: RowView) -> Turn:
        """The question of one row.

        Raises:
            PromptError: an expression of the row failed.
        """
        shown = pictures[0] if len(pictures) == 1 else list(pictures)
        own: dict[str, object] = {"picture": shown, "row": row}
        names = ChainMap(own, self._names)
        parts: list[Part] = []
        for piece in self._pieces:
            if not isinstance(piece, _Own):
                parts.append(piece)
            elif _is_place(piece.mark):
                parts += pictures
            else:
                parts += resolve_parts([piece.mark], names, options=self._options, n_lines=self._n_lines)
        return Turn("user", tuple(parts))


def digest_of_parts(parts: Sequence[Part]) -> str:
    """A hash of words and pictures in their order."""
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = _identity_of(part).encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def _identity_of(part: Part) -> str:
    return f"text:{part.text}" if isinstance(part, Text) else f"picture:{part.digest}"


def _grouped(marks: Sequence[Mark]) -> list[tuple[bool, list[Mark]]]:
    """Neighbouring marks of one kind together: those of the row, and the others."""
    groups: list[tuple[bool, list[Mark]]] = []
    for mark in marks:
        is_own = _is_own(mark)
        if not groups or groups[-1][0] != is_own:
            groups.append((is_own, []))
        groups[-1][1].append(mark)
    return groups


def _is_own(mark: Mark) -> bool:
    if isinstance(mark, Reference):
        return any(name in _OWN for field in mark.fields for name in field_names(field))
    return isinstance(mark, Expression) and any(name in _OWN for name in field_names(mark.field))


def _names_picture(mark: Mark) -> bool:
    fields = mark.fields if isinstance(mark, Reference) else ()
    if isinstance(mark, Expression):
        fields = (mark.field,)
    return any("picture" in field_names(field) for field in fields)


def _is_place(mark: Mark) -> bool:
    """Whether it is ``{picture}`` itself."""
    return (
        isinstance(mark, Expression)
        and mark.field.is_plain
        and mark.field.root == "picture"
        and not (mark.field.conversion or mark.field.spec)
    )


def _only_mark(text: str) -> Mark:
    marks = parse_prompt(text)
    if len(marks) != 1:
        raise PromptError(f"{text} is not a single mark")
    return marks[0]
