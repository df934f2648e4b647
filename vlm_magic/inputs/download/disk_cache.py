"""Downloads on disk: bounded, addressed by content, safe with several kernels at once.

Two kinds of small file: ``pictures/<hash of the bytes>`` and ``addresses/<hash of the URL>.json`` that says
which picture a URL gave and until when. Pictures are checked against their hash when they are read. No URL is
written in clear: a query may hold a secret. Neighbours: `disk_store` keeps files, `fetch` is the caller.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import json
import re
import time
from collections.abc import Mapping

from vlm_magic.inputs.disk_store import DiskStore, cache_folder
from vlm_magic.inputs.limits import FetchLimits

__all__ = ["cached_bytes", "forget_downloads", "keep", "lifetime_s"]

_DEFAULT_S = 24 * 3600.0  # when the server does not say
_LONGEST_S = 7 * 24 * 3600.0  # whatever the server says


def _store(limits: FetchLimits) -> DiskStore:
    folder = limits.cache_dir if limits.cache_dir is not None else cache_folder("downloads")
    return DiskStore(folder, limits.cache_bytes, ("addresses", "pictures"))


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


def _address(url: str) -> str:
    """The name of the file that says which picture a URL gave."""
    return f"addresses/{hashlib.sha256(url.encode('utf-8', 'surrogatepass')).hexdigest()}.json"


def cached_bytes(url: str, limits: FetchLimits) -> bytes | None:
    """The picture that this URL gave, while it is fresh and whole; None otherwise."""
    if limits.cache_bytes <= 0:
        return None
    store = _store(limits)
    try:
        entry = json.loads(store.read(_address(url)) or b"")
        digest, until = str(entry["digest"]), float(entry["until"])
    except (ValueError, KeyError, TypeError):
        return None
    if not re.fullmatch(r"[0-9a-f]{64}", digest) or until < time.time():
        return None
    data = store.read(f"pictures/{digest}")
    if data is None or hashlib.sha256(data).hexdigest() != digest or len(data) > limits.max_bytes:
        return None
    return data


def keep(url: str, data: bytes, seconds: float, limits: FetchLimits) -> None:
    """Keep a download for so long; a full disk or a folder that cannot be written keeps nothing."""
    if limits.cache_bytes <= 0 or seconds <= 0 or len(data) > limits.cache_bytes:
        return
    store = _store(limits)
    digest = hashlib.sha256(data).hexdigest()
    entry = {"digest": digest, "until": time.time() + seconds}
    with contextlib.suppress(OSError):
        store.write(f"pictures/{digest}", data)
        store.write(_address(url), json.dumps(entry).encode("utf-8"))


def forget_downloads(limits: FetchLimits | None = None) -> int:
    """Empty the disk cache; the number of bytes that were freed."""
    return _store(limits or FetchLimits()).clear()
