"""Pictures that are not of the small world: what a photograph, a page of text or an unknown shape looks like.

Everything is drawn by code, nothing comes from elsewhere: shading at several scales with things in front of
it and textures here, writing, people and shapes without a name in `strokes`. A model that has seen these says
that it does not know, and photographs are near enough to them.

Knows nothing of questions. Neighbours: `strokes`, and `scenes`, whose pictures must stay unlike these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vlm_magic.starter.making.world.strokes import (
    draw_scrawl,
    draw_sign,
    draw_stick_figure,
    draw_unknown_shape,
    draw_writing,
    random_colour,
    random_size,
)

__all__ = ["OUTSIDE", "Outside", "plan_outside"]

Pixels = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Outside:
    """A picture outside the small world: of which kind, and the seed that draws it."""

    kind: str
    seed: int

    @property
    def picture(self) -> Image.Image:
        """The picture, RGB, drawn anew at every call (the same each time)."""
        return OUTSIDE[self.kind](Random(self.seed))


def plan_outside(rng: Random, kind: str | None = None) -> Outside:
    """Plan a picture outside the small world; half of them resemble photographs."""
    names = tuple(OUTSIDE)
    chosen = kind or rng.choices(names, [_WEIGHTS.get(name, 1.0) for name in names])[0]
    return Outside(chosen, rng.getrandbits(40))


def _clouds(rng: Random, size: tuple[int, int], *, rough: float = 0.5, grey: bool = False) -> Pixels:
    """Noise at several scales, (H, W, 3) float32 from 0 to 1: the shading of a photograph."""
    draw = np.random.default_rng(rng.getrandbits(32))
    width, height = size
    total = np.zeros((height, width, 3), np.float32)
    shared = rng.uniform(0.4, 1.0)  # how far the three channels go together
    first = rng.choice((0, 1, 1, 2))
    for octave in range(first, 7):
        cells = (max(1, 2**octave * width // height + 1), 2**octave + 1)
        common = draw.normal(size=(1, cells[1], cells[0]))
        own = common if grey else shared * common + (1 - shared) * draw.normal(size=(3, cells[1], cells[0]))
        layers = [
            np.asarray(Image.fromarray(layer.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
            for layer in np.broadcast_to(own, (3, cells[1], cells[0]))
        ]
        total += np.stack(layers, -1) * rough ** (octave - first)
    low, high = np.quantile(total, (0.01, 0.99))
    shading: Pixels = np.clip((total - low) / max(1e-6, high - low), 0, 1)
    return shading


def _toned(rng: Random, values: Pixels) -> Image.Image:
    """Shading between two or three colours, as light on one material makes it, or as it is."""
    if rng.random() < 0.7:
        dark, bright = np.array(random_colour(rng), np.float32), np.array(random_colour(rng), np.float32)
        values = dark + (bright - dark) * values
    else:
        values = values * rng.uniform(120, 255) + rng.uniform(0, 60)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _shading(rng: Random) -> Image.Image:
    """Light on something: no things, no edges."""
    return _toned(rng, _clouds(rng, random_size(rng), rough=rng.uniform(0.35, 0.8), grey=rng.random() < 0.3))


def _blob(rng: Random, size: tuple[int, int], scale: float) -> Image.Image:
    """A mask of a soft, irregular outline."""
    width, height = size
    mask = Image.new("L", size, 0)
    x, y = rng.uniform(0.15, 0.85) * width, rng.uniform(0.2, 0.9) * height
    phases = [(k, rng.uniform(0, 6.28), rng.uniform(0, 0.35) / k) for k in range(2, 7)]
    a, b = scale * rng.uniform(0.5, 1.3), scale * rng.uniform(0.5, 1.3)
    corners = []
    for i in range(60):
        t = i * 2 * math.pi / 60
        r = 1 + sum(amount * math.sin(k * t + phase) for k, phase, amount in phases)
        corners.append((x + a * r * height * math.cos(t), y + b * r * height * math.sin(t)))
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return mask.filter(ImageFilter.GaussianBlur(rng.choice((0.5, 1, 1.5, 3))))


def _photograph(rng: Random) -> Image.Image:
    """Shaded, irregular things before a shaded ground, grain over all."""
    size = random_size(rng)
    picture = _toned(rng, _clouds(rng, size, rough=rng.uniform(0.3, 0.75), grey=rng.random() < 0.5))
    if rng.random() < 0.4:  # a horizon
        ground = _toned(rng, _clouds(rng, size, rough=rng.uniform(0.5, 0.85), grey=True))
        mask = Image.new("L", size, 0)
        y, tilt = rng.uniform(0.35, 0.8) * size[1], rng.gauss(0, 6)
        ImageDraw.Draw(mask).polygon([(0, y - tilt), (size[0], y + tilt), size, (0, size[1])], fill=255)
        picture.paste(ground, (0, 0), mask)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        thing = _toned(rng, _clouds(rng, size, rough=rng.uniform(0.3, 0.8), grey=rng.random() < 0.6))
        picture.paste(thing, (0, 0), _blob(rng, size, rng.uniform(0.08, 0.45)))
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.4:
        pixels = np.asarray(picture).astype(np.float32)
        grain = np.random.default_rng(rng.getrandbits(32)).normal(
            0, rng.uniform(2, 14), (*pixels.shape[:2], 1)
        )
        picture = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
    return picture.convert("L").convert("RGB") if rng.random() < 0.2 else picture


def _scenery(rng: Random) -> Image.Image:
    """Many shaded things over each other, large ones behind small ones, fine detail everywhere."""
    size = random_size(rng)
    picture = _toned(rng, _clouds(rng, size, rough=rng.uniform(0.5, 0.9), grey=rng.random() < 0.5))
    sheets = [_toned(rng, _clouds(rng, size, rough=rng.uniform(0.5, 0.95), grey=True)) for _ in range(4)]
    n = rng.choice((6, 12, 25, 40))
    for i in range(n):
        scale = 0.5 * (0.05 / 0.5) ** (i / n) * rng.uniform(0.6, 1.4)
        picture.paste(rng.choice(sheets), (0, 0), _blob(rng, size, scale))
        if rng.random() < 0.3:  # a branch, an edge, a wire
            ends = [rng.uniform(0, 1) * side for side in (*size, *size)]
            ImageDraw.Draw(picture).line(ends, fill=random_colour(rng), width=rng.choice((1, 1, 2, 4)))
    if rng.random() < 0.5:  # light falls from one side
        y, x = np.mgrid[0 : size[1], 0 : size[0]].astype(np.float32)
        angle = rng.uniform(0, 6.28)
        slope = x / size[0] * math.cos(angle) + y / size[1] * math.sin(angle)
        light = 1 + rng.uniform(0.2, 0.8) * (slope - slope.mean())
        lit = np.asarray(picture).astype(np.float32) * light[..., None]
        picture = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
    return picture.convert("L").convert("RGB") if rng.random() < 0.3 else picture


def _noise(rng: Random) -> Image.Image:
    """Independent pixels, coarse or fine, coloured or grey."""
    width, height = random_size(rng)
    cell = rng.choice((1, 1, 2, 4, 8))
    channels = 3 if rng.random() < 0.6 else 1
    draw = np.random.default_rng(rng.getrandbits(32))
    shape = (height // cell + 1, width // cell + 1, channels)
    levels = draw.integers(0, 256, shape) if rng.random() < 0.6 else draw.integers(0, 2, shape) * 255
    wide = np.broadcast_to(levels, (*shape[:2], 3)).astype(np.uint8).repeat(cell, 0).repeat(cell, 1)
    return Image.fromarray(np.ascontiguousarray(wide[:height, :width]))


def _texture(rng: Random) -> Image.Image:
    """Stripes, checks, bricks or waves, sharp or shaded."""
    width, height = random_size(rng)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle, pitch = rng.uniform(0, math.pi), rng.uniform(5, 30)
    u = x * math.cos(angle) + y * math.sin(angle)
    v = -x * math.sin(angle) + y * math.cos(angle)
    kind = rng.choice(("stripes", "checks", "bricks", "waves", "dots", "rings"))
    if kind == "stripes":
        values = (u / pitch) % 1
    elif kind == "checks":
        values = ((u // pitch + v // pitch) % 2).astype(np.float32)
    elif kind == "bricks":
        row = v // pitch
        values = (((u + row * pitch) / (2 * pitch)) % 1 > 0.08) & ((v / pitch) % 1 > 0.14)
        values = values.astype(np.float32)
    elif kind == "waves":
        values = 0.5 + 0.5 * np.sin(u / pitch * 3 + 2 * np.sin(v / pitch))
    elif kind == "dots":
        values = (((u % pitch) - pitch / 2) ** 2 + ((v % pitch) - pitch / 2) ** 2 < (pitch / 3) ** 2).astype(
            np.float32
        )
    else:
        values = (np.hypot(x - width * rng.random(), y - height * rng.random()) / pitch) % 1
    if rng.random() < 0.5:
        values = (values > 0.5).astype(np.float32)
    shade = _clouds(rng, (width, height), grey=True)[..., :1] * rng.choice((0, 0.2, 0.5))
    one, other = np.array(random_colour(rng), np.float32), np.array(random_colour(rng), np.float32)
    pixels = (one + (other - one) * values[..., None]) * (1 - shade)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _patchwork(rng: Random) -> Image.Image:
    """Many flat patches over each other, far more than a scene has objects."""
    size = random_size(rng)
    picture = Image.new("RGB", size, random_colour(rng, 0.3))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(12, 70)):
        x, y = rng.uniform(-0.1, 1.1) * size[0], rng.uniform(-0.1, 1.1) * size[1]
        a, b = rng.uniform(3, 45), rng.uniform(3, 45)
        fill = random_colour(rng, 0.5)
        shape = rng.randrange(3)
        if shape == 0:
            draw.ellipse((x - a, y - b, x + a, y + b), fill=fill)
        elif shape == 1:
            draw.rectangle((x - a, y - b, x + a, y + b), fill=fill)
        else:
            draw.polygon(
                [(x + rng.uniform(-a, a) * 1.5, y + rng.uniform(-b, b) * 1.5) for _ in range(3)], fill=fill
            )
    return picture


OUTSIDE: dict[str, Callable[[Random], Image.Image]] = {
    "shading": _shading, "photograph": _photograph, "scenery": _scenery, "noise": _noise, "texture": _texture,
    "writing": draw_writing, "sign": draw_sign, "stick figure": draw_stick_figure, "scrawl": draw_scrawl,
    "patchwork": _patchwork, "unknown shape": draw_unknown_shape,
}  # fmt: skip
_WEIGHTS = {
    "photograph": 4.0,
    "scenery": 5.0,
    "shading": 2.0,
    "unknown shape": 3.0,
    "writing": 1.5,
    "stick figure": 2.0,
}
