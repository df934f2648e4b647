"""How arrays, plots, texts, files and bytes are read, and how those that hold a picture are told.

Each reader takes (object, name for errors, limits) and gives the bytes of a picture file, or a decoded
picture. What holds objects of other kinds is the business of `kinds`, whose table names these readers;
`pixels` makes the pictures, `locate` and `download` find the bytes.
"""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from vlm_magic.errors import FetchStatusError, PictureDecodeError, PictureTooLargeError, PictureTypeError
from vlm_magic.inputs import locate
from vlm_magic.inputs.limits import DEFAULT_MEGAPIXELS, PictureOptions
from vlm_magic.inputs.pixels import headers, sniff
from vlm_magic.wording import shorten, size_words

if TYPE_CHECKING:
    from vlm_magic.inputs.pixels.decode import Decoded

__all__ = [
    "Content",
    "NotShownError",
    "begins_picture",
    "is_meant_array",
    "is_picture_file",
    "is_picture_response",
    "read_array",
    "read_bytes",
    "read_cell",
    "read_open_file",
    "read_path",
    "read_pillow",
    "read_plot",
    "read_response",
    "read_shown",
    "read_text",
    "refuse_said",
    "split_array",
]

_GRAY_MODES = ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # P: numbers of a palette
_MOST_BYTES = 350_000_000  # of an open file

Content: TypeAlias = "bytes | IO[bytes] | Decoded"
"""What a kind is read as: the bytes of a picture file, or a picture that is decoded already."""


class NotShownError(PictureTypeError):
    """An object whose repr turned out to hold no picture."""


# -- arrays ------------------------------------------------------------------------------------


def is_meant_array(obj: object) -> bool:
    """Whether the shape and the numbers of an array are those of a picture."""
    from vlm_magic.inputs.pixels.arrays import can_be_picture

    return can_be_picture(obj)


def read_array(obj: object, name: str, options: PictureOptions) -> Decoded:
    """An array as the picture that it holds, through the colour map that was asked for."""
    from vlm_magic.inputs.pixels.arrays import to_image
    from vlm_magic.inputs.pixels.decode import fitted

    most = options.max_megapixels or DEFAULT_MEGAPIXELS
    image, note = to_image(obj, name=name, max_megapixels=most, shading=options.shading)
    return fitted(image, [note] if note else [], options.longest_px)


def split_array(obj: object, name: str) -> list[tuple[object, str]]:
    """The pictures of a batch, each under its index."""
    from vlm_magic.inputs.pixels.arrays import array_pictures, is_batch

    if not is_batch(obj):
        return [(obj, name)]
    return [(item, f"{name}[{i}]") for i, item in enumerate(array_pictures(obj))]


# -- what a notebook draws or shows --------------------------------------------------------------


def read_pillow(obj: Any, name: str, options: PictureOptions) -> Decoded:
    """A Pillow picture; its numbers through a colour map where one was asked for."""
    from vlm_magic.inputs.pixels.decode import decode_pillow

    if options.shading:
        import numpy as np

        return read_array(np.asarray(obj if obj.mode in _GRAY_MODES else obj.convert("RGB")), name, options)
    return decode_pillow(obj, name=name, options=options)


def read_plot(obj: object, name: str, options: PictureOptions) -> Decoded:
    """A figure, drawn."""
    from vlm_magic.inputs.pixels.plots import draw_plot

    return draw_plot(obj, name, options)


def read_shown(obj: object, name: str, options: PictureOptions) -> Decoded:
    """What a notebook would show of the object."""
    from vlm_magic.inputs.pixels.plots import show_object

    return show_object(obj, name, options, NotShownError)


# -- texts, files and bytes ----------------------------------------------------------------------


def read_text(text: str, name: str, options: PictureOptions) -> bytes | IO[bytes]:
    """The bytes behind a path, a data URI or a URL."""
    source = locate.resolve_source(text)
    if source.form == "URL":
        from vlm_magic.inputs.download.fetch import fetch_picture_bytes

        return fetch_picture_bytes(source.text, limits=options.fetch)
    return locate.open_source(source, name=name)


def refuse_said(text: str, name: str, options: PictureOptions) -> Content:
    """Raise: a model's words open no file and fetch nothing."""
    raise PictureTypeError(
        f"{name} is what a model said, and no source of a picture",
        have=f"{shorten(repr(text), 100)}; nothing is opened or fetched because an answer says so",
        hint="Picture(str(text)), from vlm_magic import Picture, where you want just that",
    )


def read_path(path: os.PathLike[str], name: str, options: PictureOptions) -> bytes | IO[bytes]:
    """The file at a path, opened."""
    return locate.open_file(path, name=name)


def read_bytes(obj: Any, name: str, options: PictureOptions) -> bytes:
    """The bytes of a picture file."""
    return bytes(obj)


def read_cell(cell: Any, name: str, options: PictureOptions) -> bytes | IO[bytes]:
    """The picture file in a cell of a data set, which holds its bytes or its path."""
    return cell["bytes"] if cell["bytes"] is not None else locate.open_file(cell["path"], name=name)


def read_response(response: Any, name: str, options: PictureOptions) -> bytes:
    """The body of an HTTP response."""
    if response.status_code >= 400:
        raise FetchStatusError(
            f"{name} answered {response.status_code}",
            have=f"{shorten(response.headers.get('Content-Type', 'no type'), 60)}, and no picture",
            hint=f"the address in a browser: {locate.safe_name(str(response.url), 80)}",
            status=response.status_code,
        )
    return bytes(response.content)


def read_open_file(file: Any, name: str, options: PictureOptions) -> bytes:
    """All bytes of a person's open file, from its beginning; its position stays."""
    if sniff.is_closed_file(file):
        raise PictureDecodeError(
            f"{name} is a closed file",
            have="nothing more can be read from it",
            hint="read it before it is closed, or give its path",
        )
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    if locate.is_endless(file):
        raise PictureDecodeError(
            f"{name} is a device or a pipe",
            have="it has no end",
            hint="read what you want of it: file.read(n)",
        )
    try:
        position = file.tell()
        try:
            file.seek(0)
            data = file.read(_MOST_BYTES + 1)
        finally:
            file.seek(position)
    except (OSError, ValueError) as exc:
        raise PictureDecodeError(f"{name} cannot be read", have=str(exc), hint="give its path") from exc
    if len(data) > _MOST_BYTES:
        raise PictureTooLargeError(
            f"{name} is larger than {size_words(_MOST_BYTES)}",
            have="an open file is read whole",
            hint="its path",
        )
    if not isinstance(data, bytes):
        raise PictureTypeError(f"{name} is open as text", have="a picture is bytes", hint='open(path, "rb")')
    return data


def begins_picture(obj: object) -> bool:
    """Whether the first bytes are those of a picture file."""
    try:
        return headers.format_of(sniff.head_of(obj)) is not None
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def is_picture_file(file: object) -> bool:
    """Whether an open file holds a picture."""
    return not sniff.is_closed_file(file) and begins_picture(file)


def is_picture_response(response: Any) -> bool:
    """Whether the body of an HTTP response is a picture."""
    return headers.format_of(response.content[:64]) is not None
