"""How askers choose what to ask about: an object that can be named, two that fit, the one furthest left.

Neighbours: `questions` has the phrases; `askers` and `place_askers` call it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from vlm_magic.starter.making.asking.questions import RATIO, SIDE_MARGIN, refer
from vlm_magic.starter.making.words.wordings import WORDINGS
from vlm_magic.starter.making.world.scenes import Scene
from vlm_magic.starter.making.world.things import Thing

__all__ = [
    "EXTREMES",
    "by_order",
    "extreme_of",
    "other_than",
    "pattern_of",
    "shuffled",
    "some_target",
    "two_things",
]

EXTREMES = {
    "left": ("[the furthest|furthest|the farthest|farthest|most] [to the left|left]", "[leftmost|left-most]",
    "furthest left"),
    "right": (
        "[the furthest|furthest|the farthest|farthest|most] [to the right|right]", "[rightmost|right-most]",
        "furthest right",
    ),
    "top": (
        "[the highest|highest|highest up|the furthest up|furthest up|nearest to the top|closest to the top]",
        "[topmost|highest|top]", "[highest|furthest up]",
    ),
    "bottom": (
        "[the lowest|lowest|lowest down|the furthest down|furthest down|nearest to the bottom|closest to "
        "the bottom]",
        "[bottommost|lowest|bottom]", "[lowest|furthest down]",
    ),
    "biggest": ("[the biggest|biggest|the largest|largest]", "[biggest|largest]", ""),
    "smallest": ("[the smallest|smallest|the tiniest]", "[smallest|tiniest]", ""),
}  # fmt: skip


def pattern_of(rng: Random, skill: str) -> str:
    """One of the patterns of a skill."""
    return rng.choice(WORDINGS[skill])


def some_target(rng: Random, scene: Scene, by: str = "any") -> tuple[Thing, str] | None:
    """Some object that can be referred to, and the phrase."""
    for thing in rng.sample(scene.objects, len(scene.objects)):
        if phrase := refer(rng, scene, thing, by):
            return thing, phrase
    return None


def two_things(
    rng: Random, scene: Scene, fits: Callable[[Thing, Thing], bool]
) -> tuple[Thing, Thing, str, str] | None:
    """Two objects that fit, and their phrases."""
    pairs = [(a, b) for a in scene.objects for b in scene.objects if a is not b and fits(a, b)]
    rng.shuffle(pairs)
    for a, b in pairs[:4]:
        first, second = refer(rng, scene, a, plain=True), refer(rng, scene, b, plain=True)
        if first and second:
            return a, b, first, second
    return None


def other_than(rng: Random, names: Sequence[str], right: str) -> str:
    """A name that is not the right one."""
    return rng.choice([n for n in names if n != right])


def shuffled(rng: Random, *options: str) -> list[str]:
    """The options in a random order."""
    return rng.sample(options, len(options))


def by_order(
    rng: Random, scene: Scene, nouns: Sequence[str] = ("shape", "shape", "object", "thing", "one")
) -> tuple[Thing, str] | None:
    """An object by its place in an order: 'the leftmost shape'."""
    which = rng.choice(tuple(EXTREMES))
    thing = extreme_of(scene, which)
    noun = rng.choice(nouns)
    return (thing, f"the {EXTREMES[which][1]} {noun}") if thing else None


def extreme_of(scene: Scene, which: str) -> Thing | None:
    """The object that is furthest in one way, by a clear margin, or None."""
    things = scene.objects
    if which in ("biggest", "smallest"):
        ranked = sorted(things, key=lambda t: t.size, reverse=which == "biggest")
        clear = max(ranked[0].size, ranked[1].size) >= RATIO * min(ranked[0].size, ranked[1].size)
    else:
        sign = -1 if which in ("right", "bottom") else 1
        places = [(sign * (t.x if which in ("left", "right") else t.y), i) for i, t in enumerate(things)]
        places.sort()
        ranked = [things[i] for _, i in places]
        half = [(t.w if which in ("left", "right") else t.h) / 2 for t in ranked[:2]]
        # clear by its centre and by its edge
        clear = places[1][0] - places[0][0] >= SIDE_MARGIN * 0.8
        clear = clear and places[1][0] - half[1] - (places[0][0] - half[0]) > 0.01
    return ranked[0] if clear else None
