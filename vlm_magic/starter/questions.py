"""Questions of the starter's small world with their right answers, drawn from a seed.

What the starter was trained on comes from the same generator, so these are what it can do already: to
rehearse while it learns something else, to measure it, to see where it is wrong. Knows scenes, not models.
Neighbours: `making.world` draws, `making.asking` asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random
from typing import Any

from vlm_magic.errors import OptionError, near_names

__all__ = ["starter_questions"]

_MAX_TRIES = 1000  # for one question; a skill may have nothing to ask about a scene


def starter_questions(
    n: int, *, seed: int = 0, skills: Iterable[str] | str | None = None, most_objects: int = 3
) -> list[dict[str, Any]]:
    """Questions about drawn scenes, of the kinds that the starter was trained on, with their right answers.

        frame = pandas.DataFrame(vlm_magic.starter_questions(60, seed=7))
        vlm_magic.evaluate(engine, frame, by="skill")

    Args:
        n: how many; each about a new scene.
        seed: the same seed draws the same questions, and more of them where ``n`` is larger.
        skills: what is asked: "colour", "count", "where", …; all of them by turns if not given.
        most_objects: of a scene.

    Returns:
        Rows as dicts: ``picture`` (PIL, RGB; a list of two where two are compared), ``question``
        (``{picture}`` marks the place), ``answer``, ``skill``, and ``objects``: (name, (x0, y0, x1, y1) in
        pixels) of each object of a single picture. They are what `evaluate`, `teach` and ``--examples`` take.

    Raises:
        OptionError: a skill that does not exist, or fewer than no questions.
    """
    from vlm_magic.starter.making.asking.askers import ASKERS
    from vlm_magic.starter.making.asking.pairs import PAIR_ASKERS

    known = [*ASKERS, *PAIR_ASKERS]
    wanted = known if skills is None else [skills] if isinstance(skills, str) else list(skills)
    for skill in wanted:
        if skill not in known:
            near = near_names(skill, known) or known
            raise OptionError(f"no skill {skill!r}", have=", ".join(near), hint=f"skills={near[0]!r}")
    if not isinstance(n, int) or n < 0 or not wanted:
        raise OptionError(
            f"{n!r} questions of {len(wanted)} skills",
            have="a whole number of questions, and one skill or more, are wanted",
            hint="starter_questions(60, seed=7)",
        )
    return [_row(Random(f"{seed} {k}"), wanted[k % len(wanted)], most_objects) for k in range(n)]


def _row(rng: Random, skill: str, most_objects: int) -> dict[str, Any]:
    """One question of a skill."""
    from vlm_magic.starter.making.asking.askers import ASKERS
    from vlm_magic.starter.making.asking.pairs import PAIR_ASKERS
    from vlm_magic.starter.making.dialogues.turns import single_turn
    from vlm_magic.starter.making.world.scenes import plan_scene

    for _ in range(_MAX_TRIES):
        scenes = [
            plan_scene(rng, n_objects=rng.randint(1, most_objects)) for _ in range(1 + (skill in PAIR_ASKERS))
        ]
        ask = ASKERS[skill](rng, scenes[0]) if len(scenes) == 1 else PAIR_ASKERS[skill](rng, scenes)
        if ask is None:
            continue
        orders = "any" if len(scenes) == 1 else "first"
        parts = single_turn(rng, ask, scenes, range(len(scenes)), orders).turns[0].parts
        if len(scenes) > 1 and parts[:2] != (0, 1):
            continue  # pictures with words between them are no row of a table
        words = " ".join("{picture}" if part == 0 else str(part) for part in parts if part != 1)
        words = re.sub(r"\} (?=[,.;:!?])", "}", words)
        pictures = [scene.picture for scene in scenes]
        return {
            "picture": pictures[0] if len(pictures) == 1 else pictures,
            "question": words,
            "answer": ask.answer,
            "skill": skill,
            "objects": _objects(scenes[0], pictures[0].size) if len(scenes) == 1 else [],
        }
    raise OptionError(f"nothing to ask of the skill {skill!r}", have=f"scenes of {most_objects} objects")


def _objects(scene: Any, size: tuple[int, int]) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Name and box of each object of a scene, in pixels."""
    wide, high = size
    return [
        (
            f"{thing.colour} {thing.shape}",
            (
                round((thing.x - thing.w / 2) * wide),
                round((thing.y - thing.h / 2) * high),
                round((thing.x + thing.w / 2) * wide),
                round((thing.y + thing.h / 2) * high),
            ),
        )
        for thing in scene.objects
    ]
