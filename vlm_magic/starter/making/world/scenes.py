"""Seeded scenes: pictures of drawn shapes together with their truth.

`make_scene(seed)` gives a `Scene` with its picture, its objects and its background; `draw_scene` draws a
picture from a description, for notebooks. The pictures look like what people draw: PIL primitives with sharp
edges in plain colour names, smooth edges, outlines, plots with axes, noise, JPEG, any size and shape of
picture. Knows nothing of questions, of models, and of matplotlib (see `charts` for pictures that matplotlib
drew).

Positions and sizes are fractions of the picture's width and height, origin in the upper left corner, so that
a truth holds whatever size a picture is scaled to.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cmp_to_key
from random import Random

from PIL import Image

from vlm_magic.starter.making.world.drawing import draw
from vlm_magic.starter.making.world.palette import (
    BACKGROUNDS,
    COLOURS,
    GROUND_WEIGHTS,
    GROUNDS,
    PALETTE,
    RGB,
    SHAPES,
)
from vlm_magic.starter.making.world.things import Style, Thing

__all__ = [
    "MIN_CONTRAST",
    "MIN_GAP",
    "MIN_SIDE",
    "RATIO",
    "Scene",
    "draw_scene",
    "in_reading_order",
    "make_scene",
    "plan_odd",
    "plan_plain",
    "plan_scene",
]

MIN_CONTRAST = 75.0  # least distance in RGB between an object and its background
# What is smaller or closer is a matter of two or three of the 96 pixels that the starter sees.
MIN_SIDE = 0.125  # least width and height of an object as a fraction of the picture's longer side
MIN_GAP = 0.04  # least distance between two objects, as a fraction of the picture's width or height
RATIO = 1.5  # least ratio of two sizes that are compared
MIN_RING_PX = 22  # least side of an object of which only the outline is drawn, of those 96 pixels


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture with its truth.

    Attributes:
        objects: The objects in reading order: left to right, those of one column top to bottom.
        background: Its colour's name.
        ground: Its colour.
        style: How the picture is drawn.
    """

    objects: tuple[Thing, ...]
    background: str
    ground: RGB = (255, 255, 255)
    style: Style = field(default_factory=Style)

    drawn: Image.Image | None = None
    """The picture where something else than this module drew it."""

    @property
    def picture(self) -> Image.Image:
        """The picture, RGB, drawn anew at every call (the same each time)."""
        return self.drawn if self.drawn is not None else draw(self.objects, self.ground, self.style)


def make_scene(seed: int, *, n_objects: int | None = None, distinct: bool | None = None) -> Scene:
    """Make the scene of a seed.

    Args:
        seed: The same seed gives the same scene and the same pixels.
        n_objects: How many objects; 1 to 4 by chance if not given. Crowded pictures may get fewer.
        distinct: Whether all shapes and all colours differ; by chance if not given.

    Returns:
        The scene; its `picture` is drawn when asked for.
    """
    return plan_scene(Random(seed), n_objects=n_objects, distinct=distinct)


def plan_scene(rng: Random, *, n_objects: int | None = None, distinct: bool | None = None) -> Scene:
    """Plan a scene without drawing it; see `make_scene`."""
    n = n_objects if n_objects is not None else rng.choices((1, 2, 3, 4), (2, 4, 4, 3))[0]
    style = _plan_style(rng)
    background = rng.choices(BACKGROUNDS, GROUND_WEIGHTS)[0]
    ground = _shade(rng, GROUNDS[background])
    if style.axes:
        background, ground = "white", (255, 255, 255)
    if distinct is None:
        distinct = rng.random() < 0.55
    kinds = _plan_kinds(rng, n, background, distinct)
    boxes = _plan_boxes(rng, n, style)
    shared_look = rng.choices(("fill", "edge", "ring", "any"), (62, 18, 4, 16))[0]
    things = []
    for (shape, planned), (x, y, side) in zip(kinds, boxes, strict=False):
        colour, rgb = _visible(rng, planned, background, ground, {c for _, c in kinds})
        look = shared_look if shared_look != "any" else rng.choice(("fill", "edge"))
        things.append(_make_thing(rng, shape, colour, rgb, x, y, side, look, style))
    return Scene(in_reading_order(things), background, ground, style)


def plan_odd(rng: Random) -> Scene:
    """Plan a scene of three or four objects, one of which differs from all others in shape or colour."""
    while True:
        n = rng.choice((3, 3, 4))
        scene = plan_scene(rng, n_objects=n, distinct=False)
        for words in ([t.shape for t in scene.objects], [t.colour for t in scene.objects]):
            if len(scene.objects) == n and sorted(Counter(words).values()) == [1, n - 1]:
                return scene


def plan_plain(rng: Random) -> Scene:
    """Plan one large object, near the middle of a plain ground: what a person draws first.

    Shapes without a name are drawn so too (`outside`). A model that sees no known ones like them learns that
    whatever is large and alone is unknown.
    """
    length = rng.choice((64, 96, 120, 160, 200, 240))
    width, height = (int(length * rng.uniform(1.0, 1.6)) for _ in range(2))
    style = Style(width, height, smooth=True, seed=rng.getrandbits(31))
    background = "white" if rng.random() < 0.7 else rng.choices(BACKGROUNDS, GROUND_WEIGHTS)[0]
    ground = GROUNDS[background][0]
    shape, colour = rng.choice(SHAPES), rng.choice([c for c in COLOURS if c != background])
    colour, rgb = _visible(rng, colour, background, ground, {colour})
    side = max(rng.uniform(0.3, 0.85) * min(width, height), 1.05 * MIN_SIDE * max(width, height))
    x, y = (
        min(max(rng.gauss(0.5, 0.08), 0.51 * side / length), 1 - 0.51 * side / length)
        for length in (width, height)
    )
    thing = _make_thing(
        rng, shape, colour, rgb, x, y, side, rng.choice(("fill", "fill", "fill", "edge")), style
    )
    return Scene((thing,), background, ground, style)


def draw_scene(
    objects: Iterable[tuple[str, str, float, float, float]],
    background: str = "white",
    size: tuple[int, int] = (224, 224),
) -> Image.Image:
    """Draw a scene from a description, the way a notebook would.

    Args:
        objects: (colour, shape, x, y, side) of each; the centre and the side in fractions of the picture.
        background: Name of its colour.
        size: Width and height in pixels.

    Returns:
        An RGB picture with smooth edges.

    Raises:
        KeyError: An unknown colour or shape.
    """
    things = []
    for colour, shape, x, y, side in objects:
        if shape not in SHAPES:
            raise KeyError(shape)
        side_px = side * min(size)
        things.append(Thing(shape, colour, x, y, side_px / size[0], side_px / size[1], PALETTE[colour][0]))
    ground = GROUNDS[background][0] if background in GROUNDS else PALETTE[background][0]
    return draw(things, ground, Style(*size, smooth=True))


def in_reading_order(things: Sequence[Thing]) -> tuple[Thing, ...]:
    """Order left to right; objects of one column (centres within 2 % of the width) top to bottom."""

    def before(one: Thing, other: Thing) -> int:
        gap = one.y - other.y if abs(one.x - other.x) <= 0.02 else one.x - other.x
        return (gap > 0) - (gap < 0)

    return tuple(sorted(things, key=cmp_to_key(before)))


# --- planning -----------------------------------------------------------------------------------------------


def _plan_style(rng: Random) -> Style:
    """Choose size, sharpness and wear; most pictures are small and clean, a few large, few worn."""
    draw = rng.random()
    side = rng.choice((64, 96, 128, 160, 200, 224, 256)) if draw < 0.5 else int(64 * 4.0 ** rng.random())
    if draw > 0.985:
        side = rng.randint(300, 900)
    width = height = side
    shape = rng.random()
    if shape > 0.55:
        aspect = 1 + (1.6 if shape > 0.93 else 0.9) * rng.random()
        if rng.random() < 0.7:
            width = int(side * aspect)
        else:
            height = int(side * aspect)
    large = max(width, height) > 330
    wear = rng.random()
    return Style(
        width,
        height,
        smooth=not large and rng.random() < 0.4,
        axes=rng.random() < 0.06,
        noise=rng.uniform(2, 11) if wear < 0.12 and not large else 0.0,
        jpeg=rng.randint(45, 92) if 0.12 <= wear < 0.2 and not large else 0,
        slope=rng.uniform(-30, 30) if 0.2 <= wear < 0.24 else 0.0,
        seed=rng.getrandbits(31),
    )


def _plan_kinds(rng: Random, n: int, background: str, distinct: bool) -> list[tuple[str, str]]:
    """Choose shape and colour of each object; repeated ones come from small sets so that counts vary."""
    colours = [c for c in COLOURS if c != background]
    if distinct and n <= len(SHAPES):
        return list(zip(rng.sample(SHAPES, n), rng.sample(colours, n), strict=True))
    few_shapes = rng.sample(SHAPES, rng.choice((1, 2, 2, 3)))
    few_colours = rng.sample(colours, rng.choice((1, 2, 2, 3, 4)))
    return [(rng.choice(few_shapes), rng.choice(few_colours)) for _ in range(n)]


def _plan_boxes(rng: Random, n: int, style: Style) -> list[tuple[float, float, float]]:
    """Choose centres (fractions) and sides (pixels), apart from each other and inside the picture."""
    width, height = style.width, style.height
    low = MIN_SIDE * max(width, height)
    high = max(low * 1.05, (0.6, 0.6, 0.5, 0.42, 0.36, 0.31, 0.28)[n] * min(width, height))
    edge_x, edge_y = (0.14, 0.13) if style.axes else (0.015, 0.015)
    layout = rng.choices(("free", "row", "column", "same"), (70, 12, 8, 10))[0] if n > 1 else "free"
    common = low * (high / low) ** rng.random()
    line = rng.uniform(0.25, 0.75)
    boxes: list[tuple[float, float, float]] = []
    for i in range(n):
        for _ in range(25):
            side = common if layout != "free" else low * (high / low) ** rng.random()
            fw, fh = side / width, side / height
            x = rng.uniform(edge_x + fw / 2, 1 - edge_x - fw / 2)
            y = rng.uniform(edge_y + fh / 2, 1 - edge_y - fh / 2)
            if layout == "row":
                x = edge_x + (i + 0.5) / n * (1 - 2 * edge_x)
                y = min(max(line, edge_y + fh / 2), 1 - edge_y - fh / 2)
            elif layout == "column":
                x = min(max(line, edge_x + fw / 2), 1 - edge_x - fw / 2)
                y = edge_y + (i + 0.5) / n * (1 - 2 * edge_y)
            inside = fw / 2 + edge_x <= x + 1e-9 and x <= 1 - edge_x - fw / 2 + 1e-9
            inside = inside and fh / 2 + edge_y <= y + 1e-9 and y <= 1 - edge_y - fh / 2 + 1e-9
            if inside and all(_apart(x, y, side, *box, width, height) for box in boxes):
                boxes.append((x, y, side))
                break
    return boxes


def _apart(x: float, y: float, a: float, x2: float, y2: float, b: float, width: int, height: int) -> bool:
    """Whether two boxes keep the least gap in one direction."""
    need = (a + b) / 2
    return abs(x - x2) * width > need + MIN_GAP * width or abs(y - y2) * height > need + MIN_GAP * height


def _make_thing(
    rng: Random, shape: str, colour: str, rgb: RGB, x: float, y: float, side: float, look: str, style: Style
) -> Thing:
    """Give an object its small irregularities; its box stays inside the planned one."""
    turn = 0.0
    if shape == "triangle":
        turn = rng.choices((0.0, 180.0, 90.0, 270.0), (80, 10, 5, 5))[0]
    if rng.random() < 0.3:
        turn += rng.uniform(-10, 10)
    least = MIN_SIDE * max(style.width, style.height) / side  # so that no side gets too small
    stretch = 1.0 if rng.random() < 0.6 else rng.uniform(min(1.0, max(0.85, least)), 1.0)
    w, h = (side, side * stretch) if rng.random() < 0.5 else (side * stretch, side)
    if look == "ring" and side * 96 / max(style.width, style.height) < MIN_RING_PX:
        look = "edge"  # a small ring is not seen in 96 pixels
    return Thing(shape, colour, x, y, w / style.width, h / style.height, rgb, turn, rng.random(), look)


def _shade(rng: Random, shades: Sequence[RGB], plain: float = 0.45) -> RGB:
    """Choose a shade, the plain one most often, jittered half the time."""
    r, g, b = shades[0] if rng.random() < plain else rng.choice(shades)
    if rng.random() < 0.5:
        return r, g, b
    common = rng.gauss(0, 5)
    spread = 5.0 if max(r, g, b) - min(r, g, b) > 20 else 1.5  # a tinted grey has no right name
    return tuple(min(255, max(0, int(v + common + rng.gauss(0, spread)))) for v in (r, g, b))  # type: ignore[return-value]


def _standing_out(rng: Random, colour: str, ground: RGB) -> RGB | None:
    """A shade of the colour far enough from the ground, or None where some tries found none."""
    for _ in range(8):
        rgb = _shade(rng, PALETTE[colour])
        if math.dist(rgb, ground) >= MIN_CONTRAST:
            return rgb
    return None


def _visible(rng: Random, colour: str, background: str, ground: RGB, taken: set[str]) -> tuple[str, RGB]:
    """A shade of the colour that stands out from the background; of another, untaken one if it has none."""
    if rgb := _standing_out(rng, colour, ground):
        return colour, rgb
    others = [c for c in COLOURS if c not in taken and c != background]
    for candidate in rng.sample(others, len(others)):
        if rgb := _standing_out(rng, candidate, ground):
            return candidate, rgb
    raise AssertionError("black or white stands out from every background")  # pragma: no cover
