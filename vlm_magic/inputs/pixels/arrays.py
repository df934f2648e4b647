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
from vlm_magic.inputs.limits import Shading
from vlm_magic.inputs.pixels import sniff
from vlm_magic.inputs.pixels.grounds import ground_for
from vlm_magic.inputs.pixels.levels import Levels, alpha_levels, find_levels, no_data, to_levels
from vlm_magic.wording import count_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["array_pictures", "can_be_picture", "is_batch", "to_image"]

_CHANNELS = (1, 3, 4)
_MIN_SIDE_PX = {"float": 8, "int": 16}  # smaller tables of plain numbers are read as numbers
_MIN_BATCH_SIDE_PX = 16
_MIN_ARRAY_SIDE = 8  # of the longest axis of three and more


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


def can_be_picture(obj: object) -> bool:  # noqa: PLR0911 - one line per number of axes
    """Whether a person who names this array in a prompt means a picture (or a batch), not numbers.

    Told from shape and dtype alone. Explicit calls (`to_image`) take more than this.
    """
    shape, kind = sniff.shape_of(obj), sniff.number_kind(obj)
    if shape is None or kind in ("other", "object") or 0 in shape:
        return False
    shape = _squeezed(shape)
    if len(shape) > 2 and max(shape) >= _MIN_ARRAY_SIDE:
        return True  # pictures, or an error that says why not: never thousands of numbers as text
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
    is_tensor = sniff.has_type(obj, "torch.Tensor")
    if len(shape) == 4:
        return shape[0] != 1 and _channels_first(shape[1:], is_tensor) is not None
    return (
        len(shape) == 3 and min(shape[1:]) >= _MIN_BATCH_SIDE_PX and _channels_first(shape, is_tensor) is None
    )


def array_pictures(obj: object) -> list[object]:
    """The arrays of a batch, one per picture (views, no copies)."""
    shape = sniff.shape_of(obj) or ()
    batch: Any = obj
    for _ in range(len(shape) - len(_squeezed(shape))):
        batch = batch[0]
    return [batch[i] for i in range(len(batch))]


def to_image(obj: object, *, name: str, max_megapixels: float, shading: Shading) -> tuple[Image.Image, str]:
    """The RGB picture of one array and the guesses that were made.

    Args:
        obj: (H, W), (H, W, C), (C, H, W) with 1 to 4 channels, or a batch of one. Masked cells are white.
        name: how the person calls it, for errors.
        max_megapixels: the most that is converted.
        shading: the range and the colours that were asked for.

    Raises:
        PictureTypeError: a shape or a dtype that is not a picture, or a batch of several.
        PictureTooLargeError: more pixels than allowed.
        PictureDecodeError: no finite number, or the array cannot be read.
    """
    prefer_first = sniff.has_type(obj, "torch.Tensor")
    mask: Any
    array, mask = _as_numpy(obj, name)
    while array.ndim > 3 and array.shape[0] == 1:
        array, mask = array[0], None if mask is None else mask[0]
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
            array, mask = (
                array.transpose(1, 2, 0),
                None if mask is None else mask.transpose(1, 2, 0),
            )  # (H, W, C)
        mask = None if mask is None else mask.any(axis=2)  # (H, W)
        if array.shape[2] == 1:
            array = array[:, :, 0]  # (H, W)
    try:
        image, more = _shaded(array, mask, shading) if shading else _from_levels(array, mask)
    except PictureTypeError as exc:
        raise PictureTypeError(f"{name}: {exc.what}", have=exc.have, hint=exc.hint) from exc
    except PictureError as exc:
        raise PictureDecodeError(f"{name} is {exc.what}", have=exc.have, hint=exc.hint) from exc
    return image, ", ".join(note for note in [*notes, *more] if note)


def _check(array: NDArray[Any], name: str, max_megapixels: float) -> None:
    if array.dtype.kind not in "buif":
        raise PictureTypeError(
            f"{name} is not a picture: an array of {array.dtype}",
            have="pictures are bool, integer or float arrays",
            hint=f"np.abs({name})" if array.dtype.kind == "c" else f"{name}.astype(float)",
        )
    if array.ndim not in (2, 3) or array.size == 0:
        raise _no_picture(array, name)
    megapixels = math.prod(sorted(array.shape)[-2:]) / 1e6
    if megapixels > max_megapixels:
        raise PictureTooLargeError(
            f"{name} has {megapixels:.0f} megapixels",
            have=f"at most {max_megapixels:g} are read unless more is asked for",
            hint=f"a part or fewer pixels: {name}[::4, ::4]",
            megapixels=megapixels,
        )


def _no_picture(array: NDArray[Any], name: str) -> PictureTypeError:
    shape = "×".join(map(str, array.shape)) or "one number"
    hint = f"one of them: {name}[0]" if array.ndim > 2 and array.size else f"np.atleast_2d({name})"
    if array.ndim == 3:
        hint = f"three of its channels, {name}[..., [0, 1, 2]], or one: {name}[..., 0]"
    if array.size == 0:
        return PictureTypeError(
            f"{name} is an empty array",
            have=f"its shape is {shape}",
            hint="how it was sliced",
            shape=array.shape,
        )
    return PictureTypeError(
        f"{name} is not a picture: an array of shape {shape}",
        have="height×width, height×width×channels or channels×height×width, 1 to 4 channels",
        hint=hint,
        shape=array.shape,
    )


def _from_levels(array: NDArray[Any], mask: NDArray[np.bool_] | None) -> tuple[Image.Image, list[str]]:
    """An RGB picture of (H, W) or (H, W, C) with 2 to 4 channels, and the guesses."""
    import numpy as np
    from PIL import Image

    n_colours = 1 if array.ndim == 2 else array.shape[2] - (array.shape[2] in (2, 4))
    colours = array if array.ndim == 2 else array[:, :, :n_colours]
    levels = find_levels(colours, mask)
    shown = to_levels(colours, levels)
    if shown.ndim == 3 and shown.shape[2] == 1:
        shown = shown[:, :, 0]
    image = Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")
    notes = [levels.note, _whiten(image, colours, levels, mask)]
    if array.ndim == 2 or n_colours == array.shape[2]:
        return image, notes
    alpha = array[:, :, n_colours]
    shape = Image.fromarray(np.ascontiguousarray(to_levels(alpha, alpha_levels(alpha))))
    ground, note = ground_for(image, shape)
    ground.paste(image, mask=shape)
    return ground, [*notes, note]


def _shaded(
    array: NDArray[Any], mask: NDArray[np.bool_] | None, shading: Shading
) -> tuple[Image.Image, list[str]]:
    """An RGB picture of numbers (H, W) in the range and the colours that were asked for."""
    import numpy as np
    from PIL import Image

    from vlm_magic.inputs.pixels.colour_maps import asked_levels, in_colours

    if array.ndim != 2:
        raise PictureTypeError(
            "cmap, vmin and vmax are for height×width numbers",
            have="×".join(map(str, array.shape)),
            hint="one channel of it: [..., 0]",
        )
    levels = asked_levels(array, mask, shading.vmin, shading.vmax)
    shown = in_colours(array, levels, shading.cmap) if shading.cmap else to_levels(array, levels)
    image = Image.fromarray(np.ascontiguousarray(shown)).convert("RGB")
    return image, [f"{shading.cmap or 'greys'} from {levels.note}", _whiten(image, array, levels, mask)]


def _whiten(image: Image.Image, array: NDArray[Any], levels: Levels, mask: NDArray[np.bool_] | None) -> str:
    """Make the cells without data white; how many, in words."""
    from PIL.Image import fromarray

    bad = no_data(array, levels)
    if mask is not None and mask.any():
        bad = mask if bad is None else bad | mask
    if bad is None:
        return ""
    image.paste("white", mask=fromarray(bad))
    return f"{count_words(int(bad.sum()), 'cell')} without data shown white"


def _as_numpy(obj: object, name: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The numbers, shared with the object where that is possible, and what is masked."""
    import numpy as np

    try:
        if sniff.has_type(obj, "torch.Tensor"):
            return _from_torch(obj), None
        if sniff.has_type(obj, "numpy.ma.MaskedArray"):
            masked: Any = obj
            mask = np.ma.getmaskarray(masked)
            return np.ma.getdata(masked), mask if mask.any() else None
        if sniff.has_type(obj, "numpy.ndarray"):
            return np.asarray(obj), None
        if not hasattr(obj, "__array__") and not hasattr(obj, "__array_interface__"):
            return np.from_dlpack(obj), None  # type: ignore[arg-type]
        array = np.asarray(obj)
        if array.dtype.kind == "V":  # bfloat16 and the like, as JAX hands them out
            array = array.astype(np.float32)
        return array, None
    except Exception as exc:
        is_elsewhere = getattr(getattr(obj, "device", None), "type", "") == "meta"
        is_own = sniff.has_type(obj, "torch.Tensor", "numpy.ndarray")
        raise (PictureDecodeError if is_own else PictureTypeError)(
            f"{name} cannot be read as an array",
            have="a meta tensor has a shape and no numbers"
            if is_elsewhere
            else f"{type(exc).__name__}: {exc}",
            hint="the tensor after it was loaded or computed" if is_elsewhere else f"np.asarray({name})",
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
