"""The view of what each turn cost: a bar of what was reused, new and said, with times and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlm_magic.messages import TurnCost
from vlm_magic.outputs.explain.pieces import note, plain_table, section, sentence, table
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.wording import count_words, shorten, size_words

__all__ = ["memory_html", "memory_plain"]

_HEADS = [
    "turn",
    "question",
    "reused",
    "new picture",
    "new text",
    "answer",
    "prefill",
    "decode",
    "holds",
]
_BAR = (("▓", "vlm-reused"), ("█", "vlm-picture"), ("▒", "vlm-text"), ("░", "vlm-answer"))
_BAR_CHARS = 20


def memory_html(turns: Sequence[TurnCost]) -> str:
    """The view as HTML: a table of numbers with a bar in letters, which stays where styles do not."""
    most = max((_total(turn) for turn in turns), default=1)
    rows = [[*map(escape, _cells(n, turn)), _bar_html(turn, most)] for n, turn in enumerate(turns, start=1)]
    body = sentence(_summary(turns)) + table([*_HEADS, ""], rows, right=tuple(range(2, 9))) + note(_LEGEND)
    return section("Memory", "what each turn reused, computed and holds", body)


def memory_plain(turns: Sequence[TurnCost]) -> str:
    """The view in words."""
    most = max((_total(turn) for turn in turns), default=1)
    rows = [[*_cells(n, turn), _bar(turn, most)] for n, turn in enumerate(turns, start=1)]
    return "\n".join([f"Memory: {_summary(turns)}", *plain_table([*_HEADS, ""], rows), f"  {_LEGEND}"])


_LEGEND = (
    "▓ reused · █ new picture · ▒ new text · ░ answer. Up to the first token the prompt is computed "
    "(prefill), then a token at a time (decode). What a turn holds are keys and values of its tokens."
)


def _total(turn: TurnCost) -> int:
    return turn.n_reused + turn.n_new_picture + turn.n_new_text + turn.n_answer


def _cells(n: int, turn: TurnCost) -> list[str]:
    return [
        str(n),
        shorten(clean_text(turn.question), 40),
        f"{turn.n_reused:,}",
        f"{turn.n_new_picture:,}",
        f"{turn.n_new_text:,}",
        f"{turn.n_answer:,}",
        _ms(turn.prefill_s),
        _ms(turn.decode_s),
        "–" if turn.n_bytes is None else size_words(turn.n_bytes).replace(" ", "\u00a0"),
    ]


def _ms(seconds: float) -> str:
    return f"{seconds:.1f}\u00a0s" if seconds >= 10 else f"{1000 * seconds:.0f}\u00a0ms"


def _lengths(turn: TurnCost, most: int) -> list[int]:
    parts = (turn.n_reused, turn.n_new_picture, turn.n_new_text, turn.n_answer)
    return [max(1, round(_BAR_CHARS * n / most)) if n else 0 for n in parts]


def _bar(turn: TurnCost, most: int) -> str:
    return "".join(sign * n for (sign, _), n in zip(_BAR, _lengths(turn, most), strict=True))


def _bar_html(turn: TurnCost, most: int) -> str:
    pieces = zip(_BAR, _lengths(turn, most), strict=True)
    inner = "".join(f'<span class="{kind}">{sign * n}</span>' for (sign, kind), n in pieces if n)
    return f'<span class="vlm-bar" role="presentation">{inner}</span>'


def _summary(turns: Sequence[TurnCost]) -> str:
    reused = sum(turn.n_reused for turn in turns)
    prompts = sum(turn.n_reused + turn.n_new_picture + turn.n_new_text for turn in turns)
    part = f", {100 * reused / prompts:.0f} %" if prompts else ""
    again = f"{reused:,} were not computed again{part}"
    return f"{count_words(len(turns), 'turn')}: of {prompts:,} prompt tokens {again}."
