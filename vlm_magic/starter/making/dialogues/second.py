"""Dialogues of the second schooling: comparisons, neighbours, doubt, JSON, and leaving the world for a turn.

Neighbours: `dialogues` has the builders of the first schooling; `asking/` asks, `turns` words.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.comparisons import (
    COMPARISONS,
    ask_both,
    ask_change,
    ask_common,
    ask_same_or_different,
)
from vlm_magic.starter.making.asking.doubts import ask_no_answer, ask_outside
from vlm_magic.starter.making.asking.forms import ask_fields, ask_objects
from vlm_magic.starter.making.asking.neighbours import BAR_ASKERS, NEIGHBOUR_ASKERS
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.dialogues.dialogues import follow_up
from vlm_magic.starter.making.dialogues.turns import Deck, Dialogue, Turn, single_turn, to_parts, word
from vlm_magic.starter.making.words.grammar import MARK
from vlm_magic.starter.making.world.charts import Chart
from vlm_magic.starter.making.world.outside import Outside
from vlm_magic.starter.making.world.scenes import Scene

__all__ = ["OF_THREE", "SECOND_BUILDERS", "ask_any_change", "ask_near", "leaving"]

OF_THREE = ("bigger across", "fewer", "altogether", "in each")


def comparison(rng: Random, deck: Deck) -> Dialogue | None:
    """One question that compares two or three scenes."""
    n = 3 if rng.random() < 0.35 else 2
    drawn = [deck.scene(rng) for _ in range(n)]
    scenes, handles = [scene for scene, _ in drawn], [handle for _, handle in drawn]
    names = tuple(COMPARISONS) if n == 2 else OF_THREE
    name = rng.choices(names, [COMPARISONS[name][1] for name in names])[0]
    ask = COMPARISONS[name][0](rng, scenes)
    return single_turn(rng, ask, scenes, handles) if ask else None


def ask_any_change(rng: Random, edit: tuple[Scene, Scene, str, str]) -> Ask | None:
    """A question about a scene and its changed copy."""
    draw = rng.random()
    if draw < 0.55:
        return ask_change(rng, edit)
    if draw < 0.75:
        return ask_same_or_different(rng, edit)
    return (ask_both if draw < 0.88 else ask_common)(rng, edit[:2])


def changed(rng: Random, deck: Deck) -> Dialogue | None:
    """One question about a scene and its changed copy."""
    edit, handles = deck.any_edit(rng)
    ask = ask_any_change(rng, edit)
    return single_turn(rng, ask, edit[:2], handles) if ask else None


def ask_near(rng: Random, scene: Scene) -> Ask | None:
    """One of the new questions about one scene; where one object is unlike the others, mostly about that."""
    names = ("neighbour", "neighbour", "neighbour", "beside", "beside", "one colour", "one colour",
             "how many colours", "odd one out", "which is higher", "which is higher", "behind")  # fmt: skip
    if rng.random() < 0.4:
        ask = NEIGHBOUR_ASKERS["odd one out"](rng, scene)
        if ask:
            return ask
    return NEIGHBOUR_ASKERS[rng.choice(names)](rng, scene)


def near(rng: Random, deck: Deck) -> Dialogue | None:
    """One new question about one scene or chart."""
    if rng.random() < 0.15:
        chart, handle = deck.chart(rng)
        about_bars = BAR_ASKERS[rng.choice(tuple(BAR_ASKERS))](rng, chart)
        return single_turn(rng, about_bars, (chart,), (handle,)) if about_bars else None
    scene, handle = deck.odd(rng) if rng.random() < 0.3 else deck.scene(rng)
    ask = ask_near(rng, scene)
    return single_turn(rng, ask, (scene,), (handle,)) if ask else None


def doubt(rng: Random, deck: Deck) -> Dialogue | None:
    """One question that has no answer."""
    picture: Scene | Chart | Outside
    if rng.random() < 0.7:
        outside, handle = deck.outside(rng)
        picture, ask = outside, ask_outside(rng, outside)
    else:
        picture, handle = deck.chart(rng) if rng.random() < 0.2 else deck.scene(rng)
        ask = ask_no_answer(rng, picture)
    return single_turn(rng, ask, (picture,), (handle,)) if ask else None


def in_json(rng: Random, deck: Deck) -> Dialogue | None:
    """One question that is answered in JSON."""
    scene, handle = deck.scene(rng)
    ask = (ask_fields if rng.random() < 0.5 else ask_objects)(rng, scene)
    return single_turn(rng, ask, (scene,), (handle,)) if ask else None


_STARTS = ("colour", "shape", "where", "size", "extreme", "count", "exist", "list", "background", "relation",
           "bigger", "what at", "missing", "relative place", "caption")  # fmt: skip


def leaving(rng: Random, deck: Deck) -> Dialogue | None:
    """Turns about drawn scenes with one or two about something else between, before or after."""
    plan = rng.choice(("os", "os", "oss", "sos", "sos", "soss", "ssos", "oos", "so", "oso"))
    turns: list[Turn] = []
    pictures: list[Scene | Outside] = []
    handles: list[int] = []
    last: Ask | None = None
    scene: Scene | None = None
    fresh = True
    for step in plan:
        if step == "o":
            if scene is not None and rng.random() < 0.3:
                ask, new = ask_no_answer(rng, scene), 0
            else:
                outside, handle = deck.outside(rng)
                ask, new = ask_outside(rng, outside), 1
                pictures.append(outside)
                handles.append(handle)
            fresh = True
        else:
            new = int(scene is None or fresh or rng.random() < 0.4)
            if new:
                scene, handle = deck.scene(rng)
                pictures.append(scene)
                handles.append(handle)
            assert scene is not None
            ask = follow_up(rng, scene, last) if last and not new and rng.random() < 0.4 else None
            ask = ask or ASKERS[rng.choice(_STARTS)](rng, scene)
            last, fresh = ask, False
        if ask is None or MARK in ask.pattern:
            return None
        skill = "comes back" if step == "s" and "o" in plan[: len(turns)] else ask.skill
        turns.append(Turn(to_parts(word(rng, ask, new), len(pictures) - new), ask.answer, skill))
    return Dialogue(tuple(turns), tuple(pictures), tuple(handles))


SECOND_BUILDERS: dict[str, Callable[[Random, Deck], Dialogue | None]] = {
    "comparison": comparison, "changed": changed, "near": near, "doubt": doubt, "in JSON": in_json,
    "leaving": leaving,
}  # fmt: skip
