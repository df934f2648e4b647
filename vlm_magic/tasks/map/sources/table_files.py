"""A table in a file as the rows of a map: CSV, TSV, JSON lines or Parquet with a column of paths or URLs.

Knows files and pandas; nothing of prompts or engines. Neighbour:
`vlm_magic.tasks.map.rows` takes its column and its rows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.inputs import locate
from vlm_magic.inputs.cell_text.links import PICTURE_SUFFIXES
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.tasks.map.sources.cloud import is_cloud_path
from vlm_magic.wording import shorten

__all__ = ["read_table_file"]

_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("read_csv", {}),
    ".tsv": ("read_csv", {"sep": "\t"}),
    ".jsonl": ("read_json", {"lines": True}),
    ".parquet": ("read_parquet", {}),
}
_COLUMNS = ("picture", "image", "photo", "path", "file", "filename", "file_name", "url")


def read_table_file(place: object) -> tuple[Any, Any] | None:
    """(the column of pictures, the whole table) of a table's file; None for anything else.

    A path in it that is relative is looked for beside the file first.

    Raises:
        OptionError: it cannot be read, or has no column of pictures.
    """
    if not isinstance(place, (str, os.PathLike)):
        return None
    path = Path(os.path.expanduser(os.fsdecode(place)))
    is_cloud = is_cloud_path(place)
    if path.suffix.lower() not in _READERS or not (is_cloud or path.is_file()):
        return None
    table = _read(path, str(place) if is_cloud else path)
    column = _column_of(table, path)
    if is_cloud:
        return table[column].map(lambda value: _beside_in_store(value, str(place))), table
    return table[column].map(lambda value: _beside(value, path.parent)), table


def _read(path: Path, place: str | Path) -> Any:
    name, options = _READERS[path.suffix.lower()]
    pandas = need_pandas(f"a map over {shorten(path.name, 60)}")
    try:
        return getattr(pandas, name)(place, **options)
    except (OSError, ValueError, ImportError) as error:
        raise OptionError(
            f"{shorten(path, 100)} cannot be read as a table",
            have=shorten(error, 150),
            hint='pip install "vlm_magic[parquet]"' if isinstance(error, ImportError) else "pandas.read_csv",
            path=str(path),
        ) from error


def _column_of(table: Any, path: Path) -> Any:
    """The column that is called like pictures, or whose first value names one."""
    by_name = {str(column).lower(): column for column in table.columns}
    for name in _COLUMNS:
        if name in by_name:
            return by_name[name]
    for column in table.columns:
        first = table[column].iloc[0] if len(table) else None
        if isinstance(first, str) and first.rpartition(".")[2].lower() in PICTURE_SUFFIXES:
            return column
    raise OptionError(
        f"{shorten(path.name, 60)} has no column of pictures",
        have=shorten(", ".join(map(str, table.columns)), 150),
        hint=f"a column called {_COLUMNS[0]}, with paths or URLs",
        path=str(path),
    )


def _beside(value: object, folder: Path) -> object:
    if not isinstance(value, str) or os.path.isabs(value) or "://" in value or value.startswith("data:"):
        return value
    path = locate.existing_path(folder / value)
    return value if path is None else str(path)


def _beside_in_store(value: object, table: str) -> object:
    if not isinstance(value, str) or "://" in value or value.startswith(("/", "data:")):
        return value
    return f"{table.rpartition('/')[0]}/{value}"
