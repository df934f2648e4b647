"""What part of a source is meant: ``#xywh=10,20,300,200``, ``#page=2-5``, ``#t=0,10&frames=8``.

Source: W3C Media Fragments URI 1.0 (xywh with ``pixel:`` and ``percent:``, t with ``npt:``), RFC 8118 (page).
``frames`` is our own. Plain string work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlm_magic.errors import PictureError
from vlm_magic.wording import shorten

__all__ = ["Excerpt", "excerpt_of", "split_fragment"]

_FRAGMENT = re.compile(r"#((?:xywh|page|t|frames)=[^#\s]*)$")
_REGION = re.compile(r"(?:(pixel|percent):)?((?:\d+(?:\.\d*)?,){3}\d+(?:\.\d*)?)")
_PAGES = re.compile(r"(\d{1,6})(?:[-,](\d{1,6}))?")
_TIME = r"(?:\d+:)?(?:\d+:)?\d+(?:\.\d*)?"
_TIMES = re.compile(rf"(?:npt:)?({_TIME})?(?:,({_TIME}))?")
_FORMS = {
    "region": "xywh=x,y,width,height or xywh=percent:x,y,width,height",
    "page": "page=3 or page=2-5",
    "time_s": "t=3.5 or t=0,10",
    "frames": "frames=8",
}
_NAMES = {"xywh": "region", "page": "page", "t": "time_s", "frames": "frames"}


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of a source; false for the whole.

    Attributes:
        region: (x, y, width, height) of the upright picture, in pixels or percent; None is all of it.
        is_percent: whether the region is in percent.
        pages: (first, last) of a PDF, from 1; None is the first ones.
        times_s: (begin, end) of a video in seconds; the end is None for a single frame; None is all of it.
        n_frames: how many frames of a video; None is up to a limit.
    """

    region: tuple[float, float, float, float] | None = None
    is_percent: bool = False
    pages: tuple[int, int] | None = None
    times_s: tuple[float, float | None] | None = None
    n_frames: int | None = None

    def __bool__(self) -> bool:
        return self != Excerpt()


def split_fragment(source: str) -> tuple[str, str]:
    """The source without a fragment of ours, and the fragment, or ""."""
    found = _FRAGMENT.search(source)
    return (source[: found.start()], found[1]) if found else (source, "")


def excerpt_of(asked: str | Mapping[str, object]) -> Excerpt:
    """The part that a fragment (``page=3&xywh=…``) or the arguments of a `Picture` name.

    Raises:
        PictureError: it cannot be read.
    """
    if isinstance(asked, str):
        pairs = (part.partition("=") for part in asked.split("&"))
        asked = {_NAMES[name]: value for name, _, value in pairs if name in _NAMES}
    given = {name: value for name, value in asked.items() if name in _FORMS}
    words = {name: _words(value) for name, value in given.items()}
    region = _REGION.fullmatch(words.get("region", ""))
    pages = _PAGES.fullmatch(words.get("page", ""))
    times = _TIMES.fullmatch(words.get("time_s", ""))
    frames = re.fullmatch(r"\d{1,4}", words.get("frames", ""))
    read = {"region": region, "page": pages, "time_s": times, "frames": frames}
    for name, value in words.items():
        if not read[name] or not value:
            raise _unreadable(name, value)
    x, y, width, height = map(float, region[2].split(",")) if region else (0.0, 0.0, 1.0, 1.0)
    first, last = (int(pages[1]), int(pages[2] or pages[1])) if pages else (1, 1)
    begin = _seconds(times[1] or "0") if times else 0.0
    end = _seconds(times[2]) if times and times[2] else None
    if width <= 0 or height <= 0:
        raise _unreadable("region", words["region"])
    if not 1 <= first <= last:
        raise _unreadable("page", words["page"])
    if (end is not None and end <= begin) or (frames and int(frames[0]) < 1):
        raise _unreadable("time_s" if times else "frames", words.get("time_s") or words["frames"])
    return Excerpt(
        region=(x, y, width, height) if region else None,
        is_percent=bool(region) and region is not None and region[1] == "percent",
        pages=(first, last) if pages else None,
        times_s=(begin, end) if "time_s" in words else None,
        n_frames=int(frames[0]) if frames else None,
    )


def _words(value: object) -> str:
    """A value as a fragment writes it: (2, 5) is 2,5."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(f"{item:.12g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:.12g}" if isinstance(value, float) else str(value).strip()


def _seconds(words: str) -> float:
    """Seconds of 3.5, 1:30 or 1:02:03."""
    seconds = 0.0
    for part in words.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds


def _unreadable(name: str, words: str) -> PictureError:
    shown = next(word for word, argument in _NAMES.items() if argument == name)
    return PictureError(
        f"{shown}={shorten(words, 60)} names no part", have=f"no such {name}", hint=_FORMS[name]
    )
