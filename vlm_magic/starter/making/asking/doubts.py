"""Questions that the starter cannot answer: about pictures outside its world, or about what no picture shows.

The answer is always the same sentence. Neighbours: `world/outside` draws the pictures,
`words/second_wordings` has the patterns, `askers` supply questions that make sense elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.choosing import some_target
from vlm_magic.starter.making.asking.questions import Ask, caption_of, place_of
from vlm_magic.starter.making.words.grammar import MARK
from vlm_magic.starter.making.words.second_wordings import SECOND_WORDINGS
from vlm_magic.starter.making.world.charts import Chart
from vlm_magic.starter.making.world.naming import an
from vlm_magic.starter.making.world.outside import Outside
from vlm_magic.starter.making.world.palette import SHAPES
from vlm_magic.starter.making.world.scenes import Scene, plan_scene

__all__ = ["DONT_KNOW", "ask_no_answer", "ask_outside", "ask_plain"]

DONT_KNOW = "I don't know."
# What may be asked of any picture outside: all but yes-or-no about a named thing, which "no" would answer.
_ANYTHING = ("colour", "shape", "background", "count", "where", "size", "extreme", "list", "caption", "story",
             "what at", "exist", "relation")  # fmt: skip


def ask_outside(rng: Random, outside: Outside) -> Ask | None:
    """Any question about a picture outside the small world."""
    if outside.kind == "unknown shape":
        return _ask_unknown(rng)
    draw = rng.random()
    if draw < 0.6:
        pattern = rng.choice(SECOND_WORDINGS["outside" if draw < 0.52 else "its colour"])
        return Ask("outside", pattern, {}, DONT_KNOW, None, "outside")
    asked = ASKERS[rng.choice(_ANYTHING)](rng, plan_scene(rng))
    if asked is None or MARK in asked.pattern:
        return None
    return Ask("outside", asked.pattern, asked.slots, DONT_KNOW, None, "outside")


def _ask_unknown(rng: Random) -> Ask:
    """A flat shape on a plain ground: what it is not can be said, its name cannot."""
    draw, (one, other) = rng.random(), rng.sample(SHAPES, 2)
    slots = {"one": an(one), "other": an(other)}
    if draw < 0.12:
        return Ask("unknown shape", rng.choice(SECOND_WORDINGS["is it one"]), slots, "no", None, "is it one")
    sense = "which of two shapes" if draw < 0.22 else "unknown shape"
    return Ask("unknown shape", rng.choice(SECOND_WORDINGS[sense]), slots, DONT_KNOW, None, sense)


def ask_plain(rng: Random, scene: Scene) -> Ask | None:
    """What an unknown shape is asked, of one that has a name: the same words must not decide the answer.

    Also what is asked of a picture outside: its colour, its place, and whatever else can be asked of a scene.
    """
    [thing] = scene.objects
    draw = rng.random()
    if draw < 0.3:
        ask = ASKERS[rng.choice(_ANYTHING)](rng, scene)
        return None if ask is None or MARK in ask.pattern else replace(ask, skill="plain shape")
    if draw < 0.6:
        return _ask_of_it(rng, scene)
    pattern = rng.choice(SECOND_WORDINGS["unknown shape"])
    caption = caption_of(scene, background="Describe" in pattern)  # as that word always is answered
    answer = thing.shape if "shape" in pattern else str(caption)
    return Ask("plain shape", pattern, {}, answer, thing, "plain shape")


def _ask_of_it(rng: Random, scene: Scene) -> Ask | None:
    """What can be asked of the only object without naming it."""
    [thing] = scene.objects
    said = rng.choice((thing.shape, thing.shape, thing.colour + " " + thing.shape, *rng.sample(SHAPES, 2)))
    other = rng.choice([shape for shape in SHAPES if shape != thing.shape])
    one, two = rng.sample((thing.shape, other), 2)
    slots = {"one": an(one), "other": an(two)}
    sense, answer = rng.choice((
        ("its colour", thing.colour), ("its colour", thing.colour), ("its place", place_of(thing.x, thing.y)),
        ("how many at all", "1"), ("which of two shapes", thing.shape),
        ("is it one", "yes" if said.endswith(thing.shape) else "no"),
    ))  # fmt: skip
    if sense == "is it one":
        slots = {"one": an(said)}
    if answer is None:
        return None
    return Ask("plain shape", rng.choice(SECOND_WORDINGS[sense]), slots, answer, thing, sense)


def ask_no_answer(rng: Random, truth: Scene | Chart) -> Ask | None:
    """A question about a drawn scene or chart whose answer is not in the picture."""
    if isinstance(truth, Chart):
        a, b = (f"the {bar.colour} bar" for bar in rng.sample(truth.bars, 2))
        pattern = rng.choice(SECOND_WORDINGS["no answer bars"])
        return Ask("no answer", pattern, {"a": a, "b": b}, DONT_KNOW, None, "no answer bars")
    found = some_target(rng, truth) if truth.objects else None
    if not found:
        return None
    slots = {"a": found[1], "colour": found[0].colour}
    return Ask("no answer", rng.choice(SECOND_WORDINGS["no answer"]), slots, DONT_KNOW, None, "no answer")
