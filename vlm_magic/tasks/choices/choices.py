"""Choices as people have them, and what came out: from a list, Enum or dict to the likeliest reply.

`ChoiceSet` reads choices from whatever a notebook holds them in, `Choices` is the result of one
question. How a choice is scored and what the normalisations mean stands in
`vlm_magic.choice_scores`.

Knows replies; nothing of engines or IPython. Neighbours: `classify` asks about pictures,
`vlm_magic.outputs.results.choices` draws the bars.
"""

from __future__ import annotations

import enum
import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import GenerationError, OptionError, near_names
from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Choice, Reply, Settings
from vlm_magic.outputs.results.choices import choices_html, choices_plain, percent
from vlm_magic.outputs.styles import framed
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ChoiceSet", "Choices", "is_nan"]

_MAX_CHOICES = 1_000  # each is a row of the model's batch


@dataclass(frozen=True)
class ChoiceSet:
    """The choices of a question.

    Attributes:
        texts: what the model is scored on, one text each.
        labels: how people call them; the texts, but for a dict of label → text.
        values: the objects that they came from (members of an Enum, numbers, …).
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[object, ...]

    @classmethod
    def of(cls, obj: object, name: str = "choices") -> ChoiceSet:
        """Read choices from a list, tuple, set, Series, array, Enum or dict.

        Of a dict with texts on both sides the keys are the labels and the values what the model is scored
        on; with texts on one side these are the choices, and the other side their values. Numbers and
        members of an Enum are taken by their text; of a categorical Series its categories.

        Args:
            obj: what holds the choices.
            name: how the person calls it, for errors.

        Raises:
            OptionError: none, one, an empty one, two alike, or something that is no text.
        """
        found = [_read_one(label, item, name) for label, item in _items(obj, name)]
        if not found:
            raise OptionError(f"{name} holds no choices", have="nothing in it", hint='["yes", "no"]')
        if len(found) > _MAX_CHOICES:
            raise OptionError(f"{name} holds more than {_MAX_CHOICES} choices", hint=f"{name}[:20]")
        texts, labels, values = zip(*found, strict=True)
        _refuse_twice(texts, labels, name)
        Settings(choices=texts)  # one choice alone, an empty one
        return cls(texts, labels, values)

    def position_of(self, truth: object) -> int:
        """Which choice a true label means: by its label, its text or its value.

        Raises:
            OptionError: none of them.
        """
        for known in (self.labels, self.texts, self.values):
            for n, item in enumerate(known):
                if type(item) is type(truth) and item == truth:
                    return n
        words = str(truth)
        if words in self.labels:
            return self.labels.index(words)
        near = near_names(words, self.labels)
        raise OptionError(
            f"the truth {shorten(repr(truth), 60)} is not among the choices",
            have=", ".join(map(repr, self.labels[:12])),
            hint=f"{near[0]!r}" if near else "the same words as the choices",
            truth=truth,
        )


def _items(obj: object, name: str) -> Iterable[tuple[object, object]]:
    """(label or None, item) of whatever holds choices."""
    if isinstance(obj, (str, bytes)):
        words = obj.decode(errors="replace") if isinstance(obj, bytes) else obj
        listed = [word.strip() for word in words.split(",") if word.strip()]
        raise OptionError(
            f"{name} is one text, not several choices",
            have=shorten(repr(words), 100),
            hint=f"{name} = {listed!r}" if len(listed) > 1 else f'{name} = ["yes", "no"]',
        )
    if isinstance(obj, enum.EnumMeta):
        members: list[Any] = list(obj)
        return [(None, member) for member in members]
    if isinstance(obj, Mapping):
        return list(obj.items())
    if sniff.is_frame(obj):
        raise OptionError(f"{name} is a table", have="columns", hint=f'one of them: {name}["label"]')
    if sniff.is_series(obj) and hasattr(getattr(obj, "dtype", None), "categories"):
        return [(None, item) for item in obj.dtype.categories]  # type: ignore[attr-defined]
    if isinstance(obj, (set, frozenset)):
        return [(None, item) for item in sorted(obj, key=str)]
    if isinstance(obj, Iterable):
        try:
            return [(None, item) for item in islice(obj, _MAX_CHOICES + 1)]
        except Exception as error:  # a stranger's generator
            cause = shorten(f"{type(error).__name__}: {error}", 120)
            raise OptionError(f"{name} cannot be read", have=cause, hint='["yes", "no"]') from error
    raise OptionError(
        f"{name} is a {type(obj).__name__}, not a list of choices",
        have=shorten(repr(obj), 100),
        hint='["yes", "no"], a tuple, Series, Enum or dict',
    )


def _read_one(label: object, item: object, name: str) -> tuple[str, str, object]:
    """(text, label, value) of one choice."""
    if label is None:
        text = _text_of(item, name)
        return text, text, item
    if isinstance(label, str) and isinstance(item, str):
        return _text_of(item, name), label, label
    if isinstance(item, (str, enum.Enum)) or not isinstance(label, str):
        text = _text_of(item, name)
        return text, text, label
    text = _text_of(label, name)
    return text, text, item


def _text_of(item: object, name: str) -> str:
    """The words of a choice, without the blanks around them."""
    if isinstance(item, enum.Enum):
        item = item.value if isinstance(item.value, str) else item.name
    is_number = isinstance(item, (numbers.Number, bool)) or sniff.has_type(item, "numpy.generic")
    if isinstance(item, str) or (is_number and not is_nan(item)):
        text = " ".join(str(item).split())
        if not text:
            raise OptionError(f"{name} has an empty choice", have=repr(item), hint="words for each choice")
        return text
    raise OptionError(
        f"{name} has a choice that is not text: {type(item).__name__}",
        have=shorten(repr(item), 80),
        hint="texts, numbers or members of an Enum",
    )


def is_nan(item: object) -> bool:
    """Whether it is the number that is none."""
    try:
        return math.isnan(item)  # type: ignore[arg-type]
    except TypeError:
        return False


def _refuse_twice(texts: Sequence[str], labels: Sequence[str], name: str) -> None:
    twice = [text for known in (texts, labels) for text, n in Counter(known).items() if n > 1]
    if twice:
        raise OptionError(
            f"{name} has a choice twice: {', '.join(map(repr, twice[:3]))}",
            have=f"{len(texts)} choices, {len(set(texts))} different",
            hint=f"list(dict.fromkeys({name}))" if name.isidentifier() else "each choice once",
        )


class Choices:
    """The outcome of one question with choices; what ``-o`` gets.

    Args:
        reply: the answer, with its choices.
        asked: what was asked; read off the reply if not given.

    Attributes:
        reply: the answer.
        asked: the choices as they were given.

    Raises:
        GenerationError: a stop or a time limit came before they were compared.
    """

    def __init__(self, reply: Reply, asked: ChoiceSet | None = None) -> None:
        if not reply.choices:
            raise GenerationError(
                "the choices were not compared to the end",
                have=f"the answer was cut off: {reply.finish_reason}",
                hint="a longer --time-limit, or fewer choices",
            )
        texts = tuple(choice.text for choice in reply.choices)
        self.reply = reply
        self.asked = asked or ChoiceSet(texts, texts, texts)
        self._best = max(range(len(texts)), key=lambda n: reply.choices[n].score)

    @property
    def best(self) -> str:
        """The choice with the highest score."""
        return self.asked.labels[self._best]

    @property
    def value(self) -> object:
        """The object that the best choice came from: a member of an Enum, a number, …."""
        return self.asked.values[self._best]

    @property
    def probability(self) -> float:
        """That of the best choice."""
        return self.reply.choices[self._best].probability

    @property
    def probabilities(self) -> dict[str, float]:
        """Each choice's share; they add up to 1."""
        return self._by_label(lambda choice: choice.probability)

    @property
    def log_probabilities(self) -> dict[str, float]:
        """The natural logarithm of the model's own probability of each whole reply, not normalised."""
        return self._by_label(lambda choice: choice.log_probability)

    @property
    def scores(self) -> dict[str, float]:
        """What was compared: the log-probabilities, normalised as asked."""
        return self._by_label(lambda choice: choice.score)

    def to_series(self) -> pd.Series[float]:
        """The probabilities as a pandas Series, the likeliest first.

        Raises:
            OptionError: pandas is not installed.
        """
        pandas = need_pandas("to_series", have=".probabilities works without it")
        series = pandas.Series(self.probabilities, name="probability", dtype=float)
        series.index.name = "choice"
        ordered: pd.Series[float] = series.sort_values(ascending=False, kind="stable")
        return ordered

    def _by_label(self, read: Callable[[Choice], float]) -> dict[str, float]:
        return dict(zip(self.asked.labels, map(read, self.reply.choices), strict=True))

    def _shown(self) -> list[Choice]:
        """The choices under the labels that the person gave them."""
        pairs = zip(self.asked.labels, self.reply.choices, strict=True)
        return [Choice(label, c.probability, c.log_probability, c.n_tokens, c.score) for label, c in pairs]

    def __str__(self) -> str:
        return self.best

    def __repr__(self) -> str:
        ranked = sorted(self.probabilities.items(), key=lambda pair: -pair[1])
        shown = ", ".join(f"{label!r} {percent(share)}" for label, share in ranked[:4])
        return f"<Choices: {shown}{', …' if len(ranked) > 4 else ''}>"

    def _repr_html_(self) -> str:
        return framed(f'<div class="vlm-turn">{choices_html(self._shown())}</div>')

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self._repr_html_(), "text/plain": choices_plain(self._shown())}
