"""The view of a prompt token by token: how pixels became tokens, and whose each token is."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from vlm_magic.messages import PictureTokens, PromptToken, PromptTokens, TokenKind
from vlm_magic.outputs.explain.marked import grid_drawn, small
from vlm_magic.outputs.explain.pieces import image_html, name_of, note, section, sentence
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.wording import count_words

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["tokens_html", "tokens_images", "tokens_plain"]

_KINDS: dict[TokenKind, str] = {
    "picture": "picture",
    "mark": "marks of a picture",
    "person": "yours",
    "model": "the model's own, said before",
    "system": "system text",
    "template": "the template's",
}
_SIGNS: dict[TokenKind, str] = {
    "picture": "▦", "mark": "#", "person": "", "model": "↩", "system": "§", "template": "·",
}  # fmt: skip
_MOST = 800  # tokens that are written out


def tokens_html(tokens: PromptTokens, *, pictures: bool = True) -> str:
    """The view as HTML."""
    body = sentence(_summary(tokens))
    for each, times in _each_once(tokens):
        steps = "".join(f"<li>{escape(step)}</li>" for step in [*_steps(each), *_again(times)])
        image = f"<p>{image_html(_drawn(each), _alt(each))}</p>" if pictures and each.picture.image else ""
        body += f"{image}<ol>{steps}</ol>"
    body += f'<p class="vlm-prompt">{"".join(_runs_html(tokens))}</p>' + note(_LEGEND)
    return section("Tokens", "how the picture became tokens, and whose each token is", body)


def tokens_plain(tokens: PromptTokens) -> str:
    """The view in words."""
    lines = [f"Tokens: {_summary(tokens)}"]
    for each, times in _each_once(tokens):
        lines += [f"  {name_of(each.picture)}: {' → '.join([*_steps(each), *_again(times)])}"]
    lines.append("  " + " ".join(_run_plain(kind, run) for kind, run in _runs(tokens)))
    return "\n".join(lines)


def tokens_images(tokens: PromptTokens) -> list[Image.Image]:
    """The pictures as they were cut."""
    return [_drawn(each) for each, _ in _each_once(tokens) if each.picture.image]


def _each_once(tokens: PromptTokens) -> list[tuple[PictureTokens, int]]:
    """Each picture that is cut in its own way, and how often it stands in the prompt."""
    found: dict[tuple[str, ...], list[PictureTokens]] = {}
    for each in tokens.pictures:
        found.setdefault((each.picture.digest or str(id(each)), *_steps(each)), []).append(each)
    return [(same[0], len(same)) for same in found.values()]


def _again(times: int) -> list[str]:
    return [f"the same picture stands in {times} places, each time as these tokens"] if times > 1 else []


_LEGEND = (
    "▦ picture · # marks around or between a picture's parts · framed: your words · ↩ said by the model "
    "before · § system text · dotted: the template's. Hover for the token's number."
)


def _summary(tokens: PromptTokens) -> str:
    counts = [f"{tokens.count(kind):,} {name}" for kind, name in _KINDS.items() if tokens.count(kind)]
    limit = tokens.context_tokens
    room = f" of the {limit:,} that fit" if limit else ""
    return f"The prompt has {count_words(len(tokens), 'token')}{room}: {', '.join(counts)}."


def _steps(each: PictureTokens) -> list[str]:
    """How pixels became tokens, a step each, as far as it is known."""
    width, height = each.picture.size_px
    rows, columns = each.tiles
    is_cut = (rows, columns) != (1, 1)
    steps = [f"{width}×{height} px, as you gave it"]
    if (rows, columns) != (1, 1):
        whole = ", and shown whole beside them" if each.n_seen == rows * columns + 1 else ""
        steps.append(f"cut into {rows} × {columns} tiles{whole}")
    elif (each.n_seen or 1) > 1:
        steps.append(f"seen in {each.n_seen} parts")
    if each.seen_px is not None:
        what = "each tile" if (rows, columns) != (1, 1) else "it"
        filled = ", its shape kept and the rest filled up" if each.is_filled_up and not is_cut else ""
        steps.append(f"{what} becomes {each.seen_px[0]}×{each.seen_px[1]} px{filled}")
    n_patches = 0
    if each.seen_px is not None and each.patch_px:
        across, down = each.seen_px[0] // each.patch_px, each.seen_px[1] // each.patch_px
        n_patches = across * down
        steps.append(f"{down} × {across} = {n_patches:,} patches of {each.patch_px}×{each.patch_px} px")
    steps.append(_token_step(each, n_patches))
    if each.n_marks:
        steps.append(f"{count_words(each.n_marks, 'token')} more mark where it begins, ends or is cut")
    return steps


def _token_step(each: PictureTokens, n_patches: int) -> str:
    """What the patches come to: tokens in places, tokens of the whole, or none."""
    n = count_words(each.n_tokens, "token")
    if each.mixing == "beside" or not each.n_tokens:
        marks = f"; {n} only mark{'s' if each.n_tokens == 1 else ''} where it stands" if each.n_tokens else ""
        return f"layers of their own look at it{marks}"
    if each.mixing == "queries":
        all_of = "all of it" if each.tiles == (1, 1) else "all of its tile"
        return f"{n}, each drawn from {all_of}: they lie in no place"
    lie = f" in {each.cells[0]} rows and {each.cells[1]} columns" if each.cells else ""
    is_whole = each.tiles == (1, 1) and each.n_seen in (None, 1)
    n_merged = n_patches // each.n_tokens if is_whole and n_patches % each.n_tokens == 0 else 0
    return f"{n}{lie}" + (f", {n_merged} patches in each" if n_merged > 1 else "")


def _drawn(each: PictureTokens) -> Image.Image:
    """The picture with its tiles, or with the cells that its tokens stand for."""
    if each.tiles != (1, 1):
        return grid_drawn(each.picture, *each.tiles, heavy=True)
    if each.cells is None or max(each.cells) > 64:
        return small(each.picture)
    rows, columns = each.cells
    if each.is_filled_up:
        width, height = each.picture.size_px
        rows = max(1, round(rows * height / max(width, height)))
        columns = max(1, round(columns * width / max(width, height)))
    return grid_drawn(each.picture, rows, columns)


def _alt(each: PictureTokens) -> str:
    return f"picture {name_of(each.picture)}: " + "; ".join(_steps(each))


def _runs(tokens: PromptTokens) -> Iterator[tuple[TokenKind, list[PromptToken]]]:
    """Tokens of one kind beside each other; pictures and their marks are one run."""
    for (kind, _), run in groupby(tokens[:_MOST], key=lambda token: (token.kind, token.picture)):
        yield kind, list(run)


def _runs_html(tokens: PromptTokens) -> Iterator[str]:
    for kind, run in _runs(tokens):
        if kind == "picture":
            label = f"▦ {name_of(tokens.pictures[run[0].picture].picture)}: {count_words(len(run), 'token')}"
            yield f'<span class="vlm-tok vlm-of-picture">{escape(label)}</span> '
            continue
        for token in run:
            title = escape(f"{token.token_id}: {_KINDS[kind]}")
            sign = f"<small>{_SIGNS[kind]}</small>" if _SIGNS[kind] else ""
            text = escape(_visible(token.text))
            yield f'<span class="vlm-tok vlm-of-{kind}" title="{title}">{sign}{text}</span> '


def _run_plain(kind: TokenKind, run: list[PromptToken]) -> str:
    if kind == "picture":
        return f"[▦ ×{len(run)}]"
    return f"[{_SIGNS[kind] or 'you'} " + "|".join(_visible(token.text) for token in run) + "]"


def _visible(text: str) -> str:
    """A token with its blanks made visible."""
    return clean_text(text).replace("\n", "⏎").replace(" ", "␣") or "∅"
