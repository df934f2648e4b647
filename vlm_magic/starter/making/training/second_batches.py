"""Batches of the second schooling: its own questions beside those of the first, so that nothing is lost.

Neighbours: `batches` draws the kinds of the first schooling and pads, `dialogues/second` builds dialogues.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from vlm_magic.starter.making.asking.comparisons import COMPARISONS
from vlm_magic.starter.making.asking.doubts import ask_no_answer, ask_outside, ask_plain
from vlm_magic.starter.making.asking.forms import ask_fields, ask_objects
from vlm_magic.starter.making.asking.neighbours import BAR_ASKERS
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.dialogues.second import OF_THREE, SECOND_BUILDERS, ask_any_change, ask_near
from vlm_magic.starter.making.training.batches import (
    JOINT_MIX,
    LAST_MIX,
    Mix,
    Row,
    Scribe,
    ask_many,
    linear_batch,
    make_batch,
)
from vlm_magic.starter.making.training.features import FeatureStore
from vlm_magic.starter.making.training.network import TreeBatch
from vlm_magic.starter.making.world.charts import Chart
from vlm_magic.starter.making.world.scenes import Scene

__all__ = ["SECOND_MIXES", "make_second_batch"]

Make = Callable[[], Ask | None]


def _near(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    scene, row = store.odd(rng) if rng.random() < 0.4 else store.scene(rng)
    return [row], partial(ask_near, rng, scene)


def _bars(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    chart, row = store.chart(rng)

    def make() -> Ask | None:
        draw = rng.random()
        if draw < 0.3:
            return ask_no_answer(rng, chart)
        return BAR_ASKERS["order of bars" if draw < 0.65 else "best bar"](rng, chart)

    return [row], make


def _two(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    (one, i), (other, j) = store.scene(rng), store.scene(rng)
    names, weights = tuple(COMPARISONS), [weight for _, weight in COMPARISONS.values()]
    return [i, j], lambda: COMPARISONS[rng.choices(names, weights)[0]][0](rng, (one, other))


def _three(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    drawn = [store.scene(rng) for _ in range(3)]
    scenes, rows = [scene for scene, _ in drawn], [row for _, row in drawn]
    return rows, lambda: COMPARISONS[rng.choice(OF_THREE)][0](rng, scenes)


def _changed(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    edit, rows = store.any_edit(rng)
    return list(rows), partial(ask_any_change, rng, edit)


def _outside(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    outside, row = store.outside(rng)
    return [row], partial(ask_outside, rng, outside)


def _plain(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    scene, row = store.plain(rng)
    return [row], partial(ask_plain, rng, scene)


def _no_answer(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    truth: Scene | Chart
    truth, row = store.scene(rng)
    return [row], partial(ask_no_answer, rng, truth)


def _json(rng: Random, store: FeatureStore) -> tuple[list[int], Make]:
    scene, row = store.scene(rng)
    return [row], lambda: (ask_fields if rng.random() < 0.5 else ask_objects)(rng, scene)


Prefix = Callable[[Random, FeatureStore], tuple[list[int], Make]]
# How to make questions on one prefix, prefixes, questions on each, and spans of branch lengths.
_KINDS: dict[str, tuple[Prefix, int, int, tuple[tuple[int, int], ...]]] = {
    "near tree": (_near, 8, 12, ((8, 20), (18, 28))),
    "bars tree": (_bars, 8, 8, ((8, 30),)),
    "two tree": (_two, 7, 10, ((8, 20), (18, 34))),
    "three tree": (_three, 5, 10, ((8, 20), (18, 40))),
    "changed tree": (_changed, 7, 10, ((8, 24), (20, 32))),
    "outside tree": (_outside, 8, 8, ((10, 20), (18, 30))),
    "plain tree": (_plain, 8, 8, ((8, 18), (14, 28))),
    "no answer tree": (_no_answer, 8, 6, ((8, 28),)),
    "JSON tree": (_json, 8, 6, ((20, 40), (36, 70), (66, 130))),
}

# Questions on one prefix teach several times as much in the same time; where a picture may stand among the
# words is known from the first schooling, so few whole dialogues are enough.
SECOND_MIX: Mix = {
    # what is new
    "near tree": 18, "bars tree": 5, "two tree": 16, "three tree": 9, "changed tree": 12, "outside tree": 5,
    "plain tree": 7, "no answer tree": 3, "JSON tree": 14, "comparison": 2, "changed": 1.5,
    "near": 2, "doubt": 1.5, "leaving": 4,
    # what is not to be lost
    "short": 16, "medium": 5, "long": 11, "chart": 3, "one scene": 5, "one chart": 0.7, "pair": 5,
    "some scenes": 2.5, "edit": 5, "two alike": 2, "conversation": 6, "few-shot": 4, "talk": 1.5,
}  # fmt: skip
LAST_SECOND_MIX: Mix = SECOND_MIX | {
    name: 1.7 * weight for name, weight in SECOND_MIX.items() if name in {**JOINT_MIX, **LAST_MIX}
}
SECOND_MIXES = ((0.6, SECOND_MIX), (1.0, LAST_SECOND_MIX))


def make_second_batch(
    rng: Random, scribe: Scribe, store: FeatureStore, mix: Mix, *, small: bool = False
) -> TreeBatch:
    """One batch of a kind that the mixture draws, of either schooling."""
    kind = rng.choices(tuple(mix), tuple(mix.values()))[0]
    if kind in SECOND_BUILDERS:
        return linear_batch(rng, scribe, store, SECOND_BUILDERS[kind], small)
    if kind not in _KINDS:
        return make_batch(rng, scribe, store, {kind: 1.0}, small=small)
    prefix, b, k, spans = _KINDS[kind]
    b = 2 if small else b
    span = rng.choice(spans)
    groups: list[tuple[list[int], list[Row]]] = []
    while len(groups) < b:
        pictures, make = prefix(rng, store)
        rows = ask_many(rng, scribe, k, make, *span)
        if rows:
            groups.append((pictures, rows))
    return scribe.trees(groups)
