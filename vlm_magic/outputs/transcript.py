"""The saved conversation: static HTML, Markdown and plain text that need no kernel and no widget.

The HTML carries its own style sheet, works in light and dark by JupyterLab's variables with
fallbacks, and stays readable where a site strips styles. It hides behind the live panel only while
that panel lives, by a rule in the panel's own style sheet. Nothing in it can run or fetch.
Neighbours: `cards` makes the pieces, `views` publishes the bundles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

from vlm_magic.messages import Exchange, Reply
from vlm_magic.outputs.cards import (
    Thumbnailer,
    badges,
    examples_html,
    examples_text,
    in_brackets,
    proof_items,
    question_html,
    question_text,
    speaker,
)
from vlm_magic.outputs.choices import choices_html, choices_markdown, choices_plain
from vlm_magic.outputs.markdown import clean_text, plain_html, to_html, to_safe_markdown

__all__ = [
    "base_css",
    "conversation_bundle",
    "exchange_bundle",
    "growing_bundle",
    "proof_html",
    "squeezed_css",
]

_STATIC = Path(__file__).parent / "static"
_MAX_PICTURE_CHARS = 1_500_000  # of all thumbnails of one saved output


def exchange_bundle(
    exchange: Exchange, *, thumbnail: Thumbnailer | None = None, model: str = ""
) -> dict[str, str]:
    """One question with its answer, as the formats that a notebook can save.

    Args:
        exchange: what to show; a missing reply shows the question alone.
        thumbnail: makes the data URI of a picture; None keeps pictures out of the file.
        model: name of the model where the reply does not say.

    Returns:
        ``text/html``, ``text/markdown`` and ``text/plain``. The same exchange gives the same bundle.
    """
    return _bundle([exchange], "", thumbnail, model)


def conversation_bundle(
    exchanges: Sequence[Exchange], name: str = "", *, thumbnail: Thumbnailer | None = None, model: str = ""
) -> dict[str, str]:
    """A whole conversation, oldest first, in the same formats.

    Args:
        exchanges: in the order of the conversation.
        name: what the conversation is called; shown above it.
        thumbnail: makes the data URI of a picture; None keeps pictures out of the file.
        model: name of the model where a reply does not say.
    """
    return _bundle(exchanges, name or "Conversation", thumbnail, model)


def growing_bundle(
    exchange: Exchange, text: str, *, thumbnail: Thumbnailer | None = None, model: str = ""
) -> dict[str, str]:
    """A question with the part of its answer that there is so far, for plain output that grows."""
    question = _exchange_html(Exchange(exchange.id, exchange.parts), _bounded(thumbnail), model)
    name = escape(clean_text(model)) or "Model"
    answer = f'<div class="vlm-turn vlm-model"><p class="vlm-role"><b>{name}</b></p>{plain_html(text)}</div>'
    return {
        "text/html": f'<style>{base_css()}</style><div class="vlm vlm-transcript">{question}{answer}</div>',
        "text/plain": clean_text(text),
    }


def _bundle(
    exchanges: Sequence[Exchange], title: str, thumbnail: Thumbnailer | None, model: str
) -> dict[str, str]:
    bounded = _bounded(thumbnail)
    return {
        "text/html": _html(exchanges, title, bounded, model),
        "text/markdown": _markdown(exchanges, title, model),
        "text/plain": _plain(exchanges, title, model),
    }


def _bounded(thumbnail: Thumbnailer | None) -> Thumbnailer | None:
    """The same thumbnails, until their bytes are used up; later ones are captions."""
    if thumbnail is None:
        return None
    left = _MAX_PICTURE_CHARS

    def bounded(picture: object) -> str:
        nonlocal left
        src = thumbnail(picture)  # type: ignore[arg-type]
        if len(src) > left:
            return ""
        left -= len(src)
        return src

    return bounded


@cache
def squeezed_css(name: str) -> str:
    """One of our style sheets without comments and needless spaces."""
    css = (_STATIC / name).read_text(encoding="utf-8")
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    return re.sub(r"\s*([{};,])\s*", r"\1", re.sub(r"\s+", " ", css)).strip()


def base_css() -> str:
    """The style sheet that panel and transcript share."""
    return squeezed_css("transcript.css")


def _html(exchanges: Iterable[Exchange], title: str, thumbnail: Thumbnailer | None, model: str) -> str:
    turns = "".join(_exchange_html(exchange, thumbnail, model) for exchange in exchanges)
    heading = f'<p class="vlm-title"><b>{escape(clean_text(title))}</b></p>' if title else ""
    if title and not turns:
        turns = '<p class="vlm-empty">No turns yet.</p>'
    return f'<style>{base_css()}</style><div class="vlm vlm-transcript">{heading}{turns}</div>'


def _exchange_html(exchange: Exchange, thumbnail: Thumbnailer | None, model: str) -> str:
    question = examples_html(exchange.examples, thumbnail) + question_html(
        exchange.parts, thumbnail, exchange.picture_tokens
    )
    html = (
        '<div class="vlm-turn vlm-user"><p class="vlm-role"><b>You</b></p>'
        f'<div class="vlm-body">{question}</div></div>'
    )
    if exchange.reply is None:
        return html
    marks = "".join(f" {in_brackets(_badge(mark))}" for mark in badges(exchange))
    name = escape(speaker(exchange.reply, model))
    return html + (
        f'<div class="vlm-turn vlm-model"><p class="vlm-role"><b>{name}</b>{marks}</p>'
        f'<div class="vlm-body">{to_html(exchange.reply.text)}</div>{proof_html(exchange.reply)}</div>'
    )


def _badge(mark: str) -> str:
    return f'<span class="vlm-badge">{escape(mark)}</span>'


def proof_html(reply: Reply) -> str:
    """What stands under an answer: the choices that it was chosen among, its figures, and remarks."""
    figures = '<span class="vlm-dot"> · </span>'.join(
        f'<span class="vlm-figure">{escape(item)}</span>' for item in proof_items(reply)
    )
    notes = "".join(f'<p class="vlm-note"><small>{escape(clean_text(n))}</small></p>' for n in reply.notes)
    return f'{choices_html(reply.choices)}<p class="vlm-proof"><small>{figures}</small></p>{notes}'


def _markdown(exchanges: Iterable[Exchange], title: str, model: str) -> str:
    """Markdown that is inert in renderers that allow HTML; pictures by name, their data is in the HTML."""
    blocks = [f"## {_literal(title)}"] if title else []
    for exchange in exchanges:
        question = examples_text(exchange.examples) + question_text(exchange.parts, exchange.picture_tokens)
        blocks += ["**You**", _literal(question)]
        if exchange.reply is None:
            continue
        marks = "".join(f" *({_literal(mark)})*" for mark in badges(exchange))
        blocks += [
            f"**{_literal(speaker(exchange.reply, model))}**{marks}",
            to_safe_markdown(exchange.reply.text),
        ]
        blocks.append(choices_markdown(exchange.reply.choices))
        blocks.append(f"*{_literal(' · '.join(proof_items(exchange.reply)))}*")
        blocks += [f"*{_literal(note)}*" for note in exchange.reply.notes]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _literal(text: str) -> str:
    """Words that Markdown shows as they stand."""
    from vlm_magic.outputs.safe_markdown import literal

    return literal(text)


def _plain(exchanges: Iterable[Exchange], title: str, model: str) -> str:
    lines = [title, "=" * len(title)] if title else []
    for exchange in exchanges:
        if lines:
            lines.append("")
        lines.append(
            f"You: {examples_text(exchange.examples)}{question_text(exchange.parts, exchange.picture_tokens)}"
        )
        if exchange.reply is None:
            continue
        reply = exchange.reply
        lines.append(f"{speaker(reply, model)}: {clean_text(reply.text)}")
        if reply.choices:
            lines.append(choices_plain(reply.choices))
        figures = " · ".join([*proof_items(reply), *badges(exchange)])
        lines.append(f"[{figures}]")
        lines += [f"[{clean_text(note)}]" for note in reply.notes]
    return "\n".join(lines)
