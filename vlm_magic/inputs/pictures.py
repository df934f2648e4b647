"""Anything picture-like to an upright RGB picture.

`to_pil` converts or raises, `to_picture` does the same and adds name, digest and the guesses that were
made, `try_pictures` answers None for what is not a picture, `is_picture_like` looks without decoding. The
object that is given is never changed. Knows nothing of prompts and models. Neighbours: `kinds` has the
table of what pictures come as, `pixels` makes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING

from vlm_magic.errors import (
    PictureDecodeError,
    PictureError,
    PictureTooLargeError,
    PictureTypeError,
    VLMError,
)
from vlm_magic.inputs import locate
from vlm_magic.inputs.excerpts.fragments import Excerpt, excerpt_of
from vlm_magic.inputs.excerpts.holders import read_holder
from vlm_magic.inputs.excerpts.region import cut
from vlm_magic.inputs.kinds import Kind, brief, kind_of, leaves_of, name_of
from vlm_magic.inputs.limits import FetchLimits, PictureOptions, Shading
from vlm_magic.inputs.pixels import headers
from vlm_magic.inputs.pixels.sniff import head_of
from vlm_magic.inputs.readers import Content, NotShownError
from vlm_magic.messages import ModelText, Picture, digest_of
from vlm_magic.wording import list_words, shorten

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "fetch_all",
    "find_pictures",
    "find_sources",
    "forget_pictures",
    "is_picture_like",
    "to_picture",
    "to_pictures",
    "to_pil",
    "try_pictures",
]


def to_pil(
    obj: object,
    *,
    allow_hosts: Sequence[str] = (),
    max_megapixels: float | None = None,
    longest_px: int | None = None,
    options: PictureOptions | None = None,
) -> Image.Image:
    """The upright RGB picture of ``obj``: a new object that shares nothing with it.

    Args:
        obj: a picture of Pillow, array, tensor, figure, path, URL, data URI, bytes, open file, …
        allow_hosts: hosts with a private or local address that may be fetched from.
        max_megapixels: the most that is decoded; None is 50 (JPEG: 200, decoded reduced).
        longest_px: reduce to this longest side while decoding; None keeps every pixel.
        options: all of these and more in one object.

    Raises:
        PictureTypeError: no picture, or several.
        PictureNotFoundError: no such file.
        PictureDecodeError: a broken picture.
        PictureTooLargeError: more pixels than allowed.
        FetchError: a download that failed.
    """
    from vlm_magic.inputs.pixels import decoded_cache

    base = options or PictureOptions()
    merged = replace(
        base.allowing(*allow_hosts),
        max_megapixels=max_megapixels or base.max_megapixels,
        longest_px=longest_px or base.longest_px,
    )
    image = to_picture(obj, options=merged).rgb
    # What others hold too (a conversation, the pictures seen before) must not change with this one.
    return image.copy() if isinstance(obj, Picture) or decoded_cache.is_kept(image) else image


def to_picture(
    obj: object,
    *,
    name: str = "",
    options: PictureOptions | None = None,
    fetched: bytes | None = None,
) -> Picture:
    """The decoded `Picture` of ``obj``, with its digest and the guesses that were made.

    Args:
        obj: whatever `to_pil` takes, or a `Picture` that is not decoded yet.
        name: how the person calls it; "" makes one up from the object.
        options: the limits; None is the defaults.
        fetched: the bytes of the URL ``obj``, where they are here already.

    Raises:
        As `to_pil`.
    """
    try:
        found = to_pictures(obj, name=name, options=options, fetched=fetched)
    except NotShownError as exc:  # of use to a prompt alone
        raise PictureTypeError(exc.what, have=exc.have, hint=exc.hint) from exc.__cause__
    if len(found) != 1:
        raise PictureTypeError(
            f"{brief(name or name_of(obj))} holds {len(found)} pictures",
            have=list_words((picture.note.partition(";")[0] for picture in found), 4),
            hint="Picture(source, page=1), Picture(source, time_s=3.5); a prompt takes them all",
        )
    return found[0]


def to_pictures(
    obj: object,
    *,
    name: str = "",
    options: PictureOptions | None = None,
    fetched: bytes | None = None,
    excerpt: Excerpt | None = None,
) -> list[Picture]:
    """As `to_picture`, for a source that may hold several: the pages of a PDF, the frames of a video.

    Args:
        obj: as for `to_picture`.
        name: how the person calls it.
        options: the limits.
        fetched: the bytes of the URL ``obj``.
        excerpt: the part that is meant; None takes what the source itself says (``#page=3``).
    """
    options = options or PictureOptions()
    if issubclass(type(obj), Picture):  # asked of the type: objects may fail when they are looked at
        assert isinstance(obj, Picture)
        if obj.image is not None:
            return [obj]
        options = replace(options, shading=_shading_of(obj) or options.shading)
        source = str(obj.source) if isinstance(obj.source, str) else obj.source  # said by a model or not
        asked = excerpt_of(obj.wishes) or excerpt
        return to_pictures(source, name=name or obj.name, options=options, fetched=fetched, excerpt=asked)
    label = name or name_of(obj)
    shown = brief(label)
    try:
        if (
            excerpt is None
            and issubclass(type(obj), (str, PurePath))
            and not issubclass(type(obj), ModelText)
        ):
            source = locate.resolve_source(os.fsdecode(obj))  # type: ignore[arg-type]
            excerpt, obj = source.excerpt, source.text if source.excerpt else obj
        kind = kind_of(obj)
        _check_shading(kind, shown, options)
        content = fetched if fetched is not None else kind.read(obj, shown, options)
        return _decoded(content, label, shown, options, excerpt or Excerpt())
    except VLMError:
        raise
    except MemoryError:
        raise PictureTooLargeError(
            f"{shown} does not fit in memory", have="no more is free", hint="a smaller picture"
        ) from None
    except OSError as exc:
        raise PictureDecodeError(
            f"{shown} cannot be read", have=exc.strerror or str(exc), hint="its path"
        ) from exc
    except Exception as exc:  # a stranger's read(), shape or repr
        raise PictureTypeError(
            f"{shown} cannot be looked at",
            have=shorten(f"{type(exc).__name__}: {exc}", 160),
            hint="what it holds, as a picture of Pillow or an array",
        ) from exc


def _shading_of(picture: Picture) -> Shading:
    return Shading(picture.cmap, picture.vmin, picture.vmax)


def _check_shading(kind: Kind, shown: str, options: PictureOptions) -> None:
    """Raise where a colour map was asked for what has colours of its own."""
    if options.shading and not kind.is_shaded:
        raise PictureTypeError(
            f"{shown} has no numbers to shade: {kind.name}",
            have="cmap, vmin and vmax are for height×width arrays and gray pictures of Pillow",
            hint="np.asarray(Image.open(path)) for the numbers of a gray file",
        )


def _decoded(
    content: Content, label: str, shown: str, options: PictureOptions, excerpt: Excerpt
) -> list[Picture]:
    """The pictures of an object's content, with their digests."""
    from vlm_magic.inputs.pixels import decoded_cache
    from vlm_magic.inputs.pixels.decode import Decoded, check_size

    if isinstance(content, Decoded):
        image, digest, note, full_px = content.image, "", content.note, content.full_px
    elif holder := headers.holder_of(head_of(content)):
        pages = []
        for held in read_holder(holder, content, excerpt, shown):
            check_size(held.image.size, shown, options.max_megapixels)
            pages.append(_cut(held.image, "", f"{label}, {held.place}", held.note, excerpt, None))
        return pages
    else:
        wide = (
            replace(options, longest_px=None) if excerpt.region else options
        )  # the region is reduced, not all
        seen = decoded_cache.decoded(content, name=shown, options=wide)
        image, digest, note, full_px = seen.image, seen.digest, seen.note, seen.full_px
    if excerpt.pages or excerpt.times_s or excerpt.n_frames:
        raise PictureError(
            f"{shown} has no pages or seconds",
            have="a single picture; #page= is for PDF files, #t= and frames= for videos",
            hint="without that; #xywh=x,y,width,height for a region",
        )
    return [_cut(image, digest, label, note, excerpt, full_px)]


def _cut(
    image: Image.Image, digest: str, label: str, note: str, excerpt: Excerpt, full_px: tuple[int, int] | None
) -> Picture:
    """The picture, or the region of it that is meant."""
    if excerpt.region:
        image, where = cut(image, excerpt, full_px, brief(label))
        digest, note = "", f"{where}, {note}" if note else where
    return Picture(source=None, name=label, image=image, digest=digest or digest_of(image), note=note)


def try_pictures(
    obj: object, name: str = "", *, options: PictureOptions | None = None
) -> list[Picture] | None:
    """The pictures of ``obj``, several for lists, dicts, batches and Series; None when it is not a picture.

    A string is one where it is, as a whole, an http(s) URL, a data URI or the path of an existing picture
    file; what a model said never is.

    Args:
        obj: any value of a notebook.
        name: how the person calls it; items are called ``name[0]``, ``name[1]``, …
        options: the limits; None is the defaults.

    Raises:
        PictureTypeError: a list of pictures with other things in it.
        PictureError: more pictures than allowed, or one of them fails as in `to_pil`.
    """
    options = options or PictureOptions()
    found = find_pictures(obj, name, options=options)
    if found is None:
        return None
    fetched = fetch_all(found, options)
    return [each for picture in found for each in fetched.pictures(picture)]


def find_pictures(obj: object, name: str, *, options: PictureOptions) -> list[Picture] | None:
    """As `try_pictures`, but what is on the web is left for `fetch_all`, and all else is decoded now."""
    try:
        leaves = leaves_of(obj, name or name_of(obj), most=options.max_pictures + 1)
    except VLMError:
        raise
    except Exception:  # a stranger's __len__ or shape: whatever it is, it is not a picture
        return None
    if leaves is None:
        return None
    if len(leaves) > options.max_pictures:
        raise PictureError(
            f"{shorten(name, 80)} holds {len(leaves)} pictures",
            have=f"at most {options.max_pictures} at one place",
            hint=f"a few of them: {shorten(name, 80)}[:4]",
            n_pictures=len(leaves),
        )
    try:
        found: list[Picture] = []
        for leaf, label in leaves:
            if isinstance(leaf, Picture) and _is_on_web(leaf):
                found.append(replace(leaf, name=label))
            else:
                found += to_pictures(leaf, name=label, options=options)
        return found
    except NotShownError:
        return None


def find_sources(source: str, name: str = "", *, options: PictureOptions) -> list[Picture]:
    """The pictures of a source that a person wrote: a path, a pattern of files, a URL, a data URI.

    What is on the web is left for `fetch_all`, and all else is decoded now.

    Args:
        source: the text.
        name: how to call the picture; "" calls it by its source.
        options: the limits.

    Raises:
        As `to_pil`.
    """
    found = locate.resolve_source(source)
    if found.form == "URL":
        return [Picture(source.strip(), name or locate.safe_name(found.text))]
    if found.form == "pattern":
        files = locate.find_files(found.text, options)
        return [each for path in files for each in to_pictures(path, options=options, excerpt=found.excerpt)]
    return to_pictures(source.strip(), name=name or locate.safe_name(found.text), options=options)


class Fetched:
    """What was fetched for pictures on the web.

    Args:
        data: the bytes of each URL, or the error that it gave.
        options: the limits for decoding.
    """

    def __init__(self, data: Mapping[str, bytes | Exception], options: PictureOptions) -> None:
        self._data = data
        self._options = options

    def pictures(self, picture: Picture) -> list[Picture]:
        """The decoded picture, or the pages or frames; one that was decoded before comes back as it is.

        Raises:
            FetchError: its download failed.
            PictureError: what came is not a picture that can be decoded.
        """
        if picture.image is not None:
            return [picture]
        data = self._data[str(picture.source)]
        if isinstance(data, Exception):
            raise data
        return to_pictures(picture, options=self._options, fetched=data)


def fetch_all(pictures: Iterable[Picture], options: PictureOptions) -> Fetched:
    """Fetch those that are not decoded yet from the web, side by side, each URL once."""
    urls = [str(picture.source) for picture in pictures if picture.image is None]
    if not urls:
        return Fetched({}, options)
    from vlm_magic.inputs.download.fetch import fetch_side_by_side

    return Fetched(fetch_side_by_side(urls, limits=options.fetch), options)


def _is_on_web(picture: Picture) -> bool:
    """Whether it is a URL that a person made a `Picture` of, not fetched yet."""
    is_text = picture.image is None and isinstance(picture.source, str)
    return is_text and locate.resolve_source(str(picture.source)).form == "URL"


def is_picture_like(obj: object) -> bool:
    """Whether ``obj`` is meant as a picture or several, told without decoding or fetching.

    Cheap: types, shapes and the first bytes. True promises no success: a file may be broken.
    """
    try:
        return leaves_of(obj, "", most=2) is not None
    except PictureError:
        return True  # pictures among other things
    except Exception:  # a stranger's __len__ or __getitem__
        return False


def forget_pictures(limits: FetchLimits | None = None, *, downloads: bool = True) -> tuple[int, int]:
    """Drop every picture, thumbnail and download that is kept for next time.

    Args:
        limits: says where the disk cache is; None is the usual place.
        downloads: whether downloads go as well; all notebooks share them.

    Returns:
        (bytes freed in memory, bytes freed on disk).
    """
    from vlm_magic.inputs.download import disk_cache
    from vlm_magic.inputs.pixels import decoded_cache
    from vlm_magic.inputs.thumbnails import forget_thumbnails

    forget_thumbnails()
    return decoded_cache.forget(), disk_cache.forget_downloads(limits) if downloads else 0
