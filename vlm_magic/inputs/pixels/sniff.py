"""What an object is, without importing the library it comes from and without decoding anything.

A tensor, a figure or a frame can only exist if its library is already in ``sys.modules``. Attributes
are looked up on the type, never on the object: objects with a greedy ``__getattr__`` have everything.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

__all__ = [
    "has_type",
    "head_of",
    "is_array",
    "is_closed_file",
    "is_dataset_cell",
    "is_file",
    "is_object_array",
    "is_pil",
    "is_plain_array",
    "is_plot",
    "is_plot_group",
    "is_response",
    "is_series",
    "is_shown_as_picture",
]

_IMAGE_REPRS = ("_repr_png_", "_repr_jpeg_")


def has_type(obj: object, *names: str) -> bool:
    """Whether ``obj`` is an instance of one of the classes "module.Class", where they are loaded."""
    for name in names:
        module, _, cls = name.rpartition(".")
        found = getattr(sys.modules.get(module), cls, None)
        if isinstance(found, type) and isinstance(obj, found):
            return True
    return False


def has_method(obj: object, name: str) -> bool:
    """Whether the type of ``obj`` has that method."""
    return not isinstance(obj, type) and callable(getattr(type(obj), name, None))


def is_pil(obj: object) -> bool:
    """A picture of Pillow."""
    return has_type(obj, "PIL.Image.Image")


def is_plot(obj: object) -> bool:
    """A matplotlib figure, axes or any artist that belongs to one."""
    return has_type(obj, "matplotlib.artist.Artist", "seaborn.axisgrid._BaseGrid")


def is_plot_group(obj: object) -> bool:
    """What a plotting call returned: a container or a list of artists of one axes."""
    if has_type(obj, "matplotlib.container.Container"):
        return len(obj) > 0  # type: ignore[arg-type]
    if not isinstance(obj, (list, tuple)) or not obj or len(obj) > 10_000:
        return False
    if not all(is_plot(item) and not has_type(item, *_WHOLE_PLOTS) for item in obj):
        return False
    return len({id(getattr(item, "axes", None)) for item in obj}) == 1


_WHOLE_PLOTS = ("matplotlib.figure.FigureBase", "matplotlib.axes.Axes")


def is_series(obj: object) -> bool:
    """A pandas or polars Series, or a pandas Index."""
    return has_type(obj, "pandas.Series", "pandas.Index", "polars.Series")


def is_frame(obj: object) -> bool:
    """A table: never a picture, though it can be made an array."""
    return has_type(obj, "pandas.DataFrame", "polars.DataFrame", "pyarrow.Table")


def is_array(obj: object) -> bool:
    """Anything that is or can be made a numpy array, scalars, tables and pictures of Pillow aside."""
    if isinstance(obj, type) or is_pil(obj) or is_series(obj) or is_frame(obj):
        return False
    if has_type(obj, "numpy.ndarray", "torch.Tensor", "jax.Array", "tensorflow.Tensor"):
        return True
    if has_type(obj, "numpy.generic"):
        return False
    cls = type(obj)
    return any(hasattr(cls, name) for name in ("__array__", "__dlpack__", "__array_interface__")) or (
        # __array_interface__ is data; some classes set it on the object
        "__array_interface__" in getattr(obj, "__dict__", ())
    )


def is_plain_array(obj: object) -> bool:
    """An array of numbers (or of anything but Python objects)."""
    return is_array(obj) and number_kind(obj) != "object"


def is_object_array(obj: object) -> bool:
    """A numpy array of Python objects: a collection with axes."""
    return has_type(obj, "numpy.ndarray") and number_kind(obj) == "object"


def shape_of(obj: object) -> tuple[int, ...] | None:
    """The shape of an array without converting it, or None when it does not say."""
    shape = getattr(obj, "shape", None)
    if shape is None and hasattr(obj, "__array_interface__"):
        shape = obj.__array_interface__.get("shape")
    try:
        return tuple(int(side) for side in shape) if shape is not None else None
    except (TypeError, ValueError):
        return None


def number_kind(obj: object) -> str:
    """The kind of number in an array by its name: "u8", "u16", "bool", "int", "float", "object", "other"."""
    dtype = getattr(obj, "dtype", None)
    if dtype is None and hasattr(obj, "__array_interface__"):
        dtype = _CODES.get(str(obj.__array_interface__.get("typestr", ""))[1:], "other")
    name = str(getattr(dtype, "name", dtype)).removeprefix("torch.").removeprefix("<dtype: '").rstrip("'>")
    if name in ("uint8", "uint16", "bool", "object"):
        return {"uint8": "u8", "uint16": "u16"}.get(name, name)
    if name.startswith(("int", "uint", "long", "short")):
        return "int"
    return "float" if name.startswith(("float", "bfloat", "half", "double")) else "other"


_CODES = {"u1": "uint8", "u2": "uint16", "b1": "bool", "f4": "float32", "f8": "float64", "i4": "int32"}


def is_dataset_cell(obj: object) -> bool:
    """A picture as Hugging Face datasets keeps it: ``{"bytes": …, "path": …}``."""
    return (
        isinstance(obj, dict)
        and set(obj) == {"bytes", "path"}
        and (isinstance(obj["bytes"], bytes) or (obj["bytes"] is None and isinstance(obj["path"], str)))
    )


def is_file(obj: object) -> bool:
    """An open file of bytes."""
    if isinstance(obj, (io.RawIOBase, io.BufferedIOBase)):
        return True
    if isinstance(obj, io.TextIOBase):
        return False
    return has_type(obj, "tempfile._TemporaryFileWrapper", "tempfile.SpooledTemporaryFile") or (
        has_method(obj, "read") and has_method(obj, "seek") and has_method(obj, "tell")
    )


def is_closed_file(obj: object) -> bool:
    """A file that was closed already."""
    return bool(getattr(obj, "closed", False))


def is_response(obj: object) -> bool:
    """A response of requests or httpx: its content may be a picture."""
    return has_type(obj, "requests.Response", "httpx.Response")


def head_of(obj: object, n_bytes: int = 64) -> bytes:
    """The first bytes of something that holds bytes, its position left where it was."""
    if isinstance(obj, (bytes, bytearray)):
        return bytes(obj[:n_bytes])
    if isinstance(obj, memoryview):
        return obj.tobytes()[:n_bytes] if obj.nbytes <= n_bytes else bytes(obj.cast("B")[:n_bytes])
    if isinstance(obj, os.PathLike):
        with open(obj, "rb") as file:
            return file.read(n_bytes)
    file_like: Any = obj
    position = file_like.tell()
    try:
        file_like.seek(0)
        head = file_like.read(n_bytes)
    finally:
        file_like.seek(position)
    return head if isinstance(head, bytes) else b""


def is_shown_as_picture(obj: object) -> bool:
    """Whether a notebook may show the object as a picture: it has a picture repr or a mimebundle."""
    if isinstance(obj, type) or is_frame(obj) or is_series(obj):
        return False
    return any(has_method(obj, name) for name in (*_IMAGE_REPRS, "_repr_mimebundle_"))
