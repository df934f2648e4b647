"""Full pictures of conversations on disk, so that a restarted kernel can go on with them.

A saved notebook keeps words and thumbnails; the pixels that the model was shown are here, bounded in
bytes, in one folder for each notebook, readable by their owner alone. Files are named by the hash of
the picture's digest and checked against that digest when they are read. Neighbours: `disk_store` keeps
files; the workspace is the caller.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_magic.errors import VLMError
from vlm_magic.inputs.disk_store import DiskStore, cache_folder
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pictures import to_picture
from vlm_magic.messages import Picture

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PictureStore"]

DEFAULT_BYTES = 500_000_000
_ANY_SIZE = PictureOptions(max_megapixels=1_000)  # these were decoded before, under the person's limits


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
        return self._folder if self._folder is not None else cache_folder("pictures")

    @property
    def _store(self) -> DiskStore:
        return DiskStore(self.folder, self.limit_bytes, ("[0-9a-f]" * 32,))

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
        data = self._store.read(f"{key}/{_hash(digest)}")
        if data is None:
            return None
        try:
            found = to_picture(data, name="kept picture", options=_ANY_SIZE)
        except VLMError:
            return None
        return found.rgb if found.digest == digest else None

    def forget(self, *, everywhere: bool = False) -> int:
        """Delete the kept pictures of this notebook, or of all; the number of bytes that were freed."""
        self.wait()
        with self._lock:
            self._written.clear()
            return self._store.clear("" if everywhere else self.key)

    def _write(self, pictures: list[Picture]) -> None:
        with self._lock:
            for picture in pictures:
                try:
                    self._write_one(picture)
                except (OSError, ValueError):  # no space, no rights, a size that PNG does not have
                    self._written.discard(picture.digest)

    def _write_one(self, picture: Picture) -> None:
        name = f"{self.key}/{_hash(picture.digest)}"
        if self._store.has(name):
            return
        buffer = BytesIO()
        # Lossless, for the model must see the same pixels again; level 1 is a fifth of the default's time.
        picture.rgb.save(buffer, "PNG", compress_level=1)
        self._store.write(name, buffer.getvalue())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
