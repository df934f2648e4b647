"""Choices with their probabilities as bars: html, Markdown and plain text that need nothing to run.

The bars stand below the answer that was chosen, in the panel, in the saved transcript and in a terminal,
and are what the result of ``-o`` shows of itself. Everything a person or a variable wrote is escaped.
Pure functions. Neighbours: `transcript`, `panel` and `terminal` put them below an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape

from vlm_magic.messages import Choice
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import count_words, shorten

__all__ = ["choices_html", "choices_markdown", "choices_plain", "classified_html", "percent"]

_MAX_BARS = 30  # more than a person compares; the rest is summed up in a line
_MAX_LABEL = 60  # characters of one choice
_MAX_ROWS = 50  # of a table of pictures
_MAX_MATRIX = 20  # choices of a confusion matrix that is shown
_RASTER = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")
_PLAIN_BAR = 24  # characters of a full bar
_EIGHTHS = " ▏▎▍▌▋▊▉"


def percent(probability: float) -> str:
    """A probability as people read it; what rounds to nothing or to all says so."""
    if 0 < probability < 0.0005:
        return "<0.1 %"
    if 0.9995 <= probability < 1:
        return ">99.9 %"
    return f"{100 * probability:.1f} %"


def choices_html(choices: Sequence[Choice]) -> str:
    """A bar per choice, the likeliest first; "" without choices. Numbers stay where styles are stripped."""
    if not choices:
        return ""
    shown, rest = _ranked(choices)
    rows = "".join(_row_html(choice, is_best=n == 0) for n, choice in enumerate(shown))
    more = f'<tr><td colspan="4"><small>{escape(rest)}</small></td></tr>' if rest else ""
    table = f'<table class="vlm-choices" role="presentation"><tbody>{rows}{more}</tbody></table>'
    return f'<div class="vlm-fit">{table}</div>'  # the style sheet asks how wide this is


def _row_html(choice: Choice, *, is_best: bool) -> str:
    label, share = escape(_label(choice.text)), percent(choice.probability)
    named = f"<b>{label}</b>" if is_best else label
    kind = " vlm-best" if is_best else ""
    width = max(0.3, 100 * choice.probability)
    return (
        f'<tr class="vlm-choice{kind}"><td class="vlm-choice-label" title="{label}">{named}</td>'
        f'<td class="vlm-choice-track"><span class="vlm-choice-bar" style="width:{width:.1f}%"></span></td>'
        f'<td class="vlm-choice-share">{escape(share)}</td>'
        f'<td class="vlm-choice-log"><small>{escape(_log(choice))}</small></td></tr>'
    )


def choices_markdown(choices: Sequence[Choice]) -> str:
    """A table, the likeliest first; "" without choices."""
    from vlm_magic.outputs.markdown.safe_markdown import literal

    if not choices:
        return ""
    shown, rest = _ranked(choices)
    lines = ["| choice | probability | log p |", "| --- | ---: | ---: |"]
    for n, choice in enumerate(shown):
        label, share = literal(_label(choice.text)), literal(percent(choice.probability))
        mark = "**" if n == 0 else ""
        lines.append(f"| {mark}{label}{mark} | {share} | {literal(_number(choice.log_probability))} |")
    return "\n".join(lines) + (f"\n\n*{literal(rest)}*" if rest else "")


def choices_plain(choices: Sequence[Choice]) -> str:
    """A bar of block characters per choice, the likeliest first; "" without choices."""
    if not choices:
        return ""
    shown, rest = _ranked(choices)
    labels = [_label(choice.text) for choice in shown]
    width = max(map(len, labels))
    lines = []
    for label, choice in zip(labels, shown, strict=True):
        bar, share = _bar(choice.probability), percent(choice.probability)
        lines.append(f"{label:<{width}}  {bar:<{_PLAIN_BAR}} {share:>7}  {_log(choice)}")
    return "\n".join([*lines, *([rest] if rest else [])])


def _ranked(choices: Sequence[Choice]) -> tuple[list[Choice], str]:
    """The likeliest choices, first one first, and what is said of the others."""
    ranked = sorted(choices, key=lambda choice: -choice.probability)
    shown, others = ranked[:_MAX_BARS], ranked[_MAX_BARS:]
    if not others:
        return shown, ""
    return shown, f"and {len(others)} more, together {percent(sum(c.probability for c in others))}"


def _log(choice: Choice) -> str:
    return f"log p {_number(choice.log_probability)}, {count_words(choice.n_tokens, 'token')}"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _bar(probability: float) -> str:
    whole, part = divmod(round(probability * _PLAIN_BAR * 8), 8)
    return ("█" * whole + _EIGHTHS[part]).rstrip()


def classified_html(
    summary: str,
    labels: Sequence[str],
    rows: Sequence[tuple[str, str, str, str, str, bool | None]],
    counts: Mapping[tuple[str, str], int],
) -> str:
    """Many pictures with their answers, and the confusion matrix where the truth is known.

    Args:
        summary: one line above all.
        labels: the choices, in order.
        rows: (thumbnail as a data URI, name, answer or error, probability, truth, right or not) of each.
        counts: how often each (truth, answer) came.
    """
    shown = rows[:_MAX_ROWS]
    has_truth = any(row[4] for row in rows)
    heads = ["", "picture", "answer", "probability", *(["truth"] if has_truth else [])]
    body = "".join(_classified_row(row, has_truth=has_truth) for row in shown)
    more = f"<p><small>and {len(rows) - len(shown)} more: .to_frame()</small></p>" if rows[_MAX_ROWS:] else ""
    return framed(
        '<div class="vlm-turn"><div class="vlm-body">'
        f"<p><b>{escape(clean_text(summary))}</b></p>{_confusion_html(labels, counts)}"
        '<div class="vlm-table vlm-counts"><table>'
        f"<thead><tr>{_cells(heads, 'th')}</tr></thead><tbody>{body}</tbody>"
        f"</table></div>{more}</div></div>"
    )


def _classified_row(row: tuple[str, str, str, str, str, bool | None], *, has_truth: bool) -> str:
    src, name, answer, share, truth, is_right = row
    image = f'<img src="{src}" alt="" width="40">' if _RASTER.fullmatch(src) else ""
    verdict = "" if is_right is None else " ✓" if is_right else " ✗"
    said = [_label(name), _label(answer) + verdict, share, *([_label(truth)] if has_truth else [])]
    return f"<tr><td>{image}</td>{_cells(said)}</tr>"


def _confusion_html(labels: Sequence[str], counts: Mapping[tuple[str, str], int]) -> str:
    """A row per truth, a column per answer; deeper where more are."""
    if not counts or len(labels) > _MAX_MATRIX:
        return ""
    most = max(counts.values())
    lines = []
    for truth in labels:
        cells = []
        for answer in labels:
            n = counts.get((truth, answer), 0)
            depth = round(55 * n / most)
            shade = f"background:color-mix(in srgb, var(--vlm-accent) {depth}%, transparent)" if n else ""
            cells.append(f'<td class="vlm-right" style="{shade}">{n or ""}</td>')
        lines.append(f"<tr><th>{escape(_label(truth))}</th>{''.join(cells)}</tr>")
    heads = _cells(["truth ↓ answer →", *(_label(label) for label in labels)], "th")
    table = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="vlm-table vlm-counts"><table>{table}</table></div>'


def _cells(texts: Sequence[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _label(text: str) -> str:
    return shorten(clean_text(text), _MAX_LABEL)
