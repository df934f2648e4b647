"""Whether the starter can have an idea of a picture: it only knows drawn scenes.

A drawing is mostly flat: neighbouring pixels are the same but for noise. A photograph hardly is.
Knows pictures, not models. Neighbour: the loader hands `remark_on` to the starter's engine, which adds the
remark to its first such answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

__all__ = ["REMARK", "looks_drawn", "remark_on"]

REMARK = (
    "the starter only knows drawn scenes (shapes, bars) and guesses about photographs; "
    "%vlm_load HuggingFaceTB/SmolVLM-500M-Instruct loads a model for them"
)
_SIDE_PX = 64
_SAME = 14  # grey levels: JPEG artefacts and mild noise of a drawing stay below
_FLAT_SHARE = 0.5


def remark_on(images: Iterable[Image.Image]) -> str:
    """What the starter has to say about pictures beyond its world; "" where all of them look drawn.

    Args:
        images: RGB.
    """
    return "" if all(looks_drawn(image) for image in images) else REMARK


def looks_drawn(image: Image.Image) -> bool:
    """Whether most of a picture is flat.

    Args:
        image: RGB.
    """
    import numpy as np
    from PIL import Image

    # The median over blocks takes a drawing's noise away, and a photograph's grain as well: what is
    # left of a photograph is its shading.
    small = image.convert("RGB").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.int16)  # (H, W, C)
    across = np.abs(pixels[:, 1:] - pixels[:, :-1]).max(axis=2)[:-1]  # (H - 1, W - 1)
    down = np.abs(pixels[1:] - pixels[:-1]).max(axis=2)[:, :-1]  # (H - 1, W - 1)
    flat = (across <= _SAME) & (down <= _SAME)
    if float(flat.mean()) < _FLAT_SHARE:
        return False
    # A smooth photograph (sky, wall) is flat from pixel to pixel, but has many shades.
    shades = {tuple(colour) for colour in (pixels[:-1, :-1][flat] // 32).tolist()}
    return len(shades) <= 20
