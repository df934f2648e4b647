"""Classify pictures: the likeliest of several replies for one picture or many, and how well that goes.

`classify` asks, `Classified` holds the table of many with accuracy, confusion and calibration where the
truth is known. Each picture is asked outside any conversation; many are a map (`vlm_magic.tasks.map`), with
all that it does: batches, pictures opened ahead, rows that are kept.

Knows engines and pictures; nothing of IPython. Neighbours: `choices.choices` reads the choices
and holds the outcome of one, `choices.calibration` measures probabilities, `examples` makes few-shot turns.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError, PromptError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Engine, Reply, Settings, Turn
from vlm_magic.outputs.results.choices import classified_html, percent
from vlm_magic.tasks.choices.calibration import Calibration, calibrate
from vlm_magic.tasks.choices.choices import Choices, ChoiceSet, is_nan
from vlm_magic.tasks.examples import example_turns, question_with
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.tasks.map.mapping import PictureMap
from vlm_magic.tasks.map.prompt import MapPrompt
from vlm_magic.tasks.map.rows import items_of, open_pictures
from vlm_magic.tasks.map.table import MappedRow
from vlm_magic.wording import count_words, shorten

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Classified", "ClassifiedRow", "classify"]

_MAX_THUMBNAILS = 24  # that a table of many pictures keeps


@dataclass(frozen=True)
class ClassifiedRow:
    """One picture of many.

    Attributes:
        name: how the picture is called.
        outcome: what was chosen; None for an error.
        truth: the true label, or None where nobody said.
        error: why there is no outcome; "" where there is.
        seconds: how long it took.
        thumbnail: a small picture as a data URI, or "".
    """

    name: str
    outcome: Choices | None
    truth: str | None = None
    error: str = ""
    seconds: float = 0.0
    thumbnail: str = ""

    @property
    def is_right(self) -> bool | None:
        """Whether the answer is the truth; None where one of them is missing."""
        if self.outcome is None or self.truth is None:
            return None
        return self.outcome.best == self.truth


class Classified:
    """The outcome of one question about many pictures.

    Args:
        rows: in the order of the pictures.
        asked: the choices.

    Attributes:
        rows: in the order of the pictures.
        asked: the choices.
    """

    def __init__(self, rows: Sequence[ClassifiedRow], asked: ChoiceSet) -> None:
        self.rows = tuple(rows)
        self.asked = asked

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[ClassifiedRow]:
        return iter(self.rows)

    @property
    def answers(self) -> list[str | None]:
        """The best choice for each picture; None for an error."""
        return [row.outcome.best if row.outcome else None for row in self.rows]

    @property
    def judged(self) -> list[ClassifiedRow]:
        """The rows with an answer and a truth."""
        return [row for row in self.rows if row.is_right is not None]

    @property
    def accuracy(self) -> float:
        """The fraction of `judged` rows whose answer is the truth.

        Raises:
            OptionError: no truth was given.
        """
        judged = self._need_truth()
        return sum(bool(row.is_right) for row in judged) / len(judged)

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """How often each (truth, answer) came.

        Raises:
            OptionError: no truth was given.
        """
        pairs = Counter((str(r.truth), r.outcome.best) for r in self._need_truth() if r.outcome is not None)
        return dict(pairs)

    @property
    def confusion(self) -> pd.DataFrame:
        """The confusion matrix as a pandas DataFrame: a row per truth, a column per answer, counts.

        Raises:
            OptionError: no truth was given, or pandas is not installed.
        """
        counts, labels = self.counts, list(self.asked.labels)
        pandas = need_pandas("confusion", have=".counts works without it")
        table = [[counts.get((truth, answer), 0) for answer in labels] for truth in labels]
        frame: pd.DataFrame = pandas.DataFrame(
            table,
            index=pandas.Index(labels, name="truth"),
            columns=pandas.Index(labels, name="answer"),
        )
        return frame

    def calibration(self, n_bins: int = 15) -> Calibration:
        """How far the probabilities can be believed: bins of confidence, expected calibration error.

        Raises:
            OptionError: no truth was given.
        """
        judged = self._need_truth()
        confidences = [row.outcome.probability for row in judged if row.outcome is not None]
        return calibrate(confidences, [bool(row.is_right) for row in judged], n_bins=n_bins)

    def to_frame(self) -> pd.DataFrame:
        """A pandas DataFrame: picture, answer, probability, a column ``p(choice)`` each, truth, right, error.

        Raises:
            OptionError: pandas is not installed.
        """
        pandas = need_pandas("to_frame", have=".rows works without it")
        frame: pd.DataFrame = pandas.DataFrame([self._record(row) for row in self.rows])
        return frame

    def _record(self, row: ClassifiedRow) -> dict[str, Any]:
        shares = row.outcome.probabilities if row.outcome else dict.fromkeys(self.asked.labels, math.nan)
        record: dict[str, Any] = {
            "picture": row.name,
            "answer": row.outcome.best if row.outcome else None,
            "probability": row.outcome.probability if row.outcome else math.nan,
            **{f"p({label})": share for label, share in shares.items()},
            "seconds": row.seconds,
            "error": row.error or None,
        }
        if any(other.truth is not None for other in self.rows):
            record |= {"truth": row.truth, "right": row.is_right}
        return record

    def _need_truth(self) -> list[ClassifiedRow]:
        judged = self.judged
        if not judged:
            raise OptionError(
                "there are no true labels to compare with",
                have=f"{len(self.rows)} pictures without a truth",
                hint="classify(engine, pictures, choices, truth=labels)",
            )
        return judged

    @property
    def summary(self) -> str:
        """One line: how many, how well."""
        said = [count_words(len(self.rows), "picture"), f"{len(self.asked.labels)} choices"]
        if judged := self.judged:
            n_right = sum(bool(row.is_right) for row in judged)
            said.append(f"accuracy {self.accuracy:.3f} ({n_right} of {len(judged)})")
        if n_wrong := sum(bool(row.error) for row in self.rows):
            said.append(f"{n_wrong} with an error")
        return " · ".join(said)

    def __repr__(self) -> str:
        return f"<Classified: {self.summary}>"

    def _repr_html_(self) -> str:
        return classified_html(
            self.summary,
            self.asked.labels,
            [
                (
                    row.thumbnail,
                    row.name,
                    row.outcome.best if row.outcome else row.error,
                    percent(row.outcome.probability) if row.outcome else "",
                    row.truth or "",
                    row.is_right,
                )
                for row in self.rows
            ],
            self.counts if self.judged else {},
        )


def classify(
    engine: Engine,
    picture: object,
    choices: object,
    prompt: str | None = None,
    *,
    truth: object = None,
    examples: object = None,
    normalize: str = "none",
    batch_size: int | None = None,
    journal: str | Path | None = None,
    resume: bool = True,
    progress: Callable[[int, int], None] | None = None,
    options: PictureOptions | None = None,
    **settings: Any,
) -> Choices | Classified:
    """Choose among replies for one picture or many, outside any conversation.

    Args:
        engine: who answers, from `vlm_magic.load`.
        picture: a picture; or a list, Series, dict (name → picture), array batch, generator, glob or folder.
        choices: see `ChoiceSet.of`.
        prompt: what is asked; ``{picture}`` marks the picture's place, first if absent. A question that
            lists the choices if not given.
        truth: the true choice, or one for each picture (None where nobody knows).
        examples: few-shot examples before the question, see `vlm_magic.tasks.examples.example_turns`.
        normalize: "none", "length" or "prior", see `vlm_magic.choice_scores`.
        batch_size: of many pictures, how many at a time; about what the machine takes if not given.
        journal: of many pictures, a file that finished rows are kept in and found again.
        resume: False asks again what this process has answered before.
        progress: called with (done, total) after each of many; total is 0 where unknown.
        options: limits of pictures and downloads.
        **settings: as for a question (`vlm_magic.messages.Settings`): ``system``, ….

    Returns:
        `Choices` for one picture, `Classified` for many. Of many, a picture that cannot be read is a row
        with an error.

    Raises:
        OptionError: choices or a truth that do not fit, or an engine that cannot tell how likely a reply is.
        PictureError: the one picture cannot be read.
        PromptError: a generator that raised; carries ``done``, the `Classified` rows before it.
    """
    asked = ChoiceSet.of(choices)
    how = Settings().updated({**settings, "choices": asked.texts, "normalize": normalize})
    engine.check(how)
    words = prompt if prompt is not None else _default_prompt(asked)
    shots = () if examples is None else example_turns(examples, prompt=words, options=options)
    items = items_of(picture)
    if items.is_single:
        shown = open_pictures(next(items.rows), options or PictureOptions())
        return Choices(_reply(engine, (*shots, Turn("user", question_with(words, shown))), how), asked)
    truths = _truths(truth, asked, items.n)
    run = PictureMap(
        engine,
        MapPrompt.of_words(words, options),
        items,
        examples=shots,
        read=lambda reply: Choices(reply, asked),
        batch_size=batch_size,
        journal=journal,
        resume=resume,
        options=options,
        settings=how,
    )
    return _classified(run, asked, truths, progress)


def _default_prompt(asked: ChoiceSet) -> str:
    *first, last = asked.texts
    return f"Which of these is it: {', '.join(first)} or {last}?"


def _reply(engine: Engine, turns: Sequence[Turn], settings: Settings) -> Reply:
    """The whole answer of any engine."""
    generating = engine.start(turns, settings)
    for _ in generating:
        pass
    reply = generating.wait()
    assert reply is not None
    return reply


def _classified(
    run: PictureMap,
    asked: ChoiceSet,
    truths: Sequence[str | None] | None,
    progress: Callable[[int, int], None] | None,
) -> Classified:
    """The table of a map whose answers are `Choices`."""
    rows: dict[int, ClassifiedRow] = {}

    def done() -> Classified:
        return Classified([rows[position] for position in sorted(rows)], asked)

    try:
        for row in run:
            if truths is not None and row.position >= len(truths):
                raise _too_few(len(truths))
            rows[row.position] = _row(row, None if truths is None else truths[row.position])
            if progress is not None:
                progress(len(rows), run.n_total or 0)
    except PromptError as error:
        raise PromptError(error.what, have=error.have, hint=error.hint, done=done()) from error
    if not rows:
        raise PromptError("no pictures", have="an empty list", hint="classify(engine, [picture, …], choices)")
    if truths is not None and len(truths) > len(rows):
        raise _too_many(len(rows))
    return done()


def _row(row: MappedRow, truth: str | None) -> ClassifiedRow:
    """A row of the map as one of the table; the first ones keep a thumbnail."""
    outcome = row.answer if isinstance(row.answer, Choices) else None
    keeps_thumbnail = outcome is not None and row.pictures and row.position < _MAX_THUMBNAILS
    thumbnail = thumbnail_data_uri(row.pictures[0], 48) if keeps_thumbnail else ""
    return ClassifiedRow(row.name, outcome, truth, row.error, row.seconds, thumbnail)


def _truths(truth: object, asked: ChoiceSet, n_pictures: int | None) -> list[str | None] | None:
    """The true label of each picture, checked before anything is asked; None where there is no truth."""
    if truth is None:
        return None
    if isinstance(truth, (str, bytes)) or not isinstance(truth, Iterable):
        raise OptionError("one true label for many pictures", have=shorten(repr(truth), 80), hint="truth=[…]")
    found = [
        None if item is None or is_nan(item) else asked.labels[asked.position_of(item)] for item in truth
    ]
    if n_pictures is not None and len(found) < n_pictures:
        raise _too_few(len(found))
    if n_pictures is not None and len(found) > n_pictures:
        raise _too_many(n_pictures)
    return found


def _too_few(n_truths: int) -> OptionError:
    return OptionError(
        f"{n_truths} true labels for more pictures",
        have="one for each picture",
        hint="None where nobody knows",
    )


def _too_many(n_pictures: int) -> OptionError:
    return OptionError(
        f"more true labels than pictures: {n_pictures} pictures",
        have="one true label for each picture",
        hint="truth=[…] of the same length",
    )
