"""A given answer token by token: how likely each was, what else was likely there, how open the choice was.

Read from the distributions that one forward over prompt and answer gives. Neighbours: `batch_scores` does the
forward; while an answer is made, `vlm_magic.models.decoding.single` keeps the same of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_magic.messages import SaidToken, Settings, Turn
from vlm_magic.models.inside.batch_scores import read_reply
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.said_tokens import said_token, texts_of

if TYPE_CHECKING:
    from vlm_magic.models.loaded import Loaded

__all__ = ["said_again"]


def said_again(
    loaded: Loaded, turns: Sequence[Turn], reply: str, settings: Settings, n_likeliest: int = 5
) -> tuple[SaidToken, ...]:
    """Each token of a given answer, its end included, by the model's own distribution at its place.

    Args:
        loaded: the model.
        turns: the prompt, the question last.
        reply: what was said.
        settings: as for the answer; how tokens were drawn from the distribution does not matter here.
        n_likeliest: how many of the likeliest tokens to keep at each place.
    """
    import torch

    reading = read_reply(loaded, [turns], reply, settings)
    logs = torch.log_softmax(reading.at_reply(reading.out.logits)[0].float(), dim=-1)  # (T, V) float32
    ids = reading.ids
    ends = token_ids.stop_token_ids(loaded, settings)
    texts = texts_of(loaded.tokenizer, ids)
    return tuple(
        said_token(loaded.tokenizer, row, token, text, n_likeliest, is_end=token in ends)
        for row, token, text in zip(logs, ids, texts, strict=True)
    )
