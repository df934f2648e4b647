"""What is loaded and which conversations there are, as a person sees it: the answer of ``%vlm_status``.

Knows lines of words, not engines or sessions. Neighbours: `styles` has the frame; the shell is the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vlm_magic.outputs.markdown.html import clean_text
from vlm_magic.outputs.styles import framed

__all__ = ["StatusLine", "status_bundle"]

_NO_MODEL = "no model is loaded; %vlm_load loads the starter"


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One model or one conversation.

    Attributes:
        text: what it is, in words.
        is_current: whether it is the one in use.
    """

    text: str
    is_current: bool


def status_bundle(models: Sequence[StatusLine], conversations: Sequence[StatusLine]) -> dict[str, str]:
    """Models and conversations as a mimebundle: html and plain text, each with a mark at those in use."""
    plain = [_plain(line) for line in models] or [_NO_MODEL]
    html = [_html("Models", models) or f'<p class="vlm-note"><small>{escape(_NO_MODEL)}</small></p>']
    html.append(_html("Conversations", conversations))
    return {
        "text/html": framed("".join(html), "overview"),
        "text/plain": "\n".join([*plain, *map(_plain, conversations)]),
    }


def _plain(line: StatusLine) -> str:
    return f"{'*' if line.is_current else ' '} {clean_text(line.text)}"


def _html(heading: str, lines: Sequence[StatusLine]) -> str:
    if not lines:
        return ""
    items = "".join(
        f"<li>{escape(clean_text(line.text))}"
        + (' <span class="vlm-badge">in use</span>' if line.is_current else "")
        + "</li>"
        for line in lines
    )
    return (
        f'<div class="vlm-turn"><p class="vlm-role"><b>{heading}</b></p>'
        f'<div class="vlm-body"><ul>{items}</ul></div></div>'
    )
