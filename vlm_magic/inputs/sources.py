"""What a string or a path names: a file, a pattern of files, a URL, a data URI, plain base64.

Only strings that a person wrote as a source come here: ``![](…)``, ``Picture("…")``, ``to_pil("…")``.
Knows how to find and open files; downloads are the business of `fetch`.
"""

from __future__ import annotations

import base64
import binascii
import glob
import os
import re
import stat
import urllib.parse
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import IO

from vlm_magic.errors import (
    FetchRefusedError,
    PictureDecodeError,
    PictureError,
    PictureNotFoundError,
    PictureTooLargeError,
    near_names,
    shorten,
)
from vlm_magic.inputs.limits import PictureOptions

__all__ = ["data_bytes", "find_files", "is_pattern", "is_url", "open_file", "read_base64", "safe_name"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):(//)?")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{40,}={0,2}\s*")
_MAGIC_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "AAAA")
_DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_MAX_BYTES_IN_MEMORY = 64_000_000  # a larger file is decoded from disk
_MAX_DATA_BYTES = 50_000_000  # of one data URI, decoded
_MAX_SCANNED = 20_000  # files that a pattern may run through


def safe_name(source: str, limit: int = 100) -> str:
    """A source as it may be shown: no user, password or query values, no base64, not too long."""
    text = source.strip()
    if text[:5].lower() == "data:":
        return f"{shorten(text[5:].split(',', 1)[0].split(';', 1)[0] or 'text', 40)} in a data URI"
    if "://" in text:
        return shorten(_without_secrets(text), limit)
    if len(text) > 200 and _BASE64.fullmatch(text[:400] if len(text) % 4 else text):
        return "a base64 picture"
    return shorten(text, limit)


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    authority, mark, tail = re.match(r"([^/?#]*)(.?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    path = re.split(r"[?#]", mark + tail, maxsplit=1)[0]
    has_query = "?" in mark + tail
    return f"{scheme}://{authority.rpartition('@')[2]}{path}{'?…' if has_query else ''}"


def is_url(source: str) -> bool:
    """Whether ``source`` is an http(s) URL.

    Raises:
        FetchRefusedError: it has another scheme (file, ftp, attachment, …).
    """
    found = _SCHEME.match(source)
    if found is None:
        return False
    scheme = found[1].lower()
    if scheme in ("http", "https"):
        return True
    if scheme == "data" or not (found[2] or scheme in ("file", "attachment", "blob", "about", "javascript")):
        return False
    hints = {
        "file": "the path itself, without file://",
        "attachment": "save the attachment as a file, and name that",
        "blob": "save the picture as a file, and name that",
    }
    raise FetchRefusedError(
        f"{safe_name(source)} is not fetched",
        have=f"{scheme}: is no address of a picture on the web; http and https are",
        hint=hints.get(scheme, "download it, and give its path"),
        scheme=scheme,
    )


def data_bytes(uri: str) -> bytes:
    """The bytes of a data URI.

    Raises:
        PictureDecodeError: it is broken.
        PictureTooLargeError: more than 50 MB.
    """
    found = _DATA.match(uri)
    if found is None:
        raise PictureDecodeError("a broken data URI", have="no comma in it", hint="data:image/png;base64,…")
    body = uri[found.end() :]
    if len(body) > 2 * _MAX_DATA_BYTES:
        raise PictureTooLargeError(
            "a data URI of more than 50 MB", hint="save it as a file, and give its path"
        )
    if "base64" in found[2].lower():
        return _from_base64(urllib.parse.unquote(body) if "%" in body else body, "a data URI")
    return urllib.parse.unquote_to_bytes(body)


def read_base64(text: str) -> bytes | None:
    """The bytes of a plain base64 picture, or None when the text is no such thing."""
    body = text.strip()
    if not body.startswith(_MAGIC_BASE64) or not _BASE64.fullmatch(body):
        return None
    return _from_base64(body, "a base64 string")


def _from_base64(body: str, what: str) -> bytes:
    body = "".join(body.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise PictureDecodeError(f"{what} is broken", have=str(exc)) from exc


def is_pattern(source: str) -> bool:
    """Whether ``source`` has the signs of a file pattern."""
    return any(sign in source for sign in "*?[")


def find_files(pattern: str, options: PictureOptions) -> list[Path]:
    """The files of a pattern in order of their names.

    Raises:
        PictureNotFoundError: no file fits.
        PictureError: more files than allowed.
    """
    expanded = os.path.expanduser(pattern)
    found: Iterable[str] = islice(glob.iglob(expanded, recursive=True), _MAX_SCANNED)
    files = sorted(Path(name) for name in found if os.path.isfile(name))
    if not Path(expanded).suffix:  # photos/*: the pictures among whatever else is there
        files = [path for path in files if _begins_like_picture(path)]
    shown = shorten(pattern, 100)
    if not files:
        raise PictureNotFoundError(f"no file fits {shown}", have=_nearby(Path(expanded)), source=pattern)
    if len(files) > options.max_pictures:
        narrower = files[0].with_name(f"{files[0].stem[:4]}*{files[0].suffix}")
        raise PictureError(
            f"{shown} fits {len(files)} files",
            have=f"at most {options.max_pictures} pictures at one place",
            hint=f"a narrower pattern, such as {shorten(str(narrower), 80)}",
            n_files=len(files),
        )
    return files


def _begins_like_picture(path: Path) -> bool:
    from vlm_magic.inputs.headers import format_of

    try:
        with path.open("rb") as file:
            return format_of(file.read(64)) is not None
    except OSError:
        return False


def existing_path(source: str | os.PathLike[str]) -> Path | None:
    """The file that a source names, ``~`` and %20 understood, or None."""
    try:
        text = os.path.expanduser(os.fsdecode(source))
        for candidate in (text, urllib.parse.unquote(text)):
            if os.path.exists(candidate):
                return Path(candidate)
    except (ValueError, OSError):  # a NUL, or too long for a name
        return None
    return None


def open_file(source: str | os.PathLike[str], *, name: str) -> bytes | IO[bytes]:
    """The bytes of a picture file, or the open file itself when it is large.

    Raises:
        PictureNotFoundError: no such file; names those that look alike.
        PictureDecodeError: a folder, a device, or a file that may not be read.
    """
    path = existing_path(source)
    if path is None:
        raise _no_file(os.fsdecode(source), name)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            is_folder = stat.S_ISDIR(mode)
            raise PictureDecodeError(
                f"{name} is a {'folder' if is_folder else 'device or a pipe'}, no picture",
                hint=f"![]({shorten(str(path), 80)}/*.jpg) for the pictures in it" if is_folder else "",
            )
        file = path.open("rb")
        if path.stat().st_size > _MAX_BYTES_IN_MEMORY:
            return file
        with file:
            return file.read()
    except OSError as exc:
        raise PictureDecodeError(f"{name} cannot be read", have=exc.strerror or str(exc)) from exc


def _no_file(source: str, name: str) -> PictureNotFoundError:
    shown = shorten(source, 100) + ("" if name in source else f" ({shorten(name, 60)})")
    if len(source) > 1_000 or "\n" in source or "\0" in source:
        return PictureNotFoundError("no file of that name", have=f"a text of {len(source)} characters")
    return PictureNotFoundError(
        f"no file {shown}", have=_nearby(Path(os.path.expanduser(source))), source=source
    )


def _nearby(path: Path) -> str:
    """What the folder has that looks like ``path``, or where the folder is missing."""
    folder = path.parent
    try:
        if not folder.is_dir():
            return f"no folder {shorten(str(folder), 100)}; this one is {shorten(os.getcwd(), 80)}"
        names = [entry.name for entry in islice(os.scandir(folder), 5_000)]
    except OSError as exc:
        return str(exc.strerror or exc)
    near = near_names(path.name, names)
    if near:
        return ", ".join(near)
    return f"{len(names)} other files in {shorten(str(folder.resolve()), 100)}"
