"""Measure the starter and write its card: `python -m vlm_magic.starter.making.evaluate`.

Every skill is asked on scenes of fresh seeds, through the package's own engine and session, and an answer
counts only if it is the right one letter by letter. The figures go into `CARD.md` of the starter,
with the hash of the weights they belong to. Knows nothing of training. Neighbours: `skills` builds what is
asked, `results` holds what was measured, `card` writes it down.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, Protocol

from vlm_magic.starter import WEIGHTS
from vlm_magic.starter.making.dialogues.turns import Dialogue
from vlm_magic.starter.making.results import Result
from vlm_magic.starter.making.second_skills import SECOND_SKILLS, held_out_of
from vlm_magic.starter.making.skills import SKILLS, Skill
from vlm_magic.starter.making.words.heldout_second import HELD_OUT_SECOND

__all__ = ["SKILLS", "all_skills", "main", "measure", "run"]


class Asks(Protocol):
    """What is measured: `vlm_magic.Session`, or anything that answers parts in turn."""

    def ask(self, *parts: object, **settings: Any) -> Any:
        """The reply; its `text` (or itself) is the answer."""


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
            reply = session.ask(*parts, **_settings_for(turn.answer))
            if (skill.judged and turn.skill not in skill.judged) or (
                not skill.judged and k < len(dialogue.turns) - 1
            ):
                continue
            given = str(getattr(reply, "text", reply)).strip()
            right = given == turn.answer
            result.n += 1
            result.n_right += right
            result.answers[turn.answer, given] += 1
            logs = getattr(reply, "log_probabilities", ())
            if logs:
                result.confidences.append((math.exp(sum(logs)), right))
            result.kinds.setdefault(turn.skill, []).append(right)
            if dialogue.pictures:
                first = dialogue.pictures[0]
                size = len(getattr(first, "objects", getattr(first, "bars", ())))
                result.cases.append((size, max(first.picture.size), right))
            if not right:
                words = " ".join(p if isinstance(p, str) else f"[{p}]" for p in turn.parts)
                result.wrong.append((words, turn.answer, given))
    return result


def _settings_for(answer: str) -> dict[str, Any]:
    """What an answer is asked with: its probability is wanted, and JSON is held to its form."""
    settings: dict[str, Any] = {"log_probabilities": True}
    if answer[0] in "{[":
        settings["grammar"] = json.dumps({"json_schema": _form_of(json.loads(answer)), "lenient": True})
    return settings


def _form_of(value: Any) -> dict[str, Any]:
    """The JSON schema of the type that a person would have written for a value: free text in every field."""
    if isinstance(value, dict):
        fields = {name: _form_of(entry) for name, entry in value.items()}
        required = list(value)
        return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}
    if isinstance(value, list):
        return {"type": "array", "items": _form_of(value[0])}
    return {"type": "integer", "minimum": 0} if isinstance(value, int) else {"type": "string"}


def _counts(dialogue: Dialogue, skill: Skill) -> bool:
    return not skill.judged or any(turn.skill in skill.judged for turn in dialogue.turns)


def all_skills() -> tuple[Skill, ...]:
    """Both schoolings' skills, and the held-out phrasings of the second, one line for each sense."""
    return (*SKILLS, *SECOND_SKILLS, *(held_out_of(sense) for sense in HELD_OUT_SECOND))


def measure(
    new_session: Callable[[], Asks],
    n: int,
    names: Sequence[str] = (),
    progress: Callable[[Result], None] = lambda r: None,
) -> list[Result]:
    """Measure all skills, or those named, in this process."""
    results = []
    for skill in all_skills():
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
    if name.startswith("held out: "):  # one line for each sense, and few phrasings in each
        n = max(20, n // 5)
    return measure(lambda: Session(engine), n, [name])[0]


@cache
def _engine(weights: Path) -> Any:
    from vlm_magic import load

    return load("starter" if weights == WEIGHTS else weights)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, measure, write the card."""
    from vlm_magic.starter.making.card import write_card

    parser = argparse.ArgumentParser(
        prog="python -m vlm_magic.starter.making.evaluate", description="Measure the starter."
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument(
        "-n", type=int, default=500, help="questions per skill, a fifth of it for each held-out sense"
    )
    parser.add_argument("--skills", nargs="*", default=[], help="only these")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print per skill")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--card", type=Path, help="write the card here (CARD.md of this package)")
    given = parser.parse_args(argv)
    began = time.perf_counter()
    names = given.skills or [skill.name for skill in all_skills()]
    results = []
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        waiting = [pool.submit(_measure_apart, name, given.n, given.weights) for name in names]
        for future in waiting:
            result = future.result()
            results.append(result)
            mark = "" if result.accuracy >= result.target else "  below its target"
            low, high = result.interval
            print(
                f"{result.name:28} {result.accuracy:.3f} ({low:.3f} to {high:.3f}) of {result.n} "
                f"(target {result.target}){mark}",
                flush=True,
            )
            for question, right, answer in result.wrong[: given.show]:
                print(f"    {question!r}: {answer!r} instead of {right!r}")
    print(f"{time.perf_counter() - began:.0f} s")
    if given.card:
        write_card(results, given.weights, given.card)


if __name__ == "__main__":
    main()
