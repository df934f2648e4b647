"""One prompt over many pictures: decode ahead, ask in batches, keep what is answered, give a table.

`PictureMap` is the run: iterate it for its rows as they are answered, close it (or interrupt) and what is
there is kept. Each picture is asked outside any conversation, and opened while the model answers others,
so that a generator of a million pictures is never held whole. Rows that were answered
before (in this kernel, or in a journal on disk) are not asked again.

Knows engines, prompts and rows, not IPython or how anything is shown. Neighbours: `map_window`
holds the rows that wait, `journal` those that are answered, `map_calls` does it all in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import ModelError, OptionError, OutOfMemoryError, PromptError, VLMError, shorten
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Choice, Chunk, Engine, Generating, Reply, Settings, Turn
from vlm_magic.tasks.journal import FileJournal, Journal, Memory, Record, remembered
from vlm_magic.tasks.map_prompt import MapPrompt, digest_of_parts
from vlm_magic.tasks.map_table import MappedRow, table_of
from vlm_magic.tasks.map_window import Waiting, Window, one_line
from vlm_magic.tasks.rows import items_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PictureMap"]

_ROWS = 16  # of a batch, where neither a person nor the engine says
_FIRST_SHARE = 4  # the first batch has a quarter of that: pictures of the second are processed beside it
_ROWS_AHEAD = 8  # that are opened while some are answered, or as many as a batch takes
_N_THREADS = 4  # that open pictures
_MAX_FAILURES = 8  # rows in a row that the model itself failed at, before any was answered


@dataclass(slots=True)
class _Figures:
    """What a run counts."""

    n_kept: int = 0
    n_answered: int = 0
    n_model_failures: int = 0
    n_rows_at_once: int = _ROWS
    notes: list[str] = field(default_factory=list)


class PictureMap:
    """A prompt on its way over many pictures.

    Args:
        engine: who answers.
        prompt: the words; ``{picture}`` is the place of the row's picture (first if absent),
            ``{row.title}`` a column of its table, other ``{names}`` as in any cell.
        pictures: a column, list, dict (name → picture), array batch, generator, glob or folder.
        table: a frame, or one mapping or object for each row, for ``{row.…}``.
        names: the variables that the prompt may use.
        name: how people call ``pictures``.
        examples: turns before every question, see `vlm_magic.tasks.examples`.
        read: makes the answer of a reply (a typed value, the label of a choice); its text if not given.
            What it raises is the row's error.
        batch_size: rows at a time; about what the machine takes if not given.
        journal: a file that finished rows are written to, and found in by the next run.
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
        prompt: str,
        pictures: object,
        *,
        table: object = None,
        names: Mapping[str, object] | None = None,
        name: str = "",
        examples: Sequence[Turn] = (),
        read: Callable[[Reply], object] | None = None,
        batch_size: int | None = None,
        journal: str | Path | None = None,
        resume: bool = True,
        raw: bool = False,
        first_line: int = 1,
        options: PictureOptions | None = None,
        settings: Settings | None = None,
    ) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise OptionError(f"batch_size is {batch_size!r}", have="a whole number, at least 1")
        self.engine = engine
        self.settings = settings or Settings()
        self._options = options or PictureOptions()
        self._prompt = MapPrompt(prompt, names, raw=raw, first_line=first_line, options=self._options)
        self._examples = tuple(examples)
        self._read = read or (lambda reply: reply.text)
        self._items = items_of(pictures, table, name=name)
        self._header = _header(engine, self._prompt, self._examples, self.settings)
        self._journal = self._open_journal(journal, resume)
        self._figures = _Figures(n_rows_at_once=batch_size or _ROWS)
        self._is_size_open = self._is_first_small = batch_size is None
        self._window = Window(self._items.rows, self._prompt, self._options)
        self._ahead: tuple[Future[None], Event] | None = None
        self.rows: list[MappedRow] = []
        self.n_total = self._items.n

    # What there is

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the person: halved batches, a generator that raised, a journal that is full."""
        return tuple(self._figures.notes)

    @property
    def n_kept(self) -> int:
        """Rows that an earlier run had answered."""
        return self._figures.n_kept

    @property
    def is_complete(self) -> bool:
        """Whether no row is left."""
        window = self._window
        return window.is_drained and not len(window) and window.source_error is None

    def to_frame(self) -> pd.DataFrame:
        """The finished rows in the order of the pictures.

        Returns:
            A pandas DataFrame with the columns ``picture`` (its name), ``answer``, ``tokens``, ``seconds``
            and ``error`` (None for an answer); with choices also ``probability`` of the best one and
            ``probabilities``. The index is that of the pictures' own column, or the keys of their dict.

        Raises:
            OptionError: pandas is not installed.
        """
        return table_of(
            self.rows, has_choices=bool(self.settings.choices), is_labelled=self._items.is_labelled
        )

    def preview(self) -> tuple[Turn, ...]:
        """The turns of the first row, which is taken from the pictures for good.

        Raises:
            PromptError: there is no picture.
        """
        found = self._window.first_question()
        self._journal.close()
        if found is None:
            raise PromptError("no pictures to map over")
        return (*self._examples, found[1])

    # The run

    def __iter__(self) -> Iterator[MappedRow]:
        """The rows as they are finished; leaving the loop early stops the model and keeps what is there.

        Raises:
            VLMError: the model is gone, or fails at every row. What a generator of pictures raised is
                kept for the end: then every row before it is finished.
        """
        try:
            with ThreadPoolExecutor(_N_THREADS, "vlm_magic picture") as pool:
                try:
                    yield from self._run(pool)
                finally:
                    self._end_look_ahead()
                    pool.shutdown(wait=False, cancel_futures=True)
        finally:
            self._journal.close()
        if self._window.source_error is not None:
            raise self._failed_source(self._window.source_error)

    def _run(self, pool: ThreadPoolExecutor) -> Iterator[MappedRow]:
        self._fill(pool)
        while len(self._window):
            yield from self._settled()
            if self._has_new_size():
                self._fill(pool)
                continue
            batch = self._window.take(self._n_rows_next)
            if batch:
                yield from self._answered(batch, pool)
            self._fill(pool)
        self._finish()

    @property
    def _n_rows_next(self) -> int:
        """Rows of the next batch."""
        is_first = self._is_first_small and not self._figures.n_answered
        return max(1, self._figures.n_rows_at_once // (_FIRST_SHARE if is_first else 1))

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        n_rows = self._figures.n_rows_at_once
        self._window.fill(pool, n_rows + max(n_rows, _ROWS_AHEAD))

    def _finish(self) -> None:
        """Random answers are drawn anew by the next run, unless a seed or a journal says otherwise."""
        if self.settings.is_sampling and self.settings.seed is None and isinstance(self._journal, Memory):
            self._journal.clear()

    def _settled(self) -> Iterator[MappedRow]:
        """The rows that need no model: those that cannot be asked and those that were answered before."""
        find = self._journal.find
        for waiting in self._window.settle(self._n_rows_next, lambda key: find(key) is not None):
            known = find(waiting.key)
            if waiting.error or known is None:
                yield self._failed(waiting, waiting.error)
            else:
                yield self._kept(waiting, known)

    def _has_new_size(self) -> bool:
        """Let the engine say, once, how many rows it takes at once; from the first question."""
        first = self._window.first_ready()
        rows_at_once: Any = getattr(self.engine, "rows_at_once", None)
        if not self._is_size_open or first is None or rows_at_once is None:
            return False
        self._is_size_open = False
        with suppress(VLMError):  # a question that does not fit is that row's own error
            self._figures.n_rows_at_once = rows_at_once(self._turns(first), self.settings)
        return True

    def _answered(self, batch: list[Waiting], pool: ThreadPoolExecutor) -> Iterator[MappedRow]:
        """Ask a batch; rows come as they are answered. What fails is asked again in smaller batches."""
        left = dict(enumerate(batch))
        self._end_look_ahead()
        try:
            generating = self._start([self._turns(waiting) for waiting in batch])
            self._fill(pool)  # pictures are opened while the model works
            self._look_ahead(pool)
            for chunk in generating:
                row, reply = _row_of(chunk, batch)
                if row is not None and reply is not None and row in left:
                    waiting = left.pop(row)
                    self._figures.n_model_failures = 0
                    yield self._finished(waiting, reply, len(batch))
        except OutOfMemoryError as error:
            if len(batch) > 1:
                self._halve(len(batch))
            elif left:
                yield self._failed(left.popitem()[1], one_line(error))
            self._window.put_back(list(left.values()))
        except VLMError as error:
            self._check_engine(error)
            if len(batch) == 1 and left:
                yield self._failed_in_model(left.popitem()[1], error)
            elif left:
                self._note(f"a batch failed, so its rows were asked one by one ({one_line(error)})")
            for waiting in left.values():  # one of them spoils the batch: each by itself
                yield from self._answered([waiting], pool)

    def _look_ahead(self, pool: ThreadPoolExecutor) -> None:
        """Have the next batch's pictures processed beside the model's work."""
        look_ahead: Any = getattr(self.engine, "look_ahead", None)
        if look_ahead is not None and len(self._window):
            is_over = Event()
            job = pool.submit(self._window.hand_on, self._figures.n_rows_at_once, look_ahead, is_over)
            self._ahead = job, is_over

    def _end_look_ahead(self) -> None:
        """Have the work beside the model's end, after the pictures that it is at."""
        if self._ahead is not None:
            job, is_over = self._ahead
            self._ahead = None
            is_over.set()
            if not job.cancel():
                wait([job])

    def _start(self, conversations: list[Sequence[Turn]]) -> Generating:
        start_batch: Any = getattr(self.engine, "start_batch", None)
        if start_batch is not None and len(conversations) > 1:
            generating: Generating = start_batch(conversations, self.settings)
            return generating
        if len(conversations) > 1:
            return _OneByOne(self.engine, conversations, self.settings)
        return self.engine.start(conversations[0], self.settings)

    def _turns(self, waiting: Waiting) -> Sequence[Turn]:
        assert waiting.turn is not None
        return (*self._examples, waiting.turn)

    def _halve(self, n_rows: int) -> None:
        n = self._figures.n_rows_at_once = max(1, n_rows // 2)
        self._note(f"memory ran out, so batches were halved to {n} row{'s' * (n > 1)}")

    def _check_engine(self, error: VLMError) -> None:
        """Raise what would be every row's error: the model is gone."""
        if getattr(self.engine, "is_closed", False) or (type(error) is ModelError):
            raise error

    def _failed_in_model(self, waiting: Waiting, error: VLMError) -> MappedRow:
        self._figures.n_model_failures += isinstance(error, ModelError)
        if self._figures.n_model_failures >= _MAX_FAILURES and not self._figures.n_answered:
            raise error
        return self._failed(waiting, one_line(error))

    # Rows that are done

    def _finished(self, waiting: Waiting, reply: Reply, n_rows: int) -> MappedRow:
        row = self._row(waiting, reply)
        record = Record(
            key=waiting.key,
            name=waiting.item.name,
            text=reply.text,
            probabilities={c.text: c.probability for c in reply.choices} if reply.choices else None,
            n_tokens=reply.n_new_tokens,
            seconds=round(reply.total_s / n_rows, 6),
            # What was read as a whole value is whole, wherever the tokens ended.
            finish_reason="stop" if self.settings.grammar and not row.error else reply.finish_reason,
            error=row.error,
        )
        self._figures.n_answered += 1
        self._write(record)
        return self._done(waiting, replace(row, seconds=record.seconds))

    def _kept(self, waiting: Waiting, record: Record) -> MappedRow:
        """A row that an earlier run answered."""
        self._figures.n_kept += 1
        shares = record.probabilities or {}
        reply = Reply(
            record.text,
            finish_reason=record.finish_reason,  # type: ignore[arg-type]
            n_new_tokens=record.n_tokens,
            choices=tuple(Choice(text, share, math.nan, 0, math.nan) for text, share in shares.items()),
        )
        row = replace(self._row(waiting, reply), seconds=record.seconds, is_kept=True)
        return self._done(waiting, row)

    def _failed(self, waiting: Waiting, error: str) -> MappedRow:
        item = waiting.item
        self._write(Record(waiting.key or f"row {item.position}", item.name, error=error))
        return self._done(waiting, MappedRow(item.position, item.label, item.name, error=error))

    def _row(self, waiting: Waiting, reply: Reply) -> MappedRow:
        item, answer, error = waiting.item, None, ""
        try:
            answer = self._read(reply)
        except VLMError as failure:
            error = one_line(failure)
        shares = {choice.text: choice.probability for choice in reply.choices}
        return MappedRow(
            item.position,
            item.label,
            item.name,
            answer,
            reply.text,
            shares or None,
            reply.n_new_tokens,
            finish_reason=reply.finish_reason,
            error=error,
        )

    def _done(self, waiting: Waiting, row: MappedRow) -> MappedRow:
        self.rows.append(row)
        return replace(row, pictures=waiting.pictures)

    def _write(self, record: Record) -> None:
        try:
            self._journal.add(record)
        except OSError as error:  # a full disk: the rows go on, in memory
            self._note(f"the journal could not be written any more: {error.strerror or error}")
            self._journal.close()
            self._journal = Memory()

    def _note(self, text: str) -> None:
        if text not in self._figures.notes:
            self._figures.notes.append(text)

    def _open_journal(self, path: str | Path | None, resume: bool) -> Journal:
        if path is not None:
            if not resume:
                raise OptionError(
                    "a journal goes on where it stopped, and every picture is to be asked again",
                    hint="--journal with a new file",
                )
            return FileJournal(path, self._header)
        kept = remembered(self._header)
        if not resume:
            kept.clear()
        return kept

    def _failed_source(self, error: Exception) -> VLMError:
        if isinstance(error, VLMError):
            return error
        failure = PromptError(
            f"the pictures ended with {type(error).__name__}: {shorten(error, 100)}",
            have=f"{len(self.rows)} rows before it are kept",
            hint="run it again once that is mended: only what is missing is asked",
        )
        failure.__cause__ = error
        return failure


class _OneByOne:
    """A batch for an engine that has none: its rows one after the other."""

    def __init__(self, engine: Engine, conversations: Sequence[Sequence[Turn]], settings: Settings) -> None:
        self._engine = engine
        self._conversations = conversations
        self._settings = settings
        self._current: Generating | None = None
        self._is_stopped = False

    def __iter__(self) -> Iterator[Chunk]:
        n = len(self._conversations)
        for row, turns in enumerate(self._conversations):
            if self._is_stopped:
                return
            self._current = self._engine.start(turns, self._settings)
            for chunk in self._current:
                if chunk.reply is not None and chunk.reply.finish_reason != "interrupted":
                    reply = replace(chunk.reply, total_s=chunk.reply.total_s * n)  # shared among n rows later
                    yield Chunk("", chunk.n_new_tokens, reply, row)

    def stop(self) -> None:
        self._is_stopped = True
        if self._current is not None:
            self._current.stop()

    def wait(self, timeout_s: float | None = None) -> Reply | None:
        return self._current.wait(timeout_s) if self._current is not None else None


def _row_of(chunk: Chunk, batch: Sequence[Waiting]) -> tuple[int | None, Reply | None]:
    """Which row a chunk ends; of a single answer the last chunk has no row of its own."""
    reply = chunk.reply
    if reply is None or reply.finish_reason == "interrupted":
        return None, None
    if chunk.row >= 0:
        return chunk.row, reply
    return (0, reply) if len(batch) == 1 else (None, None)


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
        "model": dict(getattr(engine, "identity", None) or {"name": engine.name}),
        "settings": {name: list(v) if isinstance(v, tuple) else v for name, v in changed.items()},
        "examples": [f"{turn.role}: {digest_of_parts(turn.parts)}" for turn in examples],
    }
