"""From arrays and tensors of any library to RGB pictures.

Takes numpy, torch on any device, JAX, TensorFlow and whatever has ``__array__``,
``__array_interface__`` or DLPack. The array is read, never changed. Which axis holds the channels is
told from the shape; where that is a guess the note says so. Knows nothing of files.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import PictureDecodeError, PictureError, PictureTooLargeError, PictureTypeError
from vlm_magic.inputs import sniff
from vlm_magic.inputs.levels import find_levels, to_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["array_pictures", "can_be_picture", "is_batch", "to_image"]

_CHANNELS = (1, 3, 4)
_MIN_SIDE_PX = {"float": 8, "int": 16}  # smaller tables of plain numbers are read as numbers
_MIN_BATCH_SIDE_PX = 16


def _channels_first(shape: tuple[int, ...], prefer_first: bool) -> bool | None:
    """Whether the first axis of (·, ·, ·) holds the channels; None when no axis can."""
    for counts in (_CHANNELS, (2,)):
        first, last = shape[0] in counts, shape[2] in counts
        if first and last:
            return prefer_first
        if first or last:
            return first
    return None


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the axes of one that stand before the last four."""
    while len(shape) > 4 and shape[0] == 1:
        shape = shape[1:]
    return shape


def can_be_picture(obj: object) -> bool:
    """Whether a person who names this array in a prompt means a picture (or a batch), not numbers.

    Told from shape and dtype alone. Explicit calls (`to_image`) take more than this.
    """
    shape, kind = sniff.shape_of(obj), sniff.kind_of(obj)
    if shape is None or kind in ("other", "object") or 0 in shape:
        return False
    shape = _squeezed(shape)
    if len(shape) == 2:
        return min(shape) >= _MIN_SIDE_PX.get(kind, 1)
    if len(shape) == 3:
        first = _channels_first(shape, sniff.has_type(obj, "torch.Tensor"))
        if first is None:
            return min(shape[1:]) >= _MIN_BATCH_SIDE_PX
        sides = shape[1:] if first else shape[:2]
        return kind in ("u8", "u16", "bool") or min(sides) >= _MIN_SIDE_PX[kind] // 2
    if len(shape) == 4:
        return _channels_first(shape[1:], sniff.has_type(obj, "torch.Tensor")) is not None
    return False


def is_batch(obj: object) -> bool:
    """Whether the array holds several pictures: (N, H, W, C), (N, C, H, W) or (N, H, W), N not 1."""
    shape = _squeezed(sniff.shape_of(obj) or ())
    if len(shape) == 4:
        return shape[0] != 1
    return len(shape) == 3 and _channels_first(shape, sniff.has_type(obj, "torch.Tensor")) is None


def array_pictures(obj: object) -> list[object]:
    """The arrays of a batch, one per picture (views, no copies)."""
    shape = sniff.shape_of(obj) or ()
    batch: Any = obj
    for _ in range(len(shape) - len(_squeezed(shape))):
        batch = batch[0]
    return [batch[i] for i in range(len(batch))]


def to_image(obj: object, *, name: str, max_megapixels: float) -> tuple[Image.Image, str]:
    """The RGB picture of one array and the guesses that were made.

    Args:
        obj: (H, W), (H, W, C), (C, H, W) with 1 to 4 channels, or a batch of one.
        name: how the person calls it, for errors.
        max_megapixels: the most that is converted.

    Raises:
        PictureTypeError: a shape or a dtype that is no picture, or a batch of several.
        PictureTooLargeError: more pixels than allowed.
        PictureDecodeError: no finite number, or the array cannot be read.
    """
    prefer_first = sniff.has_type(obj, "torch.Tensor")
    array = _as_numpy(obj, name)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    _check(array, name, max_megapixels)
    notes = []
    if array.ndim == 3:
        first = _channels_first(array.shape, prefer_first)
        if first is None:
            raise _no_picture(array, name)
        if (
            array.shape[0] in _CHANNELS
            and array.shape[2] in _CHANNELS
            and min(array.shape) < max(array.shape)
        ):
            notes.append(f"read as {'channels×height×width' if first else 'height×width×channels'}")
        if first:
            array = array.transpose(1, 2, 0)  # (H, W, C)
        if array.shape[2] == 1:
            array = array[:, :, 0]  # (H, W)
    try:
        image, note = _from_levels(array)
    except PictureError as exc:
        raise PictureDecodeError(f"{name} is {exc.what}", have=exc.have) from exc
    return image, ", ".join([*notes, note] if note else notes)


def _check(array: NDArray[Any], name: str, max_megapixels: float) -> None:
    if array.dtype.kind not in "buif":
        raise PictureTypeError(
            f"{name} is no picture: an array of {array.dtype}",
            have="pictures are bool, integer or float arrays",
        )
    if array.ndim not in (2, 3) or array.size == 0:
        raise _no_picture(array, name)
    megapixels = math.prod(sorted(array.shape)[-2:]) / 1e6
    if megapixels > max_megapixels:
        raise PictureTooLargeError(
            f"{name} has {megapixels:.0f} megapixels",
            have=f"at most {max_megapixels:g} are read unless asked for",
            hint=f"a part or fewer pixels: {name}[::4, ::4]",
            megapixels=megapixels,
        )


def _no_picture(array: NDArray[Any], name: str) -> PictureTypeError:
    shape = "×".join(map(str, array.shape)) or "one number"
    hint = f"one of them: {name}[0]" if array.ndim > 2 and array.size else ""
    if array.size == 0:
        return PictureTypeError(f"{name} is an empty array", have=f"its shape is {shape}", shape=array.shape)
    return PictureTypeError(
        f"{name} is no picture: an array of shape {shape}",
        have="height×width, height×width×channels or channels×height×width, 1 to 4 channels",
        hint=hint,
        shape=array.shape,
    )


def _from_levels(array: NDArray[Any]) -> tuple[Image.Image, str]:
    """An RGB picture of (H, W) or (H, W, C) with 2 to 4 channels."""
    import numpy as np
    from PIL import Image

    n_colours = 1 if array.ndim == 2 else array.shape[2] - (array.shape[2] in (2, 4))
    colours = array if array.ndim == 2 else array[:, :, :n_colours]
    levels = find_levels(colours)
    shown = to_levels(colours, levels)
    if shown.ndim == 3 and shown.shape[2] == 1:
        shown = shown[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")
    if array.ndim == 2 or n_colours == array.shape[2]:
        return image, levels.note
    alpha = array[:, :, n_colours]
    mask = Image.fromarray(np.ascontiguousarray(to_levels(alpha, find_levels(alpha))))
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=mask)
    return white, levels.note


def _as_numpy(obj: object, name: str) -> NDArray[Any]:
    """The numbers in this process's memory, shared with the object where that is possible."""
    import numpy as np

    try:
        if sniff.has_type(obj, "torch.Tensor"):
            return _from_torch(obj)
        if sniff.has_type(obj, "numpy.ndarray"):
            return np.asarray(obj)
        if not hasattr(obj, "__array__") and not hasattr(obj, "__array_interface__"):
            return np.from_dlpack(obj)  # type: ignore[arg-type]
        array = np.asarray(obj)
        if array.dtype.kind == "V":  # bfloat16 and the like, as JAX hands them out
            array = array.astype(np.float32)
        return array
    except Exception as exc:
        raise PictureDecodeError(
            f"{name} cannot be read as an array",
            have=f"{type(exc).__name__}: {exc}",
            hint=f"np.asarray({name})",
        ) from exc


def _from_torch(obj: Any) -> NDArray[Any]:
    torch: Any = sys.modules["torch"]  # it is there when a tensor is

    tensor = obj.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype.is_floating_point and tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32)
    array: NDArray[Any] = tensor.cpu().resolve_conj().resolve_neg().numpy()
    return array
