"""Questions that compare two or three pictures, and questions about what changed in a person's own words.

Answers name a picture by its place ("the first"), or are numbers, yes and no, or the sentence of a change.
Neighbours: `pairs` has the plainer ones, `world/edits` the changed copies, `words/second_wordings` the
patterns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from vlm_magic.starter.making.asking.pairs import ORDINALS
from vlm_magic.starter.making.asking.questions import RATIO, Ask, refer
from vlm_magic.starter.making.words.grammar import MARK
from vlm_magic.starter.making.words.second_wordings import SECOND_WORDINGS
from vlm_magic.starter.making.world.edits import Edit
from vlm_magic.starter.making.world.naming import an, listing, name_of, plural
from vlm_magic.starter.making.world.palette import COLOURS, SHAPES
from vlm_magic.starter.making.world.scenes import Scene
from vlm_magic.starter.making.world.things import Thing

__all__ = ["COMPARISONS", "ask_change", "ask_common", "ask_same_or_different"]


def _worded(rng: Random, skill: str, sense: str, slots: dict[str, str], answer: str, n: int = 2) -> Ask:
    """A question in a wording that suits n pictures."""
    patterns = SECOND_WORDINGS[sense]
    fitting = [p for p in patterns if p.count(MARK) == n] if rng.random() < 0.2 else []
    fitting = fitting or [p for p in patterns if MARK not in p]
    if n == 3:
        fitting = [p for p in fitting if "econd" not in p or "third" in p] or fitting
    return Ask(skill, rng.choice(fitting), slots, answer, None, sense)


def _the(i: int) -> str:
    return f"the {ORDINALS[i]}"


def _nouns(thing: Thing) -> tuple[str, str]:
    return thing.shape, name_of(thing)


def ask_bigger_across(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """Which picture has the bigger star? Where each has exactly one, and the sizes differ clearly."""
    tallies = [Counter(noun for t in s.objects for noun in _nouns(t)) for s in scenes]
    shared = sorted(noun for noun in tallies[0] if all(tally[noun] == 1 for tally in tallies))
    rng.shuffle(shared)
    bigger = rng.random() < 0.55
    for noun in shared:
        sizes = sorted(
            ((next(t.size for t in s.objects if noun in _nouns(t)), i) for i, s in enumerate(scenes)),
            reverse=bigger,
        )
        (best, where), (next_best, _) = sizes[:2]
        if max(best, next_best) >= RATIO * min(best, next_best):
            word = (
                ("bigger" if bigger else "smaller")
                if len(scenes) == 2
                else ("biggest" if bigger else "smallest")
            )
            return _worded(rng, "bigger across", f"{word} across", {"thing": noun}, _the(where), len(scenes))
    return None


def _kinds(rng: Random, scenes: Sequence[Scene]) -> tuple[str, list[int]]:
    """Something that can be counted, and how many of it each picture has; mostly something that is there."""
    noun = rng.choice(("shape", "object", "thing"))
    draw = rng.random()
    there = [t for s in scenes for t in s.objects]
    some = rng.choice(there) if there and rng.random() < 0.9 else None
    shape, colour = some.kind[::-1] if some else (rng.choice(SHAPES), rng.choice(COLOURS))
    if draw < 0.4:
        return plural(noun), [len(s.objects) for s in scenes]
    if draw < 0.75:
        return plural(shape), [sum(t.shape == shape for t in s.objects) for s in scenes]
    if draw < 0.93:
        return f"{colour} {plural(noun)}", [sum(t.colour == colour for t in s.objects) for s in scenes]
    return f"{colour} {plural(shape)}", [sum(t.kind == (colour, shape) for t in s.objects) for s in scenes]


def ask_fewer(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """Which picture has fewer, which of three the most?"""
    kinds, counts = _kinds(rng, scenes)
    most = rng.random() < 0.6
    best = max(counts) if most else min(counts)
    if counts.count(best) != 1:
        return None
    if len(scenes) == 2:
        return _worded(rng, "fewer", "fewer", {"kinds": kinds}, _the(counts.index(min(counts))))
    sense = "most" if most else "fewest"
    return _worded(rng, "most of three", sense, {"kinds": kinds}, _the(counts.index(best)), 3)


def ask_emptier(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """Which picture is emptier, which is more crowded?"""
    counts = [len(s.objects) for s in scenes]
    if len(scenes) != 2 or counts[0] == counts[1]:
        return None
    sense = rng.choice(("emptier", "more crowded"))
    best = min(counts) if sense == "emptier" else max(counts)
    return _worded(rng, "emptier", sense, {}, _the(counts.index(best)))


def ask_altogether(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """How many circles are there altogether?"""
    kinds, counts = _kinds(rng, scenes)
    if sum(counts) > 8 or max(counts) > 4:
        return None
    return _worded(rng, "altogether", "altogether", {"kinds": kinds}, str(sum(counts)), len(scenes))


def ask_in_each(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """How many circles are in each picture?"""
    kinds, counts = _kinds(rng, scenes)
    if max(counts) > 4:
        return None
    answer = ", ".join(f"{n} in {_the(i)}" for i, n in enumerate(counts))
    return _worded(rng, "in each", "in each", {"kinds": kinds}, answer, len(scenes))


def ask_common(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """What do both have in common? Whole objects, or else shapes, or nothing."""
    if len(scenes) != 2:
        return None
    one, other = scenes
    names = [name_of(t) for t in one.objects if t.kind in {o.kind for o in other.objects}]
    shapes = [t.shape for t in one.objects if t.shape in {o.shape for o in other.objects}]
    both = list(dict.fromkeys(names or shapes))
    if len(both) > 3 or len(names) != len(set(names)):
        return None
    if not both and {t.colour for t in one.objects} & {t.colour for t in other.objects}:
        return None  # a colour in common is something, too
    answer = f"Both have {listing([an(noun) for noun in both])}." if both else "Nothing."
    return _worded(rng, "in common", "in common", {}, answer)


def ask_both(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """Do both have a star? Is there one in either? Has neither one? Yes as often as no."""
    sense = rng.choice(("both have", "both have", "either has", "neither has"))
    if len(scenes) != 2:
        return None
    wanted = rng.random() < 0.5
    nouns = [noun for s in scenes for t in s.objects for noun in _nouns(t)]
    nouns += [rng.choice(SHAPES), f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}"]
    rng.shuffle(nouns)
    for noun in nouns:
        has = [any(noun in _nouns(t) for t in s.objects) for s in scenes]
        truth = {"both have": all(has), "either has": any(has), "neither has": not any(has)}[sense]
        if truth == wanted:
            slots = {"one": an(noun), "thing": noun, "kinds": plural(noun)}
            return _worded(rng, "both or neither", sense, slots, "yes" if truth else "no")
    return None


def ask_which_shows(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """First or second picture: where is the square? The phrase means one object of one picture only."""
    i = rng.randrange(len(scenes))
    if not scenes[i].objects or len(scenes) != 2:
        return None
    thing = rng.choice(scenes[i].objects)
    phrase = refer(rng, scenes[i], thing, rng.choice(("shape", "both", "colour")), plain=True)
    if not phrase:
        return None
    rest = [t for j, s in enumerate(scenes) if j != i for t in s.objects]
    words = phrase.split()[1:]
    if any(t.shape in words and (len(words) == 1 or t.colour in words) for t in rest):
        return None
    if words[-1] not in SHAPES and any(t.colour in words for t in rest):
        return None
    return _worded(rng, "which one shows", "which one shows", {"a": phrase}, _the(i))


def ask_same_or_different(rng: Random, edit: Edit) -> Ask:
    """Same or different?"""
    answer = "same" if edit[2] == "nothing" else "different"
    return _worded(rng, "same or different", "same or different", {}, answer)


def ask_change(rng: Random, edit: Edit) -> Ask:
    """What is missing, what is new, what changed? The sentence of the change, whatever it is called."""
    kind = edit[2]
    senses = {"disappeared": ("gone", "gone", "changed"), "appeared": ("added", "added", "changed")}
    sense = rng.choice(senses.get(kind, ("gone", "added", "changed") if kind == "nothing" else ("changed",)))
    return _worded(rng, f"change: {kind}", sense, {}, edit[3])


COMPARISONS: dict[str, tuple[Callable[[Random, Sequence[Scene]], Ask | None], float]] = {
    "bigger across": (ask_bigger_across, 2.0), "fewer": (ask_fewer, 1.5), "emptier": (ask_emptier, 0.8),
    "altogether": (ask_altogether, 1.6), "in each": (ask_in_each, 1.4), "in common": (ask_common, 1.2),
    "both or neither": (ask_both, 2.4), "which one shows": (ask_which_shows, 1.4),
}  # fmt: skip
"""Askers of two or three scenes, and how often each is drawn."""
