"""Ask the rows of a map side by side on an engine that answers elsewhere: a window of rows, no barriers.

As soon as one row is answered the next one is asked, so that a slow row holds up nobody. Knows engines, the
window of waiting rows and the ledger. Neighbour: `batches` asks in batches on this machine;
`run_here` chooses between the two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import Empty, SimpleQueue

from vlm_magic.errors import EngineGoneError, KeyRefusedError, ModelError, ModelNotFoundError, VLMError
from vlm_magic.messages import Engine, Generating, Parallel, Reply, Settings, Turn, is_parallel
from vlm_magic.tasks.map.batches import BatchedRun, TakesRows
from vlm_magic.tasks.map.table import MappedRow
from vlm_magic.tasks.map.window import Waiting, Window, one_line

__all__ = ["InFlightRun", "run_here"]

_N_THREADS = 4  # that open pictures
_MAX_FAILURES = 8  # rows in a row that the model itself failed at, before any was answered
_GONE = (EngineGoneError, KeyRefusedError, ModelNotFoundError)  # what would be every row's error


class InFlightRun:
    """The rows of a window on their way through an engine that answers several at a time.

    Args:
        engine: who answers.
        settings: how.
        examples: turns before every question.
        window: the rows that wait.
        ledger: where finished rows go.
        at_once: rows under way at a time; what the engine says if not given.
    """

    def __init__(
        self,
        engine: Parallel,
        settings: Settings,
        examples: Sequence[Turn],
        window: Window,
        ledger: TakesRows,
        at_once: int | None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._examples = tuple(examples)
        self._window = window
        self._ledger = ledger
        self._at_once = at_once or engine.at_once
        self._running: dict[Future[tuple[Reply | None, float]], tuple[Waiting, Generating]] = {}
        self._ended: SimpleQueue[Future[tuple[Reply | None, float]]] = SimpleQueue()
        self._n_model_failures = 0
        self._is_stopped = False

    def rows(self) -> Iterator[MappedRow]:
        """The rows as they are finished; leaving the loop early stops those under way.

        Raises:
            VLMError: the server is gone, or fails at every row; rows that were answered by then came first.
        """
        with (
            ThreadPoolExecutor(_N_THREADS, "vlm_magic picture") as pool,
            ThreadPoolExecutor(self._at_once, "vlm_magic row") as waiters,
        ):
            try:
                yield from self._run(pool, waiters)
            finally:
                self.stop()
                pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """End the rows that are under way, or about to be; from any thread."""
        self._is_stopped = True
        for _, generating in list(self._running.values()):
            generating.stop()

    def _run(self, pool: ThreadPoolExecutor, waiters: ThreadPoolExecutor) -> Iterator[MappedRow]:
        finished: list[MappedRow] = []
        while True:
            try:
                finished += self._ask_next(waiters)  # first of all, for the server has room
            except VLMError:
                yield from finished
                raise
            yield from finished
            self._window.fill(pool, 2 * self._at_once)
            if len(self._window) and len(self._running) < self._at_once:
                finished = []
                continue
            if not self._running:
                return
            finished, gone = self._next_finished()
            if gone is not None:
                yield from finished
                yield from self._answered_meanwhile()
                raise gone

    def _ask_next(self, waiters: ThreadPoolExecutor) -> list[MappedRow]:
        """Ask as many rows of the window as there is room for; those that need not be asked, or cannot."""
        find = self._ledger.find
        rows = []
        n_free = self._at_once - len(self._running)
        if n_free:
            for waiting in self._window.settle(n_free, lambda key: find(key) is not None):
                known = find(waiting.key)
                if waiting.error or known is None:
                    rows.append(self._failed(waiting, waiting.error))
                else:
                    rows.append(self._ledger.kept(waiting.item, known, waiting.pictures))
            for waiting in self._window.take(n_free):
                self._ask(waiting, waiters)
        return rows

    def _next_finished(self) -> tuple[list[MappedRow], VLMError | None]:
        """Wait for an answer; its row and those that are there by then, or the error of every row."""
        rows, gone = [], None
        ended = [self._ended.get()]
        with suppress(Empty):
            while True:
                ended.append(self._ended.get_nowait())
        for future in ended:
            row, error = self._finished(future)
            gone = gone or error
            if row is not None:
                rows.append(row)
        return rows, gone

    def _answered_meanwhile(self) -> Iterator[MappedRow]:
        """The server is gone: what was answered before is kept, the rest is stopped."""
        self.stop()
        wait(self._running)
        for future in list(self._running):
            row, _ = self._finished(future)
            if row is not None and not row.error:
                yield row

    def _ask(self, waiting: Waiting, waiters: ThreadPoolExecutor) -> None:
        assert waiting.turn is not None
        generating = self._engine.start_beside((*self._examples, waiting.turn), self._settings)
        began = time.perf_counter()

        def answered() -> tuple[Reply | None, float]:
            return generating.wait(), time.perf_counter() - began

        future = waiters.submit(answered)
        self._running[future] = (waiting, generating)
        future.add_done_callback(self._ended.put)
        if self._is_stopped:
            generating.stop()

    def _finished(
        self, future: Future[tuple[Reply | None, float]]
    ) -> tuple[MappedRow | None, VLMError | None]:
        """The row of an answer; or the error that would be every row's."""
        waiting, _ = self._running.pop(future)
        try:
            reply, seconds = future.result()
        except VLMError as error:
            if isinstance(error, _GONE) or self._engine.is_closed:
                return None, error
            self._n_model_failures += isinstance(error, ModelError)
            if self._n_model_failures >= _MAX_FAILURES and not self._ledger.n_answered:
                return None, error
            return self._failed(waiting, one_line(error)), None
        if reply is None or reply.finish_reason == "interrupted":
            return None, None
        self._n_model_failures = 0
        row = self._ledger.answered(
            waiting.item, waiting.key, reply, seconds, waiting.pictures, waiting.source_key
        )
        return row, None

    def _failed(self, waiting: Waiting, error: str) -> MappedRow:
        return self._ledger.failed(waiting.item, waiting.key, error, waiting.pictures)


def run_here(
    engine: Engine,
    settings: Settings,
    examples: Sequence[Turn],
    window: Window,
    ledger: TakesRows,
    batch_size: int | None,
) -> BatchedRun | InFlightRun:
    """The rows of a window on their way through an engine: side by side where it can, else in batches."""
    if is_parallel(engine):
        return InFlightRun(engine, settings, examples, window, ledger, batch_size)
    return BatchedRun(engine, settings, examples, window, ledger, batch_size)
