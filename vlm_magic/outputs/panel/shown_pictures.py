"""The full pictures that a page shows, and the parts of them that a person marks there.

A page gets a copy that fits a screen; a part is named in pixels of the full picture and cut out of that.
Neighbours: `composer` reads a part's mark in a message, `widget` sends and receives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO

from vlm_magic.messages import Picture

__all__ = ["part_of", "region_name", "screen_png"]

_MAX_FULL_PX = 2048  # longest side of the picture that a click shows
_SLICES = re.compile(r"\[(\d+):(\d+), (\d+):(\d+)\]$")


def screen_png(picture: Picture) -> bytes:
    """The picture as PNG, no larger than a screen shows."""
    image = picture.rgb
    if max(image.size) > _MAX_FULL_PX:
        image = image.copy()
        image.thumbnail((_MAX_FULL_PX, _MAX_FULL_PX))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def region_name(name: str, region: Sequence[int]) -> str:
    """How a part is called, as numpy would slice it: rows, then columns.

    A part of a part is called by its place in the whole.

    Args:
        name: of the picture, perhaps a part already.
        region: (x, y, width, height) in pixels of that picture.
    """
    x, y, width, height = region
    part = _SLICES.search(name)
    if part is not None:
        name, y, x = name[: part.start()], y + int(part[1]), x + int(part[3])
    return f"{name or 'picture'}[{y}:{y + height}, {x}:{x + width}]"


def part_of(picture: Picture, region: object) -> Picture | None:
    """The marked part of a decoded picture, still to be cut out; None where no pixel lies in it.

    Args:
        picture: the whole, at its full size.
        region: what a page says: [x, y, width, height] in pixels of it.
    """
    is_four = isinstance(region, (list, tuple)) and len(region) == 4
    if not is_four or not all(type(n) in (int, float) and abs(n) < 1e9 for n in region):  # type: ignore[attr-defined]
        return None
    x, y, width, height = (round(n) for n in region)  # type: ignore[attr-defined]
    left, top = max(0, x), max(0, y)
    right, bottom = min(picture.size_px[0], x + width), min(picture.size_px[1], y + height)
    if left >= right or top >= bottom:
        return None
    inside = (left, top, right - left, bottom - top)
    return Picture(picture.rgb, region_name(picture.name, inside), region=inside)
