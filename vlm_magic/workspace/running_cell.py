"""The cell that runs, and the keys of its calls.

A key is (cell id, number of the call within this run); it is what a turn belongs to. Knows nothing of turns.
"""

from __future__ import annotations

from vlm_magic.conversation import CellKey

__all__ = ["RunningCell"]


class RunningCell:
    """Counts the calls of the running cell.

    Attributes:
        source: what the person wrote into it; "" where nobody told.
    """

    def __init__(self) -> None:
        self.source = ""
        self._id: str | None = None
        self._n_calls = 0

    def begin(self, cell_id: str | None, source: str = "") -> None:
        """A cell begins to run; None where the front-end tells no id."""
        self._id, self._n_calls, self.source = cell_id, 0, source

    def end(self) -> tuple[str | None, int]:
        """The cell has ended: its id, and how many calls it made."""
        ended, self._id = self._id, None
        return ended, self._n_calls

    def next_key(self) -> CellKey | None:
        """The key of the next call, which is counted; None outside a cell with an id."""
        key = self.peek_key()
        self._n_calls += key is not None
        return key

    def peek_key(self) -> CellKey | None:
        """The key that the next call would have, without counting it."""
        return None if self._id is None else (self._id, self._n_calls)
