"""How likely one reply is after each of several prompts that differ in their pixels alone, in few forwards.

Neighbours: `vlm_magic.models.decoding.scoring` scores many replies after one prompt; this is the other way
round. No cache is kept, none is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlm_magic.messages import Settings, Turn
from vlm_magic.models import memory
from vlm_magic.models.caches.reuse import forget_positions
from vlm_magic.models.decoding.scoring import (
    behind_start,
    extended,
    is_plain,
    replies_ids,
    scored_as,
    without_trailing_space,
)
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import prepare_batch

__all__ = ["Reading", "read_reply", "score_reply"]


def score_reply(
    loaded: Loaded,
    conversations: Sequence[Sequence[Turn]],
    reply: str,
    settings: Settings,
    *,
    check: Callable[[], None] = lambda: None,
) -> list[list[float]]:
    """Log-probabilities of the reply's tokens, its end included, after each of the conversations.

    Args:
        loaded: the model.
        conversations: the question last; they differ in the pixels of pictures of equal size.
        reply: what was said.
        settings: as for the answer.
        check: called between layers; raises to leave.
    """
    reading = read_reply(loaded, conversations, reply, settings)
    logs = torch.log_softmax(reading.at_reply(reading.out.logits).float(), dim=-1)  # (B, T, V) float32
    check()
    ids = torch.tensor(reading.ids, device=logs.device).expand(len(logs), -1)  # (B, T)
    picked = logs.gather(2, ids[..., None])  # (B, T, 1)
    found: list[list[float]] = picked[..., 0].tolist()
    return found


@dataclass(frozen=True)
class Reading:
    """One forward over prompts and the reply behind them.

    Attributes:
        ids: the reply's tokens, its end included.
        prepared: the prompts.
        out: what the model gave.
        is_encoder_decoder: whether the reply was read by a decoder of its own.
    """

    ids: list[int]
    prepared: Prepared
    out: Any
    is_encoder_decoder: bool

    def at_reply(self, values: torch.Tensor) -> torch.Tensor:
        """Of values for each token, those of the places that the reply's tokens were chosen at: (B, T, …)."""
        return values if self.is_encoder_decoder else values[:, -len(self.ids) - 1 : -1]


def read_reply(
    loaded: Loaded,
    conversations: Sequence[Sequence[Turn]],
    reply: str,
    settings: Settings,
    **asked: Any,
) -> Reading:
    """Have the model read prompts with a reply behind each.

    Args:
        loaded: the model.
        conversations: as for `score_reply`.
        reply: what was said.
        settings: as for the answer.
        **asked: what else the model shall give: ``output_hidden_states``, ``output_attentions``.
    """
    settings = scored_as(loaded, settings)
    if is_plain(loaded, settings):
        conversations = [without_trailing_space(turns) for turns in conversations]
    ids = replies_ids(loaded, conversations[0], [reply], settings)[0]
    forget_positions(loaded.model)
    prepared = prepare_batch(loaded, conversations, settings)
    inputs = memory.to_device(prepared.inputs, loaded)
    n_prompt = int(inputs["input_ids"].shape[1])
    token_ids.check_length(loaded, n_prompt + len(ids))
    tail = torch.tensor([ids] * len(conversations), device=inputs["input_ids"].device)  # (B, T)
    if loaded.is_encoder_decoder:
        inputs["decoder_input_ids"] = behind_start(loaded, tail)
    else:
        said = loaded.family.said_type
        inputs = {
            name: extended(name, value, n_prompt, tail, said) if isinstance(value, torch.Tensor) else value
            for name, value in inputs.items()
        }
        if "logits_to_keep" in inspect.signature(loaded.model.forward).parameters:
            inputs["logits_to_keep"] = len(ids) + 1  # the prompt's would fill the memory
    with torch.inference_mode():
        out = loaded.model(**inputs, **asked)
    forget_positions(loaded.model)
    return Reading(ids, prepared, out, loaded.is_encoder_decoder)
