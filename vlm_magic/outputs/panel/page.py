"""The code and the style sheet that the panel's page gets: our hand-written files, joined and squeezed.

Neighbours: ``static/`` holds the files, `panel` hands them to the page.
"""

from __future__ import annotations

import re
from functools import cache

from vlm_magic.outputs.styles import STATIC, style_sheet

__all__ = ["page_code", "page_style"]

_MODULES = (
    "state.mjs",
    "parts.mjs",
    "composer.mjs",
    "region.mjs",
    "menus.mjs",
    "waiting.mjs",
    "turns.mjs",
    "chat.mjs",
)  # in order


@cache
def page_code(*modules: str) -> str:
    """A page's modules as one, since a widget's code has no address to import others from.

    Args:
        modules: files of ``static/`` in their order; those of the panel if not given.
    """
    sources = [(STATIC / name).read_text(encoding="utf-8") for name in modules or _MODULES]
    joined = "\n".join(re.sub(r"(?m)^import .*;\n", "", source) for source in sources)
    bare = re.sub(r"(?m)^\s*(?://|/\*\*|\*).*\n|^[ \t]+|^\n", "", joined)  # no comments, no indentation
    return re.sub(r"(?m)^export (?!default)", "", bare)


@cache
def page_style() -> str:
    """The style sheet of transcript and panel together."""
    return style_sheet("transcript", "chat", "region", "menus")
