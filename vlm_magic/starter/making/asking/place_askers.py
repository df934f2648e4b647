"""What can be asked about places: where things are, what stands there, and how two lie to each other.

Neighbours: `choosing` picks what is asked about, `askers` lists these with the others.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from vlm_magic.starter.making.asking.choosing import EXTREMES, extreme_of, pattern_of, some_target, two_things
from vlm_magic.starter.making.asking.questions import SIDE_MARGIN, Ask, place_of
from vlm_magic.starter.making.words.wordings import WORDINGS
from vlm_magic.starter.making.world.naming import an, name_of
from vlm_magic.starter.making.world.scenes import Scene
from vlm_magic.starter.making.world.things import Thing

__all__ = ["PLACE_ASKERS"]

_RELATIONS = {
    "left": "[to the left of|left of|to the left of|on the left of|on the left side of]",
    "right": "[to the right of|right of|to the right of|on the right of|on the right side of]",
    "above": "[above|above|over|higher than|on top of|higher up than]",
    "below": "[below|below|under|beneath|underneath|lower than|lower down than]",
}


def ask_where(rng: Random, scene: Scene) -> Ask | None:
    """Where is the circle?"""
    found = some_target(rng, scene)
    place = place_of(found[0].x, found[0].y) if found else None
    return (
        Ask("where", pattern_of(rng, "where"), {"a": found[1]}, place, found[0]) if found and place else None
    )


_AT = {
    "in the top left": "[in|at] the [top|upper] left[| corner]",
    "at the top": "at the [top|very top]",
    "in the top right": "[in|at] the [top|upper] right[| corner]",
    "on the left": "on the left[| side]",
    "in the centre": "in the [centre|middle]",
    "on the right": "on the right[| side]",
    "in the bottom left": "[in|at] the [bottom|lower] left[| corner]",
    "at the bottom": "at the [bottom|very bottom]",
    "in the bottom right": "[in|at] the [bottom|lower] right[| corner]",
}


def ask_what_at(rng: Random, scene: Scene) -> Ask | None:
    """What is in the top left? Sides and edges only where nothing else could be meant."""
    if not scene.objects or len(scene.objects) > 4:
        return None
    thing = rng.choice(scene.objects)
    place = place_of(thing.x, thing.y)
    if not place:
        return None
    for other in scene.objects:
        if other is thing:
            continue
        near_x, near_y = abs(other.x - thing.x) < 0.25, abs(other.y - thing.y) < 0.25
        if near_x and near_y:
            return None
        if place in ("at the top", "at the bottom") and near_y:
            return None
        if place in ("on the left", "on the right") and near_x:
            return None
    return Ask("what at", pattern_of(rng, "what at"), {"at": _AT[place]}, an(name_of(thing)), thing)


def ask_extreme(rng: Random, scene: Scene) -> Ask | None:
    """Which shape is furthest left, highest, biggest?"""
    if len(scene.objects) < 2:
        return None
    which = rng.choice(tuple(EXTREMES))
    thing = extreme_of(scene, which)
    if not thing:
        return None
    predicate, adjective, adverb = EXTREMES[which]
    pattern = pattern_of(rng, "extreme")
    if not adverb and "extadv" in pattern:
        pattern = WORDINGS["extreme"][0]
    slots = {"ext": predicate, "extadj": adjective, "extadv": adverb}
    return Ask("extreme", pattern, slots, f"the {name_of(thing)}", thing)


def _across(a: Thing, b: Thing) -> bool:
    return abs(a.x - b.x) >= SIDE_MARGIN


def _upright(a: Thing, b: Thing) -> bool:
    return abs(a.y - b.y) >= SIDE_MARGIN


def ask_relation(rng: Random, scene: Scene) -> Ask | None:
    """Is the circle to the left of the square? Yes as often as no."""
    across = rng.random() < 0.5
    two = two_things(rng, scene, _across if across else _upright)
    if not two:
        return None
    a, b, first, second = two
    words = ("left", "right") if across else ("above", "below")
    true = words[(a.x > b.x) if across else (a.y > b.y)]
    said = rng.choice(words)
    slots = {"a": first, "b": second, "rel": _RELATIONS[said]}
    return Ask("relation", pattern_of(rng, "relation"), slots, "yes" if said == true else "no", a)


def ask_left_right(rng: Random, scene: Scene) -> Ask | None:
    """Is the circle left or right of the square?"""
    two = two_things(rng, scene, _across)
    if not two:
        return None
    a, b, first, second = two
    return Ask(
        "left or right",
        pattern_of(rng, "left or right"),
        {"a": first, "b": second},
        "left" if a.x < b.x else "right",
        a,
    )


def ask_above_below(rng: Random, scene: Scene) -> Ask | None:
    """Is the circle above or below the square?"""
    two = two_things(rng, scene, _upright)
    if not two:
        return None
    a, b, first, second = two
    return Ask(
        "above or below",
        pattern_of(rng, "above or below"),
        {"a": first, "b": second},
        "above" if a.y < b.y else "below",
        a,
    )


def ask_relative(rng: Random, scene: Scene) -> Ask | None:
    """Where is the circle relative to the square? Only where one direction clearly rules."""

    def clear(a: Thing, b: Thing) -> bool:
        dx, dy = abs(a.x - b.x), abs(a.y - b.y)
        return max(dx, dy) >= 0.14 and max(dx, dy) >= 2.5 * min(dx, dy)

    two = two_things(rng, scene, clear)
    if not two:
        return None
    a, b, first, second = two
    if abs(a.x - b.x) > abs(a.y - b.y):
        answer = "to the left" if a.x < b.x else "to the right"
    else:
        answer = "above" if a.y < b.y else "below"
    return Ask("relative place", pattern_of(rng, "relative place"), {"a": first, "b": second}, answer, a)


PLACE_ASKERS: dict[str, Callable[[Random, Scene], Ask | None]] = {
    "where": ask_where,
    "what at": ask_what_at,
    "extreme": ask_extreme,
    "relation": ask_relation,
    "left or right": ask_left_right,
    "above or below": ask_above_below,
    "relative place": ask_relative,
}
