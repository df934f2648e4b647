"""The pieces that every view of an exchange is made of: question, answer, figures, remarks.

The live panel and the saved transcript show the same pieces, so they look alike. All HTML that
comes out of here is inert: what a person or a variable wrote is escaped, what a model wrote goes
through `markdown`, and a picture is only ever raster data that this package made itself.
Pure functions; knows nothing of widgets, and not how a thumbnail is made.
Neighbours: `transcript` and `panel` call this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TypeAlias

from vlm_magic.messages import Exchange, Part, Picture, Progress, Reply, Text, Turn
from vlm_magic.outputs.parsing import clean_text

__all__ = [
    "Thumbnailer",
    "badges",
    "ending",
    "examples_html",
    "examples_text",
    "in_brackets",
    "picture_label",
    "proof_items",
    "question_html",
    "question_text",
    "speaker",
    "thumbnail_src",
    "waiting_text",
]

Thumbnailer: TypeAlias = Callable[[Picture], str]
"""Gives a small picture as a data URI, or "" where there is none to show."""

_RASTER = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_MAX_THUMBNAIL_CHARS = 60_000  # of one data URI; ours have about 10,000
_MAX_NAME_CHARS = 60
_MAX_EXAMPLES = 6  # that are shown one by one
_PIC_STYLE = "display:inline-block;vertical-align:middle"  # where the style sheet is stripped, these stay
_CAP_STYLE = "display:block"

_ENDINGS = {
    "stop": "",
    "length": "cut off at the token limit",
    "interrupted": "stopped",
    "time": "stopped at the time limit",
}


def picture_label(picture: Picture, n_tokens: int | None = None) -> str:
    """How a picture is called in words: its name, its size in pixels and, where known, in tokens."""
    return ", ".join([_picture_name(picture), *_picture_facts(picture, n_tokens)])


def _picture_name(picture: Picture) -> str:
    name = " ".join(clean_text(picture.name).split()) or "picture"
    return name if len(name) <= _MAX_NAME_CHARS else f"{name[:38]}…{name[-20:]}"


def _picture_facts(picture: Picture, n_tokens: int | None) -> list[str]:
    """Its size in pixels and tokens, each in a few words; that its pixels are gone."""
    if picture.image is None:
        return ["no longer on this machine"] if picture.is_lost else []
    size = "{}×{} px".format(*picture.size_px)
    return [size] if n_tokens is None else [size, _count(n_tokens, "token")]


def examples_html(examples: Sequence[Turn], thumbnail: Thumbnailer | None = None) -> str:
    """The few-shot examples before a question, small: each picture with its answer; "" without any."""
    if not examples:
        return ""
    pieces = []
    for turn in examples[: 2 * _MAX_EXAMPLES]:
        if turn.role == "assistant":
            pieces.append(f'<span class="vlm-example-answer">{escape(_brief(turn.text))}</span> ')
            continue
        for picture in turn.pictures:
            src, label = thumbnail_src(picture, thumbnail), escape(picture_label(picture))
            size = _fit(picture, 40)
            pieces.append(f'<img src="{src}" alt="{label}" title="{label}"{size}> ' if src else f"[{label}] ")
    n = _n_examples(examples)
    more = f"and {n - _MAX_EXAMPLES} more" if n > _MAX_EXAMPLES else ""
    lead = f"After {_count(n, 'example')}:"
    return f'<p class="vlm-examples"><small>{lead} {"".join(pieces)}{more}</small></p>'


def examples_text(examples: Sequence[Turn]) -> str:
    """The same in words, a line; "" without any."""
    if not examples:
        return ""
    n = _n_examples(examples)
    answers = [_brief(turn.text) for turn in examples if turn.role == "assistant"][:_MAX_EXAMPLES]
    more = "; …" if n > _MAX_EXAMPLES else ""
    return f"[after {_count(n, 'example')}: {'; '.join(answers)}{more}]\n"


def _n_examples(examples: Sequence[Turn]) -> int:
    return sum(turn.role == "user" for turn in examples)


def _brief(text: str) -> str:
    words = " ".join(clean_text(text).split())
    return words if len(words) <= _MAX_NAME_CHARS else f"{words[: _MAX_NAME_CHARS - 1]}…"


def question_html(
    parts: Iterable[Part], thumbnail: Thumbnailer | None = None, tokens: Sequence[int] = ()
) -> str:
    """What the person asked: words as they stand, thumbnails in their place.

    Args:
        parts: words and pictures in their order.
        thumbnail: makes the data URI of a picture; None shows captions alone.
        tokens: of each picture, in order; () where nobody knows.
    """
    known = iter(tokens)
    return "".join(
        _words_html(part.text)
        if isinstance(part, Text)
        else _picture_html(part, thumbnail, next(known, None))
        for part in parts
    ).strip()


def _words_html(text: str) -> str:
    return escape(clean_text(text)).replace("\n", "<br>")


def _picture_html(picture: Picture, thumbnail: Thumbnailer | None, n_tokens: int | None) -> str:
    """One thumbnail with its caption; the sizes are attributes, for sites that strip styles."""
    label = escape(picture_label(picture, n_tokens))
    title = escape(clean_text(picture.note))
    src = thumbnail_src(picture, thumbnail)
    note = f' title="{title}"' if title else ""
    if not src:
        return f'<span class="vlm-pic vlm-pic-missing"{note}>[picture: {label}]</span>'
    size = _fit(picture, 160)
    name = escape(_picture_name(picture))
    facts = "".join(f', <span class="vlm-fact">{fact}</span>' for fact in _picture_facts(picture, n_tokens))
    caption = in_brackets(f"<small>{name}{facts}</small>")
    return (
        f'<span class="vlm-pic" style="{_PIC_STYLE}"{note}><img src="{src}" alt="picture {name}"{size}>'
        f'<span class="vlm-cap" style="{_CAP_STYLE}">{caption}</span></span>'
    )


def in_brackets(html: str) -> str:
    """What stands apart by its looks stands in brackets where a site strips the style sheet."""
    return f'<span class="vlm-bracket"> (</span>{html}<span class="vlm-bracket">) </span>'


def thumbnail_src(picture: Picture, thumbnail: Thumbnailer | None) -> str:
    """The data URI of a thumbnail if it is raster data of a modest size, else ""."""
    if thumbnail is None:
        return ""
    try:
        src = thumbnail(picture)
    except Exception:  # a picture without pixels; its caption says what it was
        return ""
    return src if len(src) <= _MAX_THUMBNAIL_CHARS and _RASTER.fullmatch(src) else ""


def _fit(picture: Picture, longest_px: int) -> str:
    """The width and height attributes of a thumbnail."""
    if picture.image is None:
        return ""
    width, height = picture.size_px
    scale = min(1.0, longest_px / max(width, height, 1))
    return f' width="{max(1, round(width * scale))}" height="{max(1, round(height * scale))}"'


def question_text(parts: Iterable[Part], tokens: Sequence[int] = ()) -> str:
    """What the person asked, in words alone; ``tokens`` as for `question_html`."""
    known = iter(tokens)
    words = (
        clean_text(part.text)
        if isinstance(part, Text)
        else f"[picture: {picture_label(part, next(known, None))}]"
        for part in parts
    )
    return "".join(words).strip()


def speaker(reply: Reply, model: str = "") -> str:
    """Who answered, on one line."""
    return " ".join(clean_text(reply.model or model).split()) or "Model"


def ending(reply: Reply) -> str:
    """Why an answer ended, in words; "" where it ended by itself."""
    return _ENDINGS.get(reply.finish_reason, reply.finish_reason)


def proof_items(reply: Reply) -> list[str]:
    """The figures of an answer, most interesting first, each in a few words."""
    items = [f"{len(reply.choices)} choices" if reply.choices else _count(reply.n_new_tokens, "token")]
    if reply.total_s:
        items.append(f"{reply.total_s:.1f} s")
    if reply.tokens_per_s:
        items.append(f"{reply.tokens_per_s:.{0 if reply.tokens_per_s >= 10 else 1}f} tokens/s")
    if reply.n_prompt_tokens:
        details = []
        if reply.n_picture_tokens:
            details.append(f"{reply.n_picture_tokens:,} for pictures")
        if reply.n_reused_tokens:
            details.append(f"{reply.n_reused_tokens:,} reused")
        inside = f" ({', '.join(details)})" if details else ""
        items.append(f"prompt {_count(reply.n_prompt_tokens, 'token')}{inside}")
    return items


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def badges(exchange: Exchange) -> list[str]:
    """Short marks that stand beside an answer: how it ended, whether it is stale."""
    marks = [ending(exchange.reply)] if exchange.reply is not None else []
    if exchange.is_stale:
        marks.append("stale: an earlier turn has changed since")
    return [mark for mark in marks if mark]


def waiting_text(progress: Progress | None) -> str:
    """What an answer is waiting for, in words."""
    if progress is None:
        return "Starting"
    done, total = progress.done, progress.total
    match progress.stage:
        case "queued":
            return f"Waiting for {_count(done, 'answer')} before this one" if done else "Waiting in line"
        case "pictures":
            return f"Preparing pictures ({done} of {total})" if total else "Preparing pictures"
        case "prefill":
            return f"Reading the prompt ({100 * done // total} %)" if total else "Reading the prompt"
        case _:
            return "Answering"
