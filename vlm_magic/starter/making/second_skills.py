"""What the card measures of the second schooling: skills, doubt, and phrasings that training never saw.

Neighbours: `skills` has those of the first schooling; `dialogues/second` builds, `evaluate` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from vlm_magic.starter.making.asking.comparisons import COMPARISONS, ask_change, ask_same_or_different
from vlm_magic.starter.making.asking.doubts import ask_no_answer, ask_outside, ask_plain
from vlm_magic.starter.making.asking.forms import ask_fields, ask_objects
from vlm_magic.starter.making.asking.neighbours import BAR_ASKERS, NEIGHBOUR_ASKERS
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.dialogues.second import SECOND_BUILDERS
from vlm_magic.starter.making.dialogues.turns import Dialogue, FreshDeck, Turn, single_turn
from vlm_magic.starter.making.skills import Build, Skill
from vlm_magic.starter.making.words.grammar import spell, unfold
from vlm_magic.starter.making.words.heldout_second import HELD_OUT_SECOND
from vlm_magic.starter.making.world.charts import Chart, make_chart
from vlm_magic.starter.making.world.edits import CHANGES, plan_edit
from vlm_magic.starter.making.world.outside import Outside, plan_outside
from vlm_magic.starter.making.world.scenes import Scene, plan_odd, plan_plain, plan_scene

__all__ = ["SECOND_SKILLS", "held_out_of"]

Asked = tuple[Ask | None, Sequence[Scene | Chart | Outside]]
Draw = Callable[[Random], Asked]


def _one(asker: Callable[[Random, Scene], Ask | None], *, most: int = 3) -> Draw:
    def draw(rng: Random) -> Asked:
        scene = plan_scene(rng, n_objects=rng.randint(1, most))
        return asker(rng, scene), (scene,)

    return draw


def _odd(rng: Random) -> Asked:
    scene = plan_odd(rng)
    return NEIGHBOUR_ASKERS["odd one out"](rng, scene), (scene,)


def _alike(rng: Random) -> Asked:
    """All the same colour or shape? Half of the scenes are."""
    scene = plan_scene(rng, n_objects=rng.choice((2, 3)), distinct=False)
    return NEIGHBOUR_ASKERS["one colour"](rng, scene), (scene,)


def _several(name: str, *numbers: int) -> Draw:
    def draw(rng: Random) -> Asked:
        scenes = [plan_scene(rng, n_objects=rng.randint(1, 3)) for _ in range(rng.choice(numbers))]
        return COMPARISONS[name][0](rng, scenes), scenes

    return draw


def _changed(asker: Callable[..., Ask | None], kinds: Sequence[str] = tuple(CHANGES)) -> Draw:
    def draw(rng: Random) -> Asked:
        edit = plan_edit(rng, most=3, kind=rng.choice(kinds))
        few = max(len(edit[0].objects), len(edit[1].objects)) <= 3
        return (asker(rng, edit) if few else None), edit[:2]

    return draw


def _chart(asker: Callable[[Random, Chart], Ask | None]) -> Draw:
    def draw(rng: Random) -> Asked:
        chart = make_chart(rng.getrandbits(40) + (1 << 41), n_bars=rng.randint(2, 4))
        return asker(rng, chart), (chart,)

    return draw


def _outside(rng: Random) -> Asked:
    outside = plan_outside(rng)
    return ask_outside(rng, outside), (outside,)


def _plain(rng: Random) -> Asked:
    scene = plan_plain(rng)
    return ask_plain(rng, scene), (scene,)


def _no_answer(rng: Random) -> Asked:
    return _chart(ask_no_answer)(rng) if rng.random() < 0.2 else _one(ask_no_answer)(rng)


def _common(rng: Random) -> Asked:
    if rng.random() < 0.5:
        return _several("in common", 2)(rng)
    return _changed(lambda r, edit: COMPARISONS["in common"][0](r, edit[:2]))(rng)


def single(draw: Draw) -> Build:
    """One question, its pictures anywhere among the words."""

    def build(rng: Random) -> Dialogue | None:
        ask, pictures = draw(rng)
        return single_turn(rng, ask, pictures, range(len(pictures))) if ask else None

    return build


def _comes_back(rng: Random) -> Dialogue | None:
    return SECOND_BUILDERS["leaving"](rng, FreshDeck(most=3))


_NEAR = NEIGHBOUR_ASKERS
_SAME_KINDS = ("nothing", "nothing", "nothing", "nothing", *CHANGES)
SECOND_SKILLS: tuple[Skill, ...] = (
    Skill("bigger across pictures", 0.97, single(_several("bigger across", 2, 2, 3))),
    Skill("fewer and most", 0.97, single(_several("fewer", 2, 3))),
    Skill("emptier", 0.97, single(_several("emptier", 2))),
    Skill("altogether", 0.97, single(_several("altogether", 2, 2, 3))),
    Skill("in each", 0.97, single(_several("in each", 2, 2, 3))),
    Skill("in common", 0.97, single(_common)),
    Skill("both or neither", 0.97, single(_several("both or neither", 2))),
    Skill("which one shows it", 0.97, single(_several("which one shows", 2))),
    Skill("same or different", 0.97, single(_changed(ask_same_or_different, _SAME_KINDS))),
    Skill("gone, new, changed", 0.97, single(_changed(ask_change))),
    Skill("neighbour", 0.97, single(_one(_NEAR["neighbour"]))),
    Skill("beside", 0.97, single(_one(_NEAR["beside"]))),
    Skill("all the same", 0.97, single(_alike)),
    Skill("how many colours", 0.97, single(_one(_NEAR["how many colours"]))),
    Skill("odd one out", 0.97, single(_odd)),
    Skill("which is higher", 0.97, single(_one(_NEAR["which is higher"]))),
    Skill("best bar", 0.97, single(_chart(BAR_ASKERS["best bar"]))),
    Skill("order of bars", 0.97, single(_chart(BAR_ASKERS["order of bars"]))),
    Skill("pictures outside", 0.90, single(_outside)),
    Skill("plain shape", 0.98, single(_plain)),
    Skill("no answer", 0.90, single(_no_answer)),
    Skill("comes back", 0.95, _comes_back, ("comes back",)),
    Skill("word as JSON", 0.97, single(_one(ask_fields))),
    Skill("objects as JSON", 0.95, single(_one(ask_objects, most=4))),
)

_DRAWS: dict[str, Draw] = {
    "bigger across": _several("bigger across", 2), "smaller across": _several("bigger across", 2),
    "biggest across": _several("bigger across", 3),
    "fewer": _several("fewer", 2), "most": _several("fewer", 3),
    "emptier": _several("emptier", 2), "more crowded": _several("emptier", 2),
    "altogether": _several("altogether", 2), "in each": _several("in each", 2), "in common": _common,
    "both have": _several("both or neither", 2), "neither has": _several("both or neither", 2),
    "which one shows": _several("which one shows", 2),
    "same or different": _changed(ask_same_or_different, _SAME_KINDS),
    "gone": _changed(ask_change, ("disappeared",)), "added": _changed(ask_change, ("appeared",)),
    "changed": _changed(ask_change), "one colour": _alike, "odd one out": _odd,
    "what is beside": _one(_NEAR["beside"]), "how many colours": _one(_NEAR["how many colours"]),
    "winning bar": _chart(BAR_ASKERS["best bar"]), "losing bar": _chart(BAR_ASKERS["best bar"]),
    "order of bars": _chart(BAR_ASKERS["order of bars"]), "outside": _outside, "unknown shape": _outside,
    "no answer": _one(ask_no_answer), "objects as JSON": _one(ask_objects), "word as JSON": _one(ask_fields),
    **{f"what is {side}": _one(_NEAR["neighbour"]) for side in ("below", "above", "left", "right")},
    **dict.fromkeys(("higher", "lower", "further left", "further right"), _one(_NEAR["which is higher"])),
}  # fmt: skip


def held_out_of(sense: str) -> Skill:
    """The held-out phrasings of one sense as a skill of their own: the pictures, then the words."""

    def build(rng: Random) -> Dialogue | None:
        ask, pictures = _DRAWS[sense](rng)
        pattern = rng.choice(HELD_OUT_SECOND[sense])
        if ask is None or ask.sense != sense:
            return None
        if "<thing>s" in pattern and ask.slots["thing"].endswith("s"):
            return None  # "crosss"
        text = spell(rng, unfold(rng, pattern, ask.slots))
        turn = Turn((*range(len(pictures)), text), ask.answer, sense)
        return Dialogue((turn,), tuple(pictures), tuple(range(len(pictures))))

    return Skill(f"held out: {sense}", 0.95, build)
