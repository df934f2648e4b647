"""From a prompt to parts: the text in its place, the pictures in theirs.

Two pure steps. `parse_prompt` finds the marks (syntax only, see `marks`); `resolve_parts` looks names up in
a mapping that the caller passes, evaluates each expression once, opens files and fetches URLs side by
side. A variable that is, as a whole, a picture's URL or path is that picture; apart from that, what a
variable brings in is data: it is never scanned for braces, pictures or URLs. Knows nothing of IPython and of
models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType

from vlm_magic.errors import (
    ExpressionError,
    PictureError,
    PictureNotFoundError,
    PictureTypeError,
    PromptError,
    VLMError,
    near_names,
)
from vlm_magic.inputs.cell_text.expressions import evaluate_field, value_of
from vlm_magic.inputs.cell_text.marks import BareURL, Escaped, Expression, Mark, Reference, Words
from vlm_magic.inputs.cell_text.scanner import parse_marks
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pictures import fetch_all, find_pictures, find_sources, is_picture_like
from vlm_magic.messages import Picture, Text
from vlm_magic.wording import shorten

__all__ = ["Mark", "parse_prompt", "resolve_parts"]


def parse_prompt(text: str, *, calls: bool = True, first_line: int = 1) -> tuple[Mark, ...]:
    """The marks of a prompt in order; their raw texts put together are the prompt.

    Args:
        text: the body of a cell, or what was typed in the panel.
        calls: whether expressions may call; False (the panel) is names, attributes and items only.
        first_line: the line of the cell that the text begins on, for errors.
    """
    return parse_marks(text, calls=calls, first_line=first_line)


def resolve_parts(
    marks: Sequence[Mark],
    names: Mapping[str, object],
    *,
    options: PictureOptions | None = None,
    n_lines: int | None = None,
) -> list[Text | Picture]:
    """The parts of a prompt in order: texts, adjacent ones merged, and decoded pictures.

    Args:
        marks: what `parse_prompt` found.
        names: the variables of the notebook; read, never changed.
        options: the limits of pictures and downloads; None is the defaults.
        n_lines: lines of the cell; errors name a line when there are several. None counts them.

    Raises:
        PictureNotFoundError: a plain name, a file or a pattern that does not exist.
        ExpressionError: an expression raised.
        PromptError: a variable inside ``![](…)``.
        PictureError: a picture that cannot be read or fetched; the class says how.
    """
    options = options or PictureOptions()
    if n_lines is None:
        n_lines = marks[-1].line + marks[-1].raw.count("\n") if marks else 1
    found: list[_Found] = []
    for mark in marks:
        where = f"line {mark.line} of the cell" if n_lines > 1 else ""
        try:
            found.append(_Found(mark, where, _parts_of(mark, names, options, where)))
        except VLMError as exc:
            raise _placed(exc, mark.line, where) from exc.__cause__
    _fetch(found, options)
    return _merged(part for item in found for part in item.parts)


@dataclass(slots=True)
class _Found:
    """What one mark gives; pictures on the web are still to be fetched."""

    mark: Mark
    where: str
    parts: Sequence[Text | Picture]

    @property
    def source(self) -> object:
        """What its only picture was made from."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only.source if isinstance(only, Picture) else None


def _parts_of(
    mark: Mark, names: Mapping[str, object], options: PictureOptions, where: str
) -> Sequence[Text | Picture]:
    match mark:
        case Words():
            return [Text(mark.raw)]
        case Escaped():
            is_field = (mark.field.is_plain and not mark.field.spec) or mark.field.is_known(names)
            return [Text(mark.raw[1:-1] if is_field else mark.raw)]
        case Expression():
            return _of_expression(mark, names, options, where)
        case BareURL() | Reference():
            return _of_reference(mark, names, options, where)


def _of_expression(
    mark: Expression, names: Mapping[str, object], options: PictureOptions, where: str
) -> Sequence[Text | Picture]:
    """The value of an expression: pictures, or its text; the braces themselves when it is none."""
    value = value_of(mark.field, names, where=where)
    if value is None:
        if mark.is_strict:
            raise _unknown_name(mark.field.root, names, where)
        return [Text(mark.raw)]
    if value.is_bare and isinstance(value.obj, ModuleType):
        name = shorten(mark.field.source, 60)
        raise PictureTypeError(
            f"{{{name}}} is a module, neither a picture nor a text",
            have=shorten(repr(value.obj), 100),
            hint=f"something in it, {{{name}.…}}; {{{name}!s}} for this text",
        )
    try:
        pictures = find_pictures(value.obj, mark.field.source, options=options) if value.is_bare else None
    except PictureError as exc:
        raise _offering_text(exc, mark, value.obj) from exc.__cause__
    return [Text(value.text)] if pictures is None else pictures


def _offering_text(exc: PictureError, mark: Mark, value: object) -> PictureError:
    """The error of a text that names a picture and has none: the way to write the text itself comes first."""
    if isinstance(mark, Expression) and isinstance(value, str):
        rest = f"; or {exc.hint}" if exc.hint else ""
        exc.hint = f"{{{shorten(mark.field.source, 60)}!s}} for the text itself{shorten(rest, 110)}"
    return exc


def _unknown_name(name: str, names: Mapping[str, object], where: str) -> PictureNotFoundError:
    own = [key for key in names if not key.startswith("_") and key not in ("In", "Out")]
    near = near_names(name, own)
    if near:
        have, hint = shorten(", ".join(near), 160), f"{{{shorten(near[0], 60)}}}"
    else:
        pictures = [key for key in own if is_picture_like(names[key])][:8]
        have = shorten(f"pictures: {', '.join(pictures)}", 160) if pictures else "no similar name"
        hint = f"{{{{{shorten(name, 60)}}}}} for the braces themselves"
    place = f", {where}" if where else ""
    return PictureNotFoundError(
        f"no variable {shorten(name, 100)!r} in this notebook{place}",
        have=have,
        hint=hint,
        name=name,
        near=near,
    )


def _of_reference(
    mark: Reference | BareURL, names: Mapping[str, object], options: PictureOptions, where: str
) -> Sequence[Picture]:
    """The picture or pictures of ``![alt](source)`` or of a URL."""
    known = next((field for field in mark.fields if field.is_known(names)), None)
    if known is None:
        return find_sources(mark.source, mark.alt, options=options)
    if known is not mark.field:
        raise PromptError(
            f"a variable inside ![](…): {{{known.source}}}",
            have="a source is a whole: what stands in the cell, or what one variable holds",
            hint="path = … in a cell above, then {path}; or {Picture(…)}, from vlm_magic import Picture",
        )
    value = evaluate_field(known, names, where=where)
    pictures = find_pictures(value, mark.alt or known.source, options=options)
    if pictures is None:
        raise PromptError(
            f"![]({{{known.source}}}) is not a picture: {type(value).__name__}",
            have="a URL, a data URI, the path of a picture file, or a picture; no other text is opened",
            hint=f"{{Picture({known.source})}} opens any path, from vlm_magic import Picture",
        )
    return pictures


def _fetch(found: Sequence[_Found], options: PictureOptions) -> None:
    """Fetch what is on the web side by side, and decode it in order."""
    waiting = [part for item in found for part in item.parts if isinstance(part, Picture)]
    fetched = fetch_all(waiting, options)
    for item in found:
        try:
            item.parts = [
                each
                for part in item.parts
                for each in ([part] if isinstance(part, Text) else fetched.pictures(part))
            ]
        except VLMError as exc:
            if isinstance(exc, PictureError) and len(item.parts) == 1:
                exc = _offering_text(exc, item.mark, item.source)
            raise _placed(exc, item.mark.line, item.where) from exc.__cause__


def _placed(exc: VLMError, line: int, where: str) -> VLMError:
    """The same error with the line of the cell in it."""
    exc.line = line  # type: ignore[attr-defined]
    if (
        where
        and where not in exc.what + exc.have
        and isinstance(exc, (PictureError, ExpressionError, PromptError))
    ):
        exc.have = f"{where}; {exc.have}" if exc.have else where
    return exc


def _merged(parts: Iterable[Text | Picture]) -> list[Text | Picture]:
    """Adjacent texts as one, empty ones left out."""
    merged: list[Text | Picture] = []
    for is_text, run in groupby(parts, key=lambda part: isinstance(part, Text)):
        if not is_text:
            merged.extend(run)
        elif words := "".join(part.text for part in run if isinstance(part, Text)):
            merged.append(Text(words))
    return merged
