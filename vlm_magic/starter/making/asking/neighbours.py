"""More that can be asked about one scene: neighbours, all colours, the odd one out, which of two is higher.

Each takes the truth and returns an `Ask`, or None. Neighbours: `askers` has the plainer questions,
`words/second_wordings` the patterns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from random import Random

from vlm_magic.starter.making.asking.choosing import some_target, two_things
from vlm_magic.starter.making.asking.questions import SIDE_MARGIN, Ask
from vlm_magic.starter.making.words.second_wordings import SECOND_WORDINGS
from vlm_magic.starter.making.world.charts import Chart
from vlm_magic.starter.making.world.naming import an, listing, name_of
from vlm_magic.starter.making.world.scenes import Scene
from vlm_magic.starter.making.world.things import Thing

__all__ = ["BAR_ASKERS", "NEIGHBOUR_ASKERS"]


def _worded(
    rng: Random, skill: str, sense: str, slots: dict[str, str], answer: str, subject: Thing | None
) -> Ask:
    return Ask(skill, rng.choice(SECOND_WORDINGS[sense]), slots, answer, subject, sense)


def ask_neighbour(rng: Random, scene: Scene) -> Ask | None:
    """What is below the circle? Only where every other object clearly is there or clearly is not."""
    found = some_target(rng, scene) if scene.objects else None
    if not found:
        return None
    thing, phrase = found
    side = rng.choice(("below", "above", "left", "right"))
    there = []
    for other in scene.objects:
        if other is thing:
            continue
        away = {
            "below": other.y - thing.y, "above": thing.y - other.y,
            "left": thing.x - other.x, "right": other.x - thing.x,
        }[side]  # fmt: skip
        if abs(away) < SIDE_MARGIN:
            return None
        if away > 0:
            there.append(other)
    if len(there) > 1 or (not there and rng.random() < 0.6):
        return None
    answer = an(name_of(there[0])) if there else "nothing"
    return _worded(rng, "neighbour", f"what is {side}", {"a": phrase}, answer, there[0] if there else None)


def ask_beside(rng: Random, scene: Scene) -> Ask | None:
    """What is beside the circle? The nearest by far; for two objects simply the other one."""
    if len(scene.objects) < 2:
        return None
    found = some_target(rng, scene)
    if not found:
        return None
    thing, phrase = found
    others = sorted(
        (math.hypot(o.x - thing.x, o.y - thing.y), i) for i, o in enumerate(scene.objects) if o is not thing
    )
    if len(others) > 1 and others[1][0] < 1.5 * others[0][0]:
        return None
    nearest = scene.objects[others[0][1]]
    return _worded(rng, "neighbour", "what is beside", {"a": phrase}, an(name_of(nearest)), nearest)


def ask_behind(rng: Random, scene: Scene) -> Ask | None:
    """What is behind the circle? Nothing: no object covers another."""
    found = some_target(rng, scene) if scene.objects else None
    return _worded(rng, "behind", "what is behind", {"a": found[1]}, "nothing", None) if found else None


def ask_one_colour(rng: Random, scene: Scene) -> Ask | None:
    """All the same colour? All the same shape? Yes as often as no, as far as the scenes allow."""
    if len(scene.objects) < 2:
        return None
    by_colour = rng.random() < 0.6
    n = len({t.colour if by_colour else t.shape for t in scene.objects})
    if n > 1 and rng.random() < 0.75:
        return None
    sense = "one colour" if by_colour else "one shape"
    return _worded(rng, sense, sense, {}, "yes" if n == 1 else "no", None)


def ask_how_many_colours(rng: Random, scene: Scene) -> Ask | None:
    """How many colours do the shapes have?"""
    if not scene.objects or len(scene.objects) > 4:
        return None
    n = len({t.colour for t in scene.objects})
    return _worded(rng, "how many colours", "how many colours", {}, str(n), None)


def ask_odd_one(rng: Random, scene: Scene) -> Ask | None:
    """Which is the odd one out? Where one property singles out one object, and no other another one."""
    n = len(scene.objects)
    if not 3 <= n <= 4:
        return None
    odd = set()
    for words in ([t.shape for t in scene.objects], [t.colour for t in scene.objects]):
        tally = Counter(words)
        if sorted(tally.values()) == [1, n - 1]:
            odd.add(words.index(min(tally, key=lambda word: tally[word])))
        elif len(tally) not in (1, n):
            return None  # two and two: no answer
    if len(odd) != 1:
        return None
    thing = scene.objects[odd.pop()]
    return _worded(rng, "odd one out", "odd one out", {}, f"the {name_of(thing)}", thing)


def ask_which_higher(rng: Random, scene: Scene) -> Ask | None:
    """Which one sits higher, the circle or the square? The answer gives the whole name."""
    sense = rng.choice(("higher", "lower", "higher", "lower", "further left", "further right"))
    upright = sense in ("higher", "lower")
    two = two_things(rng, scene, lambda a, b: abs(a.y - b.y if upright else a.x - b.x) >= SIDE_MARGIN)
    if not two:
        return None
    a, b, first, second = two
    first_wins = (a.y < b.y if upright else a.x < b.x) == (sense in ("higher", "further left"))
    winner = a if first_wins else b
    return _worded(rng, "which is higher", sense, {"a": first, "b": second}, f"the {name_of(winner)}", winner)


NEIGHBOUR_ASKERS: dict[str, Callable[[Random, Scene], Ask | None]] = {
    "neighbour": ask_neighbour, "beside": ask_beside, "behind": ask_behind, "one colour": ask_one_colour,
    "how many colours": ask_how_many_colours, "odd one out": ask_odd_one, "which is higher": ask_which_higher,
}  # fmt: skip


def ask_winner(rng: Random, chart: Chart) -> Ask | None:
    """Which bar wins, which loses?"""
    wins = rng.random() < 0.55
    ranked = sorted(chart.bars, key=lambda bar: bar.value, reverse=wins)
    sense = "winning bar" if wins else "losing bar"
    pattern = rng.choice(SECOND_WORDINGS[sense])
    return Ask("best bar", pattern, {}, f"the {ranked[0].colour} bar", None, sense)


def ask_order(rng: Random, chart: Chart) -> Ask | None:
    """The bars from the tallest to the shortest."""
    if len(chart.bars) > 4:
        return None
    ranked = sorted(chart.bars, key=lambda bar: bar.value, reverse=True)
    pattern = rng.choice(SECOND_WORDINGS["order of bars"])
    return Ask("order of bars", pattern, {}, listing([bar.colour for bar in ranked]), None, "order of bars")


BAR_ASKERS: dict[str, Callable[[Random, Chart], Ask | None]] = {
    "best bar": ask_winner,
    "order of bars": ask_order,
}
