r"""From the text of a cell to its `marks`.

Syntax only: nothing is looked up, opened or evaluated. Code (fenced, between backticks, f-strings), JSON
documents and LaTeX stay words, whatever names they hold.

How LaTeX is told from a field: braces behind a ``\command``, behind ``^``, behind ``_`` with a single
letter or a bracket before it, and all within ``$…$``, ``\(…\)``, ``\[…\]`` and environments.
``img_{i}.png`` is therefore a field and ``x_{i}`` is not.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from vlm_magic.inputs.cell_text.expressions import Field, read_field
from vlm_magic.inputs.cell_text.links import end_of_source, ends_like_picture, without_punctuation
from vlm_magic.inputs.cell_text.marks import BareURL, Escaped, Expression, Mark, Reference, Words

__all__ = ["parse_marks"]

_TRIGGER = re.compile(
    r"`+|^ {0,3}~{3,}|\\|\$|\{|\[(?=\s*[\[{\"])|!\[|<?https?://|(?<!\w)[rR]?[fF][rR]?[\"']", re.M
)
_COMMAND = re.compile(r"\\[a-zA-Z]+\*?")
_ENVIRONMENT = re.compile(r"\\begin\{(\w+\*?)\}")
_GROUP_GAP = re.compile(r"[ \t]*(?=[{\[])")
_INLINE_MATHS = re.compile(r"\$(?=\S)[^$\n]{0,500}?(?<=\S)\$(?!\d)")
_OPEN_MATHS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
_LONG_WORD = re.compile(r"(?<![\\\w])\w{2,40}$")
_F_STRING = re.compile(
    r"[rRfF]{1,2}(?:'''(?:[^\\]|\\.)*?'''|\"\"\"(?:[^\\]|\\.)*?\"\"\"|'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")",
    re.DOTALL,
)
_FORMAT_CALL = re.compile(r"[^'\"\n]{0,200}['\"]\.format\(")
_ALT = re.compile(r"!\[((?:[^\[\]\\\n]|\\.|\[[^\[\]\n]{0,500}\]){0,2000})\]\([ \t]*")
_DATA_SOURCE = re.compile(r"data:[^()\s]*", re.IGNORECASE)
_TITLE = re.compile(r"[ \t]+(\"[^\"\n]*\"|'[^'\n]*')$")
_URL = re.compile(r"https?://[^\s<>\"'`{}|\\^]+")
_URL_HOLDERS = "\"'=`"  # a URL behind one of these is code or HTML, not a sentence
_LATEX_REACH = 5_000  # characters that maths or one group may span
_MAX_NESTED = 30  # brackets within brackets
_COSTLY_FIELD = re.compile(r"\{[ \t]*[\w. \t]+[(\[]")


def parse_marks(text: str, *, calls: bool = True, first_line: int = 1) -> tuple[Mark, ...]:
    """The marks of ``text`` in order.

    Args:
        text: the body of a cell, or what was typed in the panel.
        calls: whether fields may call; without, they are names, attributes and items.
        first_line: the line of the cell that the text begins on.
    """
    return _with_strictness(tuple(_Scanner(text, calls, first_line).marks()))


class _Scanner:
    """One pass over a text.

    Each handler gets the index of its trigger and returns where to go on, with a mark when it found one.
    """

    def __init__(self, text: str, calls: bool, first_line: int) -> None:
        self.text = text
        self.calls = calls
        self.first_line = first_line
        self.breaks = [found.start() for found in re.finditer("\n", text)]
        self.json_budget = 8 * len(text) + 10_000  # characters that failed attempts may read
        self.field_budget = 2_000  # failed attempts with brackets, each bounded in length
        self.group_budget = 8 * len(text) + 50_000  # characters that unclosed groups may read
        self.unclosed: set[str] = set()  # code and environments that close nowhere
        self.last_field_end = -1

    def marks(self) -> Iterator[Mark]:
        """The marks in order, words between them."""
        pos = begun = 0
        while found := _TRIGGER.search(self.text, pos):
            behind, mark = self.handle(found)
            if mark is not None:
                start = behind - len(mark.raw)
                if start > begun:
                    yield Words(self.text[begun:start], self.line(begun))
                yield mark
                begun = behind
            pos = behind
        if begun < len(self.text):
            yield Words(self.text[begun:], self.line(begun))

    def line(self, pos: int) -> int:
        return self.first_line + bisect_right(self.breaks, pos - 1)

    def handle(self, found: re.Match[str]) -> tuple[int, Mark | None]:  # noqa: PLR0911 - one line per sign
        """Go on behind the trigger: the next index, and a mark that ends there."""
        trigger, start = found[0], found.start()
        match trigger.lstrip()[0]:
            case "`" | "~":
                return self.behind_code(start, trigger), None
            case "\\":
                return self.behind_backslash(start), None
            case "$":
                return self.behind_dollar(start), None
            case "{":
                return self.at_brace(start)
            case "[":
                return self.behind_json(start) or start + 1, None
            case "!":
                return self.at_reference(start)
            case "<" | "h":
                return self.at_url(start)
            case _:
                string = _F_STRING.match(self.text, start)
                return (string.end() if string else found.end()), None

    # -- code ----------------------------------------------------------------------------------

    def behind_code(self, start: int, trigger: str) -> int:
        """Behind a fenced block or a code span; an unclosed span is no span."""
        fence = trigger.lstrip()
        behind = start + len(trigger)
        index = bisect_right(self.breaks, start - 1)
        line_start = self.breaks[index - 1] + 1 if index else 0
        line_end = self._line_end(behind)
        at_line_start = len(fence) >= 3 and len(self.text[line_start:start].strip(" ")) == 0
        if at_line_start and (fence[0] == "~" or "`" not in self.text[behind:line_end]):
            close = re.compile(rf"^ {{0,3}}{fence[0]}{{{len(fence)},}}[ \t]*$", re.M)
            end = close.search(self.text, line_end)
            return end.end() if end else len(self.text)
        if fence[0] == "~" or fence in self.unclosed:
            return behind
        reach = len(self.text) if len(fence) >= 3 else line_end
        end = re.compile(rf"(?<!`){fence}(?!`)").search(self.text, behind, reach)
        if end is None and len(fence) >= 3:
            self.unclosed.add(fence)
        return end.end() if end else behind

    def _line_end(self, pos: int) -> int:
        index = bisect_right(self.breaks, pos - 1)
        return self.breaks[index] if index < len(self.breaks) else len(self.text)

    def behind_json(self, start: int) -> int | None:
        """Behind a JSON object or array, or None where none begins."""
        if self.json_budget <= 0:
            return None
        try:
            _, end = json.JSONDecoder().raw_decode(self.text, start)
        except json.JSONDecodeError as exc:
            self.json_budget -= exc.pos - start + 50
            return None
        except (RecursionError, ValueError):  # too deep, or a number of thousands of digits
            self.json_budget = 0
            return None
        return end

    # -- LaTeX ---------------------------------------------------------------------------------

    def behind_backslash(self, start: int) -> int:
        """Behind a command with its groups, an environment, a formula or an escaped character."""
        text = self.text
        if close := _OPEN_MATHS.get(text[start : start + 2]):
            end = text.find(close, start + 2, start + _LATEX_REACH)
            return end + 2 if end >= 0 else start + 2
        if environment := _ENVIRONMENT.match(text, start):
            close = f"\\end{{{environment[1]}}}"
            end = -1 if close in self.unclosed else text.find(close, environment.end())
            if end < 0:
                self.unclosed.add(close)
            return end + len(close) if end >= 0 else environment.end()
        command = _COMMAND.match(text, start)
        if command is None or command[0] == "\\n":  # no LaTeX command, but what people write for a new line
            return start + 2
        return self.behind_groups(command.end(), gaps=True)

    def behind_groups(self, pos: int, *, gaps: bool) -> int:
        """Behind the ``{…}`` and ``[…]`` that follow each other from ``pos`` on."""
        first = True
        while found := _GROUP_GAP.match(self.text, pos):
            if found[0] and not gaps:
                break
            if first:
                gaps = bool(found[0])  # \frac {a} {b} has gaps throughout, \textbf{a} {b} none
            end = self._balanced(found.end())
            if end is None:
                break
            pos, first = end, False
        return pos

    def _balanced(self, start: int) -> int | None:
        """Behind the bracket that closes the one at ``start``, or None when that is too far away."""
        opener, closer = ("{", "}") if self.text[start] == "{" else ("[", "]")
        depth, limit = 0, start + (_LATEX_REACH if opener == "{" else 100)
        limit = min(limit, start + max(2, self.group_budget))
        read = limit
        for found in re.compile(rf"\\.|\n\s*\n|\{opener}|\{closer}").finditer(self.text, start, limit):
            if found[0] == opener:
                depth += 1
                if depth > _MAX_NESTED:
                    read = found.end()
                    break
            elif found[0] == closer:
                depth -= 1
                if depth == 0:
                    return found.end()
            elif found[0][0] != "\\":
                read = found.end()
                break  # an empty line ends every group
        self.group_budget -= read - start
        return None

    def behind_dollar(self, start: int) -> int:
        """Behind a formula between dollars; a lone dollar is a price."""
        if self.text.startswith("$$", start):
            end = self.text.find("$$", start + 2, start + _LATEX_REACH)
            return end + 2 if end >= 0 else start + 2
        maths = _INLINE_MATHS.match(self.text, start)
        if maths and any(sign in maths[0] for sign in "\\^_"):
            return maths.end()
        return start + 1

    def is_subscript(self, start: int) -> bool:
        """Whether the brace at ``start`` is a LaTeX superscript or subscript."""
        before = self.text[start - 1 : start]
        if before == "^":
            return True
        if before != "_":
            return False
        if start - 1 == self.last_field_end:
            return False  # {name}_{i} is two fields
        base = self.text[start - 2 : start - 1]
        if base.isalnum():
            return not _LONG_WORD.search(self.text, max(0, start - 42), start - 1)
        return base in tuple(")]}|'")  # anything else is emphasis: _{cat}_

    # -- fields --------------------------------------------------------------------------------

    def at_brace(self, start: int) -> tuple[int, Mark | None]:  # noqa: PLR0911 - one line per kind
        text = self.text
        if self.is_subscript(start):
            return max(start + 1, self.behind_groups(start, gaps=False)), None
        if text.startswith("{{", start):
            return self.at_double_brace(start)
        if re.compile(r"\{\s*[\"}]").match(text, start):
            return self.behind_json(start) or start + 1, None
        field = self.field(start)
        if field is None:
            return start + 1, None
        if text.startswith("^", field.end):
            return field.end, None  # {a}^{2} is LaTeX
        if _FORMAT_CALL.match(text, field.end):
            return field.end, None  # "{a}".format(a=1) is Python
        self.last_field_end = field.end
        line = self.line(start)
        is_strict = field.is_telling or bool(field.conversion and field.is_plain and not field.is_padded)
        is_strict = is_strict and text[start - 1 : start] not in tuple("$#%@/\\")
        return field.end, Expression(text[start : field.end], line, field, is_strict)

    def at_double_brace(self, start: int) -> tuple[int, Mark | None]:
        text = self.text
        if text.startswith("{{{", start):
            return start + 2, None
        field = self.field(start + 1)
        if field is None or field.is_padded or not text.startswith("}", field.end):
            return start + 2, None
        behind = field.end + 1
        return behind, Escaped(text[start:behind], self.line(start), field)

    def field(self, start: int) -> Field | None:
        is_costly = _COSTLY_FIELD.match(self.text, start) is not None
        if is_costly and self.field_budget <= 0:
            return None
        field = read_field(self.text, start, calls=self.calls)
        if field is None and is_costly:
            self.field_budget -= 1
        return field

    # -- pictures ------------------------------------------------------------------------------

    def at_reference(self, start: int) -> tuple[int, Mark | None]:
        """``![alt](source)``, with ``<…>`` around the source and a title behind it if one likes."""
        text = self.text
        alt = _ALT.match(text, start)
        if alt is None:
            return start + 2, None
        pos = alt.end()
        if data := _DATA_SOURCE.match(text, pos):
            end = text.find(")", data.end(), data.end() + 500)
        else:
            end = end_of_source(text, pos)
        if end < 0:
            return start + 2, None
        source = _TITLE.sub("", text[pos:end].strip())
        if source.startswith("<") and source.endswith(">"):
            source = source[1:-1]
        if not source.strip():
            return end + 1, None
        name = re.sub(r"\\(.)", r"\1", alt[1]).strip()
        source = source.strip()
        return end + 1, Reference(
            text[start : end + 1], self.line(start), name, source, self.fields_in(source)
        )

    def fields_in(self, source: str) -> tuple[Field, ...]:
        """What in a picture's source may be an expression: the first hundred braces are looked at."""
        starts = islice((found.start() for found in re.finditer(r"\{", source)), 100)
        return tuple(field for start in starts if (field := read_field(source, start, calls=self.calls)))

    def at_url(self, start: int) -> tuple[int, Mark | None]:
        text = self.text
        is_bracketed = text[start] == "<"
        found = _URL.match(text, start + is_bracketed)
        if found is None:
            return start + 1, None
        before = text[start - 1 : start]
        url = without_punctuation(found[0])
        behind = found.start() + len(url)
        in_sentence = not (before and (before in _URL_HOLDERS or before.isalnum() or before == "_"))
        is_link = text[max(0, start - 2) : start] == "]("  # [text](url) is a link, not a picture
        if text[behind : behind + 1] == "{" or not in_sentence or is_link or not ends_like_picture(url):
            return behind, None
        if is_bracketed:
            if not text.startswith(">", behind):
                return behind, None
            behind += 1
        return behind, BareURL(text[start:behind], self.line(start), url)


def _with_strictness(marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """Make a field lenient where it stands inside other braces: those are code."""
    if not any(isinstance(mark, Expression) and mark.is_strict for mark in marks):
        return marks
    open_braces: list[list[int]] = []  # each a list of the marks inside, or emptied when never closed
    lenient: set[int] = set()
    for index, mark in enumerate(marks):
        if isinstance(mark, Expression) and open_braces:
            open_braces[-1].append(index)
        elif isinstance(mark, Words):
            for found in re.finditer(r"[{}]", mark.raw):
                if found[0] == "{":
                    open_braces.append([])
                elif open_braces:
                    lenient.update(open_braces.pop())
    return tuple(
        replace(mark, is_strict=False) if isinstance(mark, Expression) and index in lenient else mark
        for index, mark in enumerate(marks)
    )
