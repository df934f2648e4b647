"""One prompt over many pictures: open ahead, ask in batches, keep what is answered, give a table.

`PictureMap` is the run: iterate it for its rows as they are answered, close it (or interrupt) and what is
there is kept. Each picture is asked outside any conversation, and opened while the model answers others,
so that a generator of a million pictures is never held whole. Rows that were answered before (in this
kernel, or in a journal on disk) are not asked again.

Knows engines, prompts and rows, not IPython or how anything is shown. Neighbours: `batches`
asks here and `cluster` elsewhere, `ledger` has what is done, `calls` does it all in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_magic.errors import OptionError, PromptError, VLMError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Engine, Reply, Settings, Turn
from vlm_magic.tasks.map.batches import BatchedRun
from vlm_magic.tasks.map.cluster.engine import ClusterEngine
from vlm_magic.tasks.map.cluster.run import ClusterRun
from vlm_magic.tasks.map.in_flight import InFlightRun, run_here
from vlm_magic.tasks.map.journal import FileJournal, Journal, remembered
from vlm_magic.tasks.map.ledger import Ledger
from vlm_magic.tasks.map.partitions import Partitions
from vlm_magic.tasks.map.prompt import MapPrompt, digest_of_parts
from vlm_magic.tasks.map.rows import Items, items_of
from vlm_magic.tasks.map.table import MappedRow, table_of
from vlm_magic.tasks.map.window import Window
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PictureMap"]


class PictureMap:
    """A prompt on its way over many pictures.

    Args:
        engine: who answers: here, or on the workers of a cluster.
        prompt: the words; ``{picture}`` is the place of the row's picture (first if absent),
            ``{row.title}`` a column of its table, other ``{names}`` as in any cell. Or a prompt that is
            read already.
        pictures: a column, list, dict (name → picture), array batch, generator, glob or folder; or the
            rows that `vlm_magic.tasks.map.rows.items_of` made of them.
        table: a frame, or one mapping or object for each row, for ``{row.…}``.
        names: the variables that the prompt may use.
        name: how people call ``pictures``.
        examples: turns before every question, see `vlm_magic.tasks.examples`.
        read: makes the answer of a reply (a typed value, the label of a choice); its text if not given.
            What it raises is the row's error.
        batch_size: rows at a time; about what the machine takes if not given.
        journal: a file that finished rows are written to, and found in by the next run.
        into: a folder that gets the rows as Parquet files instead, for a table that does not fit here.
        resume: False asks every picture again.
        raw: take the prompt as it stands.
        first_line: the line of the cell that the prompt begins on, for errors.
        options: limits of pictures and downloads.
        settings: how to answer.

    Attributes:
        rows: the finished rows, in the order in which they were finished, without pictures.
        n_total: how many there are, or None where nobody knows before the end.

    Raises:
        VLMError: whatever can be known to be wrong before the first picture is asked.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: str | MapPrompt,
        pictures: object,
        *,
        table: object = None,
        names: Mapping[str, object] | None = None,
        name: str = "",
        examples: Sequence[Turn] = (),
        read: Callable[[Reply], object] | None = None,
        batch_size: int | None = None,
        journal: str | Path | None = None,
        into: str | Path | None = None,
        resume: bool = True,
        raw: bool = False,
        first_line: int = 1,
        options: PictureOptions | None = None,
        settings: Settings | None = None,
    ) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise OptionError(
                f"batch_size is {batch_size!r}", have="a whole number, at least 1", hint="batch_size=8"
            )
        self.engine = engine
        self.settings = settings or Settings()
        options = options or PictureOptions()
        if isinstance(prompt, str):
            prompt = MapPrompt(prompt, names, raw=raw, first_line=first_line, options=options)
        self._examples = tuple(examples)
        self._items = pictures if isinstance(pictures, Items) else items_of(pictures, table, name=name)
        header = _header(engine, prompt, self._examples, self.settings)
        self._partitions = None if into is None else _partitions(into, header, journal, resume=resume)
        if self._partitions is not None:
            self._items = replace(self._items, rows=self._partitions.items(self._items.rows))
        self._ledger = Ledger(
            self._partitions or _journal(header, journal, resume=resume),
            read or (lambda reply: reply.text),
            is_typed=bool(self.settings.grammar),
            keeps_rows=into is None,
        )
        self._prompt = prompt
        self._window = Window(self._items.rows, prompt, options)
        self._run, self._source = self._planned(prompt, options, batch_size)
        self.n_total = self._items.n

    def _planned(
        self, prompt: MapPrompt, options: PictureOptions, batch_size: int | None
    ) -> tuple[BatchedRun | InFlightRun | ClusterRun, Window | ClusterRun]:
        """Who asks the rows, and what says whether there are more."""
        if isinstance(self.engine, ClusterEngine):
            away = ClusterRun(
                self.engine,
                self.settings,
                self._examples,
                self._items.rows,
                self._items.n,
                prompt,
                options,
                self._ledger,
                batch_size,
            )
            return away, away
        here = run_here(self.engine, self.settings, self._examples, self._window, self._ledger, batch_size)
        return here, self._window

    @property
    def rows(self) -> list[MappedRow]:
        """The finished rows, in the order in which they were finished, without pictures."""
        return self._ledger.rows

    @property
    def unseen(self) -> list[MappedRow]:
        """Rows that had come when the loop was left early, and are kept: a cluster answers in slices."""
        return self._run.unseen if isinstance(self._run, ClusterRun) else []

    @property
    def n_done(self) -> int:
        """Finished rows."""
        return self._ledger.n_done

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the person: halved batches, a generator that raised, a journal that is full."""
        notes = tuple(self._ledger.notes)
        if self._partitions is not None and self._partitions.n_skipped:
            notes += (f"{self._partitions.n_skipped:,} rows were there in finished files",)
        return notes

    @property
    def figures(self) -> list[str]:
        """What else is going on, in words: the workers of a cluster."""
        return self.engine.figures if isinstance(self.engine, ClusterEngine) else []

    @property
    def last_figures(self) -> list[str]:
        """What a person should know at the end: how long a cluster took before the first row."""
        return self.engine.last_figures if isinstance(self.engine, ClusterEngine) else []

    @property
    def n_kept(self) -> int:
        """Rows that an earlier run had answered."""
        return self._ledger.n_kept

    @property
    def is_complete(self) -> bool:
        """Whether no row is left."""
        source = self._source
        return source.is_drained and not len(source) and source.source_error is None

    def to_frame(self) -> pd.DataFrame:
        """The finished rows in the order of the pictures.

        Returns:
            A pandas DataFrame with the columns ``picture`` (its name), ``answer``, ``tokens``, ``seconds``
            and ``error`` (None for an answer); with choices also ``probability`` of the best one and
            ``probabilities``. The index is that of the pictures' own column, or the
            keys of their dict. Of rows that went into a folder: its files, with their rows and errors.

        Raises:
            OptionError: pandas is not installed.
        """
        if self._partitions is not None:
            return self._partitions.to_frame()
        return table_of(
            self.rows, has_choices=bool(self.settings.choices), is_labelled=self._items.is_labelled
        )

    def preview(self) -> tuple[Turn, ...]:
        """The turns of the first row, which is taken from the pictures for good.

        Raises:
            PromptError: there is no picture.
        """
        found = self._window.first_question()
        self._ledger.close()
        if found is None:
            raise PromptError("no pictures to map over", have="an empty collection", hint="--map pictures")
        return (*self._examples, found[1])

    def turns(self, row: MappedRow) -> tuple[Turn, ...]:
        """What was asked in a row that has just come out of the loop: examples, and its question.

        Raises:
            PromptError: an expression of the row failed.
        """
        assert row.view is not None, "a row of the loop"
        return (*self._examples, self._prompt.turn(row.pictures, row.view))

    def __iter__(self) -> Iterator[MappedRow]:
        """The rows as they are finished; leaving the loop early stops the model and keeps what is there.

        Raises:
            VLMError: the model is gone, or fails at every row. What a generator of pictures raised is
                kept for the end: then every row before it is finished.
        """
        try:
            yield from self._run.rows()
            if self.settings.is_sampling and self.settings.seed is None:
                self._ledger.forget_what_was_drawn()
        finally:
            self._ledger.close()
        if self._source.source_error is not None:
            raise self._failed_source(self._source.source_error)

    def _failed_source(self, error: Exception) -> VLMError:
        if isinstance(error, VLMError):
            return error
        failure = PromptError(
            f"the pictures ended with {type(error).__name__}: {shorten(error, 100)}",
            have=f"{self.n_done} rows before it are kept",
            hint="run it again once that is mended: only what is missing is asked",
        )
        failure.__cause__ = error
        return failure


def _journal(header: Mapping[str, object], path: str | Path | None, *, resume: bool) -> Journal:
    """The journal at ``path``, or what this process remembers of the same map."""
    if path is not None:
        if not resume:
            raise OptionError(
                "a journal resumes a map, and --new asks every picture again",
                have=f"--journal {shorten(path, 80)} together with --new",
                hint="--journal with a new file",
            )
        return FileJournal(path, header)
    kept = remembered(header)
    if not resume:
        kept.clear()
    return kept


def _partitions(
    folder: str | Path, header: Mapping[str, object], journal: str | Path | None, *, resume: bool
) -> Partitions:
    """The parts of a map in a folder, which has journals of its own."""
    if journal is not None or not resume:
        raise OptionError(
            "a folder of parts has its own journals and goes on where it stopped",
            have="--into together with --journal or --new",
            hint="--into with a new folder, alone",
        )
    return Partitions(folder, header)


def _header(
    engine: Engine, prompt: MapPrompt, examples: Sequence[Turn], settings: Settings
) -> dict[str, object]:
    """What a journal knows of a map: prompt, model, settings and examples, as plain JSON values."""
    default = Settings()
    changed = {
        name: value
        for name in Settings.names()
        if (value := getattr(settings, name)) != getattr(default, name)
    }
    return {
        "prompt": "".join(prompt.text),
        "content": prompt.identity,
        "model": dict(engine.identity),
        "settings": {name: list(v) if isinstance(v, tuple) else v for name, v in changed.items()},
        "examples": [f"{turn.role}: {digest_of_parts(turn.parts)}" for turn in examples],
    }
