"""Classify pictures: the likeliest of several replies for one picture or many, and how well that goes.

`classify` asks, `Classified` holds the table of many with accuracy, confusion and calibration where the
truth is known. Each picture is asked outside any conversation.

Knows engines and pictures; nothing of IPython. Neighbours: `choices` reads the choices and holds the
outcome of one, `calibration` measures probabilities, `examples` makes few-shot turns.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError, PictureError, PromptError, VLMError, shorten
from vlm_magic.inputs import pictures as picture_inputs
from vlm_magic.inputs import sniff
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Engine, Picture, Reply, Settings, Turn
from vlm_magic.outputs.choices import classified_html, percent
from vlm_magic.outputs.transcript import base_css
from vlm_magic.tasks.calibration import Calibration, calibrate
from vlm_magic.tasks.choices import Choices, ChoiceSet, is_nan, need_pandas
from vlm_magic.tasks.examples import example_turns, question_with

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
        pandas = need_pandas("confusion")
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
        pandas = need_pandas("to_frame")
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
                "nothing says what would have been right",
                have=f"{len(self.rows)} pictures without a truth",
                hint="classify(engine, pictures, choices, truth=labels)",
            )
        return judged

    @property
    def summary(self) -> str:
        """One line: how many, how well."""
        said = [f"{len(self.rows)} picture{'s' * (len(self.rows) != 1)}", f"{len(self.asked.labels)} choices"]
        if judged := self.judged:
            n_right = sum(bool(row.is_right) for row in judged)
            said.append(f"accuracy {self.accuracy:.3f} ({n_right} of {len(judged)})")
        if n_wrong := sum(bool(row.error) for row in self.rows):
            said.append(f"{n_wrong} with an error")
        return " · ".join(said)

    def __repr__(self) -> str:
        return f"<Classified: {self.summary}>"

    def _repr_html_(self) -> str:
        return f"<style>{base_css()}</style>" + classified_html(
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
    progress: Callable[[int, int], None] | None = None,
    options: PictureOptions | None = None,
    **settings: Any,
) -> Choices | Classified:
    """Choose among replies for one picture or many, outside any conversation.

    Args:
        engine: who answers, from `vlm_magic.load`.
        picture: a picture; or a list, Series, dict (name → picture), array batch or generator of them.
        choices: see `ChoiceSet.of`.
        prompt: what is asked; ``{picture}`` marks the picture's place, first if absent. A question that
            lists the choices if not given.
        truth: the true choice, or one for each picture (None where nobody knows).
        examples: few-shot examples before the question, see `vlm_magic.tasks.examples.example_turns`.
        normalize: "none", "length" or "prior", see `vlm_magic.models.choosing`.
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
    if not hasattr(engine, "score"):
        raise OptionError(
            f"{engine.name} cannot tell how likely a reply is", hint="a model loaded here: vlm_magic.load()"
        )
    words = prompt if prompt is not None else _default_prompt(asked)
    shots = () if examples is None else example_turns(examples, prompt=words, options=options)

    def ask(one: Picture) -> Choices:
        return Choices(_reply(engine, (*shots, Turn("user", question_with(words, [one]))), how), asked)

    if _is_one(picture, options):
        return ask(_decoded(picture, "picture", options))
    truths = _truths(truth, asked)
    rows: list[ClassifiedRow] = []
    for n, (name, item) in enumerate(_named(picture, lambda: Classified(rows, asked))):
        known = next(truths)
        rows.append(_row(ask, item, name, known, options, keeps_thumbnail=n < _MAX_THUMBNAILS))
        if progress is not None:
            progress(len(rows), len(picture) if hasattr(picture, "__len__") else 0)
    if not rows:
        raise PromptError("no pictures", have="an empty list", hint="classify(engine, [picture, …], choices)")
    _refuse_left_over(truths, len(rows))
    return Classified(rows, asked)


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


def _row(
    ask: Callable[[Picture], Choices],
    item: object,
    name: str,
    truth: str | None,
    options: PictureOptions | None,
    *,
    keeps_thumbnail: bool,
) -> ClassifiedRow:
    """One of many; what is wrong with its picture stays with it."""
    began = time.perf_counter()
    try:
        picture = _decoded(item, name, options)
        thumbnail = thumbnail_data_uri(picture, 48) if keeps_thumbnail else ""
        outcome = ask(picture)
    except PictureError as error:
        return ClassifiedRow(name, None, truth, error.what, time.perf_counter() - began)
    return ClassifiedRow(name, outcome, truth, "", time.perf_counter() - began, thumbnail)


def _is_one(obj: object, options: PictureOptions | None) -> bool:
    """Whether this is one picture, not a collection of them (which a list of one is)."""
    if sniff.is_frame(obj):
        raise OptionError("a table, not its pictures", hint='classify(engine, frame["picture"], choices)')
    if isinstance(obj, (str, Picture)) or hasattr(obj, "__fspath__") or sniff.is_dataset_cell(obj):
        return True
    if isinstance(obj, (list, tuple, dict, Iterator)) or sniff.is_series(obj):
        return False
    if sniff.is_array(obj):
        found = picture_inputs.try_pictures(obj, "picture", options=options)
        return found is None or len(found) == 1
    return picture_inputs.is_picture_like(obj) or not isinstance(obj, Iterable)


def _decoded(obj: object, name: str, options: PictureOptions | None) -> Picture:
    is_place = isinstance(obj, (str, Picture)) or hasattr(obj, "__fspath__")
    return picture_inputs.to_picture(obj, name="" if is_place else name, options=options)


def _named(obj: Any, done: Callable[[], Classified]) -> Iterator[tuple[str, object]]:
    """(name, picture) of each; a source that raises says what was done before."""
    items = (
        obj.items() if isinstance(obj, Mapping) or sniff.has_type(obj, "pandas.Series") else enumerate(obj)
    )
    source = iter(items)
    while True:
        try:
            key, item = next(source)
        except StopIteration:
            return
        except VLMError:
            raise
        except Exception as error:
            so_far = done()
            raise PromptError(
                f"the pictures ended with {type(error).__name__}: {shorten(error, 100)}",
                have=f"{len(so_far)} rows before it, in the error's .done",
                hint="the rest, once that is mended",
                done=so_far,
            ) from error
        yield str(key), item


def _truths(truth: object, asked: ChoiceSet) -> Iterator[str | None]:
    """The true label of each picture, for ever None where there is no truth."""
    if truth is None:
        while True:
            yield None
    if isinstance(truth, (str, bytes)) or not isinstance(truth, Iterable):
        raise OptionError("one truth for many pictures", have=shorten(repr(truth), 80), hint="truth=[…]")
    n = 0
    for item in truth:
        n += 1
        is_unknown = item is None or is_nan(item)
        yield None if is_unknown else asked.labels[asked.position_of(item)]
    raise OptionError(
        f"{n} true labels for more pictures", have="one for each picture", hint="None where nobody knows"
    )


def _refuse_left_over(truths: Iterator[str | None], n_pictures: int) -> None:
    """Raise for more true labels than pictures."""
    try:
        left = next(truths)
    except OptionError:
        return  # all used up
    if left is not None:
        raise OptionError(f"more true labels than pictures: {n_pictures} pictures", hint="one for each")
