"""Full pictures of conversations on disk, so that a restarted kernel can go on with them.

A saved notebook keeps words and thumbnails; the pixels that the model was shown are here, bounded in
bytes, in one folder for each notebook, readable by their owner alone. Files are named by the hash of
the picture's digest, written aside and renamed, and checked against that digest when they are read;
the least recently used go first. Neighbours: `cache` keeps downloads; the workspace is the caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_magic.errors import VLMError
from vlm_magic.inputs.cache import write_aside
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pictures import to_picture
from vlm_magic.messages import Picture

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PictureStore"]

DEFAULT_BYTES = 500_000_000
_ANY_SIZE = PictureOptions(max_megapixels=1_000)  # these were decoded before, under the person's limits
_ABANDONED_S = 3600.0  # a file that another kernel began to write and never finished


class PictureStore:
    """The pictures of one notebook on this machine.

    Args:
        notebook: what tells the notebook from others, such as its path; "" takes a new random key.
        limit_bytes: the most that all notebooks together may hold; 0 keeps nothing.
        folder: where; ``vlm_magic/pictures`` in the user's cache folder if not given.

    Attributes:
        key: the name of the notebook's folder; its saved outputs name it, so that a notebook that was
            renamed finds its pictures.
        limit_bytes: may be changed at any time.
    """

    def __init__(
        self, notebook: str = "", *, limit_bytes: int = DEFAULT_BYTES, folder: Path | None = None
    ) -> None:
        self.key = _hash(notebook) if notebook else secrets.token_hex(16)
        self.limit_bytes = limit_bytes
        self._folder = folder
        self._written: set[str] = set()
        self._lock = threading.Lock()  # one writer at a time
        self._threads: list[threading.Thread] = []

    @property
    def folder(self) -> Path:
        """The folder of all notebooks; it is looked up anew, for tests and people move their caches."""
        if self._folder is not None:
            return self._folder
        base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        return Path(base) / "vlm_magic" / "pictures"

    @property
    def shown_key(self) -> str:
        """What a saved output says about where its pictures are: the key, or "" where none are kept."""
        return self.key if self.limit_bytes > 0 else ""

    def keep(self, pictures: Iterable[Picture]) -> None:
        """Write those that are not there yet, in the background; returns at once.

        A full disk or a folder that cannot be written keeps nothing and says nothing: the conversation
        goes on without. Python waits for the writing before it exits.
        """
        if self.limit_bytes <= 0:
            return
        new = [p for p in pictures if p.digest and p.image is not None and p.digest not in self._written]
        if not new:
            return
        self._written.update(picture.digest for picture in new)
        thread = threading.Thread(target=self._write, args=(new,), name="vlm_magic pictures")
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until everything is written."""
        for thread in list(self._threads):
            thread.join(timeout_s)

    def find(self, key: str, digest: str) -> Image.Image | None:
        """The picture with this digest that the notebook with this key has kept; None where it is gone."""
        if not re.fullmatch(r"[0-9a-f]{32}", key):
            return None
        path = self.folder / key / _hash(digest)
        try:
            found = to_picture(path.read_bytes(), name="kept picture", options=_ANY_SIZE)
        except (OSError, VLMError):
            return None
        if found.digest != digest:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found.rgb

    def forget(self) -> int:
        """Delete the kept pictures of all notebooks; the number of bytes that were freed."""
        self.wait()
        with self._lock:
            n_bytes = sum(size for _, size, _ in self._files())
            shutil.rmtree(self.folder, ignore_errors=True)
            self._written.clear()
        return n_bytes

    def _write(self, pictures: list[Picture]) -> None:
        with self._lock:
            for picture in pictures:
                try:
                    self._write_one(picture)
                except (OSError, ValueError):  # no space, no rights, a size that PNG does not have
                    self._written.discard(picture.digest)

    def _write_one(self, picture: Picture) -> None:
        folder = self.folder / self.key
        path = folder / _hash(picture.digest)
        if path.exists():
            os.utime(path)
            return
        buffer = BytesIO()
        # Lossless, for the model must see the same pixels again; level 1 is a fifth of the default's time.
        picture.rgb.save(buffer, "PNG", compress_level=1)
        if buffer.tell() > self.limit_bytes:
            return
        for owned in (self.folder, folder):
            owned.mkdir(parents=True, exist_ok=True, mode=0o700)
            owned.chmod(0o700)
        write_aside(path, buffer.getvalue())
        self._make_room()

    def _make_room(self) -> None:
        """Delete the least recently used pictures above the limit, and folders that are empty then."""
        files = self._files()
        total = sum(size for _, size, _ in files)
        for used_at, size, path in sorted(files):
            is_abandoned = path.name.startswith(".part-") and time.time() - used_at > _ABANDONED_S
            if total <= self.limit_bytes and not is_abandoned:
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # only where it is empty

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every kept picture."""
        files = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        return files


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
