"""Colour profiles that come with a picture: to sRGB, as a viewer shows it.

A profile that is broken, or none of its picture's kind, says nothing. Knows nothing of alpha and of turning.
Source: ICC.1:2022, read by LittleCMS through Pillow's ImageCms.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from PIL import Image

from vlm_magic.wording import shorten

__all__ = ["Profile", "profile_of", "through_profile"]

_MOST_BYTES = 10_000_000
_LEAST_BYTES = 128  # its header alone
_STRIP_PX = 1 << 20


class Profile:
    """What turns the colours of an RGB picture into sRGB.

    Attributes:
        name: what the profile calls itself.
    """

    def __init__(self, name: str, transform: Any) -> None:
        self.name = name
        self._transform = transform

    def apply(self, rgb: Image.Image) -> Image.Image:
        """A new picture in sRGB."""
        from PIL import ImageCms

        out = Image.new("RGB", rgb.size)
        rows = max(1, _STRIP_PX // rgb.width)
        for top in range(0, rgb.height, rows):
            strip = rgb.crop((0, top, rgb.width, min(top + rows, rgb.height)))
            out.paste(ImageCms.applyTransform(strip, self._transform) or strip, (0, top))
        return out


def profile_of(image: Image.Image) -> Profile | None:
    """The profile of an RGB picture, with alpha or a palette too; None for sRGB, and where there is none."""
    embedded = image.info.get("icc_profile")
    if image.mode in ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA") and isinstance(embedded, bytes):
        return _read(embedded) if _LEAST_BYTES < len(embedded) < _MOST_BYTES else None
    return None


@lru_cache(maxsize=8)  # the pictures of one camera or program share theirs
def _read(embedded: bytes) -> Profile | None:
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(embedded))
        if source.profile.xcolor_space != "RGB ":
            return None
        name = shorten(ImageCms.getProfileDescription(source), 40)
        if "srgb" in name.lower():
            return None
        target = ImageCms.createProfile("sRGB")
        return Profile(name, ImageCms.buildTransform(source, target, "RGB", "RGB"))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def through_profile(image: Image.Image) -> Image.Image:
    """CMYK or LAB to RGB: by the embedded profile, else by Pillow's formula (CMYK) or standard LAB."""
    from PIL import ImageCms

    embedded = image.info.get("icc_profile")
    try:
        if image.mode == "LAB":
            source: Any = ImageCms.createProfile("LAB")
        elif isinstance(embedded, bytes) and _LEAST_BYTES < len(embedded) < _MOST_BYTES:
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
