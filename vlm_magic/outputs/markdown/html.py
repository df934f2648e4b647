"""What a model wrote → HTML, or Markdown, that can neither run nor fetch anything.

Two walls, one behind the other: markdown-it-py with HTML switched off, pictures never loaded and
links checked; then nh3 with a short allowlist. Formulas are put in after the second wall, from
`maths`, which writes them from a list of its own. Long or pathological texts are shown as they
stand, so that rendering stays linear. Nothing here raises, whatever the text.

The libraries are imported at first use. Knows nothing of widgets, cells or models.
Neighbours: `markdown_parser` reads the text, `blocks` cuts long ones, `safe_markdown` writes the Markdown of
saved notebooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from html import escape
from typing import TYPE_CHECKING, Any

from vlm_magic.outputs.markdown.blocks import split_blocks
from vlm_magic.outputs.markdown.markdown_parser import clean_text, host_of, make_parser
from vlm_magic.outputs.markdown.maths import to_mathml
from vlm_magic.outputs.markdown.safe_markdown import to_safe_markdown

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

__all__ = ["clean_text", "plain_html", "to_html", "to_safe_markdown"]

_MAX_CHARS = 100_000  # of a whole text that is rendered; longer ones are shown as they stand
_MAX_BLOCK_CHARS = 20_000  # of one block; markdown-it's links and tables are quadratic beyond
_PIECE_CHARS = 16_000  # longer texts are rendered in pieces of whole blocks; a bad block then stays alone
_MAX_CODE_CHARS = 20_000  # of one code block that is highlighted

_SAFE_HREF = re.compile(r"(?:https?://|mailto:)[^\s\x00-\x20]+", re.IGNORECASE)
_TAG_NAMES = "p br hr strong em s code pre ul ol li blockquote table thead tbody tr th td a span div"
_ATTRIBUTES = {
    "a": {"href", "title", "class"},
    "ol": {"start", "dir"},
    "ul": {"dir"},
    "li": {"dir"},
    "blockquote": {"dir"},
    "th": {"class", "dir"},
    "td": {"class", "dir"},
    "p": {"class", "role", "aria-level", "dir"},
    "div": {"class", "tabindex", "dir"},
    "span": {"class"},
    "pre": {"class", "tabindex"},
}
_CLASS = re.compile(r"(?:vlm-[a-z0-9-]+|[a-z]{1,3}[0-9]?)(?: vlm-[a-z0-9-]+)*")
_MATH_SLOT = re.compile("\ue000([0-9]+)\ue001")  # private use; taken out of the text beforehand
_PRIVATE = re.compile("[\ue000\ue001]")


def to_html(text: str) -> str:
    """Render what a model wrote.

    Tables, strikethrough, highlighted code and dollar maths work; HTML is shown as text, pictures
    are named and never loaded, links open elsewhere and show their host.

    Args:
        text: Markdown, whole or a prefix of it.

    Returns:
        HTML that is inert wherever it is put. Never raises.
    """
    cleaned = _PRIVATE.sub("\N{REPLACEMENT CHARACTER}", clean_text(text))
    return plain_html(cleaned) if len(cleaned) > _MAX_CHARS else _cleaned_to_html(cleaned)


@lru_cache(maxsize=128)  # a conversation is shown again with every change of it
def _cleaned_to_html(cleaned: str) -> str:
    pieces = [cleaned] if len(cleaned) <= _PIECE_CHARS else split_blocks(cleaned, _PIECE_CHARS)
    return "".join(_piece_to_html(piece) for piece in pieces)


def plain_html(text: str) -> str:
    """The text as it stands, lines kept."""
    return f'<pre class="vlm-plain" dir="auto">{escape(clean_text(text))}</pre>'


def _piece_to_html(text: str) -> str:
    if len(text) > _MAX_BLOCK_CHARS:
        return plain_html(text)
    try:
        formulas: list[str] = []
        rough = _renderer().render(text, {"formulas": formulas})
        clean = _sanitiser()(rough)
        return _MATH_SLOT.sub(lambda slot: formulas[int(slot[1])], clean)
    except Exception:  # a text is always shown, whatever a library makes of it
        return plain_html(text)


@cache
def _sanitiser() -> Callable[[str], str]:
    """The second wall: only these tags, attributes and addresses."""
    import nh3

    def keep(tag: str, name: str, value: str) -> str | None:
        if name == "href":
            return value if _SAFE_HREF.fullmatch(value) else None
        if name == "class":
            return value if _CLASS.fullmatch(value) else None
        return value

    def clean(html: str) -> str:
        return nh3.clean(
            html,
            tags=set(_TAG_NAMES.split()),
            attributes=_ATTRIBUTES,
            attribute_filter=keep,
            url_schemes={"http", "https", "mailto"},
            link_rel="noopener noreferrer nofollow",
            set_tag_attribute_values={"a": {"target": "_blank"}},
        )

    return clean


@cache
def _renderer() -> MarkdownIt:
    """The first wall: the parser with our rendering of what it finds, made once."""
    md = make_parser()
    rules: dict[str, Callable[..., str]] = {
        "math_inline": _math, "math_inline_double": _display_math, "math_block": _display_math,
        "image": _image, "fence": _code, "code_block": _code, "table_open": _table_open,
        "table_close": lambda *_: "</table></div>\n", "th_open": _cell, "td_open": _cell,
        "heading_open": _heading_open, "heading_close": lambda *_: "</strong></p>\n",
    }  # fmt: skip
    for name, rule in rules.items():
        md.add_render_rule(name, _bound(rule))
    md.core.ruler.push("direction", _set_direction)
    return md


_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_BLOCKS = re.compile("(?:paragraph|heading|bullet_list|ordered_list|list_item|blockquote|table|th|td)_open")


def _set_direction(state: Any) -> None:
    """Where a block has right-to-left script in it, each of its pieces reads as its own first letter does."""
    begin = 0
    for n, token in enumerate(state.tokens, start=1):
        if token.level > 0 or token.nesting == 1:
            continue  # the block goes on
        block, begin = state.tokens[begin:n], n
        if any(_RIGHT_TO_LEFT.search(piece.content) for piece in block):
            for piece in block:
                if _BLOCKS.fullmatch(piece.type):
                    piece.attrSet("dir", "auto")


def _direction(token: Token) -> str:
    """The attribute, for tags that are written here."""
    return ' dir="auto"' if token.attrGet("dir") else ""


def _bound(rule: Callable[..., str]) -> Callable[..., str]:
    """markdown-it binds render rules to its renderer; ours do not need it."""

    def render(_self: object, tokens: Sequence[Token], idx: int, _options: object, env: Any) -> str:
        return rule(tokens[idx], env)

    return render


def _math(token: Token, env: Any) -> str:
    return _slot(to_mathml(token.content), env)


def _display_math(token: Token, env: Any) -> str:
    return _slot(to_mathml(token.content, display=True), env)


def _slot(html: str, env: Any) -> str:
    """Keep a finished formula aside; it comes back after the sanitiser."""
    env["formulas"].append(html)
    return f"\ue000{len(env['formulas']) - 1}\ue001"


def _image(token: Token, _env: Any) -> str:
    """Name a picture; its address is never loaded, only offered as a link where that is safe."""
    alt = escape(token.content or "without a name")
    src = str(token.attrGet("src") or "")
    where = (
        f' <a href="{escape(src)}" title="{escape(src)}">{escape(host_of(src))}</a>' if host_of(src) else ""
    )
    return f'<span class="vlm-unloaded">[picture, not loaded: {alt}{where}]</span>'


def _code(token: Token, _env: Any) -> str:
    """Code with its language above it, highlighted by classes."""
    language = token.info.split()[0][:30] if token.info.split() else ""
    head = f'<div class="vlm-code-head">{escape(language)}</div>' if language else ""
    code = _highlight(token.content, language)
    return f'<div class="vlm-code">{head}<pre tabindex="0"><code>{code}</code></pre></div>\n'


def _highlight(code: str, language: str) -> str:
    if language and len(code) <= _MAX_CODE_CHARS:
        try:
            from pygments import highlight
            from pygments.formatters import HtmlFormatter
            from pygments.lexers import get_lexer_by_name

            lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
            return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))
        except Exception:  # an unknown language, or a lexer's bug
            return escape(code)
    return escape(code)


def _table_open(token: Token, _env: Any) -> str:
    return f'<div class="vlm-table"{_direction(token)} tabindex="0"><table>'


def _cell(token: Token, _env: Any) -> str:
    """A table cell; its alignment as a class, since styles do not pass the second wall."""
    style = str(token.attrGet("style") or "")
    side = style.rpartition(":")[2]
    aligned = f' class="vlm-{side}"' if side in ("left", "center", "right") else ""
    return f"<{token.tag}{aligned}{_direction(token)}>"


def _heading_open(token: Token, _env: Any) -> str:
    """A heading as a paragraph with that role: real ones would enter the notebook's table of contents."""
    level = int(token.tag[1])
    kind = f'class="vlm-h vlm-h{level}"{_direction(token)}'
    return f'<p {kind} role="heading" aria-level="{min(level + 3, 6)}"><strong>'
