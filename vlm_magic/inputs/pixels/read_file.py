"""Large files that are read while they are decoded. Knows nothing of pictures."""

from __future__ import annotations

import io
import os
from typing import IO

from vlm_magic.errors import PictureDecodeError
from vlm_magic.wording import size_words

__all__ = ["ReadFile", "changed"]


class ReadFile(io.RawIOBase):
    """A large file that is read and never mapped: a decoder that maps a file dies when it is cut short.

    It has no file number of its own, and what has none cannot be mapped.

    Args:
        file: open in binary mode; its size now is all that is read.
        name: for errors.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        super().__init__()
        self._file, self._name = file, name
        self.path = file.name
        self._size = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; the end is where it was when the file was opened."""
        if whence == io.SEEK_END:
            return self._file.seek(self._size + offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place."""
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, or those to the end.

        Raises:
            PictureDecodeError: the file was cut short meanwhile.
        """
        left = max(0, self._size - self._file.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise changed(self._name, self._size, os.fstat(self._file.fileno()).st_size)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def changed(name: str, before: int, after: int) -> PictureDecodeError:
    """The error for a file that was written to meanwhile."""
    return PictureDecodeError(
        f"{name} changed while it was read",
        have=f"{size_words(before)} at first, then {size_words(after)}",
        hint="again, when it is written whole",
    )
