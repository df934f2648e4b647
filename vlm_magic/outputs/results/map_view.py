"""A map while it runs: a sheet that fills, a bar in a terminal, or the end alone.

Keeps what the sheets need and no more: the first cards, some that failed, the newest; so its memory does
not grow with the map. Knows cards and figures, not rows or engines. Neighbours: `map` draws the sheets,
`vlm_magic.outputs.live_output` shows them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Picture
from vlm_magic.outputs.live_output import LiveOutput
from vlm_magic.outputs.results.cards import Card
from vlm_magic.outputs.results.map import MAX_CARDS, MAX_TABLE_ROWS, Sheet, sheet_bundle
from vlm_magic.outputs.results.verdicts import MAX_WRONG, Verdict
from vlm_magic.uninterrupted import import_whole
from vlm_magic.wording import count_words

if TYPE_CHECKING:
    from vlm_magic.outputs.panel.stop_bar import StopBar

__all__ = ["MapView"]

_THUMBNAIL_PX = 96
_N_NEWEST = 12  # cards of a sheet that is still filling
_N_WRONG = MAX_CARDS // 4  # cards of rows that failed, beside the first ones
_UPDATE_S = 0.5  # an update carries some 25 kB; later ones come less often


class MapView:
    """What a person sees of one map.

    Args:
        n_total: rows in all; None where nobody knows.
        out: the variable that will hold the table, or "".
        thumbnail: makes the data URI of a picture of so many pixels; None keeps pictures out of the file.
        on_stop: called when a person presses Stop, possibly from another thread.
    """

    def __init__(
        self,
        n_total: int | None,
        out: str,
        thumbnail: Callable[[Picture, int], str] | None,
        on_stop: Callable[[], object] | None = None,
    ) -> None:
        self._n_total = n_total
        self._out = out
        self._thumbnail = thumbnail
        self._output = LiveOutput()
        self._bar = _bar(n_total, is_shown=self._output.where == "terminal")
        self._stop_bar = _stop_bar(on_stop) if on_stop is not None and self._output.is_watched else None
        self._began_at = self._shown_at = time.monotonic()
        self._first: dict[int, Card] = {}  # by position
        self._wrong: dict[int, Card] = {}
        self._newest: deque[tuple[int, Card, Sequence[Picture]]] = deque(maxlen=_N_NEWEST)
        self._has_pictures = False
        self._false: list[tuple[float, int, Card]] = []  # wrong answers, the most confident ones
        self._n_right = self._n_judged = 0
        self._n_done = self._n_wrong = self._n_kept = self._n_cut = self._n_tokens = 0
        self._notes: Sequence[str] = ()
        self._more: Sequence[str] = ()

    def push(
        self,
        position: int,
        card: Card,
        pictures: Sequence[Picture] = (),
        *,
        is_kept: bool = False,
        notes: Sequence[str] = (),
        figures: Sequence[str] = (),
    ) -> None:
        """Take a finished row in.

        Args:
            position: its place among the rows, from 0.
            card: the row; its thumbnail is made here, where it is needed.
            pictures: its decoded pictures.
            is_kept: whether an earlier run had answered it.
            notes: all remarks so far.
            figures: what else is going on, in words.
        """
        self._bar.update()
        self._n_done += 1
        self._n_tokens += card.n_tokens
        self._n_kept += is_kept
        self._n_wrong += bool(card.error)
        self._n_cut += card.is_cut_off
        self._notes, self._more = notes, figures
        self._judge(position, card, pictures)
        if position <= MAX_TABLE_ROWS:  # one more than the table has, so that it says that there are more
            self._first[position] = self._with_picture(card, pictures) if position < MAX_CARDS else card
        elif card.error and len(self._wrong) < _N_WRONG:
            self._wrong[position] = self._with_picture(card, pictures)
        self._note_newest(position, card, pictures)
        if self._output.is_watched and time.monotonic() - self._shown_at > self._pause_s():
            self._shown_at = time.monotonic()
            self._output.show(sheet_bundle(self._growing()))

    def _note_newest(self, position: int, card: Card, pictures: Sequence[Picture]) -> None:
        """Keep a row for the sheet that fills.

        A cluster sends a picture with one row of many: the others would be grey boxes beside it.
        """
        has_picture = bool(card.thumbnail or pictures) and self._thumbnail is not None
        self._has_pictures |= has_picture
        if has_picture or card.error or not self._has_pictures:
            self._newest.append((position, card, pictures))

    def _judge(self, position: int, card: Card, pictures: Sequence[Picture]) -> None:
        """Count a row whose truth is known; of wrong answers the most confident ones are kept."""
        if not card.truth:
            return
        self._n_judged += 1
        self._n_right += bool(card.is_right)
        if card.is_right:
            return
        sure = -1.0 if card.probability is None else card.probability
        if len(self._false) == MAX_WRONG and sure <= -self._false[-1][0]:
            return
        self._false = sorted(
            [*self._false, (-sure, position, self._with_picture(card, pictures))], key=lambda kept: kept[:2]
        )[:MAX_WRONG]

    @property
    def judged(self) -> tuple[int, int]:
        """(right, all) of the rows whose truth is known."""
        return self._n_right, self._n_judged

    @property
    def wrong(self) -> list[Card]:
        """Wrong answers, the most confident first."""
        return [card for _, _, card in self._false]

    def finish(
        self, notes: Sequence[str] = (), figures: Sequence[str] = (), verdict: Verdict | None = None
    ) -> None:
        """Show the sheet as it is at the end; nothing where nothing was asked, for the error says why.

        Args:
            notes: remarks for the person.
            figures: what else there is to say, in words.
            verdict: how the answers compare with the truth.
        """
        self._notes, self._more = notes, figures
        said = self._figures(is_running=False)
        self._bar.close()
        if self._stop_bar is not None:
            self._stop_bar.end()
        if not self._n_done and self._n_total != 0:
            return
        first = [card for _, card in sorted(self._first.items())]
        wrong = {p: c for p, c in self._first.items() if p >= MAX_CARDS and c.error} | self._wrong
        sheet = Sheet(
            cards=[*first[:MAX_CARDS], *(card for _, card in sorted(wrong.items()))][: MAX_CARDS + _N_WRONG],
            rows=first,
            n_done=self._n_done,
            n_total=self._n_total,
            figures=said,
            notes=self._remarks(),
            out=self._out,
            verdict=verdict,
        )
        self._output.show(sheet_bundle(sheet))

    def _growing(self) -> Sheet:
        newest = sorted(self._newest, key=lambda row: row[0])
        return Sheet(
            cards=[self._first.get(p) or self._with_picture(card, shown) for p, card, shown in newest],
            n_done=self._n_done,
            n_total=self._n_total,
            figures=self._figures(is_running=True),
            notes=self._remarks(),
            is_running=True,
        )

    def _pause_s(self) -> float:
        """Two updates a second, one after a minute, one in two seconds after ten."""
        elapsed_s = time.monotonic() - self._began_at
        return _UPDATE_S * (1 if elapsed_s < 60 else 2 if elapsed_s < 600 else 4)

    def _with_picture(self, card: Card, pictures: Sequence[Picture]) -> Card:
        if self._thumbnail is None:
            return replace(card, thumbnail="")
        if card.thumbnail or not pictures:
            return card
        return replace(card, thumbnail=self._thumbnail(pictures[0], _THUMBNAIL_PX))

    def _figures(self, *, is_running: bool) -> list[str]:
        """What is counted, in words; rate and time left as tqdm measures them."""
        from tqdm.std import tqdm

        said = self._bar.format_dict
        figures = [count_words(self._n_wrong, "error")] if self._n_wrong else []
        if self._n_judged and is_running:
            figures.append(f"{self._n_right:,} of {self._n_judged:,} right")
        if self._n_kept:
            figures.append(f"{self._n_kept:,} answered before")
        figures.append(f"{self._n_tokens:,} tokens")
        elapsed_s = said["elapsed"]
        rate = said["rate"] or (self._n_done / elapsed_s if elapsed_s else 0)
        if not is_running:
            rate = self._n_done / elapsed_s if elapsed_s else 0
            figures.append(f"{elapsed_s:.1f} s")
        if rate:
            figures.append(f"{rate:.1f} pictures/s" if rate >= 1 else f"{1 / rate:.1f} s a picture")
        if is_running and rate and self._n_total:
            left_s = (self._n_total - self._n_done) / rate
            figures.append(f"{tqdm.format_interval(left_s)} left")
        return [*figures, *self._more]

    def _remarks(self) -> list[str]:
        notes = list(self._notes)
        if n := self._n_cut:
            notes.append(f"{n} answer{'s were' if n != 1 else ' was'} cut off at the token limit")
        return notes


def _bar(n_total: int | None, *, is_shown: bool) -> Any:
    """A progress bar; one that only counts where the sheet has its own."""
    from tqdm.auto import tqdm
    from tqdm.std import tqdm as plain_bar

    options: dict[str, Any] = {"total": n_total, "unit": "picture", "leave": False}
    return tqdm(**options) if is_shown else plain_bar(**options, file=_Nowhere())


def _stop_bar(on_stop: Callable[[], object]) -> StopBar:
    """A Stop button above the sheet, on the page already."""
    import_whole("anywidget")
    from vlm_magic.outputs.panel.stop_bar import StopBar

    bar = StopBar("The map is running", on_stop)
    bar.show()
    return bar


class _Nowhere:
    """A file that forgets what is written: the bar counts, and the sheet shows."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""
