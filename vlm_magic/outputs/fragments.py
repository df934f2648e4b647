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
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.wording import count_words, shorten

__all__ = [
    "Thumbnailer",
    "badges",
    "ending",
    "examples_html",
    "examples_text",
    "in_brackets",
    "lines_html",
    "picture_label",
    "proof_items",
    "question_html",
    "question_text",
    "speaker",
    "stands_above",
    "thumbnail_src",
    "waiting_text",
]

Thumbnailer: TypeAlias = Callable[[Picture], str]
"""Gives a small picture as a data URI, or "" where there is none to show."""

_RASTER = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_MAX_THUMBNAIL_CHARS = 60_000  # of one data URI; ours have about 10,000
_MAX_NAME_CHARS = 60
_MAX_EXAMPLES = 6  # that are shown one by one
_MAX_LARGE = 4  # pictures of a question; more are shown smaller
_MAX_LINES = 14  # of a question that is not folded
_MAX_WORDS_CHARS = 1_200
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
    return shorten(clean_text(picture.name), _MAX_NAME_CHARS) or "picture"


def _picture_facts(picture: Picture, n_tokens: int | None) -> list[str]:
    """Its size in pixels and tokens, each in a few words; that its pixels are gone."""
    if picture.image is None:
        return ["no longer on this machine"] if picture.is_lost else []
    size = "{}×{} px".format(*picture.size_px)
    return [size] if n_tokens is None else [size, count_words(n_tokens, "token")]


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
    lead = f"After {count_words(n, 'example')}:"
    return f'<p class="vlm-examples"><small>{lead} {"".join(pieces)}{more}</small></p>'


def examples_text(examples: Sequence[Turn]) -> str:
    """The same in words, a line; "" without any."""
    if not examples:
        return ""
    n = _n_examples(examples)
    answers = [_brief(turn.text) for turn in examples if turn.role == "assistant"][:_MAX_EXAMPLES]
    more = "; …" if n > _MAX_EXAMPLES else ""
    return f"[after {count_words(n, 'example')}: {'; '.join(answers)}{more}]\n"


def _n_examples(examples: Sequence[Turn]) -> int:
    return sum(turn.role == "user" for turn in examples)


def _brief(text: str) -> str:
    return shorten(clean_text(text), _MAX_NAME_CHARS)


def question_html(
    parts: Iterable[Part], thumbnail: Thumbnailer | None = None, tokens: Sequence[int] = ()
) -> str:
    """What the person asked: the words with a number for each picture, the thumbnails in a row below them.

    Args:
        parts: words and pictures in their order.
        thumbnail: makes the data URI of a picture; None shows captions alone.
        tokens: of each picture, in order; () where nobody knows.
    """
    asked = _merged(parts)
    pictures = [part for part in asked if isinstance(part, Picture)]
    has_words = any(part.text.strip() for part in asked if isinstance(part, Text))
    known, size_px = iter(tokens), 160 if len(pictures) <= _MAX_LARGE else 96
    words, row, n = "", "", 0
    for part in asked:
        if isinstance(part, Text):
            words += _words_html(part.text)
        else:
            n += 1
            words += _number(n, title=picture_label(part))
            row += _picture_html(part, thumbnail, next(known, None), n if has_words else 0, size_px)
    words = f'<div class="vlm-words" dir="auto">{words.strip()}</div>' if has_words else ""
    return words + (f'<div class="vlm-shots">{row}</div>' if row else "")


def _merged(parts: Iterable[Part]) -> list[Part]:
    """The same with words that stand beside each other as one: a name in braces cuts a text into several."""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and merged and isinstance(merged[-1], Text):
            merged[-1] = Text(merged[-1].text + part.text)
        else:
            merged.append(part)
    return merged


def _number(n: int, before: str = "(", after: str = ")", title: str = "") -> str:
    """Picture number n, in a small circle; in words where a site strips styles, and for screen readers."""
    hint = f' title="{escape(title)}"' if title else ""
    return f'<span class="vlm-no"{hint}><small>{before}picture </small>{n}<small>{after}</small></span>'


def _words_html(text: str) -> str:
    """Words as they stand; the middle of a long text is folded, and opens without a script."""
    text = clean_text(text)
    start, end = _fold(text)
    if start == end:
        return lines_html(text)
    middle = text[start:end].strip("\n")
    n_lines = middle.count("\n") + 1
    more = count_words(n_lines, "more line") if n_lines > 2 else count_words(len(middle), "more character")
    return (
        f"{lines_html(text[:start].rstrip())}"
        f'<details class="vlm-more"><summary><small>{more}</small></summary>{lines_html(middle)}</details>'
        f"{lines_html(text[end:].lstrip())}"
    )


def lines_html(text: str) -> str:
    """Plain text as HTML, its line breaks kept."""
    return escape(text).replace("\n", "<br>")


def _fold(text: str) -> tuple[int, int]:
    """Where the folded part of a long text begins and ends, between words; nowhere in a short one."""
    lines = text.split("\n")
    if len(lines) <= _MAX_LINES and len(text) <= _MAX_WORDS_CHARS:
        return 0, 0
    head, tail = "\n".join(lines[:6]), "\n".join(lines[-2:])
    if len(head) > 500:
        head = text[:500].rsplit(None, 1)[0]
    if len(tail) > 250:
        tail = text[-250:].split(None, 1)[-1]
    start, end = len(head), len(text) - len(tail)
    return (start, end) if start < end else (0, 0)


def _picture_html(
    picture: Picture, thumbnail: Thumbnailer | None, n_tokens: int | None, number: int, size_px: int
) -> str:
    """One thumbnail with its caption; the sizes are attributes, for sites that strip styles."""
    label = escape(picture_label(picture, n_tokens))
    title = escape(clean_text(picture.note))
    src = thumbnail_src(picture, thumbnail)
    note = f' title="{title}"' if title else ""
    mark = _number(number, "", ": ") if number else ""
    if not src:
        return f'<span class="vlm-pic vlm-pic-missing"{note}>{mark}[picture: {label}] </span>'
    size = _fit(picture, size_px)
    name = escape(_picture_name(picture))
    facts = "".join(f', <span class="vlm-fact">{fact}</span>' for fact in _picture_facts(picture, n_tokens))
    caption = in_brackets(f"<small>{mark}{name}{facts}</small>")
    return (
        f'<span class="vlm-pic" style="{_PIC_STYLE}"{note}><img src="{src}" alt="picture {name}"{size}>'
        f'<span class="vlm-cap" style="{_CAP_STYLE}">{caption}</span></span>'
    )


def stands_above(exchange: Exchange, prompt: str | None) -> bool:
    """Whether a question need not be repeated below its cell: words alone, and the cell says the same.

    Args:
        exchange: the question.
        prompt: what stands right above, such as the text of the cell; None for nothing.
    """
    if prompt is None or exchange.examples or exchange.pictures:
        return False
    return question_text(exchange.parts).split() == clean_text(prompt).split()


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
    n_choices, n_tokens = len(reply.choices), reply.n_new_tokens
    thought = f" ({reply.n_thinking_tokens:,} thinking)" if reply.n_thinking_tokens else ""
    items = [count_words(n_choices, "choice") if n_choices else count_words(n_tokens, "token") + thought]
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
        items.append(f"prompt {count_words(reply.n_prompt_tokens, 'token')}{inside}")
    return items


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
        case "load":
            return f"Loading the starter ({100 * done // total} %)" if total else "Loading the starter"
        case "queued":
            return f"Waiting for {count_words(done, 'answer')} before this one" if done else "Waiting in line"
        case "pictures":
            return f"Preparing pictures ({done} of {total})" if total else "Preparing pictures"
        case "prefill":
            return f"Reading the prompt ({100 * done // total} %)" if total else "Reading the prompt"
        case _:
            return "Answering"
