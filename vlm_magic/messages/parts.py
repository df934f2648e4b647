"""What a prompt is made of: words, pictures, and the turns that hold them.

Pure data; of PIL only the type of a decoded picture is known. `vlm_magic.inputs` makes parts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from vlm_magic.errors import PictureTypeError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Part", "Picture", "Role", "Text", "Turn", "Turns", "digest_of", "turns_now"]

_HASHED_PX = 1 << 18  # pixels that are hashed at a time

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Text:
    """Words of a prompt, shown to the model literally (never scanned again, never control tokens)."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture of a prompt: where it came from and, once decoded, its pixels.

    A person makes one to say that a string is a path, a URL or a data URI: ``Picture("cat.png")``.
    `vlm_magic.inputs.pictures.to_picture` fills in the rest.

    Attributes:
        source: what the person gave (path, URL, PIL image, array, …); may be None once decoded.
        name: how the person called it, for the thumbnail's label ("cat", "photos[2]", "cat.png").
        image: upright RGB `PIL.Image`, or None while not decoded. Never changed in place.
        digest: hexadecimal hash of the decoded pixels and size; "" while not decoded. Equal
            pictures have equal digests.
        note: a guess that was made while decoding, in words ("first of 12 frames"), or "".
        cmap: a colour map of matplotlib's for height×width numbers; "" shows them in greys.
        vmin: the number at its lower end; None is the lowest there is.
        vmax: the number at its upper end; None is the highest there is.
        region: (x, y, width, height) of the part that is meant, in pixels of the upright picture; as text
            also ``"percent:25,25,50,50"``.
        page: of a PDF, from 1; (2, 5) or "2-5" is several.
        time_s: of a video, in seconds; (0, 10) or "0,10" is frames evenly spaced between.
        frames: how many, of a video.
    """

    source: object
    name: str = ""
    image: Image.Image | None = None
    digest: str = ""
    note: str = ""
    cmap: str = field(default="", kw_only=True, repr=False)
    vmin: float | None = field(default=None, kw_only=True, repr=False)
    vmax: float | None = field(default=None, kw_only=True, repr=False)
    region: Sequence[float] | str | None = field(default=None, kw_only=True, repr=False)
    page: int | Sequence[int] | str | None = field(default=None, kw_only=True, repr=False)
    time_s: float | Sequence[float] | str | None = field(default=None, kw_only=True, repr=False)
    frames: int | None = field(default=None, kw_only=True, repr=False)

    def __deepcopy__(self, memo: object) -> Picture:
        return self  # nothing in it is ever changed

    def __reduce__(self) -> tuple[Callable[..., Picture], tuple[object, ...]]:
        """A pickle holds the decoded pixels, not the figure, tensor or open file that they came from."""
        keeps_source = self.image is None or isinstance(self.source, (str, os.PathLike))
        source = self.source if keeps_source else None
        return partial(Picture, **self.wishes), (source, self.name, self.image, self.digest, self.note)

    @property
    def wishes(self) -> dict[str, Any]:
        """How to read it, as far as the person said: the arguments from ``cmap`` on that were given."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.kw_only and getattr(self, f.name) != f.default
        }

    @property
    def rgb(self) -> Image.Image:
        """The decoded RGB picture.

        Raises:
            PictureTypeError: it was not decoded yet.
        """
        if self.image is None:
            raise PictureTypeError(
                f"picture {self.name or self.source!r} is not decoded yet",
                hint="vlm_magic.inputs.pictures.to_picture(picture)",
            )
        return self.image

    @property
    def is_lost(self) -> bool:
        """Whether its pixels were known once and are no longer there; see `Conversation.restore`."""
        return self.image is None and bool(self.digest)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) in pixels of the decoded picture."""
        return self.rgb.size


def digest_of(image: Image.Image) -> str:
    """Hexadecimal hash of the size and the pixels of an RGB picture: what makes two pictures the same."""
    digest = hashlib.sha256(f"{image.width}x{image.height}".encode())
    rows = max(1, _HASHED_PX // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(strip.tobytes())
    return digest.hexdigest()[:32]


Part: TypeAlias = Text | Picture


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said: words and pictures in their order.

    Attributes:
        role: who said it.
        parts: what was said.
        thinking: what the model thought before it said this; shown to it again only as its template wants it.
    """

    role: Role
    parts: tuple[Part, ...]
    thinking: str = ""

    @property
    def text(self) -> str:
        """The words alone, pictures left out."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures alone, in their order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))


Turns: TypeAlias = Sequence[Turn] | Callable[[], Sequence[Turn]]
"""The turns of a prompt, or a function that gives them when the answer's time has come."""


def turns_now(turns: Turns) -> tuple[Turn, ...]:
    """The turns as they are now; an answer that waited in line sees what was said meanwhile."""
    return tuple(turns() if callable(turns) else turns)
