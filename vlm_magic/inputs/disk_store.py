"""Small files on disk, bounded in bytes, safe with several kernels at once.

Files are written aside and renamed, can be read by their owner alone, and the least recently used go first.
Knows nothing of what is in them: `download.disk_cache` keeps what was fetched, `picture_store` the pictures
of conversations.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["DiskStore", "cache_folder"]

_ABANDONED_S = 3600.0  # a file that another kernel began to write and never finished
_MAX_FILES = 20_000  # a folder of more is slow to go through
_ASIDE = ".part-"


def cache_folder(name: str) -> Path:
    """A folder of ours in the user's cache folder, as the platform has it; it is not made."""
    from platformdirs import user_cache_path

    return user_cache_path("vlm_magic", appauthor=False) / name


class DiskStore:
    """The files below one folder.

    Args:
        folder: where; made when the first file is written.
        limit_bytes: the most that all files together may hold; 0 keeps nothing.
        rooms: patterns of the folders in it that are ours; whatever else is there stays.
    """

    def __init__(self, folder: Path, limit_bytes: int, rooms: Sequence[str] = ("*",)) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.rooms = tuple(rooms)

    def read(self, name: str) -> bytes | None:
        """The file of this name ("folder/file"), which now counts as used; None where it is gone."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def has(self, name: str) -> bool:
        """Whether the file is there; then it counts as used."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / name)
            return True
        return False

    def write(self, name: str, data: bytes) -> None:
        """Keep a file, and delete the least recently used ones above the limit.

        Another kernel sees the old file or the new one, never half of it.

        Raises:
            OSError: a full disk, or a folder that cannot be written.
        """
        if len(data) > self.limit_bytes:
            return
        path = self.folder / name
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=_ASIDE)  # readable by its owner alone
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        self._make_room()

    def clear(self, room: str = "") -> int:
        """Delete everything, or what is in one folder; the number of bytes that were freed."""
        n_bytes = sum(size for _, size, path in self._files() if room in ("", path.parent.name))
        for pattern in [room] if room else self.rooms:
            for folder in self.folder.glob(pattern):
                shutil.rmtree(folder, ignore_errors=True)
        return n_bytes

    def _make_room(self) -> None:
        """Delete what is too much or was left half done, and folders that are empty then."""
        files = sorted(self._files())
        total, n_left = sum(size for _, size, _ in files), len(files)
        for used_at, size, path in files:
            is_abandoned = path.name.startswith(_ASIDE) and time.time() - used_at > _ABANDONED_S
            if total <= self.limit_bytes and n_left <= _MAX_FILES and not is_abandoned:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                total, n_left = total - size, n_left - 1
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # only where it is empty

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(last use, bytes, path) of every file."""
        for room in self.rooms:
            for path in self.folder.glob(f"{room}/*"):
                with contextlib.suppress(OSError):
                    found = path.stat()
                    yield found.st_mtime, found.st_size, path
