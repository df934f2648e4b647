"""How ``generate`` is told to choose tokens: ours alone, with nothing of the checkpoint's but its token ids.

transformers fills every gap of a generation configuration from the checkpoint's own, which may sample
or penalise without anybody asking. So a call runs with a configuration of its own in the model's place.

Knows settings and token ids; generates nothing. Neighbours: `single` and the batches call ``generate``.

Source: transformers 5.23, ``GenerationMixin._prepare_generation_config``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from vlm_magic.messages import Settings
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts import token_ids

__all__ = ["generation_config", "seeded", "use_config"]

_THEIR_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")


def generation_config(loaded: Loaded, settings: Settings) -> GenerationConfig:
    """Greedy unless asked, with the family's stop and forbidden tokens."""
    theirs = loaded.model.generation_config
    stop_ids = token_ids.stop_token_ids(loaded, settings)
    own: dict[str, Any] = {
        "max_new_tokens": settings.max_tokens,
        "do_sample": settings.is_sampling,
        "num_beams": settings.beams,
        "eos_token_id": stop_ids or None,
        "pad_token_id": _pad_token_id(theirs, stop_ids),
        "bos_token_id": theirs.bos_token_id,
        "decoder_start_token_id": theirs.decoder_start_token_id,
        "suppress_tokens": token_ids.forbidden_token_ids(loaded) or None,
        "bad_words_ids": _spellings(loaded.tokenizer, settings.bad_words) or None,
        "use_cache": True,
    }
    if settings.sampling:
        own |= {name: getattr(theirs, name, None) for name in _THEIR_SAMPLING}
    elif settings.is_sampling:
        own["top_k"] = 0  # transformers' default of 50 is a filter that nobody asked for
    asked = {
        "temperature": float(settings.temperature) if settings.temperature else None,  # 2 is refused
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "repetition_penalty": settings.repetition_penalty,
    }
    own |= {name: value for name, value in asked.items() if value is not None}
    return GenerationConfig(**{name: value for name, value in own.items() if value is not None})


def _pad_token_id(theirs: GenerationConfig, stop_ids: Sequence[int]) -> int:
    """Any id does, masked as it is, but transformers warns when there is none."""
    if theirs.pad_token_id is not None:
        return int(theirs.pad_token_id)
    return stop_ids[0] if stop_ids else 0


def _spellings(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """The tokens of each word at the beginning of a text, after a space, a line break or a letter."""

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    found: list[list[int]] = []
    for word in words:
        found += [ids_of(word), ids_of(f" {word}")]
        for before in ("a", "\n", ":"):
            start, whole = ids_of(before), ids_of(before + word)
            if whole[: len(start)] == start:
                found.append(whole[len(start) :])
    return [list(ids) for ids in dict.fromkeys(map(tuple, found)) if ids]


@contextmanager
def use_config(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Let ``generate`` find ``config`` in the place of the checkpoint's own."""
    theirs = [(part, part.generation_config) for part in token_ids.generating_parts(model)]
    try:
        for part, _ in theirs:
            part.generation_config = config
        yield
    finally:
        for part, own in theirs:
            part.generation_config = own


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from this seed, and leave everybody else's random numbers as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
