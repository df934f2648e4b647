"""What a transparent picture is laid on: white, or black where it is so light that white would hide it.

A logo or a plot in white on transparent is made for a dark page. Knows nothing of files and arrays.
"""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image

__all__ = ["ground_colour", "ground_for"]

_SEEN = 32  # alpha from which a pixel is seen
_LIGHT = 225  # of 255: what is hard to tell from white
_MOST_DARK = 0.02  # share of darker pixels up to which all is called light


def ground_for(rgb: Image.Image, alpha: Image.Image) -> tuple[Image.Image, str]:
    """The ground (RGB) for a picture with that alpha channel (L), and what was decided, in words."""
    colour, note = ground_colour([(rgb, alpha)], rgb.width * rgb.height)
    return Image.new("RGB", rgb.size, colour), note


def ground_colour(strips: Iterable[tuple[Image.Image, Image.Image]], n_px: int) -> tuple[str, str]:
    """The colour of the ground for a picture that comes strip by strip, and what was decided, in words.

    Args:
        strips: (RGB, alpha) from top to bottom; no more are asked for than it takes.
        n_px: pixels of the whole picture.
    """
    n_seen = n_dark = n_through = 0
    for rgb, alpha in strips:
        seen = alpha.point([0] * _SEEN + [255] * (256 - _SEEN))
        counts = rgb.convert("L").histogram(seen)
        n_seen += sum(counts)
        n_dark += sum(counts[:_LIGHT])
        n_through += sum(alpha.histogram()[:_SEEN])
        if n_dark > max(_MOST_DARK * n_px, 16):
            return "white", ""
    if not n_seen:
        return "white", "wholly transparent"
    if n_through and n_dark <= _MOST_DARK * n_seen:
        return "black", "light on transparent, shown on black"
    return "white", ""
