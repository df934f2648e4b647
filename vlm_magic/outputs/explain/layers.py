"""The view of what each layer would say: a row for each layer, a column for each token of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from vlm_magic.messages import LayerToken, LayerWords
from vlm_magic.outputs.explain.pieces import note, plain_table, section, sentence, share, table
from vlm_magic.outputs.markdown.markdown_parser import clean_text

__all__ = ["layers_html", "layers_plain"]

_MOST_COLUMNS = 12


def layers_html(words: Sequence[LayerWords]) -> str:
    """The view as HTML."""
    heads, rows = _table(words)
    safe = [
        [f"<b>{escape(cell)}</b>" if cell.startswith("✓") else escape(cell) for cell in row] for row in rows
    ]
    body = sentence(_summary(words)) + table(heads, safe) + note(_LIMIT)
    return section("Layers", "what each layer would say (logit lens)", body)


def layers_plain(words: Sequence[LayerWords]) -> str:
    """The view in words."""
    return "\n".join([f"Layers: {_summary(words)}", *plain_table(*_table(words)), f"  {_LIMIT}"])


_LIMIT = (
    "✓: what was said in the end is on top. The logit lens reads each layer by the head that was made for "
    "the last one: early layers mean little, and a word on top is not a decision."
)


def _table(words: Sequence[LayerWords]) -> tuple[list[str], list[list[str]]]:
    shown = words[:_MOST_COLUMNS]
    heads = ["layer", *(_label(word.text) for word in shown)]
    n_layers = len(shown[0].layers) if shown else 0
    return heads, [[str(n + 1), *(_cell(word.layers[n]) for word in shown)] for n in range(n_layers)]


def _cell(token: LayerToken) -> str:
    top = f"{_label(token.text)} {share(token.probability)}"
    return f"✓ {top}" if token.rank == 1 else f"{top} (said: place {token.rank:,})"


def _label(text: str) -> str:
    return clean_text(text).strip() or "end"


def _summary(words: Sequence[LayerWords]) -> str:
    said = [word for word in words if word.text.strip()]
    found = [word.first_on_top for word in said]
    known = [n for n in found if n is not None]
    if not known:
        return "No layer but the last would say these words."
    n_layers = len(said[0].layers)
    first, last = min(known), max(known)
    if first == last:
        return f"The answer's words come on top in layer {first} of {n_layers}, and stay."
    span = f"the first in layer {first}, the last in {last} of {n_layers}"
    return f"The answer's words come on top and stay: {span}."
