"""Paths of object stores, ``s3://bucket/photo.jpg``, through fsspec: listed, told apart and read, whole.

Only a map's own sources come here: what a prompt or a variable says is never opened so. fsspec comes with
torch; the package of a store (s3fs, gcsfs, adlfs, …) is the person's, and keys are its own business. Knows
stores; nothing of rows or engines. Neighbours: `source_key` asks for identities, `vlm_magic.tasks.map.rows`
for the rest.
"""

from __future__ import annotations

from typing import Any

from vlm_magic.errors import OptionError, PictureError, PictureNotFoundError, PictureTooLargeError
from vlm_magic.inputs.cell_text.links import PICTURE_SUFFIXES
from vlm_magic.wording import shorten, size_words

__all__ = ["cloud_bytes", "cloud_files", "cloud_identity", "is_cloud_path"]

_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "hdfs", "webhdfs"})
_MOST_BYTES = 64_000_000  # of one picture's file


def is_cloud_path(source: object) -> bool:
    """Whether a text is the path of an object store."""
    return isinstance(source, str) and source.partition("://")[0].lower() in _STORES and "://" in source


def cloud_files(pattern: str) -> list[str]:
    """The files of a pattern or a folder in order of their names; a single one is itself.

    Raises:
        OptionError: the store's package is not installed. PictureNotFoundError: nothing is there.
        PictureError: the store does not answer.
    """
    store, path = _opened(pattern)
    try:
        if any(sign in path for sign in "*?["):
            found = store.glob(path)
        elif store.isdir(path):
            found = [name for name in store.ls(path, detail=False) if _is_called_picture(name)]
        else:
            return [pattern]
    except Exception as error:
        raise _failed(pattern, error) from error
    if not found:
        raise PictureNotFoundError(f"no file matches {shorten(pattern, 100)}", source=pattern)
    scheme = pattern.partition("://")[0]
    return [f"{scheme}://{str(name).partition('://')[2] or name}" for name in sorted(found)]


def cloud_bytes(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        OptionError: the store's package is not installed. PictureNotFoundError: there is no such file.
        PictureTooLargeError: more than 64 MB. PictureError: the store does not answer.
    """
    store, inside = _opened(path)
    try:
        with store.open(inside, "rb") as file:
            data: bytes = file.read(_MOST_BYTES + 1)
    except Exception as error:
        raise _failed(path, error) from error
    if len(data) > _MOST_BYTES:
        raise PictureTooLargeError(
            f"{shorten(path, 100)} has more than {size_words(_MOST_BYTES)}", hint="a smaller copy of it"
        )
    return data


def cloud_identity(path: str) -> str:
    """What a file holds, told without reading it, by the store's own mark of it; "" where it has none."""
    try:
        store, inside = _opened(path)
        return f"cloud:{path}:{store.ukey(inside)}"
    except Exception:  # gone, or nobody answers: opening it says so
        return ""


def _opened(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(path)  # type: ignore[no-any-return]
    except ImportError as error:
        raise OptionError(
            f"{path.partition('://')[0]}:// needs a package that is not installed",
            have=shorten(error, 120),
            hint="pip install s3fs (or gcsfs, adlfs, …)",
        ) from error
    except Exception as error:  # credentials, addresses: each store has errors of its own
        raise _failed(path, error) from error


def _is_called_picture(name: str) -> bool:
    return str(name).rpartition(".")[2].lower() in PICTURE_SUFFIXES


def _failed(path: str, error: Exception) -> PictureError:
    if isinstance(error, FileNotFoundError):
        return PictureNotFoundError(f"no file {shorten(path, 100)}", have="that store", source=path)
    return PictureError(
        f"{shorten(path, 100)} cannot be read",
        have=shorten(f"{type(error).__name__}: {error}", 150),
        hint="the store's own variables for its address and its key",
    )
