"""One row of a map as a card: its picture, what was said of it, and whether that is right.

Pure functions. Neighbours: `map` has a sheet of them, `verdicts` shows the wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from vlm_magic.outputs.markdown.html import clean_text

__all__ = ["Card", "card_html", "cut", "one_line"]

_MAX_ANSWER_CHARS = 400


@dataclass(frozen=True, slots=True)
class Card:
    """One row of a map, ready to be shown.

    Attributes:
        label: how the table's index calls the row.
        name: how people call the picture.
        answer: in words; "" where there is none.
        probability: of the answer among its choices; None without choices.
        n_tokens: new tokens.
        seconds: its share of the time.
        error: what went wrong; "" for an answer.
        thumbnail: data URI of a small picture that this package made, or "".
        remark: how the answer ended, where it was cut off.
        is_cut_off: whether the token limit ended it.
        question: what was asked, where each row has a question of its own.
        truth: what is right, in words; "" where nobody knows.
        is_right: whether the answer is the truth; None where one of them is missing.
    """

    label: str
    name: str
    answer: str = ""
    probability: float | None = None
    n_tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    thumbnail: str = ""
    remark: str = ""
    is_cut_off: bool = False
    question: str = ""
    truth: str = ""
    is_right: bool | None = None


def one_line(text: str) -> str:
    """A text without control characters on one line."""
    return " ".join(clean_text(text).split())


def cut(text: str) -> str:
    """The beginning of a long text."""
    text = clean_text(text).strip()
    return text if len(text) <= _MAX_ANSWER_CHARS else f"{text[:_MAX_ANSWER_CHARS]}…"


def card_html(card: Card) -> str:
    """A card as inert HTML."""
    picture = (
        f'<img src="{escape(card.thumbnail)}" alt="{escape(one_line(card.name))}">'
        if card.thumbnail
        else f"<span>{'no picture' if card.error else ''}</span>"
    )
    name = escape(one_line(card.question or card.name))
    kind = "vlm-map-question" if card.question else "vlm-map-name"
    said = f'<div class="vlm-map-answer">{_mark(card)}{escape(cut(card.answer))}</div>' if card.answer else ""
    if card.probability is not None:
        percent = f"{100 * card.probability:.0f}"
        said += f'<div class="vlm-map-share"><i style="--share:{percent}%"></i>{percent} %</div>'
    if card.error:
        said += f'<div class="vlm-map-wrong">{escape(one_line(card.error))}</div>'
    elif card.remark:
        said += f'<div class="vlm-map-name">({escape(card.remark)})</div>'
    if card.is_right is False:
        said += f'<div class="vlm-map-truth">truth: <b>{escape(cut(card.truth))}</b></div>'
    return (
        f'<div class="vlm-map-card"><div class="vlm-map-picture">{picture}</div>'
        f'<div class="{kind}" title="{name}">{name}</div>{said}</div>'
    )


def _mark(card: Card) -> str:
    if card.is_right is None:
        return ""
    word, sign = ("right", "✓") if card.is_right else ("wrong", "✗")
    return f'<span role="img" aria-label="{word}">{sign}</span> '
