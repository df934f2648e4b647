"""Words for what is drawn: "a red circle", "squares", "a star, a cross and a diamond".

Knows nothing of questions. Neighbours: `edits` says what changed with it, the askers say everything with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_magic.starter.making.world.things import Thing

__all__ = ["an", "listing", "name_of", "plural"]


def an(noun: str) -> str:
    """The noun with its article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def listing(phrases: Sequence[str]) -> str:
    """'a, b and c'."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def name_of(thing: Thing) -> str:
    """'red circle'."""
    return f"{thing.colour} {thing.shape}"


def plural(noun: str) -> str:
    """'circles', 'crosses'."""
    return noun + ("es" if noun.endswith(("s", "x")) else "s")
