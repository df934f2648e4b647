"""A scene and its copy with one thing changed, the kind of change, and the sentence that says it.

Neighbours: `scenes` plans, `pairs` asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from vlm_magic.starter.making.world.naming import an, name_of
from vlm_magic.starter.making.world.palette import SHAPES
from vlm_magic.starter.making.world.scenes import (
    MIN_CONTRAST,
    MIN_GAP,
    MIN_SIDE,
    RATIO,
    Scene,
    in_reading_order,
    plan_scene,
)
from vlm_magic.starter.making.world.things import Thing

__all__ = ["CHANGES", "PLAIN_CHANGES", "Edit", "plan_edit"]

Edit = tuple[Scene, Scene, str, str]
"""Before, after, the kind of change (one of `CHANGES`), its sentence."""

Edited = tuple[Scene, str] | None


def plan_edit(rng: Random, *, most: int = 4, kind: str | None = None) -> Edit:
    """A scene and its edited copy.

    Args:
        rng: Chooses.
        most: Objects on the first scene at most.
        kind: One of `CHANGES`; one of `PLAIN_CHANGES` by chance if not given.
    """
    edit = None
    while edit is None:  # a drawn scene does not always allow the drawn change
        edit = _try_edit(rng, most, kind)
    return edit


def _try_edit(rng: Random, most: int, kind: str | None) -> Edit | None:
    n = rng.choices(range(1, most + 1), (4, 6, 5, 2, 1, 1)[:most])[0]
    before = plan_scene(rng, n_objects=n, distinct=True if rng.random() < 0.6 else None)
    if len(before.objects) != n or len({t.kind for t in before.objects}) < n:
        return None
    chosen = kind or rng.choices(PLAIN_CHANGES, (30, 16, 14, 14, 14, 12))[0]
    edited = CHANGES[chosen](rng, before, rng.randrange(n))
    if edited is None:
        return None
    after, sentence = edited
    if rng.random() < 0.5:
        after = replace(after, style=replace(after.style, seed=rng.getrandbits(31)))
    return before, after, chosen, sentence


def _nothing(rng: Random, scene: Scene, i: int) -> Edited:
    return scene, "Nothing changed."


def _background(rng: Random, scene: Scene, i: int) -> Edited:
    other = plan_scene(rng, n_objects=0)
    taken = {t.colour for t in scene.objects} | {scene.background}
    pale = any(math.dist(t.rgb, other.ground) < MIN_CONTRAST for t in scene.objects)
    if other.background in taken or scene.style.axes or pale:
        return None
    sentence = f"The background changed from {scene.background} to {other.background}."
    return replace(scene, background=other.background, ground=other.ground), sentence


def _disappeared(rng: Random, scene: Scene, i: int) -> Edited:
    rest = scene.objects[:i] + scene.objects[i + 1 :]
    return _with(scene, rest), f"The {name_of(scene.objects[i])} disappeared."


def _appeared(rng: Random, scene: Scene, i: int) -> Edited:
    new = _newcomer(rng, scene)
    if new is None:
        return None
    words = an(name_of(new))
    return _with(scene, [*scene.objects, new]), f"{words[0].upper()}{words[1:]} appeared."


def _colour(rng: Random, scene: Scene, i: int) -> Edited:
    thing = scene.objects[i]
    new = _newcomer(rng, scene, colour_only=True)
    if new is None:
        return None
    repainted = replace(thing, colour=new.colour, rgb=new.rgb)
    return _swap(scene, i, repainted), f"The {name_of(thing)} became {new.colour}."


def _shape(rng: Random, scene: Scene, i: int) -> Edited:
    thing = scene.objects[i]
    shape = rng.choice([s for s in SHAPES if s != thing.shape])
    if (thing.colour, shape) in {t.kind for t in scene.objects}:
        return None
    return _swap(scene, i, replace(thing, shape=shape, turn=0.0)), f"The {name_of(thing)} became {an(shape)}."


def _moved(rng: Random, scene: Scene, i: int) -> Edited:
    """Somewhere else by a clear distance, away from the others."""
    thing = scene.objects[i]
    edge = 0.13 if scene.style.axes else 0.02
    others = scene.objects[:i] + scene.objects[i + 1 :]
    for _ in range(12):
        x = rng.uniform(edge + thing.w / 2, 1 - edge - thing.w / 2)
        y = rng.uniform(edge + thing.h / 2, 1 - edge - thing.h / 2)
        moved = replace(thing, x=x, y=y)
        if math.hypot(x - thing.x, y - thing.y) >= 0.22 and _fits(moved, others):
            return _swap(scene, i, moved), f"The {name_of(thing)} moved."
    return None


def _resized(rng: Random, scene: Scene, i: int, *, grow: bool) -> Edited:
    """Half as large again at least, or so much smaller, about the same centre."""
    thing = scene.objects[i]
    factor = rng.uniform(RATIO, 2.4)
    factor = factor if grow else 1 / factor
    resized = replace(thing, w=thing.w * factor, h=thing.h * factor)
    edge = 0.12 if scene.style.axes else 0.0
    side = max(scene.style.width, scene.style.height)
    small = min(resized.w * scene.style.width, resized.h * scene.style.height) < MIN_SIDE * side
    inside = edge < resized.x - resized.w / 2 and resized.x + resized.w / 2 < 1 - edge
    inside = inside and edge < resized.y - resized.h / 2 and resized.y + resized.h / 2 < 1 - edge
    if small or not inside or not _fits(resized, scene.objects[:i] + scene.objects[i + 1 :]):
        return None
    if not grow and thing.look == "ring":
        return None  # a small ring is not seen in 96 pixels
    return _swap(scene, i, resized), f"The {name_of(thing)} {'grew' if grow else 'shrank'}."


CHANGES: dict[str, Callable[[Random, Scene, int], Edited]] = {
    "nothing": _nothing,
    "colour": _colour,
    "shape": _shape,
    "appeared": _appeared,
    "disappeared": _disappeared,
    "background": _background,
    "moved": _moved,
    "grew": partial(_resized, grow=True),
    "shrank": partial(_resized, grow=False),
}
PLAIN_CHANGES = tuple(CHANGES)[:6]
"""What the first schooling knew."""


def _with(scene: Scene, things: Sequence[Thing]) -> Scene:
    return replace(scene, objects=in_reading_order(things))


def _swap(scene: Scene, i: int, thing: Thing) -> Scene:
    return _with(scene, [*scene.objects[:i], thing, *scene.objects[i + 1 :]])


def _fits(thing: Thing, others: Sequence[Thing]) -> bool:
    """Whether an object stays inside and apart from the others."""
    inside = thing.w / 2 < thing.x < 1 - thing.w / 2 and thing.h / 2 < thing.y < 1 - thing.h / 2
    return inside and all(
        abs(thing.x - o.x) > (thing.w + o.w) / 2 + MIN_GAP
        or abs(thing.y - o.y) > (thing.h + o.h) / 2 + MIN_GAP
        for o in others
    )


def _newcomer(rng: Random, scene: Scene, *, colour_only: bool = False) -> Thing | None:
    """An object of a new kind in a free place (or only of a new colour), standing out."""
    known: set[object] = {t.colour if colour_only else t.kind for t in scene.objects}
    for _ in range(12):
        for thing in plan_scene(rng, n_objects=2).objects:
            new = (thing.colour if colour_only else thing.kind) not in known
            seen = thing.colour != scene.background and math.dist(thing.rgb, scene.ground) >= MIN_CONTRAST
            if new and seen and (colour_only or _fits(thing, scene.objects)):
                return thing
    return None
