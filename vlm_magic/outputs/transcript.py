"""The saved conversation: static HTML, Markdown and plain text that need no kernel and no widget.

The HTML carries its own style sheet, works in light and dark by JupyterLab's variables with
fallbacks, and stays readable where a site strips styles. It hides behind the live panel only while
that panel lives, by a rule in the panel's own style sheet. Nothing in it can run or fetch.
Neighbours: `fragments` makes the pieces, `answer_views` publishes the bundles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from vlm_magic.messages import Exchange, Part, Reply, Text
from vlm_magic.outputs.fragments import (
    Thumbnailer,
    badges,
    examples_html,
    examples_text,
    in_brackets,
    proof_items,
    question_html,
    question_text,
    speaker,
    stands_above,
    thumbnail_src,
)
from vlm_magic.outputs.markdown.html import clean_text, plain_html, to_html, to_safe_markdown
from vlm_magic.outputs.results.choices import choices_html, choices_markdown, choices_plain
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import count_words

__all__ = [
    "conversation_bundle",
    "exchange_bundle",
    "growing_bundle",
    "proof_html",
]

_MAX_PICTURE_CHARS = 1_500_000  # of all thumbnails of one saved output


def exchange_bundle(
    exchange: Exchange,
    *,
    thumbnail: Thumbnailer | None = None,
    model: str = "",
    prompt_above: str | None = None,
) -> dict[str, str]:
    """One question with its answer, as the formats that a notebook can save.

    Args:
        exchange: what to show; a missing reply shows the question alone.
        thumbnail: makes the data URI of a picture; None keeps pictures out of the file.
        model: name of the model where the reply does not say.
        prompt_above: the prompt that stands right above the output, as in a cell: a question of these words
            alone is left out of HTML and Markdown. The plain text, which is also read elsewhere, is whole.

    Returns:
        ``text/html``, ``text/markdown`` and ``text/plain``. The same exchange gives the same bundle.
    """
    bundle = _bundle([exchange], "", thumbnail, model)
    if stands_above(exchange, prompt_above):
        bundle["text/html"] = framed(_answer_html(exchange, model))
        bundle["text/markdown"] = _joined(_answer_markdown(exchange, model))
    return bundle


def conversation_bundle(
    exchanges: Sequence[Exchange],
    name: str = "",
    *,
    thumbnail: Thumbnailer | None = None,
    model: str = "",
    pictures_in_markdown: bool = False,
) -> dict[str, str]:
    """A whole conversation, oldest first, in the same formats.

    Args:
        exchanges: in the order of the conversation.
        name: what the conversation is called; shown above it.
        thumbnail: makes the data URI of a picture; None keeps pictures out of the file.
        model: name of the model where a reply does not say.
        pictures_in_markdown: whether the Markdown has the thumbnails as well, for a file of its own; in a
            notebook the HTML stands beside it.
    """
    bundle = _bundle(exchanges, name or "Conversation", thumbnail, model)
    if pictures_in_markdown:
        bundle["text/markdown"] = _markdown(exchanges, name or "Conversation", model, _bounded(thumbnail))
    return bundle


def growing_bundle(
    exchange: Exchange,
    text: str,
    *,
    thumbnail: Thumbnailer | None = None,
    model: str = "",
    prompt_above: str | None = None,
) -> dict[str, str]:
    """A question with the part of its answer that there is so far, for plain output that grows."""
    is_above = stands_above(exchange, prompt_above)
    question = "" if is_above else _question_html(exchange, _bounded(thumbnail))
    name = escape(clean_text(model)) or "Model"
    answer = f'<div class="vlm-turn vlm-model"><p class="vlm-role"><b>{name}</b></p>{plain_html(text)}</div>'
    return {
        "text/html": framed(question + answer),
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


def _html(exchanges: Iterable[Exchange], title: str, thumbnail: Thumbnailer | None, model: str) -> str:
    turns = "".join(_exchange_html(exchange, thumbnail, model) for exchange in exchanges)
    heading = f'<p class="vlm-title"><b>{escape(clean_text(title))}</b></p>' if title else ""
    if title and not turns:
        turns = '<p class="vlm-empty">No turns yet.</p>'
    return framed(heading + turns)


def _exchange_html(exchange: Exchange, thumbnail: Thumbnailer | None, model: str) -> str:
    return _question_html(exchange, thumbnail) + _answer_html(exchange, model)


def _question_html(exchange: Exchange, thumbnail: Thumbnailer | None) -> str:
    question = examples_html(exchange.examples, thumbnail) + question_html(
        exchange.parts, thumbnail, exchange.picture_tokens
    )
    return (
        '<div class="vlm-turn vlm-user"><p class="vlm-role"><b>You</b></p>'
        f'<div class="vlm-body" dir="auto">{question}</div></div>'
    )


def _answer_html(exchange: Exchange, model: str) -> str:
    if exchange.reply is None:
        return ""
    marks = "".join(f" {in_brackets(_badge(mark))}" for mark in badges(exchange))
    name = escape(speaker(exchange.reply, model))
    return (
        f'<div class="vlm-turn vlm-model"><p class="vlm-role"><b>{name}</b>{marks}</p>'
        f'<div class="vlm-body">{to_html(exchange.reply.text)}</div>{proof_html(exchange.reply)}</div>'
    )


def _badge(mark: str) -> str:
    return f'<span class="vlm-badge">{escape(mark)}</span>'


def proof_html(reply: Reply) -> str:
    """What stands under an answer: choices, its figures, remarks, and folded what was thought before it."""
    figures = _figures_html(proof_items(reply))
    notes = "".join(f'<p class="vlm-note"><small>{escape(clean_text(n))}</small></p>' for n in reply.notes)
    return choices_html(reply.choices) + figures + notes + _thought_html(reply)


def _figures_html(items: Sequence[str]) -> str:
    """Figures in a line: the first two, and the rest folded behind them."""
    pieces = [f'<span class="vlm-figure">{escape(item)}</span>' for item in items]
    dot = '<span class="vlm-dot"> · </span>'
    brief, rest = dot.join(pieces[:2]), dot.join(pieces[2:])
    if not rest:
        return f'<p class="vlm-proof"><small>{brief}</small></p>'
    return (
        f'<details class="vlm-proof"><summary><small>{brief}</small></summary> '
        f"<p><small>{rest}</small></p></details>"
    )


def _thought_html(reply: Reply) -> str:
    """What the model thought before it answered, folded; it opens without a script."""
    if not reply.thinking:
        return ""
    summary = f"Thought before it answered ({count_words(reply.n_thinking_tokens, 'token')})"
    return (
        f'<details class="vlm-thought"><summary><small>{escape(summary)}</small></summary>'
        f"{to_html(reply.thinking)}</details>"
    )


def _markdown(
    exchanges: Iterable[Exchange], title: str, model: str, thumbnail: Thumbnailer | None = None
) -> str:
    """Markdown that is inert in renderers that allow HTML; pictures by name, or as data URIs."""
    blocks = [f"## {_literal(title)}"] if title else []
    for exchange in exchanges:
        asked = _literal(examples_text(exchange.examples))
        asked += _question_markdown(exchange.parts, exchange.picture_tokens, thumbnail)
        blocks += ["**You**", asked.strip(), *_answer_markdown(exchange, model)]
    return _joined(blocks)


def _answer_markdown(exchange: Exchange, model: str) -> list[str]:
    """Who answered, the answer, its choices, figures and remarks, as blocks."""
    reply = exchange.reply
    if reply is None:
        return []
    marks = "".join(f" *({_literal(mark)})*" for mark in badges(exchange))
    return [
        f"**{_literal(speaker(reply, model))}**{marks}",
        to_safe_markdown(reply.text),
        choices_markdown(reply.choices),
        f"*{_literal(' · '.join(proof_items(reply)))}*",
        *(f"*{_literal(note)}*" for note in reply.notes),
    ]


def _joined(blocks: Iterable[str]) -> str:
    return "\n\n".join(block for block in blocks if block) + "\n"


def _question_markdown(parts: Iterable[Part], tokens: Sequence[int], thumbnail: Thumbnailer | None) -> str:
    """What was asked: words as they stand, each picture in its place."""
    if thumbnail is None:
        return _literal(question_text(parts, tokens))
    pieces = []
    for part in parts:
        src = "" if isinstance(part, Text) else thumbnail_src(part, thumbnail)
        if isinstance(part, Text) or not src:
            pieces.append(_literal(question_text([part])))
        else:
            label = re.sub(r"[^\w .,-]", "_", clean_text(part.name))[:60] or "picture"
            pieces.append(f"![{label}]({src})")
    return " ".join(piece for piece in pieces if piece)


def _literal(text: str) -> str:
    """Words that Markdown shows as they stand."""
    from vlm_magic.outputs.markdown.safe_markdown import literal

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
