"""A row's question by where its pictures come from: known without opening one.

A row is known by the content of its question; where its pictures are files, it is known by their path, size
and time of change as well, so that a driver that decodes nothing finds what a map on one machine has
answered, and the other way round. Knows parts and files. Neighbours:
`vlm_magic.tasks.map.window` and `cluster.run` ask.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

from vlm_magic.messages import Part, Picture, Text
from vlm_magic.tasks.map.sources.cloud import cloud_identity, is_cloud_path

__all__ = ["Repeats", "source_identity", "source_key"]

_MOST_KEYS = 300_000  # some 30 MB; beyond it, a repeated question may be asked again by the next run


class Repeats:
    """Tells rows apart that ask the same: the second one has ``#2`` behind its key."""

    def __init__(self) -> None:
        self._n_seen: dict[int, int] = {}  # by the key's hash, which takes a third of its room

    def told_apart(self, key: str) -> str:
        """The key of the next row that asks this."""
        if len(self._n_seen) >= _MOST_KEYS:
            self._n_seen.clear()
        short = hash(key)
        n = self._n_seen[short] = self._n_seen.get(short, 0) + 1
        return key if n == 1 else f"{key}#{n}"


def source_key(parts: Sequence[Part], source: object, own: Sequence[Picture]) -> str:
    """A hash of the words and the sources of a question; "" where these do not tell what they hold.

    Args:
        parts: the question.
        source: what the row's pictures are read from.
        own: those of the parts that stand for them; neighbours are one place.
    """
    place = source_identity(source)
    if not place:
        return ""
    rows_own = set(map(id, own))
    whole = hashlib.blake2b(digest_size=16)
    was_place = False
    for part in parts:
        is_place = id(part) in rows_own
        if is_place and was_place:
            continue
        was_place = is_place
        if is_place:
            said = place
        else:
            said = f"text:{part.text}" if isinstance(part, Text) else f"picture:{part.digest}"
        data = said.encode("utf-8", "surrogatepass")
        whole.update(len(data).to_bytes(8, "big") + data)
    return f"source:{whole.hexdigest()}"


def source_identity(source: object) -> str:
    """What a source holds, told without reading pictures; "" where only reading would tell."""
    if isinstance(source, Picture):
        return "" if source.source is None else source_identity(source.source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"bytes:{hashlib.blake2b(source, digest_size=16).hexdigest()}"
    if isinstance(source, (str, os.PathLike)):
        return _path_identity(source)
    if isinstance(source, (list, tuple)):
        found = [source_identity(one) for one in source]
        return "|".join(found) if found and all(found) else ""
    return ""


def _path_identity(source: str | os.PathLike[str]) -> str:
    if is_cloud_path(source):
        return cloud_identity(str(source))
    try:
        path = os.path.abspath(os.path.expanduser(os.fsdecode(source)))
        about = os.stat(path)
    except (OSError, ValueError):  # a URL, a data URI, or gone
        return ""
    return f"file:{path}:{about.st_size}:{about.st_mtime_ns}"
