"""Questions about two and three pictures: compare them, look one of them up, say what changed.

Knows nothing of models. Neighbours: `world/edits` makes the edited copies, `askers` ask about one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.questions import Ask, place_of
from vlm_magic.starter.making.words.grammar import MARK
from vlm_magic.starter.making.world.edits import Edit
from vlm_magic.starter.making.world.naming import an, name_of, plural
from vlm_magic.starter.making.world.palette import COLOURS, SHAPES
from vlm_magic.starter.making.world.scenes import Scene
from vlm_magic.starter.making.world.things import Thing

__all__ = [
    "ORDINALS",
    "PAIR_ASKERS",
    "ask_difference",
    "ask_kind_of_change",
    "ask_lookup",
    "ask_same",
    "ask_where_changed",
    "marks",
]

ORDINALS = ("first", "second", "third")
_NOUN = "[picture|picture|picture|image|image|photo|drawing|scene|one]"
_MARKS = {
    2: (
        f"{MARK} and {MARK}",
        f"{MARK} {MARK}",
        f"[before|first]: {MARK}, [after|then|second]: {MARK}",
        f"{MARK}, {MARK}",
    ),
    3: (f"{MARK}, {MARK} and {MARK}", f"{MARK} {MARK} {MARK}"),
}

_MORE = (
    "Which [picture|image|photo|drawing|scene|one|] [has|shows|contains] more <kinds>?",
    "Which [picture|image|one] has [the|] more <kinds>[, the first or the second|]?",
    "Are there more <kinds> in the first [picture|image|one|] or in the second[ one|]?",
    "Where are there more <kinds>, in the first or [in|] the second [picture|image|one]?",
    "In which [picture|image|photo|drawing] [are there|do you see|can you find] more <kinds>?",
    "<Tellme> which [picture|image|photo|one] has more <kinds>.",
    "Which of the [two|two pictures|two images|pictures|images] has more <kinds>?",
    "Compare [the pictures|them|the two][:|.] which [one|picture|] has more <kinds>?",
    "Which has a [larger|higher|greater] number of <kinds>?",
    "Which has more <kinds>?",
)
_MORE_MARKED = (
    f"Which has more <kinds>[,|:] {MARK} or {MARK}?",
    f"Does {MARK} or {MARK} [have|show|contain] more <kinds>?",
    f"Are there more <kinds> in {MARK} or in {MARK}?",
    f"[Compare {MARK} and {MARK}|Compare {MARK} with {MARK}][:|.] Which has more <kinds>?",
    f"Which of {MARK} and {MARK} has more <kinds>?",
    f"Where are there more <kinds>, in {MARK} or in {MARK}?",
    f"{MARK} or {MARK}: which [one|] has more <kinds>?",
)
_HAS = (
    "Which [picture|image|photo|drawing|scene|one|] [has|shows|contains] <one>?",
    "In which [picture|image|photo|drawing|one] is [there|] <one>?",
    "In which [picture|image|photo] [do|can] you [see|find] <one>?",
    "Where is <one>, in the first or [in|] the second [picture|image|one|]?",
    "<Tellme> which [picture|image|photo|one] [has|shows|contains] <one>.",
    "Which of the [two|pictures|images] [has|shows] <one>?",
    "<One> is in which [picture|image|one]?",
    "Which [picture|image|one] is the one with <one>?",
)
_HAS_MARKED = (
    f"Which has <one>[,|:] {MARK} or {MARK}?",
    f"Is <one> in {MARK} or in {MARK}?",
    f"Is there <one> in {MARK} or in {MARK}?",
    f"Which of {MARK} and {MARK} [has|shows] <one>?",
)
_SAME = (
    "Are [the|these|both|the two|these two] [pictures|images|photos|drawings] [the same|equal|identical|"
    "alike]?",
    "Do [the|these|both|the two] [pictures|images|drawings] show the same [thing|things|scene|]?",
    "Is the second [picture|image|photo|drawing] [the same as|identical to|equal to] the first[ one|]?",
    "Is there [a|any] difference between [the|these|the two] [pictures|images|drawings]?|no",
    "Did [anything|something] change[| between the pictures| between the two| from the first to the "
    "second]?|no",
    "Do [the|these|the two] [pictures|images] differ?|no",
    "Are [the|these|the two] [pictures|images] different?|no",
    "Is it the same [picture|image|drawing|scene][| twice]?",
)
_SAME_MARKED = (
    f"Are {MARK} and {MARK} [the same|equal|identical]?",
    f"Is {MARK} the same as {MARK}?",
    f"Did anything change between {MARK} and {MARK}?|no",
    f"Is there a difference between {MARK} and {MARK}?|no",
    f"Do {MARK} and {MARK} show the same [thing|scene]?",
)
_DIFFERENCE = (
    "What [changed|has changed|is different|is new|happened][| here| now]?",
    "What [changed|has changed|happened] [between|from] [the first and the second|the two|the pictures|"
    "these two|these pictures|them]?",
    "What is the difference[| between the two| between the pictures| between these two pictures| between "
    "the images| between them]?",
    "[Spot|Find|Name|Tell me|Describe|Explain|State] the difference[| between the two| between the "
    "pictures| between the images|s]?",
    "What is different in the second [picture|image|one|photo]?",
    "What [changed|is different] in the second [picture|image|one][| compared to the first]?",
    "How [does|did] the second [picture|image|one] differ from the first[ one|]?",
    "How do [the|these|the two] [pictures|images|drawings|photos] differ?",
    "<Tellme> what [changed|is different|has changed|happened].",
    "Compare [the|these|the two] [pictures|images].[| What changed?| What is different?]",
    "[In what way|How] [are|do] they [different|differ]?",
    "The second [picture|image] is a little different. [How|In what way]?",
    "What did [I|they|someone] change?",
)
_DIFFERENCE_MARKED = (
    f"What [changed|has changed|happened|is different] between {MARK} and {MARK}?",
    f"What [changed|has changed|happened|is different] between {MARK} and {MARK}?",
    f"What [changed|happened] from {MARK} to {MARK}?",
    f"What is the difference between {MARK} and {MARK}?",
    f"[Compare|Please compare] {MARK} [and|with|to] {MARK}.[| What changed?| What is different?]",
    f"[Before|First]: {MARK} [After|Then|Now]: {MARK} [What changed?|What is different?|What happened?]",
    f"First {MARK}, then {MARK}: what [changed|happened|is different]?",
    f"How did {MARK} [change|turn] into {MARK}?",
    f"How does {MARK} differ from {MARK}?",
    f"<Tellme> what changed between {MARK} and {MARK}.",
    f"[Spot|Find|Describe] the difference between {MARK} and {MARK}.",
    f"{MARK} and {MARK}: what [changed|is different|is the difference]?",
    f"This was before: {MARK}. This is after: {MARK}. What changed?",
    f"I had {MARK} and now I have {MARK}. What changed?",
)


def _which(
    rng: Random, skill: str, plain: Sequence[str], marked: Sequence[str], slots: dict[str, str], answer: str
) -> Ask:
    pattern = rng.choice(plain) if rng.random() < 0.55 else rng.choice(marked)
    return Ask(skill, pattern, slots, answer)


def ask_more(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """Which picture has more circles?"""
    if len(scenes) != 2:
        return None
    noun = rng.choice(("shape", "object", "thing"))
    options: list[tuple[str, Callable[[Thing], bool]]] = [(plural(noun), lambda t: True)] * 3
    options += [(plural(s), lambda t, s=s: t.shape == s) for s in SHAPES]  # type: ignore[misc]
    options += [(f"{c} {plural(noun)}", lambda t, c=c: t.colour == c) for c in COLOURS]  # type: ignore[misc]
    fitting = []
    for kinds, has in options:
        counts = [sum(has(t) for t in scene.objects) for scene in scenes]
        if counts[0] != counts[1]:
            fitting.append((kinds, counts))
    if not fitting:
        return None
    kinds, counts = rng.choice(fitting)
    return _which(
        rng,
        "which has more",
        _MORE,
        _MORE_MARKED,
        {"kinds": kinds},
        "the first" if counts[0] > counts[1] else "the second",
    )


def ask_has(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """Which picture has a star?"""
    nouns: dict[str, list[int]] = {}
    for i, scene in enumerate(scenes):
        for noun in {n for t in scene.objects for n in (t.shape, name_of(t), f"{t.colour} shape")}:
            nouns.setdefault(noun, []).append(i)
    fitting = sorted((noun, where[0]) for noun, where in nouns.items() if len(where) == 1)
    if not fitting:
        return None
    noun, i = rng.choice(fitting)
    if len(scenes) == 2:
        return _which(rng, "which has it", _HAS, _HAS_MARKED, {"one": an(noun)}, f"the {ORDINALS[i]}")
    return Ask(
        "which has it",
        rng.choice([p for p in _HAS if "second" not in p]),
        {"one": an(noun)},
        f"the {ORDINALS[i]}",
    )


def ask_lookup(rng: Random, scenes: Sequence[Scene], which: int | None = None) -> Ask | None:
    """Any single question, asked of one of several pictures by its place in their order."""
    i = which if which is not None else rng.randrange(len(scenes))
    ask = ASKERS[rng.choice(_LOOKUPS)](rng, scenes[i])
    if ask is None:
        return None
    names = [
        f"[the|the|the] {ORDINALS[i]} {_NOUN}",
        f"[picture|image|number] {i + 1}",
        f"the {ORDINALS[i]} {_NOUN}",
    ]
    if i == len(scenes) - 1:
        names.append(f"the last {_NOUN}")
    name = f"[{'|'.join(names)}]"
    pattern = ask.pattern
    if "<in>" not in pattern and "<pic>" not in pattern:
        pattern = f"In {name}: {pattern}" if rng.random() < 0.5 else f"About {name}: {pattern}"
    slots = {**ask.slots, "in": f" [in|in|in|on] {name}", "pic": name}
    return replace(ask, skill="look-up", pattern=pattern, slots=slots)


_LOOKUPS = (
    "colour", "colour", "shape", "background", "count", "count", "exist", "exist", "where", "size", "missing",
    "extreme",
    "list", "relation",
)  # fmt: skip


def ask_difference(rng: Random, edit: Edit) -> Ask:
    """What changed?"""
    return _which(rng, f"difference: {edit[2]}", _DIFFERENCE, _DIFFERENCE_MARKED, {}, edit[3])


def ask_same(rng: Random, edit: Edit) -> Ask:
    """Are the pictures the same?"""
    pattern = rng.choice(_SAME) if rng.random() < 0.6 else rng.choice(_SAME_MARKED)
    same = edit[2] == "nothing"
    if pattern.endswith("?|no"):
        return Ask("same", pattern[:-3], {}, "no" if same else "yes")
    return Ask("same", pattern, {}, "yes" if same else "no")


def ask_kind_of_change(rng: Random, edit: Edit) -> Ask:
    """A step towards the difference: what kind of change is there?"""
    pattern = "[What|Which] kind of change is [there|it|this]?"
    return Ask("kind of change", pattern, {}, edit[2])


def ask_where_changed(rng: Random, edit: Edit) -> Ask | None:
    """A step towards the difference: where is it?"""
    before, after, kind, _ = edit
    if kind in ("nothing", "background"):
        return None
    changed = set(before.objects) ^ set(after.objects)
    thing = max(changed, key=lambda t: t.size)
    place = place_of(thing.x, thing.y)
    return (
        Ask("where changed", "Where [is the change|did it change|is the difference]?", {}, place)
        if place
        else None
    )


PAIR_ASKERS: dict[str, Callable[[Random, Sequence[Scene]], Ask | None]] = {
    "which has more": ask_more, "which has it": ask_has, "look-up": ask_lookup,
}  # fmt: skip


def marks(rng: Random, n: int) -> str:
    """A pattern that names n pictures in a row."""
    return rng.choice(_MARKS[n]) if n > 1 else MARK
