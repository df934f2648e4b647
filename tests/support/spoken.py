"""What a model finds likely, told by transformers alone: nothing of ours computes the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlm_magic.messages import Settings, Turn
from vlm_magic.models.prompts.prepare import prepare

__all__ = ["said_log_probabilities"]


def said_log_probabilities(loaded: Any, turns: Sequence[Turn], ids: Sequence[int]) -> list[float]:
    """The log-probability of each token of an answer, as ``generate`` says them when nothing else is allowed.

    Step by step, so no token can have seen one that follows.
    """
    inputs = prepare(loaded, turns, Settings(think=False)).inputs  # behind a thought, where there is one
    n_before = 1 if loaded.is_encoder_decoder else inputs["input_ids"].shape[1]
    with torch.inference_mode():
        out = loaded.model.generate(
            **inputs,
            max_new_tokens=len(ids),
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, said: [ids[len(said) - n_before]],
            return_dict_in_generate=True,
            output_logits=True,
            eos_token_id=None,
            pad_token_id=0,
        )
    logs = [torch.log_softmax(step[0].double(), dim=-1) for step in out.logits]  # each (V,) float64
    return [float(log[token]) for log, token in zip(logs, ids, strict=True)]
