"""The frame and the style sheets of everything that this package shows: the one place for CSS.

Style sheets are files in ``static/``; a saved output carries those that it needs. `framed` is the outer
element of every saved output, so all of them look alike and front-ends leave their dollars alone.
Neighbours: `transcript`, `panel` and the modules of `results` put their HTML into it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path

__all__ = ["FRAME", "framed", "style_sheet"]

STATIC = Path(__file__).parent / "static"

# MathJax 3 and 4 (JupyterLab, Notebook 7), and MathJax 2 (nbconvert's pages), leave elements of these
# classes alone: "it costs $5 and $10" is no formula, and ours are written as MathML already.
FRAME = "vlm mathjax_ignore tex2jax_ignore"


def framed(
    inner: str, kind: str = "transcript", *, sheet: str = "", data: Mapping[str, str] | None = None
) -> str:
    """HTML in our frame, with the style sheets that it needs.

    Args:
        inner: inert HTML.
        kind: what it is, for the class ``vlm-<kind>``.
        sheet: name of a style sheet beside the one that all share, such as "map".
        data: what a live panel beside it reads, for the attributes ``data-<name>``.
    """
    css = style_sheet("transcript", *([sheet] if sheet else []))
    told = "".join(f' data-{name}="{escape(value)}"' for name, value in (data or {}).items())
    return f'<style>{css}</style><div class="{FRAME} vlm-{kind}"{told}>{inner}</div>'


def style_sheet(*names: str) -> str:
    """Our style sheets of these names, one after the other, without comments and needless spaces."""
    return "".join(map(_squeezed, names))


@cache
def _squeezed(name: str) -> str:
    css = (STATIC / f"{name}.css").read_text(encoding="utf-8")
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return re.sub(r"\s*([{};,])\s*", r"\1", re.sub(r"\s+", " ", css)).strip()
