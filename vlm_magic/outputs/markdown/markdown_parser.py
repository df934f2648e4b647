"""How this package reads Markdown: one parser for the page and for saved notebooks, HTML switched off.

Knows nothing of what is made of it. Neighbours: `markdown.html` renders its tokens, `safe_markdown`
writes them again.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

__all__ = ["clean_text", "host_of", "make_parser", "parser"]

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\u202a-\u202e\u2066-\u2069]")


def clean_text(text: object) -> str:
    """The text without what no page can show: lone surrogates, control and direction-override characters."""
    cleaned = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", cleaned) if _CONTROLS.search(cleaned) else cleaned


def make_parser() -> MarkdownIt:
    """A parser of its own: tables, strikethrough and formulas, no HTML; links show their host."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    md = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    md.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    md.inline.ruler.before("escape", "bracket_math", _bracket_math)
    md.core.ruler.push("link_hosts", _show_hosts)
    return md


@cache
def parser() -> MarkdownIt:
    """The parser that is only asked for tokens, made once."""
    return make_parser()


def _bracket_math(state: StateInline, silent: bool) -> bool:
    r"""Read ``\(…\)`` and ``\[…\]``, the way most models write formulas."""
    opener = state.src[state.pos : state.pos + 2]
    if opener not in (r"\(", r"\["):
        return False
    end = state.src.find(r"\)" if opener == r"\(" else r"\]", state.pos + 2, state.pos + 2_000)
    if end < 0 or not state.src[state.pos + 2 : end].strip():
        return False
    if not silent:
        token = state.push("math_inline" if opener == r"\(" else "math_inline_double", "math", 0)
        token.content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _show_hosts(state: Any) -> None:
    """Put the host of a link behind it where its text does not say it: links show where they go."""
    from markdown_it.token import Token

    for block in state.tokens:
        if not any(token.type == "link_open" for token in block.children or ()):
            continue
        children: list[Token] = []
        href, label = "", ""
        for token in block.children:
            children.append(token)
            if token.type == "link_open":
                href, label = str(token.attrGet("href") or ""), ""
                token.attrs["title"] = href
            elif token.type == "link_close":
                host = host_of(href)
                if host and host not in label:
                    children.append(Token("text", "", 0, content=f" ({host})"))
                href = ""
            elif href:
                label += token.content
        block.children = children


def host_of(href: str) -> str:
    """The host that an address leads to; "" where it names none."""
    try:
        return urlsplit(href).hostname or ""
    except ValueError:
        return ""
