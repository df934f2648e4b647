"""What a person passes to a question in plain Python: strings and anything picture-like, to parts.

Neighbour: `prompt` does the same for the text of a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlm_magic.errors import PictureNotFoundError, PictureTypeError
from vlm_magic.inputs import pictures
from vlm_magic.messages import Part, Picture, Text

__all__ = ["to_parts"]


def to_parts(values: Iterable[object]) -> tuple[Part, ...]:
    """Strings to text, everything else to decoded pictures, in order; texts side by side are joined.

    Raises:
        PictureTypeError: something that is neither.
        PictureError: a picture that cannot be found, fetched or decoded.
    """
    parts: list[Part] = []
    for n, value in enumerate(values, start=1):
        for part in _to_parts_of_one(value, n):
            if isinstance(part, Text) and parts and isinstance(parts[-1], Text):
                parts[-1] = replace(parts[-1], text=parts[-1].text + part.text)
            else:
                parts.append(part)
    return tuple(parts)


def _to_parts_of_one(value: object, n: int) -> Sequence[Part]:
    if isinstance(value, str):
        return (Text(value),) if value else ()
    if isinstance(value, Text):
        return (value,)
    if isinstance(value, Picture) and value.is_lost:
        raise PictureNotFoundError(
            f"picture {value.name!r} of this turn is no longer on this machine",
            have="the words of the turn; full pictures are kept in a bounded store",
            hint="run its cell again, or ask anew with the picture",
            name=value.name,
        )
    if isinstance(value, (Picture, Path)):
        return pictures.to_pictures(value)
    found = None if isinstance(value, Mapping) else pictures.try_pictures(value, f"picture {n}")
    if found is None:
        raise PictureTypeError(
            f"part {n} is a {type(value).__name__}, neither text nor a picture",
            have="strings, PIL images, arrays, tensors, figures, Path objects, vlm_magic.Picture",
            hint="str(value) for its text, vlm_magic.Picture(value) for a path or URL",
            value_type=type(value).__name__,
        )
    return found
