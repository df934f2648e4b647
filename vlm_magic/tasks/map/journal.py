"""What a map has answered already: in memory, or in a file that outlives the kernel.

A journal is a text file of JSON lines. The first says what was asked: prompt, model, settings. Each
further line is one finished row, written whole by one call of the operating system as soon as it is
there, so that a kernel that is killed loses nothing but the row it was in; half a line at the end
(a full disk, a power cut) is stepped over. Lines are only ever added. A row is known by its content:
the words and pictures of its question, so that a folder may gain files between two runs.

Knows files and records, not engines or pictures. Neighbour: `mapping` asks and fills it.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vlm_magic.errors import OptionError
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["FileJournal", "Journal", "Memory", "Record", "check_header", "forget_maps", "remembered"]

_KIND = "vlm_magic map"
_VERSION = 1
_MAX_REMEMBERED = 32  # maps that are kept in memory; a row is a few hundred bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One finished row.

    Attributes:
        key: what was asked, as a hash of its words and pictures.
        name: how people call the picture.
        text: the answer in words; of choices the best one.
        probabilities: of each choice; None where there were no choices.
        n_tokens: new tokens.
        seconds: the row's share of the time that its batch took.
        finish_reason: why the answer ended.
        error: what went wrong, in one line; "" for an answer. Errors are asked again.
        source: likewise, as a hash of its words and of its pictures' files; "" where they are none.
        scores: of each choice its log-probability, tokens and score (see `vlm_magic.messages.Choice`);
            None where there were no choices, and in journals of version 0.1.
    """

    key: str
    name: str = ""
    text: str = ""
    probabilities: dict[str, float] | None = None
    n_tokens: int = 0
    seconds: float = 0.0
    finish_reason: str = "stop"
    error: str = ""
    source: str = ""
    scores: Mapping[str, tuple[float, int, float]] | None = None


class Journal(Protocol):
    """Where finished rows go and are found again."""

    def find(self, key: str) -> Record | None:
        """The finished row of this key, or None while it is missing."""

    def find_source(self, source: str) -> Record | None:
        """The finished row whose pictures were these files, or None."""

    def add(self, record: Record, position: int) -> None:
        """Keep the row of this position for good.

        Raises:
            OSError: it cannot be written.
        """

    def close(self) -> None:
        """Let go of the file."""


class Memory:
    """A journal for as long as the kernel lives."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._by_source: dict[str, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def find(self, key: str) -> Record | None:
        """The finished row of this key, or None."""
        return self._records.get(key)

    def find_source(self, source: str) -> Record | None:
        """The finished row whose pictures were these files, or None."""
        return self._by_source.get(source)

    def add(self, record: Record, position: int = 0) -> None:
        """Keep a row; one that failed is not kept, so that it is asked again."""
        if not record.error:
            self._records[record.key] = record
            if record.source:
                self._by_source[record.source] = record

    def clear(self) -> None:
        """Forget all rows."""
        self._records.clear()
        self._by_source.clear()

    def close(self) -> None:
        """Nothing to let go of."""


_remembered: OrderedDict[str, Memory] = OrderedDict()
_lock = threading.Lock()


def remembered(header: Mapping[str, object]) -> Memory:
    """The rows that this process answered to the same prompt with the same model and settings."""
    key = json.dumps(header, sort_keys=True)
    with _lock:
        memory = _remembered.setdefault(key, Memory())
        _remembered.move_to_end(key)
        while len(_remembered) > _MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return memory


def forget_maps() -> int:
    """Forget every map that is kept in memory; the number of rows."""
    with _lock:
        n_rows = sum(map(len, _remembered.values()))
        _remembered.clear()
    return n_rows


class FileJournal:
    """A journal on disk, held by one run at a time.

    What it finds are rows of earlier runs: no row of a run asks what another one of it has asked
    (`vlm_magic.tasks.map.sources.source_key.Repeats`), so those that it adds are in the file alone.

    Args:
        path: the file; made when it is not there.
        header: what is asked, as plain JSON values; the file must say the same.

    Raises:
        OptionError: the file cannot be written, belongs to another prompt, model or settings, is no
            journal, or is being written by another run. Said before anything is asked.
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, object]) -> None:
        self.path = Path(path).expanduser()
        self._lock = _held(self.path)
        self._file = -1
        try:
            self._file = _opened(self.path)
            self._records = self._read(dict(header))
            self._by_source = {r.source: r for r in self._records.values() if r.source}
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._records)

    def find(self, key: str) -> Record | None:
        """The finished row of this key, or None."""
        return self._records.get(key)

    def find_source(self, source: str) -> Record | None:
        """The finished row whose pictures were these files, or None."""
        return self._by_source.get(source)

    def add(self, record: Record, position: int = 0) -> None:
        """Write a row; one that failed is written too, and asked again."""
        line = asdict(record)
        for name in ("source", "scores"):  # what says nothing takes no room
            if not line[name]:
                del line[name]
        self._write(line)

    def close(self) -> None:
        """Let go of the file and of the lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def _write(self, line: Mapping[str, object]) -> None:
        data = json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"
        written = os.write(self._file, data)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self, header: dict[str, object]) -> dict[str, Record]:
        """The finished rows, lines that are none stepped over; a new file gets its first line."""
        own = {"journal": _KIND, "version": _VERSION, **header}
        with self.path.open("rb") as file:
            first = file.readline()
            if not first:
                self._write(own)
                return {}
            check_header(self.path, _parsed(first), json.loads(json.dumps(own)))
            records, last = {}, first
            for last in file:
                record = _record(_parsed(last))
                if record is not None and not record.error:
                    records[record.key] = record
        if not last.endswith(b"\n"):  # half a line: the next one begins on a line of its own
            os.write(self._file, b"\n")
        return records


def _held(path: Path) -> BaseFileLock:
    """A lock file beside the journal, held by the run; it ends with its process, however that ends."""
    from filelock import FileLock, Timeout

    if not path.parent.is_dir():
        raise _unwritable(path, f"no folder {shorten(path.parent, 100)}")
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise OptionError(
            f"another run writes to {shorten(path, 100)}",
            have="a journal takes one run at a time",
            hint="wait for it or interrupt it, or --journal with another file",
            path=str(path),
        ) from None
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    return lock


def _opened(path: Path) -> int:
    """The journal, open for adding to its end."""
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def _unwritable(path: Path, why: str) -> OptionError:
    return OptionError(
        f"the journal {shorten(path, 100)} cannot be written",
        have=f"{why}; nothing was asked yet",
        hint="--journal with a file in a folder of yours",
        path=str(path),
    )


def _parsed(line: bytes) -> object:
    try:
        found: object = json.loads(line)
    except ValueError:
        return None
    return found


_FIELDS = {f.name for f in fields(Record)}


def _record(found: object) -> Record | None:
    """A line as a record, or None for anything else."""
    if not isinstance(found, dict) or not isinstance(found.get("key"), str):
        return None
    try:
        return Record(**{name: value for name, value in found.items() if name in _FIELDS})
    except TypeError:
        return None


def check_header(path: Path, found: object, own: Mapping[str, object], kind: str = _KIND) -> None:
    """Refuse a file that is no journal, or one of another map.

    Raises:
        OptionError: says what differs.
    """
    shown = shorten(path, 100)
    if not isinstance(found, dict) or found.get("journal") != kind:
        raise OptionError(
            f"{shown} exists and is not a map's journal",
            have="it was left as it is",
            hint="--journal with a new file",
            path=str(path),
        )
    for name, there, here in _differences(found, own):
        raise OptionError(
            f"{shown} is the journal of {'other' if name.endswith('s') else 'another'} {name}",
            have=f"there {_brief(there)}, now {_brief(here)}",
            hint="--journal with a new file, or what was asked before",
            path=str(path),
            differs=name,
        )


def _differences(
    found: Mapping[str, object], own: Mapping[str, object]
) -> Iterator[tuple[str, object, object]]:
    """What two headers say differently, by name; of nested ones the first thing in them."""
    for name in [*own, *(key for key in found if key not in own)]:
        there, here = found.get(name), own.get(name)
        if there == here:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            inner = next(_differences(there, here))
            yield name, f"{inner[0]} {_brief(inner[1])}", f"{inner[0]} {_brief(inner[2])}"
        else:
            yield name, there, here


def _brief(value: object) -> str:
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 60)
