"""How ``generate`` is told to choose tokens: ours alone, with nothing of the checkpoint's but its token ids.

transformers fills every gap of a generation configuration from the checkpoint's own, which may sample
or penalise without anybody asking. So a call runs with a configuration of its own in the model's place.

Knows settings and token ids; generates nothing. Neighbours: `run` and `batch` call ``generate``.

Source: transformers 5.23, ``GenerationMixin._prepare_generation_config``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import GenerationConfig

from vlm_magic.messages import Settings
from vlm_magic.models import families
from vlm_magic.models.loading import Loaded

__all__ = ["generation_config", "hooks_on_layers", "seeded", "use_config"]

_THEIR_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")


def generation_config(loaded: Loaded, settings: Settings) -> GenerationConfig:
    """Greedy unless asked, with the family's stop and forbidden tokens."""
    theirs = loaded.model.generation_config
    stop_ids = families.stop_token_ids(loaded, settings)
    own: dict[str, Any] = {
        "max_new_tokens": settings.max_tokens,
        "do_sample": settings.is_sampling,
        "num_beams": settings.beams,
        "eos_token_id": stop_ids or None,
        "pad_token_id": _pad_token_id(theirs, stop_ids),
        "bos_token_id": theirs.bos_token_id,
        "decoder_start_token_id": theirs.decoder_start_token_id,
        "suppress_tokens": families.forbidden_token_ids(loaded) or None,
        "bad_words_ids": _spellings(loaded.tokenizer, settings.bad_words) or None,
        "use_cache": True,
    }
    if settings.sampling:
        own |= {name: getattr(theirs, name, None) for name in _THEIR_SAMPLING}
    elif settings.is_sampling:
        own["top_k"] = 0  # transformers' default of 50 is a filter that nobody asked for
    asked = {
        "temperature": settings.temperature or None,
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
    theirs = [(part, part.generation_config) for part in families.generating_parts(model)]
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


_LAYERS: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def _layers_of(model: Any) -> list[Any]:
    """The layers of all stacks; looked for once, as walking a model's modules takes milliseconds."""
    if model not in _LAYERS:
        stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
        _LAYERS[model] = [layer for stack in stacks for layer in stack]
    return _LAYERS[model]


@contextmanager
def hooks_on_layers(model: Any, hook: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Call ``hook`` before every layer of every stack (language model and vision tower alike)."""
    handles = [layer.register_forward_pre_hook(hook) for layer in _layers_of(model)]

    def remove() -> None:
        for handle in handles:
            handle.remove()
        handles.clear()

    try:
        yield remove
    finally:
        remove()
