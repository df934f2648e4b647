"""From numbers of any kind to 0…255, as the person would see them.

Which range a picture uses is guessed from its numbers where the type does not say; every guess is put
into words for the proof. Works strip by strip, so that a large picture costs little above its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import PictureDecodeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Levels", "find_levels", "levels_of", "to_levels"]

_STRIP_SAMPLES = 1 << 20
_INTEGER_TOPS = (255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits
_SLACK = 0.01  # how far resizing and rounding may lead out of 0…1


@dataclass(frozen=True, slots=True)
class Levels:
    """The range of numbers that becomes 0…255, and the guess in words."""

    low: float
    high: float
    note: str = ""


def _rows(array: NDArray[Any]) -> Iterator[slice]:
    """Slices of the first axis with about a million numbers each."""
    rows = max(1, _STRIP_SAMPLES // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def find_levels(array: NDArray[Any]) -> Levels:
    """The range to show of ``array`` (H, W) or (H, W, C), colours without alpha.

    Raises:
        PictureDecodeError: no finite number in it.
    """
    is_gray = array.ndim == 2 or array.shape[-1] == 1
    return levels_of((array[rows] for rows in _rows(array)), array.dtype, is_gray=is_gray)


def levels_of(strips: Iterable[NDArray[Any]], dtype: np.dtype[Any], *, is_gray: bool = True) -> Levels:
    """The range to show of numbers that come strip by strip.

    Raises:
        PictureDecodeError: no finite number among them.
    """
    if dtype.kind == "b":
        return Levels(0, 1)
    low, high, n_broken = _range_of(strips)
    if low > high:
        raise PictureDecodeError("a picture without one finite number", have=f"{n_broken} NaN or infinite")
    if dtype.kind in "ui":
        return _integer_levels(dtype, low, high, is_gray)
    levels = _float_levels(low, high)
    if n_broken:
        words = f"{n_broken} NaN or infinite values clipped"
        return Levels(levels.low, levels.high, f"{levels.note}, {words}" if levels.note else words)
    return levels


def _range_of(strips: Iterable[NDArray[Any]]) -> tuple[float, float, int]:
    """(lowest, highest, number of NaN and infinities), the last left out of the range."""
    import numpy as np

    low, high, n_broken = float("inf"), float("-inf"), 0
    for strip in strips:
        numbers = strip
        if strip.dtype.kind == "f":
            finite = np.isfinite(strip)
            n_bad = strip.size - int(np.count_nonzero(finite))
            if n_bad:
                n_broken += n_bad
                numbers = strip[finite]
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    return low, high, n_broken


def _integer_levels(dtype: np.dtype[Any], low: float, high: float, is_gray: bool) -> Levels:
    if low >= 0 and high == 1 and is_gray:
        return Levels(0, 1, "0/1 shown as black and white")
    if dtype.itemsize == 1 and dtype.kind == "u":
        return Levels(0, 255)
    if low >= 0:
        for top in _INTEGER_TOPS:
            if high <= top:
                return Levels(0, top, "" if top == (1 << 8 * dtype.itemsize) - 1 else _bits(top))
    return _stretched(low, high)


def _bits(top: int) -> str:
    return f"integers read as {top.bit_length()} bits"


def _float_levels(low: float, high: float) -> Levels:
    if low >= -_SLACK and high <= 1 + _SLACK:
        return Levels(0.0, 1.0)
    if low >= -1 - _SLACK and high <= 1 + _SLACK:
        return Levels(-1.0, 1.0, "floats read as −1…1")
    if low >= -1 and high <= 256:
        return Levels(0.0, 255.0, "floats read as 0…255")
    return _stretched(low, high)


def _stretched(low: float, high: float) -> Levels:
    if low == high:
        return Levels(low - 1, high + 1, f"every value is {low:g}, shown gray")
    return Levels(low, high, f"values from {low:g} to {high:g} stretched")


def to_levels(array: NDArray[Any], levels: Levels) -> NDArray[np.uint8]:
    """``array`` as uint8 of the same shape: ``levels.low`` is 0, ``levels.high`` is 255, NaN is 0."""
    import numpy as np

    if array.dtype == np.uint8 and (levels.low, levels.high) == (0, 255):
        return array
    out = np.empty(array.shape, np.uint8)
    wide = np.float64 if array.dtype.itemsize > 4 else np.float32
    # Halved before subtracting: the span of the largest floats would be infinite.
    low, span = levels.low / 2, levels.high / 2 - levels.low / 2
    for rows in _rows(array):
        with np.errstate(all="ignore"):
            strip: Any = array[rows].astype(wide)
            strip = (strip / 2 - low) / span * 255
            strip = np.nan_to_num(strip, nan=0.0, posinf=255.0, neginf=0.0)
            out[rows] = np.clip(np.rint(strip), 0, 255).astype(np.uint8)
    return out
