"""One server, or several that hold the same model: each piece of work goes to the one with the least to do.

A server that dies is left out, and what it was asked goes to another. Knows wires; nothing of models.
Neighbour: `wire` is one of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from vlm_magic.errors import EngineGoneError
from vlm_magic.remote.transport.wire import Wire

__all__ = ["Servers"]

T = TypeVar("T")


class Servers:
    """The servers of one engine.

    Args:
        wires: to them.
    """

    def __init__(self, wires: Sequence[Wire]) -> None:
        self._wires = list(wires)
        self._gone: set[int] = set()
        self._n_running = [0] * len(wires)
        self._lock = threading.Lock()

    @property
    def first(self) -> Wire:
        """The one that was asked what it can do."""
        return self._wires[0]

    @property
    def hosts(self) -> str:
        """All of them, as people know them."""
        return ", ".join(wire.address.host for wire in self._wires)

    @property
    def gone(self) -> str:
        """Likewise those that died; "" for none."""
        return ", ".join(self._wires[n].address.host for n in sorted(self._gone))

    def do(self, work: Callable[[Wire], T]) -> T:
        """Do it on the server with the least to do; on another where that is gone.

        Raises:
            EngineGoneError: all of them are gone. Whatever the work raises.
        """
        while True:
            n = self._least_busy()
            try:
                return work(self._wires[n])
            except EngineGoneError:
                with self._lock:
                    self._gone.add(n)
                    is_last = len(self._gone) == len(self._wires)
                    if is_last:
                        self._gone.clear()  # the next question tries them again
                if is_last:
                    raise
            finally:
                with self._lock:
                    self._n_running[n] -= 1

    def close(self) -> None:
        """Close what is open and unused."""
        for wire in self._wires:
            wire.close()

    def _least_busy(self) -> int:
        with self._lock:
            alive = [n for n in range(len(self._wires)) if n not in self._gone]
            n = min(alive, key=lambda each: self._n_running[each])
            self._n_running[n] += 1
            return n
