"""From numbers of any kind to 0…255, as the person would see them.

Which range a picture uses is guessed from its numbers where the type does not say; every guess is put
into words for the proof. Pictures keep their range; maps (height×width numbers that are no 8-bit picture)
are stretched, by percentiles where a few values lie far from the rest; labels get a grey each. What is
masked, NaN or a usual value for "no data" takes no part. Works strip by strip, so that a large picture costs
little above its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import PictureDecodeError
from vlm_magic.wording import count_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Levels", "alpha_levels", "find_levels", "levels_of", "no_data", "shares", "to_levels"]

_STRIP_SAMPLES = 1 << 20
_SAMPLE = 1 << 17  # numbers that percentiles are told from
_INTEGER_TOPS = (255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits
_SLACK = 0.01  # how far resizing and rounding may lead out of 0…1
_NEARLY = (-0.1, 1.1)  # where nearly all values of a picture lie that noise or sharpening led out of 0…1
_NEARLY_ALL = {True: 0.95, False: 0.75}  # of a gray and of a colour picture
_DIM = 0.25  # numbers of 0…1 that all lie below are a map, of probabilities say
_TAIL = 0.5  # percent at either end that may be left out of a stretch
_OUTLYING = 1.5  # times the span of the rest: then they are left out
_MOST_LABELS = 40
_EIGHT_BIT_SPAN = 100  # what numbers must span to be read as an 8-bit picture, black and white and all
_NO_LABEL = 255  # what label pictures write where nothing was labelled
# Values that rasters use for "no data": GDAL's and ESRI's usual ones, netCDF's default fill values.
_NO_DATA = (-9999.0, -99999.0, -32768.0, -32767.0, -3.4028234663852886e38, 9.969209968386869e36, 1e20)


@dataclass(frozen=True, slots=True)
class Levels:
    """The range of numbers that becomes 0…255, and the guess in words.

    Attributes:
        low: becomes 0.
        high: becomes 255.
        note: the guess.
        labels: every value there is, in order, where each gets a grey of its own.
        no_data: the value that stands for none, or None.
    """

    low: float
    high: float
    note: str = ""
    labels: tuple[float, ...] = ()
    no_data: float | None = None


def _rows(array: NDArray[Any]) -> Iterator[slice]:
    """Slices of the first axis with about a million numbers each."""
    rows = max(1, _STRIP_SAMPLES // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)


def find_levels(array: NDArray[Any], bad: NDArray[np.bool_] | None = None) -> Levels:
    """The range to show of ``array`` (H, W) or (H, W, C), colours without alpha.

    Args:
        array: the numbers.
        bad: (H, W), True where there are none.

    Raises:
        PictureDecodeError: no finite number in it.
    """
    is_gray = array.ndim == 2 or array.shape[-1] == 1
    strips = (array[rows] if bad is None else array[rows][~bad[rows]] for rows in _rows(array))
    return levels_of(strips, array.dtype, is_gray=is_gray)


def alpha_levels(array: NDArray[Any]) -> Levels:
    """The range of an alpha channel (H, W): what its type says, or 0…1."""
    if array.dtype.kind in "bf" or array.max() <= 1:
        return Levels(0, 255 if array.dtype.kind == "f" and array.max() > 1 + _SLACK else 1)
    return Levels(0, next((top for top in _INTEGER_TOPS if array.max() <= top), float(array.max())))


def levels_of(strips: Iterable[NDArray[Any]], dtype: np.dtype[Any], *, is_gray: bool = True) -> Levels:
    """The range to show of numbers that come strip by strip.

    Raises:
        PictureDecodeError: no finite number among them.
    """
    if dtype.kind == "b":
        return Levels(0, 1)
    seen = _survey(strips)
    if seen.low > seen.high:
        raise PictureDecodeError(
            "a picture without a single finite value",
            have=f"{count_words(seen.n_broken, 'value')}, all NaN or infinite"
            if seen.n_broken
            else "no value",
            hint="np.nan_to_num(array), or the array before it was masked",
        )
    if dtype.kind in "ui":
        return _integer_levels(dtype, seen, is_gray)
    levels = _float_levels(seen, is_gray)
    if seen.n_infinite:
        words = f"{count_words(seen.n_infinite, 'infinite value')} clipped"
        levels = replace(levels, note=f"{levels.note}, {words}" if levels.note else words)
    return levels


@dataclass(frozen=True, slots=True)
class _Survey:
    """What numbers are like: their range, a sample, and the distinct ones where they are few integers."""

    low: float
    high: float
    n_broken: int
    n_infinite: int
    sample: NDArray[np.float64]
    distinct: tuple[float, ...] | None

    def without(self, value: float) -> _Survey:
        """The rest, for which one value says nothing; the sample stands for all."""
        rest = self.sample[self.sample != value]
        low, high = (float(rest.min()), float(rest.max())) if rest.size else (value, value)
        return replace(self, low=low, high=high, sample=rest)


def _survey(strips: Iterable[NDArray[Any]]) -> _Survey:
    import numpy as np

    low, high, n_broken, n_infinite = float("inf"), float("-inf"), 0, 0
    samples: list[NDArray[np.float64]] = []
    distinct: set[float] | None = set()
    for strip in strips:
        numbers = strip
        if strip.dtype.kind == "f":
            finite = np.isfinite(strip)
            if n_bad := strip.size - int(np.count_nonzero(finite)):
                n_broken += n_bad
                n_infinite += n_bad - int(np.count_nonzero(np.isnan(strip)))
                numbers = strip[finite]
            distinct = None
        if not numbers.size:
            continue
        low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        if distinct is not None:
            distinct = _more_distinct(distinct, numbers) if high - low <= _NO_LABEL + 1 else None
        samples.append(numbers.ravel()[:: numbers.size // _SAMPLE | 1].astype(np.float64))
    sample = np.concatenate(samples) if samples else np.zeros(0)
    step = sample.size // _SAMPLE | 1  # odd, so that it seldom falls on one column of the picture
    values = None if distinct is None else tuple(sorted(distinct))
    return _Survey(low, high, n_broken, n_infinite, sample[::step], values)


def _more_distinct(known: set[float], numbers: NDArray[Any]) -> set[float] | None:
    """The distinct values so far; None when they are too many to be labels."""
    import numpy as np

    known = known | set(np.unique(numbers).tolist())
    return known if len(known) <= _MOST_LABELS + 1 else None


def _integer_levels(dtype: np.dtype[Any], seen: _Survey, is_gray: bool) -> Levels:
    low, high = seen.low, seen.high
    if low >= 0 and high == 1 and is_gray:
        return Levels(0, 1, "0/1 shown as black and white")
    if is_gray and _are_labels(seen.distinct):
        assert seen.distinct is not None
        n, first, last = len(seen.distinct), seen.distinct[0], seen.distinct[-1]
        return Levels(low, high, f"labels {first:g}…{last:g} shown as {n} greys", seen.distinct)
    if dtype.itemsize == 1 and dtype.kind == "u":
        return Levels(0, 255)
    top = next((top for top in _INTEGER_TOPS if high <= top), 0) if low >= 0 else 0
    if top and (not is_gray or high - low >= (_EIGHT_BIT_SPAN if top == 255 else top / 4)):
        return Levels(0, top, "" if top == (1 << 8 * dtype.itemsize) - 1 else _bits(top))
    return _stretched(seen)


def _are_labels(distinct: tuple[float, ...] | None) -> bool:
    """Whether these are all values of a picture of labels: few, small, and perhaps the mark for no label."""
    if distinct is None:
        return False
    own = [value for value in distinct if value != _NO_LABEL]
    return len(own) > 1 and own[0] >= -1 and own[-1] <= _MOST_LABELS


def _bits(top: int) -> str:
    return f"integers read as {top.bit_length()} bits"


def _float_levels(seen: _Survey, is_gray: bool) -> Levels:
    low, high = seen.low, seen.high
    is_dim = 0 <= low < high <= _DIM or (-1 <= low < -_SLACK and high - low < 1)
    if is_gray and is_dim:
        return _stretched(seen)
    if low >= -_SLACK and high <= 1 + _SLACK:
        return Levels(0.0, 1.0)
    if share := _share_led_out(seen, is_gray):
        return Levels(0.0, 1.0, f"floats read as 0…1, {share} clipped")
    if low >= -1 - _SLACK and high <= 1 + _SLACK:
        return Levels(-1.0, 1.0, "floats read as −1…1")
    is_picture = high - low >= _EIGHT_BIT_SPAN if is_gray else high >= _EIGHT_BIT_SPAN
    if low >= -1 and high <= 256 and is_picture:
        return Levels(0.0, 255.0, "floats read as 0…255")
    return _stretched(seen)


def _share_led_out(seen: _Survey, is_gray: bool) -> str:
    """How much of a 0…1 picture was led out of that by noise, resizing or sharpening; "" for none of these.

    A picture of −1…1 has values far below 0, a map values far above 1.
    """
    import numpy as np

    first, last = np.percentile(seen.sample, [2, 98])
    nearly = np.mean((seen.sample >= _NEARLY[0]) & (seen.sample <= _NEARLY[1]))
    if first < -0.4 or last > 1.5 or nearly < _NEARLY_ALL[is_gray]:
        return ""
    share = 100 * float(np.mean((seen.sample < 0) | (seen.sample > 1)))
    return f"{share:.0f} %" if share >= 1 else "less than 1 %"


def _stretched(seen: _Survey) -> Levels:
    """The whole range, or that of all but a few outlying values."""
    import numpy as np

    no_data = _value_for_none(seen)
    if no_data is not None:
        levels = _stretched(seen.without(no_data))
        return replace(levels, note=f"{levels.note}, {no_data:g} taken for no data", no_data=no_data)
    low, high = seen.low, seen.high
    if low == high:
        return Levels(low - 1, high + 1, f"every value is {low:g}, shown gray")
    first, last = (float(value) for value in np.percentile(seen.sample, [_TAIL, 100 - _TAIL]))
    if first < last and high / 2 - low / 2 > _OUTLYING * (last / 2 - first / 2):
        return Levels(first, last, f"values from {first:.4g} to {last:.4g} stretched, those beyond clipped")
    return Levels(low, high, f"values from {low:g} to {high:g} stretched")


def _value_for_none(seen: _Survey) -> float | None:
    """The lowest or highest value, where it is one that rasters use for "no data" and far from the rest."""
    for value in (seen.low, seen.high):
        if any(abs(value - usual) <= 1e-6 * abs(usual) for usual in _NO_DATA):
            rest = seen.without(value)
            gap = rest.low / 2 - value / 2 if value == seen.low else value / 2 - rest.high / 2
            if gap > (rest.high - rest.low) / 20:
                return value
    return None


def no_data(array: NDArray[Any], levels: Levels) -> NDArray[np.bool_] | None:
    """(H, W), True where ``array`` (H, W[, C]) holds NaN or the value for no data; None for nowhere."""
    import numpy as np

    if array.dtype.kind != "f" and levels.no_data is None:
        return None
    bad = np.zeros(array.shape[:2], bool)
    for rows in _rows(array):
        strip = array[rows]
        found = np.isnan(strip) if array.dtype.kind == "f" else np.zeros(strip.shape, bool)
        if levels.no_data is not None:
            found |= strip == levels.no_data
        bad[rows] = found if found.ndim == 2 else found.any(axis=2)
    return bad if bad.any() else None


def to_levels(array: NDArray[Any], levels: Levels) -> NDArray[np.uint8]:
    """``array`` as uint8 of the same shape: ``levels.low`` is 0, ``levels.high`` is 255, NaN is 0."""
    import numpy as np

    if array.dtype == np.uint8 and (levels.low, levels.high) == (0, 255) and not levels.labels:
        return array
    out = np.empty(array.shape, np.uint8)
    for rows in _rows(array):
        out[rows] = np.rint(255 * shares(array[rows], levels)).astype(np.uint8)
    return out


def shares(strip: NDArray[Any], levels: Levels) -> NDArray[np.floating[Any]]:
    """Where each number lies between ``levels.low`` (0) and ``levels.high`` (1), clipped; NaN is 0."""
    import numpy as np

    if levels.labels:
        ranks: Any = np.searchsorted(np.array(levels.labels), strip)
        return ranks / (len(levels.labels) - 1)  # type: ignore[no-any-return]
    wide: Any = np.float64 if strip.dtype.itemsize > 4 else np.float32
    # Halved before subtracting: the span of the largest floats would be infinite.
    low, span = levels.low / 2, levels.high / 2 - levels.low / 2
    with np.errstate(all="ignore"):
        between: Any = (strip.astype(wide) / 2 - low) / span
        return np.clip(np.nan_to_num(between, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)  # type: ignore[no-any-return]
