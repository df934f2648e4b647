"""What askers share: the question they return, phrases that mean one object, names of places, borders.

Each asker takes the truth and returns an `Ask`, or None where the skill has nothing to ask or the answer
would lie near a border (nearly the same height, nearly the same size, nearly in the next part of the
picture). Answers have one form: a word or a phrase in lower case, or a sentence with a capital letter and a
full stop.

Knows nothing of models. Neighbours: `words/wordings` has the patterns, `askers` and
`pairs` the questions about one picture and about several; `dialogues/` puts questions and pictures together.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from vlm_magic.starter.making.world.naming import an, listing, name_of
from vlm_magic.starter.making.world.palette import COLOURS, SHAPES
from vlm_magic.starter.making.world.scenes import RATIO, Scene
from vlm_magic.starter.making.world.things import Thing

__all__ = [
    "BIG",
    "OTHER_THINGS",
    "RATIO",
    "SIDE_MARGIN",
    "SMALL",
    "Ask",
    "absent",
    "caption_of",
    "place_of",
    "refer",
]

PLACE_MARGIN = 0.045  # how far a centre stays from the lines between the nine parts
SIDE_MARGIN = 0.10  # least distance for "left of" and "above"
SMALL, BIG = 0.17, 0.27  # sizes at most and at least
OTHER_THINGS = (
    "dog", "cat", "car", "house", "tree", "bird", "person", "man", "woman", "child", "flower", "boat",
    "bicycle", "horse",
    "fish", "apple", "banana", "table", "chair", "cup", "book", "train", "sun", "moon", "cloud", "hat",
    "phone", "computer",
    "heart", "hexagon", "arrow", "letter", "door", "window", "ship", "plane", "bus", "cow", "face", "mouse",
    "elephant",
    "pizza", "clock", "river", "mountain", "lamp", "spoon", "bottle", "robot", "dragon",
)  # fmt: skip
_SYNONYMS = {
    "circle": ("disc", "disk", "ball", "dot", "round shape"), "square": ("box", "rectangle"),
    "cross": ("plus", "plus sign"),
    "diamond": ("rhombus",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One question and its answer, not yet worded.

    Attributes:
        skill: Under which name it is counted.
        pattern: A pattern of `grammar`.
        slots: What fills it.
        answer: The right answer, exactly.
        subject: The object it is about, for a later "it".
    """

    skill: str
    pattern: str
    slots: dict[str, str]
    answer: str
    subject: Thing | None = None
    sense: str = ""
    """Which way it is asked, where a skill has several ("smaller across")."""


def refer(rng: Random, scene: Scene, thing: Thing, by: str = "any", *, plain: bool = False) -> str | None:
    """A phrase that means this object and no other, or None.

    Args:
        rng: Chooses among the phrases that work.
        scene: The other objects.
        thing: The one meant.
        by: `shape`, `colour`, `both` or `any` of them.
        plain: Without synonyms ("the circle", never "the disc"), as answers need it.
    """
    shapes = sum(t.shape == thing.shape for t in scene.objects)
    colours = sum(t.colour == thing.colour for t in scene.objects)
    kinds = sum(t.kind == thing.kind for t in scene.objects)
    options = []
    if by in ("shape", "any") and shapes == 1:
        word = thing.shape
        if not plain and rng.random() < 0.05 and word in _SYNONYMS:
            word = rng.choice(_SYNONYMS[word])
        options += [f"the {word}"] * 3
    if by in ("colour", "any") and colours == 1:
        noun = (
            "one"
            if rng.random() < 0.35
            else rng.choice(("shape", "object", "thing", "figure", "shape", "object"))
        )
        options.append(f"the {thing.colour} {noun}")
    if by in ("both", "any") and kinds == 1:
        options.append(f"the {name_of(thing)}")
    return rng.choice(options) if options else None


def place_of(x: float, y: float) -> str | None:
    """Which of the nine parts of a picture a point lies in, or None near a border."""
    if any(abs(v - line) < PLACE_MARGIN for v in (x, y) for line in (1 / 3, 2 / 3)):
        return None
    column, row = int(x * 3), int(y * 3)
    if row == 1:
        return ("on the left", "in the centre", "on the right")[column]
    vertical = "top" if row == 0 else "bottom"
    return (f"in the {vertical} left", f"at the {vertical}", f"in the {vertical} right")[column]


def absent(rng: Random, scene: Scene) -> tuple[str, str] | None:
    """(noun, phrase with 'the') of something that is not there; often something nearly there."""
    draw = rng.random()
    if draw < 0.12:
        noun = rng.choice(OTHER_THINGS)
        return noun, f"the {noun}"
    shapes, colours = {t.shape for t in scene.objects}, {t.colour for t in scene.objects}
    if draw < 0.55:
        free = [s for s in SHAPES if s not in shapes]
        if not free:
            return None
        noun = rng.choice(free)
        return noun, f"the {noun}"
    if draw < 0.85 or not scene.objects:
        near = [(c, s) for s in sorted(shapes) for c in sorted(colours)] if rng.random() < 0.6 else []
        loose = (rng.choice(COLOURS), rng.choice(sorted(shapes) or SHAPES))
        other = (rng.choice(sorted(colours) or COLOURS), rng.choice(SHAPES))
        pairs = [*near, loose, other]
        kinds = {t.kind for t in scene.objects}
        pairs = [p for p in pairs if p not in kinds]
        if not pairs:
            return None
        noun = " ".join(rng.choice(pairs))
        return noun, f"the {noun}"
    colour = rng.choice([c for c in COLOURS if c not in colours])
    noun = f"{colour} shape"
    return noun, f"the {colour} {rng.choice(('one', 'shape', 'thing', 'object'))}"


def caption_of(scene: Scene, *, background: bool) -> str | None:
    """The listing of a scene in reading order, or None where that order is not clear."""
    things = scene.objects
    if len(things) > 4:
        return None
    for one, other in pairwise(things):
        if 0.02 < abs(one.x - other.x) < 0.08:
            return None
    ground = (
        f" on a{'n' if scene.background[0] in 'aeiou' else ''} {scene.background} background"
        if background
        else ""
    )
    if not things:
        return (
            f"{an(scene.background)[0].upper()}{an(scene.background)[1:]} background."
            if background
            else "Nothing."
        )
    text = listing([an(name_of(t)) for t in things])
    return text[0].upper() + text[1:] + ground + "."
