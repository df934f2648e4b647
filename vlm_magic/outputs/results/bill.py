"""What a prompt would cost, shown before anything is generated: the answer of a dry run.

Neighbours: `styles` has the frame; the shell is the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlm_magic.messages import Bill, Picture
from vlm_magic.outputs.fragments import Thumbnailer
from vlm_magic.outputs.markdown.html import clean_text, plain_html
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import count_words, shorten

__all__ = ["bill_bundle"]


def bill_bundle(
    bill: Bill, pictures: Sequence[Picture], thumbnail: Thumbnailer | None = None
) -> dict[str, str]:
    """The bill as a mimebundle: html and plain text.

    Args:
        bill: from ``engine.bill``.
        pictures: all pictures of the prompt, in the order of ``bill.picture_tokens``.
        thumbnail: makes the data URI of a picture; None leaves them out.
    """
    return {"text/html": _html(bill, pictures, thumbnail), "text/plain": _plain(bill, pictures)}


def _summary(bill: Bill) -> str:
    n_pictures = len(bill.picture_tokens)
    if bill.n_tokens is None:
        return "tokens unknown: the server does not count a prompt before it is asked"
    line = count_words(bill.n_tokens, "token")
    if n_pictures:
        line += f", {sum(bill.picture_tokens):,} of them for {count_words(n_pictures, 'picture')}"
    if bill.context_tokens is not None:
        line += f"; {bill.context_tokens - bill.n_tokens:,} of {bill.context_tokens:,} left"
    return line


def _rows(bill: Bill, pictures: Sequence[Picture]) -> list[tuple[str, str, str]]:
    grids = bill.picture_grids or ((1, 1),) * len(pictures)
    rows = []
    counts = bill.picture_tokens or (None,) * len(pictures)
    for picture, n, grid in zip(pictures, counts, grids, strict=True):
        size = "{} × {} px".format(*picture.size_px)
        cut = f" in {grid[0]} × {grid[1]} tiles" if grid != (1, 1) else ""
        cost = "tokens unknown" if n is None else f"{count_words(n, 'token')}{cut}"
        rows.append((shorten(clean_text(picture.name), 60) or "picture", size, cost))
    return rows


def _plain(bill: Bill, pictures: Sequence[Picture]) -> str:
    lines = [_summary(bill), *("  " + " · ".join(row) for row in _rows(bill, pictures))]
    lines += [f"  note: {clean_text(note)}" for note in bill.notes]
    return "\n".join([*lines, "", clean_text(bill.rendered)])


def _html(bill: Bill, pictures: Sequence[Picture], thumbnail: Thumbnailer | None) -> str:
    grids = bill.picture_grids or ((1, 1),) * len(pictures)
    rows = []
    for picture, row, grid in zip(pictures, _rows(bill, pictures), grids, strict=True):
        image = _cut_picture(thumbnail(picture), *grid) if thumbnail else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        rows.append(f"<tr><td>{image}</td>{cells}</tr>")
    notes = "".join(
        f'<p class="vlm-note"><small>{escape(clean_text(note))}</small></p>' for note in bill.notes
    )
    table = f"<table>{''.join(rows)}</table>" if rows else ""
    return framed(
        f'<div class="vlm-turn vlm-user"><p class="vlm-role"><b>Dry run</b> {escape(_summary(bill))}</p>'
        f'<div class="vlm-body">{table}</div></div>'
        f'<div class="vlm-turn"><p class="vlm-role"><b>The prompt as the model reads it</b></p>'
        f'<div class="vlm-body">{plain_html(bill.rendered)}</div>{notes}</div>',
        "bill",
        sheet="bill",
    )


def _cut_picture(source: str, n_rows: int, n_columns: int) -> str:
    """A thumbnail with the lines along which the picture is cut."""
    lines = "".join(
        [
            f'<i class="vlm-cut" style="left:{100 * n / n_columns:.1f}%;width:1px"></i>'
            for n in range(1, n_columns)
        ]
        + [
            f'<i class="vlm-cut" style="top:{100 * n / n_rows:.1f}%;height:1px"></i>'
            for n in range(1, n_rows)
        ]
    )
    return f'<span class="vlm-cuts"><img src="{escape(source)}" alt="">{lines}</span>'
