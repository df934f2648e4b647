"""From the bytes of a file to an upright RGB picture, under limits that are checked before decoding.

The format is decided by content and must be one of seven (HEIC with pillow-heif); Pillow's plugin for
it is called directly, so that no other decoder is tried. Whatever goes wrong in a decoder becomes one
kind of error. Knows nothing of where the bytes came from.
"""

from __future__ import annotations

import importlib
import io
import os
import threading
import warnings
from dataclasses import dataclass, replace
from typing import IO, Any

from PIL import Image

from vlm_magic.errors import PictureDecodeError, PictureError, PictureTooLargeError
from vlm_magic.inputs.limits import DEFAULT_MEGAPIXELS, JPEG_MEGAPIXELS, PictureOptions
from vlm_magic.inputs.pixels import headers
from vlm_magic.inputs.pixels.modes import orientation_of, to_rgb
from vlm_magic.inputs.pixels.read_file import ReadFile
from vlm_magic.wording import shorten, size_words

__all__ = ["FORMATS", "Decoded", "decode_picture", "decode_pillow", "fitted"]

FORMATS = "PNG, JPEG, WEBP, GIF, BMP, TIFF or AVIF"
_PLUGINS = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
}
# WEBP and AVIF decoders hold up to 16 bytes a pixel, the others 4.
_MEGAPIXELS = {"JPEG": JPEG_MEGAPIXELS, "WEBP": 24.0, "AVIF": 24.0}
_JPEG_HEAD_BYTES = 1_000_000  # EXIF, profiles and thumbnails may stand before the frame
_JPEG_BYTES = 350_000_000  # coefficients held and pixels made, together
_TIFF_BYTES = 360_000_000  # of the file and the pixels
_MAX_SCANS = 200  # a real progressive JPEG has about ten; each costs a pass over the whole picture
_COUNTED_GIF_BYTES = 4_000_000  # counting the frames of a larger GIF takes too long

_quiet = threading.Lock()  # warnings.catch_warnings is one for all threads


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB picture without metadata, and the guesses that were made."""

    image: Image.Image
    note: str = ""
    full_px: tuple[int, int] | None = None  # (width, height) before it was reduced, where it was


def decode_picture(source: bytes | IO[bytes], *, name: str, options: PictureOptions) -> Decoded:
    """Decode one encoded picture.

    Args:
        source: its bytes, or a file that can seek.
        name: how the person calls it, for errors.
        options: the limits.

    Raises:
        PictureDecodeError: no picture, a broken one, or a format that is not read.
        PictureTooLargeError: more pixels than allowed; decided from the header.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd metadata; the pixels decide
        try:
            return _decode(file, name, options)
        except PictureError:
            raise
        except MemoryError:
            raise PictureTooLargeError(
                f"{name} does not fit in memory", have="no more is free", hint="a smaller picture"
            ) from None
        except Exception as exc:
            cause = shorten(str(exc) or type(exc).__name__, 160)
            raise PictureDecodeError(
                f"{name} is a broken picture", have=cause, hint="open it in a viewer, or save it again"
            ) from exc


def _decode(file: IO[bytes], name: str, options: PictureOptions) -> Decoded:
    head = file.read(64)
    kind = headers.format_of(head)
    if kind is None:
        raise PictureDecodeError(
            f"{name} is not a picture", have=f"it looks like {headers.looks_like(head)}", hint=f"{FORMATS}"
        )
    file.seek(0)
    scale = 1
    if kind == "JPEG":
        scale = _check_jpeg(file, name, options)
    elif kind == "WEBP" and (size := headers.webp_size(head)):
        check_size(size, name, options.max_megapixels, kind)
    file.seek(0)
    image = _open(kind, file, name)
    stored = image.size
    check_size(image.size, name, options.max_megapixels, kind)
    _check_tiff(image, file, name, options)
    notes = _reduce_jpeg(image, scale, options.longest_px) if kind == "JPEG" else []
    notes += _frame_notes(image, file)
    _leave_default_image(image)
    rgb, more = to_rgb(image, may_halve=options.max_megapixels is None)
    upright = stored[::-1] if orientation_of(image) in (5, 6, 7, 8) else stored
    return replace(fitted(rgb, [*notes, *more], options.longest_px), full_px=upright)


def decode_pillow(image: Image.Image, *, name: str, options: PictureOptions) -> Decoded:
    """An upright RGB copy of a person's own Pillow picture; theirs is not changed.

    Raises:
        PictureDecodeError: it has no pixels, or its file is broken.
        PictureTooLargeError: more pixels than allowed.
    """
    image = _unmapped(image, name)
    if 0 in image.size:
        raise PictureDecodeError(
            f"{name} has no pixels",
            have=f"its size is {image.width}×{image.height}",
            hint="how it was cropped",
        )
    check_size(image.size, name, options.max_megapixels)
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            rgb, notes = to_rgb(image, is_derived=not hasattr(image, "filename"))
            if orientation_of(image, is_derived=not hasattr(image, "filename")) > 1:
                notes.insert(0, "turned upright by its EXIF")
        except PictureError as exc:
            raise PictureDecodeError(f"{name} is {exc.what}", have=exc.have, hint=exc.hint) from exc
        except Exception as exc:
            cause = shorten(str(exc) or type(exc).__name__, 160)
            raise PictureDecodeError(
                f"{name} cannot be read", have=cause, hint="image.load() in a cell of its own shows more"
            ) from exc
    return fitted(rgb.copy() if rgb.im is image.im else rgb, notes, options.longest_px)


def _unmapped(image: Image.Image, name: str) -> Image.Image:
    """A picture of Pillow; where its file would be mapped to be decoded, that is opened again to be read.

    A file that is cut short while it is mapped ends the process.
    """
    path, tiles = getattr(image, "filename", ""), getattr(image, "tile", None) or []
    is_mapped = bool(path) and any(image.format == "TIFF" or tile[0] == "raw" for tile in tiles)
    if not is_mapped or not os.path.isfile(path):
        return image
    again: Any = type(image)(ReadFile(open(path, "rb"), name))  # type: ignore[call-arg]  # noqa: SIM115
    if image.tell():
        again.seek(image.tell())
    return again  # type: ignore[no-any-return]


def check_size(size: tuple[int, int], name: str, max_megapixels: float | None, kind: str = "") -> None:
    """Raise a PictureTooLargeError when ``size`` (width, height) is above the limit."""
    limit = max_megapixels or _MEGAPIXELS.get(kind, DEFAULT_MEGAPIXELS)
    megapixels = size[0] * size[1] / 1e6
    if megapixels > limit:
        raise PictureTooLargeError(
            f"{name} has {megapixels:.0f} megapixels ({size[0]}×{size[1]})",
            have=f"at most {limit:g} are decoded unless more is asked for",
            hint=f"%config VLMMagics.max_megapixels = {megapixels + 1:.0f}, or a smaller picture",
            megapixels=megapixels,
            limit=limit,
        )


def _check_jpeg(file: IO[bytes], name: str, options: PictureOptions) -> int:
    """Check size and memory of a JPEG from its header; the scale (1, 2, 4, 8) to decode it at."""
    found = headers.jpeg_header(file.read(_JPEG_HEAD_BYTES))
    if found is None:
        return 1
    check_size(found.size_px, name, options.max_megapixels, "JPEG")
    if found.held_bytes:
        file.seek(0)
        n_scans = sum(block.count(b"\xff\xda") for block in iter(lambda: file.read(1 << 20), b""))
        if n_scans > _MAX_SCANS:
            raise PictureDecodeError(
                f"{name} is a JPEG in {n_scans} scans",
                have=f"at most {_MAX_SCANS} are read",
                hint="save it again as a usual JPEG",
            )
    if options.max_megapixels is not None:
        return 1  # asked for by name: every pixel, whatever it costs
    scale, n_px = 1, found.size_px[0] * found.size_px[1]
    while scale < 8 and (
        n_px / scale**2 > DEFAULT_MEGAPIXELS * 1e6 or found.held_bytes + 4 * n_px / scale**2 > _JPEG_BYTES
    ):
        scale *= 2
    if found.held_bytes + 4 * n_px / scale**2 > _JPEG_BYTES:
        raise PictureTooLargeError(
            f"{name} is a progressive JPEG of {n_px / 1e6:.0f} megapixels",
            have="such a file is held in memory whole; its limit is lower",
            hint=f"%config VLMMagics.max_megapixels = {n_px / 1e6 + 1:.0f}, or save it as a baseline JPEG",
            megapixels=n_px / 1e6,
        )
    return scale


def _open(kind: str, file: IO[bytes], name: str) -> Image.Image:
    module, cls = _PLUGINS[kind]
    try:
        plugin: Any = importlib.import_module(module)
    except ImportError as exc:
        raise PictureDecodeError(
            f"{name} is a {kind} picture",
            have="Pillow reads those with the package pillow-heif, which is not installed",
            hint="%pip install pillow-heif",
        ) from exc
    if kind == headers.HEIC and not hasattr(plugin, cls):
        plugin.register_heif_opener()
        return Image.open(file)
    image: Image.Image = getattr(plugin, cls)(file)
    return image


def _check_tiff(image: Image.Image, file: IO[bytes], name: str, options: PictureOptions) -> None:
    """A TIFF may ask for a buffer of one tile, however small the picture; its decoder maps the file."""
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return
    position = file.tell()
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(position)
    if options.max_megapixels is None and n_bytes + 4 * image.width * image.height > _TIFF_BYTES:
        raise PictureTooLargeError(
            f"{name} is a TIFF file of {size_words(n_bytes)}",
            have=f"{image.width}×{image.height} pixels; file and pixels together take too much memory",
            hint="%config VLMMagics.max_megapixels = 50 reads it all the same; or save it as PNG",
        )
    width, height = tags.get(322, 0), tags.get(323, 0)
    if isinstance(width, int) and isinstance(height, int):
        check_size((width, height), f"a tile of {name}", options.max_megapixels)


def _reduce_jpeg(image: Any, scale: int, longest_px: int | None) -> list[str]:
    """Let the JPEG decoder skip what is not needed: at ``scale``, or down to ``longest_px``."""
    width, height = image.size
    if longest_px and max(width, height) > longest_px:
        ratio = max(width, height) / longest_px
        while scale * 2 <= min(8, ratio):
            scale *= 2
    if scale > 1:
        image.draft("RGB", (max(1, width // scale), max(1, height // scale)))
        return [f"{width}×{height} decoded at 1/{scale}"]
    return []


def fitted(rgb: Image.Image, notes: list[str], longest_px: int | None) -> Decoded:
    """The decoded picture, reduced where its longest side is above ``longest_px``."""
    if longest_px and max(rgb.size) > longest_px:
        ratio = longest_px / max(rgb.size)
        size = max(1, round(rgb.width * ratio)), max(1, round(rgb.height * ratio))
        notes = [*notes, f"reduced to {size[0]}×{size[1]}"]
        rgb = rgb.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    return Decoded(rgb, ", ".join(notes))


def _leave_default_image(image: Any) -> None:
    """Of an animated PNG whose default image is none of its frames, browsers show the frames."""
    if getattr(image, "default_image", False) and getattr(image, "n_frames", 1) > 1:
        try:
            image.seek(1)
        except (EOFError, OSError, SyntaxError, ValueError):
            image.seek(0)  # a broken frame: the default image is there for that


def _frame_notes(image: Any, file: IO[bytes]) -> list[str]:
    """Which frame it is, when there are several."""
    try:
        if not getattr(image, "is_animated", False):
            return []
        if image.format == "GIF" and file.seek(0, io.SEEK_END) > _COUNTED_GIF_BYTES:
            return ["first frame of an animation"]
        word = "pages" if image.format == "TIFF" else "frames"
        n_frames = image.n_frames - bool(getattr(image, "default_image", False))
        return [f"first of {n_frames} {word}"] if n_frames > 1 else []
    except Exception:  # a broken later frame says nothing about the first
        return []
    finally:
        if getattr(image, "tell", lambda: 0)() != 0:
            image.seek(0)
