"""From a decoded picture of any Pillow mode to upright RGB, as the person sees it.

Alpha goes on white; 16 bits and floats are rescaled; CMYK and LAB go through their colour profile where
that is possible; the EXIF orientation is applied. The picture that is given is never changed.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from vlm_magic.inputs.levels import find_levels, to_levels

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
_COPY_PX = 40_000_000  # above this, a picture that must be copied is halved: two of 200 MB are too much


def to_rgb(image: Image.Image, *, is_derived: bool = False) -> tuple[Image.Image, list[str]]:
    """An upright RGB copy of ``image`` without metadata, and the guesses in words.

    Args:
        image: a picture of any mode, loaded or not.
        is_derived: it was made from another picture in memory; its EXIF may be out of date.
    """
    notes: list[str] = []
    image.load()
    turn = orientation_of(image, is_derived=is_derived)
    has_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
    rgb = image
    if image.width * image.height > _COPY_PX and (
        turn > 1 or has_alpha or image.mode in ("CMYK", "LAB", "RGBX")
    ):
        notes.append(f"{image.width}×{image.height} reduced by half")
        rgb = _halved(image)
    if rgb.mode in _WIDE_MODES:
        rgb, note = _from_wide(rgb)
        notes.extend([note] if note else [])
    elif has_alpha:
        rgb = _on_white(rgb)
    elif rgb.mode in ("CMYK", "LAB"):
        rgb = _through_profile(rgb)
    elif rgb.mode != "RGB":
        rgb = rgb.convert("RGB")
    if turn in _TURNS:
        rgb = rgb.transpose(_TURNS[turn])
    return _bare(rgb, image), notes


def _bare(rgb: Image.Image, original: Image.Image) -> Image.Image:
    """A plain picture with nothing but pixels, sharing none with ``original``."""
    if rgb is original and type(rgb) is Image.Image:
        rgb = rgb.copy()
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


def _halved(image: Image.Image) -> Image.Image:
    """Half as wide and high; palettes and alpha averaged properly."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA").reduce(2)
    transparency = image.info.get("transparency")
    small = image.reduce(2)
    if transparency is not None:
        small.info["transparency"] = transparency
    return small


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image if image.mode == "RGBA" else _to_rgba(image)
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _to_rgba(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _from_wide(image: Image.Image) -> tuple[Image.Image, str]:
    """8 bits from 16 or 32 bits or floats, by the range that the numbers use."""
    import numpy as np

    array = np.asarray(image)
    levels = find_levels(array)
    gray = Image.fromarray(to_levels(array, levels))
    transparency = image.info.get("transparency")
    rgb = gray.convert("RGB")
    if isinstance(transparency, int):
        mask = Image.fromarray(np.where(array == transparency, 255, 0).astype(np.uint8))
        rgb.paste((255, 255, 255), mask=mask)
    return rgb, levels.note


def _through_profile(image: Image.Image) -> Image.Image:
    """CMYK or LAB to RGB: by the embedded profile, else by Pillow's formula (CMYK) or standard LAB."""
    from PIL import ImageCms

    embedded = image.info.get("icc_profile")
    try:
        if image.mode == "LAB":
            source: Any = ImageCms.createProfile("LAB")
        elif isinstance(embedded, bytes) and 128 < len(embedded) < 10_000_000:
            source = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        else:
            return image.convert("RGB")
        target = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        if image.mode == "LAB":
            raise
        return image.convert("RGB")
    return converted if converted is not None else image.convert("RGB")
