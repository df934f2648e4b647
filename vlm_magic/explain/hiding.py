"""Cut a picture into cells, lay windows over them, and paint what lies under a window over.

Cells are about square, six along the longer side. A hidden part gets the colour of the picture's own ground,
so that it looks as if nothing stood there, or another plain colour, to see that the change is not that
colour's doing. Knows PIL and nothing of models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image

from vlm_magic.messages import Box, Picture

__all__ = ["Cell", "Grid", "Window", "ground_of", "hidden", "other_filling"]

CELLS_ALONG = 6  # of the longer side; 36 cells of a square picture
_SAMPLE_PX = 96  # a picture is read at this size for its ground
_GREY = (127, 127, 127)
_LIGHT = (224, 224, 224)
_NEAR = 64  # of 255: a ground this near to the grey gets another second filling

RGB: TypeAlias = tuple[int, int, int]
Cell: TypeAlias = tuple[int, int]
"""(row, column)."""


@dataclass(frozen=True, slots=True)
class Window:
    """A square of cells.

    Attributes:
        row: of its upper left cell.
        column: likewise.
        side: cells along it; at an edge of a narrow picture it has fewer.
    """

    row: int
    column: int
    side: int

    def overlaps(self, other: Window) -> bool:
        """Whether they share a cell."""
        apart_down = self.row + self.side <= other.row or other.row + other.side <= self.row
        apart_across = self.column + self.side <= other.column or other.column + other.side <= self.column
        return not (apart_down or apart_across)


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of one picture.

    Attributes:
        size_px: (width, height) of the picture.
        n_rows: cells from top to bottom.
        n_columns: cells from left to right.
    """

    size_px: tuple[int, int]
    n_rows: int
    n_columns: int

    @classmethod
    def of(cls, picture: Picture, along: int = CELLS_ALONG) -> Grid:
        """About square cells, ``along`` of them on the longer side; none is less than a pixel."""
        width, height = picture.size_px
        cell = max(width, height) / along
        return cls(
            (width, height),
            max(1, min(height, round(height / cell))),
            max(1, min(width, round(width / cell))),
        )

    @property
    def cells(self) -> list[Cell]:
        """All of them, row by row."""
        return [(row, column) for row in range(self.n_rows) for column in range(self.n_columns)]

    def windows(self, side: int) -> list[Window]:
        """All places of a window of this side; none where it would cover the whole picture."""
        if side >= self.n_rows and side >= self.n_columns:
            return []
        rows = range(max(1, self.n_rows - side + 1))
        columns = range(max(1, self.n_columns - side + 1))
        return [Window(row, column, side) for row in rows for column in columns]

    def cells_of(self, window: Window) -> list[Cell]:
        """The cells that it covers."""
        rows = range(window.row, min(self.n_rows, window.row + window.side))
        columns = range(window.column, min(self.n_columns, window.column + window.side))
        return [(row, column) for row in rows for column in columns]

    def box_px(self, cell: Cell) -> Box:
        """Where a cell lies."""
        return self._box(cell[0], cell[1], cell[0] + 1, cell[1] + 1)

    def window_px(self, window: Window) -> Box:
        """Where a window lies."""
        last_row = min(self.n_rows, window.row + window.side)
        last_column = min(self.n_columns, window.column + window.side)
        return self._box(window.row, window.column, last_row, last_column)

    def _box(self, row: int, column: int, last_row: int, last_column: int) -> Box:
        width, height = self.size_px
        return (
            round(column * width / self.n_columns),
            round(row * height / self.n_rows),
            round(last_column * width / self.n_columns),
            round(last_row * height / self.n_rows),
        )


def ground_of(image: Image.Image) -> RGB:
    """The colour of a picture's ground: the commonest one along its border, shades of it taken together."""
    small = image.convert("RGB")
    small.thumbnail((_SAMPLE_PX, _SAMPLE_PX), Image.Resampling.NEAREST)
    width, height = small.size
    pixels = small.load()
    assert pixels is not None
    border = [(x, y) for x in range(width) for y in (0, 1, height - 2, height - 1) if 0 <= y < height]
    border += [(x, y) for y in range(height) for x in (0, 1, width - 2, width - 1) if 0 <= x < width]
    colours: list[RGB] = [pixels[x, y] for x, y in border]  # type: ignore[misc]
    shade, _ = Counter(_shade(colour) for colour in colours).most_common(1)[0]
    same = sorted(colour for colour in colours if _shade(colour) == shade)
    red, green, blue = (sorted(colour[n] for colour in same)[len(same) // 2] for n in range(3))
    return red, green, blue


def _shade(colour: RGB) -> RGB:
    return colour[0] // 24, colour[1] // 24, colour[2] // 24


def other_filling(ground: RGB) -> RGB:
    """Mid grey, or a light one where the ground itself is about mid grey."""
    return _LIGHT if max(abs(value - 127) for value in ground) < _NEAR else _GREY


def hidden(picture: Picture, grid: Grid, cells: Collection[Cell], colour: RGB) -> Picture:
    """The picture with these cells painted over."""
    image = picture.rgb.copy()
    for cell in cells:
        image.paste(colour, grid.box_px(cell))
    return Picture(None, picture.name, image)
