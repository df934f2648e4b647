"""A comparison while it is answered: a table that fills, a bar in a terminal, or the end alone.

Knows bundles and counts, not grids or engines. Neighbours: `compare` draws the table,
`vlm_magic.outputs.live_output` shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from vlm_magic.outputs.live_output import LiveOutput

__all__ = ["CompareView"]

_UPDATE_S = 0.25  # a download reports many times a second, and each update carries the whole table


class CompareView:
    """What a person sees of one comparison.

    Args:
        n_answers: of the whole grid.
    """

    def __init__(self, n_answers: int) -> None:
        self._output = LiveOutput()
        self._n_done = -1
        self._shown_at = 0.0
        self._bar: Any = None
        if self._output.where == "terminal":
            from tqdm.auto import tqdm

            self._bar = tqdm(total=n_answers, unit="answer", leave=False)

    def update(self, n_done: int, doing: str, draw: Callable[[], Mapping[str, str]]) -> None:
        """News: the table is shown at once for an answer, soon for anything else.

        Args:
            n_done: answers that are there.
            doing: what goes on, in words.
            draw: makes the table's bundle.
        """
        if self._bar is not None:
            self._bar.set_description_str(doing, refresh=False)
            self._bar.update(n_done - self._bar.n)
            self._bar.refresh()
        elif self._output.is_watched:
            now = time.monotonic()
            if n_done != self._n_done or now - self._shown_at > _UPDATE_S:
                self._n_done, self._shown_at = n_done, now
                self._output.show(draw())

    def finish(self, bundle: Mapping[str, str]) -> None:
        """Show the table as it is at the end."""
        if self._bar is not None:
            self._bar.close()
        self._output.show(bundle)
