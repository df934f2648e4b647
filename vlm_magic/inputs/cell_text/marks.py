"""The marks that a cell's text is made of: words, fields in braces, picture references, picture URLs.

The raw text of the marks put together is the text again. `scanner` finds them; which fields are expressions
is decided in `prompt`, where the names are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from vlm_magic.inputs.cell_text.expressions import Field

__all__ = ["BareURL", "Escaped", "Expression", "Mark", "Reference", "Words"]


@dataclass(frozen=True, slots=True)
class Words:
    """Text that stays as it is."""

    raw: str
    line: int


@dataclass(frozen=True, slots=True)
class Expression:
    """``{expr}``: replaced when the name it starts from exists.

    Attributes:
        raw: the text as written, braces included.
        line: line of the cell, from 1.
        field: what stands between the braces.
        is_strict: a missing name is a mistake, not braces that mean something else.
    """

    raw: str
    line: int
    field: Field
    is_strict: bool


@dataclass(frozen=True, slots=True)
class Escaped:
    """``{{expr}}``: the way to write ``{expr}`` literally."""

    raw: str
    line: int
    field: Field


@dataclass(frozen=True, slots=True)
class Reference:
    """``![alt](source)``: a picture by path, pattern, URL or data URI.

    Attributes:
        raw: the text as written.
        line: line of the cell, from 1.
        alt: the words in the brackets.
        source: what stands in the parentheses.
        fields: what in the source may be an expression.
    """

    raw: str
    line: int
    alt: str
    source: str
    fields: tuple[Field, ...] = ()

    @property
    def field(self) -> Field | None:
        """The expression that the source is as a whole, as in ``![]({cat})``."""
        is_whole = bool(self.fields) and self.source[0] == "{" and self.fields[0].end == len(self.source)
        return self.fields[0] if is_whole else None


@dataclass(frozen=True, slots=True)
class BareURL:
    """An http(s) URL that ends like a picture's: a reference without words or fields."""

    raw: str
    line: int
    url: str

    alt: ClassVar[str] = ""
    fields: ClassVar[tuple[Field, ...]] = ()
    field: ClassVar[Field | None] = None

    @property
    def source(self) -> str:
        """The URL, as a `Reference` calls it."""
        return self.url


Mark: TypeAlias = Words | Expression | Escaped | Reference | BareURL
