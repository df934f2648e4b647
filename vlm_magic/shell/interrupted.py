"""The kernel's interrupt as a person sees it: one line that says what is kept."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

__all__ = ["CellStop", "Interrupted", "told_in_one_line"]


class Interrupted(KeyboardInterrupt):
    """The kernel's interrupt, shown as one line; like any KeyboardInterrupt it ends a Run All."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class CellStop:
    """A Stop for the work of the running cell: ends it as the kernel's interrupt would, but nothing else.

    The cell catches the KeyboardInterrupt where ``was_asked``, and goes on behind its work.
    """

    def __init__(self) -> None:
        self.was_asked = False
        self._is_over = False
        self._lock = threading.Lock()

    def ask(self) -> None:
        """End the work; from any thread, any number of times, also too late."""
        with self._lock:
            if self._is_over or self.was_asked:
                return
            self.was_asked = True
            if hasattr(signal, "pthread_kill"):  # wakes the main thread out of what it waits for
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            else:
                _thread.interrupt_main()

    def end(self) -> None:
        """The work is over. A Stop that came just before is raised in here at the latest."""
        with self._lock:
            self._is_over = True


def told_in_one_line(magic: Callable[..., Any]) -> Callable[..., Any]:
    """A magic whose interrupt is one line wherever it hits, also before there is an answer to keep."""

    @wraps(magic)
    def call(*args: Any, **values: Any) -> Any:
        try:
            return magic(*args, **values)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted("what was loaded and said before is kept.") from None

    return call
