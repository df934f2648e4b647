"""What the card measures: a builder of dialogues and a figure to reach for each skill, in `SKILLS`.

Knows nothing of models. Neighbours: the askers and `dialogues` supply the questions, `evaluate` asks them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.chart_askers import CHART_ASKERS
from vlm_magic.starter.making.asking.pairs import PAIR_ASKERS, ask_difference, ask_same
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.dialogues.dialogues import conversation, few_shot, talk
from vlm_magic.starter.making.dialogues.turns import Dialogue, FreshDeck, Turn, single_turn
from vlm_magic.starter.making.words.grammar import spell, unfold
from vlm_magic.starter.making.words.heldout import HELD_OUT
from vlm_magic.starter.making.world.charts import make_chart, make_plot
from vlm_magic.starter.making.world.edits import PLAIN_CHANGES, Edit, plan_edit
from vlm_magic.starter.making.world.scenes import Scene, plan_scene

__all__ = ["SKILLS", "Build", "Skill"]

Build = Callable[[Random], Dialogue | None]


@dataclass(frozen=True, slots=True)
class Skill:
    """One line of the card.

    Attributes:
        name: As the card says it.
        target: Figure to reach to be claimed.
        build: A dialogue from random numbers; None to try again.
        judged: The skills of the turns that count; empty for the last turn.
    """

    name: str
    target: float
    build: Build
    judged: tuple[str, ...] = ()


def scene_skill(
    asker: str, skill: str | None = None, *, most: int = 3, draw: Callable[[Random], Scene] | None = None
) -> Build:
    """One question of one asker (and one of its skills), on a scene of one to `most` objects."""

    def build(rng: Random) -> Dialogue | None:
        scene = draw(rng) if draw else plan_scene(rng, n_objects=rng.randint(1, most))
        ask = ASKERS[asker](rng, scene)
        if ask is None or (skill or ask.skill) != ask.skill:
            return None
        return single_turn(rng, ask, (scene,), (0,))

    return build


def chart_skill(asker: str) -> Build:
    """One question about a chart of two to four bars, drawn by matplotlib."""

    def build(rng: Random) -> Dialogue | None:
        chart = make_chart(rng.getrandbits(40) + (1 << 41), n_bars=rng.randint(2, 4))
        ask = CHART_ASKERS[asker](rng, chart)
        return single_turn(rng, ask, (chart,), (0,)) if ask else None

    return build


def pair_skill(asker: str) -> Build:
    """One question about two scenes of up to three objects."""

    def build(rng: Random) -> Dialogue | None:
        scenes = [plan_scene(rng, n_objects=rng.randint(1, 3)) for _ in range(2)]
        ask = PAIR_ASKERS[asker](rng, scenes)
        return single_turn(rng, ask, scenes, (0, 1)) if ask else None

    return build


def edit_skill(asker: Callable[[Random, Edit], Ask], *kinds: str) -> Build:
    """One question about a scene and its edited copy."""

    def build(rng: Random) -> Dialogue | None:
        edit = plan_edit(rng, most=3, kind=rng.choice(kinds))
        if max(len(edit[0].objects), len(edit[1].objects)) > 3:
            return None
        return single_turn(rng, asker(rng, edit), edit[:2], (0, 1))

    return build


def talk_skill(rng: Random) -> Dialogue | None:
    """Plain talk and questions without a picture, one turn."""
    dialogue = talk(rng, FreshDeck())
    return replace(dialogue, turns=dialogue.turns[:1], system="") if dialogue else None


def few_shot_skill(rng: Random) -> Dialogue | None:
    """Examples and question written down in one turn, as a person does."""
    dialogue = few_shot(rng, FreshDeck(most=3))
    return dialogue if dialogue and len(dialogue.turns) == 1 else None


def conversation_skill(rng: Random) -> Dialogue | None:
    """Several turns, the model's own answers in the history."""
    dialogue = conversation(rng, FreshDeck(most=3))
    return replace(dialogue, system="") if dialogue else None


_ASKER_OF = {"count all": "count", "bigger yes": "bigger"}


def held_out_skill(rng: Random) -> Dialogue | None:
    """A phrasing that no template contains."""
    name = rng.choice(tuple(HELD_OUT))
    pattern = rng.choice(HELD_OUT[name])
    if name == "no picture":
        return Dialogue((Turn((pattern,), "There is no picture.", name),))
    scene = plan_scene(rng, n_objects=rng.randint(1, 3))
    ask = ASKERS[_ASKER_OF.get(name, name)](rng, scene)
    if ask is None or not _fits_phrasing(name, pattern, ask):
        return None
    slots = {**ask.slots, "er": "bigger"}
    text = spell(rng, unfold(rng, pattern, slots))
    return Dialogue((Turn((0, text), ask.answer, f"held out: {name}"),), (scene,), (0,))


def _fits_phrasing(name: str, pattern: str, ask: Ask) -> bool:
    """Whether a question can be put in a held-out phrasing: same kind of answer, all slots filled."""
    yes_or_no = ask.answer in ("yes", "no")
    if yes_or_no != (name in ("exist", "relation", "bigger yes")) or "of extreme" in ask.skill:
        return False
    if name in ("count", "count all") and (name == "count all") != (ask.skill == "count all"):
        return False
    if ask.slots.get("er", "").startswith("[smaller"):  # the phrasings say "bigger"
        return False
    needed = [
        s for s in ("a", "b", "kinds", "one", "at", "colour", "ext", "extadj") if f"<{s}>" in pattern.lower()
    ]
    return all(s in ask.slots for s in needed)


def plot_skill(rng: Random) -> Dialogue | None:
    """Any short question on a scene that matplotlib drew."""
    scene = make_plot(rng.getrandbits(40) + (1 << 41), n_objects=rng.randint(1, 3))
    ask = ASKERS[
        rng.choice(("colour", "shape", "count", "exist", "where", "size", "relation", "extreme", "list"))
    ](rng, scene)
    return single_turn(rng, ask, (scene,), (0,)) if ask else None


SKILLS: tuple[Skill, ...] = (
    Skill("colour", 0.98, scene_skill("colour", "colour")),
    Skill("shape", 0.98, scene_skill("shape", "shape")),
    Skill("background", 0.98, scene_skill("background")),
    Skill("size", 0.98, scene_skill("size")),
    Skill("bigger", 0.98, scene_skill("bigger")),
    Skill("exist", 0.98, scene_skill("exist")),
    Skill("missing", 0.98, scene_skill("missing")),
    Skill("where", 0.98, scene_skill("where")),
    Skill("extreme", 0.98, scene_skill("extreme")),
    Skill("count all", 0.98, scene_skill("count", "count all")),
    Skill("relation", 0.98, scene_skill("relation")),
    Skill("left or right", 0.98, scene_skill("left or right")),
    Skill("above or below", 0.98, scene_skill("above or below")),
    Skill("relative place", 0.98, scene_skill("relative place")),
    Skill("look-up", 0.98, pair_skill("look-up")),
    Skill("which has more", 0.98, pair_skill("which has more")),
    Skill("which has it", 0.98, pair_skill("which has it")),
    Skill("talk and no picture", 1.0, talk_skill),
    Skill("count shape", 0.97, scene_skill("count", "count shape")),
    Skill("count colour", 0.97, scene_skill("count", "count colour")),
    Skill("count kind", 0.97, scene_skill("count", "count kind")),
    Skill("what at", 0.97, scene_skill("what at")),
    Skill("colour of extreme", 0.97, scene_skill("colour", "colour of extreme")),
    Skill("shape of extreme", 0.97, scene_skill("shape", "shape of extreme")),
    Skill("follow-up", 0.97, conversation_skill, ("follow-up",)),
    Skill("later turn", 0.97, conversation_skill, ("later turn",)),
    Skill("later picture", 0.97, conversation_skill, ("later picture",)),
    Skill("held-out wordings", 0.97, held_out_skill),
    Skill("few-shot", 0.97, few_shot_skill),
    Skill("drawn by matplotlib", 0.97, plot_skill),
    Skill("list", 0.95, scene_skill("list")),
    Skill("caption", 0.95, scene_skill("caption")),
    Skill("story", 0.95, scene_skill("story")),
    Skill("same", 0.95, edit_skill(ask_same, "nothing", "nothing", "nothing", "colour", "shape", "appeared",
    "disappeared", "background")),
    Skill("difference", 0.95, edit_skill(ask_difference, *PLAIN_CHANGES)),
    Skill("bars", 0.95, chart_skill("bars")),
    Skill("extreme bar", 0.95, chart_skill("extreme bar")),
    Skill("taller", 0.95, chart_skill("taller")),
    Skill("bar exist", 0.95, chart_skill("bar exist")),
    Skill("chart caption", 0.95, chart_skill("chart caption")),
)  # fmt: skip
