"""From what a person gave to map over to rows: one item after another, each with its label and its table row.

A column, list, dict, array, glob, folder or generator is read lazily and in order; nothing is decoded
here. `RowView` is what ``{row.title}`` sees. Knows the shapes of collections, not prompts or engines.
Neighbours: `map_prompt` puts rows into words, `mapping` asks them.
"""

from __future__ import annotations

import ast
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlm_magic.errors import OptionError, PictureNotFoundError, PictureTypeError, near_names
from vlm_magic.inputs import locate
from vlm_magic.inputs.cell_text.expressions import evaluate_field, read_field, written_items
from vlm_magic.inputs.cell_text.links import PICTURE_SUFFIXES
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pictures import is_picture_like, to_picture, to_pictures, try_pictures
from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Picture
from vlm_magic.tasks.map.sources.cloud import cloud_bytes, cloud_files, is_cloud_path
from vlm_magic.tasks.map.sources.table_files import read_table_file
from vlm_magic.wording import shorten

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
        is_single: whether the person gave one picture itself, not a collection of one.
    """

    rows: Iterator[Item]
    n: int | None
    is_labelled: bool
    is_single: bool = False


def evaluated(expression: str, names: Mapping[str, object]) -> tuple[object, object]:
    """What ``--map`` names, and the table that it is a column of.

    Args:
        expression: names, attributes, items and calls (``frame.photo``, ``folder.glob("*.png")``), or several
            of them (``[red, blue]``, ``(red, blue)``); anything else is a file pattern, a folder or a file.
        names: the variables of the notebook.

    Returns:
        (pictures, table or None). Each part of the expression is evaluated once.

    Raises:
        PictureNotFoundError: neither a variable nor files.
        ExpressionError: it raised.
    """
    if expression.startswith(("[", "(")):
        listed = read_field("{[" + expression[1:-1] + "]}", 0)
        if listed is not None and listed.end == len(expression) + 2 and listed.is_known(names):
            return evaluate_field(listed, names), None
    field = read_field("{" + expression + "}", 0)
    if field is None or field.end != len(expression) + 2 or field.conversion or field.spec:
        return expression, None
    if field.root not in names and not field.is_known(names):
        if locate.is_pattern(expression) or locate.existing_path(expression) is not None:
            return expression, None
        near = near_names(field.root, [name for name in names if not name.startswith("_")])
        raise PictureNotFoundError(
            f"--map {shorten(expression, 80)}: no variable {field.root!r} in this notebook",
            have=", ".join(near) or "nothing with a similar name",
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
        written = ast.get_source_segment(expression, link) or expression
        is_column = sniff.is_frame(value) and _names_column(link)
        where = f"columns: {shorten(', '.join(map(str, _columns(value))), 160)}" if is_column else ""
        setattr(link, "func" if isinstance(link, ast.Call) else "value", ast.Name(holder, ast.Load()))
        source = ast.unparse(ast.fix_missing_locations(link))
        field = read_field("{" + source + "}", 0)
        assert field is not None, source
        value = evaluate_field(field, {**names, holder: value}, where=where, written=written)
        if sniff.is_frame(value) and not (table is not None and _names_column(link)):
            table = value
    return value, table


def _columns(table: Any) -> list[Any]:
    """The names of a table's columns."""
    return list(table.column_names if sniff.has_type(table, "pyarrow.Table") else table.columns)


def _names_column(link: ast.expr) -> bool:
    """Whether a link takes columns of a table by a name, which two of them may share: the rows stay."""
    if isinstance(link, ast.Subscript):
        return isinstance(link.slice, ast.Constant) and isinstance(link.slice.value, str)
    return isinstance(link, ast.Attribute)


def items_of(pictures: object, table: object = None, *, name: str = "") -> Items:
    """The rows of a collection of pictures.

    Args:
        pictures: a list, column, dict (name → picture), array batch, generator, glob, folder or file (a CSV,
            JSON lines or Parquet file with a column of paths is the rows of its table); a
            single picture is one row. A row may itself hold several pictures.
        table: a frame, or one mapping or object for each row, for ``{row.title}``.
        name: how the person calls the collection; rows are called ``name[0]``, ….

    Raises:
        PictureTypeError: nothing that could be gone through.
        PictureNotFoundError: a pattern or a folder without pictures.
        OptionError: a table instead of its column, or one of another length.
    """
    if sniff.is_frame(pictures):
        raise _several_columns(pictures, name)
    if (in_file := read_table_file(pictures)) is not None:
        pictures, found_table = in_file
        table = found_table if table is None else table
    found = _read(pictures, name)
    rows = _table_rows(table, pictures, found.n)
    return Items(_items(found.pairs, rows, name), found.n, found.is_labelled, found.is_single)


def _items(
    pairs: Iterator[tuple[object, object]], rows: Iterator[object] | None, name: str
) -> Iterator[Item]:
    for position, (label, source) in enumerate(pairs):
        holder = None if rows is None else next(rows, None)
        yield Item(position, label, _name_of(label, source, name), source, RowView(holder, position, label))


def _name_of(label: object, source: object, name: str) -> str:
    """A file's name, a dict's key, the name in a list of names, or the place in the collection."""
    if isinstance(source, Picture) and source.name:
        return source.name
    if isinstance(source, os.PathLike):
        return os.path.basename(os.fsdecode(source))
    if isinstance(source, str):
        return locate.safe_name(source, 80).rpartition("/")[2] or locate.safe_name(source, 80)
    return (
        label if isinstance(label, str) else written_items(name).get(label, f"{name or 'picture'}[{label}]")
    )


def _several_columns(table: Any, name: str) -> OptionError:
    """The error for a table where its column was meant; the hint is a column, pictures first."""
    columns = _columns(table)
    place = next((n for n in range(len(columns)) if _begins_with_picture(table, n)), 0)
    hint = ""
    if columns:
        is_twice = columns.count(columns[place]) > 1
        hint = f"{name or 'frame'}" + (f".iloc[:, {place}]" if is_twice else f"[{columns[place]!r}]")
    return OptionError(
        f"{name or 'a table'} has several columns, and one holds the pictures",
        have=shorten(", ".join(map(str, columns)), 160) or "no columns",
        hint=hint or 'frame["picture"]',
    )


def _begins_with_picture(table: Any, place: int) -> bool:
    """Whether the first value of a pandas column is one that is a picture, or names one."""
    if not sniff.has_type(table, "pandas.DataFrame") or not len(table):
        return False
    value = table.iloc[0, place]
    if isinstance(value, str):
        return value.rpartition(".")[2].lower() in PICTURE_SUFFIXES
    return bool(is_picture_like(value))


class _Pairs(NamedTuple):
    """(label, picture) in order; see `Items` for the rest."""

    pairs: Iterator[tuple[object, object]]
    n: int | None
    is_labelled: bool = False
    is_single: bool = False


def _read(pictures: object, name: str) -> _Pairs:
    """Whatever holds pictures, as pairs of label and picture."""
    if isinstance(pictures, (str, os.PathLike)):
        place = os.fsdecode(pictures)
        files = _files(place)
        return _Pairs(iter(enumerate(files)), len(files), is_single=not _is_collection(place))
    if isinstance(pictures, Mapping) and not sniff.is_dataset_cell(pictures):
        return _Pairs(iter(pictures.items()), len(pictures), is_labelled=True)
    if sniff.has_type(pictures, "pandas.Series"):
        column: Any = pictures
        return _Pairs(iter(column.items()), len(column), is_labelled=True)
    if sniff.is_array(pictures) and sniff.number_kind(pictures) != "object":
        found = try_pictures(pictures, name or "picture", options=PictureOptions(max_pictures=1_000_000))
        if found is not None:
            return _Pairs(iter(enumerate(found)), len(found), is_single=len(found) == 1)
    if not sniff.is_array(pictures) and _is_picture(pictures):
        return _Pairs(iter([(0, pictures)]), 1, is_single=True)
    if isinstance(pictures, Iterable) or hasattr(type(pictures), "__getitem__"):
        n = len(pictures) if isinstance(pictures, Sized) else None
        return _Pairs(enumerate(iter(pictures)), n)  # type: ignore[call-overload]
    kind = type(pictures).__name__
    raise PictureTypeError(
        f"nothing to map over: {name + ' is ' if name else ''}a {kind}",
        have="a column, a list, a dict, an array batch, a generator, a glob or a folder of pictures",
        hint=f"[{name or 'picture'}] for a single one",
        type=kind,
    )


def _is_picture(obj: object) -> bool:
    """Whether one picture is meant, and not a collection."""
    if isinstance(obj, (list, tuple, Iterator)) or sniff.is_series(obj):
        return False
    return isinstance(obj, (bytes, bytearray, memoryview)) or is_picture_like(obj)


def _is_collection(place: str) -> bool:
    """Whether a string or a path names a folder or a pattern of files."""
    if is_cloud_path(place):
        return cloud_files(place) != [place]
    path = locate.existing_path(place)
    return path.is_dir() if path is not None else locate.is_pattern(place) and not locate.is_url(place)


def _files(pattern: str) -> Sequence[Path | str]:
    """The files of a glob or a folder in order of their names; a URL or a file is itself."""
    if is_cloud_path(pattern):
        return cloud_files(pattern)
    path = locate.existing_path(pattern)
    if path is not None and path.is_dir():
        found = [entry for entry in sorted(path.iterdir()) if entry.suffix[1:].lower() in PICTURE_SUFFIXES]
        what = f"no picture in the folder {shorten(pattern, 100)}"
    elif path is not None or not locate.is_pattern(pattern) or locate.is_url(pattern):
        return [path] if path is not None else [Picture(pattern)]  # type: ignore[list-item]
    else:
        matches = glob.iglob(os.path.expanduser(pattern), recursive=True)
        found = sorted(Path(match) for match in matches if os.path.isfile(match))
        what = f"no file matches {shorten(pattern, 100)}"
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
    if is_cloud_path(source):
        return to_pictures(cloud_bytes(str(source)), name=item.name, options=options)
    if isinstance(source, (str, os.PathLike)):
        return to_pictures(source, name=item.name, options=options)
    if isinstance(source, Picture):
        return to_pictures(source, name=item.name, options=options)
    if isinstance(source, (list, tuple)) and any(isinstance(one, (str, os.PathLike)) for one in source):
        read = (cloud_bytes(one) if is_cloud_path(one) else one for one in source)
        return [to_picture(one, options=options) for one in read]
    found = try_pictures(source, item.name, options=options)
    return found if found else [to_picture(source, name=item.name, options=options)]
