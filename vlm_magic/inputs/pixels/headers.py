"""The first bytes of a file: its format, and for some formats its size, before a decoder sees it.

Pillow reads sizes from headers too, but its WEBP plugin makes the whole canvas on opening, and its JPEG
plugin does not say how much a progressive file will hold in memory. Knows nothing of Pillow.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["HEIC", "JpegHeader", "format_of", "holder_of", "jpeg_header", "looks_like", "webp_size"]

HEIC = "HEIC"
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))


def format_of(head: bytes) -> str | None:  # noqa: PLR0911 - one line per format
    """The picture format that ``head`` (64 bytes) begins, HEIC among them; None for anything else."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if head[4:8] == b"ftyp":
        return _container_format(head)
    # "BM" alone could begin a text, so the size of its second header must be one that exists.
    if (
        head.startswith(b"BM")
        and len(head) >= 18
        and head[14:18][1:] == b"\0\0\0"
        and head[14] in (12, 40, 52, 56, 64, 108, 124)
    ):
        return "BMP"
    return None


def holder_of(head: bytes) -> str | None:
    """What a file is that holds several pictures, "PDF" or "video"; None for anything else."""
    if head.startswith(b"%PDF-"):
        return "PDF"
    is_media = head[4:8] == b"ftyp" and format_of(head) is None
    is_matroska, is_avi = head.startswith(b"\x1aE\xdf\xa3"), head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return "video" if is_media or is_matroska or is_avi else None


def _container_format(head: bytes) -> str | None:
    """AVIF or HEIC by the brands of an ISO media file."""
    brands = {head[pos : pos + 4] for pos in (8, *range(16, min(len(head), 64) - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return HEIC if brands & _HEIC_BRANDS else None


_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "a Photoshop file"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"DDS ", "a DDS texture"),
    (b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull`)"),
    (b"\x93NUMPY", "a numpy file (np.load it)"),
    (b"\x1aE\xdf\xa3", "a video"),
)


def looks_like(head: bytes) -> str:  # noqa: PLR0911 - one line per kind
    """In words what a file that is not a picture seems to be."""
    if not head:
        return "nothing (0 bytes)"
    for magic, words in _OTHERS:
        if head.startswith(magic):
            return words
    if head[4:8] == b"ftyp":
        return "a video"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) or b"<svg" in text:
        return "SVG or XML (not a pixel picture)"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        return "a web page"
    if text[:1] in b"{[" and text:
        return "JSON"
    is_text = all(byte >= 32 or byte in b"\t\r\n" for byte in head)
    return "text" if is_text else "bytes of no known format"


def webp_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) of a WEBP file's canvas, or None when the first chunk does not say."""
    kind = head[12:16]
    if kind == b"VP8X" and len(head) >= 30:
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(head) >= 30:
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What decides how much memory a JPEG needs.

    Attributes:
        size_px: (width, height).
        held_bytes: bytes of coefficients that the decoder must hold for the whole picture: 0 for the
            usual kind that is read line by line, two per sample for one of several scans.
    """

    size_px: tuple[int, int]
    held_bytes: int


def jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the markers up to the first scan; None when they make no sense."""
    pos, frame, is_progressive = 2, b"", False
    while pos + 4 <= len(data):
        if data[pos] != 0xFF:
            return None
        marker = data[pos + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # fill bytes; markers alone
            pos += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[pos + 2 : pos + 4], "big")
        segment = data[pos + 4 : pos + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, is_progressive = segment, marker in (0xC2, 0xC6, 0xCA, 0xCE)
        elif marker == 0xDA:
            n_in_scan = segment[0] if segment else 0
            return _jpeg_from_frame(frame, is_progressive, n_in_scan)
        pos += 2 + length
    return None


def _jpeg_from_frame(frame: bytes, is_progressive: bool, n_in_scan: int) -> JpegHeader | None:
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        return None
    height, width = struct.unpack(">HH", frame[1:5])
    factors = [(frame[7 + 3 * i] >> 4, frame[7 + 3 * i] & 15) for i in range(frame[5])]
    most = max((h * v for h, v in factors), default=1) or 1
    held = 0
    if is_progressive or n_in_scan < len(factors):
        held = int(2 * width * height * sum(h * v for h, v in factors) / most)
    return JpegHeader((width, height), held)
