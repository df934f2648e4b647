"""A grid of answers to one question: side by side, with their figures, the differences marked.

Each answer is compared, word by word, with the first one that there is: words that it has more are
underlined, words that it lacks are struck out; an answer that shares little is said to be another one and
left as it stands. The HTML is a real table, so it reads where a site strips styles; in a narrow column its
cells stand one below the other. What models and people wrote is escaped; nothing in it can run or fetch.

Pure functions. Neighbours: `fragments` and `transcript` show exchanges in the same style;
`vlm_magic.tasks.compare` is the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from itertools import product
from typing import Literal, TypeAlias

from vlm_magic.messages import Part, Reply
from vlm_magic.outputs.fragments import Thumbnailer, ending, lines_html, question_html, question_text
from vlm_magic.outputs.markdown.html import clean_text
from vlm_magic.outputs.markdown.safe_markdown import literal
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import count_words, size_words

__all__ = ["GridCell", "comparison_bundle", "word_differences"]

Kind: TypeAlias = Literal["same", "more", "less"]

_LEAST_WIDTH = 9  # of a column of figures, so that a table looks alike from run to run
_MAX_COLUMNS = 4  # more answers side by side are too narrow to read
_LEAST_SHARED = 0.5  # of the shorter text's words; below, marks would cover everything and say nothing
_MAX_WORDS = 4_000  # difflib takes time with the square of it
# Words; signs one by one; and letters of scripts that write no spaces one by one.
_WORDS = re.compile(r"\s+|[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")


@dataclass(frozen=True)
class GridCell:
    """What came of one combination.

    Attributes:
        reply: the answer; None where there is none.
        error: its lines, where there is none.
        waiting: what is going on instead of an answer, in words.
        weights_bytes: of the model; None for unknown.
        peak_bytes: taken beyond that while it answered; None for unknown.
    """

    reply: Reply | None = None
    error: str = ""
    waiting: str = ""
    weights_bytes: int | None = None
    peak_bytes: int | None = None


def comparison_bundle(
    parts: Sequence[Part],
    axes: Mapping[str, Sequence[str]],
    cells: Sequence[GridCell],
    *,
    thumbnail: Thumbnailer | None = None,
) -> dict[str, str]:
    """The grid as ``text/html``, ``text/markdown`` and ``text/plain``.

    Args:
        parts: the question.
        axes: the values of each axis in words, by its name.
        cells: one for each combination, the last axis running fastest.
        thumbnail: makes the data URI of a picture; None keeps pictures out.
    """
    grid = _Grid(axes, cells)
    return {
        "text/html": _html(parts, grid, thumbnail),
        "text/markdown": _markdown(parts, grid),
        "text/plain": _plain(parts, grid),
    }


def word_differences(reference: str, text: str) -> list[tuple[Kind, str]] | None:
    """How a text differs from another: pieces that are the same, that it has more, that it has less.

    The pieces that are the same or more give ``text``, those that are the same or less ``reference``.
    None where the two share too little for marks to help, or are too long to compare.
    """
    old, new = _WORDS.findall(reference), _WORDS.findall(text)
    if len(old) > _MAX_WORDS or len(new) > _MAX_WORDS:
        return None
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if not _are_alike(old, new, matcher):
        return None
    pieces: list[tuple[Kind, str]] = []
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(new[c:d])))
            continue
        if b > a:
            pieces.append(("less", "".join(old[a:b])))
        if d > c:
            pieces.append(("more", "".join(new[c:d])))
    return _joined(pieces)


def _are_alike(old: Sequence[str], new: Sequence[str], matcher: SequenceMatcher[str]) -> bool:
    """Whether enough words of the shorter text are in the longer one, in their order."""
    shared = (old[n] for start, _, size in matcher.get_matching_blocks() for n in range(start, start + size))
    n_shared = sum(bool(word.strip()) for word in shared)
    n_words = min(sum(bool(word.strip()) for word in words) for words in (old, new))
    return n_shared >= _LEAST_SHARED * n_words


def _joined(pieces: Sequence[tuple[Kind, str]]) -> list[tuple[Kind, str]]:
    """Changes with nothing but a space between them as one change: whole phrases are easier to read."""
    joined: list[tuple[Kind, str]] = []
    less = more = ""
    for n, (kind, text) in enumerate(pieces):
        if kind == "less":
            less += text
        elif kind == "more":
            more += text
        elif not text.strip() and (less or more) and n + 1 < len(pieces):
            less, more = less + text, more + text
        else:
            joined += _change(less, more)
            joined.append(("same", text))
            less = more = ""
    return joined + _change(less, more)


def _change(less: str, more: str) -> list[tuple[Kind, str]]:
    pieces: list[tuple[Kind, str]] = [("less", less), ("more", more)]
    return [(kind, text) for kind, text in pieces if text]


class _Grid:
    """Where each cell stands, and what its answer differs in.

    Attributes:
        axes: as given, those with one value left out.
        fixed: those, in words.
        column: the axis whose values stand side by side; "" for none.
    """

    def __init__(self, axes: Mapping[str, Sequence[str]], cells: Sequence[GridCell]) -> None:
        self.cells = cells
        self.axes = {name: values for name, values in axes.items() if len(values) > 1}
        self.fixed = [_named(name, values[0]) for name, values in axes.items() if len(values) == 1]
        fitting = [name for name, values in self.axes.items() if len(values) <= _MAX_COLUMNS]
        self.column = fitting[-1] if fitting else ""
        self._places = [dict(zip(self.axes, values, strict=True)) for values in product(*self.axes.values())]
        self.first = next((n for n, cell in enumerate(cells) if cell.reply is not None), None)
        self._pieces: dict[int, list[tuple[Kind, str]] | None] = {}

    def label(self, n: int) -> str:
        """The values of a cell in words."""
        return " · ".join(_named(name, value) for name, value in self._places[n].items()) or "the answer"

    def rows(self) -> list[tuple[str, list[int]]]:
        """The rows of the table: their headings, and the numbers of their cells."""
        rows: dict[str, list[int]] = {}
        for n, place in enumerate(self._places):
            heading = " · ".join(_named(name, value) for name, value in place.items() if name != self.column)
            rows.setdefault(heading, []).append(n)
        return list(rows.items())

    def columns(self) -> list[str]:
        """The headings of the columns."""
        return [_named(self.column, value) for value in self.axes.get(self.column, ())] or [""]

    def remark(self, n: int) -> str:
        """How a cell's answer relates to the first one, in words."""
        reply, first = self.cells[n].reply, self.first
        if reply is None or first is None or sum(cell.reply is not None for cell in self.cells) < 2:
            return ""
        if n == first:
            return "compared with this"
        if reply.text == _text(self.cells[first]):
            return "the same"
        return "differs" if self.pieces(n) else "another answer"

    def pieces(self, n: int) -> list[tuple[Kind, str]] | None:
        """The answer in pieces; None where it is shown as it stands."""
        first = self.first
        if first is None or n == first:
            return None
        if n not in self._pieces:
            self._pieces[n] = word_differences(_text(self.cells[first]), _text(self.cells[n]))
        return self._pieces[n]


def _named(axis: str, value: str) -> str:
    """A value with its axis; a model's name says what it is."""
    return value if axis == "model" else f"{axis} {value}"


def _text(cell: GridCell) -> str:
    return "" if cell.reply is None else clean_text(cell.reply.text)


def _figures(cell: GridCell) -> list[tuple[str, str]]:
    """Name and worth of each figure of an answer."""
    reply = cell.reply
    if reply is None:
        return []
    figures = [("probability", f"{max(c.probability for c in reply.choices):.1%}")] if reply.choices else []
    figures += [
        ("first token", f"{reply.ttft_s:.2f} s"),
        ("total", f"{reply.total_s:.2f} s"),
        ("tokens", f"{reply.n_new_tokens:,}"),
        ("prompt", _prompt_words(reply)),
    ]
    if cell.weights_bytes is not None:
        figures.append(("weights", size_words(cell.weights_bytes)))
    if cell.peak_bytes is not None:
        figures.append(("peak", f"+{size_words(cell.peak_bytes)}"))
    return figures


def _prompt_words(reply: Reply) -> str:
    """A prompt's tokens, and those of them that were not computed anew: a server keeps what it likes."""
    reused = f", {reply.n_reused_tokens:,} reused" if reply.n_reused_tokens else ""
    return f"{reply.n_prompt_tokens:,} tokens{reused}"


def _summary(grid: _Grid) -> str:
    n = len(grid.cells)
    n_done = sum(bool(cell.reply or cell.error) for cell in grid.cells)
    count = count_words(n, "answer") if n_done == n else f"{n_done} of {n} answers"
    return " · ".join([count, *grid.fixed])


# ---- html --------------------------------------------------------------------------------------


def _html(parts: Sequence[Part], grid: _Grid, thumbnail: Thumbnailer | None) -> str:
    question = question_html(parts, thumbnail)
    summary = escape(clean_text(_summary(grid)))
    kind = "" if grid.column else " vlm-rows"
    heads = "".join(f'<th scope="col">{escape(clean_text(head))}</th>' for head in grid.columns())
    has_row_heads = any(heading for heading, _ in grid.rows())
    first = "<td></td>" if has_row_heads else ""
    top = f"<thead><tr>{first}{heads}</tr></thead>" if grid.column else ""
    body = "".join(
        "<tr>"
        + (f'<th scope="row">{escape(clean_text(heading))}</th>' if has_row_heads else "")
        + "".join(_cell_html(grid, n) for n in numbers)
        + "</tr>"
        for heading, numbers in grid.rows()
    )
    return framed(
        f'<div class="vlm-turn vlm-user"><p class="vlm-role"><b>Compared</b> {summary}</p>'
        f'<div class="vlm-body">{question}</div></div>'
        f'<div class="vlm-grid{kind}"><table>{top}<tbody>{body}</tbody></table></div>',
        "compare",
        sheet="compare",
    )


def _cell_html(grid: _Grid, n: int) -> str:
    cell = grid.cells[n]
    where = escape(clean_text(grid.label(n)), quote=True)
    if cell.reply is None:
        inside = (
            f'<pre class="vlm-wrong">{escape(clean_text(cell.error))}</pre>'
            if cell.error
            else f'<p class="vlm-idle">{escape(cell.waiting)}</p>'
        )
        return f'<td title="{where}">{inside}</td>'
    marks = [mark for mark in (grid.remark(n), ending(cell.reply)) if mark]
    badges = "".join(f'<small class="vlm-mark">{escape(mark)}</small> ' for mark in marks)
    figures = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(worth)}</td></tr>" for name, worth in _figures(cell)
    )
    return (
        f'<td title="{where}"><div class="vlm-cell"><div class="vlm-said">{_said_html(grid, n)}</div>'
        f'<div class="vlm-below">{f"<p>{badges}</p>" if badges else ""}'
        f'<table class="vlm-figures"><tbody>{figures}</tbody></table></div></div></td>'
    )


def _said_html(grid: _Grid, n: int) -> str:
    tags = {"more": "ins", "less": "del"}
    made: list[str] = []
    for kind, text in grid.pieces(n) or [("same", _text(grid.cells[n]))]:
        tag = tags.get(kind, "")
        start, words, end = _apart(text)
        marked = f"<{tag}>{lines_html(words)}</{tag}>" if tag and words else lines_html(words)
        if marked.startswith("<") and not start and made and made[-1].endswith(("</ins>", "</del>")):
            start = " "  # what was there and what is there instead do not run together
        made.append(f"{lines_html(start)}{marked}{lines_html(end)}")
    return "".join(made)


def _apart(text: str) -> tuple[str, str, str]:
    """The space before the words of a piece, the words, the space after them: marks go around words alone."""
    words = text.strip()
    start = text[: len(text) - len(text.lstrip())]
    return start, words, text[len(start) + len(words) :]


# ---- words -------------------------------------------------------------------------------------


def _said(grid: _Grid, n: int, marks: Mapping[str, tuple[str, str]], write: Callable[[str], str]) -> str:
    """An answer with the marks around its pieces, inside the spaces."""
    made = []
    for kind, text in grid.pieces(n) or [("same", _text(grid.cells[n]))]:
        before, after = marks.get(kind, ("", ""))
        start, words, end = _apart(text)
        made.append(f"{start}{before}{write(words)}{after}{end}" if words else text)
    return "".join(made)


def _plain(parts: Sequence[Part], grid: _Grid) -> str:
    lines = [question_text(parts), f"[{_summary(grid)}]"]
    for n, cell in enumerate(grid.cells):
        remark = ", ".join(mark for mark in (grid.remark(n), cell.reply and ending(cell.reply)) if mark)
        lines += ["", f"{n + 1}. {grid.label(n)}" + (f" ({remark})" if remark else "")]
        if cell.reply is None:
            lines += [f"   {line}" for line in (clean_text(cell.error) or cell.waiting).splitlines()]
            continue
        marks = {"more": ("{+", "+}"), "less": ("[-", "-]")}
        said = _said(grid, n, marks, str)
        lines += [f"   {line}" for line in said.splitlines() or [""]]
    return "\n".join([*lines, "", *_figure_lines(grid)])


def _figure_lines(grid: _Grid) -> list[str]:
    """The figures of all answers as a table in fixed width, or nothing where there are none."""
    table = _figure_table(grid)
    columns = list(zip(*table, strict=True))
    widths = [max(_LEAST_WIDTH if n else 0, *map(len, column)) for n, column in enumerate(columns)]
    return [
        "  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _figure_table(grid: _Grid) -> list[list[str]]:
    found = {n: dict(_figures(cell)) for n, cell in enumerate(grid.cells) if cell.reply is not None}
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    rows = [[f"{n + 1}.", *(figures.get(name, "") for name in names)] for n, figures in found.items()]
    return [["", *names], *rows] if rows else []


def _markdown(parts: Sequence[Part], grid: _Grid) -> str:
    """Markdown that is inert where HTML is allowed; marks stand inside the spaces, or they would be none."""
    blocks = [f"**{literal(question_text(parts))}**", literal(_summary(grid))]
    for n, cell in enumerate(grid.cells):
        remark = ", ".join(mark for mark in (grid.remark(n), cell.reply and ending(cell.reply)) if mark)
        blocks.append(
            f"**{n + 1}\\. {literal(grid.label(n))}**" + (f" *({literal(remark)})*" if remark else "")
        )
        if cell.reply is None:
            blocks.append(literal(cell.error) or literal(cell.waiting))
            continue
        marks = {"more": ("**", "**"), "less": ("~~", "~~")}
        blocks.append(_said(grid, n, marks, literal).strip() or "…")
    table = _figure_table(grid)
    if table:
        head, *rows = table
        lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"
