"""The rows of a map that wait for the model: opened ahead, by a few threads, within bounds.

The source is asked for its next row in the caller's thread, never more than a few batches ahead; most
pictures are opened by threads beside it. Knows rows and prompts, not engines or answers. Neighbours:
`rows` brings the items, `prompt` makes questions of them, `batches` asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Protocol

from vlm_magic.errors import PromptError, VLMError, near_names
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Picture, Turn
from vlm_magic.tasks.map.prompt import digest_of_parts
from vlm_magic.tasks.map.rows import Item, NoColumnError, RowView, open_pictures
from vlm_magic.tasks.map.sources.source_key import Repeats, source_key
from vlm_magic.wording import shorten

__all__ = ["AsksAboutRows", "Waiting", "Window", "column_error", "one_line"]

_WINDOW_BYTES = 256 * 2**20  # of decoded pictures that wait
_PICTURES_AHEAD = 8  # that are processed in one go, before the model asks for them


@dataclass(slots=True)
class Waiting:
    """A row on its way to the model."""

    item: Item
    opened: Future[list[Picture]] | None = None
    pictures: tuple[Picture, ...] = ()
    turn: Turn | None = None
    key: str = ""
    source_key: str = ""
    error: str = ""

    @property
    def n_bytes(self) -> int | None:
        """Bytes of its decoded pictures, four a pixel; None while they are being opened."""
        pictures: Sequence[Picture] = self.pictures
        if self.opened is not None:
            if not self.opened.done():
                return None
            is_there = not self.opened.cancelled() and self.opened.exception() is None
            pictures = self.opened.result() if is_there else ()
        return sum(4 * picture.size_px[0] * picture.size_px[1] for picture in pictures)

    @property
    def likeness(self) -> tuple[object, ...]:
        """Rows that sort close together are of similar cost: number and sizes of pictures, words."""
        assert self.turn is not None
        return (
            len(self.pictures),
            tuple(picture.size_px for picture in self.pictures),
            len(self.turn.text),
        )


class AsksAboutRows(Protocol):
    """What makes the question of a row: the prompt of a map."""

    def turn(self, pictures: Sequence[Picture], row: RowView) -> Turn:
        """The question of one row."""


class Window:
    """The rows between the source and the model.

    Args:
        items: the source, read once and in order.
        prompt: makes a row's question.
        options: limits of pictures and downloads.

    Attributes:
        is_drained: whether the source has no more.
        source_error: what the source raised, if it did.
    """

    def __init__(self, items: Iterator[Item], prompt: AsksAboutRows, options: PictureOptions) -> None:
        self._items = items
        self._prompt = prompt
        self._options = options
        self._rows: deque[Waiting] = deque()
        self._repeats = Repeats()
        self._locks = [Lock() for _ in range(64)]
        self._is_first = True  # row of the source
        self._largest_bytes = 0  # of a row's pictures
        self.is_drained = False
        self.source_error: Exception | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def fill(self, pool: ThreadPoolExecutor, n_ahead: int) -> None:
        """Ask the source for rows until ``n_ahead`` wait, and have their pictures opened."""
        while not self.is_drained and len(self._rows) < n_ahead:
            if self._rows and self._n_bytes() > _WINDOW_BYTES:
                return
            try:
                item = next(self._items)
            except StopIteration:
                self.is_drained = True
                return
            except Exception as error:
                self.is_drained, self.source_error = True, error
                return
            self._rows.append(Waiting(item, self._opened(pool, item)))
            if self._is_first:  # how large pictures are is known before more of them are asked for
                self._is_first = False
                with suppress(Exception):  # what fails is said where its row is asked
                    self._rows[-1].opened.result()  # type: ignore[union-attr]

    def _n_bytes(self) -> int:
        """Bytes of the pictures that wait; a row that is not open yet counts as the largest so far."""
        known = [waiting.n_bytes for waiting in self._rows]
        self._largest_bytes = max([self._largest_bytes, *(n for n in known if n is not None)])
        return sum(self._largest_bytes if n is None else n for n in known)

    def first_question(self) -> tuple[Item, Turn] | None:
        """The next row of the source with its question, out of line; None where there is none."""
        item = next(self._items, None)
        return None if item is None else (item, self._prompt.turn(self._open(item), item.row))

    def settle(self, n_rows: int, is_known: Callable[[str], bool]) -> Iterator[Waiting]:
        """Wait until so many rows are ready to be asked; gives those that need not be, or cannot be.

        Args:
            n_rows: how many a batch takes.
            is_known: whether a question of this key was answered before.
        """
        rows, self._rows = list(self._rows), deque()
        for waiting in rows:
            if waiting.turn is None and len(self._rows) < n_rows:
                self._look_up(waiting)
            if waiting.error or (waiting.turn is not None and is_known(waiting.key)):
                yield waiting
            else:
                self._rows.append(waiting)

    def take(self, n_rows: int) -> list[Waiting]:
        """The rows that are asked together: the oldest one and those most like it."""
        ready = [waiting for waiting in self._rows if waiting.turn is not None]
        if not ready:
            return []
        alike = sorted(ready, key=lambda waiting: waiting.likeness)
        at = alike.index(ready[0])
        start = min(max(0, at - n_rows // 2), max(0, len(alike) - n_rows))
        batch = alike[start : start + n_rows]
        taken = set(map(id, batch))
        self._rows = deque(waiting for waiting in self._rows if id(waiting) not in taken)
        return batch

    def first_ready(self) -> Waiting | None:
        """The first row whose question is there."""
        return next((waiting for waiting in self._rows if waiting.turn is not None), None)

    def put_back(self, rows: Sequence[Waiting]) -> None:
        """Rows that were not answered stand first again, in their order."""
        again = sorted(rows, key=lambda waiting: waiting.item.position)
        self._rows.extendleft(reversed(again))

    def hand_on(self, n_rows: int, look_ahead: Callable[[list[Picture]], None], is_over: Event) -> None:
        """Give the pictures of the next rows to ``look_ahead`` as they are opened, a few at a time.

        Args:
            n_rows: of how many.
            look_ahead: gets them.
            is_over: set when these rows are about to be asked, so that nobody does the work twice.
        """
        futures = [waiting.opened for waiting in list(self._rows)[:n_rows]]
        opened: list[Picture] = []
        for future in futures:
            with suppress(Exception):  # what fails is said where its row is asked
                opened += future.result() if future is not None else ()
            if is_over.is_set():
                return
            if len(opened) >= _PICTURES_AHEAD:
                look_ahead(opened)
                opened = []
        look_ahead(opened)

    def _opened(self, pool: ThreadPoolExecutor, item: Item) -> Future[list[Picture]]:
        if _is_thread_safe(item.source):
            return pool.submit(self._open, item)
        future: Future[list[Picture]] = Future()  # figures draw themselves: only in the person's thread
        try:
            future.set_result(self._open(item))
        except Exception as error:
            future.set_exception(error)
        return future

    def _open(self, item: Item) -> list[Picture]:
        with self._locks[id(item.source) % len(self._locks)]:  # one object may stand in several rows
            return open_pictures(item, self._options)

    def _look_up(self, waiting: Waiting) -> None:
        """Wait for a row's pictures and put its question together."""
        assert waiting.opened is not None
        try:
            waiting.pictures = tuple(waiting.opened.result())
            waiting.turn = self._prompt.turn(waiting.pictures, waiting.item.row)
        except VLMError as error:
            if (every := column_error(error)) is not None:
                raise every from None
            waiting.error = one_line(error)
        finally:
            waiting.opened = None
        if waiting.turn is not None:
            content = digest_of_parts(waiting.turn.parts)
            waiting.key = self._repeats.told_apart(content)
            source = source_key(waiting.turn.parts, waiting.item.source, waiting.pictures)
            waiting.source_key = self._repeats.told_apart(source) if source else ""


def one_line(error: VLMError) -> str:
    """An error as a cell of a table: its kind, what failed and what there is."""
    have = f" ({error.have})" if error.have else ""
    return f"{type(error).__name__}: {error.what}{have}"


def column_error(error: VLMError) -> PromptError | None:
    """What to raise for a column that is missing in every row alike; None for another error."""
    cause = error.__cause__
    if not isinstance(cause, NoColumnError):
        return None
    near = near_names(cause.column, cause.columns)
    return PromptError(
        f"no column {cause.column!r} for {{row.{shorten(cause.column, 60)}}}",
        have=", ".join(near or cause.columns) or "no table beside these pictures",
        hint=f"{{row.{(near or cause.columns)[0]}}}"
        if cause.columns
        else "--map frame.column, or table=frame",
        name=cause.column,
    )


def _is_thread_safe(source: object) -> bool:
    """Whether a picture may be opened beside the others."""
    if isinstance(source, (list, tuple)):
        return all(map(_is_thread_safe, source))
    return (
        source is None
        or isinstance(source, (str, bytes, bytearray, memoryview, float, Path, Picture))
        or sniff.is_pil(source)
        or sniff.is_dataset_cell(source)
        or sniff.has_type(source, "numpy.ndarray", "torch.Tensor")
    )
