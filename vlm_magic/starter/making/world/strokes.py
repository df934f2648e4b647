"""Pictures in strokes and flat colours that are not of the small world: writing, people, other shapes.

Knows nothing of questions. Neighbour: `outside`, which lists them with what resembles photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw

from vlm_magic.starter.making.world.palette import PALETTE, RGB

__all__ = [
    "draw_scrawl",
    "draw_sign",
    "draw_stick_figure",
    "draw_unknown_shape",
    "draw_writing",
    "random_colour",
    "random_size",
]

SIDE_PX = 128  # drawn at this height; the processor makes 96 of it


def random_size(rng: Random) -> tuple[int, int]:
    """Width and height of a picture, in pixels."""
    return (int(SIDE_PX * rng.choice((0.7, 0.75, 1, 1, 1.33, 1.33, 1.5, 1.78))), SIDE_PX)


def random_colour(rng: Random, muted: float = 0.6) -> RGB:
    """Any colour; mostly the muted ones of real things."""
    if rng.random() < muted:
        level, spread = rng.uniform(20, 235), rng.uniform(5, 45)
        return tuple(int(min(255, max(0, level + rng.gauss(0, spread)))) for _ in range(3))  # type: ignore[return-value]
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def draw_writing(rng: Random) -> Image.Image:
    """Lines of writing: words of strokes on paper, sometimes one large sign."""
    width, height = random_size(rng)
    paper, ink = (
        ((245, 245, 240), (25, 25, 30)) if rng.random() < 0.7 else (random_colour(rng), random_colour(rng))
    )
    picture = Image.new("RGB", (width * 2, height * 2), paper)
    draw = ImageDraw.Draw(picture)
    tall = rng.choice((8, 10, 12, 16, 24, 40, 90))
    y = tall * rng.uniform(0.5, 2)
    while y < height * 2 - tall:
        x = tall * rng.uniform(0.5, 2)
        while x < width * 2 - tall:
            for _ in range(rng.randint(1, 8)):
                _letter(rng, draw, x, y, tall, ink)
                x += tall * 0.72
            x += tall * 0.6
            if rng.random() < 0.08:
                break
        y += tall * rng.uniform(1.5, 1.8)
    return picture.reduce(2)


def _letter(rng: Random, draw: ImageDraw.ImageDraw, x: float, y: float, tall: float, ink: RGB) -> None:
    """A letter-like sign of two or three strokes."""
    thick = max(1, round(tall / 8))
    spots = [(x + tall * 0.55 * i, y + tall * j) for i in (0, 1) for j in (0, 0.5, 1)]
    for _ in range(rng.choice((2, 2, 3))):
        if rng.random() < 0.35:
            top = y + tall * rng.choice((0, 0.45))
            draw.arc(
                (x, top, x + tall * 0.55, top + tall * 0.55),
                rng.choice((0, 90, 180)),
                360,
                fill=ink,
                width=thick,
            )
        else:
            draw.line((*rng.choice(spots), *rng.choice(spots)), fill=ink, width=thick)


def draw_sign(rng: Random) -> Image.Image:
    """A letter, a digit or a short word from PIL's own font, large."""
    width, height = random_size(rng)
    ground = (255, 255, 255) if rng.random() < 0.6 else random_colour(rng, 0.3)
    ink = (0, 0, 0) if rng.random() < 0.5 else random_colour(rng, 0.2)
    picture = Image.new("RGB", (width, height), ground)
    n = rng.choice((1, 1, 1, 2, 3, 5, 8))
    text = "".join(
        rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789?!") for _ in range(n)
    )
    tall = min(height * 0.8, width * 1.4 / n) * rng.uniform(0.6, 1)
    draw = ImageDraw.Draw(picture)
    draw.text((width / 2, height / 2), text, fill=ink, font_size=max(10, tall), anchor="mm")
    return picture


def draw_stick_figure(rng: Random) -> Image.Image:
    """A person, a house, a face, a tree or a car in strokes, as children draw them."""
    width, height = random_size(rng)
    scale = 2
    ground = (255, 255, 255) if rng.random() < 0.7 else random_colour(rng, 0.2)
    ink = (0, 0, 0) if rng.random() < 0.6 else random_colour(rng, 0.2)
    picture = Image.new("RGB", (width * scale, height * scale), ground)
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        h = height * scale * rng.uniform(0.4, 0.85)
        x = rng.uniform(h * 0.25, max(h * 0.26, width * scale - h * 0.25))
        y = rng.uniform(0.02, 0.98) * max(1.0, height * scale - h)
        _FIGURES[rng.choice(tuple(_FIGURES))](rng, draw, x, y, h, ink)
    return picture.reduce(scale)


_Figure = Callable[[Random, ImageDraw.ImageDraw, float, float, float, RGB], None]


def _person(rng: Random, draw: ImageDraw.ImageDraw, x: float, y: float, h: float, ink: RGB) -> None:
    line, r = max(2, round(h / 35)), h * rng.uniform(0.09, 0.13)
    fill = random_colour(rng, 0.2) if rng.random() < 0.4 else None
    draw.ellipse((x - r, y, x + r, y + 2 * r), outline=ink, fill=fill, width=line)
    hip, shoulder = y + h * 0.62, y + h * 0.32
    arm, leg = h * rng.uniform(0.15, 0.24), h * rng.uniform(0.1, 0.2)
    lift = h * rng.uniform(-0.15, 0.18)
    for strokes in (
        (x, y + 2 * r, x, hip),
        (x, shoulder, x - arm, shoulder + lift),
        (x, shoulder, x + arm, shoulder + lift),
        (x, hip, x - leg, y + h),
        (x, hip, x + leg, y + h),
    ):
        draw.line(strokes, fill=ink, width=line)


def _house(rng: Random, draw: ImageDraw.ImageDraw, x: float, y: float, h: float, ink: RGB) -> None:
    line, half, eaves = max(2, round(h / 40)), h * rng.uniform(0.25, 0.4), y + h * 0.4
    wall, roof = (random_colour(rng, 0.3), random_colour(rng, 0.3)) if rng.random() < 0.6 else (None, None)
    draw.rectangle((x - half, eaves, x + half, y + h), outline=ink, fill=wall, width=line)
    draw.polygon(
        [(x - half * 1.15, eaves), (x, y), (x + half * 1.15, eaves)], outline=ink, fill=roof, width=line
    )
    draw.rectangle((x - half * 0.2, y + h * 0.68, x + half * 0.25, y + h), outline=ink, width=line)
    draw.rectangle((x - half * 0.8, y + h * 0.5, x - half * 0.4, y + h * 0.66), outline=ink, width=line)


def _face(rng: Random, draw: ImageDraw.ImageDraw, x: float, y: float, h: float, ink: RGB) -> None:
    line, r = max(2, round(h / 40)), h * 0.45
    fill = random_colour(rng, 0.3) if rng.random() < 0.6 else None
    draw.ellipse((x - r * rng.uniform(0.8, 1), y, x + r, y + 2 * r), outline=ink, fill=fill, width=line)
    for side in (-1, 1):
        draw.ellipse(
            (x + side * r * 0.4 - r * 0.1, y + r * 0.6, x + side * r * 0.4 + r * 0.1, y + r * 0.85), fill=ink
        )
    begin, end = rng.choice(((20, 160), (200, 340)))
    draw.arc((x - r * 0.5, y + r, x + r * 0.5, y + r * 1.6), begin, end, fill=ink, width=line)


def _tree(rng: Random, draw: ImageDraw.ImageDraw, x: float, y: float, h: float, ink: RGB) -> None:
    crown, trunk = random_colour(rng, 0.3), random_colour(rng, 0.3)
    draw.rectangle((x - h * 0.06, y + h * 0.5, x + h * 0.06, y + h), fill=trunk)
    for _ in range(rng.randint(3, 6)):
        u, v, r = x + h * rng.uniform(-0.2, 0.2), y + h * rng.uniform(0.15, 0.5), h * rng.uniform(0.12, 0.22)
        draw.ellipse((u - r, v - r, u + r, v + r), fill=crown)


def _car(rng: Random, draw: ImageDraw.ImageDraw, x: float, y: float, h: float, ink: RGB) -> None:
    half, body = h * 0.5, random_colour(rng, 0.3)
    draw.rectangle((x - half, y + h * 0.45, x + half, y + h * 0.75), fill=body)
    roof = [(-0.6, 0.45), (-0.35, 0.2), (0.35, 0.2), (0.65, 0.45)]
    draw.polygon([(x + half * u, y + h * v) for u, v in roof], fill=body, outline=ink)
    for side in (-0.5, 0.5):
        r, u = h * 0.13, x + side * half
        draw.ellipse((u - r, y + h * 0.68, u + r, y + h * 0.68 + 2 * r), fill=ink)


_FIGURES: dict[str, _Figure] = {"person": _person, "house": _house, "face": _face, "tree": _tree, "car": _car}


def draw_scrawl(rng: Random) -> Image.Image:
    """A pen that wanders."""
    width, height = random_size(rng)
    picture = Image.new(
        "RGB", (width * 2, height * 2), (255, 255, 255) if rng.random() < 0.7 else random_colour(rng, 0.2)
    )
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.choice((1, 1, 2, 4))):
        p = [rng.uniform(0.3, 3) for _ in range(4)]
        q = [rng.uniform(0, 6.28) for _ in range(4)]
        cx, cy = rng.uniform(0.35, 0.65) * width * 2, rng.uniform(0.35, 0.65) * height * 2
        span = rng.uniform(0.3, 0.9) * height
        points = [
            (cx + span * math.sin(p[0] * t + q[0]) * math.cos(p[1] * t + q[1]),
             cy + span * math.sin(p[2] * t + q[2]) * math.cos(p[3] * t + q[3]))
            for t in [k / 12 for k in range(rng.randint(30, 260))]
        ]  # fmt: skip
        draw.line(points, fill=random_colour(rng, 0.3), width=rng.choice((2, 3, 5, 9)))
    return picture.reduce(2)


def draw_unknown_shape(rng: Random) -> Image.Image:
    """One or two large shapes that have no name in this world: heart, hexagon, arrow, crescent, spiral ..."""
    size = random_size(rng)
    scale = 2
    flat = rng.choice([shades[0] for shades in PALETTE.values()])
    ground = (255, 255, 255) if rng.random() < 0.7 else random_colour(rng, 0.2)
    while math.dist(flat, ground) < 90:
        ground = random_colour(rng, 0.2)
    picture = Image.new("RGB", (size[0] * scale, size[1] * scale), ground)
    draw = ImageDraw.Draw(picture)
    name = rng.choice(tuple(_UNKNOWN))
    r = rng.uniform(0.22, 0.42) * min(size) * scale
    x = rng.uniform(r * 1.05, max(r * 1.06, size[0] * scale - r * 1.05))
    y = rng.uniform(r * 1.05, max(r * 1.06, size[1] * scale - r * 1.05))
    turn = rng.uniform(-0.3, 0.3)
    corners = [
        (x + r * (u * math.cos(turn) - v * math.sin(turn)), y + r * (u * math.sin(turn) + v * math.cos(turn)))
        for u, v in _UNKNOWN[name](rng)
    ]
    if name == "spiral":
        draw.line(corners, fill=flat, width=max(3, int(r / 9)))
    else:
        edge = (0, 0, 0) if rng.random() < 0.25 else None
        draw.polygon(corners, fill=flat, outline=edge, width=3)
    return picture.reduce(scale)


def _heart(rng: Random) -> list[tuple[float, float]]:
    steps = [k * 2 * math.pi / 48 for k in range(48)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in steps
    ]


def _many_sided(rng: Random) -> list[tuple[float, float]]:
    n = rng.choice((5, 6, 6, 8))
    return [(math.sin(2 * math.pi * k / n), -math.cos(2 * math.pi * k / n)) for k in range(n)]


def _arrow(rng: Random) -> list[tuple[float, float]]:
    t = rng.uniform(0.12, 0.3)
    corners = [(-1.0, -t), (0.15, -t), (0.15, -0.6), (1.0, 0.0), (0.15, 0.6), (0.15, t), (-1.0, t)]
    k = rng.randrange(4)
    c, s = (1, 0, -1, 0)[k], (0, 1, 0, -1)[k]
    return [(u * c - v * s, u * s + v * c) for u, v in corners]


def _crescent(rng: Random) -> list[tuple[float, float]]:
    depth = rng.uniform(0.3, 0.7)
    steps = [math.pi * k / 24 for k in range(25)]
    outer = [(math.sin(t), -math.cos(t)) for t in steps]
    inner = [(depth * math.sin(t), -math.cos(t)) for t in reversed(steps)]
    side = rng.choice((-1, 1))
    return [(side * u, v) for u, v in outer + inner]


def _spiral(rng: Random) -> list[tuple[float, float]]:
    turns = rng.uniform(2, 4)
    return [
        (k / 120 * math.sin(turns * 6.28 * k / 120), -k / 120 * math.cos(turns * 6.28 * k / 120))
        for k in range(121)
    ]


def _lightning(rng: Random) -> list[tuple[float, float]]:
    return [(0.1, -1.0), (-0.6, 0.1), (-0.1, 0.1), (-0.3, 1.0), (0.6, -0.25), (0.1, -0.25), (0.5, -1.0)]


def _drop(rng: Random) -> list[tuple[float, float]]:
    steps = [2 * math.pi * k / 40 for k in range(40)]
    return [(0.75 * math.sin(t) * math.sin(t / 2) ** 1.5, -math.cos(t)) for t in steps]


def _letter_shape(rng: Random) -> list[tuple[float, float]]:
    return list(rng.choice(_LETTERS))


def _trapezium(rng: Random) -> list[tuple[float, float]]:
    top = rng.uniform(0.3, 0.55)
    lean = rng.choice((0.0, 0.0, 0.4))
    return [(-top + lean, -0.55), (top + lean, -0.55), (1.0, 0.55), (-1.0, 0.55)]


_LETTERS = (  # L, T, U
    ((-0.6, -1.0), (-0.15, -1.0), (-0.15, 0.55), (0.65, 0.55), (0.65, 1.0), (-0.6, 1.0)),
    ((-0.8, -1.0), (0.8, -1.0), (0.8, -0.55), (0.25, -0.55), (0.25, 1.0), (-0.25, 1.0), (-0.25, -0.55),
     (-0.8, -0.55)),
    ((-0.8, -1.0), (-0.4, -1.0), (-0.4, 0.6), (0.4, 0.6), (0.4, -1.0), (0.8, -1.0), (0.8, 1.0), (-0.8, 1.0)),
)  # fmt: skip
_UNKNOWN: dict[str, Callable[[Random], list[tuple[float, float]]]] = {
    "heart": _heart, "many-sided": _many_sided, "arrow": _arrow, "crescent": _crescent, "spiral": _spiral,
    "lightning": _lightning, "drop": _drop, "letter": _letter_shape, "trapezium": _trapezium,
}  # fmt: skip
