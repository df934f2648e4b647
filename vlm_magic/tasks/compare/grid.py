"""A grid of settings for one prompt, and the answers in it with their time, tokens and memory.

`Comparison` is the grid, its combinations in order and what came of each. Knows grids and settings, not
engines, cells or notebooks. Neighbours: `run` answers it, `vlm_magic.outputs.results.compare` shows it,
`vlm_magic.tasks.examples` makes the turns of ``n_examples``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from vlm_magic.errors import OptionError, PromptError, VLMError, near_names
from vlm_magic.messages import Part, Picture, Reply, Settings, Turn
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.outputs.fragments import Thumbnailer
from vlm_magic.outputs.results.compare import GridCell, comparison_bundle
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.wording import count_words

__all__ = ["AXES", "Compared", "Comparison", "axis_name", "load_changes"]

_MAX_ANSWERS = 200  # a slip of the keyboard, not a comparison that a person could read
_SETTINGS = (
    *("temperature", "top_p", "top_k", "sampling", "seed", "beams", "repetition_penalty"),
    *("max_tokens", "time_limit_s", "stop", "bad_words", "system", "continuation"),
)
_LOADS = ("quantize", "dtype", "attn", "device", "splitting", "picture_tokens", "revision", "adapter")
AXES = ("model", "n_examples", *_LOADS, *_SETTINGS)
"""What can differ between the answers of a grid; what lets a checkpoint run code cannot."""
_SPELLINGS = {"models": "model", "examples": "n_examples", "time_limit": "time_limit_s"}
_SHOWN = {name: spelling for spelling, name in _SPELLINGS.items()} | {"model": "model"}


@dataclass(frozen=True)
class Compared:
    """One combination of a grid and what came of it.

    Attributes:
        values: of each axis, by its name.
        reply: the answer, partial where it was interrupted; None where there is none.
        error: why there is none.
        weights_bytes: the model's weights as they lie in memory; None where nobody can tell.
        peak_bytes: the most that was taken beyond that, caches and working memory, while it answered;
            None where the system does not tell.
    """

    values: Mapping[str, object]
    reply: Reply | None = None
    error: VLMError | None = None
    weights_bytes: int | None = None
    peak_bytes: int | None = None

    @property
    def is_done(self) -> bool:
        """Whether it was answered to the end, or failed."""
        return self.error is not None or (self.reply is not None and not self.reply.is_partial)

    @property
    def label(self) -> str:
        """Its values in words: ``starter · temperature 0``."""
        return " · ".join(_value_label(name, value) for name, value in self.values.items())


class Comparison:
    """A grid of settings for one prompt. Iterate it for its rows, the last axis running fastest.

    Args:
        parts: the prompt.
        axes: the values of each axis, by its name (see `AXES`).
        settings: what holds for all answers.
        examples: turns that stand before the question, as many as ``n_examples`` says.

    Attributes:
        parts: likewise.
        axes: likewise.
        rows: one for each combination, answered or not.

    Raises:
        PromptError: no picture and no word to answer.
        OptionError: no such axis, no values, a value twice or out of its range, a grid of more than 200.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        axes: Mapping[str, Sequence[object]],
        settings: Settings | None = None,
        examples: Sequence[Turn] = (),
    ) -> None:
        self.parts = tuple(parts)
        self.axes = {axis_name(name): tuple(values) for name, values in axes.items()}
        self.settings = settings or Settings()
        self.examples = _by_example(examples)
        self._check()
        names = list(self.axes)
        self.rows = [Compared(dict(zip(names, values, strict=True))) for values in product(*self._values())]
        self.waiting = ""
        self.current: int | None = None

    def _values(self) -> list[tuple[object, ...]]:
        return list(self.axes.values())

    def _check(self) -> None:
        if not any(isinstance(part, Picture) or part.text.strip() for part in self.parts):
            raise PromptError("an empty prompt", hint="a question, a picture, or both")
        if not self.axes:
            raise OptionError("nothing to compare", have=", ".join(AXES), hint="temperature=0,0.7")
        n_answers = 1
        for name, values in self.axes.items():
            if not values:
                raise OptionError(f"{_shown(name)} has no values", hint=f"{_shown(name)}=…,…", name=name)
            for n, value in enumerate(values):
                if value in values[:n]:
                    raise OptionError(f"{_shown(name)}={value} appears twice", name=name, value=value)
                self._check_value(name, value)
            n_answers *= len(values)
        if n_answers > _MAX_ANSWERS:
            raise OptionError(
                f"a grid of {n_answers} answers", have=f"at most {_MAX_ANSWERS}", n_answers=n_answers
            )

    def _check_value(self, name: str, value: object) -> None:
        """Alone, each value must be possible; together, only some may be, and their rows say so."""
        if name in _SETTINGS:
            Settings().updated({name: value})
        elif name in _LOADS:
            LoadOptions.from_values({name: value})
        elif name == "n_examples" and not (
            isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= len(self.examples)
        ):
            raise OptionError(
                f"examples={value} does not fit",
                have=count_words(len(self.examples), "example"),
                hint=f"numbers from 0 to {len(self.examples)}" if self.examples else "--examples FRAME",
                name=name,
                value=value,
            )

    def __iter__(self) -> Iterator[Compared]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, n: int) -> Compared:
        return self.rows[n]

    @property
    def n_done(self) -> int:
        """How many rows were answered to the end, or failed."""
        return sum(row.is_done for row in self.rows)

    def turns_of(self, row: Compared) -> tuple[Turn, ...]:
        """What the model is shown for a row: the examples that it asks for, then the question."""
        n_examples = row.values.get("n_examples", len(self.examples))
        assert isinstance(n_examples, int)
        shots = tuple(turn for example in self.examples[:n_examples] for turn in example)
        return (*shots, Turn("user", self.parts))

    def settings_of(self, row: Compared) -> Settings:
        """How a row is answered.

        Raises:
            OptionError: values that do not go together, as beams and a temperature.
        """
        return self.settings.updated({k: v for k, v in row.values.items() if k in _SETTINGS})

    def records(self) -> list[dict[str, object]]:
        """A flat record for each row: values, answer, figures (seconds, tokens, bytes), error."""
        return [{**row.values, **_figures(row)} for row in self.rows]

    def to_frame(self) -> Any:
        """The records as a pandas DataFrame; figures that there are not are missing values.

        Raises:
            OptionError: pandas is not installed.
        """
        pandas, records = need_pandas("to_frame", have=".records() works without it"), self.records()
        frame = pandas.DataFrame(records)
        if records:  # a column of type str would drop the mark of what a model said
            frame["answer"] = pandas.Series([record["answer"] for record in records], dtype=object)
        return frame

    def bundle(self, thumbnail: Thumbnailer | None = None) -> dict[str, str]:
        """The grid as a mimebundle: html, markdown and plain text.

        Args:
            thumbnail: makes the data URI of a picture; None keeps pictures out.
        """
        cells = [self._cell(n, row) for n, row in enumerate(self.rows)]
        axes = {
            _shown(name): [_plain_value(name, value) for value in values]
            for name, values in self.axes.items()
        }
        return comparison_bundle(self.parts, axes, cells, thumbnail=thumbnail)

    def _cell(self, n: int, row: Compared) -> GridCell:
        waiting = "" if row.is_done or row.reply else self.waiting if n == self.current else "not asked"
        return GridCell(
            reply=row.reply,
            error=f"{type(row.error).__name__}: {row.error}" if row.error else "",
            waiting=waiting,
            weights_bytes=row.weights_bytes,
            peak_bytes=row.peak_bytes,
        )

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return self.bundle()


def axis_name(name: str) -> str:
    """The name of an axis from how people write it: ``models``, ``max-tokens``.

    Raises:
        OptionError: there is none of that name.
    """
    plain = name.replace("-", "_")
    known = _SPELLINGS.get(plain, plain)
    if known in AXES:
        return known
    near = near_names(plain, [*AXES, *_SPELLINGS])
    raise OptionError(
        f"{name} cannot be compared",
        have=", ".join(_shown(n) for n in near or AXES),
        hint=f"{_shown(near[0])}=…" if near else "models=…, temperature=…",
        name=name,
    )


def load_changes(row: Compared) -> tuple[str | None, dict[str, object]]:
    """Which model answers a row (None for the one in use), and the load options that the row sets."""
    name = row.values.get("model")
    return None if name is None else str(name), {k: v for k, v in row.values.items() if k in _LOADS}


def _by_example(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """Turns cut before each one of the person's: what is asked, with its answer."""
    cut: list[list[Turn]] = []
    for turn in turns:
        if turn.role != "assistant" or not cut:
            cut.append([])
        cut[-1].append(turn)
    return [tuple(example) for example in cut]


def _figures(row: Compared) -> dict[str, object]:
    reply = row.reply
    return {
        "answer": reply.text if reply else None,
        "first_token_s": reply.ttft_s if reply else None,
        "total_s": reply.total_s if reply else None,
        "n_prompt_tokens": reply.n_prompt_tokens if reply else None,
        "n_reused_tokens": reply.n_reused_tokens if reply else None,
        "n_new_tokens": reply.n_new_tokens if reply else None,
        "finish_reason": reply.finish_reason if reply else None,
        "probability": max(choice.probability for choice in reply.choices)
        if reply and reply.choices
        else None,
        "weights_bytes": row.weights_bytes,
        "peak_bytes": row.peak_bytes,
        "error": str(row.error) if row.error else None,
    }


def _shown(name: str) -> str:
    return _SHOWN.get(name, name).replace("_", "-")


def _plain_value(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none" if name == "quantize" else "as it is"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value_label(name: str, value: object) -> str:
    return _plain_value(name, value) if name == "model" else f"{_shown(name)} {_plain_value(name, value)}"
