"""Draw objects with PIL: sharp or smooth, worn or clean, bare or inside a plot's axes.

Knows what a picture looks like, not how one is planned. Neighbours: `things` says what to draw, `scenes` and
`charts` call it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from random import Random
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageDraw

from vlm_magic.starter.making.world.palette import RGB
from vlm_magic.starter.making.world.things import Style, Thing

__all__ = ["draw", "outline", "to_square"]


def outline(thing: Thing, width: int, height: int) -> list[tuple[float, float]]:
    """Corners of an object's polygon in pixels (a circle has none), its box filled before it is turned."""
    if thing.shape == "square":
        corners = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    elif thing.shape == "triangle":
        tip = 0.0 if thing.form < 0.93 else -1.0  # now and then a right-angled one
        corners = [(tip, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    elif thing.shape == "diamond":
        slim = 1.0 - 0.38 * max(0.0, thing.form - 0.4)
        corners = [(0.0, -1.0), (slim, 0.0), (0.0, 1.0), (-slim, 0.0)]
    elif thing.shape == "cross":
        t = 0.2 + 0.22 * thing.form
        corners = [
            (-t, -1.0), (t, -1.0), (t, -t), (1.0, -t), (1.0, t), (t, t),
            (t, 1.0), (-t, 1.0), (-t, t), (-1.0, t), (-1.0, -t), (-t, -t),
        ]  # fmt: skip
    else:
        inner = 0.36 + 0.14 * thing.form
        corners = [
            (math.sin(math.pi * k / 5) * r, -math.cos(math.pi * k / 5) * r)
            for k in range(10)
            for r in ((1.0 if k % 2 == 0 else inner),)
        ]
    cx, cy = thing.x * width, thing.y * height
    half_w, half_h = thing.w * width / 2, thing.h * height / 2
    cos, sin = math.cos(math.radians(thing.turn)), math.sin(math.radians(thing.turn))
    return [(cx + (u * cos - v * sin) * half_w, cy + (u * sin + v * cos) * half_h) for u, v in corners]


def _draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, edge: RGB, width: int, height: int) -> None:
    """Draw one object at the canvas' own scale."""
    side = min(thing.w * width, thing.h * height)
    line = 0
    fill: RGB | None = thing.rgb
    if thing.look == "edge":
        line = max(1, round(side * (0.03 + 0.05 * thing.form)))
    elif thing.look == "ring":
        fill, edge, line = None, thing.rgb, max(2, round(side * (0.12 + 0.08 * thing.form)))
    if thing.shape == "circle":
        x, y, a, b = thing.x * width, thing.y * height, thing.w * width / 2, thing.h * height / 2
        draw.ellipse((x - a, y - b, x + a, y + b), fill=fill, outline=edge if line else None, width=line)
        return
    corners = outline(thing, width, height)
    if fill is not None:
        draw.polygon(corners, fill=fill)
    if line:
        draw.line([*corners, corners[0], corners[1]], fill=edge, width=line, joint="curve")


def _draw_axes(draw: ImageDraw.ImageDraw, width: int, height: int, rng: Random) -> None:
    """Draw the frame and the ticks of a plot, a few of its tick labels as specks."""
    box = (0.12 * width, 0.11 * height, 0.91 * width, 0.89 * height)
    line = max(1, round(min(width, height) / 250))
    draw.rectangle(box, outline=(0, 0, 0), width=line)
    n_ticks = rng.choice((5, 6, 9))
    tick = max(1, round(0.012 * height))
    for i in range(n_ticks):
        x = box[0] + (box[2] - box[0]) * i / (n_ticks - 1)
        y = box[1] + (box[3] - box[1]) * i / (n_ticks - 1)
        draw.line((x, box[3], x, box[3] + tick), fill=(0, 0, 0), width=line)
        draw.line((box[0] - tick, y, box[0], y), fill=(0, 0, 0), width=line)
        for k in range(3):
            s = 0.012
            draw.rectangle(
                (
                    x + (k - 1.3) * 0.016 * width,
                    0.915 * height,
                    x + (k - 1.3 + 0.6) * 0.016 * width,
                    (0.915 + s) * height,
                ),
                fill=(60, 60, 60),
            )
            draw.rectangle(
                (
                    0.06 * width + k * 0.016 * width,
                    y - 0.008 * height,
                    0.06 * width + (k + 0.6) * 0.016 * width,
                    y + 0.008 * height,
                ),
                fill=(60, 60, 60),
            )


def draw(things: Iterable[Thing], ground: RGB, style: Style) -> Image.Image:
    """Draw objects on a ground, RGB; everything random in it comes from the style's seed."""
    scale = 2 if style.smooth else 1
    width, height = style.width * scale, style.height * scale
    picture = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(picture)
    rng = Random(style.seed)
    if style.axes:
        _draw_axes(draw, width, height, rng)
    dark = sum(ground) < 200
    edge: RGB = (255, 255, 255) if dark or rng.random() < 0.1 else (0, 0, 0)
    for thing in things:
        own = edge
        if edge == (0, 0, 0) and rng.random() < 0.2:
            own = tuple(int(v * 0.55) for v in thing.rgb)  # type: ignore[assignment]
        _draw_thing(draw, thing, own, width, height)
    if scale > 1:
        picture = picture.reduce(scale)
    if style.noise or style.slope:
        picture = _wear(picture, style)
    if style.jpeg:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=style.jpeg)
        picture = Image.open(buffer).convert("RGB")
    return picture


# A normal deviate for every byte: looking up random bytes is several times as fast as drawing deviates.
_DEVIATES = np.array([NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)], np.float32)


def _wear(picture: Image.Image, style: Style) -> Image.Image:
    """Add noise and a slope of brightness."""
    pixels = np.asarray(picture).astype(np.int16)  # (H, W, 3)
    if style.slope:
        slope = np.linspace(-style.slope / 2, style.slope / 2, pixels.shape[0])
        pixels += slope.astype(np.int16)[:, None, None]
    if style.noise:
        bytes_ = np.frombuffer(np.random.default_rng(style.seed).bytes(pixels.size), np.uint8)
        levels = np.rint(style.noise * _DEVIATES).astype(np.int16)  # (256,)
        pixels += levels.take(bytes_).reshape(pixels.shape)
    return Image.fromarray(pixels.clip(0, 255, out=pixels).astype(np.uint8))


def to_square(picture: Image.Image, side_px: int = 96) -> Image.Image:
    """Scale a picture exactly as the starter's processor does: longest edge first, then squashed to a square.

    Source: transformers 5.23, `Idefics3ImageProcessorPil` without splitting; a test compares the two.
    """
    width, height = picture.size
    if width >= height:
        short = int(side_px / (width / height))
        first = (side_px, max(short + short % 2, 1))
    else:
        short = int(side_px * (width / height))
        first = (max(short + short % 2, 1), side_px)
    lanczos = Image.Resampling.LANCZOS
    return picture.resize(first, lanczos).resize((side_px, side_px), lanczos)
