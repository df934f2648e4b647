"""One prompt under a grid of settings: answers side by side, with their time, tokens and memory.

`Comparison` is the grid, its combinations in order and what came of each; `run` answers them. Models are
lent by whoever holds them (see `Lends`): each is loaded once, those that are there already come first. An
error of one combination is kept in its row and the rest goes on; an interrupt leaves the rows that are
done. Every answer is computed from nothing, after one throwaway answer of its model, so that times can be
compared; none of it touches a conversation.

Knows engines and grids, not names, cells or notebooks. Neighbours: `vlm_magic.models.guests` lends models,
`vlm_magic.outputs.compare` shows the grid, `examples` makes the turns of ``n_examples``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from vlm_magic.errors import OptionError, PromptError, VLMError, near_names
from vlm_magic.messages import Engine, Part, Picture, Reply, Settings, Turn
from vlm_magic.models.options import LoadOptions
from vlm_magic.outputs.cards import Thumbnailer
from vlm_magic.outputs.compare import GridCell, comparison_bundle

if TYPE_CHECKING:
    from vlm_magic.models.engine import LocalEngine

__all__ = ["AXES", "Compared", "Comparison", "Lends", "axis_name", "load_changes", "run"]

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


class Lends(Protocol):
    """Whoever holds models and hands them out for a while."""

    def is_resident(self, name: str | None, changes: Mapping[str, object]) -> bool:
        """Whether this model is there already, loaded in this way."""

    def lend(
        self,
        name: str | None,
        changes: Mapping[str, object],
        *,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> AbstractContextManager[Engine]:
        """An engine for the length of a block."""


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
                    raise OptionError(f"{_shown(name)}={value} is there twice", name=name, value=value)
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
                have=f"{len(self.examples)} examples" if self.examples else "no examples were given",
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
        """The records as a pandas DataFrame; figures that there are not are missing values."""
        import pandas as pd

        return pd.DataFrame(self.records())

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
        f"{name} is nothing to compare",
        have=", ".join(_shown(n) for n in near or AXES),
        hint=f"{_shown(near[0])}=…" if near else "models=…, temperature=…",
        name=name,
    )


def run(
    comparison: Comparison, lender: Lends, on_change: Callable[[Comparison], None] | None = None
) -> Comparison:
    """Answer what is not answered yet, row by row, each model loaded once, those that are resident first.

    Args:
        comparison: is filled in place, so that an interrupt loses nothing that is done.
        lender: hands out the models; a `vlm_magic.models.guests.Lending`.
        on_change: called whenever there is news to show.

    Raises:
        KeyboardInterrupt: the answer under way is kept as far as it came.
    """
    changed = on_change or (lambda _: None)

    def tell(n: int, waiting: str) -> None:
        comparison.current, comparison.waiting = n, waiting
        changed(comparison)

    for name, changes, numbers in _groups(comparison, lender):
        try:
            _answer_group(comparison, lender, name, changes, numbers, tell)
        except VLMError as error:
            for n in numbers:
                if not comparison.rows[n].is_done:
                    comparison.rows[n] = replace(comparison.rows[n], error=_without_frames(error))
    comparison.current, comparison.waiting = None, ""
    changed(comparison)
    return comparison


def load_changes(row: Compared) -> tuple[str | None, dict[str, object]]:
    """Which model answers a row (None for the one in use), and the load options that the row sets."""
    name = row.values.get("model")
    return None if name is None else str(name), {k: v for k, v in row.values.items() if k in _LOADS}


Group = tuple[str | None, dict[str, object], list[int]]


def _groups(comparison: Comparison, lender: Lends) -> list[Group]:
    """Rows by the model that answers them: its name, its load options, numbers of rows; residents first."""
    groups: list[Group] = []
    for n, row in enumerate(comparison.rows):
        if row.is_done:
            continue
        name, changes = load_changes(row)
        for known, known_changes, numbers in groups:
            if (known, known_changes) == (name, changes):
                numbers.append(n)
                break
        else:
            groups.append((name, changes, [n]))
    return sorted(groups, key=lambda group: not _is_resident(lender, *group[:2]))


def _is_resident(lender: Lends, name: str | None, changes: dict[str, object]) -> bool:
    try:
        return lender.is_resident(name, changes)
    except VLMError:  # said where it is asked
        return False


def _answer_group(
    comparison: Comparison,
    lender: Lends,
    name: str | None,
    changes: dict[str, object],
    numbers: Sequence[int],
    tell: Callable[[int, str], None],
) -> None:
    """The rows of one model."""
    first = numbers[0]
    if not _is_resident(lender, name, changes):
        tell(first, "loading")

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == "download":
            tell(first, f"downloading, {100 * done // max(total, 1)} %")

    with lender.lend(name, changes, on_progress=on_progress) as engine:
        warmed: set[bool] = set()
        for n in numbers:
            row = comparison.rows[n]
            tell(n, "answering")
            try:
                comparison.rows[n] = _answered(comparison, row, n, engine, warmed)
            except VLMError as error:
                comparison.rows[n] = replace(row, error=_without_frames(error))


def _answered(comparison: Comparison, row: Compared, n: int, engine: Engine, warmed: set[bool]) -> Compared:
    turns, settings = comparison.turns_of(row), comparison.settings_of(row)
    is_several = sum(len(turn.pictures) for turn in turns) > 1
    with ExitStack() as around:
        local = _local(engine)
        if local is not None:
            around.enter_context(local.from_nothing())
            if (
                is_several not in warmed
            ):  # first calls of a model allocate, compile and check more than others
                _answer(engine, turns, replace(settings, max_tokens=1, beams=1), lambda _: None)
                warmed.add(is_several)
                local.reuse.clear()
        done = row

        def keep(reply: Reply | None) -> None:
            nonlocal done
            done = replace(row, reply=reply, weights_bytes=weights, peak_bytes=peak())
            comparison.rows[n] = done

        weights, peak = _memory(local, around)
        _answer(engine, turns, settings, keep)
        return done


def _answer(
    engine: Engine, turns: Sequence[Turn], settings: Settings, keep: Callable[[Reply | None], None]
) -> None:
    generation = engine.start(turns, settings)
    try:
        for _ in generation:
            pass
    except KeyboardInterrupt:
        generation.stop()
        keep(generation.wait())
        raise
    keep(generation.wait())


def _local(engine: Engine) -> LocalEngine | None:
    from vlm_magic.models.engine import LocalEngine

    return engine if isinstance(engine, LocalEngine) and not engine.is_closed else None


def _memory(local: LocalEngine | None, around: ExitStack) -> tuple[int | None, Callable[[], int | None]]:
    """Bytes of the weights, and a function for the peak beyond what is held now."""
    if local is None or local.loaded is None:
        return None, lambda: None
    from vlm_magic.models import memory

    peak = around.enter_context(memory.watched_peak(local.loaded.device))
    return memory.real_bytes(local.loaded.model), peak


def _without_frames(error: VLMError) -> VLMError:
    """The error to keep: its words, without the frames that would hold tensors and pictures."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


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
