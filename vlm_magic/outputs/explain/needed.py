"""The view of the parts that an answer hangs on: framed in the picture, each with what is said without it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from vlm_magic.messages import NeededPart, NeededParts, WindowSize
from vlm_magic.outputs.explain.marked import curve_drawn, parts_drawn, small
from vlm_magic.outputs.explain.pieces import (
    image_html,
    name_of,
    note,
    plain_table,
    quoted,
    section,
    sentence,
    share,
    table,
)
from vlm_magic.wording import count_words, list_words

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["needed_html", "needed_images", "needed_plain"]

_PLACES = (
    ("upper left", "top", "upper right"),
    ("left", "middle", "right"),
    ("lower left", "bottom", "lower right"),
)


def needed_html(needed: NeededParts, *, pictures: bool = True) -> str:
    """The view as HTML.

    Args:
        needed: what was found.
        pictures: whether pictures are in it; else words say where the parts lie.
    """
    body = "".join(map(sentence, _findings(needed)))
    if pictures:
        drawn = (image_html(image, alt) for image, alt in _drawn(needed))
        body += f'<p class="vlm-marked">{" ".join(drawn)}</p>'
    if len(needed):
        heads, rows = _parts_table(needed)
        body += table(heads, [[escape(cell) for cell in row] for row in rows], right=(3,))
    if needed.sizes:
        heads, rows = _sizes_table(needed)
        body += table(heads, [[escape(cell) for cell in row] for row in rows], right=(1, 2))
    body += _words_html(needed) + _curve_html(needed, pictures=pictures) + note(_cost(needed))
    return section("Needed", "which part of the picture the answer hangs on", body)


def needed_plain(needed: NeededParts) -> str:
    """The view in words."""
    lines = [" ".join(_findings(needed))]
    if len(needed):
        lines += plain_table(*_parts_table(needed))
    if needed.sizes:
        lines += plain_table(*_sizes_table(needed))
    if (leaning := _leaning(needed)) and len(needed.words) > 1:
        lines.append(f"  {leaning}")
    if needed.curve is not None:
        lines.append(f"  {_curve_words(needed)}")
    return "\n".join([*lines, f"  {_cost(needed)}"])


def needed_images(needed: NeededParts) -> list[Image.Image]:
    """The pictures with their parts, and the curve."""
    images = [image for image, _ in _drawn(needed)]
    return [*images, curve_drawn(needed.curve)] if needed.curve is not None else images


def _findings(needed: NeededParts) -> list[str]:
    """What was measured, in sentences that claim no more."""
    everything = "all pictures are" if len(needed.pictures) > 1 else "the whole picture is"
    said, hold = quoted(needed.answer), share(needed.probability)
    if not needed.leans_on_pictures:
        return [
            "No single part decides.",
            f"The answer {said} ({hold}) stays even when {everything} hidden.",
        ]
    if not needed:
        return [
            "No single part decides.",
            f"The answer {said} ({hold}) holds whichever part is hidden, up to the largest size tried; "
            f"it changes when {everything} hidden.",
        ]
    if len(needed) == 1:
        only = needed[0]
        return [
            f"Needed: without this part ({_where(only)}) it says {quoted(only.says)}, "
            f"and {said} falls from {hold} to {share(only.probability)}.",
            "Without any other part of this size the answer stays."
            if _is_only(needed)
            else "Windows that overlap it do likewise; without any other part of this size the answer stays.",
        ]
    return [f"Needed: {len(needed)} parts. Without any one of them {said} ({hold}) does not hold."]


def _is_only(needed: NeededParts) -> bool:
    return bool(needed.sizes) and needed.sizes[-1].n_changes <= 1


def _where(part: NeededPart) -> str:
    """Where a part lies, in words, as people say it: the middle is a fifth of the way and no third."""
    (x0, y0, x1, y1), (width, height) = part.box_px, part.picture.size_px
    row, column = ((share > 0.4) + (share > 0.6) for share in ((y0 + y1) / 2 / height, (x0 + x1) / 2 / width))
    return _PLACES[row][column]


def _drawn(needed: NeededParts) -> list[tuple[Image.Image, str]]:
    """Each picture with its parts framed, and what that shows."""
    found = []
    for picture in needed.pictures:
        own = [(n, part) for n, part in enumerate(needed, start=1) if part.picture is picture]
        size = "{}×{} px".format(*picture.size_px)
        if not own:
            found.append((small(picture), f"picture {name_of(picture)}, {size}: no part of it decides"))
            continue
        image = parts_drawn(picture, [(n, part.box_px) for n, part in own])
        words = "; ".join(
            f"part {n} at the {_where(part)}, x {part.box_px[0]}–{part.box_px[2]}, "
            f"y {part.box_px[1]}–{part.box_px[3]}: without it the answer is {quoted(part.says)}"
            for n, part in own
        )
        found.append((image, f"picture {name_of(picture)}, {size}, framed: {words}"))
    return found


def _parts_table(needed: NeededParts) -> tuple[list[str], list[list[str]]]:
    several = len(needed.pictures) > 1
    by_word = len(needed.words) > 1
    heads = [
        "part",
        "where",
        "without it, it says",
        f"p({quoted(needed.answer)})" if len(needed.answer) < 24 else "p(answer)",
    ]
    heads += ["words that lean on it"] if by_word else []
    heads += ["picture"] if several else []
    heads += ["choices without it"] if needed.choices else []
    rows = []
    for n, part in enumerate(needed, start=1):
        row = [str(n), f"{_where(part)}, {_side(part.n_cells)}", quoted(part.says), share(part.probability)]
        row += [list_words(part.words, 6)] if by_word else []
        row += [name_of(part.picture)] if several else []
        if needed.choices:
            ranked = sorted(part.choices, key=lambda choice: -choice.probability)[:4]
            row.append(", ".join(f"{choice.text} {share(choice.probability)}" for choice in ranked))
        rows.append(row)
    return heads, rows


def _sizes_table(needed: NeededParts) -> tuple[list[str], list[list[str]]]:
    heads = ["hidden at a time", "places", "lowest p(answer)", "what it comes to"]
    return heads, [[*_size_cells(size)] for size in needed.sizes]


def _size_cells(size: WindowSize) -> tuple[str, str, str, str]:
    comes = f"changes in {count_words(size.n_changes, 'place')}" if size.n_changes else "holds everywhere"
    return _side(size.n_cells), str(size.n_windows), share(size.lowest), comes


def _side(n_cells: int) -> str:
    return "1 cell" if n_cells == 1 else f"{n_cells}×{n_cells} cells"


def _leaning(needed: NeededParts) -> str:
    """Which words of a longer answer lean on the pictures."""
    words = [word.text for word in needed.words if word.leans]
    if not words or len(needed.words) == 1:
        return ""
    return f"Words that lose half of their probability when everything is hidden: {list_words(words, 12)}."


def _words_html(needed: NeededParts) -> str:
    """A longer answer with the words marked that lean on the picture."""
    if len(needed.words) < 2 or not needed.leans_on_pictures:
        return ""
    marked = " ".join(
        f'<b class="vlm-leans" title="{share(word.probability)}, hidden {share(word.hidden)}">'
        f"{escape(word.text)}</b>"
        if word.leans
        else f"<span>{escape(word.text)}</span>"
        for word in needed.words
    )
    return f"<p>{marked}</p>" + note(
        "Bold: words that lose half of their probability when everything is hidden."
    )


def _curve_words(needed: NeededParts) -> str:
    """What the deletion curve says, in a sentence."""
    curve = needed.curve
    assert curve is not None
    at = max(range(len(curve.hidden)), key=lambda n: curve.at_random[n] - curve.by_need[n])
    n_hidden = round(curve.hidden[at] * needed.n_cells)
    verdict = (
        "so the order says something"
        if curve.area_by_need < 0.8 * curve.area_at_random
        else "so do not trust the order much"
    )
    return (
        f"Check: hiding the {count_words(n_hidden, 'cell')} that mattered most leaves "
        f"{share(curve.by_need[at])}, as many at random leave {share(curve.at_random[at])}; {verdict} "
        f"(area under the curve {curve.area_by_need:.2f}, at random {curve.area_at_random:.2f})."
    )


def _curve_html(needed: NeededParts, *, pictures: bool) -> str:
    if needed.curve is None:
        return ""
    words = _curve_words(needed)
    image = f'<p class="vlm-marked">{image_html(curve_drawn(needed.curve), words)}</p>' if pictures else ""
    return image + note(words)


def _cost(needed: NeededParts) -> str:
    """How it was found."""
    return (
        f"Found by hiding parts and asking again: {count_words(needed.n_questions, 'question')}, "
        f"{needed.seconds:.1f} s, {count_words(len(needed.pictures), 'picture')} in {needed.n_cells} cells. "
        "A part counts where the answer loses half of its probability under two plain colours. It tells what "
        "the answer needs, not where the model looks."
    )
