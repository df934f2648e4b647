"""What a token says, how likely it was, and what else was likely in its place.

Reads distributions that are at hand; knows tokenizers and tensors, not models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Likely, SaidToken

if TYPE_CHECKING:
    import torch

__all__ = ["said_token", "texts_of", "written"]

_CONTEXT = 8  # tokens before one that decide how it is written: spaces, bytes of one character
_REPLACEMENT = "�"


def texts_of(tokenizer: Any, ids: Sequence[int], *, with_special: bool = False) -> tuple[str, ...]:
    """What each token adds to the text; "" for one that only begins a character, or ends the answer.

    Args:
        tokenizer: anything with ``decode``.
        ids: the tokens.
        with_special: whether control tokens are written out.
    """

    def decode(start: int, end: int) -> str:
        text: str = tokenizer.decode(
            list(ids[start:end]), skip_special_tokens=not with_special, clean_up_tokenization_spaces=False
        )
        return text

    texts: list[str] = []
    start, read = 0, 0
    for n in range(1, len(ids) + 1):
        before, after = decode(start, read), decode(start, n)
        if after.endswith(_REPLACEMENT) and n < len(ids):
            texts.append("")
            continue
        texts.append(after[len(before) :] if after.startswith(before) else decode(n - 1, n))
        start, read = max(0, n - _CONTEXT), n
    return tuple(texts)


def said_token(
    tokenizer: Any, logs: torch.Tensor, token: int, text: str, n_likeliest: int, *, is_end: bool = False
) -> SaidToken:
    """One token; ``logs`` are the log-probabilities at its place, (V,) float32."""
    best = logs.topk(min(n_likeliest, len(logs)))
    likeliest = [
        Likely(written(tokenizer, int(other)), float(value), int(other))
        for value, other in zip(best.values, best.indices, strict=True)
        if math.isfinite(float(value))
    ]
    entropy = float(-(logs.exp() * logs).nan_to_num(0.0).sum() / math.log(2))
    return SaidToken(text, token, float(logs[token]), tuple(likeliest), abs(entropy), is_end)


def written(tokenizer: Any, token: int) -> str:
    """A token as a word stands in a text, control tokens by their names."""
    text: str = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return text
