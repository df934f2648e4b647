"""Answer a grid: row by row, each model loaded once, times that can be compared.

Models are lent by whoever holds them (see `Lends`); those that are there already come first. An error of
one combination is kept in its row and the rest goes on; an interrupt leaves the rows that are done. Every
answer is computed from nothing, after one throwaway answer of its model; none of it touches a conversation.

Knows engines and grids, not names, cells or notebooks. Neighbours: `grid` holds the rows,
`vlm_magic.models.lending` lends models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Protocol, TypeAlias

from vlm_magic.errors import VLMError
from vlm_magic.messages import Engine, Reply, Settings, Turn, is_here, remembers
from vlm_magic.tasks.compare.grid import Compared, Comparison, load_changes

__all__ = ["Lends", "run"]


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


def run(
    comparison: Comparison, lender: Lends, on_change: Callable[[Comparison], None] | None = None
) -> Comparison:
    """Answer what is not answered yet, row by row, each model loaded once, those that are resident first.

    Args:
        comparison: is filled in place, so that an interrupt loses nothing that is done.
        lender: hands out the models; a `vlm_magic.models.lending.Lending`.
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


_Group: TypeAlias = tuple[str | None, dict[str, object], list[int]]


def _groups(comparison: Comparison, lender: Lends) -> list[_Group]:
    """Rows by the model that answers them: its name, its load options, numbers of rows; residents first."""
    groups: list[_Group] = []
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
        if remembers(engine):
            around.enter_context(engine.from_nothing())
            if (
                is_several not in warmed
            ):  # first calls of a model allocate, compile and check more than others
                _answer(engine, turns, replace(settings, max_tokens=1, beams=1), lambda _: None)
                warmed.add(is_several)
                engine.forget()
        done = row

        def keep(reply: Reply | None) -> None:
            nonlocal done
            done = replace(row, reply=reply, weights_bytes=weights, peak_bytes=peak())
            comparison.rows[n] = done

        weights, peak = _memory(engine, around)
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


def _memory(engine: Engine, around: ExitStack) -> tuple[int | None, Callable[[], int | None]]:
    """Bytes of the weights, and a function for the peak beyond what is held now."""
    if not is_here(engine):
        return None, lambda: None
    from vlm_magic.models import memory

    peak = around.enter_context(memory.watched_peak(engine.loaded.device))
    return memory.real_bytes(engine.loaded.model), peak


def _without_frames(error: VLMError) -> VLMError:
    """The error to keep: its words, without the frames that would hold tensors and pictures."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
