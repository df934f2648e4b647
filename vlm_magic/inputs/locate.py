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
import unicodedata
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from vlm_magic.errors import (
    FetchRefusedError,
    PictureDecodeError,
    PictureError,
    PictureNotFoundError,
    PictureTooLargeError,
    near_names,
)
from vlm_magic.inputs.cell_text.links import HOLDER_SUFFIXES, PICTURE_SUFFIXES
from vlm_magic.inputs.excerpts.fragments import Excerpt, excerpt_of, split_fragment
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pixels.read_file import ReadFile, changed
from vlm_magic.wording import shorten

__all__ = [
    "Source",
    "existing_path",
    "find_files",
    "is_endless",
    "is_pattern",
    "is_picture_path",
    "is_picture_source",
    "is_url",
    "open_file",
    "open_source",
    "resolve_source",
    "safe_name",
]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):(//)?")
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{40,}={0,2}\s*")
_MAGIC_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "AAAA")
_DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_WHOLE_URL = re.compile(r"https?://[^\s<>\"]+", re.IGNORECASE)
_WHOLE_DATA = re.compile(r"data:(?:[\w.+-]+/[\w.+-]+)?(?:;[\w=.+-]+)*,\S+", re.IGNORECASE)
_PATH_OF_URL = re.compile(r"(https?):/+", re.IGNORECASE)
_MAX_PATH = 1_000  # characters
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
        have=f"{scheme}: addresses are not fetched, http and https are",
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
            "a data URI of more than 50 MB",
            have="it is held in memory three times",
            hint="save it as a file, and give its path",
        )
    if "base64" in found[2].lower():
        return _from_base64(urllib.parse.unquote(body) if "%" in body else body, "a data URI")
    data = urllib.parse.unquote_to_bytes(body)
    if _BASE64.fullmatch(body) and body.startswith(_MAGIC_BASE64):
        raise PictureDecodeError(
            "a data URI without the word base64",
            have=f"data:{shorten(found[1], 40)},… and then base64",
            hint=f"data:{shorten(found[1], 40)};base64,…",
        )
    return data


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
        raise PictureDecodeError(
            f"{what} is broken", have=str(exc), hint="base64.b64encode(data).decode() makes a whole one"
        ) from exc


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
        have, hint = _alike(Path(expanded))
        raise PictureNotFoundError(f"no file matches {shown}", have=have, hint=hint, source=pattern)
    if len(files) > options.max_pictures:
        narrower = files[0].with_name(f"{files[0].stem[:4]}*{files[0].suffix}")
        raise PictureError(
            f"{shown} matches {len(files)} files",
            have=f"at most {options.max_pictures} pictures at one place",
            hint=f"a narrower pattern, such as {shorten(str(narrower), 80)}",
            n_files=len(files),
        )
    return files


def _begins_like_picture(path: Path) -> bool:
    from vlm_magic.inputs.pixels.headers import format_of

    try:
        with path.open("rb") as file:
            return format_of(file.read(64)) is not None
    except OSError:
        return False


def existing_path(source: str | os.PathLike[str]) -> Path | None:
    """The file that a source names, or None; ``~``, %20 and both forms of accented letters are understood."""
    try:
        text = os.path.expanduser(os.fsdecode(source))
        plain = urllib.parse.unquote(text)
        composed, taken_apart = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
        for candidate in dict.fromkeys((text, plain, composed, taken_apart)):
            if os.path.exists(candidate):
                return Path(candidate)
    except (ValueError, OSError):  # a NUL, or too long for a name
        return None
    return None


@dataclass(frozen=True, slots=True)
class Source:
    """What a string names.

    Attributes:
        text: the string, without spaces around it.
        form: "file" where one of that name exists; "pattern" where it has the signs of one and no such file
            exists; "text" for anything else, which may be base64 or the name of a missing file.
        path: the file; None for the other forms.
        excerpt: the part of it that its fragment names, which is then no longer in the text; None for all.
    """

    text: str
    form: Literal["URL", "data URI", "file", "pattern", "text"]
    path: Path | None = None
    excerpt: Excerpt | None = None


def resolve_source(text: str) -> Source:
    """Say what a string names; nothing is opened.

    Raises:
        FetchRefusedError: a URL that is neither http nor https.
        PictureError: its fragment names no part.
    """
    text = text.strip()
    if text[:5].lower() == "data:":
        return Source(text, "data URI")
    base, fragment = split_fragment(text)
    if is_url(text):
        return Source(base, "URL", excerpt=_part(fragment))
    path = existing_path(text)
    if path is not None:  # a name with # in it
        return Source(text, "file", path)
    path = existing_path(base)
    if path is not None or is_pattern(base):
        return Source(base, "pattern" if path is None else "file", path, _part(fragment))
    return Source(text, "text")


def _part(fragment: str) -> Excerpt | None:
    return excerpt_of(fragment) if fragment else None


def is_picture_source(text: str) -> bool:
    """Whether a text is, as a whole, an http(s) URL, a data URI or the path of an existing picture file.

    Cheap: nothing is fetched, and of a file only the first bytes are read.
    """
    if text[:5].lower() == "data:":
        return _WHOLE_DATA.fullmatch(text) is not None
    if len(text) > _MAX_PATH or not text.strip() or "\n" in text:
        return _WHOLE_URL.fullmatch(text) is not None if len(text) < 4 * _MAX_PATH else False
    if "://" in text:
        return _WHOLE_URL.fullmatch(text) is not None
    return is_picture_path(text)


def is_picture_path(source: str | os.PathLike[str]) -> bool:
    """Whether a picture file is there: one with a picture's suffix, or that begins like a picture."""
    path = resolve_source(os.fsdecode(source)).path
    if path is None or not path.is_file():
        return False
    return path.suffix[1:].lower() in (*PICTURE_SUFFIXES, *HOLDER_SUFFIXES) or _begins_like_picture(path)


def open_source(source: Source, *, name: str) -> bytes | IO[bytes]:
    """The bytes of a source that is on this machine.

    Raises:
        PictureNotFoundError: no such file; names those that look alike.
        PictureDecodeError: a folder, a device, a broken data URI, or a file that may not be read.
        PictureTooLargeError: a data URI of more than 50 MB.
    """
    if source.form == "data URI":
        return data_bytes(source.text)
    data = read_base64(source.text) if source.path is None else None
    return data if data is not None else open_file(source.path or source.text, name=name)


def is_endless(file: Any) -> bool:
    """Whether an open file is a device, a pipe or a socket."""
    try:
        return not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError, ValueError, TypeError):
        return False  # no file of the system


def open_file(source: str | os.PathLike[str], *, name: str) -> bytes | IO[bytes]:
    """The bytes of a picture file, or the open file itself when it is large.

    Raises:
        PictureNotFoundError: no such file; names those that look alike.
        PictureDecodeError: a folder, a device, a file that may not be read, or one that changes meanwhile.
    """
    path = existing_path(source)
    if path is None:
        raise _no_file(os.fsdecode(source), name)
    try:
        if path.is_dir():
            raise PictureDecodeError(
                f"{name} is a folder, not a picture",
                have=_nearby(path / "picture"),
                hint=f"![]({shorten(str(path), 80)}/*.jpg) for the pictures in it",
            )
        # Without waiting: a pipe would wait for a writer. What it is is asked of the open file.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        file = os.fdopen(handle, "rb")
    except OSError as exc:
        raise _unreadable(name, exc) from exc
    keeps_open = False
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise PictureDecodeError(
                f"{name} is a device or a pipe, not a picture",
                have="pictures are files that have an end",
                hint="give its bytes: pipe.read(n)",
            )
        if found.st_size > _MAX_BYTES_IN_MEMORY:
            keeps_open = True
            return ReadFile(file, name)  # type: ignore[return-value]
        data = file.read(found.st_size + 1)
        if len(data) != found.st_size:
            raise changed(name, found.st_size, os.fstat(file.fileno()).st_size)
        return data
    except OSError as exc:
        raise _unreadable(name, exc) from exc
    finally:
        if not keeps_open:
            file.close()


def _unreadable(name: str, exc: OSError) -> PictureDecodeError:
    return PictureDecodeError(
        f"{name} cannot be read", have=exc.strerror or str(exc), hint="check its permissions"
    )


def _no_file(source: str, name: str) -> PictureNotFoundError:
    shown = shorten(source, 100) + ("" if name in source else f" ({shorten(name, 60)})")
    if len(source) > 1_000 or "\n" in source or "\0" in source:
        return PictureNotFoundError(
            "no file of that name", have=f"a text of {len(source)} characters", hint="the path of a picture"
        )
    expanded = os.path.expanduser(source)
    if found := _PATH_OF_URL.match(source):  # Path("https://…") has lost a slash
        url = f"{found[1]}://{source[found.end() :]}"
        return PictureNotFoundError(
            f"no file {shown}",
            have="a URL made a Path",
            hint=f'the text "{safe_name(url, 80)}"',
            source=source,
        )
    if os.path.islink(expanded):
        target = shorten(os.readlink(expanded), 80)
        return PictureNotFoundError(
            f"no file {shown}", have=f"a link to {target}, which is not there", hint="ls -l", source=source
        )
    have, hint = _alike(Path(expanded))
    return PictureNotFoundError(f"no file {shown}", have=have, hint=hint, source=source)


def _alike(path: Path) -> tuple[str, str]:
    """What there is instead of ``path``, and what to try."""
    have = _nearby(path)
    if have.startswith("no folder"):
        return have, "a path from there, or a whole one"
    if " other files in " in have:
        return have, "its spelling, or the folder that it is in"
    return have, have.split(", ", 1)[0]


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
