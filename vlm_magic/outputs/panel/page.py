"""The code and the style sheet that the panel's page gets: our hand-written files, joined and deflated.

Each cell's panel carries its code, as a widget does: deflated it is 34 kB instead of 92.
Neighbours: ``static/`` holds the files, `widget` and `stop_bar` hand them to the page.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from functools import cache

from vlm_magic.outputs.styles import STATIC, style_sheet

__all__ = ["packed_page", "page_code", "page_style"]

_MODULES = (
    "state.mjs",
    "store.mjs",
    "parts.mjs",
    "composer.mjs",
    "region.mjs",
    "menus.mjs",
    "waiting.mjs",
    "turns.mjs",
    "chat.mjs",
)  # in order


@cache
def packed_page(*modules: str) -> str:
    """A page's code and style as one module that unpacks itself.

    Args:
        modules: files of ``static/`` in their order; those of the panel if not given.
    """
    page = json.dumps({"code": page_code(*modules), "style": page_style()})
    packed = base64.b64encode(zlib.compress(page.encode(), 9)).decode()
    return _bare("packed.mjs").replace('PACKED = ""', f'PACKED = "{packed}"', 1)


@cache
def page_code(*modules: str) -> str:
    """A page's modules as one, since a widget's code has no address to import others from.

    Args:
        modules: files of ``static/`` in their order; those of the panel if not given.
    """
    joined = "\n".join(re.sub(r"(?m)^import .*;\n", "", _bare(name)) for name in modules or _MODULES)
    return re.sub(r"(?m)^export (?!default)", "", joined)


@cache
def page_style() -> str:
    """The style sheet of transcript and panel together."""
    return style_sheet("transcript", "chat", "region", "menus")


def _bare(name: str) -> str:
    """A file of ``static/`` without comments and indentation."""
    source = (STATIC / name).read_text(encoding="utf-8")
    return re.sub(r"(?m)^\s*(?://|/\*\*|\*).*\n|^[ \t]+|^\n", "", source)
