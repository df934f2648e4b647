"""Downloads on disk: bounded, addressed by content, safe with several kernels at once.

Two kinds of small file: ``pictures/<hash of the bytes>`` and ``addresses/<hash of the URL>.json`` that says
which picture a URL gave and until when. Files are written aside and renamed, read back by their hash,
and the least recently used go first. No URL is written in clear: a query may hold a secret.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from vlm_magic.inputs.limits import FetchLimits

__all__ = ["cached_bytes", "forget_downloads", "keep", "lifetime_s", "write_aside"]

_DEFAULT_S = 24 * 3600.0  # when the server does not say
_LONGEST_S = 7 * 24 * 3600.0  # whatever the server says


def cache_folder(limits: FetchLimits) -> Path:
    """Where downloads are kept."""
    if limits.cache_dir is not None:
        return limits.cache_dir
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "vlm_magic" / "downloads"


def lifetime_s(headers: Mapping[str, str]) -> float:
    """How long a response may be used again; 0 is not at all.

    Source: RFC 9111, sections 4.2 and 5.2, as a private cache; a response without a lifetime gets a day.
    """
    control = headers.get("Cache-Control", "").lower()
    directives = {part.partition("=")[0].strip() for part in control.split(",")}
    if directives & {"no-store", "no-cache"} or headers.get("Vary", "").strip() == "*":
        return 0.0
    if not control and "no-cache" in headers.get("Pragma", "").lower():
        return 0.0
    if found := re.search(r"max-age\s*=\s*\"?(\d{1,12})", control):
        age = headers.get("Age", "0")
        spent = float(age) if age.isdigit() and len(age) < 12 else 0.0
        return max(0.0, min(_LONGEST_S, float(found[1]) - spent))
    if "Expires" in headers:
        try:
            end = email.utils.parsedate_to_datetime(headers["Expires"]).timestamp()
        except (TypeError, ValueError, OverflowError, OSError):
            return 0.0  # "Expires: 0" is how servers say at once
        return max(0.0, min(_LONGEST_S, end - time.time()))
    return _DEFAULT_S


def _places(url: str, limits: FetchLimits) -> tuple[Path, Path]:
    """(the file of the address, the folder of the pictures)."""
    folder = cache_folder(limits)
    key = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    return folder / "addresses" / f"{key}.json", folder / "pictures"


def cached_bytes(url: str, limits: FetchLimits) -> bytes | None:
    """The picture that this URL gave, while it is fresh and whole; None otherwise."""
    if limits.cache_bytes <= 0:
        return None
    address, pictures = _places(url, limits)
    try:
        entry = json.loads(address.read_text("utf-8"))
        digest = str(entry["digest"])
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or float(entry["until"]) < time.time():
            return None
        data = (pictures / digest).read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if hashlib.sha256(data).hexdigest() != digest or len(data) > limits.max_bytes:
        return None
    with contextlib.suppress(OSError):
        os.utime(pictures / digest)
    return data


def keep(url: str, data: bytes, seconds: float, limits: FetchLimits) -> None:
    """Keep a download for so long; a full disk or a folder that cannot be written keeps nothing."""
    if limits.cache_bytes <= 0 or seconds <= 0 or len(data) > limits.cache_bytes:
        return
    address, pictures = _places(url, limits)
    digest = hashlib.sha256(data).hexdigest()
    try:
        for folder in (address.parent, pictures):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_aside(pictures / digest, data)
        entry = {"digest": digest, "until": time.time() + seconds}
        write_aside(address, json.dumps(entry).encode("utf-8"))
        _make_room(pictures, address.parent, limits.cache_bytes)
    except OSError:
        return


def write_aside(path: Path, data: bytes) -> None:
    """Write aside and rename: another kernel sees the old file or the new one, never half of it.

    The file can be read by its owner alone.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _make_room(pictures: Path, addresses: Path, limit_bytes: int) -> None:
    """Delete the least recently used pictures above the limit, and what other kernels left half done."""
    entries = []
    for entry in os.scandir(pictures):
        with contextlib.suppress(OSError):
            found = entry.stat()
            if entry.name.startswith(".part-") and time.time() - found.st_mtime > 3600:
                os.unlink(entry.path)
                continue
            entries.append((found.st_mtime, found.st_size, entry.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit_bytes:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
            total -= size
    if len(known := list(os.scandir(addresses))) > 10_000:
        for entry in known[:5_000]:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


def forget_downloads(limits: FetchLimits | None = None) -> int:
    """Empty the disk cache; the number of bytes that were freed."""
    folder = cache_folder(limits or FetchLimits())
    n_bytes = 0
    for name in ("addresses", "pictures"):
        if (folder / name).is_dir():
            for entry in os.scandir(folder / name):
                with contextlib.suppress(OSError):
                    n_bytes += entry.stat().st_size
            shutil.rmtree(folder / name, ignore_errors=True)
    return n_bytes
