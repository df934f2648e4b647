"""Ask the rows of a map in batches on this machine: pictures opened ahead, batches halved where memory ends.

Knows engines, the window of waiting rows and the ledger; not collections, tables or clusters.
Neighbours: `window` holds the rows that wait, `ledger` those that are done, `mapping` is the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from threading import Event
from typing import Protocol

from vlm_magic.errors import ModelError, OutOfMemoryError, VLMError
from vlm_magic.messages import Chunk, Engine, Generating, Picture, Reply, Settings, Turn, can_batch
from vlm_magic.tasks.map.journal import Record
from vlm_magic.tasks.map.rows import Item
from vlm_magic.tasks.map.table import MappedRow
from vlm_magic.tasks.map.window import Waiting, Window, one_line
from vlm_magic.wording import count_words

__all__ = ["BatchedRun", "TakesRows"]

_ROWS = 16  # of a batch, where neither a person nor the engine says
_FIRST_SHARE = 4  # the first batch has a quarter of that: pictures of the second are processed beside it
_ROWS_AHEAD = 8  # that are opened while some are answered, or as many as a batch takes
_N_THREADS = 4  # that open pictures
_MAX_FAILURES = 8  # rows in a row that the model itself failed at, before any was answered


class TakesRows(Protocol):
    """Where finished rows go: the ledger of a map, or what stands for it on a worker."""

    @property
    def n_answered(self) -> int:
        """Rows that this run has answered."""

    def find(self, key: str) -> Record | None:
        """What an earlier run answered to this question, or None."""

    def answered(
        self,
        item: Item,
        key: str,
        reply: Reply,
        seconds: float,
        pictures: tuple[Picture, ...] = (),
        source_key: str = "",
    ) -> MappedRow:
        """A row that the model has just answered."""

    def kept(self, item: Item, record: Record, pictures: tuple[Picture, ...] = ()) -> MappedRow:
        """A row that an earlier run answered."""

    def failed(self, item: Item, key: str, error: str, pictures: tuple[Picture, ...] = ()) -> MappedRow:
        """A row that could not be asked or answered."""

    def note(self, text: str) -> None:
        """Add a remark."""


class BatchedRun:
    """The rows of a window on their way through an engine of this process.

    Args:
        engine: who answers.
        settings: how.
        examples: turns before every question.
        window: the rows that wait.
        ledger: where finished rows go.
        batch_size: rows at a time; about what the machine takes if not given.

    Attributes:
        n_rows_at_once: rows of the next batch; halved where memory ran out.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        examples: Sequence[Turn],
        window: Window,
        ledger: TakesRows,
        batch_size: int | None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._examples = tuple(examples)
        self._window = window
        self._ledger = ledger
        self.n_rows_at_once = batch_size or _ROWS
        self._is_size_open = self._is_first_small = batch_size is None
        self._n_model_failures = 0
        self._ahead: tuple[Future[None], Event] | None = None
        self._generating: Generating | None = None
        self._is_stopped = False

    def rows(self) -> Iterator[MappedRow]:
        """The rows as they are finished; leaving the loop early stops the model.

        Raises:
            VLMError: the model is gone, or fails at every row.
        """
        with ThreadPoolExecutor(_N_THREADS, "vlm_magic picture") as pool:
            try:
                yield from self._run(pool)
            finally:
                self._end_look_ahead()
                pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """End the batch that is being answered, or is about to be; from any thread."""
        self._is_stopped = True
        if self._generating is not None:
            self._generating.stop()

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

    @property
    def _n_rows_next(self) -> int:
        """Rows of the next batch."""
        is_first = self._is_first_small and not self._ledger.n_answered
        return max(1, self.n_rows_at_once // (_FIRST_SHARE if is_first else 1))

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        n_rows = self.n_rows_at_once
        self._window.fill(pool, n_rows + max(n_rows, _ROWS_AHEAD))

    def _settled(self) -> Iterator[MappedRow]:
        """The rows that need no model: those that cannot be asked and those that were answered before."""
        find = self._ledger.find
        for waiting in self._window.settle(self._n_rows_next, lambda key: find(key) is not None):
            known = find(waiting.key)
            if waiting.error or known is None:
                yield self._failed(waiting, waiting.error)
            else:
                yield self._ledger.kept(waiting.item, known, waiting.pictures)

    def _has_new_size(self) -> bool:
        """Let the engine say, once, how many rows it takes at once; from the first question."""
        first = self._window.first_ready()
        if not self._is_size_open or first is None or not can_batch(self._engine):
            return False
        self._is_size_open = False
        with suppress(VLMError):  # a question that does not fit is that row's own error
            self.n_rows_at_once = self._engine.rows_at_once(self._turns(first), self._settings)
        return True

    def _answered(self, batch: list[Waiting], pool: ThreadPoolExecutor) -> Iterator[MappedRow]:
        """Ask a batch; rows come as they are answered. What fails is asked again in smaller batches."""
        left = dict(enumerate(batch))
        self._end_look_ahead()
        try:
            generating = self._generating = self._start([self._turns(waiting) for waiting in batch])
            if self._is_stopped:
                generating.stop()
            self._fill(pool)  # pictures are opened while the model works
            self._look_ahead(pool)
            for chunk in generating:
                row, reply = _row_of(chunk, batch)
                if row is not None and reply is not None and row in left:
                    waiting = left.pop(row)
                    self._n_model_failures = 0
                    share_s = reply.total_s / len(batch)
                    yield self._ledger.answered(
                        waiting.item, waiting.key, reply, share_s, waiting.pictures, waiting.source_key
                    )
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
                self._ledger.note(f"a batch failed, so its rows were asked one by one ({one_line(error)})")
            for waiting in left.values():  # one of them spoils the batch: each by itself
                yield from self._answered([waiting], pool)
        except BaseException:  # an interrupt, perhaps before anybody waits for the answers
            self.stop()
            raise

    def _look_ahead(self, pool: ThreadPoolExecutor) -> None:
        """Have the next batch's pictures processed beside the model's work."""
        if can_batch(self._engine) and len(self._window):
            look_ahead = self._engine.look_ahead
            is_over = Event()
            job = pool.submit(self._window.hand_on, self.n_rows_at_once, look_ahead, is_over)
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
        if len(conversations) > 1 and can_batch(self._engine):
            return self._engine.start_batch(conversations, self._settings)
        if len(conversations) > 1:
            return _OneByOne(self._engine, conversations, self._settings)
        return self._engine.start(conversations[0], self._settings)

    def _turns(self, waiting: Waiting) -> Sequence[Turn]:
        assert waiting.turn is not None
        return (*self._examples, waiting.turn)

    def _halve(self, n_rows: int) -> None:
        n = self.n_rows_at_once = max(1, n_rows // 2)
        self._ledger.note(f"memory ran out, so batches were halved to {count_words(n, 'row')}")

    def _check_engine(self, error: VLMError) -> None:
        """Raise what would be every row's error: the model is gone."""
        if self._engine.is_closed or (type(error) is ModelError):
            raise error

    def _failed(self, waiting: Waiting, error: str) -> MappedRow:
        return self._ledger.failed(waiting.item, waiting.key, error, waiting.pictures)

    def _failed_in_model(self, waiting: Waiting, error: VLMError) -> MappedRow:
        self._n_model_failures += isinstance(error, ModelError)
        if self._n_model_failures >= _MAX_FAILURES and not self._ledger.n_answered:
            raise error
        return self._failed(waiting, one_line(error))


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
