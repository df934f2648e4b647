"""Questions about scenes whose every object is known, and what an explanation of the answer comes to.

Explanations are measured against this: does the part that is found lie on the object that was asked about?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from vlm_magic.messages import NeededParts
from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.words.grammar import unfold
from vlm_magic.starter.making.world.scenes import Scene, plan_scene
from vlm_magic.starter.making.world.things import Thing

Kind: TypeAlias = Literal["object", "absent", "ground"]

_ASKERS: dict[Kind, tuple[str, ...]] = {
    "object": ("colour", "shape", "where"),
    "absent": ("exist",),
    "ground": ("background",),
}


@dataclass(frozen=True)
class Question:
    """A question about a scene, and its one right answer."""

    scene: Scene
    text: str
    answer: str
    subject: Thing | None


def questions(kind: Kind, seed: str = "explain") -> Iterator[Question]:
    """Questions of a kind without end: scenes of two or three objects that all differ."""
    n = 0
    while True:
        name = _ASKERS[kind][n % len(_ASKERS[kind])]
        rng = Random(f"{seed}/{kind}/{n}")
        n += 1
        scene = plan_scene(rng, n_objects=rng.choice((2, 3)), distinct=True)
        ask: Ask | None = ASKERS[name](rng, scene)
        if ask is not None and ask.skill == name and (kind != "absent" or ask.answer == "no"):
            yield Question(scene, unfold(rng, ask.pattern, ask.slots), ask.answer, ask.subject)


def box_of(scene: Scene, thing: Thing) -> tuple[float, float, float, float]:
    """Where an object lies, in pixels of its picture."""
    width, height = scene.picture.size
    return (
        (thing.x - thing.w / 2) * width,
        (thing.y - thing.h / 2) * height,
        (thing.x + thing.w / 2) * width,
        (thing.y + thing.h / 2) * height,
    )


def points_at(needed: NeededParts, question: Question) -> bool:
    """Whether the middle of the strongest part lies on the object, up to half a cell beside it."""
    return bool(needed) and lies_on(needed[0].box_px, question)


def lies_on(box: tuple[int, int, int, int], question: Question) -> bool:
    """Whether the middle of a box lies on the object, up to half a cell beside it."""
    assert question.subject is not None
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top, right, bottom = box_of(question.scene, question.subject)
    slack = max(question.scene.picture.size) / 12
    return left - slack <= x <= right + slack and top - slack <= y <= bottom + slack


def inside(needed: NeededParts, question: Question) -> float:
    """How much of the parts' area lies in the cells that the object touches, from 0 to 1."""
    assert question.subject is not None
    cell = max(question.scene.picture.size) / 6
    left, top, right, bottom = box_of(question.scene, question.subject)
    grown = left // cell * cell, top // cell * cell, -(-right // cell) * cell, -(-bottom // cell) * cell
    area = sum((part.box_px[2] - part.box_px[0]) * (part.box_px[3] - part.box_px[1]) for part in needed)
    return sum(_overlap(part.box_px, grown) for part in needed) / area if area else 0.0


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0])
    down = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, down)
