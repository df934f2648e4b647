"""What can be asked about one scene: an asker per skill, in `ASKERS`.

Each takes the truth and returns an `Ask`, or None where it has nothing to ask or the answer would lie near a
border. Neighbours: `questions` has what they share, `wordings` their patterns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from vlm_magic.starter.palette import BACKGROUNDS, COLOURS, SHAPES
from vlm_magic.starter.questions import (
    BIG,
    RATIO,
    SIDE_MARGIN,
    SMALL,
    Ask,
    absent,
    an,
    caption_of,
    listing,
    name_of,
    place_of,
    plural,
    refer,
)
from vlm_magic.starter.scenes import Scene, Thing
from vlm_magic.starter.wordings import WORDINGS

__all__ = ["ASKERS"]

_EXTREMES = {
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
_RELATIONS = {
    "left": "[to the left of|left of|to the left of|on the left of|on the left side of]",
    "right": "[to the right of|right of|to the right of|on the right of|on the right side of]",
    "above": "[above|above|over|higher than|on top of|higher up than]",
    "below": "[below|below|under|beneath|underneath|lower than|lower down than]",
}


def _pattern(rng: Random, skill: str) -> str:
    return rng.choice(WORDINGS[skill])


def _target(rng: Random, scene: Scene, by: str = "any") -> tuple[Thing, str] | None:
    """Some object that can be referred to, and the phrase."""
    for thing in rng.sample(scene.objects, len(scene.objects)):
        if phrase := refer(rng, scene, thing, by):
            return thing, phrase
    return None


def _two(
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


def _other(rng: Random, names: Sequence[str], right: str) -> str:
    return rng.choice([n for n in names if n != right])


def _shuffled(rng: Random, *options: str) -> list[str]:
    return rng.sample(options, len(options))


def _hop(
    rng: Random, scene: Scene, nouns: Sequence[str] = ("shape", "shape", "object", "thing", "one")
) -> tuple[Thing, str] | None:
    """An object by its place in an order: 'the leftmost shape'."""
    which = rng.choice(tuple(_EXTREMES))
    thing = _extreme_of(scene, which)
    noun = rng.choice(nouns)
    return (thing, f"the {_EXTREMES[which][1]} {noun}") if thing else None


def ask_colour(rng: Random, scene: Scene) -> Ask | None:
    """What colour is the circle?"""
    skill = "colour"
    if rng.random() < 0.12 and len(scene.objects) > 1:
        found, skill = _hop(rng, scene), "colour of extreme"
    else:
        found = _target(rng, scene, "shape")
    if not found:
        return None
    thing, phrase = found
    c1, c2 = _shuffled(rng, thing.colour, _other(rng, COLOURS, thing.colour))
    c3 = _other(rng, COLOURS, thing.colour)
    slots = {"a": phrase, "aonly": phrase.replace("the ", "a ", 1), "c1": c1, "c2": c2, "c3": c3}
    if c3 in (c1, c2) or skill != "colour":
        slots["c3"] = thing.colour
    pattern = _pattern(rng, "colour")
    if skill != "colour" and "aonly" in pattern:
        pattern = WORDINGS["colour"][0]
    if "c3" in pattern and slots["c3"] in (c1, c2):
        pattern = WORDINGS["colour"][0]
    return Ask(skill, pattern, slots, thing.colour, thing)


_ASKS_FOR_SHAPE = re.compile(r"shape of <a>|\bshape (\[does\|has\]|is) <a>|Shape of\|What form")


def ask_shape(rng: Random, scene: Scene) -> Ask | None:
    """What shape is the red one?"""
    pattern = _pattern(rng, "shape")
    if rng.random() < 0.2 and len(scene.objects) > 1 and "<colour>" not in pattern:
        # "What is the lowest thing?" asks which one it is; these ask for its shape beyond doubt
        pattern = rng.choice([p for p in WORDINGS["shape"] if _ASKS_FOR_SHAPE.search(p)])
        found, skill = _hop(rng, scene, ("object", "object", "thing", "one")), "shape of extreme"
    else:
        found, skill = _target(rng, scene, "colour"), "shape"
    if not found:
        return None
    thing, phrase = found
    s1, s2 = _shuffled(rng, thing.shape, _other(rng, SHAPES, thing.shape))
    slots = {"a": phrase, "colour": thing.colour, "s1": s1, "s2": s2}
    return Ask(skill, pattern, slots, thing.shape, thing)


def ask_background(rng: Random, scene: Scene) -> Ask | None:
    """What colour is the background?"""
    if rng.random() < 0.2:
        colour = scene.background if rng.random() < 0.5 else _other(rng, BACKGROUNDS, scene.background)
        answer = "yes" if colour == scene.background else "no"
        return Ask("background", _pattern(rng, "background yes"), {"colour": colour}, answer)
    c1, c2 = _shuffled(rng, scene.background, _other(rng, BACKGROUNDS, scene.background))
    return Ask("background", _pattern(rng, "background"), {"c1": c1, "c2": c2}, scene.background)


def ask_count(rng: Random, scene: Scene) -> Ask | None:
    """How many circles, red things, red circles, shapes?"""
    way = rng.choice(
        ("count all", "count shape", "count shape", "count colour", "count colour", "count kind")
    )
    things = scene.objects
    noun = rng.choice(("shape", "object", "thing", "figure", "item", "shape", "object"))
    if way == "count all":
        pattern = _pattern(rng, "count all") if rng.random() < 0.4 else _pattern(rng, "count")
        return Ask(way, pattern, {"kinds": plural(noun), "kind": noun}, str(len(things)))
    if rng.random() < 0.1 or not things:
        colour, shape = rng.choice(COLOURS), rng.choice(SHAPES)
    else:
        # a kind that is there, those that are there often more often
        tally = (
            Counter(t.shape for t in things) if way == "count shape" else Counter(t.colour for t in things)
        )
        chosen = rng.choices(tuple(tally), tuple(n * n for n in tally.values()))[0]
        some = rng.choice([t for t in things if chosen in t.kind])
        colour, shape = some.kind
    if way == "count shape":
        pattern = _pattern(rng, "count shape") if rng.random() < 0.15 else _pattern(rng, "count")
        n = sum(t.shape == shape for t in things)
        return Ask(way, pattern, {"kinds": plural(shape), "kind": shape}, str(n))
    if way == "count colour":
        pattern = _pattern(rng, "count colour") if rng.random() < 0.4 else _pattern(rng, "count")
        n = sum(t.colour == colour for t in things)
        return Ask(
            way,
            pattern,
            {"kinds": f"{colour} {plural(noun)}", "kind": f"{colour} {noun}", "colour": colour},
            str(n),
        )
    n = sum(t.kind == (colour, shape) for t in things)
    return Ask(
        way,
        _pattern(rng, "count"),
        {"kinds": f"{colour} {plural(shape)}", "kind": f"{colour} {shape}"},
        str(n),
    )


def ask_exist(rng: Random, scene: Scene) -> Ask | None:
    """Is there a red circle? Yes as often as no."""
    if rng.random() < 0.5:
        gone = absent(rng, scene)
        if not gone:
            return None
        noun, answer = gone[0], "no"
    else:
        if not scene.objects:
            return None
        thing, answer = rng.choice(scene.objects), "yes"
        noun = rng.choice((thing.shape, thing.shape, name_of(thing), name_of(thing), f"{thing.colour} shape"))
    one = an(noun)
    if noun.endswith(" shape"):
        colour = noun[:-6]
        noun = f"{colour} {rng.choice(('shape', 'object', 'thing'))}"
        one = rng.choice((an(noun), an(noun), f"something {colour}", f"anything {colour}"))
    return Ask("exist", _pattern(rng, "exist"), {"one": one, "kinds": plural(noun), "kind": noun}, answer)


def ask_missing(rng: Random, scene: Scene) -> Ask | None:
    """Something about an object that is not there."""
    gone = absent(rng, scene)
    if not gone:
        return None
    noun, phrase = gone
    skill = rng.choice(("colour", "where", "where", "size"))
    if skill == "colour" and any(c in noun for c in COLOURS):
        skill = "where"
    pattern = _pattern(rng, skill)
    c1, c2, c3 = rng.sample(COLOURS, 3)
    slots = {"a": phrase, "aonly": phrase, "c1": c1, "c2": c2, "c3": c3}
    if "aonly" in pattern:
        pattern = WORDINGS[skill][0]
    return Ask("missing", pattern, slots, f"There is no {noun}.")


def ask_where(rng: Random, scene: Scene) -> Ask | None:
    """Where is the circle?"""
    found = _target(rng, scene)
    place = place_of(found[0].x, found[0].y) if found else None
    return Ask("where", _pattern(rng, "where"), {"a": found[1]}, place, found[0]) if found and place else None


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
    return Ask("what at", _pattern(rng, "what at"), {"at": _AT[place]}, an(name_of(thing)), thing)


def ask_size(rng: Random, scene: Scene) -> Ask | None:
    """Is the circle big or small?"""
    found = _target(rng, scene)
    if not found or SMALL < found[0].size < BIG:
        return None
    answer = "small" if found[0].size <= SMALL else "big"
    return Ask("size", _pattern(rng, "size"), {"a": found[1]}, answer, found[0])


def ask_bigger(rng: Random, scene: Scene) -> Ask | None:
    """Which is bigger, the circle or the square? The answer gives the whole name, as for extremes."""
    two = _two(rng, scene, lambda a, b: max(a.size, b.size) >= RATIO * min(a.size, b.size))
    if not two:
        return None
    a, b, first, second = two
    bigger = rng.random() < 0.65
    er = "[bigger|larger|bigger|larger|greater]" if bigger else "[smaller|smaller|tinier|littler]"
    first_wins = (a.size > b.size) == bigger
    slots = {"a": first, "b": second, "er": er}
    if rng.random() < 0.4:
        return Ask("bigger", _pattern(rng, "bigger yes"), slots, "yes" if first_wins else "no", a)
    winner = a if first_wins else b
    return Ask("bigger", _pattern(rng, "bigger"), slots, f"the {name_of(winner)}", winner)


def _extreme_of(scene: Scene, which: str) -> Thing | None:
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


def ask_extreme(rng: Random, scene: Scene) -> Ask | None:
    """Which shape is furthest left, highest, biggest?"""
    if len(scene.objects) < 2:
        return None
    which = rng.choice(tuple(_EXTREMES))
    thing = _extreme_of(scene, which)
    if not thing:
        return None
    predicate, adjective, adverb = _EXTREMES[which]
    pattern = _pattern(rng, "extreme")
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
    two = _two(rng, scene, _across if across else _upright)
    if not two:
        return None
    a, b, first, second = two
    words = ("left", "right") if across else ("above", "below")
    true = words[(a.x > b.x) if across else (a.y > b.y)]
    said = rng.choice(words)
    slots = {"a": first, "b": second, "rel": _RELATIONS[said]}
    return Ask("relation", _pattern(rng, "relation"), slots, "yes" if said == true else "no", a)


def ask_left_right(rng: Random, scene: Scene) -> Ask | None:
    """Is the circle left or right of the square?"""
    two = _two(rng, scene, _across)
    if not two:
        return None
    a, b, first, second = two
    return Ask(
        "left or right",
        _pattern(rng, "left or right"),
        {"a": first, "b": second},
        "left" if a.x < b.x else "right",
        a,
    )


def ask_above_below(rng: Random, scene: Scene) -> Ask | None:
    """Is the circle above or below the square?"""
    two = _two(rng, scene, _upright)
    if not two:
        return None
    a, b, first, second = two
    return Ask(
        "above or below",
        _pattern(rng, "above or below"),
        {"a": first, "b": second},
        "above" if a.y < b.y else "below",
        a,
    )


def ask_relative(rng: Random, scene: Scene) -> Ask | None:
    """Where is the circle relative to the square? Only where one direction clearly rules."""

    def clear(a: Thing, b: Thing) -> bool:
        dx, dy = abs(a.x - b.x), abs(a.y - b.y)
        return max(dx, dy) >= 0.14 and max(dx, dy) >= 2.5 * min(dx, dy)

    two = _two(rng, scene, clear)
    if not two:
        return None
    a, b, first, second = two
    if abs(a.x - b.x) > abs(a.y - b.y):
        answer = "to the left" if a.x < b.x else "to the right"
    else:
        answer = "above" if a.y < b.y else "below"
    return Ask("relative place", _pattern(rng, "relative place"), {"a": first, "b": second}, answer, a)


def ask_list(rng: Random, scene: Scene) -> Ask | None:
    """What is in the picture?"""
    answer = caption_of(scene, background=False)
    subject = scene.objects[0] if len(scene.objects) == 1 else None
    return Ask("list", _pattern(rng, "list"), {}, answer, subject) if answer else None


def ask_caption(rng: Random, scene: Scene) -> Ask | None:
    """Describe the picture."""
    answer = caption_of(scene, background=True)
    return Ask("caption", _pattern(rng, "caption"), {}, answer) if answer else None


def ask_story(rng: Random, scene: Scene) -> Ask | None:
    """Tell a story: two sentences that name the right objects."""
    things = scene.objects
    plain = caption_of(scene, background=False)
    if not plain or not 1 <= len(things) <= 3 or len({t.kind for t in things}) < len(things):
        return None
    names = [an(name_of(t)) for t in things]
    world = f"a {scene.background} world"
    if len(things) == 1:
        end = "One day it went out to find a friend."
        answer = f"Once upon a time {names[0]} lived alone in {world}. {end}"
    elif len(things) == 2:
        end = "They became friends and played all day."
        answer = f"Once upon a time {names[0]} met {names[1]} in {world}. {end}"
    else:
        end = "They were never bored again."
        answer = f"Once upon a time {listing(names)} lived together in {world}. {end}"
    return Ask("story", _pattern(rng, "story"), {}, answer)


ASKERS: dict[str, Callable[[Random, Scene], Ask | None]] = {
    "colour": ask_colour, "shape": ask_shape, "background": ask_background, "count": ask_count,
    "exist": ask_exist,
    "missing": ask_missing, "where": ask_where, "what at": ask_what_at, "size": ask_size,
    "bigger": ask_bigger,
    "extreme": ask_extreme, "relation": ask_relation, "left or right": ask_left_right,
    "above or below": ask_above_below,
    "relative place": ask_relative, "list": ask_list, "caption": ask_caption, "story": ask_story,
}  # fmt: skip
