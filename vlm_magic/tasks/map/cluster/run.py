"""The loop of a map on a cluster: slices of rows out, answers in, every row exactly once in the table.

The driver lists, sends and journals; it opens no picture that workers can open. Neighbours: `worker` is what
answers, `protocol` the cluster, `vlm_magic.tasks.map.ledger` what is done.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from vlm_magic.errors import ClusterError, VLMError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Picture, Settings, Turn
from vlm_magic.tasks.map.cluster import worker
from vlm_magic.tasks.map.cluster.engine import ClusterEngine
from vlm_magic.tasks.map.cluster.protocol import Outcome
from vlm_magic.tasks.map.cluster.travel import (
    MapTask,
    RowAnswer,
    RowTask,
    SliceAnswers,
    packed_turns,
    png_bytes,
    travelling,
)
from vlm_magic.tasks.map.ledger import Ledger
from vlm_magic.tasks.map.prompt import MapPrompt
from vlm_magic.tasks.map.rows import Item, open_pictures
from vlm_magic.tasks.map.sources.source_key import Repeats, source_key
from vlm_magic.tasks.map.table import MappedRow
from vlm_magic.tasks.map.window import column_error, one_line

__all__ = ["ClusterRun"]

_FIRST_ROWS = 4  # of a slice, before anybody knows how long a row takes
_GROWTH = 4  # of slices, at most: a short slice costs a worker 20 ms more than its rows do
_MOST_ROWS = 256
_LAST_ROWS = 16  # of a slice, at least, while the last rows are shared out
_SLICE_S = 2.0  # that a slice should take: what is lost with a worker, and how late a row is seen
_MAX_TRIES = 3  # workers that a row may cost
_WAIT_S = 0.25
_NO_WORKER_S = 60.0  # without any worker, before the map ends
_FIRST_THUMBNAILS = 48  # rows that a finished sheet shows
_LATER_THUMBNAILS = 16  # one row of so many, for the sheet that is filling


@dataclass(frozen=True, slots=True)
class _Out:
    """A row that is out, or waits to be sent."""

    item: Item
    task: RowTask
    source_key: str
    n_lost: int = 0


class ClusterRun:
    """The rows of a map on their way through a cluster.

    Args:
        engine: the cluster and its model.
        settings: how to answer.
        examples: turns before every question.
        items: the rows, read once and in order.
        n_items: how many there are, or None where nobody knows.
        prompt: makes a row's question.
        options: limits of pictures and downloads.
        ledger: where finished rows go.
        batch_size: rows that a worker asks at a time; its own choice if not given.

    Attributes:
        is_drained: whether the source has no more rows.
        source_error: what the source raised, if it did.
        unseen: rows that had come when the loop was left: they are kept, and nobody was given them.
    """

    def __init__(
        self,
        engine: ClusterEngine,
        settings: Settings,
        examples: Sequence[Turn],
        items: Iterator[Item],
        n_items: int | None,
        prompt: MapPrompt,
        options: PictureOptions,
        ledger: Ledger,
        batch_size: int | None,
    ) -> None:
        self._engine = engine
        self._cluster = engine.cluster
        self._items = items
        self._n_items = n_items
        self._n_read = 0  # of them, rows of finished parts included
        self._prompt = prompt
        self._options = options
        self._ledger = ledger
        self._fixed: dict[str, bytes] = {}
        packed = packed_turns(examples, self._fixed)
        self._task = MapTask(
            uuid.uuid4().hex,
            engine.model,
            settings,
            options,
            tuple((turn.role, parts) for turn, parts in zip(examples, packed, strict=True)),
            self._fixed,
            batch_size,
        )
        self._waiting: deque[list[_Out]] = deque()  # slices to be sent again, before anything new
        self._suspects: deque[_Out] = deque()  # rows under which a worker died: one at a time, by itself
        self._suspect_out: int | None = None
        self._out: dict[int, list[_Out]] = {}
        self._came: deque[tuple[_Out, RowAnswer]] = deque()  # answers that are to be written
        self._repeats = Repeats()
        self._batch_size = batch_size
        self._slice_rows = batch_size or _FIRST_ROWS
        self._least_rows = batch_size or 1
        self._alone_since: float | None = None
        self.is_drained = False
        self.source_error: Exception | None = None
        self.unseen: list[MappedRow] = []

    def __len__(self) -> int:
        """Rows that are out, wait to be sent again, or came and are not written yet."""
        n_sliced = sum(map(len, (*self._out.values(), *self._waiting)))
        return n_sliced + len(self._suspects) + len(self._came)

    def rows(self) -> Iterator[MappedRow]:
        """The rows as they are finished; leaving the loop early cancels what is out.

        Raises:
            ClusterError: the cluster is gone. Else a VLMError that would be every row's.
        """
        is_whole = False
        try:
            yield from self._send()
            while self._out:
                outcomes = self._cluster.completed(_WAIT_S)
                failure = self._taken(outcomes)
                if failure is None:
                    # Workers get their next rows before these are written and shown.
                    try:
                        self._check_workers(is_news=bool(outcomes))
                        yield from self._send()
                    except VLMError as error:
                        failure = error
                while self._came:
                    yield self._written(*self._came.popleft())
                if failure is not None:
                    raise failure
            is_whole = True
        finally:
            self._end(is_whole=is_whole)

    def _end(self, *, is_whole: bool) -> None:
        """Keep what came but was not shown, and cancel what is out."""
        with suppress(VLMError):  # a folder that is full: the loop ends with an error of its own
            while self._came:
                self.unseen.append(self._written(*self._came.popleft()))
        if not is_whole:  # an interrupt in the middle of sending leaves a slice out that is not in `_out`
            self._cluster.cancel()
            self._cluster.tell(worker.stop, self._task.id)

    def _send(self) -> Iterator[MappedRow]:
        """Send slices until every worker has its next one; gives the rows that need not be asked."""
        # One for each worker: a second one would wait behind a slow row, and sending takes milliseconds.
        n_wanted = max(1, self._cluster.n_workers())
        while len(self._out) < n_wanted:
            is_suspect = bool(self._suspects) and self._suspect_out is None
            rows = [self._suspects.popleft()] if is_suspect else []
            if not rows and self._waiting:
                rows = self._waiting.popleft()
            if not rows:
                yield from self._new_slice(rows, n_wanted)
            if not rows:
                return
            number = self._cluster.submit(worker.answer_slice, self._task, tuple(out.task for out in rows))
            self._out[number] = rows
            if is_suspect:
                self._suspect_out = number

    def _new_slice(self, rows: list[_Out], n_workers: int) -> Iterator[MappedRow]:
        """Fill ``rows`` from the source; gives those that were answered before or cannot be asked."""
        n_rows = self._n_rows_next(n_workers)
        while not self.is_drained and len(rows) < n_rows:
            try:
                item = next(self._items)
            except StopIteration:
                self.is_drained = True
                return
            except Exception as error:
                self.is_drained, self.source_error = True, error
                return
            self._n_read = item.position + 1
            try:
                out = self._prepared(item)
            except VLMError as error:
                if (every := column_error(error)) is not None:
                    raise every from None
                yield self._ledger.failed(item, "", one_line(error))
                continue
            known = self._ledger.find_source(out.source_key)
            if known is not None:
                yield self._ledger.kept(item, known)
            else:
                rows.append(out)

    def _n_rows_next(self, n_workers: int) -> int:
        """Rows of the next slice: fewer at the end, so that no worker works on when others have nothing."""
        if self._n_items is None or self._batch_size is not None:
            return self._slice_rows
        share = (self._n_items - self._n_read) // (2 * n_workers)
        return min(self._slice_rows, max(share, _LAST_ROWS))

    def _prepared(self, item: Item) -> _Out:
        """A row as it is sent: its words put together here, its pictures opened on the worker."""
        source = travelling(item.source)
        if source is None or self._prompt.needs_pixels:
            pictures = open_pictures(item, self._options)
            shown: Any = [png_bytes(picture) for picture in pictures] if source is None else source
            source = shown[0] if isinstance(shown, list) and len(shown) == 1 else shown
        else:
            pictures = [Picture(source, item.name)]
        turn = self._prompt.turn(pictures, item.row)
        key = source_key(turn.parts, source, pictures)
        (parts,) = packed_turns([turn], self._fixed, pictures)
        wants = item.position < _FIRST_THUMBNAILS or item.position % _LATER_THUMBNAILS == 0
        task = RowTask(item.position, item.name, source, parts, wants)
        return _Out(item, task, self._repeats.told_apart(key) if key else "")

    def _taken(self, outcomes: Sequence[Outcome]) -> VLMError | None:
        """Take in what became of slices; what would be every row's error, if there is one."""
        failure: VLMError | None = None
        for outcome in outcomes:
            rows = self._out.pop(outcome.task, None)
            if rows is None:
                continue
            if outcome.task == self._suspect_out:
                self._suspect_out = None
            if outcome.is_lost:
                self._lost(rows)
            elif outcome.error is not None:
                failure = failure or _as_ours(outcome.error)
            else:
                failure = failure or self._answered(rows, outcome.value)
        return failure

    def _answered(self, rows: list[_Out], answers: SliceAnswers) -> VLMError | None:
        """Have the answers of a slice, those of another model excepted, written."""
        try:
            self._engine.check_identity(answers.identity, answers.worker)
        except VLMError as error:
            return error
        for note in answers.notes:
            self._ledger.note(note)
        left = {out.item.position: out for out in rows}
        self._came += [(left.pop(answer.position), answer) for answer in answers.rows]
        if left:
            self._waiting.append(list(left.values()))
        self._resize(len(answers.rows), answers.seconds)
        return None

    def _written(self, out: _Out, answer: RowAnswer) -> MappedRow:
        key = self._repeats.told_apart(answer.key) if answer.key else ""
        if answer.reply is None:
            row = self._ledger.failed(out.item, key, answer.error)
        else:
            row = self._ledger.answered(
                out.item, key, answer.reply, answer.seconds, source_key=out.source_key
            )
        return replace(row, thumbnail=answer.thumbnail)

    def _resize(self, n_rows: int, seconds: float) -> None:
        """Let slices take about two seconds, and grow step by step."""
        if n_rows and seconds > 0:
            wanted = int(n_rows / seconds * _SLICE_S)
            self._slice_rows = max(self._least_rows, 1, min(wanted, _GROWTH * self._slice_rows, _MOST_ROWS))

    def _lost(self, rows: list[_Out]) -> None:
        """A worker died under these rows: each is a suspect, until it is answered or has cost three of them.

        One suspect at a time is out, so that none dies with another one's worker more than once.
        """
        for out in rows:
            n_lost = out.n_lost + (self._cluster.n_tries if len(rows) == 1 else 1)
            if n_lost >= _MAX_TRIES:
                error = f"ClusterError: its worker died, {n_lost} times"
                self._came.append((out, RowAnswer(out.item.position, error=error)))
            else:
                self._suspects.append(replace(out, n_lost=n_lost))
        self._ledger.note("a worker died; its rows were sent again")

    def _check_workers(self, *, is_news: bool) -> None:
        """End the map where there has been no worker for a minute."""
        if is_news or self._cluster.n_workers():
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if now - self._alone_since > _NO_WORKER_S:
            raise ClusterError(
                f"{self._cluster.name} has had no worker for {_NO_WORKER_S:.0f} s",
                have=f"{self._ledger.n_done} rows are kept",
                hint="run it again with the same journal once there are workers",
            )


def _as_ours(error: BaseException) -> VLMError:
    """What a worker raised as an error of ours: in three lines, whatever it was."""
    if isinstance(error, VLMError):
        return error
    ours = ClusterError(
        f"a worker failed: {type(error).__name__}",
        have=str(error),
        hint="the same packages on workers as here; the worker's own log says more",
    )
    ours.__cause__ = error
    return ours
