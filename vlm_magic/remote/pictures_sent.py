"""Pictures on their way to a server: upright RGB pixels as data URIs, without metadata, never a path or URL.

A small picture goes as PNG, pixel for pixel; a large one as JPEG of quality 95, for a PNG of 12 megapixels
takes 30 MB and 1.7 s. Knows Pillow; nothing of servers.
"""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass

from vlm_magic.messages import Picture

__all__ = ["PictureEncoder", "Sent"]

_PNG_PIXELS = 1_050_000  # up to here lossless: 1024 x 1024
_KEPT_BYTES = 64 * 2**20
_QUALITY = 95


@dataclass(frozen=True)
class Sent:
    """A picture as it is sent.

    Attributes:
        uri: ``data:image/png;base64,…``.
        note: what was done to it, "" for nothing.
    """

    uri: str
    note: str = ""


class PictureEncoder:
    """Encodes pictures, each once; safe from any thread.

    Args:
        longest_px: larger ones are scaled down to this longest side.
    """

    def __init__(self, longest_px: int) -> None:
        self.longest_px = longest_px
        self._kept: OrderedDict[str, Sent] = OrderedDict()
        self._n_bytes = 0
        self._lock = threading.Lock()

    def encode(self, picture: Picture) -> Sent:
        """The picture as a data URI.

        Raises:
            PictureTypeError: it was not decoded.
        """
        with self._lock:
            known = self._kept.get(picture.digest) if picture.digest else None
            if known is not None:
                self._kept.move_to_end(picture.digest)
                return known
        made = self._encoded(picture)
        if picture.digest and len(made.uri) < _KEPT_BYTES // 4:
            with self._lock:
                if picture.digest not in self._kept:
                    self._kept[picture.digest] = made
                    self._n_bytes += len(made.uri)
                while self._n_bytes > _KEPT_BYTES:
                    self._n_bytes -= len(self._kept.popitem(last=False)[1].uri)
        return made

    def _encoded(self, picture: Picture) -> Sent:
        from PIL import Image

        image, done = picture.rgb, []
        if max(image.size) > self.longest_px:
            scale = self.longest_px / max(image.size)
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.LANCZOS)
            done.append(f"scaled to {size[0]} × {size[1]}")
        is_small = image.width * image.height <= _PNG_PIXELS
        bare = Image.new("RGB", image.size)  # whose info is empty: nothing but pixels is written
        bare.paste(image)
        file = io.BytesIO()
        if is_small:
            bare.save(file, "PNG", compress_level=1)
        else:
            bare.save(file, "JPEG", quality=_QUALITY, subsampling=0)
            done.append("as JPEG")
        kind = "png" if is_small else "jpeg"
        uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
        called = picture.name or "a picture"
        return Sent(uri, f"{called} was sent {' and '.join(done)}" if done else "")
