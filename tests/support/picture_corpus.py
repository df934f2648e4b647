"""A corpus of odd and broken picture files, made from nothing: what a decoder may meet.

`good_files` gives files with the picture that a person sees in them, `broken_files` gives files that are
damaged, disguised or made to hurt. All of it is small and the same on every run.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 40, 24


@dataclass(frozen=True)
class File:
    """One file of the corpus.

    Attributes:
        name: what is odd about it, with the suffix that it pretends to have.
        data: its bytes.
        seen: the picture that a person sees, (H, W, 3) uint8; None where that is not known.
        tolerance: the mean difference per channel that the format may cause.
        must_fail: no viewer shows a picture.
    """

    name: str
    data: bytes
    seen: np.ndarray | None = None
    tolerance: float = 3.0
    must_fail: bool = False


def scene() -> Image.Image:
    """A picture that looks different in every orientation: four colours, a ramp, a dark corner."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[: HEIGHT // 2, : WIDTH // 2] = (220, 30, 30)
    pixels[: HEIGHT // 2, WIDTH // 2 :] = (30, 200, 40)
    pixels[HEIGHT // 2 :, : WIDTH // 2] = (40, 60, 210)
    pixels[HEIGHT // 2 :, WIDTH // 2 :] = np.linspace(20, 250, WIDTH - WIDTH // 2).astype(np.uint8)[
        None, :, None
    ]
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a picture in one format."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(image: Image.Image) -> np.ndarray:
    """What Pillow's plain conversion shows."""
    return np.asarray(image.convert("RGB"))


def with_alpha(mode: str = "RGBA") -> tuple[Image.Image, np.ndarray]:
    """A half transparent scene, and how it looks on white."""
    image = scene().convert(mode)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1)))
    image.putalpha(alpha)
    share = np.asarray(alpha)[:, :, None] / 255
    return image, np.rint(rgb(image.convert("RGB")) * share + 255 * (1 - share)).astype(np.uint8)


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # from upright to what such a file stores
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def good_files() -> Iterator[File]:
    """Files that every viewer shows, with what it shows."""
    yield from _plain_files()
    yield from _alpha_files()
    yield from _wide_files()
    yield from _turned_files()
    yield from _frames()
    yield from _shapes()


def _plain_files() -> Iterator[File]:
    image = scene()
    gray, palette, two = image.convert("L"), image.convert("P"), image.convert("1")
    by_mode = {"RGB": image, "L": gray, "P": palette, "1": two}
    for kind, modes in (("PNG", "RGB L P 1"), ("BMP", "RGB L P 1"), ("GIF", "L P 1"), ("TIFF", "RGB L P 1")):
        for mode in modes.split():
            yield File(f"{kind}-{mode}.{kind.lower()}", encoded(by_mode[mode], kind), rgb(by_mode[mode]), 0.5)
    for name, options in {
        "baseline": {},
        "progressive": {"progressive": True},
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "restart": {"restart_marker_blocks": 1},
        "optimised": {"optimize": True},
    }.items():
        data = encoded(image, "JPEG", quality=95, **options)
        yield File(f"JPEG-{name}.jpg", data, rgb(image), 12)
    yield File("JPEG-gray.jpg", encoded(gray, "JPEG", quality=95), rgb(gray), 6)
    cmyk = image.convert("CMYK")
    yield File("JPEG-cmyk.jpg", encoded(cmyk, "JPEG", quality=95, subsampling=0), rgb(image), 12)
    for lossless in (True, False):
        data = encoded(image, "WEBP", lossless=lossless, quality=95)
        yield File(f"WEBP-lossless={lossless}.webp", data, rgb(image), 0.5 if lossless else 14)
    yield File("AVIF.avif", encoded(image, "AVIF", quality=95, subsampling="4:4:4"), rgb(image), 8)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        data = encoded(image, "TIFF", compression=compression)
        yield File(f"TIFF-{compression}.tif", data, rgb(image), 14 if compression == "jpeg" else 0.5)
    yield File("TIFF-group4.tif", encoded(two, "TIFF", compression="group4"), rgb(two), 0.5)
    yield File("TIFF-cmyk.tif", encoded(cmyk, "TIFF"), rgb(image), 3)
    yield File("TIFF-ycbcr.tif", encoded(image.convert("YCbCr"), "TIFF"), rgb(image), 3)
    lab = ImageCms.profileToProfile(
        image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    yield File("TIFF-lab.tif", encoded(lab, "TIFF"), rgb(image), 6)
    for bits in (1, 2, 4):
        yield File(
            f"PNG-palette{bits}.png",
            encoded(image.quantize(1 << bits), "PNG", bits=bits),
            rgb(image.quantize(1 << bits)),
            0.5,
        )


def _alpha_files() -> Iterator[File]:
    image, seen = with_alpha()
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        yield File(f"{kind}-alpha.{kind.lower()}", encoded(image, kind, **options), seen, 1.5)
    yield File("AVIF-alpha.avif", encoded(image, "AVIF", quality=95, subsampling="4:4:4"), seen, 8)
    gray, gray_seen = with_alpha("L")
    yield File("PNG-gray-alpha.png", encoded(gray, "PNG"), gray_seen, 1.5)
    yield File("TIFF-gray-alpha.tif", encoded(gray, "TIFF"), gray_seen, 1.5)
    plain = scene()
    key = np.where((rgb(plain) == (220, 30, 30)).all(axis=2)[:, :, None], 255, rgb(plain)).astype(np.uint8)
    yield File("PNG-colour-key.png", encoded(plain, "PNG", transparency=(220, 30, 30)), key, 0.5)
    palette = plain.quantize(16)
    index = int(np.asarray(palette)[0, 0])
    seen_palette = rgb(palette).copy()
    seen_palette[np.asarray(palette) == index] = 255
    yield File("GIF-transparent.gif", encoded(palette, "GIF", transparency=index), seen_palette, 0.5)
    yield File("PNG-palette-alpha.png", encoded(palette, "PNG", transparency=index), seen_palette, 0.5)
    levels = bytes(0 if n == index else 255 for n in range(16))
    yield File("PNG-palette-alphas.png", encoded(palette, "PNG", transparency=levels), seen_palette, 0.5)


def _wide_files() -> Iterator[File]:
    """16 bits, 32 bits, floats: a ramp that plain conversion turns into one flat colour."""
    ramp = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1))
    seen = np.repeat(np.rint(ramp * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    for bits in (10, 12, 14, 16):
        wide = Image.fromarray(np.rint(ramp * ((1 << bits) - 1)).astype(np.uint16))
        yield File(f"PNG-{bits}-of-16.png", encoded(wide, "PNG"), seen, 1)
        yield File(f"TIFF-{bits}-of-16.tif", encoded(wide, "TIFF"), seen, 1)
    yield File("TIFF-16-big-endian.tif", big_endian_tiff((ramp * 65535).astype(">u2")), seen, 1)
    for name, low, high in (
        ("0-1", 0, 1),
        ("0-255", 0, 255),
        ("-1-1", -1, 1),
        ("stretched", -5, 900),
        ("tiny", 0, 1e-3),
    ):
        floats = Image.fromarray((low + ramp * (high - low)).astype(np.float32))
        flat_is_right = name == "tiny"
        yield File(f"TIFF-float-{name}.tif", encoded(floats, "TIFF"), None if flat_is_right else seen, 1)
    yield File("TIFF-int32.tif", encoded(Image.fromarray((ramp * 1e6).astype(np.int32)), "TIFF"), seen, 1)


def big_endian_tiff(array: np.ndarray) -> bytes:
    """A gray 16-bit TIFF with the high byte first."""
    height, width = array.shape
    tags = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, 16),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8 + 2 + 8 * 12 + 4),
        (278, 3, height),
        (279, 4, array.nbytes),
    ]
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags))
    for tag, kind, value in tags:
        head += struct.pack(">HHI", tag, kind, 1) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    return head + b"\0\0\0\0" + array.tobytes()


def _turned_files() -> Iterator[File]:
    upright = rgb(scene())
    for orientation, turn in TURNS.items():
        stored = Image.fromarray(np.ascontiguousarray(turn(upright)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, options, tolerance in (
            ("JPEG", {"quality": 95, "subsampling": 0}, 8),
            ("PNG", {}, 0.5),
            ("WEBP", {"lossless": True}, 0.5),
            ("TIFF", {}, 0.5),
            ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 8),
        ):
            data = encoded(stored, kind, exif=exif.tobytes() if kind != "TIFF" else exif, **options)
            yield File(f"{kind}-turned-{orientation}.{kind.lower()}", data, upright, tolerance)
    for name, value in (("0", 0), ("9", 9), ("65535", 65535)):
        exif = Image.Exif()
        exif[0x0112] = value
        yield File(f"PNG-orientation-{name}.png", encoded(scene(), "PNG", exif=exif.tobytes()), upright, 0.5)
    broken = b"Exif\0\0II*\0\xff\xff\xff\x7f\1\2\3"
    yield File(
        "JPEG-broken-exif.jpg", encoded(scene(), "JPEG", quality=95, subsampling=0, exif=broken), upright, 8
    )


def _frames() -> Iterator[File]:
    first, others = scene(), [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("black", "white")]
    for kind, options, tolerance in (
        ("GIF", {}, 8),
        ("WEBP", {"lossless": True}, 0.5),
        ("PNG", {}, 0.5),
        ("TIFF", {}, 0.5),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 8),
    ):
        data = encoded(first, kind, save_all=True, append_images=others, **options)
        yield File(f"{kind}-animated.{kind.lower()}", data, rgb(first), tolerance)
    yield File(
        "MPO.jpg",
        encoded(first, "MPO", save_all=True, append_images=others, quality=95, subsampling=0),
        rgb(first),
        8,
    )


def _shapes() -> Iterator[File]:
    for size in ((1, 1), (1, 3000), (3000, 1), (2, 65), (7, 5)):
        image = scene().resize(size)
        for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
            options = {"lossless": True} if kind == "WEBP" else {}
            seen = rgb(image) if kind in ("PNG", "BMP", "TIFF", "WEBP") else None
            yield File(
                f"{kind}-{size[0]}x{size[1]}.{kind.lower()}", encoded(image, kind, **options), seen, 0.5
            )


# -- broken ------------------------------------------------------------------------------------


def broken_files() -> Iterator[File]:
    """Files that are damaged, disguised or hostile."""
    yield from _damaged()
    yield from _disguised()
    yield from huge_files()
    yield from _hostile_chunks()


def _bases() -> dict[str, bytes]:
    image, transparent = scene(), with_alpha()[0]
    frames = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT), "white")]}
    return {
        "a.png": encoded(image, "PNG"),
        "alpha.png": encoded(transparent, "PNG"),
        "p.png": encoded(image.quantize(16), "PNG"),
        "a.jpg": encoded(image, "JPEG", quality=90),
        "prog.jpg": encoded(image, "JPEG", progressive=True),
        "a.webp": encoded(image, "WEBP"),
        "ll.webp": encoded(transparent, "WEBP", lossless=True),
        "anim.webp": encoded(image, "WEBP", **frames),
        "a.gif": encoded(image, "GIF"),
        "anim.gif": encoded(image, "GIF", **frames),
        "a.bmp": encoded(image, "BMP"),
        "p.bmp": encoded(image.quantize(16), "BMP"),
        "a.tif": encoded(image, "TIFF"),
        "lzw.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encoded(image, "TIFF", compression="jpeg"),
        "a.avif": encoded(image, "AVIF"),
    }


def _damaged() -> Iterator[File]:
    dice = random.Random(4)
    for name, data in _bases().items():
        for n in range(14):  # truncated: at the beginning byte by byte, then anywhere
            end = (1, 2, 4, 8, 12, 16, 24, 32)[n] if n < 8 else dice.randrange(33, len(data))
            yield File(f"truncated-{end}-{name}", data[:end], must_fail=end <= 16)
        for n in range(50):  # bits flipped: in the head, then anywhere
            damaged = bytearray(data)
            for _ in range(1 + n % 4):
                position = dice.randrange(min(80, len(data)) if n % 2 else len(data))
                damaged[position] ^= 1 << dice.randrange(8)
            yield File(f"flipped-{n}-{name}", bytes(damaged))
        for n in range(8):  # a stretch lost, filled or doubled
            start = dice.randrange(len(data))
            stretch = data[start : start + dice.randrange(1, 64)]
            middle = (b"", b"\0" * len(stretch), b"\xff" * len(stretch), stretch * 2)[n % 4]
            yield File(f"stretch-{n}-{name}", data[:start] + middle + data[start + len(stretch) :])
        yield File(f"tail-{name}", data + b"<?php tail ?>" * 100)


def _disguised() -> Iterator[File]:
    bases = _bases()
    suffixes = ["png", "jpg", "webp", "gif", "bmp", "tif", "avif"]
    seen = rgb(scene())
    for suffix in suffixes:
        yield File(f"png-called.{suffix}", bases["a.png"], seen, 0.5)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    others = {
        "empty": b"",
        "space": b" \n",
        "text": b"just words\n" * 20,
        "html": b"<!DOCTYPE html><html></html>",
        "svg": svg,
        "xml": b"<?xml version='1.0'?>" + svg,
        "json": b'{"error": "no"}',
        "zip": b"PK\3\4" + bytes(60),
        "gzip": b"\x1f\x8b" + bytes(60),
        "pdf": b"%PDF-1.7" + bytes(60),
        "psd": b"8BPS" + bytes(60),
        "ico": b"\0\0\1\0" + bytes(60),
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60),
        "jxl": b"\xff\x0a" + bytes(60),
        "exr": b"v/1\x01" + bytes(60),
        "hdr": b"#?RADIANCE\n" + bytes(60),
        "dds": b"DDS " + bytes(124),
        "mp4": b"\0\0\0\x20ftypisom" + bytes(60),
        "webm": b"\x1aE\xdf\xa3" + bytes(60),
        "lfs": b"version https://git-lfs.github.com/spec/v1\n",
        "npy": b"\x93NUMPY" + bytes(60),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "ppm": b"P6 1 1 255\nabc",
        "pcx": b"\x0a\5\1\x08" + bytes(124),
        "tga": bytes(18) + b"abc",
        "fli": bytes(4) + b"\x11\xaf" + bytes(122),
        "blp": b"BLP2" + bytes(150),
        "fits": b"SIMPLE  =                    T" + bytes(60),
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "BM": b"BM is a text about cars" * 5,
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60),
    }
    for name, data in others.items():
        for suffix in ("png", "jpg"):
            yield File(f"{name}-called.{suffix}", data, must_fail=True)
    dice = random.Random(7)
    for n in range(20):
        yield File(f"noise-{n}.jpg", dice.randbytes(400), must_fail=True)
    for magic in (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"RIFF\x90\1\0\0WEBPVP8 ",
        b"GIF89a",
        b"II*\0\x08\0\0\0",
        b"MM\0*\0\0\0\x08",
        b"\0\0\0\x20ftypavif",
    ):
        for n in range(6):
            yield File(f"{magic[:3].hex()}-noise-{n}.png", magic + dice.randbytes(40 * (n + 1)))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG file with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, *, bits: int = 8, colour: int = 2, body: bytes | None = None, extra: bytes = b""
) -> bytes:
    """A PNG file of any declared size; its pixels are zeros unless ``body`` says otherwise."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(1000)) if body is None else body
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", pixels)
        + png_chunk(b"IEND", b"")
    )


def huge_files() -> Iterator[File]:
    """Small files whose header announces a huge picture."""
    bases = _bases()
    for width, height in (
        (13000, 13000),
        (65000, 65000),
        (1 << 30, 1 << 30),
        (60_000_000, 1),
        (1, 60_000_000),
        (0, 5),
        (5, 0),
    ):
        yield File(f"huge-{width}x{height}.png", png(width, height), must_fail=True)
        bmp = bytearray(bases["a.bmp"])
        bmp[18:26] = struct.pack("<II", width, height)
        yield File(f"huge-{width}x{height}.bmp", bytes(bmp), must_fail=True)
        little = struct.unpack_from("<I", bases["a.tif"], 4)[0]
        tif = bytearray(bases["a.tif"])
        for entry in range(struct.unpack_from("<H", tif, little)[0]):
            position = little + 2 + 12 * entry
            tag = struct.unpack_from("<H", tif, position)[0]
            if tag in (256, 257):
                struct.pack_into("<HII", tif, position + 2, 4, 1, width if tag == 256 else height)
        yield File(f"huge-{width}x{height}.tif", bytes(tif), must_fail=True)
        if width < 65536 and height < 65536:
            gif = bytearray(bases["a.gif"])
            gif[6:10] = struct.pack("<HH", width, height)
            yield File(f"huge-{width}x{height}.gif", bytes(gif), must_fail=width > 5 and height > 5)
            jpg = bytearray(bases["a.jpg"])
            at = bases["a.jpg"].index(b"\xff\xc0")
            jpg[at + 5 : at + 9] = struct.pack(">HH", height, width)
            # A JPEG that ends early is filled up by the decoder, as viewers do.
            yield File(f"huge-{width}x{height}.jpg", bytes(jpg), must_fail=width != 13000)
    vp8x = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (16_777_215).to_bytes(3, "little") * 2
    body = b"WEBP" + vp8x + bases["a.webp"][12:]
    yield File("huge-vp8x.webp", b"RIFF" + struct.pack("<I", len(body)) + body, must_fail=True)
    lossless = bytearray(encoded(scene(), "WEBP", lossless=True))
    at = lossless.index(b"VP8L") + 9
    lossless[at : at + 4] = (16383 - 1 | (16383 - 1) << 14).to_bytes(4, "little")
    yield File("huge-vp8l.webp", bytes(lossless), must_fail=True)
    avif = bytearray(bases["a.avif"])
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 60000, 60000)
    yield File("huge-ispe.avif", bytes(avif), must_fail=True)
    yield File("huge-frame.gif", gif_with_large_frame(), must_fail=True)
    yield File("huge-tile.tif", tiled_tiff(60_000, 60_000), must_fail=True)


def gif_with_large_frame() -> bytes:
    """A screen of 10×10 with a frame of 60000×60000 on it."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\2\2D\1\0;"


def tiled_tiff(tile_width: int, tile_height: int) -> bytes:
    """A TIFF of 32×32 whose only tile is declared far larger, deflated."""
    pixels = zlib.compress(bytes(32 * 32 * 3))
    tags = [
        (256, 3, 32),
        (257, 3, 32),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 2),
        (277, 3, 3),
        (322, 4, tile_width),
        (323, 4, tile_height),
        (324, 4, 8 + 2 + 10 * 12 + 4),
        (325, 4, len(pixels)),
    ]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return head + b"\0\0\0\0" + pixels


def _hostile_chunks() -> Iterator[File]:
    """Compressed bombs in places that are no pixels, loops, and floods of small parts."""
    bomb = zlib.compress(bytes(100_000_000), 9)
    row = zlib.compress(b"".join(b"\0" + bytes(range(30)) for _ in range(10)))
    for kind, body in (
        (b"zTXt", b"key\0\0" + bomb),
        (b"iTXt", b"key\0\1\0\0\0" + bomb),
        (b"iCCP", b"profile\0\0" + bomb),
        (b"tEXt", b"key\0" + b"x" * 500_000),
        (b"eXIf", b"II*\0\xff\xff\xff\xff"),
        (b"tRNS", b"\0" * 300),
        (b"PLTE", b"\0" * 5),
        (b"acTL", b"\xff" * 8),
        (b"fcTL", b"\0" * 26),
        (b"gAMA", b""),
        (b"pHYs", b"\0"),
        (b"ABCD", b"unknown and critical"),
    ):
        yield File(f"chunk-{kind.decode()}.png", png(10, 10, body=row, extra=png_chunk(kind, body)))
    yield File("bomb-idat.png", png(10, 10, body=bomb))
    many = b"".join(png_chunk(b"tEXt", b"k%d\0v" % n) for n in range(20_000))
    yield File("many-chunks.png", png(10, 10, body=row, extra=many))
    yield File("endless-length.png", png(10, 10)[:33] + b"\x7f\xff\xff\xffIDAT", must_fail=True)
    base = encoded(scene(), "TIFF")
    at = struct.unpack_from("<I", base, 4)[0]
    n_tags = struct.unpack_from("<H", base, at)[0]
    loop = bytearray(base)
    struct.pack_into("<I", loop, at + 2 + 12 * n_tags, at)
    yield File("loop-of-pages.tif", bytes(loop))
    scans = encoded(scene(), "JPEG", progressive=True)
    last = scans.rindex(b"\xff\xda")
    yield File("many-scans.jpg", scans[:-2] + scans[last:-2] * 2000 + b"\xff\xd9")
    comment = b"\xff\xfe" + struct.pack(">H", 60_002) + bytes(60_000)
    jpeg = encoded(scene(), "JPEG")
    yield File("many-comments.jpg", jpeg[:2] + comment * 30 + jpeg[2:])
    screen = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 10, 10, 0) + b"\2\2D\1\0"
    yield File("many-frames.gif", screen + frame * 20_000 + b";")
    yield File("many-comments.gif", screen + b"!\xfe\1x\0" * 50_000 + frame + b";")
    yield File("no-frame.gif", screen + b";", must_fail=True)
    rle = bytearray(encoded(scene().quantize(16), "BMP"))
    rle[18:26] = struct.pack("<II", 7000, 7000)
    rle[30:34] = struct.pack("<I", 1)
    yield File("rle.bmp", bytes(rle))
