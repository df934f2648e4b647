"""Where a picture reference ends and where a URL in a sentence does. Plain string work."""

from __future__ import annotations

import re

__all__ = ["HOLDER_SUFFIXES", "PICTURE_SUFFIXES", "end_of_source", "ends_like_picture", "without_punctuation"]

PICTURE_SUFFIXES = ("png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif")
HOLDER_SUFFIXES = ("pdf", "mp4", "m4v", "mov", "webm", "mkv", "avi")  # pages and frames
_MAX_NESTED = 30  # brackets within brackets
_MAX_CHARS = 4_000  # of one source


def end_of_source(text: str, pos: int) -> int:
    """Index of the ``)`` that closes a reference, or -1: on the same line, brackets in it balanced."""
    depth = 0
    if text.startswith("<", pos):
        close = text.find(">", pos, pos + _MAX_CHARS)
        if close >= 0 and "\n" not in text[pos:close]:
            pos = close
    for found in re.compile(r"[()\n]").finditer(text, pos, pos + _MAX_CHARS):
        if found[0] == "\n" or depth > _MAX_NESTED:
            return -1
        if found[0] == "(":
            depth += 1
        elif depth:
            depth -= 1
        else:
            return found.start()
    return -1


def without_punctuation(url: str) -> str:
    """The URL without the punctuation of the sentence around it."""
    while url:
        if (
            url[-1] in ".,;:!?*_~…。，"
            or (url[-1] == ")" and url.count(")") > url.count("("))
            or (url[-1] == "]" and url.count("]") > url.count("["))
        ):
            url = url[:-1]
        else:
            break
    return url


def ends_like_picture(url: str) -> bool:
    """Whether the path of a URL has a file name with a picture's suffix."""
    path = re.split(r"[?#]", url, maxsplit=1)[0]
    name = path.rsplit("/", 1)[-1]
    return path.count("/") >= 3 and name.lower().rsplit(".", 1)[-1] in PICTURE_SUFFIXES and "." in name
