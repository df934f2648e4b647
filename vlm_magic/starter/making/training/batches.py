"""Batches of the second stage: conversations as token ids, padded into trees.

`Scribe` writes what the chat template and the processor would write; `make_batch` draws a kind of batch from
a mixture. Neighbours: `features` deals pictures, `asking/` and `dialogues/` supply the questions,
`network` computes with the result.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import torch

from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.chart_askers import CHART_ASKERS
from vlm_magic.starter.making.asking.pairs import (
    PAIR_ASKERS,
    ask_difference,
    ask_kind_of_change,
    ask_same,
    ask_where_changed,
)
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.dialogues.dialogues import BUILDERS
from vlm_magic.starter.making.dialogues.turns import Dialogue, word
from vlm_magic.starter.making.training.architecture import BOS, EOS, IMAGE_BLOCK, PAD
from vlm_magic.starter.making.training.features import FeatureStore
from vlm_magic.starter.making.training.network import TreeBatch
from vlm_magic.starter.making.words.grammar import MARK
from vlm_magic.starter.making.world.charts import Chart
from vlm_magic.starter.making.world.edits import Edit
from vlm_magic.starter.making.world.scenes import Scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "JOINT_MIX",
    "JOINT_MIXES",
    "LAST_MIX",
    "MIXES",
    "Mix",
    "Row",
    "Scribe",
    "ask_many",
    "linear_batch",
    "make_batch",
]


@dataclass(slots=True)
class Row:
    """One branch before padding: ids, which of them to predict, its pictures, its skill."""

    ids: list[int]
    labelled: list[bool]
    pictures: list[int]
    skill: str


class Scribe:
    """Writes dialogues as the token ids that chat template and processor would make (a test compares)."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._core = tokenizer.backend_tokenizer
        self.bos, self.eos, self.pad = (tokenizer.convert_tokens_to_ids(t) for t in (BOS, EOS, PAD))
        self.block = self.encode(IMAGE_BLOCK)
        self.user = self.encode("User:")
        self.reply = [self.eos, *self.encode("\nAssistant:")]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ids: list[int] = self._core.encode(text, add_special_tokens=False).ids
        return ids

    def branch(self, question: str, answer: str, skill: str) -> Row:
        """A question that follows a picture, and its answer."""
        ask = self.encode(" " + question) + self.reply
        told, labels = self._told(answer)
        return Row(ask + told, [False] * len(ask) + labels, [], skill)

    def _told(self, answer: str) -> tuple[list[int], list[bool]]:
        """An answer's ids and which of them to predict: all, but for two parts of JSON.

        The bracket that opens it is forced where JSON is wanted, and nobody else should come to expect it.
        Names of fields cannot be foreseen; they are predicted in one answer of five, so that they are cut
        into tokens as they are read.
        """
        if answer[0] in "{[":
            coded = self._core.encode(answer, add_special_tokens=False)
            names = [m.span(1) for m in re.finditer(r'"([^"]*)": ', answer)]
            if zlib.crc32(answer.encode()) % 5 == 0:
                names = []
            labels = [not any(a <= start < b for a, b in names) for start, _ in coded.offsets]
            return [*coded.ids, self.eos], [False, *labels[1:], True]
        told = [*self.encode(" " + answer), self.eos]
        return told, [True] * len(told)

    def dialogue(self, dialogue: Dialogue, *, label: Callable[[str], bool] = lambda skill: True) -> Row:
        """A whole dialogue, without the token that opens a conversation."""
        ids: list[int] = []
        labelled: list[bool] = []
        pictures: list[int] = []
        text = f"System: {dialogue.system}" if dialogue.system else ""
        if text:
            ids += [*self.encode(text), self.eos]
            text = "\n"
        for turn in dialogue.turns:
            text += "User:"
            for part in turn.parts:
                if isinstance(part, str):
                    text += " " + part
                else:
                    ids += (self.encode(text) if text else []) + self.block
                    pictures.append(dialogue.handles[part])
                    text = ""
            ids += (self.encode(text) if text else []) + self.reply
            labelled += [False] * (len(ids) - len(labelled))
            told, labels = self._told(turn.answer)
            ids += told
            labelled += [wanted and label(turn.skill) for wanted in labels]
            text = "\n"
        return Row(ids, labelled, pictures, dialogue.turns[-1].skill)

    def trees(self, groups: Iterable[tuple[list[int], list[Row]]]) -> TreeBatch:
        """Pad groups of (pictures of the shared prefix, branches); no pictures: the opening token."""
        groups = list(groups)
        prefixes = [
            [self.bos, *self.user, *self.block * len(pictures)] if pictures else [self.bos]
            for pictures, _ in groups
        ]
        b, k = len(groups), len(groups[0][1])
        p = max(map(len, prefixes))
        t = max(len(row.ids) for _, rows in groups for row in rows)
        prefix = torch.full((b, p), self.pad)
        branch = torch.full((b, k, t), self.pad)
        labelled = torch.zeros((b, k, t), dtype=torch.bool)
        for i, (ids, (_, rows)) in enumerate(zip(prefixes, groups, strict=True)):
            prefix[i, : len(ids)] = torch.tensor(ids)
            for j, row in enumerate(rows):
                branch[i, j, : len(row.ids)] = torch.tensor(row.ids)
                labelled[i, j, : len(row.ids)] = torch.tensor(row.labelled)
        rows_of = [r for pictures, _ in groups for r in pictures]
        rows_of += [r for _, rows in groups for row in rows for r in row.pictures]
        length = torch.tensor([len(ids) for ids in prefixes])
        skills = [[row.skill for row in rows] for _, rows in groups]
        pictures = torch.tensor(rows_of, dtype=torch.long)
        return TreeBatch(prefix, length, branch, labelled, pictures, skills)


_SHORT = {
    "colour": 2, "shape": 2.5, "background": 0.7, "count": 8, "exist": 2.5, "missing": 2, "where": 2.5,
    "what at": 1.5, "size": 1.2,
    "bigger": 8, "extreme": 2.5, "relation": 4, "left or right": 3, "above or below": 2, "relative place": 8,
}  # fmt: skip
_LONG = {"list": 3, "caption": 4, "story": 2}
# Branches of one batch are of like length, since the shorter ones are padded: tokens from and up to.
_TREES = {  # scenes, questions about each, lengths
    "short": (8, 16, 6, 18), "medium": (8, 12, 19, 24), "long": (8, 6, 16, 60), "chart": (8, 10, 8, 26),
}  # fmt: skip


def ask_many(
    rng: Random, scribe: Scribe, n: int, make: Callable[[], Ask | None], shortest: int, longest: int
) -> list[Row] | None:
    """N branches on one prefix, or None where the picture does not give that many."""
    rows: list[Row] = []
    for _ in range(12 * n):
        ask = make()
        if ask is None or MARK in ask.pattern:  # a pattern that names its pictures itself
            continue
        row = scribe.branch(word(rng, ask, 0), ask.answer, ask.skill)
        if shortest <= len(row.ids) <= longest:
            rows.append(row)
            if len(rows) == n:
                return rows
    return None


def _tree_batch(rng: Random, scribe: Scribe, store: FeatureStore, kind: str, small: bool) -> TreeBatch:
    """Questions after one picture: short answers, long answers, or about a chart."""
    b, k, shortest, longest = _TREES[kind]
    b = 2 if small else b
    skills = _LONG if kind == "long" else _SHORT
    names, weights = tuple(skills), tuple(skills.values())
    groups: list[tuple[list[int], list[Row]]] = []
    while len(groups) < b:
        truth, row = store.chart(rng) if kind == "chart" else store.scene(rng)

        def make(truth: Scene | Chart = truth) -> Ask | None:
            if isinstance(truth, Chart):
                asker = "taller" if rng.random() < 0.5 else rng.choice(tuple(CHART_ASKERS))
                return CHART_ASKERS[asker](rng, truth)
            return ASKERS[rng.choices(names, weights)[0]](rng, truth)

        rows = ask_many(rng, scribe, k, make, shortest, longest)
        if rows:
            groups.append(([row], rows))
    return scribe.trees(groups)


def _ask_two(rng: Random, scenes: Sequence[Scene]) -> Ask | None:
    """A question about any two scenes."""
    return PAIR_ASKERS[rng.choice(("which has more", "which has it", "look-up", "look-up"))](rng, scenes)


def _ask_edit(rng: Random, edit: Edit) -> Ask | None:
    """A question about a scene and its edited copy, or a step towards the difference."""
    draw = rng.random()
    if draw < 0.42:
        return ask_difference(rng, edit)
    if draw < 0.62:
        return ask_same(rng, edit)
    if draw < 0.72:
        return ask_kind_of_change(rng, edit)
    if draw < 0.84:
        return ask_where_changed(rng, edit)
    return PAIR_ASKERS[rng.choice(("which has it", "look-up"))](rng, edit[:2])


def _pair_batch(rng: Random, scribe: Scribe, store: FeatureStore, kind: str, small: bool) -> TreeBatch:
    """Questions after two pictures: any two, or a scene and its edited copy."""
    b, k = (2, 10) if small else (7, 10)
    span = (6, 18) if rng.random() < 0.62 else (19, 27)
    groups: list[tuple[list[int], list[Row]]] = []
    make: Callable[[], Ask | None]
    while len(groups) < b:
        if kind == "pair":
            (one, i), (other, j) = store.scene(rng), store.scene(rng)
            make = partial(_ask_two, rng, (one, other))
        else:
            edit, (i, j) = store.edit(rng, easy=kind == "easy edit")
            make = partial(_ask_edit, rng, edit)
        rows = ask_many(rng, scribe, k, make, *span)
        if rows:
            groups.append(([i, j], rows))
    return scribe.trees(groups)


_BUDGET = 3000  # tokens of a batch of whole dialogues, the padding counted


def linear_batch(
    rng: Random,
    scribe: Scribe,
    store: FeatureStore,
    build: Callable[[Random, FeatureStore], Dialogue | None],
    small: bool,
) -> TreeBatch:
    """Whole dialogues, one by one; those of like length together."""
    rows: list[Row] = []
    while len(rows) < (4 if small else 64):
        dialogue = build(rng, store)
        if dialogue:
            row = scribe.dialogue(dialogue, label=lambda skill: skill != "few-shot example")
            if len(row.ids) <= 360:
                rows.append(row)
    rows.sort(key=lambda row: len(row.ids))
    start = rng.randrange(len(rows))
    chosen = [rows[start]]
    # outwards from a random one, so that every length is as frequent as it is
    near = sorted(rows[:start] + rows[start + 1 :], key=lambda row: abs(len(row.ids) - len(chosen[0].ids)))
    for row in near:
        if max(len(r.ids) for r in [*chosen, row]) * (len(chosen) + 1) > _BUDGET:
            break
        chosen.append(row)
    return scribe.trees([([], chosen)])


Mix = dict[str, float]
FIRST_MIX: Mix = {
    "short": 50, "medium": 16, "long": 9, "chart": 8, "one scene": 10, "talk": 2, "conversation": 3,
    "pair": 2,
}  # fmt: skip
EASY_MIX: Mix = {
    "short": 20, "medium": 9, "long": 8, "chart": 5, "one scene": 14, "one chart": 3, "pair": 7,
    "some scenes": 7, "easy edit": 9,
    "edit": 3, "two alike": 3, "conversation": 9, "few-shot": 7, "talk": 2,
}  # fmt: skip
FULL_MIX: Mix = {
    "short": 24, "medium": 8, "long": 12, "chart": 4, "one scene": 10, "one chart": 2, "pair": 5,
    "some scenes": 4,
    "easy edit": 7, "edit": 7, "two alike": 8, "conversation": 10, "few-shot": 9, "talk": 2,
}  # fmt: skip
JOINT_MIX: Mix = {
    "short": 24, "medium": 6, "long": 17, "chart": 3, "one scene": 20, "one chart": 2, "pair": 3,
    "some scenes": 5,
    "edit": 4, "two alike": 4, "conversation": 13, "few-shot": 8, "talk": 2,
}  # fmt: skip
LAST_MIX = JOINT_MIX | {
    "short": 18, "medium": 5, "chart": 2, "pair": 5, "some scenes": 10, "edit": 3, "conversation": 20,
}  # fmt: skip
JOINT_MIXES = ((0.25, JOINT_MIX), (1.0, LAST_MIX))
MIXES = ((0.25, FIRST_MIX), (0.65, EASY_MIX), (1.0, FULL_MIX))


def make_batch(
    rng: Random, scribe: Scribe, store: FeatureStore, mix: Mix, *, small: bool = False
) -> TreeBatch:
    """One batch of a kind that the mixture draws."""
    kind = rng.choices(tuple(mix), tuple(mix.values()))[0]
    if kind in _TREES:
        return _tree_batch(rng, scribe, store, kind, small)
    if kind in ("pair", "edit", "easy edit"):
        return _pair_batch(rng, scribe, store, kind, small)
    return linear_batch(rng, scribe, store, BUILDERS[kind][0], small)
