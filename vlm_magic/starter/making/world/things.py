"""What a drawn picture consists of: its objects, and how it is drawn.

Pure data. Neighbours: `scenes` plans them, `drawing` draws them, `naming` says them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vlm_magic.starter.making.world.palette import RGB

__all__ = ["Style", "Thing"]


@dataclass(frozen=True, slots=True)
class Thing:
    """One object: what it is, and its bounding box in fractions of the picture."""

    shape: str
    colour: str
    x: float
    """Centre, 0 (left edge) to 1 (right edge)."""
    y: float
    """Centre, 0 (top) to 1 (bottom)."""
    w: float
    h: float
    rgb: RGB = (0, 0, 0)
    turn: float = 0.0
    """Rotation in degrees."""
    form: float = 0.5
    """What is left to choose about the shape (inner radius of a star, thickness of a cross), 0 to 1."""
    look: str = "fill"
    """`fill`, `edge` (filled with an outline) or `ring` (outline only)."""

    @property
    def size(self) -> float:
        """Side of a square of the same bounding area, as a fraction of the picture."""
        return math.sqrt(self.w * self.h)

    @property
    def kind(self) -> tuple[str, str]:
        """Colour and shape."""
        return self.colour, self.shape


@dataclass(frozen=True, slots=True)
class Style:
    """How a scene is drawn, apart from what is on it."""

    width: int = 224
    height: int = 224
    smooth: bool = False
    """Drawn at twice the size and reduced, instead of with PIL's sharp edges."""
    axes: bool = False
    """The scene sits in a plot with a frame and ticks; object positions already account for it."""
    noise: float = 0.0
    """Standard deviation, in grey levels of 255."""
    jpeg: int = 0
    """JPEG quality, or 0."""
    slope: float = 0.0
    """Brightness change from the top to the bottom of the background, in grey levels."""
    seed: int = 0
