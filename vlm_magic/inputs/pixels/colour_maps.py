"""Maps in the colours that a person asks for: ``vlm_magic.Picture(array, cmap="viridis", vmin=0, vmax=10)``.

The colour maps are matplotlib's own and go by its names; it is needed for them alone. Without ``vmin`` and
``vmax`` a map spans its numbers, as `imshow` does it. Knows nothing of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlm_magic.errors import PictureError, PictureTypeError, near_names
from vlm_magic.inputs.pixels.levels import Levels, find_levels, shares

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["asked_levels", "in_colours"]

_STRIP_SAMPLES = 1 << 18  # a colour map makes four floats of each number


def asked_levels(
    array: NDArray[Any], bad: NDArray[np.bool_] | None, vmin: float | None, vmax: float | None
) -> Levels:
    """The range of numbers (H, W) to show: as asked, else that of the numbers.

    Raises:
        PictureError: ``vmin`` is not below ``vmax``, or there is no number.
    """
    found = find_levels(array, bad)
    usual = [float(value) for value in _ends(array, bad, found)]
    low, high = usual[0] if vmin is None else float(vmin), usual[1] if vmax is None else float(vmax)
    if not low < high and (vmin is not None or vmax is not None):
        raise PictureError(
            f"vmin {low:g} is not below vmax {high:g}",
            have=f"numbers from {usual[0]:g} to {usual[1]:g}",
            hint=f"vmin={usual[0]:g}, vmax={usual[1]:g}",
        )
    return Levels(low, high, f"{low:g}…{high:g}", no_data=found.no_data)


def _ends(array: NDArray[Any], bad: NDArray[np.bool_] | None, found: Levels) -> tuple[float, float]:
    import numpy as np

    if found.note.startswith("values from") or found.note.startswith("every value"):
        return found.low, found.high
    numbers = array if bad is None else array[~bad]
    return float(np.nanmin(numbers)), float(np.nanmax(numbers))


def in_colours(array: NDArray[Any], levels: Levels, cmap: str) -> NDArray[np.uint8]:
    """(H, W, 3): the numbers (H, W) in the colours of a map of matplotlib's.

    Raises:
        PictureTypeError: no map of that name, or matplotlib is missing.
    """
    import numpy as np

    colours = _colour_map(cmap)
    out = np.empty((*array.shape, 3), np.uint8)
    rows = max(1, _STRIP_SAMPLES // array.shape[1])
    for top in range(0, len(array), rows):
        strip = shares(array[top : top + rows], levels)
        out[top : top + rows] = colours(strip, bytes=True)[..., :3]
    return out


def _colour_map(name: str) -> Any:
    try:
        from matplotlib import colormaps
    except ImportError as exc:
        raise PictureTypeError(
            f"the colour map {name} needs matplotlib",
            have="matplotlib is not installed",
            hint="%pip install matplotlib, or no cmap: greys",
        ) from exc
    try:
        return colormaps[name]
    except (KeyError, TypeError, ValueError) as exc:
        near = near_names(str(name), list(colormaps))
        raise PictureTypeError(
            f"no colour map {name!r}",
            have=", ".join(near) or "matplotlib's own: viridis, magma, gray, tab10, …",
            hint=f"cmap={near[0] if near else 'viridis'!r}",
        ) from exc
