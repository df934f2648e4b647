"""The limits that pictures and downloads are held to: small records with safe defaults.

Knows nothing of how they are enforced; `decode` and `fetch` do that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

__all__ = ["DEFAULT_MEGAPIXELS", "JPEG_MEGAPIXELS", "FetchLimits", "PictureOptions", "Shading"]

DEFAULT_MEGAPIXELS = 50.0  # 200 MB as Pillow holds RGB, four bytes a pixel
JPEG_MEGAPIXELS = 200.0  # a JPEG can be decoded at a half, a quarter or an eighth of its size


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """How far one download may go.

    Attributes:
        deadline_s: seconds for the whole of it: names, connections, redirects and the last byte.
        max_bytes: the most bytes of the picture, counted after decompression.
        max_redirects: the most redirects that are followed.
        allow_hosts: hosts ("localhost", "10.0.0.7:8000") that may have a private or local address.
        use_proxies: go through the proxies of the environment. A proxy resolves names by itself,
            so the address that was checked cannot be pinned then.
        cache_dir: folder of the disk cache; None is ``vlm_magic`` in the user's cache folder.
        cache_bytes: the most bytes the disk cache keeps; 0 switches it off.
    """

    deadline_s: float = 10.0
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    allow_hosts: tuple[str, ...] = ()
    use_proxies: bool = False
    cache_dir: Path | None = None
    cache_bytes: int = 200_000_000


@dataclass(frozen=True, slots=True)
class Shading:
    """How numbers (height×width) become colours, where a person says so; false where nobody does.

    Attributes:
        cmap: a colour map of matplotlib's by its name; "" is greys.
        vmin: the number at its lower end; None is the lowest there is.
        vmax: the number at its upper end; None is the highest there is.
    """

    cmap: str = ""
    vmin: float | None = None
    vmax: float | None = None

    def __bool__(self) -> bool:
        return bool(self.cmap) or self.vmin is not None or self.vmax is not None


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """How pictures are read.

    Attributes:
        max_megapixels: the largest picture that is decoded; None is 50 (JPEG: 200, decoded reduced).
        longest_px: when the longest side is larger, the picture is decoded and reduced to this; None
            keeps every pixel.
        max_pictures: the most pictures that one name or one file pattern of a prompt may bring.
        fetch: the limits of downloads.
        shading: the range and the colours of numbers.
    """

    max_megapixels: float | None = None
    longest_px: int | None = None
    max_pictures: int = 64
    fetch: FetchLimits = field(default_factory=FetchLimits)
    shading: Shading = field(default_factory=Shading)

    def allowing(self, *hosts: str) -> PictureOptions:
        """A copy that also allows ``hosts``."""
        if not hosts:
            return self
        return replace(self, fetch=replace(self.fetch, allow_hosts=(*self.fetch.allow_hosts, *hosts)))
