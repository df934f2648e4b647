"""Pictures that were decoded before: the same bytes again cost a hash, not a decode.

A digest of pixels and size is what makes two pictures the same. The memory of decoded pictures is
bounded and can be emptied; nothing here touches the disk.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO

from PIL import Image

from vlm_magic.inputs.decode import decode_picture
from vlm_magic.inputs.limits import PictureOptions

__all__ = ["SeenPicture", "decoded", "digest_of", "forget", "is_kept"]

_MAX_BYTES = 128_000_000  # of decoded pixels, four bytes each
_ROWS_PX = 1 << 18  # pixels that are hashed at a time


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """A decoded picture with the digest of its pixels."""

    image: Image.Image
    digest: str
    note: str

    @property
    def n_bytes(self) -> int:
        """What it holds in memory."""
        return 4 * self.image.width * self.image.height


_kept: OrderedDict[tuple[bytes, float | None, int | None], SeenPicture] = OrderedDict()
_lock = threading.Lock()


def digest_of(image: Image.Image) -> str:
    """Hexadecimal hash of the size and the pixels of an RGB picture."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    rows = max(1, _ROWS_PX // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(strip.tobytes())
    return digest.hexdigest()[:32]


def decoded(source: bytes | IO[bytes], *, name: str, options: PictureOptions) -> SeenPicture:
    """The picture of encoded bytes, from memory where the same bytes were decoded before.

    Raises:
        As `vlm_magic.inputs.decode.decode_picture`; failures are not remembered.
    """
    if not isinstance(source, bytes):  # a file too large to hash for the sake of memory
        with source:
            found = decode_picture(source, name=name, options=options)
        return SeenPicture(found.image, digest_of(found.image), found.note)
    key = hashlib.sha256(source).digest(), options.max_megapixels, options.longest_px
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    found = decode_picture(source, name=name, options=options)
    picture = SeenPicture(found.image, digest_of(found.image), found.note)
    if picture.n_bytes <= _MAX_BYTES // 2:
        with _lock:
            _kept[key] = picture
            while sum(kept.n_bytes for kept in _kept.values()) > _MAX_BYTES:
                _kept.popitem(last=False)
    return picture


def is_kept(image: Image.Image) -> bool:
    """Whether this very picture is kept, so that somebody else may get it too."""
    with _lock:
        return any(kept.image is image for kept in _kept.values())


def forget() -> int:
    """Drop every decoded picture that is kept; the number of bytes that were held."""
    with _lock:
        n_bytes = sum(kept.n_bytes for kept in _kept.values())
        _kept.clear()
    return n_bytes
