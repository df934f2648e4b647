"""From what a person gave to map over to rows: one item after another, each with its label and its table row.

A column, list, dict, array, glob, folder or generator is read lazily and in order; nothing is decoded
here. `RowView` is what ``{row.title}`` sees. Knows the shapes of collections, not prompts or engines.
Neighbours: `map_prompt` puts rows into words, `mapping` asks them.
"""

from __future__ import annotations

import ast
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_magic.errors import OptionError, PictureNotFoundError, PictureTypeError, near_names, shorten
from vlm_magic.inputs import sniff, sources
from vlm_magic.inputs.expressions import evaluate_field, read_field
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.links import PICTURE_SUFFIXES
from vlm_magic.inputs.pictures import is_picture_like, to_picture, try_pictures
from vlm_magic.messages import Picture

__all__ = ["Item", "Items", "NoColumnError", "RowView", "evaluated", "items_of", "open_pictures"]


@dataclass(frozen=True, slots=True)
class Item:
    """One row before it is asked.

    Attributes:
        position: its place, from 0.
        label: how the result's index calls it.
        name: how people call its picture.
        source: what stands for the picture or pictures, as it was given.
        row: what ``{row}`` is in the prompt.
    """

    position: int
    label: object
    name: str
    source: object
    row: RowView


class NoColumnError(AttributeError, KeyError):
    """A column that the table does not have: of every row alike."""

    def __init__(self, name: str, columns: list[str]) -> None:
        super().__init__(f"no column {name!r}")
        self.column = name
        self.columns = columns


class RowView:
    """A row of the person's table, by attribute and by item: ``{row.title}``, ``{row["a title"]}``.

    Args:
        holder: a mapping of columns, or any object with attributes; None where there is no table.
        position: the row's place, which ``{row.position}`` gives where no column has that name.
        label: likewise ``{row.label}``.
    """

    __slots__ = ("_extra", "_holder")

    def __init__(self, holder: object, position: int, label: object) -> None:
        self._holder = holder
        self._extra = {"position": position, "label": label}

    def __getitem__(self, name: str) -> object:
        if isinstance(self._holder, Mapping):
            if name in self._holder:
                return self._holder[name]
        elif self._holder is not None and isinstance(name, str) and hasattr(self._holder, name):
            found: object = getattr(self._holder, name)
            return found
        if name in self._extra:
            return self._extra[name]
        raise NoColumnError(str(name), self._columns())

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def _columns(self) -> list[str]:
        return list(map(str, self._holder)) if isinstance(self._holder, Mapping) else []


@dataclass(frozen=True, slots=True)
class Items:
    """The rows of a map, to be read once.

    Attributes:
        rows: the items in order.
        n: how many, or None where nobody knows before the end.
        is_labelled: whether the labels are the person's own (an index, the keys of a dict).
    """

    rows: Iterator[Item]
    n: int | None
    is_labelled: bool


def evaluated(expression: str, names: Mapping[str, object]) -> tuple[object, object]:
    """What ``--map`` names, and the table that it is a column of.

    Args:
        expression: names, attributes, items and calls (``frame.photo``, ``folder.glob("*.png")``); anything
            else is a file pattern, a folder or a file.
        names: the variables of the notebook.

    Returns:
        (pictures, table or None). Each part of the expression is evaluated once.

    Raises:
        PictureNotFoundError: neither a variable nor files.
        ExpressionError: it raised.
    """
    field = read_field("{" + expression + "}", 0)
    if field is None or field.end != len(expression) + 2 or field.conversion or field.spec:
        return expression, None
    if field.root not in names and not field.is_known(names):
        if sources.is_pattern(expression) or sources.existing_path(expression) is not None:
            return expression, None
        near = near_names(field.root, [name for name in names if not name.startswith("_")])
        raise PictureNotFoundError(
            f"--map {shorten(expression, 80)}: no variable {field.root!r} in this notebook",
            have=", ".join(near) or "nothing of a near name",
            hint=f"--map {near[0]}" if near else "a list, a column, a glob such as photos/*.jpg",
            name=field.root,
        )
    return _stepped(expression, names)


def _stepped(expression: str, names: Mapping[str, object]) -> tuple[object, object]:
    """Evaluate a chain from its root outwards, and remember the last table on the way."""
    links: list[ast.expr] = []
    node: ast.expr = ast.parse(expression, mode="eval").body
    while not isinstance(node, ast.Name):
        links.append(node)
        node = node.func if isinstance(node, ast.Call) else node.value  # type: ignore[attr-defined]
    if links and isinstance(links[-1], ast.Call):  # sorted(photos): the root is a function
        field = read_field("{" + expression + "}", 0)
        assert field is not None
        return evaluate_field(field, names), None
    value: object = names[node.id]
    table = value if sniff.is_frame(value) else None
    holder = "_vlm_magic_value"
    for link in reversed(links):
        setattr(link, "func" if isinstance(link, ast.Call) else "value", ast.Name(holder, ast.Load()))
        source = ast.unparse(ast.fix_missing_locations(link))
        field = read_field("{" + source + "}", 0)
        assert field is not None, source
        value = evaluate_field(field, {**names, holder: value})
        table = value if sniff.is_frame(value) else table
    return value, table


def items_of(pictures: object, table: object = None, *, name: str = "") -> Items:
    """The rows of a collection of pictures.

    Args:
        pictures: a list, column, dict (name → picture), array batch, generator, glob, folder or file; a
            single picture is one row. A row may itself hold several pictures.
        table: a frame, or one mapping or object for each row, for ``{row.title}``.
        name: how the person calls the collection; rows are called ``name[0]``, ….

    Raises:
        PictureTypeError: nothing that could be gone through.
        PictureNotFoundError: a pattern or a folder without pictures.
        OptionError: a table instead of its column, or one of another length.
    """
    if sniff.is_frame(pictures):
        columns = [str(column) for column in getattr(pictures, "columns", ())]
        raise OptionError(
            f"{name or 'a table'} has several columns, and one holds the pictures",
            have=shorten(", ".join(columns), 160),
            hint=f"{name or 'frame'}[{columns[0]!r}]" if columns else "",
        )
    pairs, n, is_labelled = _pairs(pictures, name)
    rows = _table_rows(table, pictures, n)
    return Items(_items(pairs, rows, name), n, is_labelled)


def _items(
    pairs: Iterator[tuple[object, object]], rows: Iterator[object] | None, name: str
) -> Iterator[Item]:
    for position, (label, source) in enumerate(pairs):
        holder = None if rows is None else next(rows, None)
        yield Item(position, label, _name_of(label, source, name), source, RowView(holder, position, label))


def _name_of(label: object, source: object, name: str) -> str:
    """A file's name, a dict's key, or the place in the collection."""
    if isinstance(source, Picture) and source.name:
        return source.name
    if isinstance(source, os.PathLike):
        return os.path.basename(os.fsdecode(source))
    if isinstance(source, str):
        return sources.safe_name(source, 80).rpartition("/")[2] or sources.safe_name(source, 80)
    return label if isinstance(label, str) else f"{name or 'picture'}[{label}]"


def _pairs(pictures: object, name: str) -> tuple[Iterator[tuple[object, object]], int | None, bool]:
    """(label, picture) in order, how many, and whether the labels are the person's own."""
    if isinstance(pictures, (str, os.PathLike)) and not isinstance(pictures, bytes):
        files = _files(os.fspath(pictures))
        return iter(enumerate(files)), len(files), False
    if isinstance(pictures, Mapping) and not sniff.is_dataset_cell(pictures):
        return iter(pictures.items()), len(pictures), True
    if sniff.has_type(pictures, "pandas.Series"):
        column: Any = pictures
        return iter(column.items()), len(column), True
    if sniff.is_array(pictures) and sniff.kind_of(pictures) != "object":
        found = try_pictures(pictures, name, options=PictureOptions(max_pictures=1_000_000))
        if found is not None:
            return iter(enumerate(found)), len(found), False
    if sniff.is_array(pictures) or not is_single(pictures):
        if isinstance(pictures, Iterable) or hasattr(type(pictures), "__getitem__"):
            n = len(pictures) if isinstance(pictures, Sized) else None
            return enumerate(iter(pictures)), n, False  # type: ignore[call-overload]
        kind = type(pictures).__name__
        raise PictureTypeError(
            f"nothing to map over: {name + ' is ' if name else ''}a {kind}",
            have="a column, a list, a dict, an array batch, a generator, a glob or a folder of pictures",
            hint=f"[{name or 'picture'}] for a single one",
            type=kind,
        )
    return iter([(0, pictures)]), 1, False


def is_single(obj: object) -> bool:
    """Whether one picture is meant, and not a collection."""
    if isinstance(obj, (list, tuple, Iterator)) or sniff.is_series(obj):
        return False
    return isinstance(obj, (bytes, bytearray, memoryview)) or is_picture_like(obj)


def _files(pattern: str) -> list[Path]:
    """The files of a glob or a folder in order of their names; a URL or a file is itself."""
    path = sources.existing_path(pattern)
    if path is not None and path.is_dir():
        found = [entry for entry in sorted(path.iterdir()) if entry.suffix[1:].lower() in PICTURE_SUFFIXES]
        what = f"no picture in the folder {shorten(pattern, 100)}"
    elif path is not None or not sources.is_pattern(pattern) or sources.is_url(pattern):
        return [path] if path is not None else [Picture(pattern)]  # type: ignore[list-item]
    else:
        matches = glob.iglob(os.path.expanduser(pattern), recursive=True)
        found = sorted(Path(match) for match in matches if os.path.isfile(match))
        what = f"no file fits {shorten(pattern, 100)}"
    if not found:
        raise PictureNotFoundError(what, have=f"this folder is {shorten(os.getcwd(), 100)}", source=pattern)
    return found


def _table_rows(table: object, pictures: object, n: int | None) -> Iterator[object] | None:
    """What ``{row}`` is for each picture, in order."""
    if table is None:
        return None
    if isinstance(table, Sized) and n is not None and len(table) != n:
        by_label = _by_label(table, pictures)
        if by_label is not None:
            return by_label
        raise OptionError(
            f"{len(table)} table rows for {n} pictures",
            have="each picture has one row of the table",
            hint="a column of that table",
        )
    return _by_label(table, pictures) or _in_order(table)


def _by_label(table: Any, pictures: Any) -> Iterator[object] | None:
    """Rows of a pandas frame by the labels of its column (a slice or a selection of it)."""
    if not sniff.has_type(table, "pandas.DataFrame") or not sniff.has_type(pictures, "pandas.Series"):
        return None
    if not table.index.is_unique or not pictures.index.isin(table.index).all():
        return None
    places = table.index.get_indexer(pictures.index)
    return (_frame_row(table, int(place)) for place in places)


def _in_order(table: Any) -> Iterator[object]:
    if sniff.has_type(table, "pandas.DataFrame"):
        return (_frame_row(table, place) for place in range(len(table)))
    if sniff.has_type(table, "polars.DataFrame"):
        return iter(table.iter_rows(named=True))
    if sniff.has_type(table, "pyarrow.Table"):
        return (table.slice(place, 1).to_pylist()[0] for place in range(len(table)))
    return iter(table)


def _frame_row(table: Any, place: int) -> dict[str, object]:
    return {str(column): table.iloc[place, n] for n, column in enumerate(table.columns)}


def open_pictures(item: Item, options: PictureOptions) -> list[Picture]:
    """The decoded pictures of a row: mostly one, several where the row holds a list.

    A string in a column is a path, a URL or a data URI: the person said that it holds pictures.

    Raises:
        PictureError: it is none, cannot be found, fetched or decoded.
    """
    source = item.source
    if source is None or (isinstance(source, float) and source != source):  # noqa: PLR0124 - NaN
        raise PictureTypeError(
            "no picture in this row", have=repr(source), hint="dropna() leaves such rows out"
        )
    if isinstance(source, (str, os.PathLike)):
        return [to_picture(Picture(source, item.name), options=options)]
    if isinstance(source, Picture):
        return [to_picture(source, name=item.name, options=options)]
    if isinstance(source, (list, tuple)) and any(isinstance(one, (str, os.PathLike)) for one in source):
        return [to_picture(Picture(one) if isinstance(one, str) else one, options=options) for one in source]
    found = try_pictures(source, item.name, options=options)
    return found if found else [to_picture(source, name=item.name, options=options)]
