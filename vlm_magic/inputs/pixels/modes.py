"""From a decoded picture of any Pillow mode to upright RGB, as the person sees it.

Alpha goes on white (light pictures on black); 16 bits and floats are rescaled; RGB, CMYK and LAB go through
their colour profile; the EXIF orientation is applied. The picture that is given is never changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from vlm_magic.inputs.pixels.grounds import ground_colour
from vlm_magic.inputs.pixels.levels import Levels, levels_of, no_data, to_levels
from vlm_magic.inputs.pixels.profiles import profile_of, through_profile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["orientation_of", "to_rgb"]

_ORIENTATION, _EXIF_WIDTH, _EXIF_HEIGHT, _EXIF_IFD = 0x0112, 0xA002, 0xA003, 0x8769
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_LEAN_MODES = ("1", "L", "P", "RGB", "I;16", "I;16L", "I;16B", "I;16N")  # beside an RGB copy, under 400 MB
_COPY_PX = 40_000_000  # above this, two copies of four bytes a pixel are too much: the result is halved
_STRIP_PX = 1 << 20


def to_rgb(
    image: Image.Image, *, is_derived: bool = False, may_halve: bool = False
) -> tuple[Image.Image, list[str]]:
    """An upright RGB picture without metadata, and the guesses in words.

    It may share its pixels with ``image`` when that is upright RGB already.

    Args:
        image: a picture of any mode, loaded or not.
        is_derived: it was made from another picture in memory; its EXIF may be out of date.
        may_halve: a very large one may be halved where the conversion needs a second copy.
    """
    notes: list[str] = []
    image.load()
    turn = orientation_of(image, is_derived=is_derived)
    is_wide = image.mode in _WIDE_MODES
    has_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
    levels = levels_of(_arrays(image), _dtype_of(image)) if is_wide else None
    if levels is not None and levels.note:
        notes.append(levels.note)
    ground = "white"
    if has_alpha and not is_wide:
        ground, note = ground_colour(_alpha_strips(image), image.width * image.height)
        notes += [note] if note else []
    profile = profile_of(image)
    factor = 1
    is_copied = turn in _TURNS or has_alpha or profile is not None or image.mode not in _LEAN_MODES
    if may_halve and is_copied and image.width * image.height > _COPY_PX:
        notes.append(f"{image.width}×{image.height} reduced by half")
        factor = 2
    by_strips = factor > 1 or is_wide or has_alpha
    rgb = _by_strips(image, levels, factor, ground) if by_strips else _plain(image, None, ground)
    if profile is not None:
        rgb = profile.apply(rgb)
        notes.append(f"colours by its profile, {profile.name}")
    if turn in _TURNS:
        rgb = rgb.transpose(_TURNS[turn])
    return _bare(rgb), notes


def _boxes(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes over the whole width, an even number of rows high."""
    rows = max(2, _STRIP_PX // image.width // 2 * 2)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _arrays(image: Image.Image) -> Iterator[NDArray[Any]]:
    import numpy as np

    for box in _boxes(image):
        yield np.asarray(image.crop(box))


def _dtype_of(image: Image.Image) -> np.dtype[Any]:
    import numpy as np

    return np.asarray(image.crop((0, 0, 1, 1))).dtype


def _alpha_strips(image: Image.Image) -> Iterator[tuple[Image.Image, Image.Image]]:
    for box in _boxes(image):
        rgba = _to_rgba(image.crop(box))
        yield rgba.convert("RGB"), rgba.getchannel("A")


def _by_strips(image: Image.Image, levels: Levels | None, factor: int, ground: str) -> Image.Image:
    """RGB, 1/``factor`` as wide and high, with little memory above the result."""
    width, height = -(-image.width // factor), -(-image.height // factor)
    out = Image.new("RGB", (width, height))
    for box in _boxes(image):
        strip = _plain(image.crop(box), levels, ground)
        out.paste(strip.reduce(factor) if factor > 1 else strip, (0, box[1] // factor))
    return out


def _plain(image: Image.Image, levels: Levels | None, ground: str) -> Image.Image:
    """RGB of one strip, or of a whole picture."""
    if levels is not None:
        return _from_wide(image, levels)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        return _on_ground(image, ground)
    if image.mode in ("CMYK", "LAB"):
        return through_profile(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _bare(rgb: Image.Image) -> Image.Image:
    """The same pixels in a plain picture: no file, no metadata."""
    plain = Image.Image()
    plain.im = rgb.im
    plain._mode, plain._size = "RGB", rgb.size
    plain.info = {}
    return plain


def orientation_of(image: Image.Image, *, is_derived: bool = False) -> int:
    """The EXIF orientation, 1 to 8; 1 where it is missing or makes no sense."""
    try:
        exif = image.getexif()
        value = exif.get(_ORIENTATION, 1)
        if value not in _TURNS:
            return 1
        if is_derived and value >= 5 and _was_turned(image, exif):
            return 1
        return int(value)
    except Exception:  # broken EXIF says nothing about the pixels
        return 1


def _was_turned(image: Image.Image, exif: Any) -> bool:
    """Whether somebody turned the picture by hand: its sides are those of EXIF, swapped."""
    details = exif.get_ifd(_EXIF_IFD)
    before = details.get(_EXIF_WIDTH), details.get(_EXIF_HEIGHT)
    return bool(image.width != image.height and before == (image.height, image.width))


def _on_ground(image: Image.Image, colour: str) -> Image.Image:
    rgba = _to_rgba(image)
    ground = Image.new("RGB", rgba.size, colour)
    ground.paste(rgba, mask=rgba.getchannel("A"))
    return ground


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _from_wide(image: Image.Image, levels: Levels) -> Image.Image:
    """8 bits from 16 or 32 bits or floats, by the range that the whole picture uses."""
    import numpy as np

    array = np.asarray(image)
    rgb = Image.fromarray(to_levels(array, levels)).convert("RGB")
    transparency = image.info.get("transparency")
    if isinstance(transparency, int):
        mask = Image.fromarray(np.where(array == transparency, 255, 0).astype(np.uint8))
        rgb.paste((255, 255, 255), mask=mask)
    if (bad := no_data(array, levels)) is not None:
        rgb.paste((255, 255, 255), mask=Image.fromarray(bad))
    return rgb
