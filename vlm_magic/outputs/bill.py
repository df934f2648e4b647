"""What a prompt would cost, shown before anything is generated: the answer of a dry run.

Neighbours: `cards` and `transcript` show exchanges in the same style; the shell is the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlm_magic.messages import Bill, Picture
from vlm_magic.outputs.cards import Thumbnailer

__all__ = ["bill_bundle"]

_STYLE = """<style>
.vlm-bill { font-size: var(--jp-content-font-size1, 14px); color: var(--jp-content-font-color1, #222); }
.vlm-bill table { border-collapse: collapse; margin: 0.5em 0; }
.vlm-bill td, .vlm-bill th { padding: 0.25em 0.8em 0.25em 0; text-align: left; vertical-align: middle; }
.vlm-bill img { max-height: 72px; display: block; }
.vlm-bill .vlm-cuts { position: relative; display: inline-block; }
.vlm-bill .vlm-cut { position: absolute; left: 0; top: 0; width: 100%; height: 100%; background: #fff;
  outline: 0.5px solid #000; }
.vlm-bill pre { white-space: pre-wrap; padding: 0.6em; border-radius: 4px;
  background: var(--jp-layout-color2, #f4f4f4); color: inherit; }
</style>"""


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
    line = f"{bill.n_tokens} tokens"
    if n_pictures:
        line += f", {sum(bill.picture_tokens)} of them for {n_pictures} picture{'s' * (n_pictures > 1)}"
    if bill.context_tokens is not None:
        line += f"; {bill.context_tokens - bill.n_tokens} of {bill.context_tokens} left"
    return line


def _rows(bill: Bill, pictures: Sequence[Picture]) -> list[tuple[str, str, str]]:
    grids = bill.picture_grids or ((1, 1),) * len(pictures)
    rows = []
    for picture, n, grid in zip(pictures, bill.picture_tokens, grids, strict=True):
        size = "{} × {} px".format(*picture.size_px)
        cut = f" in {grid[0]} × {grid[1]} tiles" if grid != (1, 1) else ""
        rows.append((picture.name or "picture", size, f"{n} tokens{cut}"))
    return rows


def _plain(bill: Bill, pictures: Sequence[Picture]) -> str:
    lines = [_summary(bill), *("  " + " · ".join(row) for row in _rows(bill, pictures))]
    lines += [f"  note: {note}" for note in bill.notes]
    return "\n".join([*lines, "", bill.rendered])


def _html(bill: Bill, pictures: Sequence[Picture], thumbnail: Thumbnailer | None) -> str:
    grids = bill.picture_grids or ((1, 1),) * len(pictures)
    rows = []
    for picture, row, grid in zip(pictures, _rows(bill, pictures), grids, strict=True):
        image = _cut_picture(thumbnail(picture), *grid) if thumbnail else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        rows.append(f"<tr><td>{image}</td>{cells}</tr>")
    notes = "".join(f"<p>{escape(note)}</p>" for note in bill.notes)
    table = f"<table>{''.join(rows)}</table>" if rows else ""
    return (
        f'{_STYLE}<div class="vlm-bill"><strong>{escape(_summary(bill))}</strong>'
        f"{table}{notes}<pre>{escape(bill.rendered)}</pre></div>"
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
