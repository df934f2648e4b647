"""The code and the style sheet that the panel's page gets: our hand-written files, joined and squeezed.

Neighbours: ``static/`` holds the files, `panel` hands them to the page.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from vlm_magic.outputs.transcript import squeezed_css

__all__ = ["page_code", "page_style"]

_STATIC = Path(__file__).parent / "static"
_MODULES = (
    "state.mjs",
    "parts.mjs",
    "turns.mjs",
    "composer.mjs",
    "chat.mjs",
)  # in order


@cache
def page_code() -> str:
    """The page's modules as one, since a widget's code has no address to import others from."""
    sources = [(_STATIC / name).read_text(encoding="utf-8") for name in _MODULES]
    joined = "\n".join(re.sub(r"(?m)^import .*;\n", "", source) for source in sources)
    bare = re.sub(r"(?m)^\s*(?://|/\*\*|\*).*\n|^[ \t]+|^\n", "", joined)  # no comments, no indentation
    return re.sub(r"(?m)^export (?!default)", "", bare)


@cache
def page_style() -> str:
    """The style sheet of transcript and panel together."""
    return squeezed_css("transcript.css") + squeezed_css("chat.css")
