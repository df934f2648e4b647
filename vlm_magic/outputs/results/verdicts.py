"""Verdicts on the answers of a map: accuracy with its interval, by group, and the wrong answers in pictures.

Pure functions; numbers stay where styles are stripped. Neighbour: `map` puts them on its sheet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from vlm_magic.outputs.markdown.html import clean_text
from vlm_magic.outputs.markdown.safe_markdown import literal
from vlm_magic.outputs.results.cards import Card
from vlm_magic.wording import count_words, shorten

__all__ = ["MAX_WRONG", "Verdict", "verdict_html", "verdict_markdown", "verdict_plain"]

MAX_WRONG = 12  # wrong answers that are shown with their pictures
_MAX_PLAIN = 8
_MAX_GROUPS = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the answers compare with the truth.

    Attributes:
        line: accuracy with its interval, in words.
        groups: (name, right, of, low, high) of each group; () without groups.
        wrong: wrong answers, the most confident first.
        n_wrong: how many there are in all.
    """

    line: str
    groups: Sequence[tuple[str, int, int, float, float]] = ()
    wrong: Sequence[Card] = ()
    n_wrong: int = 0

    @property
    def title(self) -> str:
        """What stands above the wrong answers."""
        is_missing = any(card.error for card in self.wrong)
        title = count_words(self.n_wrong, "wrong or missing answer" if is_missing else "wrong answer")
        if self.n_wrong > 1 and any(card.probability is not None for card in self.wrong):
            title += ", the most confident first"
        more = self.n_wrong - len(self.wrong)
        return f"{title} ({len(self.wrong)} of them here)" if more > 0 else title


def verdict_html(verdict: Verdict, card_html: Callable[[Card], str]) -> str:
    """The verdict as inert HTML.

    Args:
        verdict: what there is to say.
        card_html: how the sheet shows a card.
    """
    line = f'<p class="vlm-map-verdict"><b>{escape(verdict.line)}</b></p>'
    wrong = ""
    if verdict.wrong:
        cards = "".join(map(card_html, verdict.wrong))
        wrong = (
            f'<p class="vlm-map-verdict">{escape(verdict.title)}</p><div class="vlm-map-sheet">{cards}</div>'
        )
    return f"{line}{_groups_html(verdict.groups)}{wrong}"


def _groups_html(groups: Sequence[tuple[str, int, int, float, float]]) -> str:
    """A row per group: the fraction as a mark, its 95 % interval as a line from 0 to 1."""
    if not groups:
        return ""
    rows = []
    for name, n_right, n, low, high in groups[:_MAX_GROUPS]:
        share = n_right / n if n else 0.0
        style = f"--low:{100 * low:.1f}%;--high:{100 * high:.1f}%;--share:{100 * share:.1f}%"
        rows.append(
            f"<tr><td>{escape(_line(name))}</td>"
            f'<td class="vlm-map-number">{n_right} of {n}</td>'
            f'<td class="vlm-map-number">{100 * share:.0f} %</td>'
            f'<td class="vlm-map-number">{100 * low:.0f} to {100 * high:.0f} %</td>'
            f'<td class="vlm-map-span"><i style="{style}"></i></td></tr>'
        )
    number = ' class="vlm-map-number"'
    titles = (("group", ""), ("right", number), ("", ""), ("95 % interval", number), ("", ""))
    heads = "".join(f"<th{kind}>{title}</th>" for title, kind in titles)
    return (
        f'<div class="vlm-map-table vlm-map-groups"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def verdict_markdown(verdict: Verdict) -> list[str]:
    """The verdict as paragraphs of Markdown."""
    lines = [f"**{literal(verdict.line)}**"]
    if verdict.groups:
        table = ["| group | right | 95 % interval |", "|---|---|---|"]
        table += [
            f"| {literal(_line(name))} | {n_right} of {n} | {100 * low:.0f} to {100 * high:.0f} % |"
            for name, n_right, n, low, high in verdict.groups[:_MAX_GROUPS]
        ]
        lines.append("\n".join(table))
    if verdict.wrong:
        shown = [f"- {literal(wrong_words(card))}" for card in verdict.wrong[:_MAX_PLAIN]]
        lines += [literal(verdict.title) + ":", "\n".join(shown)]
    return lines


def verdict_plain(verdict: Verdict) -> list[str]:
    """The verdict as lines of plain text."""
    lines = [verdict.line]
    width = max((len(_line(name)) for name, *_ in verdict.groups), default=0)
    lines += [
        f"  {_line(name):<{width}}  {n_right:>3} of {n:<3}  {100 * low:3.0f} to {100 * high:.0f} %"
        for name, n_right, n, low, high in verdict.groups[:_MAX_GROUPS]
    ]
    if verdict.wrong:
        lines += [f"{verdict.title}:", *(f"  ✗ {wrong_words(card)}" for card in verdict.wrong[:_MAX_PLAIN])]
    return lines


def wrong_words(card: Card) -> str:
    """One wrong answer in words: what was asked, what it said, how sure it was, and the truth."""
    asked = _line(card.question or card.name)
    if card.error:
        return f"{asked}: {_line(card.error)}"
    sure = "" if card.probability is None else f" ({100 * card.probability:.0f} %)"
    return f"{asked}: {_line(card.answer)}{sure}; truth: {_line(card.truth)}"


def _line(text: str) -> str:
    return shorten(clean_text(text), 120)
