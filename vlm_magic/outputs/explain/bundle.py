"""An explanation as what a notebook saves: static HTML, one PNG, words. Begin here.

Neighbours: a module for each view makes its part; `styles` has the frame.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from vlm_magic.messages import Exchange
from vlm_magic.outputs.explain.layers import layers_html, layers_plain
from vlm_magic.outputs.explain.marked import png_bytes, side_by_side
from vlm_magic.outputs.explain.memory import memory_html, memory_plain
from vlm_magic.outputs.explain.needed import needed_html, needed_images, needed_plain
from vlm_magic.outputs.explain.pieces import note, quoted
from vlm_magic.outputs.explain.tokens import tokens_html, tokens_images, tokens_plain
from vlm_magic.outputs.explain.without import without_html, without_plain
from vlm_magic.outputs.explain.words import words_html, words_plain
from vlm_magic.outputs.fragments import question_text
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import shorten

__all__ = ["explanation_bundle", "explanation_png", "waiting_bundle"]

_HTML: dict[str, Callable[[Any, bool], str]] = {
    "needed": lambda found, pictures: needed_html(found, pictures=pictures),
    "without": lambda found, pictures: without_html(found, pictures=pictures),
    "words": lambda found, pictures: words_html(found),
    "tokens": lambda found, pictures: tokens_html(found, pictures=pictures),
    "memory": lambda found, pictures: memory_html(found),
    "layers": lambda found, pictures: layers_html(found),
}
_PLAIN: dict[str, Callable[[Any], str]] = {
    "needed": needed_plain,
    "without": without_plain,
    "words": words_plain,
    "tokens": tokens_plain,
    "memory": memory_plain,
    "layers": layers_plain,
}


def explanation_bundle(
    exchange: Exchange,
    views: Mapping[str, Any],
    model: str = "",
    notes: Sequence[str] = (),
    *,
    pictures: bool = True,
    is_beside_panel: bool = False,
) -> dict[str, str]:
    """The views of an answer as a mimebundle: html, plain text and, where there are pictures, png.

    Args:
        exchange: the question with the answer.
        views: what each view found, by its name.
        model: who was asked.
        notes: remarks.
        pictures: whether pictures are kept.
        is_beside_panel: whether the live panel of the answer may make its words buttons.
    """
    asked = shorten(clean_text(question_text(exchange.parts)), 120)
    said = quoted(str(exchange.reply.text)) if exchange.reply is not None else ""
    lead = f"{asked} → {said}"
    html = (
        f'<p class="vlm-title"><b>Why this answer?</b> {escape(lead)}</p>'
        + "".join(_HTML[name](found, pictures) for name, found in views.items())
        + (f'<div class="vlm-turn">{"".join(map(note, notes))}</div>' if notes else "")
    )
    plain = [f"Why this answer? {lead}", *(_PLAIN[name](found) for name, found in views.items()), *notes]
    about = {"turn": exchange.id, "said": clean_text(str(exchange.reply))} if is_beside_panel else {}
    bundle = {
        "text/html": framed(html, "explain", sheet="explain", data=about),
        "text/plain": "\n".join(plain),
    }
    png = explanation_png(views) if pictures else b""
    if png:
        bundle["image/png"] = base64.b64encode(png).decode("ascii")
    return bundle


def explanation_png(views: Mapping[str, Any]) -> bytes:
    """The drawn pictures of all views beside each other as one PNG; empty where there are none."""
    images = needed_images(views["needed"]) if "needed" in views else []
    images += tokens_images(views["tokens"]) if "tokens" in views else []
    return png_bytes(side_by_side(images)) if images else b""


def waiting_bundle(view: str, done: int, total: int) -> dict[str, str]:
    """How far the looking is, while somebody waits for it."""
    line = f"Looking at {view}: {done} of about {total} questions" if total else f"Looking at {view}"
    bar = f'<progress max="{max(1, total)}" value="{done}"></progress>' if total else ""
    html = f'<div class="vlm-turn"><p>{escape(line)} {bar}</p></div>'
    return {"text/html": framed(html, "explain", sheet="explain"), "text/plain": line}
