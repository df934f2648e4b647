"""From a prompt to parts: the text in its place, the pictures in theirs.

Two pure steps. `parse_prompt` finds the marks (syntax only, see `marks`); `resolve_parts` looks names up in
a mapping that the caller passes, evaluates each expression once, opens files and fetches URLs side by
side. What a variable brings in is data: it is never scanned for braces, pictures or URLs. Knows
nothing of IPython and of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from vlm_magic.errors import (
    ExpressionError,
    PictureError,
    PictureNotFoundError,
    PromptError,
    VLMError,
    near_names,
    shorten,
)
from vlm_magic.inputs import sources
from vlm_magic.inputs.expressions import evaluate_field, field_names, formatted, read_field
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.marks import BareURL, Escaped, Expression, Mark, Reference, Words, parse_marks
from vlm_magic.inputs.pictures import is_picture_like, to_picture, try_pictures
from vlm_magic.messages import Picture, Text

__all__ = ["Mark", "expression_names", "parse_prompt", "resolve_parts", "stayed_words"]


def parse_prompt(text: str, *, calls: bool = True, first_line: int = 1) -> tuple[Mark, ...]:
    """The marks of a prompt in order; their raw texts put together are the prompt.

    Args:
        text: the body of a cell, or what was typed in the panel.
        calls: whether expressions may call; False (the panel) is names, attributes and items only.
        first_line: the line of the cell that the text begins on, for errors.
    """
    return parse_marks(text, calls=calls, first_line=first_line)


def expression_names(marks: Iterable[Mark]) -> tuple[str, ...]:
    """Every name that the expressions of a prompt read, in order, each once."""
    found: dict[str, None] = {}
    for mark in marks:
        if isinstance(mark, Expression):
            found[mark.field.root] = None
            found.update(dict.fromkeys(sorted(field_names(mark.field) - {mark.field.root})))
    return tuple(found)


def stayed_words(marks: Iterable[Mark], names: Mapping[str, object]) -> tuple[str, ...]:
    """The braces that look like an expression and stay words, for a remark beside the proof."""
    return tuple(
        mark.raw
        for mark in marks
        if isinstance(mark, Expression) and not mark.is_strict and not mark.field.is_known(names)
    )


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
    pending: list[_Pending] = []
    for mark in marks:
        where = f"line {mark.line} of the cell" if n_lines > 1 else ""
        try:
            pending.append(_resolved(mark, names, options, where))
        except VLMError as exc:
            raise _placed(exc, mark.line, where) from exc.__cause__
    _fetch(pending, options)
    return _merged(part for item in pending for part in item.parts)


@dataclass(slots=True)
class _Pending:
    """What one mark gives: its parts, or a URL that is still to be fetched."""

    mark: Mark
    where: str
    parts: list[Text | Picture] = field(default_factory=list)
    url: str = ""
    name: str = ""


def _resolved(mark: Mark, names: Mapping[str, object], options: PictureOptions, where: str) -> _Pending:
    match mark:
        case Words():
            return _Pending(mark, where, [Text(mark.raw)])
        case Escaped():
            is_field = (mark.field.is_plain and not mark.field.spec) or mark.field.is_known(names)
            return _Pending(mark, where, [Text(mark.raw[1:-1] if is_field else mark.raw)])
        case Expression():
            return _from_expression(mark, names, options, where)
        case BareURL():
            return _Pending(mark, where, url=mark.url, name=sources.safe_name(mark.url))
        case Reference():
            return _from_reference(mark, names, options, where)


def _from_expression(
    mark: Expression, names: Mapping[str, object], options: PictureOptions, where: str
) -> _Pending:
    """The value of an expression: pictures, or its text; the braces themselves when it is none."""
    found = mark.field
    if not found.is_known(names):
        if mark.is_strict:
            raise _unknown_name(found.root, names, where)
        return _Pending(mark, where, [Text(mark.raw)])
    value = evaluate_field(found, names, where=where)
    if not found.conversion and not found.spec:
        if url := _url_of(value):
            return _Pending(mark, where, url=url, name=found.source)
        pictures = try_pictures(value, found.source, options=options)
        if pictures is not None:
            return _Pending(mark, where, list(pictures))
    return _Pending(mark, where, [Text(formatted(found, value, names, where=where))])


def _url_of(value: object) -> str:
    """The URL of a `Picture` that a person made from one, or ""."""
    if isinstance(value, Picture) and value.image is None and isinstance(value.source, str):
        return value.source if value.source[:5].lower() != "data:" and sources.is_url(value.source) else ""
    return ""


def _unknown_name(name: str, names: Mapping[str, object], where: str) -> PictureNotFoundError:
    own = [key for key in names if not key.startswith("_") and key not in ("In", "Out")]
    near = near_names(name, own)
    if near:
        have, hint = shorten(", ".join(near), 160), f"{{{shorten(near[0], 60)}}}"
    else:
        pictures = [key for key in own if is_picture_like(names[key])][:8]
        have = shorten(f"pictures: {', '.join(pictures)}", 160) if pictures else "no name that is near"
        hint = f"{{{{{shorten(name, 60)}}}}} for the braces themselves"
    place = f", {where}" if where else ""
    return PictureNotFoundError(
        f"no variable {shorten(name, 100)!r} in this notebook{place}",
        have=have,
        hint=hint,
        name=name,
        near=near,
    )


def _from_reference(
    mark: Reference, names: Mapping[str, object], options: PictureOptions, where: str
) -> _Pending:
    """The picture or pictures of ``![alt](source)``."""
    name = mark.alt or sources.safe_name(mark.source)
    inner = read_field(mark.source, 0) if mark.source.startswith("{") else None
    if inner is not None and inner.end == len(mark.source) and inner.is_known(names):
        value = evaluate_field(inner, names, where=where)
        return _from_variable(mark, inner.source, value, options, where)
    if used := _used_variable(mark.source, names):
        raise PromptError(
            f"a variable inside ![](…): {{{used}}}",
            have="only what stands in the cell is opened or fetched",
            hint="{Picture(path)} with the path in a variable, from vlm_magic import Picture",
        )
    if mark.source[:5].lower() != "data:" and sources.is_url(mark.source):
        return _Pending(mark, where, url=mark.source, name=name)
    is_file = mark.source[:5].lower() == "data:" or sources.existing_path(mark.source) is not None
    if not is_file and sources.is_pattern(mark.source):
        files = sources.find_files(mark.source, options)
        return _Pending(mark, where, [_of_file(path, options) for path in files])
    return _Pending(mark, where, [to_picture(mark.source, name=name, options=options)])


def _of_file(path: Path, options: PictureOptions) -> Picture:
    return to_picture(path, name=sources.safe_name(str(path)), options=options)


def _from_variable(
    mark: Reference, source: str, value: object, options: PictureOptions, where: str
) -> _Pending:
    """``![]({cat})``: the picture itself; a string would be data, and data is never opened."""
    pictures = try_pictures(value, mark.alt or source, options=options)
    if pictures is None:
        raise PromptError(
            f"![]({{{source}}}) holds no picture: {type(value).__name__}",
            have="what a variable holds is never opened or fetched",
            hint=f"{{Picture({source})}}, after from vlm_magic import Picture",
        )
    return _Pending(mark, where, list(pictures))


def _used_variable(source: str, names: Mapping[str, object]) -> str:
    """The first known expression in a source, or ""."""
    start = source.find("{")
    while start >= 0:
        found = read_field(source, start)
        if found is not None and found.is_known(names):
            return found.source
        start = source.find("{", start + 1)
    return ""


def _fetch(pending: list[_Pending], options: PictureOptions) -> None:
    """Fetch all URLs side by side, each once, and decode them in order."""
    waiting = [item for item in pending if item.url]
    if not waiting:
        return
    from vlm_magic.inputs.fetch import fetch_side_by_side

    fetched = fetch_side_by_side([item.url for item in waiting], limits=options.fetch)
    for item in waiting:
        try:
            data = fetched[item.url]
            if isinstance(data, BaseException):
                raise data
            item.parts = [to_picture(item.url, name=item.name, options=options, fetched=data)]
        except VLMError as exc:
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
