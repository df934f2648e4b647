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
from queue import SimpleQueue
from typing import TypeAlias

from vlm_magic.messages import Chunk, Progress, Reply

__all__ = ["Generation", "Stopped", "Work", "WorkQueue"]

Work: TypeAlias = "Callable[[Generation], Reply]"


class Stopped(BaseException):
    """Raised inside the work (a layer's hook, a streamer) to leave it at once after a stop.

    A BaseException, so that no ``except Exception`` between a layer and the engine swallows it.
    """


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
        finally:
            if not self.is_ended:
                self.stop()
                self._ended.wait()

    def run(self) -> None:
        """Do the work; called once, by the worker thread."""
        work, self._work = self._work, None
        assert work is not None, "a generation runs once"
        try:
            self.reply = Reply("", finish_reason="interrupted") if self.is_stopped else work(self)
            if self._on_end is not None:
                self._on_end(self.reply)
        except BaseException as error:
            self._error = error
        finally:
            # The closures may hold pictures and tensors; the handle may live long in a notebook.
            self._on_end = self._on_progress = None
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
    longer than the step it is in.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Generation | None] = SimpleQueue()
        self._waiting: deque[Generation] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._close = weakref.finalize(self, self._jobs.put, None)

    @property
    def n_waiting(self) -> int:
        """Generations that are running or waiting."""
        return len(self._waiting)

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
        with self._lock:
            n_ahead = len(self._waiting)
            self._waiting.append(generation)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_work_off,
                    args=(self._jobs, self._waiting, self._lock),
                    name=f"vlm_magic {self._name}",
                    daemon=True,
                )
                self._thread.start()
        if n_ahead:
            generation.report(Progress("queued", n_ahead))
        self._jobs.put(generation)
        return generation

    def close(self) -> None:
        """Stop what runs and waits, and end the thread."""
        with self._lock:
            for generation in self._waiting:
                generation.stop()
        self._close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=30)


def _work_off(jobs: SimpleQueue[Generation | None], waiting: deque[Generation], lock: threading.Lock) -> None:
    """The worker: holds no reference to its queue, so that an unused engine can be collected."""
    while (generation := jobs.get()) is not None:
        generation.run()
        with lock:
            waiting.remove(generation)
            behind = list(waiting)
        del generation
        for n_ahead, other in enumerate(behind):
            if n_ahead and not other.is_stopped:
                other.report(Progress("queued", n_ahead))
