"""Pictures with what was found drawn into them: framed and hatched parts, curves, numbers.

Drawn with PIL, in black on white and white on black, so that it shows on any picture and needs neither styles
nor colours to be told apart. Knows nothing of HTML.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Box, DeletionCurve, Picture

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "curve_drawn",
    "data_uri",
    "grid_drawn",
    "parts_drawn",
    "png_bytes",
    "side_by_side",
    "small",
    "weights_drawn",
]

_SIDE_PX = 288
_HATCH_PX = 12
_BLACK, _WHITE, _EDGE = (0, 0, 0), (255, 255, 255), (150, 150, 150)
_MAX_COLOURS = 2**15  # more is a photograph, which JPEG keeps smaller


def small(picture: Picture, side_px: int = _SIDE_PX) -> Image.Image:
    """A copy of about this size on its longer side, with an edge; small drawings are enlarged as they are."""
    from PIL import Image, ImageDraw

    image = picture.rgb
    scale = side_px / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    made = image.resize(size, how)
    ImageDraw.Draw(made).rectangle((0, 0, made.width - 1, made.height - 1), outline=_EDGE)
    return made


def parts_drawn(picture: Picture, boxes: Sequence[tuple[int, Box]]) -> Image.Image:
    """The picture in its own colours, each part framed, hatched and numbered.

    Args:
        picture: decoded.
        boxes: the number of each part, and where it lies in the picture's pixels.
    """
    from PIL import ImageDraw

    image = small(picture)
    scale = image.width / picture.size_px[0]
    draw = ImageDraw.Draw(image)
    for n, box in boxes:
        x0, y0, x1, y1 = (round(value * scale) for value in box)
        x1, y1 = min(x1, image.width) - 1, min(y1, image.height) - 1
        for colour, shift in ((_WHITE, 0), (_BLACK, 1)):
            for offset in range(shift, (x1 - x0) + (y1 - y0), _HATCH_PX):
                start = (x0 + min(offset, x1 - x0), y0 + max(0, offset - (x1 - x0)))
                end = (x0 + max(0, offset - (y1 - y0)), y0 + min(offset, y1 - y0))
                draw.line((start, end), fill=colour, width=1)
        draw.rectangle((x0, y0, x1, y1), outline=_WHITE, width=5)
        draw.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=_BLACK, width=3)
        _label(draw, (x0 + 4, y0 + 4), str(n))
    return image


def grid_drawn(picture: Picture, n_rows: int, n_columns: int, *, heavy: bool = False) -> Image.Image:
    """The picture with the lines along which it is cut, white beside black.

    Args:
        picture: decoded.
        n_rows: parts from top to bottom.
        n_columns: parts from left to right.
        heavy: whether the lines are thick, for tiles.
    """
    from PIL import ImageDraw

    image = small(picture)
    draw = ImageDraw.Draw(image)
    lines = [
        *(
            ((image.width * n // n_columns, 0), (image.width * n // n_columns, image.height))
            for n in range(1, n_columns)
        ),
        *(
            ((0, image.height * n // n_rows), (image.width, image.height * n // n_rows))
            for n in range(1, n_rows)
        ),
    ]
    for start, end in lines:
        draw.line((start, end), fill=_WHITE, width=5 if heavy else 2)
        draw.line((start, end), fill=_BLACK, width=3 if heavy else 1)
    return image


def weights_drawn(picture: Picture, weights: Sequence[Sequence[float]]) -> Image.Image:
    """The picture in its own colours, with a square in each place whose area grows with its weight.

    Args:
        picture: decoded.
        weights: row by row.
    """
    from PIL import ImageDraw

    image = small(picture)
    draw = ImageDraw.Draw(image)
    most = max(max(row) for row in weights) or 1.0
    height, width = image.height / len(weights), image.width / len(weights[0])
    for row, values in enumerate(weights):
        for column, value in enumerate(values):
            half = 0.45 * min(width, height) * (value / most) ** 0.5
            x, y = (column + 0.5) * width, (row + 0.5) * height
            if half >= 1:
                draw.rectangle((x - half, y - half, x + half, y + half), outline=_WHITE, width=3)
                draw.rectangle((x - half, y - half, x + half, y + half), outline=_BLACK, width=1)
    return image


def curve_drawn(curve: DeletionCurve) -> Image.Image:
    """The deletion curve and that of random orders, on a card of its own that reads on any page."""
    from PIL import Image, ImageDraw

    width, height, left, top, right, bottom = 344, 176, 44, 22, 20, 34
    image = Image.new("RGB", (width, height), _WHITE)
    draw = ImageDraw.Draw(image)
    across, down = width - left - right, height - top - bottom

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * across, top + (1 - y) * down

    draw.line((at(0, 0), at(1, 0)), fill=_BLACK)
    draw.line((at(0, 0), at(0, 1)), fill=_BLACK)
    for share in (0, 0.5, 1):
        x, y = at(0, share)
        draw.text((x - 6, y), f"{100 * share:.0f} %", fill=_BLACK, font=_font(11), anchor="rm")
        x, y = at(share, 0)
        draw.text((x, y + 4), f"{100 * share:.0f} %", fill=_BLACK, font=_font(11), anchor="ma")
    draw.text((left + across / 2, height - 2), "cells  hidden", fill=_BLACK, font=_font(11), anchor="md")
    top_y = max(*curve.by_need, *curve.at_random, 1e-9)
    scale = 1.0 if top_y > 0.5 else 1 / top_y
    random = [at(x, min(1.0, y * scale)) for x, y in zip(curve.hidden, curve.at_random, strict=True)]
    need = [at(x, min(1.0, y * scale)) for x, y in zip(curve.hidden, curve.by_need, strict=True)]
    for start, end in pairwise(random):
        _dashed(draw, start, end)
    draw.line(need, fill=_BLACK, width=3)
    middle = len(random) // 2
    draw.text(
        (random[middle][0] + 6, random[middle][1] - 6),
        "random  order",
        fill=_BLACK,
        font=_font(11),
        anchor="ls",
    )
    draw.text(
        (need[3][0] + 8, max(top + 8, need[3][1] - 8)),
        "needed  first",
        fill=_BLACK,
        font=_font(11),
        anchor="lm",
    )
    return image


def _dashed(draw: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A line of dashes."""
    (x0, y0), (x1, y1) = start, end
    length = max(1e-6, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
    done = 0.0
    while done < length:
        a, b = done / length, min(1.0, (done + 5) / length)
        draw.line(
            (x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0)),
            fill=_BLACK,
            width=2,
        )
        done += 9


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures beside each other on white, for one PNG."""
    from PIL import Image

    gap = 12
    width = sum(image.width for image in images) + gap * (len(images) + 1)
    height = max(image.height for image in images) + 2 * gap
    sheet = Image.new("RGB", (width, height), _WHITE)
    x = gap
    for image in images:
        sheet.paste(image, (x, gap))
        x += image.width + gap
    return sheet


def png_bytes(image: Image.Image) -> bytes:
    """As PNG, pixels alone."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    """As a data URI: PNG for drawings, JPEG for photographs."""
    if image.getcolors(_MAX_COLOURS) is not None:
        return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode("ascii")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _label(draw: Any, at: tuple[int, int], text: str) -> None:
    """A number in a white box with a black edge."""
    font = _font(13)
    x0, y0, x1, y1 = draw.textbbox((at[0] + 4, at[1] + 2), text, font=font)
    draw.rectangle((x0 - 4, y0 - 3, x1 + 4, y1 + 3), fill=_WHITE, outline=_BLACK)
    draw.text((at[0] + 4, at[1] + 2), text, fill=_BLACK, font=font)


@cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
