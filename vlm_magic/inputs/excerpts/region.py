"""Cut a region out of a decoded picture. Knows nothing of files."""

from __future__ import annotations

from PIL import Image

from vlm_magic.errors import PictureError
from vlm_magic.inputs.excerpts.fragments import Excerpt

__all__ = ["cut"]


def cut(
    image: Image.Image, excerpt: Excerpt, full_px: tuple[int, int] | None, name: str
) -> tuple[Image.Image, str]:
    """The region of a picture, and where it lies, in words; what reaches beyond the picture is left out.

    Args:
        image: upright RGB, perhaps reduced.
        excerpt: one with a region.
        full_px: (width, height) before it was reduced, which the region is counted in; None is its own.
        name: for errors.

    Raises:
        PictureError: the region lies outside.
    """
    width, height = full_px or image.size
    assert excerpt.region is not None
    unit = (width / 100, height / 100) if excerpt.is_percent else (1.0, 1.0)
    x, y, across, down = (value * unit[n % 2] for n, value in enumerate(excerpt.region))
    left, top = round(x), round(y)
    right, bottom = min(width, round(x + across)), min(height, round(y + down))
    if left >= right or top >= bottom:
        raise PictureError(
            f"{name}: the region {left},{top} {round(across)}×{round(down)} lies outside or is empty",
            have=f"the picture is {width}×{height}",
            hint=f"xywh=0,0,{width},{height} is all of it",
        )
    scale = image.width / width, image.height / height
    box = left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]
    first = int(box[0]), int(box[1])
    last = max(first[0] + 1, round(box[2])), max(first[1] + 1, round(box[3]))
    part = image.crop((*first, *last))
    return part, f"{left},{top} {right - left}×{bottom - top} of {width}×{height}"
