"""What pictures come as: one table of kinds, asked once for each object.

A row says how its kind is told, whether somebody who names such an object in a prompt means a picture, how
it is read and how it is called. The first row that fits decides; what fits none is not a picture. Telling a
kind looks at types, shapes and first bytes, and decodes nothing. Begin at `KINDS`. Neighbours: `sniff` tells
types without importing their libraries, `readers` read them, `pictures` is who asks.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from vlm_magic.errors import PictureTypeError
from vlm_magic.inputs import locate
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pixels import sniff
from vlm_magic.inputs.readers import (
    Content,
    begins_picture,
    is_meant_array,
    is_picture_file,
    is_picture_response,
    read_array,
    read_bytes,
    read_cell,
    read_open_file,
    read_path,
    read_pillow,
    read_plot,
    read_response,
    read_shown,
    read_text,
    refuse_said,
    split_array,
)
from vlm_magic.messages import ModelText, Picture
from vlm_magic.wording import list_words, shorten

__all__ = ["COLLECTION", "Kind", "brief", "kind_of", "leaves_of", "name_of"]

_DISPLAY_IMAGES = ("IPython.core.display.Image", "IPython.display.Image")
_WIDGETS = ("ipywidgets.widgets.widget_media.Image",)
_MAX_DEPTH = 3  # lists in lists in lists


def _always(obj: object) -> bool:
    return True


def _never(obj: object) -> bool:
    return False


def _type_name(obj: object) -> str:
    return type(obj).__name__


def _itself(obj: object, name: str) -> list[tuple[object, str]]:
    return [(obj, name)]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object.

    Attributes:
        name: in words.
        fits: whether an object is of this kind.
        read: its content, from (object, name for errors, limits).
        is_meant: whether a prompt that names it means a picture. True promises no success: a file may be
            broken.
        split: the single pictures in it with their names, from (object, name).
        label: what to call an object that the person gave no name.
        is_shaded: whether it holds numbers that a colour map can show.
    """

    name: str
    fits: Callable[[Any], bool]
    read: Callable[[Any, str, PictureOptions], Content]
    is_meant: Callable[[Any], bool] = _never
    split: Callable[[Any, str], list[tuple[object, str]]] = _itself
    label: Callable[[Any], str] = _type_name
    is_shaded: bool = False


def kind_of(obj: object) -> Kind:
    """The kind of an object, whatever it is."""
    for kind in KINDS:
        try:
            if kind.fits(obj):
                return kind
        except Exception:  # its attributes raise, or it is a weak reference to something that is gone
            continue
    return STRANGER


def name_of(obj: object) -> str:
    """What to call an object that the person gave no name."""
    try:
        return kind_of(obj).label(obj)
    except Exception:  # a stranger's name
        return type(obj).__name__


def leaves_of(obj: object, name: str, depth: int = 0, most: int = 1_000) -> list[tuple[object, str]] | None:
    """The single pictures that ``obj`` is or holds, with their names; None when it is not a picture.

    Args:
        obj: any object; a collection is looked through three levels deep.
        name: what it is called; what is in it gets that name with its key.
        depth: how many collections it is in already.
        most: items that are asked of a sequence that may load them one by one.

    Raises:
        PictureTypeError: a collection of pictures with other things in it.
    """
    kind = kind_of(obj)
    if kind is COLLECTION:
        return _leaves_in(obj, name, depth, most) if depth < _MAX_DEPTH else None
    return kind.split(obj, name) if kind.is_meant(obj) else None


def _leaves_in(obj: object, name: str, depth: int, most: int) -> list[tuple[object, str]] | None:
    """The single pictures of a collection."""
    items = _items_of(obj, most)
    if len(items) > 100_000:
        return None
    leaves: list[tuple[object, str]] = []
    others = []
    n_texts = 0  # that name pictures
    for key, item in items:
        place = (
            ", ".join(map(repr, key)) if isinstance(key, tuple) and sniff.is_object_array(obj) else repr(key)
        )
        found = leaves_of(item, f"{name}[{place}]", depth + 1, most)
        n_texts += found is not None and isinstance(item, str)
        if found is None:
            others.append((key, item))
        else:
            leaves.extend(found)
        if others and not leaves and len(others) >= 100:
            return None  # a long list of other things
    is_data = n_texts == len(leaves) or all(sniff.is_array(leaf) for leaf, _ in leaves)
    if others and leaves and not is_data:
        key, item = others[0]
        raise PictureTypeError(
            f"{brief(name)}[{shorten(repr(key), 40)}] is not a picture: {type(item).__name__}",
            have=f"{len(leaves)} pictures and {len(others)} other things in {brief(name)}",
            hint=f"only the pictures of {brief(name)}",
        )
    return leaves if leaves and not others else None  # numbers among numbers, texts among texts


def brief(label: str) -> str:
    """A label for an error: of a long path the end, which tells the file."""
    if len(label) > 80 and "/" in label and "://" not in label:
        label = f"…/{label.rpartition('/')[2]}"
    return shorten(label, 80)


# -- what holds another kind ----------------------------------------------------------------------


def _read_widget(widget: Any, name: str, options: PictureOptions) -> Content:
    leaf: Any = _split_widget(widget, name)[0][0]
    return bytes(widget.value) if leaf is widget else kind_of(leaf).read(leaf, name, options)


def _split_widget(widget: Any, name: str) -> list[tuple[object, str]]:
    """A widget that shows a URL, or bytes; so does an image of IPython."""
    is_display = sniff.has_type(widget, *_DISPLAY_IMAGES)
    url = widget.url if is_display and widget.data is None else None
    if not is_display and widget.format == "url":
        url = bytes(widget.value).decode("utf-8", "replace")
    return [(Picture(url) if url else widget, name)]


def _read_display(image: Any, name: str, options: PictureOptions) -> Content:
    """What an ``IPython.display.Image`` shows: bytes, a file's bytes as base64, or what a URL gives."""
    leaf: Any = _split_widget(image, name)[0][0]
    if leaf is not image:
        return kind_of(leaf).read(leaf, name, options)
    data = image.data
    if isinstance(data, str):
        data = base64.b64decode(data)
    if not isinstance(data, bytes):
        raise PictureTypeError(
            f"{name} shows nothing", have="neither data nor a URL", hint="Image(filename=…)"
        )
    return data


def _read_table(frame: Any, name: str, options: PictureOptions) -> Content:
    """Several columns are no picture; the error names the one that holds them."""
    columns = _picture_columns(frame)
    raise PictureTypeError(
        f"{name} is a table, not its pictures",
        have=f"columns: {list_words(map(str, frame.columns), 8)}" if hasattr(frame, "columns") else "a table",
        hint=f"{name}[{(columns or ['picture'])[0]!r}]; {{{name}!s}} for its text",
    )


def _picture_columns(frame: Any) -> list[object]:
    """The columns of a pandas or polars table whose first value is a picture (texts are texts here)."""
    if not sniff.has_type(frame, "pandas.DataFrame", "polars.DataFrame") or not len(frame):
        return []
    firsts = [
        (name, frame.iloc[0, n] if hasattr(frame, "iloc") else frame[0, n])
        for n, name in enumerate(frame.columns)
    ]
    return [name for name, value in firsts if not isinstance(value, str) and leaves_of(value, "") is not None]


def _split_table(frame: Any, name: str) -> list[tuple[object, str]]:
    """The pictures of a table of one column."""
    if len(frame.columns) == 1:
        column = frame[frame.columns[0]]
        return leaves_of(column, f"{name}[{frame.columns[0]!r}]") or [(frame, name)]
    return [(frame, name)]


def _file_name(obj: Any) -> str:
    name = getattr(obj, "filename", None) or getattr(obj, "name", None)
    return shorten(os.path.basename(name), 80) if isinstance(name, str) and name else _type_name(obj)


# -- collections ---------------------------------------------------------------------------------


def _places(array: Any) -> Iterable[tuple[int, ...]]:
    """Every index of an array, in order."""
    return product(*map(range, array.shape))


def _is_sequence(obj: object) -> bool:
    return isinstance(obj, Sequence) and not isinstance(obj, (str, bytes, bytearray, memoryview, range))


# (whether it is one, its keys and items): a stranger's sequence, such as a column of a data set, may load
# each item, so no more are asked for than are wanted.
_COLLECTIONS: tuple[tuple[Callable[[Any], bool], Callable[[Any, int], Iterable[tuple[object, object]]]], ...]
_COLLECTIONS = (
    (lambda it: isinstance(it, dict), lambda it, most: it.items()),
    (lambda it: isinstance(it, (list, tuple)), lambda it, most: enumerate(it)),
    (lambda it: sniff.has_type(it, "pandas.Series"), lambda it, most: it.items()),  # by label: df.photo[3]
    (sniff.is_series, lambda it, most: enumerate(it)),
    (sniff.is_object_array, lambda it, most: ((at if len(at) > 1 else at[0], it[at]) for at in _places(it))),
    (_is_sequence, lambda it, most: enumerate(islice(it, most))),
)


def _is_collection(obj: object) -> bool:
    return any(fits(obj) for fits, _ in _COLLECTIONS)


def _items_of(obj: object, most: int) -> list[tuple[object, object]]:
    """The (key, value) pairs of a collection."""
    items = next(items for fits, items in _COLLECTIONS if fits(obj))
    return list(items(obj, most))


def _read_only_item(obj: object, name: str, options: PictureOptions) -> Content:
    """The content of a list of one; several are an error that says so."""
    leaves = leaves_of(obj, name)
    if leaves is None:
        return _read_stranger(obj, name, options)
    if len(leaves) != 1:
        raise PictureTypeError(
            f"{name} holds {len(leaves)} pictures", have="one picture is wanted here", hint=f"{leaves[0][1]}"
        )
    leaf, label = leaves[0]
    return kind_of(leaf).read(leaf, brief(label), options)


def _read_picture(picture: Picture, name: str, options: PictureOptions) -> Content:
    """A picture that is decoded, or the content of what it was made from."""
    from vlm_magic.inputs.pixels.decode import Decoded

    if picture.image is not None:
        return Decoded(picture.image, picture.note)
    source = str(picture.source) if isinstance(picture.source, str) else picture.source  # said or not
    return kind_of(source).read(source, name, options)


def _hint_for(obj: object, name: str) -> str:
    if sniff.is_frame(obj):
        return f"the column that holds them: {name}['picture']"
    if callable(obj):
        return f"what it returns, {name}(…); plt.gcf() for the current figure"
    return "the picture in it; to_pil(…) says what it makes of one thing"


def _read_stranger(obj: object, name: str, options: PictureOptions) -> Content:
    kind = shorten(f"{type(obj).__module__}.{type(obj).__qualname__}".removeprefix("builtins."), 80)
    raise PictureTypeError(
        f"{name} is not a picture: {kind}" if name != kind else f"not a picture: {kind}",
        have="pictures are PIL images, arrays, tensors, figures, paths, URLs, bytes and open files",
        hint=_hint_for(obj, name),
        type=kind,
    )


# -- the table -----------------------------------------------------------------------------------

COLLECTION = Kind("collection", _is_collection, _read_only_item, is_shaded=True)
STRANGER = Kind("stranger", _always, _read_stranger)

KINDS = (
    Kind("Picture", lambda it: isinstance(it, Picture), _read_picture, _always),
    Kind("number or class", lambda it: it is None or isinstance(it, (int, float, type)), _read_stranger),
    Kind("answer of a model", lambda it: isinstance(it, ModelText), refuse_said),
    Kind(
        "text",
        lambda it: isinstance(it, str),
        read_text,
        locate.is_picture_source,
        lambda text, name: [(Picture(text), name)],
        locate.safe_name,
    ),
    Kind("Pillow picture", sniff.is_pil, read_pillow, _always, label=_file_name, is_shaded=True),
    Kind("plot", sniff.is_plot, read_plot, _always),
    Kind("parts of one plot", sniff.is_plot_group, read_plot, _always),
    Kind("table", sniff.is_frame, _read_table, lambda it: bool(_picture_columns(it)), _split_table),
    Kind("widget", lambda it: sniff.has_type(it, *_WIDGETS), _read_widget, _always, _split_widget),
    Kind(
        "image of IPython",
        lambda it: sniff.has_type(it, *_DISPLAY_IMAGES),
        _read_display,
        _always,
        _split_widget,
    ),
    Kind("cell of a data set", sniff.is_dataset_cell, read_cell, _always),
    Kind("array", sniff.is_plain_array, read_array, is_meant_array, split_array, is_shaded=True),
    Kind(
        "path",
        lambda it: isinstance(it, os.PathLike),
        read_path,
        locate.is_picture_path,
        label=lambda path: locate.safe_name(os.fsdecode(path)),
    ),
    Kind("bytes", lambda it: isinstance(it, (bytes, bytearray, memoryview)), read_bytes, begins_picture),
    Kind("open file", sniff.is_file, read_open_file, is_picture_file, label=_file_name),
    Kind("response", sniff.is_response, read_response, is_picture_response),
    Kind("object that shows itself", sniff.is_shown_as_picture, read_shown, _always),
    COLLECTION,
)
