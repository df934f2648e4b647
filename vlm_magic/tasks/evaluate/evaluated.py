"""What came of an evaluation: a row for each question, accuracy with its interval, and two of them compared.

Knows verdicts and counts, not engines. Neighbours: `evaluate` makes it, `proportions` has the arithmetic,
`vlm_magic.outputs.results.map` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError
from vlm_magic.outputs.results.cards import Card
from vlm_magic.outputs.results.map import Sheet, sheet_bundle
from vlm_magic.outputs.results.verdicts import MAX_WRONG, Verdict
from vlm_magic.tasks.choices.calibration import Calibration, calibrate
from vlm_magic.tasks.evaluate.proportions import Proportion, mcnemar_exact
from vlm_magic.tasks.frames import need_pandas

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Evaluated", "EvaluatedRow", "Paired", "most_confident_first", "verdict_of"]


@dataclass(frozen=True, slots=True)
class EvaluatedRow:
    """One question with its answer and the truth.

    Attributes:
        name: how the picture is called.
        question: in words, without the picture.
        answer: what was said; None for an error.
        truth: what is right, in words; "" where nobody said.
        is_right: whether the answer is the truth; None where one of them is missing.
        group: what it was grouped by; "" without groups.
        probability: of the whole answer, where the engine tells how likely a reply is; else None.
        error: why there is no answer; "" where there is.
        seconds: its share of the time.
        thumbnail: data URI of a small picture, or "".
    """

    name: str
    question: str = ""
    answer: object = None
    truth: str = ""
    is_right: bool | None = None
    group: str = ""
    probability: float | None = None
    error: str = ""
    seconds: float = 0.0
    thumbnail: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two evaluations of the same questions.

    Attributes:
        first: the name of the first.
        second: the name of the second.
        n_both: questions that both have right.
        n_first_only: that only the first has right.
        n_second_only: that only the second has right.
        n_neither: that none has right.
    """

    first: str
    second: str
    n_both: int
    n_first_only: int
    n_second_only: int
    n_neither: int

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how likely at least such a split is if both are equally good."""
        return mcnemar_exact(self.n_first_only, self.n_second_only)

    def __str__(self) -> str:
        p = self.p_value
        said = "p < .001" if p < 0.001 else f"p = {p:.3f}"
        return (
            f"only {self.first} right: {self.n_first_only}, only {self.second} right: {self.n_second_only}, "
            f"both: {self.n_both}, neither: {self.n_neither} (exact McNemar test, {said})"
        )

    __repr__ = __str__


class Evaluated:
    """The outcome of an evaluation.

    Args:
        rows: in the order of the questions.
        name: who answered, and how.

    Attributes:
        rows: in the order of the questions.
        name: who answered, and how.
    """

    def __init__(self, rows: Sequence[EvaluatedRow], name: str) -> None:
        self.rows = tuple(rows)
        self.name = name

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[EvaluatedRow]:
        return iter(self.rows)

    @property
    def accuracy(self) -> Proportion:
        """How many of the answers with a truth are right; ``.value`` and the 95 % ``.interval``.

        A question that was not answered because of an error counts as wrong.
        """
        return _share(self.rows)

    @property
    def by_group(self) -> dict[str, Proportion]:
        """The same for each group, in the order in which they came; empty without groups."""
        groups = dict.fromkeys(row.group for row in self.rows if row.group)
        return {group: _share([row for row in self.rows if row.group == group]) for group in groups}

    @property
    def errors(self) -> list[EvaluatedRow]:
        """The wrong answers, the most confident first."""
        wrong = [row for row in self.rows if _counts(row) and not row.is_right]
        return sorted(wrong, key=lambda row: most_confident_first(row.probability))

    def calibration(self, n_bins: int = 10) -> Calibration:
        """How far the probabilities of the answers can be believed, by bins of confidence.

        Raises:
            OptionError: not every answer has its probability.
        """
        judged = [row for row in self.rows if row.is_right is not None]
        known = [(row.probability, bool(row.is_right)) for row in judged if row.probability is not None]
        if len(known) < len(judged) or not known:
            raise OptionError(
                f"only {len(known)} of {len(judged)} answers have their probability",
                have="those of wrong answers, which are computed for their order",
                hint="evaluate(engine, questions, probabilities=True)",
            )
        return calibrate([share for share, _ in known], [right for _, right in known], n_bins=n_bins)

    def compare(self, other: Evaluated) -> Paired:
        """The same questions answered by another model, or with other settings: a paired test.

        Raises:
            OptionError: the other one is about other questions.
        """
        mine, theirs = [_asked(row) for row in self.rows], [_asked(row) for row in other.rows]
        if mine != theirs:
            raise OptionError(
                "a paired test needs the same questions in the same order",
                have=f"{len(mine)} and {len(theirs)} questions"
                + ("" if len(mine) != len(theirs) else ", which differ"),
                hint="evaluate both with the same table",
            )
        pairs = [
            (bool(a.is_right), bool(b.is_right))
            for a, b in zip(self.rows, other.rows, strict=True)
            if _counts(a) and _counts(b)
        ]
        first, second = self.name, other.name
        if first == second:
            first, second = "the first", "the second"
        counts = [pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))]
        return Paired(first, second, *counts)

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame: picture, question, answer, truth, right, group, probability, seconds, error.

        Raises:
            OptionError: pandas is not installed.
        """
        pandas = need_pandas("to_frame", have=".rows works without it")
        frame: pd.DataFrame = pandas.DataFrame([_record(row) for row in self.rows])
        return frame

    def __repr__(self) -> str:
        return f"<Evaluated {self.name}: {self.accuracy}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        cards = [_card(row) for row in self.rows]
        verdict = verdict_of(self.accuracy, self.by_group, [_card(row) for row in self.errors])
        sheet = Sheet(
            cards=cards[:0],
            rows=cards,
            n_done=len(cards),
            n_total=len(cards),
            figures=[self.name],
            verdict=verdict,
        )
        return dict(sheet_bundle(sheet))


def verdict_of(accuracy: Proportion, groups: dict[str, Proportion], wrong: Sequence[Card]) -> Verdict:
    """What a view shows of the verdicts: accuracy, groups, and some of the wrong answers."""
    shares = tuple((name, share.n_right, share.n, *share.interval) for name, share in groups.items())
    return Verdict(str(accuracy), shares, tuple(wrong[:MAX_WRONG]), accuracy.n - accuracy.n_right)


def most_confident_first(probability: float | None) -> float:
    """A key to sort wrong answers by; those of unknown probability come last."""
    return -probability if probability is not None and not math.isnan(probability) else 1.0


def _share(rows: Sequence[EvaluatedRow]) -> Proportion:
    counted = [row for row in rows if _counts(row)]
    return Proportion(sum(bool(row.is_right) for row in counted), len(counted))


def _counts(row: EvaluatedRow) -> bool:
    return bool(row.truth)


def _asked(row: EvaluatedRow) -> tuple[str, str, str]:
    return row.name, row.question, row.truth


def _record(row: EvaluatedRow) -> dict[str, Any]:
    return {
        "picture": row.name,
        "question": row.question,
        "answer": row.answer,
        "truth": row.truth or None,
        "right": row.is_right,
        "group": row.group or None,
        "probability": math.nan if row.probability is None else row.probability,
        "seconds": row.seconds,
        "error": row.error or None,
    }


def _card(row: EvaluatedRow) -> Card:
    return Card(
        label="",
        name=row.name,
        answer="" if row.answer is None else str(row.answer),
        probability=row.probability,
        seconds=row.seconds,
        error=row.error,
        thumbnail=row.thumbnail,
        question=row.question,
        truth=row.truth,
        is_right=row.is_right,
    )
