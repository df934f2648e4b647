"""The finished rows of a map: what was answered, kept from before or failed, in memory and in the journal.

Knows rows, replies and journals, not who answers. Neighbours: `batches` asks here and
`vlm_magic.tasks.cluster` elsewhere; both write here. `journal` is the file, `table` the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from vlm_magic.errors import OptionError, VLMError
from vlm_magic.messages import Choice, Picture, Reply
from vlm_magic.tasks.map.journal import Journal, Memory, Record
from vlm_magic.tasks.map.partitions import Partitions
from vlm_magic.tasks.map.rows import Item
from vlm_magic.tasks.map.table import MappedRow
from vlm_magic.tasks.map.window import one_line

__all__ = ["Ledger"]


class Ledger:
    """The finished rows of one map.

    Args:
        journal: where finished rows go and are found again.
        read: makes the answer of a reply; what it raises is the row's error.
        is_typed: whether `read` has the last word on whether an answer is whole.
        keeps_rows: False where the journal is all that keeps them, for tables that do not fit here.

    Attributes:
        rows: in the order in which they were finished, without pictures.
        notes: remarks for the person.
        n_kept: how many of them an earlier run had answered.
        n_answered: how many this run has answered.
        n_done: finished rows.
    """

    def __init__(
        self,
        journal: Journal,
        read: Callable[[Reply], object],
        *,
        is_typed: bool,
        keeps_rows: bool = True,
    ) -> None:
        self._journal = journal
        self._read = read
        self._is_typed = is_typed
        self.rows: list[MappedRow] = []
        self.notes: list[str] = []
        self.n_kept = 0
        self.n_answered = 0
        self.n_done = 0
        self._keeps_rows = keeps_rows

    def find(self, key: str) -> Record | None:
        """What an earlier run answered to this question, or None."""
        return self._journal.find(key)

    def find_source(self, source_key: str) -> Record | None:
        """Likewise, by where its pictures come from; see `vlm_magic.tasks.map.sources.source_key`."""
        return self._journal.find_source(source_key) if source_key else None

    def answered(
        self,
        item: Item,
        key: str,
        reply: Reply,
        seconds: float,
        pictures: tuple[Picture, ...] = (),
        source_key: str = "",
    ) -> MappedRow:
        """A row that the model has just answered.

        Args:
            item: the row.
            key: its question, by content.
            reply: what the model said.
            seconds: the row's share of the time.
            pictures: for who shows the row; the ledger itself keeps none.
            source_key: its question, by where its pictures come from.
        """
        row = replace(self._row(item, reply), seconds=round(seconds, 6))
        record = Record(
            key=key,
            name=item.name,
            text=reply.text,
            probabilities={c.text: c.probability for c in reply.choices} if reply.choices else None,
            n_tokens=reply.n_new_tokens,
            seconds=row.seconds,
            # What was read as a whole value is whole, wherever the tokens ended.
            finish_reason="stop" if self._is_typed and not row.error else reply.finish_reason,
            error=row.error,
            source=source_key,
            scores={c.text: (c.log_probability, c.n_tokens, c.score) for c in reply.choices} or None,
        )
        self.n_answered += 1
        self._write(record, item.position)
        return self._done(row, item, pictures)

    def kept(self, item: Item, record: Record, pictures: tuple[Picture, ...] = ()) -> MappedRow:
        """A row that an earlier run answered."""
        self.n_kept += 1
        if isinstance(self._journal, Partitions):
            self._journal.keep(record, item.position)
        reply = Reply(
            record.text,
            finish_reason=record.finish_reason,  # type: ignore[arg-type]
            n_new_tokens=record.n_tokens,
            choices=_choices_of(record),
        )
        row = replace(self._row(item, reply), seconds=record.seconds, is_kept=True)
        return self._done(row, item, pictures)

    def failed(self, item: Item, key: str, error: str, pictures: tuple[Picture, ...] = ()) -> MappedRow:
        """A row that could not be asked or answered; the next run asks it again."""
        self._write(Record(key or f"row {item.position}", item.name, error=error), item.position)
        return self._done(MappedRow(item.position, item.label, item.name, error=error), item, pictures)

    def note(self, text: str) -> None:
        """Add a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def forget_what_was_drawn(self) -> None:
        """Drop the rows that memory alone keeps: random answers are drawn anew by the next run."""
        if isinstance(self._journal, Memory):
            self._journal.clear()

    def close(self) -> None:
        """Let go of the journal's file."""
        self._journal.close()

    def _row(self, item: Item, reply: Reply) -> MappedRow:
        answer, error = None, ""
        try:
            answer = self._read(reply)
        except VLMError as failure:
            error = one_line(failure)
        return MappedRow(
            item.position,
            item.label,
            item.name,
            answer,
            reply.text,
            {choice.text: choice.probability for choice in reply.choices} or None,
            reply.n_new_tokens,
            finish_reason=reply.finish_reason,
            error=error,
        )

    def _done(self, row: MappedRow, item: Item, pictures: tuple[Picture, ...]) -> MappedRow:
        self.n_done += 1
        if self._keeps_rows:
            self.rows.append(row)
        return replace(row, pictures=pictures, view=item.row)

    def _write(self, record: Record, position: int) -> None:
        try:
            self._journal.add(record, position)
        except OSError as error:
            if not self._keeps_rows:
                raise OptionError(
                    "the folder of the map cannot be written any more",
                    have=f"{error.strerror or error}; {self.n_done} rows are kept",
                    hint="run it again once there is room: only what is missing is asked",
                ) from error
            # A full disk: the rows go on, in memory.
            self.note(f"the journal could not be written any more: {error.strerror or error}")
            self._journal.close()
            self._journal = Memory()


def _choices_of(record: Record) -> tuple[Choice, ...]:
    """The choices of a record; of one from before scores were kept, what its probabilities say."""
    scores = record.scores or {}
    found = []
    for text, share in (record.probabilities or {}).items():
        by_share = (math.nan, 0, math.log(share) if share > 0 else -math.inf)
        log_probability, n_tokens, score = scores.get(text, by_share)
        found.append(Choice(text, share, log_probability, n_tokens, score))
    return tuple(found)
