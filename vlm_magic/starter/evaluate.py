"""Measure the starter and write its card: `python -m vlm_magic.starter.evaluate`.

Every skill is asked on scenes of fresh seeds, through the package's own engine and session, and an answer
counts only if it is the right one letter by letter. The figures go into `CARD.md` beside this file, with the
hash of the weights they belong to. Knows nothing of training. Neighbours: `dialogues` builds what is asked,
`card` writes it down.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, Protocol

from vlm_magic.starter import WEIGHTS
from vlm_magic.starter.askers import ASKERS
from vlm_magic.starter.chart_askers import CHART_ASKERS
from vlm_magic.starter.charts import make_chart, make_plot
from vlm_magic.starter.dialogues import conversation, few_shot, talk
from vlm_magic.starter.edits import CHANGES, Edit, plan_edit
from vlm_magic.starter.grammar import spell, unfold
from vlm_magic.starter.heldout import HELD_OUT
from vlm_magic.starter.pairs import PAIR_ASKERS, ask_difference, ask_same
from vlm_magic.starter.questions import Ask
from vlm_magic.starter.scenes import Scene, plan_scene
from vlm_magic.starter.turns import Dialogue, FreshDeck, Turn, single_turn

__all__ = ["SKILLS", "Result", "Skill", "main", "measure", "run"]


class Asks(Protocol):
    """What is measured: `vlm_magic.Session`, or anything that answers parts in turn."""

    def ask(self, *parts: object) -> Any:
        """The reply; its `text` (or itself) is the answer."""


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


@dataclass(slots=True)
class Result:
    """What was measured of one skill."""

    name: str
    target: float
    n_right: int = 0
    n: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)
    """(question, right answer, given answer)."""
    cases: list[tuple[int, int, bool]] = field(default_factory=list)
    """(objects on the first picture, its longer side in pixels, right or not)."""
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(right answer, given answer)."""
    kinds: dict[str, list[bool]] = field(default_factory=dict)
    """Right or not, by the finer skill of the turn ("difference: colour")."""

    @property
    def accuracy(self) -> float:
        """Fraction that was right."""
        return self.n_right / self.n if self.n else 0.0


def run(skill: Skill, n: int, new_session: Callable[[], Asks], seed: str = "evaluate") -> Result:
    """Ask a skill n times, each in a new conversation, with pictures of fresh seeds."""
    result = Result(skill.name, skill.target)
    i = 0
    while result.n < n:
        i += 1
        dialogue = skill.build(Random(f"{seed}/{skill.name}/{i}"))
        if dialogue is None or not _counts(dialogue, skill):
            continue
        session = new_session()
        for k, turn in enumerate(dialogue.turns):
            parts = [dialogue.pictures[p].picture if isinstance(p, int) else p for p in turn.parts]
            if turn.skill == "few-shot example":  # the person gives this answer; see `_as_one_turn`
                raise ValueError("few-shot dialogues are measured in one turn")
            reply = session.ask(*parts)
            if (skill.judged and turn.skill not in skill.judged) or (
                not skill.judged and k < len(dialogue.turns) - 1
            ):
                continue
            given = str(getattr(reply, "text", reply)).strip()
            right = given == turn.answer
            result.n += 1
            result.n_right += right
            result.answers[turn.answer, given] += 1
            result.kinds.setdefault(turn.skill, []).append(right)
            if dialogue.pictures:
                first = dialogue.pictures[0]
                size = len(first.objects) if isinstance(first, Scene) else len(first.bars)
                result.cases.append((size, max(first.picture.size), right))
            if not right:
                words = " ".join(p if isinstance(p, str) else f"[{p}]" for p in turn.parts)
                result.wrong.append((words, turn.answer, given))
    return result


def _counts(dialogue: Dialogue, skill: Skill) -> bool:
    return not skill.judged or any(turn.skill in skill.judged for turn in dialogue.turns)


# --- what is asked ------------------------------------------------------------------------------------------


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
    Skill("difference", 0.95, edit_skill(ask_difference, *CHANGES)),
    Skill("bars", 0.95, chart_skill("bars")),
    Skill("extreme bar", 0.95, chart_skill("extreme bar")),
    Skill("taller", 0.95, chart_skill("taller")),
    Skill("bar exist", 0.95, chart_skill("bar exist")),
    Skill("chart caption", 0.95, chart_skill("chart caption")),
)  # fmt: skip


def measure(
    new_session: Callable[[], Asks],
    n: int,
    names: Sequence[str] = (),
    progress: Callable[[Result], None] = lambda r: None,
) -> list[Result]:
    """Measure all skills, or those named, in this process."""
    results = []
    for skill in SKILLS:
        if not names or skill.name in names:
            results.append(run(skill, n, new_session))
            progress(results[-1])
    return results


def _measure_apart(name: str, n: int, weights: Path) -> Result:
    """Measure one skill in a process of a pool."""
    import torch

    from vlm_magic import Session

    torch.set_num_threads(1)  # more than one only wait for each other with a model this small
    engine = _engine(weights)
    return measure(lambda: Session(engine), n, [name])[0]


@cache
def _engine(weights: Path) -> Any:
    from vlm_magic import load

    return load("starter" if weights == WEIGHTS else weights)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, write the card."""
    from vlm_magic.starter.card import write_card

    parser = argparse.ArgumentParser(
        prog="python -m vlm_magic.starter.evaluate", description="Measure the starter."
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("-n", type=int, default=500, help="questions per skill")
    parser.add_argument("--skills", nargs="*", default=[], help="only these")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per skill")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--card", type=Path, help="write the card here (CARD.md of this package)")
    given = parser.parse_args(argv)
    began = time.perf_counter()
    names = given.skills or [skill.name for skill in SKILLS]
    results = []
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        waiting = [pool.submit(_measure_apart, name, given.n, given.weights) for name in names]
        for future in waiting:
            result = future.result()
            results.append(result)
            mark = "" if result.accuracy >= result.target else "  below its target"
            print(
                f"{result.name:22} {result.accuracy:.3f} of {result.n} (target {result.target}){mark}",
                flush=True,
            )
            for question, right, answer in result.wrong[: given.show]:
                print(f"    {question!r}: {answer!r} instead of {right!r}")
    print(f"{time.perf_counter() - began:.0f} s")
    if given.card:
        write_card(results, given.weights, given.card)


if __name__ == "__main__":
    main()
