"""A map as it runs and as it is saved: a contact sheet of pictures with their answers, and a table.

The sheet holds a bounded number of cards, whatever the map's length: while it runs the newest, at the
end the first ones and those that failed. What people and models wrote is escaped; nothing in it can
run or fetch, and no widget is needed.

Pure functions. Neighbours: `cards` and `transcript` show exchanges in the same style; the shell's
`mapping` is the caller, `vlm_magic.tasks.mapping` makes the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vlm_magic.outputs.markdown import clean_text
from vlm_magic.outputs.safe_markdown import literal
from vlm_magic.outputs.transcript import base_css, squeezed_css

__all__ = ["MAX_CARDS", "Card", "Sheet", "sheet_bundle"]

MAX_CARDS = 48  # of a saved sheet; with their thumbnails about 100 kB
_MAX_TABLE_ROWS = 100
_MAX_TEXT_ROWS = 20  # of the forms in words alone
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


@dataclass(frozen=True, slots=True)
class Sheet:
    """A map at one moment.

    Attributes:
        cards: the rows that the contact sheet shows.
        rows: the rows that the table lists; () while it runs.
        n_done: rows that are finished.
        n_total: rows in all; None where nobody knows.
        figures: further figures in words ("3 errors", "14.2 pictures/s").
        notes: remarks for the person.
        is_running: whether there are more to come.
        out: the variable that holds the table, or "".
    """

    cards: Sequence[Card]
    n_done: int
    n_total: int | None
    rows: Sequence[Card] = ()
    figures: Sequence[str] = ()
    notes: Sequence[str] = ()
    is_running: bool = False
    out: str = ""


def sheet_bundle(sheet: Sheet) -> dict[str, str]:
    """A map as ``text/html``, ``text/markdown`` and ``text/plain``."""
    return {"text/html": _html(sheet), "text/markdown": _markdown(sheet), "text/plain": _plain(sheet)}


def _title(sheet: Sheet) -> str:
    n = f"{sheet.n_done:,}"
    if sheet.n_total is not None and sheet.n_done < sheet.n_total:
        return f"{n} of {sheet.n_total:,} pictures"
    return f"{n} picture{'s' * (sheet.n_done != 1)}"


def _line(text: str) -> str:
    return " ".join(clean_text(text).split())


def _cut(text: str) -> str:
    text = clean_text(text).strip()
    return text if len(text) <= _MAX_ANSWER_CHARS else f"{text[:_MAX_ANSWER_CHARS]}…"


def _html(sheet: Sheet) -> str:
    figures = "".join(f"<small>{escape(figure)}</small>" for figure in sheet.figures)
    head = f'<div class="vlm-map-head"><b>{escape(_title(sheet))}</b>{figures}</div>'
    notes = "".join(f"<p>{escape(clean_text(note))}</p>" for note in sheet.notes)
    if notes:
        notes = f'<div class="vlm-map-notes">{notes}</div>'
    cards = "".join(map(_card, sheet.cards))
    body = f'<div class="vlm-map-sheet">{cards}</div>' if cards else ""
    return (
        f"<style>{base_css()}{squeezed_css('mapping.css')}</style>"
        f'<div class="vlm vlm-map">{head}{_bar(sheet)}{notes}{body}{_more(sheet)}{_table(sheet)}</div>'
    )


def _bar(sheet: Sheet) -> str:
    if not sheet.is_running or not sheet.n_total:
        return ""
    percent = 100 * sheet.n_done / sheet.n_total
    return f'<div class="vlm-map-bar"><span style="width:{percent:.1f}%"></span></div>'


def _card(card: Card) -> str:
    picture = (
        f'<img src="{escape(card.thumbnail)}" alt="{escape(_line(card.name))}">'
        if card.thumbnail
        else f"<span>{'no picture' if card.error else ''}</span>"
    )
    name = escape(_line(card.name))
    said = f'<div class="vlm-map-answer">{escape(_cut(card.answer))}</div>' if card.answer else ""
    if card.probability is not None:
        percent = f"{100 * card.probability:.0f}"
        said += f'<div class="vlm-map-share"><i style="--share:{percent}%"></i>{percent} %</div>'
    if card.error:
        said += f'<div class="vlm-map-wrong">{escape(_line(card.error))}</div>'
    elif card.remark:
        said += f'<div class="vlm-map-name">({escape(card.remark)})</div>'
    return (
        f'<div class="vlm-map-card"><div class="vlm-map-picture">{picture}</div>'
        f'<div class="vlm-map-name" title="{name}">{name}</div>{said}</div>'
    )


def _more(sheet: Sheet) -> str:
    """How many are not shown, and where they are."""
    n = sheet.n_done - len(sheet.cards)
    if sheet.is_running or n <= 0:
        return ""
    where = f" in <code>{escape(sheet.out)}</code>" if sheet.out else ""
    return f'<div class="vlm-map-more">and {n:,} more{where}</div>'


def _table(sheet: Sheet) -> str:
    if not sheet.rows:
        return ""
    has_choices = any(card.probability is not None for card in sheet.rows)
    titles = [
        "",
        "picture",
        "answer",
        *(["probability"] if has_choices else []),
        "tokens",
        "seconds",
        "error",
    ]
    head = "".join(f"<th{_side(title)}>{title}</th>" for title in titles)
    rows = []
    for card in sheet.rows[:_MAX_TABLE_ROWS]:
        values = [card.label, card.name, card.answer]
        if has_choices:
            values.append("" if card.probability is None else f"{card.probability:.3f}")
        values += [str(card.n_tokens), f"{card.seconds:.3f}", card.error]
        cells = "".join(
            f"<td{_side(title)}>{escape(_cut(value))}</td>"
            for title, value in zip(titles, values, strict=True)
        )
        rows.append(f"<tr>{cells}</tr>")
    n = len(sheet.rows)
    shown = f"Table of the first {_MAX_TABLE_ROWS} rows" if n > _MAX_TABLE_ROWS else "Table"
    return (
        f'<details><summary>{shown}</summary><div class="vlm-map-table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _side(title: str) -> str:
    return ' class="vlm-map-number"' if title in ("probability", "tokens", "seconds") else ""


def _in_words(card: Card) -> str:
    share = "" if card.probability is None else f" ({100 * card.probability:.0f} %)"
    return f"{_line(_cut(card.answer))}{share}" if not card.error else _line(card.error)


def _summary(sheet: Sheet) -> str:
    return " · ".join([_title(sheet), *sheet.figures])


def _markdown(sheet: Sheet) -> str:
    rows = list(sheet.rows or sheet.cards)
    lines = [f"**{literal(_summary(sheet))}**", *(f"*{literal(note)}*" for note in sheet.notes)]
    table = ["| picture | answer |", "|---|---|"]
    table += [
        f"| {literal(_line(card.name))} | {literal(_in_words(card))} |".replace("\n", " ")
        for card in rows[:_MAX_TEXT_ROWS]
    ]
    if rows:
        lines.append("\n".join(table))
    if sheet.n_done > min(len(rows), _MAX_TEXT_ROWS):
        lines.append(f"and {sheet.n_done - min(len(rows), _MAX_TEXT_ROWS):,} more")
    return "\n\n".join(lines) + "\n"


def _plain(sheet: Sheet) -> str:
    rows = list(sheet.rows or sheet.cards)[:_MAX_TEXT_ROWS]
    lines = [_summary(sheet), *(f"[{clean_text(note)}]" for note in sheet.notes)]
    width = min(32, max((len(_line(card.name)) for card in rows), default=0))
    for card in rows:
        name = _line(card.name)
        name = name if len(name) <= width else f"{name[: width - 1]}…"
        mark = "! " if card.error else ""
        lines.append(f"  {name:<{width}}  {mark}{_in_words(card)}")
    if sheet.n_done > len(rows):
        lines.append(f"  and {sheet.n_done - len(rows):,} more")
    return "\n".join(lines)
