"""Markdown written anew from its parsed form, inert in any renderer.

JupyterLab renders the Markdown of outputs with HTML allowed, and in a trusted notebook a script in
it runs. So the text is parsed by our own parser and written again: words with everything that
could mean something made literal, code between fences that are longer than any inside, links only
to web addresses, pictures as words, formulas only without commands that reach outside.
Neighbours: `markdown_parser` owns the parser, `transcript` saves what is written here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from vlm_magic.outputs.markdown.markdown_parser import clean_text, parser

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["literal", "to_safe_markdown"]

_ENTITIES = {ord(c): f"&#{ord(c)};" for c in "<>&$@[]"}  # 0 stands for a formula inside JupyterLab
_SPECIAL = re.compile(r"([\\`*_#|!~])")
_LINE_START = re.compile(r"^(\s*)([-+=]|\d+[.)])", re.MULTILINE)
_SAFE_URL = re.compile(r"(?:https?://|mailto:)[^\s<>\"'()\\`$@{}|^\[\]]+", re.IGNORECASE)
_SAFE_TEX = re.compile(r"(?:[^\\<>&$`@%#]|\\[a-z,;:! {}|\\])*", re.IGNORECASE)
_REACHING_TEX = re.compile(
    r"\\(?:href|url|require|class|style|cssid|html|include|unicode|def|let|newcommand|renewcommand|newenvironment"
    r"|input|write|text|mbox|hbox|data|begingroup|bbox|enclose|tooltip|mathtip|texttip|action|toggle)",
    re.IGNORECASE,
)
_MAX_CHARS = 100_000


def literal(text: str) -> str:
    """Words that Markdown shows as they stand, on as many lines as they have."""
    escaped = _SPECIAL.sub(r"\\\1", clean_text(text)).translate(_ENTITIES)
    escaped = _LINE_START.sub(_escape_marker, escaped)
    return re.sub(r"\n[ \t]*(?=\n)", "\n", re.sub(r"(?m)^[ \t]+", "", escaped)).strip()


def _escape_marker(match: re.Match[str]) -> str:
    marker = match[2]
    return f"{match[1]}\\{marker}" if len(marker) == 1 else f"{match[1]}{marker[:-1]}\\{marker[-1]}"


def to_safe_markdown(text: str) -> str:
    """Write a model's Markdown so that it is inert where HTML is allowed.

    Args:
        text: Markdown, whole or a prefix of it.

    Returns:
        Markdown of the same look; a code block of the whole where it cannot be read. Never raises.
    """
    cleaned = clean_text(text)
    if len(cleaned) > _MAX_CHARS:
        return _fenced(cleaned, "")
    try:
        return _Writer().write(parser().parse(cleaned, {}))
    except Exception:  # a text is always saved, whatever a library makes of it
        return _fenced(cleaned, "")


def _fenced(code: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    word = language if re.fullmatch(r"[A-Za-z0-9+#.-]{1,20}", language) else ""
    return f"{fence}{word}\n{code.rstrip(chr(10))}\n{fence}"


def _code_span(code: str) -> str:
    """Inline code; what could be mistaken for a tag or a formula becomes words."""
    if re.search(r"[<>$@&|\\]", code):
        return f"<code>{literal(code)}</code>" if "\n" not in code else literal(code)
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    ticks = "`" * (longest + 1)
    pad = " " if code[:1] in "` " or code[-1:] in "` " else ""
    return f"{ticks}{pad}{code}{pad}{ticks}" if code.strip() else ""


def _formula(tex: str, dollars: str) -> str:
    tex = tex.strip()
    flat = " ".join(tex.split())
    if flat and len(flat) < 2_000 and _SAFE_TEX.fullmatch(flat) and not _REACHING_TEX.search(flat):
        return f"{dollars}{flat}{dollars}"
    return _code_span(flat)


class _Writer:
    """Walks the tokens of one text and writes its blocks, each with the prefix of what it stands in."""

    def write(self, tokens: list[Token]) -> str:
        return "\n\n".join(self._blocks(iter(tokens), "")).strip() + "\n" if tokens else ""

    def _blocks(self, tokens: Iterator[Token], closer: str) -> list[str]:
        """Write blocks until the token that closes what they stand in."""
        blocks: list[str] = []
        for token in tokens:
            if token.type == closer:
                break
            block = self._block(token, tokens)
            if block.strip():
                blocks.append(block)
        return blocks

    def _block(self, token: Token, tokens: Iterator[Token]) -> str:
        written = ""
        match token.type:
            case "inline":
                written = _inline(token.children or ())
            case "heading_open":
                words = " ".join(self._blocks(tokens, "heading_close"))
                written = f"{'#' * min(int(token.tag[1]) + 2, 6)} {words}"
            case "fence" | "code_block":
                written = _fenced(token.content, token.info.split()[0] if token.info.split() else "")
            case "blockquote_open":
                written = _prefixed("\n\n".join(self._blocks(tokens, "blockquote_close")), "> ", "> ")
            case "bullet_list_open":
                written = self._items(tokens, "bullet_list_close", None)
            case "ordered_list_open":
                start = token.attrGet("start")
                written = self._items(tokens, "ordered_list_close", 1 if start is None else int(start))
            case "table_open":
                written = self._table(tokens)
            case "hr":
                written = "* * *"
            case "math_block":
                written = _formula(token.content, "$$")
        return written

    def _items(self, tokens: Iterator[Token], closer: str, number: int | None) -> str:
        items: list[str] = []
        for token in tokens:
            if token.type == closer:
                break
            marker = "- " if number is None else f"{number + len(items)}. "
            body = "\n\n".join(self._blocks(tokens, "list_item_close"))
            items.append(_prefixed(body, marker, " " * len(marker)) if body else marker.strip())
        return "\n".join(items)

    def _table(self, tokens: Iterator[Token]) -> str:
        rows: list[list[str]] = []
        for token in tokens:
            if token.type == "table_close":
                break
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(" ".join(_inline(token.children or ()).split()))
        if not rows:
            return ""
        rule = ["---"] * len(rows[0])
        return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _prefixed(text: str, first: str, rest: str) -> str:
    lines = text.split("\n")
    return "\n".join([first + lines[0], *((rest + line).rstrip() for line in lines[1:])])


_SIGNS = {
    "softbreak": "\n", "hardbreak": "\\\n", "strong_open": "**", "strong_close": "**",
    "em_open": "*", "em_close": "*", "s_open": "~~", "s_close": "~~",
}  # fmt: skip
_SPANS: dict[str, Callable[[str], str]] = {
    "code_inline": _code_span,
    "math_inline": lambda tex: _formula(tex, "$"),
    "math_inline_double": lambda tex: _formula(tex, "$$"),
    "image": lambda alt: _words(f"[picture, not loaded: {alt or 'without a name'}]"),
}


def _inline(tokens: Iterable[Token]) -> str:
    """Write the words of a paragraph."""
    out: list[str] = []
    links: list[str] = []
    for token in tokens:
        if token.type == "link_open":
            href = str(token.attrGet("href") or "")
            links.append(href if _SAFE_URL.fullmatch(href) else "")
            out.append("[" if links[-1] else "")
        elif token.type == "link_close":
            href = links.pop()
            out.append(f"]({href})" if href else "")
        elif token.type in _SIGNS:
            out.append(_SIGNS[token.type])
        else:
            out.append(_SPANS.get(token.type, _words)(token.content))
    return "".join(out).strip()


def _words(text: str) -> str:
    escaped = _SPECIAL.sub(r"\\\1", text).translate(_ENTITIES)
    return _LINE_START.sub(_escape_marker, escaped)
