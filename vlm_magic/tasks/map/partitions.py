"""A map's rows as a folder of Parquet files, for tables that do not fit here: a part at a time, resumable.

    folder/part-00000.parquet        10,000 rows that are done, in their order
    folder/.part-00001.jsonl         the journal of a part that is under way
    folder/_map.json                 what was asked, and of each finished part which rows it holds

A part is known by its rows' names and sources: where they are what they were, a finished part without errors
is not asked again. pandas and Dask read the folder as one table. Knows rows and files, not engines.
Neighbours: `mapping` runs the rows through here, `journal` keeps those of unfinished parts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.tasks.map.journal import FileJournal, Record, check_header
from vlm_magic.tasks.map.rows import Item
from vlm_magic.tasks.map.sources.source_key import source_identity
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Partitions"]

_ROWS = 10_000  # of a part: some MB of Parquet, and as much of its rows is held here
_INDEX = "_map.json"  # readers of Parquet folders leave out names that begin so
_KIND = "vlm_magic map in parts"


@dataclass
class _Part:
    """A part that is under way."""

    number: int
    digest: str
    items: dict[int, Item]
    journal: FileJournal
    rows: dict[int, Record] = field(default_factory=dict)


class Partitions:
    """The parts of one map, and the journal of those that are under way.

    Args:
        folder: made when it is not there.
        header: what is asked, as plain JSON values; the folder must say the same.
        n_rows: of a part.

    Attributes:
        n_skipped: rows of finished parts, which were not asked again.

    Raises:
        OptionError: the folder cannot be written, holds another map, or pyarrow is not installed.
    """

    def __init__(self, folder: str | Path, header: Mapping[str, object], n_rows: int = _ROWS) -> None:
        _need_pyarrow()
        self.folder = Path(folder).expanduser()
        self._header = {**header, "rows of a part": n_rows}
        self._n_rows = n_rows
        self._parts: dict[int, _Part] = {}
        self._finished: dict[str, dict[str, Any]] = {}
        self.n_skipped = 0
        self._open()

    def items(self, items: Iterator[Item]) -> Iterator[Item]:
        """The rows that have to be asked, part by part; those of finished parts are left out."""
        for number in range(10**9):
            rows = list(islice(items, self._n_rows))
            if not rows:
                return
            digest = _digest_of(rows)
            done = self._finished.get(str(number))
            if done is not None and done["digest"] == digest and not done["n_errors"]:
                self.n_skipped += len(rows)
                continue
            journal = FileJournal(self._journal_path(number), self._header)
            self._parts[number] = _Part(number, digest, {row.position: row for row in rows}, journal)
            yield from rows

    # A journal, of all parts that are under way

    def find(self, key: str) -> Record | None:
        """The finished row of this key, or None."""
        found = (part.journal.find(key) for part in self._parts.values())
        return next((record for record in found if record is not None), None)

    def find_source(self, source: str) -> Record | None:
        """The finished row whose pictures were these files, or None."""
        found = (part.journal.find_source(source) for part in self._parts.values())
        return next((record for record in found if record is not None), None)

    def add(self, record: Record, position: int) -> None:
        """Keep a row; the last one of a part writes its file.

        Raises:
            OSError: it cannot be written.
        """
        part = self._parts[position // self._n_rows]
        part.journal.add(record, position)
        self.keep(record, position)

    def keep(self, record: Record, position: int) -> None:
        """Take in a row that the part's journal has already."""
        part = self._parts[position // self._n_rows]
        part.rows[position] = record
        if len(part.rows) == len(part.items):
            self._finish(part)

    def close(self) -> None:
        """Let go of the journals of parts that are under way."""
        for part in self._parts.values():
            part.journal.close()
        self._parts.clear()

    def to_frame(self) -> pd.DataFrame:
        """The finished parts as a small table: file, rows, errors."""
        pandas = need_pandas("a map")
        parts = sorted(self._finished.items(), key=lambda pair: int(pair[0]))
        frame: pd.DataFrame = pandas.DataFrame(
            [(str(self._part_path(int(n))), part["n_rows"], part["n_errors"]) for n, part in parts],
            columns=["file", "rows", "errors"],
        )
        return frame

    def _finish(self, part: _Part) -> None:
        """Write a whole part, then what says that it is there, then let its journal go."""
        n_errors = sum(bool(record.error) for record in part.rows.values())
        path = self._part_path(part.number)
        draft = path.with_name(f".{path.name}.draft")
        _frame_of(part).to_parquet(draft, engine="pyarrow")
        os.replace(draft, path)
        self._finished[str(part.number)] = {
            "digest": part.digest,
            "n_rows": len(part.rows),
            "n_errors": n_errors,
        }
        self._write_index()
        part.journal.close()
        if not n_errors:  # else the next run asks those rows again, and finds the others in the journal
            self._journal_path(part.number).unlink(missing_ok=True)
            self._journal_path(part.number).with_name(f".{self._journal_path(part.number).name}.lock").unlink(
                missing_ok=True
            )
        del self._parts[part.number]

    def _open(self) -> None:
        own = {"journal": _KIND, "version": 1, **self._header}
        index = self.folder / _INDEX
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if index.exists():
                found = json.loads(index.read_text(encoding="utf-8"))
                self._finished = found.pop("parts", {}) if isinstance(found, dict) else {}
                check_header(self.folder, found, json.loads(json.dumps(own)), _KIND)
            else:
                self._write_index()
        except (OSError, ValueError) as error:
            if isinstance(error, OptionError):
                raise
            raise OptionError(
                f"the folder {shorten(self.folder, 100)} cannot be used",
                have=shorten(error, 120),
                hint="--into with a new folder",
            ) from error
        self._finished = {n: p for n, p in self._finished.items() if self._part_path(int(n)).exists()}

    def _write_index(self) -> None:
        own = {"journal": _KIND, "version": 1, **self._header, "parts": self._finished}
        draft = self.folder / f"{_INDEX}.draft"
        draft.write_text(json.dumps(own, ensure_ascii=False), encoding="utf-8")
        os.replace(draft, self.folder / _INDEX)

    def _part_path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.parquet"

    def _journal_path(self, number: int) -> Path:
        return self.folder / f".part-{number:05d}.jsonl"


def _digest_of(rows: list[Item]) -> str:
    """What a part's rows are, told without opening a picture."""
    whole = hashlib.blake2b(digest_size=16)
    for row in rows:
        said = f"{row.label}|{row.name}|{source_identity(row.source)}"
        whole.update(said.encode("utf-8", "surrogatepass") + b"\n")
    return whole.hexdigest()


def _frame_of(part: _Part) -> Any:
    """The rows of a part in their order; answers in words, so that every part has the same columns."""
    pandas = need_pandas("a map")
    order = sorted(part.rows)
    records = [part.rows[position] for position in order]
    best = [max(r.probabilities.values()) if r.probabilities else None for r in records]
    shares = [json.dumps(r.probabilities, ensure_ascii=False) if r.probabilities else None for r in records]
    return pandas.DataFrame(
        {
            "position": pandas.array(order, dtype="int64"),
            "label": [str(part.items[position].label) for position in order],
            "picture": [r.name for r in records],
            "answer": pandas.array([None if r.error else r.text for r in records], dtype="string"),
            "probability": pandas.array(best, dtype="Float64"),
            "probabilities": pandas.array(shares, dtype="string"),
            "tokens": pandas.array([r.n_tokens for r in records], dtype="int64"),
            "seconds": pandas.array([r.seconds for r in records], dtype="float64"),
            "error": pandas.array([r.error or None for r in records], dtype="string"),
        }
    )


def _need_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401 - pandas writes with it
    except ImportError:
        raise OptionError(
            "--into writes Parquet, and pyarrow is not installed",
            have="--journal keeps rows without it",
            hint='pip install "vlm_magic[parquet]"',
        ) from None
