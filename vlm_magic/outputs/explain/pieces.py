"""What all views are made of: headings, sentences, tables and pictures that stay without styles.

Neighbours: each view's module puts these together, `bundle` frames them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from vlm_magic.messages import Picture
from vlm_magic.outputs.explain.marked import data_uri
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.outputs.results.choices import percent
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["image_html", "name_of", "note", "plain_table", "quoted", "section", "sentence", "share", "table"]

_MAX_SAID = 160  # characters of one answer in a table


def section(title: str, subtitle: str, body: str) -> str:
    """A view under its heading."""
    return (
        f'<div class="vlm-turn"><p class="vlm-role"><b>{escape(title)}</b> {escape(subtitle)}</p>'
        f'<div class="vlm-body">{body}</div></div>'
    )


def sentence(text: str) -> str:
    """A sentence of its own."""
    return f"<p>{escape(clean_text(text))}</p>"


def note(text: str) -> str:
    """A remark in small letters."""
    return f'<p class="vlm-note"><small>{escape(clean_text(text))}</small></p>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """A table of words; columns in ``right`` hold numbers. Cells that begin with ``<`` from us stay HTML.

    Args:
        heads: of the columns.
        rows: cells as HTML that is safe already.
        right: columns that are set to the right.
    """

    def cell(tag: str, n: int, html: str) -> str:
        kind = ' class="vlm-right" align="right"' if n in right else ""
        return f"<{tag}{kind}>{html}</{tag}>"

    head = "".join(cell("th", n, escape(text)) for n, text in enumerate(heads))
    body = "".join(f"<tr>{''.join(cell('td', n, html) for n, html in enumerate(row))}</tr>" for row in rows)
    return f'<div class="vlm-table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The same in columns of plain text."""
    widths = [max(len(row[n]) for row in (heads, *rows)) for n in range(len(heads))]
    return [
        "  " + "  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]


def image_html(image: Image.Image, alt: str) -> str:
    """A picture that was drawn here, said in words for those who do not see it."""
    size = f' width="{image.width}" height="{image.height}"'
    return f'<img src="{data_uri(image)}" alt="{escape(clean_text(alt))}"{size}>'


def quoted(text: str) -> str:
    """What was said, in quotation marks, on one line."""
    return f"‘{shorten(clean_text(text), _MAX_SAID)}’" if text.strip() else "nothing"


def name_of(picture: Picture) -> str:
    """How a picture is called."""
    return shorten(clean_text(picture.name), 60) or "picture"


def share(probability: float | None) -> str:
    """A probability as people read it, never broken between lines; "–" for none."""
    return "–" if probability is None else percent(probability).replace(" ", "\u00a0")
