"""Anything picture-like to an upright RGB picture.

`to_pil` converts or raises, `to_picture` does the same and adds name, digest and the guesses that were
made, `try_pictures` answers None for what is no picture, `is_picture_like` looks without decoding. The
object that is given is never changed. Neighbours: `sniff` says what an object is, `arrays`, `plots` and
`decode` do the work, `sources` and `fetch` bring bytes. Knows nothing of prompts and models.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any

from vlm_magic.errors import (
    PictureDecodeError,
    PictureError,
    PictureTooLargeError,
    PictureTypeError,
    VLMError,
    shorten,
)
from vlm_magic.inputs import headers, sniff, sources
from vlm_magic.inputs.limits import DEFAULT_MEGAPIXELS, FetchLimits, PictureOptions
from vlm_magic.inputs.links import PICTURE_SUFFIXES
from vlm_magic.messages import Picture

if TYPE_CHECKING:
    from PIL import Image

    from vlm_magic.inputs.decode import Decoded

__all__ = ["forget_pictures", "is_picture_like", "to_picture", "to_pil", "try_pictures"]

_MAX_DEPTH = 3  # lists in lists in lists


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
    from vlm_magic.inputs import seen

    base = options or PictureOptions()
    merged = replace(
        base.allowing(*allow_hosts),
        max_megapixels=max_megapixels or base.max_megapixels,
        longest_px=longest_px or base.longest_px,
    )
    image = to_picture(obj, options=merged).rgb
    # What others hold too (a conversation, the pictures seen before) must not change with this one.
    return image.copy() if isinstance(obj, Picture) or seen.is_kept(image) else image


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
    options = options or PictureOptions()
    if isinstance(obj, Picture):
        if obj.image is not None:
            return obj
        return to_picture(obj.source, name=name or obj.name, options=options, fetched=fetched)
    label = name or _name_of(obj)
    shown = _brief(label)
    try:
        return _read(obj, label, shown, options, fetched)
    except VLMError:
        raise
    except MemoryError:
        raise PictureTooLargeError(f"{shown} does not fit in memory", hint="a smaller picture") from None
    except Exception as exc:  # a stranger's read(), shape or repr
        cause = shorten(f"{type(exc).__name__}: {exc}", 160)
        raise PictureDecodeError(f"{shown} cannot be read", have=cause) from exc


def _read(obj: object, label: str, shown: str, options: PictureOptions, fetched: bytes | None) -> Picture:
    """The decoded picture of an object that is no `Picture`."""
    from vlm_magic.inputs import seen

    encoded = fetched if fetched is not None else _encoded(obj, shown, options)
    if encoded is not None:
        found = seen.decoded(encoded, name=shown, options=options)
        return Picture(source=None, name=label, image=found.image, digest=found.digest, note=found.note)
    convert = _converter(obj)
    if convert is None:
        raise _no_picture(obj, shown)
    result = convert(obj, shown, options)
    return Picture(
        source=None, name=label, image=result.image, digest=seen.digest_of(result.image), note=result.note
    )


def try_pictures(
    obj: object, name: str = "", *, options: PictureOptions | None = None
) -> list[Picture] | None:
    """The pictures of ``obj``, several for lists, dicts, batches and Series; None when it is no picture.

    A string is never a source here: what a variable holds is data.

    Args:
        obj: any value of a notebook.
        name: how the person calls it; items are called ``name[0]``, ``name[1]``, …
        options: the limits; None is the defaults.

    Raises:
        PictureTypeError: a list of pictures with other things in it.
        PictureError: more pictures than allowed, or one of them fails as in `to_pil`.
    """
    options = options or PictureOptions()
    try:
        leaves = _leaves(obj, name or _name_of(obj), most=options.max_pictures + 1)
    except VLMError:
        raise
    except Exception:  # a stranger's __len__ or shape: whatever it is, it is no picture
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
        return [to_picture(leaf, name=label, options=options) for leaf, label in leaves]
    except _NotShownError:
        return None


def is_picture_like(obj: object) -> bool:
    """Whether ``obj`` is meant as a picture or several, told without decoding or fetching.

    Cheap: types, shapes and the first bytes. True promises no success: a file may be broken.
    """
    try:
        return _leaves(obj, "", most=2) is not None
    except PictureError:
        return True  # pictures among other things
    except Exception:  # a stranger's __len__ or __getitem__
        return False


def forget_pictures(limits: FetchLimits | None = None) -> tuple[int, int]:
    """Drop every picture, thumbnail and download that is kept for next time.

    Args:
        limits: says where the disk cache is; None is the usual place.

    Returns:
        (bytes freed in memory, bytes freed on disk).
    """
    from vlm_magic.inputs import cache, seen
    from vlm_magic.inputs.thumbnails import forget_thumbnails

    forget_thumbnails()
    return seen.forget(), cache.forget_downloads(limits)


class _NotShownError(PictureTypeError):
    """An object whose repr turned out to hold no picture."""


def _leaves(  # noqa: PLR0911 - one line per kind
    obj: object, name: str, depth: int = 0, most: int = 1_000
) -> list[tuple[object, str]] | None:
    """The single pictures of ``obj`` with their names; None when it is none."""
    if _is_single(obj):
        if sniff.is_array(obj) and _arrays().is_batch(obj):
            return [(item, f"{name}[{i}]") for i, item in enumerate(_arrays().array_pictures(obj))]
        return [(obj, name)]
    if depth >= _MAX_DEPTH or isinstance(obj, (str, bytes, bytearray)) or sniff.is_plot_group(obj):
        return [(obj, name)] if sniff.is_plot_group(obj) else None
    items = sniff.sequence_items(obj, most)
    if not items or len(items) > 100_000:
        return None
    leaves: list[tuple[object, str]] = []
    others = []
    for key, item in items:
        found = _leaves(item, f"{name}[{key!r}]", depth + 1, most)
        if found is None:
            others.append((key, item))
        else:
            leaves.extend(found)
        if others and not leaves and len(others) >= 100:
            return None  # a long list of other things
    if not leaves:
        return None
    if others:
        key, item = others[0]
        if all(sniff.is_array(leaf) for leaf, _ in leaves):
            return None  # numbers among numbers
        raise PictureTypeError(
            f"{_brief(name)}[{shorten(repr(key), 40)}] is no picture: {type(item).__name__}",
            have=f"{len(leaves)} pictures and {len(others)} other things in {_brief(name)}",
            hint=f"only the pictures of {_brief(name)}",
        )
    return leaves


def _is_single(obj: object) -> bool:  # noqa: PLR0911 - one line per kind
    """Whether one object is a picture (or an array batch), by its type, shape or first bytes."""
    if obj is None or isinstance(obj, (str, int, float, type)):
        return False
    if isinstance(obj, Picture) or sniff.is_pil(obj) or sniff.is_plot(obj) or sniff.is_dataset_cell(obj):
        return True
    if sniff.is_array(obj):
        return bool(_arrays().can_be_picture(obj))
    if isinstance(obj, os.PathLike):
        path = sources.existing_path(obj)
        return path is not None and path.is_file() and _begins_picture(path)
    if isinstance(obj, (bytes, bytearray, memoryview)):
        return headers.format_of(sniff.head_of(obj)) is not None
    if sniff.is_file(obj):
        return not sniff.is_closed_file(obj) and _begins_picture(obj)
    if sniff.is_response(obj):
        return headers.format_of(obj.content[:64]) is not None  # type: ignore[attr-defined]
    return sniff.is_shown_as_picture(obj)


def _begins_picture(obj: object) -> bool:
    if isinstance(obj, os.PathLike):
        suffix = os.path.splitext(os.fspath(obj))[1].lower()
        if suffix[1:] in PICTURE_SUFFIXES:
            return True
    try:
        return headers.format_of(sniff.head_of(obj)) is not None
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _arrays() -> Any:
    from vlm_magic.inputs import arrays

    return arrays


def _encoded(  # noqa: PLR0911 - one line per kind
    obj: object, name: str, options: PictureOptions
) -> bytes | IO[bytes] | None:
    """The encoded bytes of a source, file or bytes object; None when ``obj`` is decoded otherwise."""
    if isinstance(obj, str):
        return _from_string(obj, name, options)
    if isinstance(obj, os.PathLike):
        return sources.open_file(obj, name=name)
    if isinstance(obj, (bytes, bytearray, memoryview)):
        return bytes(obj)
    if sniff.is_dataset_cell(obj):
        cell: Any = obj
        return cell["bytes"] if cell["bytes"] is not None else sources.open_file(cell["path"], name=name)
    if sniff.is_response(obj):
        return bytes(obj.content)  # type: ignore[attr-defined]
    if sniff.is_file(obj) and not sniff.is_pil(obj):
        return _from_file(obj, name)
    return None


def _from_string(text: str, name: str, options: PictureOptions) -> bytes | IO[bytes]:
    source = text.strip()
    if source[:5].lower() == "data:":
        return sources.data_bytes(source)
    if sources.is_url(source):
        from vlm_magic.inputs.fetch import fetch_picture_bytes

        return fetch_picture_bytes(source, limits=options.fetch)
    if sources.existing_path(source) is None:
        data = sources.read_base64(source)
        if data is not None:
            return data
    return sources.open_file(source, name=name)


def _from_file(file: Any, name: str) -> bytes:
    """All bytes of a person's open file, from its beginning; its position stays."""
    if sniff.is_closed_file(file):
        raise PictureDecodeError(
            f"{name} is a closed file", hint="read it before it is closed, or give its path"
        )
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    try:
        position = file.tell()
        try:
            file.seek(0)
            data = file.read()
        finally:
            file.seek(position)
    except (OSError, ValueError) as exc:
        raise PictureDecodeError(f"{name} cannot be read", have=str(exc), hint="give its path") from exc
    if not isinstance(data, bytes):
        raise PictureTypeError(f"{name} is open as text", hint='open(path, "rb")')
    return data


_Converter = Callable[[Any, str, PictureOptions], "Decoded"]


def _converter(obj: object) -> _Converter | None:
    """How an object that holds no encoded bytes is made a picture."""
    if sniff.is_pil(obj):
        from vlm_magic.inputs.decode import decode_pillow

        return lambda it, name, options: decode_pillow(it, name=name, options=options)
    if sniff.is_plot(obj) or sniff.is_plot_group(obj):
        from vlm_magic.inputs.plots import draw_plot

        return draw_plot
    if sniff.is_array(obj):
        return _from_array
    if sniff.sequence_items(obj):
        return _from_only_item
    if sniff.is_shown_as_picture(obj):
        from vlm_magic.inputs.plots import show_object

        return lambda it, name, options: show_object(it, name, options, _NotShownError)
    return None


def _from_array(obj: object, name: str, options: PictureOptions) -> Decoded:
    from vlm_magic.inputs.arrays import to_image
    from vlm_magic.inputs.decode import fitted

    image, note = to_image(obj, name=name, max_megapixels=options.max_megapixels or DEFAULT_MEGAPIXELS)
    return fitted(image, [note] if note else [], options.longest_px)


def _from_only_item(obj: object, name: str, options: PictureOptions) -> Decoded:
    """The picture of a list of one; several are an error that says so."""
    from vlm_magic.inputs.decode import Decoded

    leaves = _leaves(obj, name)
    if leaves is None:
        raise _no_picture(obj, name)
    if len(leaves) != 1:
        raise PictureTypeError(
            f"{name} holds {len(leaves)} pictures", have="one is asked for", hint=f"{leaves[0][1]}"
        )
    picture = to_picture(leaves[0][0], name=leaves[0][1], options=options)
    return Decoded(picture.rgb, picture.note)


def _no_picture(obj: object, name: str) -> PictureTypeError:
    kind = f"{type(obj).__module__}.{type(obj).__qualname__}".removeprefix("builtins.")
    return PictureTypeError(
        f"{name} is no picture: {kind}" if name != kind else f"no picture: {kind}",
        have="pictures are PIL images, arrays, tensors, figures, paths, URLs, bytes and open files",
        hint="plt.gcf() for the current figure" if callable(obj) else "",
        type=kind,
    )


def _brief(label: str) -> str:
    """A label for an error: of a long path the end, which tells the file."""
    if len(label) > 80 and "/" in label and "://" not in label:
        label = f"…/{label.rpartition('/')[2]}"
    return shorten(label, 80)


def _name_of(obj: object) -> str:
    """A name for something that the person gave none to."""
    if isinstance(obj, str):
        return sources.safe_name(obj)
    if isinstance(obj, os.PathLike):
        return sources.safe_name(os.fsdecode(obj))
    file_name = getattr(obj, "filename", None) or getattr(obj, "name", None)
    if isinstance(file_name, str) and file_name and (sniff.is_pil(obj) or sniff.is_file(obj)):
        return shorten(os.path.basename(file_name), 80)
    return type(obj).__name__
