"""What can be asked about one scene: an asker per skill, in `ASKERS`.

Each takes the truth and returns an `Ask`, or None where it has nothing to ask or the answer would lie near a
border. Neighbours: `questions` and `choosing` have what they share, `place_askers`
the rest of the table, `words/wordings` their patterns.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from random import Random

from vlm_magic.starter.making.asking.choosing import (
    by_order,
    other_than,
    pattern_of,
    shuffled,
    some_target,
    two_things,
)
from vlm_magic.starter.making.asking.place_askers import PLACE_ASKERS
from vlm_magic.starter.making.asking.questions import BIG, RATIO, SMALL, Ask, absent, caption_of
from vlm_magic.starter.making.words.wordings import WORDINGS
from vlm_magic.starter.making.world.naming import an, listing, name_of, plural
from vlm_magic.starter.making.world.palette import BACKGROUNDS, COLOURS, SHAPES
from vlm_magic.starter.making.world.scenes import Scene

__all__ = ["ASKERS"]


def ask_colour(rng: Random, scene: Scene) -> Ask | None:
    """What colour is the circle?"""
    skill = "colour"
    if rng.random() < 0.12 and len(scene.objects) > 1:
        found, skill = by_order(rng, scene), "colour of extreme"
    else:
        found = some_target(rng, scene, "shape")
    if not found:
        return None
    thing, phrase = found
    c1, c2 = shuffled(rng, thing.colour, other_than(rng, COLOURS, thing.colour))
    c3 = other_than(rng, COLOURS, thing.colour)
    slots = {"a": phrase, "aonly": phrase.replace("the ", "a ", 1), "c1": c1, "c2": c2, "c3": c3}
    if c3 in (c1, c2) or skill != "colour":
        slots["c3"] = thing.colour
    pattern = pattern_of(rng, "colour")
    if skill != "colour" and "aonly" in pattern:
        pattern = WORDINGS["colour"][0]
    if "c3" in pattern and slots["c3"] in (c1, c2):
        pattern = WORDINGS["colour"][0]
    return Ask(skill, pattern, slots, thing.colour, thing)


_ASKS_FOR_SHAPE = re.compile(r"shape of <a>|\bshape (\[does\|has\]|is) <a>|Shape of\|What form")


def ask_shape(rng: Random, scene: Scene) -> Ask | None:
    """What shape is the red one?"""
    pattern = pattern_of(rng, "shape")
    if rng.random() < 0.2 and len(scene.objects) > 1 and "<colour>" not in pattern:
        # "What is the lowest thing?" asks which one it is; these ask for its shape beyond doubt
        pattern = rng.choice([p for p in WORDINGS["shape"] if _ASKS_FOR_SHAPE.search(p)])
        found, skill = by_order(rng, scene, ("object", "object", "thing", "one")), "shape of extreme"
    else:
        found, skill = some_target(rng, scene, "colour"), "shape"
    if not found:
        return None
    thing, phrase = found
    s1, s2 = shuffled(rng, thing.shape, other_than(rng, SHAPES, thing.shape))
    slots = {"a": phrase, "colour": thing.colour, "s1": s1, "s2": s2}
    return Ask(skill, pattern, slots, thing.shape, thing)


def ask_background(rng: Random, scene: Scene) -> Ask | None:
    """What colour is the background?"""
    if rng.random() < 0.2:
        colour = scene.background if rng.random() < 0.5 else other_than(rng, BACKGROUNDS, scene.background)
        answer = "yes" if colour == scene.background else "no"
        return Ask("background", pattern_of(rng, "background yes"), {"colour": colour}, answer)
    c1, c2 = shuffled(rng, scene.background, other_than(rng, BACKGROUNDS, scene.background))
    return Ask("background", pattern_of(rng, "background"), {"c1": c1, "c2": c2}, scene.background)


def ask_count(rng: Random, scene: Scene) -> Ask | None:
    """How many circles, red things, red circles, shapes?"""
    way = rng.choice(
        ("count all", "count shape", "count shape", "count colour", "count colour", "count kind")
    )
    things = scene.objects
    noun = rng.choice(("shape", "object", "thing", "figure", "item", "shape", "object"))
    if way == "count all":
        pattern = pattern_of(rng, "count all") if rng.random() < 0.4 else pattern_of(rng, "count")
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
        pattern = pattern_of(rng, "count shape") if rng.random() < 0.15 else pattern_of(rng, "count")
        n = sum(t.shape == shape for t in things)
        return Ask(way, pattern, {"kinds": plural(shape), "kind": shape}, str(n))
    if way == "count colour":
        pattern = pattern_of(rng, "count colour") if rng.random() < 0.4 else pattern_of(rng, "count")
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
        pattern_of(rng, "count"),
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
    return Ask("exist", pattern_of(rng, "exist"), {"one": one, "kinds": plural(noun), "kind": noun}, answer)


def ask_missing(rng: Random, scene: Scene) -> Ask | None:
    """Something about an object that is not there."""
    gone = absent(rng, scene)
    if not gone:
        return None
    noun, phrase = gone
    skill = rng.choice(("colour", "where", "where", "size"))
    if skill == "colour" and any(c in noun for c in COLOURS):
        skill = "where"
    pattern = pattern_of(rng, skill)
    c1, c2, c3 = rng.sample(COLOURS, 3)
    slots = {"a": phrase, "aonly": phrase, "c1": c1, "c2": c2, "c3": c3}
    if "aonly" in pattern:
        pattern = WORDINGS[skill][0]
    return Ask("missing", pattern, slots, f"There is no {noun}.")


def ask_size(rng: Random, scene: Scene) -> Ask | None:
    """Is the circle big or small?"""
    found = some_target(rng, scene)
    if not found or SMALL < found[0].size < BIG:
        return None
    answer = "small" if found[0].size <= SMALL else "big"
    return Ask("size", pattern_of(rng, "size"), {"a": found[1]}, answer, found[0])


def ask_bigger(rng: Random, scene: Scene) -> Ask | None:
    """Which is bigger, the circle or the square? The answer gives the whole name, as for extremes."""
    two = two_things(rng, scene, lambda a, b: max(a.size, b.size) >= RATIO * min(a.size, b.size))
    if not two:
        return None
    a, b, first, second = two
    bigger = rng.random() < 0.65
    er = "[bigger|larger|bigger|larger|greater]" if bigger else "[smaller|smaller|tinier|littler]"
    first_wins = (a.size > b.size) == bigger
    slots = {"a": first, "b": second, "er": er}
    if rng.random() < 0.4:
        return Ask("bigger", pattern_of(rng, "bigger yes"), slots, "yes" if first_wins else "no", a)
    winner = a if first_wins else b
    return Ask("bigger", pattern_of(rng, "bigger"), slots, f"the {name_of(winner)}", winner)


def ask_list(rng: Random, scene: Scene) -> Ask | None:
    """What is in the picture?"""
    answer = caption_of(scene, background=False)
    subject = scene.objects[0] if len(scene.objects) == 1 else None
    return Ask("list", pattern_of(rng, "list"), {}, answer, subject) if answer else None


def ask_caption(rng: Random, scene: Scene) -> Ask | None:
    """Describe the picture."""
    answer = caption_of(scene, background=True)
    return Ask("caption", pattern_of(rng, "caption"), {}, answer) if answer else None


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
    return Ask("story", pattern_of(rng, "story"), {}, answer)


# Seeds draw by the order of this table: what is new goes to its end.
ASKERS: dict[str, Callable[[Random, Scene], Ask | None]] = {
    "colour": ask_colour, "shape": ask_shape, "background": ask_background, "count": ask_count,
    "exist": ask_exist, "missing": ask_missing, "where": PLACE_ASKERS["where"],
    "what at": PLACE_ASKERS["what at"], "size": ask_size, "bigger": ask_bigger,
    **{name: PLACE_ASKERS[name] for name in tuple(PLACE_ASKERS)[2:]},
    "list": ask_list, "caption": ask_caption, "story": ask_story,
}  # fmt: skip
