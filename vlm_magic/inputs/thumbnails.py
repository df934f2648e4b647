"""Small copies of pictures for the proof: what is shown beside a question and saved in the notebook.

Made from the upright RGB pixels alone, so no EXIF, GPS or profile can be left in them. Kept by digest:
the same picture is reduced once. Knows nothing of HTML.
"""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict

from vlm_magic.messages import Picture

__all__ = ["forget_thumbnails", "thumbnail_bytes", "thumbnail_data_uri"]

_MAX_KEPT = 512  # a thumbnail is a few kilobytes
_QUALITY = 80

_kept: OrderedDict[tuple[str, int], tuple[bytes, str]] = OrderedDict()
_lock = threading.Lock()


def thumbnail_bytes(picture: Picture, longest_px: int = 192) -> tuple[bytes, str]:
    """A small encoded copy of a decoded picture, and its MIME type (WEBP, or JPEG where that is missing).

    Args:
        picture: a decoded picture.
        longest_px: longest side in pixels; a smaller picture is not enlarged.

    Raises:
        PictureTypeError: the picture is not decoded.
    """
    key = picture.digest, longest_px
    with _lock:
        if picture.digest and key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    made = _made(picture, longest_px)
    if picture.digest:
        with _lock:
            _kept[key] = made
            while len(_kept) > _MAX_KEPT:
                _kept.popitem(last=False)
    return made


def _made(picture: Picture, longest_px: int) -> tuple[bytes, str]:
    from PIL import Image, features

    rgb = picture.rgb
    ratio = min(1.0, longest_px / max(rgb.size))
    size = max(1, round(rgb.width * ratio)), max(1, round(rgb.height * ratio))
    small = rgb if size == rgb.size else rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    bare = Image.frombytes("RGB", small.size, small.tobytes())  # pixels only: no info that save would write
    buffer = io.BytesIO()
    if features.check("webp"):
        bare.save(buffer, "WEBP", quality=_QUALITY, method=4)
        return buffer.getvalue(), "image/webp"
    bare.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue(), "image/jpeg"


def thumbnail_data_uri(picture: Picture, longest_px: int = 192) -> str:
    """The thumbnail as a data URI, for HTML and markdown.

    Raises:
        PictureTypeError: the picture is not decoded.
    """
    data, mime = thumbnail_bytes(picture, longest_px)
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def forget_thumbnails() -> None:
    """Drop every thumbnail that is kept in memory."""
    with _lock:
        _kept.clear()
