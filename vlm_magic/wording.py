"""How numbers and long texts are put into words: sizes, counts, one short line, a short list.

The one place for it, so that a figure reads the same in a panel, a table, a terminal and an error.
Knows nothing but strings; stands on the ground floor.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["count_words", "list_words", "shorten", "size_words"]

_LINE_LIMIT = 190  # characters; three lines stay under the 600 that an error's message may have


def size_words(n_bytes: int) -> str:
    """``5.0 MB``, ``48 MB``, ``1.3 GB``: decimal units, as transformers and the hub count."""
    if n_bytes >= 10**9:
        return f"{n_bytes / 1e9:.1f} GB"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes < 10**7 else f"{n_bytes / 1e6:.0f} MB"


def count_words(n: int, noun: str, plural: str = "") -> str:
    """``1 turn``, ``2 turns``, ``1,204 tokens``.

    Args:
        n: how many.
        noun: one of them.
        plural: several of them, where that is not the noun with an s.
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def shorten(text: object, limit: int = _LINE_LIMIT) -> str:
    """One line of at most ``limit`` characters: line breaks become spaces, the middle becomes ``…``."""
    line = " ".join(str(text).split())
    if len(line) <= limit:
        return line
    n_first = (limit - 1) * 2 // 3
    n_last = limit - 1 - n_first
    return f"{line[:n_first]}…{line[len(line) - n_last :]}"


def list_words(words: Iterable[str], most: int = 5) -> str:
    """The first words with commas between them, and ``…`` for the rest."""
    known = list(words)
    return ", ".join([*known[:most], *(["…"] if len(known) > most else [])])
