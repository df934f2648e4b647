"""A map as it runs and as it is saved: a contact sheet of pictures with their answers, and a table.

The sheet holds a bounded number of cards, whatever the map's length: while it runs the newest, at the
end the first ones and those that failed. What people and models wrote is escaped; nothing in it can
run or fetch, and no widget is needed.

Pure functions. Neighbours: `map_view` is the caller; `cards` and `verdicts` are pieces of a sheet;
`vlm_magic.outputs.fragments` and `transcript` show exchanges in the same style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from vlm_magic.outputs.markdown.html import clean_text
from vlm_magic.outputs.markdown.safe_markdown import literal
from vlm_magic.outputs.results.cards import Card, card_html, cut, one_line
from vlm_magic.outputs.results.verdicts import Verdict, verdict_html, verdict_markdown, verdict_plain
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import count_words, shorten

__all__ = ["MAX_CARDS", "MAX_TABLE_ROWS", "Sheet", "sheet_bundle"]

MAX_CARDS = 48  # of a saved sheet; with their thumbnails about 100 kB
MAX_TABLE_ROWS = 100
_MAX_TEXT_ROWS = 20  # of the forms in words alone


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
        verdict: how the answers compare with the truth; None where nobody knows it.
    """

    cards: Sequence[Card]
    n_done: int
    n_total: int | None
    rows: Sequence[Card] = ()
    figures: Sequence[str] = ()
    notes: Sequence[str] = ()
    is_running: bool = False
    out: str = ""
    verdict: Verdict | None = None


def sheet_bundle(sheet: Sheet) -> dict[str, str]:
    """A map as ``text/html``, ``text/markdown`` and ``text/plain``."""
    return {"text/html": _html(sheet), "text/markdown": _markdown(sheet), "text/plain": _plain(sheet)}


def _title(sheet: Sheet) -> str:
    if sheet.n_total is not None and sheet.n_done < sheet.n_total:
        return f"{sheet.n_done:,} of {count_words(sheet.n_total, 'picture')}"
    return count_words(sheet.n_done, "picture")


def _html(sheet: Sheet) -> str:
    apart = '<span class="vlm-bracket"> · </span>'  # where a site strips the style sheet
    figures = "".join(f"{apart}<small>{escape(figure)}</small>" for figure in sheet.figures)
    head = f'<div class="vlm-map-head"><b>{escape(_title(sheet))}</b>{figures}</div>'
    notes = "".join(f"<p>{escape(clean_text(note))}</p>" for note in sheet.notes)
    if notes:
        notes = f'<div class="vlm-map-notes">{notes}</div>'
    cards = "".join(map(card_html, sheet.cards))
    body = f'<div class="vlm-map-sheet">{cards}</div>' if cards else ""
    if sheet.verdict is not None:
        said = verdict_html(sheet.verdict, card_html)
        more = f"<details><summary>All pictures</summary>{body}{_more(sheet)}</details>" if cards else ""
        return framed(f"{head}{notes}{said}{more}{_table(sheet)}", "map", sheet="map")
    return framed(f"{head}{_bar(sheet)}{notes}{body}{_more(sheet)}{_table(sheet)}", "map", sheet="map")


def _bar(sheet: Sheet) -> str:
    if not sheet.is_running or not sheet.n_total:
        return ""
    percent = 100 * sheet.n_done / sheet.n_total
    return f'<div class="vlm-map-bar"><span style="width:{percent:.1f}%"></span></div>'


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
    has_questions, is_judged = any(c.question for c in sheet.rows), sheet.verdict is not None
    titles = [
        "",
        "picture",
        *(["question"] if has_questions else []),
        "answer",
        *(["truth"] if is_judged else []),
        *(["probability"] if has_choices else []),
        "tokens",
        "seconds",
        "error",
    ]
    head = "".join(f"<th{_side(title)}>{title}</th>" if title else "<td></td>" for title in titles)
    rows = []
    for card in sheet.rows[:MAX_TABLE_ROWS]:
        values = [card.label, card.name, *([card.question] if has_questions else []), card.answer]
        if is_judged:
            values.append(f"{'' if card.is_right is None else '✓ ' if card.is_right else '✗ '}{card.truth}")
        if has_choices:
            values.append("" if card.probability is None else f"{card.probability:.3f}")
        values += [str(card.n_tokens), f"{card.seconds:.3f}", card.error]
        cells = "".join(
            f"<td{_side(title)}>{escape(cut(value))}</td>"
            for title, value in zip(titles, values, strict=True)
        )
        rows.append(f"<tr>{cells}</tr>")
    n = len(sheet.rows)
    shown = f"Table of the first {MAX_TABLE_ROWS} rows" if n > MAX_TABLE_ROWS else "Table"
    return (
        f'<details><summary>{shown}</summary><div class="vlm-map-table"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _side(title: str) -> str:
    return ' class="vlm-map-number"' if title in ("probability", "tokens", "seconds") else ""


def _in_words(card: Card) -> str:
    share = "" if card.probability is None else f" ({100 * card.probability:.0f} %)"
    return f"{one_line(cut(card.answer))}{share}" if not card.error else one_line(card.error)


def _summary(sheet: Sheet) -> str:
    return " · ".join([_title(sheet), *sheet.figures])


def _markdown(sheet: Sheet) -> str:
    rows = list(sheet.rows or sheet.cards)
    lines = [f"**{literal(_summary(sheet))}**", *(f"*{literal(note)}*" for note in sheet.notes)]
    if sheet.verdict is not None:
        return "\n\n".join([*lines, *verdict_markdown(sheet.verdict)]) + "\n"
    table = ["| picture | answer |", "|---|---|"]
    table += [
        f"| {literal(one_line(card.name))} | {literal(_in_words(card))} |".replace("\n", " ")
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
    if sheet.verdict is not None:
        return "\n".join([*lines, *verdict_plain(sheet.verdict)])
    width = min(32, max((len(one_line(card.name)) for card in rows), default=0))
    for card in rows:
        name = shorten(clean_text(card.name), width)
        mark = "! " if card.error else ""
        lines.append(f"  {name:<{width}}  {mark}{_in_words(card)}")
    if sheet.n_done > len(rows):
        lines.append(f"  and {sheet.n_done - len(rows):,} more")
    return "\n".join(lines)
