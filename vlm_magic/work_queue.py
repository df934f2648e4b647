"""One answer under way, and the line in which answers wait for their model.

A `WorkQueue` owns one worker thread: a model does one thing at a time, first come, first served. A
`Generation` is the caller's end of one piece of work: chunks come out of it, a stop goes in from any
thread, an error of the worker is raised where the caller iterates. Knows nothing of torch: engines
(local, remote, the scripted one of the tests) bring the work as a function.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from queue import SimpleQueue
from typing import TypeAlias

from vlm_magic.messages import Chunk, Progress, Reply

__all__ = ["Generation", "Stopped", "Work", "WorkQueue", "is_unwanted"]

Work: TypeAlias = "Callable[[Generation], Reply]"


class Stopped(BaseException):
    """Raised inside the work (a layer's hook, a streamer) to leave it at once after a stop.

    A BaseException, so that no ``except Exception`` between a layer and the engine swallows it.
    """


_running: ContextVar[Generation | None] = ContextVar("running", default=None)


def is_unwanted() -> bool:
    """Whether the work of this thread was asked to end: for work that is not handed its `Generation`."""
    generation = _running.get()
    return generation is not None and generation.is_stopped


class _End:
    """Marks the end of the chunks."""


class Generation:
    """An answer under way.

    Iterate it for its `Chunk`s; the last one carries the `Reply`. Leaving the loop early, also by
    a KeyboardInterrupt, stops the work and waits for its end. Only one consumer may iterate.
    """

    def __init__(
        self,
        work: Work,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self._work: Work | None = work
        self._on_end = on_end
        self._on_progress = on_progress
        self._items: SimpleQueue[Chunk | BaseException | _End] = SimpleQueue()
        self._stop = threading.Event()
        self._at_stop: Callable[[], object] | None = None
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.reply: Reply | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether somebody asked it to end."""
        return self._stop.is_set()

    @property
    def is_ended(self) -> bool:
        """Whether the work is over, well or badly."""
        return self._ended.is_set()

    def stop(self) -> None:
        """Ask it to end now; safe from any thread, harmless when it has ended."""
        self._stop.set()
        if self._at_stop is not None:
            self._at_stop()

    def call_at_stop(self, hook: Callable[[], object]) -> None:
        """Have ``hook`` called by whoever stops it, at once where that was before: for work that waits."""
        self._at_stop = hook
        if self.is_stopped:
            hook()

    def push(self, chunk: Chunk) -> None:
        """Hand a chunk to the consumer (called by the work)."""
        self._items.put(chunk)

    def report(self, progress: Progress) -> None:
        """Tell the caller what the answer is waiting for (called by the work and the queue)."""
        if self._on_progress is not None:
            self._on_progress(progress)

    def wait(self, timeout_s: float | None = None) -> Reply | None:
        """Wait for the end and return the reply; None if the time-out passed first.

        Raises:
            VLMError: whatever the work failed with.
        """
        if not self._ended.wait(timeout_s):
            return None
        if self._error is not None:
            raise self._error
        return self.reply

    def __iter__(self) -> Iterator[Chunk]:
        try:
            while True:
                item = self._items.get()
                if isinstance(item, _End):
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        except BaseException:
            self.stop()  # at once: a second interrupt may cut what follows
            raise
        finally:
            if not self.is_ended:
                self.stop()
                self._ended.wait()

    def run(self) -> None:
        """Do the work; called once, by the worker thread."""
        work, self._work = self._work, None
        assert work is not None, "a generation runs once"
        token = _running.set(self)
        try:
            self.reply = Reply("", finish_reason="interrupted") if self.is_stopped else work(self)
            if self._on_end is not None:
                self._on_end(self.reply)
        except BaseException as error:
            self._error = error
        finally:
            # The closures may hold pictures and tensors; the handle may live long in a notebook.
            self._on_end = self._on_progress = self._at_stop = None
            _running.reset(token)
            self._ended.set()
        if self._error is not None:
            self._items.put(self._error)
        else:
            assert self.reply is not None
            self._items.put(Chunk("", self.reply.n_new_tokens, self.reply))
            self._items.put(_End())


class WorkQueue:
    """First come, first served, on one thread of its own.

    The thread ends when the queue is closed or collected; it keeps the process from ending no
    longer than the step it is in. An interrupt that hits `submit` leaves nothing in the line.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._line = _Line()
        self._thread: threading.Thread | None = None
        self._close = weakref.finalize(self, self._line.calls.put, False)

    def submit(
        self,
        work: Work,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Put ``work`` at the end of the line and return its handle at once."""
        if not self._close.alive:
            raise RuntimeError(f"the queue of {self._name} is closed")
        generation = Generation(work, on_end, on_progress)
        line = self._line
        try:
            self._have_worker()
            with line.lock:
                n_ahead = len(line.waiting)
                line.waiting.append(generation)
            if n_ahead:
                generation.report(Progress("queued", n_ahead))
            line.calls.put(True)
        except BaseException:  # nobody will hold its handle
            generation.stop()
            line.calls.put(True)
            raise
        return generation

    def close(self) -> None:
        """Stop what runs and waits, and end the thread."""
        with self._line.lock:
            for generation in self._line.waiting:
                generation.stop()
        self._close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=30)

    def _have_worker(self) -> None:
        """Start the worker where there is none."""
        if self._thread is None or self._thread.ident is None:
            self._thread = threading.Thread(
                target=self._line.work_off, name=f"vlm_magic {self._name}", daemon=True
            )
            self._thread.start()


class _Line:
    """Who waits, and the worker's side of it; knows no queue, so that an unused one can be collected.

    Attributes:
        waiting: what runs and what waits, in order.
        calls: wakes the worker: True to look at the line, False to end once it is empty.
        lock: guards changes of ``waiting``.
    """

    def __init__(self) -> None:
        self.waiting: deque[Generation] = deque()
        self.calls: SimpleQueue[bool] = SimpleQueue()
        self.lock = threading.Lock()
        self._at_work = threading.Lock()

    def work_off(self) -> None:
        """Do what waits, until the line is closed.

        An interrupt while a thread starts may leave two of them: they take turns, and both end.
        """
        goes_on = True
        while goes_on:
            goes_on = self.calls.get()
            with self._at_work:
                while self.waiting:
                    self._do_first()
        self.calls.put(False)

    def _do_first(self) -> None:
        self.waiting[0].run()
        with self.lock:
            self.waiting.popleft()
            behind = list(self.waiting)
        for n_ahead, other in enumerate(behind):
            if n_ahead and not other.is_stopped:
                other.report(Progress("queued", n_ahead))
