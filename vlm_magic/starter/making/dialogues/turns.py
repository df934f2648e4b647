"""What a conversation is made of, and how one question is worded with its pictures at their place.

A `Dialogue` is a list of turns; a turn's parts are texts and pictures in order, so that a picture may stand
before, in the middle of or after the words. Pictures come from a `Deck`, which draws fresh ones or deals
stored ones. Neighbours: `words/grammar` words, `dialogues`, `talking` and `few_shots` build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from vlm_magic.starter.making.asking.pairs import marks
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.words.grammar import MARK, roughen, unfold
from vlm_magic.starter.making.world.charts import Chart, plan_chart
from vlm_magic.starter.making.world.edits import CHANGES, Edit, plan_edit
from vlm_magic.starter.making.world.outside import Outside, plan_outside
from vlm_magic.starter.making.world.scenes import Scene, plan_odd, plan_scene

__all__ = ["Deck", "Dialogue", "FreshDeck", "Part", "Turn", "single_turn", "to_parts", "word"]

Part = str | int
"""A text, or a picture by its number in the dialogue's `pictures`."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a person says, and the right answer."""

    parts: tuple[Part, ...]
    answer: str
    skill: str


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation with the truth of its pictures."""

    turns: tuple[Turn, ...]
    pictures: tuple[Scene | Chart | Outside, ...] = ()
    handles: tuple[int, ...] = field(default=())
    """What the deck calls the pictures."""
    system: str = ""


class Deck(Protocol):
    """Where pictures come from; a handle is the deck's own number for a picture."""

    def scene(self, rng: Random) -> tuple[Scene, int]:
        """Some scene."""

    def chart(self, rng: Random) -> tuple[Chart, int]:
        """Some bar chart."""

    def edit(self, rng: Random) -> tuple[Edit, tuple[int, int]]:
        """A scene, its edited copy, the kind of change and its sentence."""

    def any_edit(self, rng: Random) -> tuple[Edit, tuple[int, int]]:
        """The same, of any kind of change."""

    def odd(self, rng: Random) -> tuple[Scene, int]:
        """A scene one object of which differs from the others."""

    def outside(self, rng: Random) -> tuple[Outside, int]:
        """A picture outside the small world."""


@dataclass(slots=True)
class FreshDeck:
    """Draws new pictures; handles count from 0."""

    most: int = 4
    """Objects on a scene at most."""
    _next: int = 0

    def _handle(self) -> int:
        self._next += 1
        return self._next - 1

    def scene(self, rng: Random) -> tuple[Scene, int]:
        """A new scene of one to `most` objects."""
        return plan_scene(rng, n_objects=rng.randint(1, self.most)), self._handle()

    def chart(self, rng: Random) -> tuple[Chart, int]:
        """A new chart of two to four bars."""
        return plan_chart(rng, n_bars=rng.randint(2, 4)), self._handle()

    def edit(self, rng: Random) -> tuple[Edit, tuple[int, int]]:
        """A new pair."""
        return plan_edit(rng, most=min(self.most, 3)), (self._handle(), self._handle())

    def any_edit(self, rng: Random) -> tuple[Edit, tuple[int, int]]:
        """A new pair, of any kind of change."""
        kind = rng.choice(tuple(CHANGES))
        return plan_edit(rng, most=min(self.most, 3), kind=kind), (self._handle(), self._handle())

    def odd(self, rng: Random) -> tuple[Scene, int]:
        """A new scene one object of which differs from the others."""
        return plan_odd(rng), self._handle()

    def outside(self, rng: Random) -> tuple[Outside, int]:
        """A new picture outside the small world."""
        return plan_outside(rng), self._handle()


_LEADS = (
    f"Look at {MARK}.", f"Here is [a picture|my drawing|my picture|an image|a photo|the picture]: {MARK}",
    f"In {MARK},",
    f"This is {MARK}.", f"[Picture|Image|The picture|Photo]: {MARK}", f"See {MARK}", f"I drew {MARK}.",
    f"Consider {MARK}.",
    f"[Take a look|Have a look] at {MARK}.", f"Given {MARK}:", f"For {MARK}:", f"About {MARK}:",
    f"Question about {MARK}:", f"{MARK}:",
    f"Look at this: {MARK}", f"[I have|We have|Here is|Here you see] {MARK}.",
    f"Instruction: Provide an answer to the question. {MARK} Question:",
    f"Use {MARK} to answer.", f"On {MARK},", f"Look at this [picture|image|photo] {MARK} and answer:",
)  # fmt: skip
_TAILS = (
    f"[Look at|See|Here is|It is about|I mean|Picture:|Image:|The picture is|This is the picture:] {MARK}",
    f"{MARK}",
)
_PAIR_LEADS = (
    "Here are [two|2] [pictures|images|photos]: <marks>.", "Look at <marks>.", "<marks>.", "Compare <marks>.",
    "Given <marks>:",
    f"Picture 1: {MARK} Picture 2: {MARK}", f"Image 1: {MARK} Image 2: {MARK}",
    f"The first: {MARK} The second: {MARK}",
    "[These are|I have|We have] <marks>.", "In <marks>:", f"First picture: {MARK} Second picture: {MARK}",
)  # fmt: skip


_THREE_LEADS = ("Here are three pictures: <marks>.", "Look at <marks>.", "<marks>:")
_INSIDE = {"in": f" [in|in|in|on] {MARK}", "pic": MARK, "cin": f" in {MARK}", "chart": MARK}
"""Slots that hold the picture itself instead of words for it."""


def word(rng: Random, ask: Ask, n_new: int, *, orders: str = "any") -> str:
    """Word a question, with a `MARK` for each of the `n_new` pictures that come with it.

    Args:
        rng: Chooses the wording and the order.
        ask: What to ask.
        n_new: How many pictures the turn brings.
        orders: `first` puts pictures before the words, `any` anywhere.
    """
    plain = roughen(rng, unfold(rng, ask.pattern, ask.slots))
    if n_new == 0 or MARK in ask.pattern:
        return plain
    order = rng.random() if orders == "any" else 0.0
    if order < 0.35:
        block = marks(rng, n_new) if n_new == 3 else MARK * n_new
        return f"{unfold(rng, block)} {plain}"
    return _word_one(rng, ask, plain, order) if n_new == 1 else _word_several(rng, plain, n_new, order)


def _word_several(rng: Random, plain: str, n_new: int, order: float) -> str:
    """Several pictures after the words, or introduced before them."""
    block = marks(rng, n_new)
    if order < 0.5:
        return f"{plain} {unfold(rng, block)}"
    lead = rng.choice(_PAIR_LEADS if n_new == 2 else _THREE_LEADS)
    return f"{unfold(rng, lead, {'marks': block})} {plain}"


def _word_one(rng: Random, ask: Ask, plain: str, order: float) -> str:
    """One picture in the middle of the words, after them, or introduced before them."""
    places = [name for name in _INSIDE if f"<{name}>" in ask.pattern.replace("<Pic>", "<pic>")]
    if order >= 0.55 and places and not any(name in ask.slots for name in places):
        text = unfold(rng, ask.pattern, {**ask.slots, **_INSIDE})
        if text.count(MARK) == 1:
            return roughen(rng, text)
    if order < 0.62:
        return f"{plain} {unfold(rng, rng.choice(_TAILS) if rng.random() < 0.4 else MARK)}"
    lead = unfold(rng, rng.choice(_LEADS))
    if lead.endswith(",") or rng.random() < 0.2:
        plain = plain[:1].lower() + plain[1:]
    return f"{lead} {plain}"


def to_parts(text: str, first: int = 0) -> tuple[Part, ...]:
    """Split a wording at its marks; pictures are numbered from `first`."""
    parts: list[Part] = []
    for i, piece in enumerate(text.split(MARK)):
        if i:
            parts.append(first + i - 1)
        if piece.strip():
            parts.append(piece.strip())
    return tuple(parts)


def single_turn(
    rng: Random,
    ask: Ask,
    pictures: Sequence[Scene | Chart | Outside],
    handles: Sequence[int],
    orders: str = "any",
) -> Dialogue:
    """A dialogue of one question."""
    turn = Turn(to_parts(word(rng, ask, len(pictures), orders=orders)), ask.answer, ask.skill)
    return Dialogue((turn,), tuple(pictures), tuple(handles))
