"""Work that an interrupt must not cut in two: loads, and imports of large libraries.

Python raises a KeyboardInterrupt in the main thread, wherever that is. Within an import it leaves a module
that is half there, or a lock that nobody gives back, and the next import of it fails in a way of its own or
hangs for good. So such work runs in another thread, and an interrupt ends no more than the waiting for it.

Knows nothing of what is imported or loaded.
"""

from __future__ import annotations

import contextvars
import importlib
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["import_whole", "run_apart"]

T = TypeVar("T")


class _Work(Generic[T]):
    """Work in a thread of its own: news come out of a queue, at last None; it waits until each was taken."""

    def __init__(self, work: Callable[[Callable[..., None]], T]) -> None:
        self.news: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self.ended = threading.Event()
        self._taken = threading.Semaphore(0)
        self._is_left = False
        self._work = work
        self._result: T
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it; called once, by the thread."""
        try:
            self._result = self._work(self._tell)
        except BaseException as error:
            self._error = error
        finally:
            self.ended.set()
            self.news.put(None)

    def take(self, on_news: Callable[..., None]) -> None:
        """Hand all news on until the work has ended."""
        while (news := self.news.get()) is not None:
            on_news(*news)
            self._taken.release()

    def leave(self) -> None:
        """Nobody takes news any more."""
        self._is_left = True
        self._taken.release()

    def _tell(self, *news: Any) -> None:
        if not self._is_left:
            self.news.put(news)
            self._taken.acquire()

    def result(self) -> T:
        """What came of it, or the error that it ended with."""
        if self._error is not None:
            raise self._error
        return self._result


def run_apart(
    work: Callable[[Callable[..., None]], T],
    on_news: Callable[..., None] = lambda *_: None,
    *,
    stop: Callable[[], object] = lambda: None,
    patience_s: float = 0.0,
) -> T:
    """Do work in a thread of its own and wait for it.

    Outside the main thread, which alone is interrupted, it is done at once.

    Args:
        work: gets a function that hands its arguments to ``on_news``.
        on_news: called in the caller's thread.
        stop: called when the waiting was cut short, so that the work ends soon.
        patience_s: how long the work may take to end after that, before the interrupt is let go on.

    Raises:
        KeyboardInterrupt: the waiting was cut short.
        BaseException: whatever the work raised.
    """
    if threading.current_thread() is not threading.main_thread():
        return work(on_news)
    doing = _Work(work)
    context = contextvars.copy_context()  # a kernel tells by it which cell something is printed for
    threading.Thread(target=context.run, args=(doing.run,), name="vlm_magic apart", daemon=True).start()
    try:
        doing.take(on_news)
    except BaseException:
        stop()
        doing.leave()
        doing.ended.wait(patience_s)
        raise
    return doing.result()


def import_whole(*names: str) -> None:
    """Import modules such that an interrupt leaves none of them half-way.

    After an interrupt the import goes on in its thread; whoever needs the module next waits for it.

    Raises:
        ImportError: one of them is not installed.
    """
    missing = [name for name in names if not _is_there(name)]
    if missing:
        run_apart(lambda _: [importlib.import_module(name) for name in missing])


def _is_there(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not getattr(module.__spec__, "_initializing", False)
