"""Conversations: questions, pictures and answers in the order in which a person would bring them.

`make_dialogue(seed)` makes any of them; `BUILDERS` lists the kinds with their shares. Knows nothing of models
and tokens. Neighbours: `turns` words one turn, `asking/` asks, `talking` and `few_shots` build two kinds of
their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.chart_askers import CHART_ASKERS
from vlm_magic.starter.making.asking.pairs import (
    PAIR_ASKERS,
    ask_difference,
    ask_kind_of_change,
    ask_same,
    ask_where_changed,
)
from vlm_magic.starter.making.asking.questions import Ask, refer
from vlm_magic.starter.making.dialogues.few_shots import few_shot
from vlm_magic.starter.making.dialogues.talking import NO_PICTURE, SMALL_TALK, any_ask, system_text, talk
from vlm_magic.starter.making.dialogues.turns import (
    Deck,
    Dialogue,
    FreshDeck,
    Turn,
    single_turn,
    to_parts,
    word,
)
from vlm_magic.starter.making.words.grammar import MARK, roughen, unfold
from vlm_magic.starter.making.world.edits import Edit
from vlm_magic.starter.making.world.palette import COLOURS, SHAPES
from vlm_magic.starter.making.world.scenes import Scene

__all__ = ["BUILDERS", "conversation", "few_shot", "make_dialogue", "talk"]


def make_dialogue(seed: int) -> Dialogue:
    """Make the dialogue of a seed; its pictures are drawn when asked for."""
    rng = Random(seed)
    while True:
        name = rng.choices(tuple(BUILDERS), tuple(weight for _, weight in BUILDERS.values()))[0]
        if dialogue := BUILDERS[name][0](rng, FreshDeck()):
            return dialogue


_IT = {
    "colour": ("[And |]what colour is it?", "[And |]its colour?", "Which colour does it have?"),
    "shape": ("[And |]what shape is it?", "[And |]its shape?", "Which shape does it have?", "What is it?"),
    "where": (
        "[And |]where is it?",
        "Where is it<in>?",
        "[And |]where exactly[| is it]?",
        "[And |]its position?",
        "Where can I find it?",
    ),
    "size": (
        "[And |]is it big or small?",
        "[And |]what size is it?",
        "[And |]how big is it?",
        "Is it small or big?",
    ),
}
_NEXT = (
    "[And|What about|How about|Now|And what about|And how about] <a>?",
    "And <a>?",
    "The same for <a>[.|, please.]",
    "<A>?",
)
_NEXT_SKILLS = {"colour": "shape", "where": "any", "size": "any", "shape": "colour"}


def follow_up(rng: Random, scene: Scene, last: Ask) -> Ask | None:
    """A question that only makes sense after the last one: 'where is it?', 'and the square?'."""
    thing = last.subject
    if thing is None:
        return None
    if rng.random() < 0.55:
        skill = rng.choice([s for s in _IT if s != last.skill and s not in _known(last)])
        truth = ASKERS[skill](rng, replace(scene, objects=(thing,)))
        if truth is None:
            return None
        return replace(truth, skill="follow-up", pattern=rng.choice(_IT[skill]), slots={}, subject=thing)
    if last.skill not in _NEXT_SKILLS:
        return None
    for other in rng.sample(scene.objects, len(scene.objects)):
        if other is thing:
            continue
        asked = ASKERS[last.skill](rng, replace(scene, objects=(other,)))

        phrase = refer(rng, scene, other, _NEXT_SKILLS[last.skill], plain=True)
        if asked and phrase and asked.skill == last.skill:
            return replace(
                asked, skill="follow-up", pattern=rng.choice(_NEXT), slots={"a": phrase}, subject=other
            )
    return None


def _known(last: Ask) -> tuple[str, ...]:
    """What the last question or answer already gave away."""
    words = last.answer + " " + " ".join(last.slots.values())
    known = []
    if any(c in words for c in COLOURS):
        known.append("colour")
    if any(s in words for s in SHAPES):
        known.append("shape")
    return tuple(known)


_STARTS = (
    "colour", "shape", "where", "size", "extreme", "count", "exist", "list", "background", "relation",
    "bigger",
    "what at", "missing", "relative place", "caption", "left or right",
)  # fmt: skip


@dataclass(slots=True)
class _Thread:
    """A conversation under way."""

    rng: Random
    deck: Deck
    turns: list[Turn] = field(default_factory=list)
    pictures: list[Scene] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    last: Ask | None = None
    edit: tuple[Edit, tuple[int, int]] | None = None

    def open(self) -> None:
        """Sometimes a greeting, or a question before there is a picture."""
        if self.rng.random() < 0.1:
            self.chat()
        if self.rng.random() < 0.05:
            ask = any_ask(self.rng)
            text = roughen(self.rng, unfold(self.rng, ask.pattern, ask.slots))
            self.turns.append(Turn((text,), NO_PICTURE, "no picture"))

    def chat(self) -> None:
        """A turn of plain talk; the last question stays the last."""
        pattern, answer = self.rng.choice(SMALL_TALK[:6])
        self.turns.append(Turn((unfold(self.rng, pattern),), answer, "talk"))

    def add(self, ask: Ask, n_new: int, skill: str) -> None:
        """A question, with the pictures that were appended for it."""
        parts = to_parts(word(self.rng, ask, n_new), len(self.pictures) - n_new)
        self.turns.append(Turn(parts, ask.answer, skill))

    def show(self) -> bool:
        """A turn that brings a picture; False where nothing can be asked of it."""
        rng, n = self.rng, len(self.pictures)
        if self.edit and n < 2:
            scene, handle = self.edit[0][n], self.edit[1][n]
            assert isinstance(scene, Scene)
        else:
            scene, handle = self.deck.scene(rng)
        ask = ASKERS[rng.choice(_STARTS)](rng, scene)
        skill = "later picture" if n else ""
        if self.edit and n == 1 and rng.random() < 0.4:
            ask, skill = ask_difference(rng, self.edit[0]), ""
        if ask is None or MARK in ask.pattern:
            return False
        self.pictures.append(scene)
        self.handles.append(handle)
        self.add(ask, 1, skill or ask.skill)
        self.last = ask
        return True

    def go_on(self) -> None:
        """A turn without a new picture, or none where nothing fits."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.07:
            self.chat()
        elif len(self.pictures) == 2 and draw < 0.35:
            ask = rng.choice(tuple(PAIR_ASKERS.values()))(rng, self.pictures)
            if ask and MARK not in ask.pattern:
                self.last = None
                self.add(ask, 0, ask.skill if ask.skill == "look-up" else "later turn")
        else:
            scene = self.pictures[-1]
            ask = follow_up(rng, scene, self.last) if self.last and draw < 0.75 else None
            ask = ask or ASKERS[rng.choice(_STARTS)](rng, scene)
            if ask:
                self.last = ask
                self.add(ask, 0, ask.skill if ask.skill == "follow-up" else "later turn")


def conversation(rng: Random, deck: Deck) -> Dialogue | None:
    """Two to five turns about a picture; another may arrive, and the earlier one may be asked about again."""
    thread = _Thread(rng, deck, edit=deck.edit(rng) if rng.random() < 0.25 else None)
    thread.open()
    n_turns = rng.choice((2, 2, 3, 4, 5)) + len(thread.turns)
    while len(thread.turns) < n_turns:
        if not thread.pictures or (len(thread.pictures) < 3 and rng.random() < 0.28):
            if not thread.show():
                return None
        else:
            thread.go_on()
    return Dialogue(tuple(thread.turns), tuple(thread.pictures), tuple(thread.handles), system_text(rng))


# How often each skill is asked of one scene: what is learned last, most often.
_HARDNESS = dict.fromkeys(ASKERS, 1.0) | {
    "count": 4.0, "bigger": 2.5, "relation": 2.0, "left or right": 1.5, "above or below": 1.5,
    "relative place": 2.5, "list": 2.0, "caption": 2.0,
}  # fmt: skip


def one_scene(rng: Random, deck: Deck) -> Dialogue | None:
    """One question about one scene."""
    scene, handle = deck.scene(rng)
    ask = ASKERS[rng.choices(tuple(_HARDNESS), tuple(_HARDNESS.values()))[0]](rng, scene)
    return single_turn(rng, ask, (scene,), (handle,)) if ask else None


def one_chart(rng: Random, deck: Deck) -> Dialogue | None:
    """One question about one bar chart."""
    chart, handle = deck.chart(rng)
    ask = CHART_ASKERS[rng.choice(tuple(CHART_ASKERS))](rng, chart)
    return single_turn(rng, ask, (chart,), (handle,)) if ask else None


def some_scenes(rng: Random, deck: Deck) -> Dialogue | None:
    """One question about two scenes, now and then three."""
    drawn = [deck.scene(rng) for _ in range(2 if rng.random() < 0.88 else 3)]
    scenes = [scene for scene, _ in drawn]
    ask = PAIR_ASKERS[rng.choice(("which has more", "which has it", "look-up", "look-up"))](rng, scenes)
    return single_turn(rng, ask, scenes, [handle for _, handle in drawn]) if ask else None


def two_alike(rng: Random, deck: Deck) -> Dialogue | None:
    """One question about a scene and its edited copy."""
    edit, handles = deck.edit(rng)
    draw = rng.random()
    ask: Ask | None = ask_difference(rng, edit)
    if draw < 0.25:
        ask = ask_same(rng, edit)
    elif draw < 0.32:
        ask = ask_kind_of_change(rng, edit)
    elif draw < 0.39:
        ask = ask_where_changed(rng, edit)
    return single_turn(rng, ask, edit[:2], handles) if ask else None


BUILDERS: dict[str, tuple[Callable[[Random, Deck], Dialogue | None], float]] = {
    "one scene": (one_scene, 40.0), "one chart": (one_chart, 6.0), "some scenes": (some_scenes, 14.0),
    "two alike": (two_alike, 14.0),
    "conversation": (conversation, 16.0), "few-shot": (few_shot, 6.0), "talk": (talk, 4.0),
}  # fmt: skip
