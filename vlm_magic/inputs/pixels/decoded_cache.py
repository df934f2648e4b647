"""Pictures that were decoded before: the same bytes again cost a hash, not a decode.

A digest of pixels and size is what makes two pictures the same. The memory of decoded pictures is
bounded and can be emptied; nothing here touches the disk.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO, TypeAlias

from PIL import Image

from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pixels.decode import decode_picture
from vlm_magic.messages import digest_of

__all__ = ["SeenPicture", "decoded", "forget", "is_kept"]

_MAX_BYTES = 128_000_000  # of decoded pixels, four bytes each


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """A decoded picture with the digest of its pixels."""

    image: Image.Image
    digest: str
    note: str
    full_px: tuple[int, int] | None = None

    @property
    def n_bytes(self) -> int:
        """What it holds in memory."""
        return 4 * self.image.width * self.image.height


_Key: TypeAlias = tuple[bytes, float | None, int | None]


class _Kept:
    """Decoded pictures by what they were decoded from, the least recently used first.

    Their bytes are counted as they come and go: a map over small pictures leaves thousands here, and a sum
    over all of them for each new one soon costs more than its answer.
    """

    def __init__(self) -> None:
        self.pictures: OrderedDict[_Key, SeenPicture] = OrderedDict()
        self._n_bytes = 0

    def find(self, key: _Key) -> SeenPicture | None:
        found = self.pictures.get(key)
        if found is not None:
            self.pictures.move_to_end(key)
        return found

    def add(self, key: _Key, picture: SeenPicture) -> None:
        before = self.pictures.pop(key, None)  # another thread may have decoded it as well
        self.pictures[key] = picture
        self._n_bytes += picture.n_bytes - (before.n_bytes if before else 0)
        while self._n_bytes > _MAX_BYTES:
            self._n_bytes -= self.pictures.popitem(last=False)[1].n_bytes

    def clear(self) -> int:
        n_bytes, self._n_bytes = self._n_bytes, 0
        self.pictures.clear()
        return n_bytes


_kept = _Kept()
_lock = threading.Lock()


def decoded(source: bytes | IO[bytes], *, name: str, options: PictureOptions) -> SeenPicture:
    """The picture of encoded bytes, from memory where the same bytes were decoded before.

    Raises:
        As `vlm_magic.inputs.pixels.decode.decode_picture`; failures are not remembered.
    """
    if not isinstance(source, bytes):  # a file too large to hash for the sake of memory
        with source:
            found = decode_picture(source, name=name, options=options)
        return SeenPicture(found.image, digest_of(found.image), found.note, found.full_px)
    key = hashlib.sha256(source).digest(), options.max_megapixels, options.longest_px
    with _lock:
        kept = _kept.find(key)
    if kept is not None:
        return kept
    found = decode_picture(source, name=name, options=options)
    picture = SeenPicture(found.image, digest_of(found.image), found.note, found.full_px)
    if picture.n_bytes <= _MAX_BYTES // 2:
        with _lock:
            _kept.add(key, picture)
    return picture


def is_kept(image: Image.Image) -> bool:
    """Whether this very picture is kept, so that somebody else may get it too."""
    with _lock:
        return any(kept.image is image for kept in _kept.pictures.values())


def forget() -> int:
    """Drop every decoded picture that is kept; the number of bytes that were held."""
    with _lock:
        return _kept.clear()
