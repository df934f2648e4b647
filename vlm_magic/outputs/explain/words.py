"""The view of an answer token by token: its probability below each, unsure ones marked, others to choose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from vlm_magic.messages import Likely, SaidToken
from vlm_magic.outputs.explain.pieces import note, plain_table, section, share, table
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.wording import count_words

__all__ = ["words_html", "words_plain"]

UNSURE = 0.7  # a token below it stands out
_MOST_ROWS = 60
_MOST_SHOWN = 600
_BROKEN = "�"  # a token that is a part of a character: as text it names no token


def words_html(words: Sequence[SaidToken]) -> str:
    """The view as HTML: the answer with numbers below, and a table of what else might have come."""
    flow = "".join(_token_html(n, token) for n, token in enumerate(words[:_MOST_SHOWN], start=1))
    heads, rows = _table(words)
    ends = {token.token_id for token in words if token.is_end}
    safe = [
        [*map(escape, row[:-1]), ", ".join(_other_html(n, token, other, ends) for other in token.likeliest)]
        for n, (row, token) in enumerate(zip(rows, words, strict=False), start=1)
    ]
    folded = table(heads, safe, right=(0, 2, 3))
    body = f'<p class="vlm-words">{flow}</p>' + note(_summary(words))
    body += f"<details><summary><small>The five likeliest at each place</small></summary>{folded}</details>"
    return section("Words", "how likely each was, and what else was", body + note(_HOW))


def words_plain(words: Sequence[SaidToken]) -> str:
    """The view in words."""
    return "\n".join([f"Words: {_summary(words)}", *plain_table(*_table(words))])


_HOW = (
    "Underlined with a question mark: less likely than 70 %. An alternative is taken with "
    "%vlm_explain --continue-with N:WORD."
)


def is_unsure(token: SaidToken) -> bool:
    """Whether it stands out."""
    return token.probability < UNSURE


def _token_html(n: int, token: SaidToken) -> str:
    label = escape(_label(token))
    others = "; ".join(map(_likely, token.likeliest))
    entropy = "" if token.entropy_bits is None else f", {token.entropy_bits:.2f} bits"
    title = escape(f"{n}: {share(token.probability)}{entropy}. {others}")
    mark = "?" if is_unsure(token) else ""
    kind = " vlm-unsure" if mark else ""
    word = f"<u>{label}</u>" if mark else label
    return (
        f'<span class="vlm-token{kind}" title="{title}"><span class="vlm-said">{word}</span>'
        f'<small class="vlm-share"> {escape(share(token.probability))}{mark}</small></span> '
    )


def _other_html(place: int, said: SaidToken, other: Likely, ends: set[int]) -> str:
    """A word that might have come, marked where a model can go on from it: a live panel makes it a button."""
    words = escape(_likely(other))
    is_said = other.text == said.text if other.token_id < 0 else other.token_id == said.token_id
    is_whole = other.text.strip() and clean_text(other.text) == other.text and _BROKEN not in other.text
    if is_said or not is_whole or (other.token_id >= 0 and other.token_id in ends):
        return words
    return f'<span class="vlm-other" data-place="{place}" data-word="{escape(other.text)}">{words}</span>'


def _likely(other: Likely) -> str:
    return f"{_written(other.text)} {share(_p(other.log_probability))}"


def _p(log: float) -> float:
    return math.exp(log)


def _label(token: SaidToken) -> str:
    if token.is_end:
        return "end"
    return clean_text(token.text).strip() or "␣"


def _written(text: str) -> str:
    """A token's text in quotation marks, blanks made visible."""
    return "‘" + clean_text(text).replace("\n", "⏎") + "’"


def _summary(words: Sequence[SaidToken]) -> str:
    unsure = [token for token in words if is_unsure(token)]
    least = min(words, key=lambda token: token.log_probability)
    how_many = f"{len(unsure)} of them" if unsure else "none"
    return (
        f"{count_words(len(words), 'token')}, {how_many} below 70 %; the least likely is "
        f"{_written(_label(least))} with {share(least.probability)}."
    )


def _table(words: Sequence[SaidToken]) -> tuple[list[str], list[list[str]]]:
    heads = ["place", "token", "probability", "entropy", "likeliest here"]
    rows = []
    for n, token in enumerate(words[:_MOST_ROWS], start=1):
        likeliest = ", ".join(map(_likely, token.likeliest))
        entropy = "–" if token.entropy_bits is None else f"{token.entropy_bits:.2f} bits"
        mark = " ?" if is_unsure(token) else ""
        rows.append([str(n), _label(token) + mark, share(token.probability), entropy, likeliest])
    return heads, rows
