"""How likely each of several replies is: whole sequences, the prompt computed once.

The prompt is prefilled (or found in the store), its cache is repeated for a few choices at a time,
and one forward gives the log-probability of every token of every choice. Families that keep no cache
get one full forward a choice. A choice is scored as the model's next reply: as the chat template would
write it, its end token included, so that "cat" and "cat and dog" compare as whole answers.

Knows models and prepared prompts. Neighbours: `reuse` fits the prompt, `engine` queues the work.

Source: the chain rule, log P(choice | prompt) = Σ log P(token | prompt, tokens before). The shared
prefix with repeated caches was checked against full forwards (differences up to 3e-6 in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlm_magic.errors import PromptError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models import families, memory
from vlm_magic.models.control_tokens import GuardedTokenizer, Mask
from vlm_magic.models.loading import Loaded
from vlm_magic.models.prefix import cache_bytes, cache_length, crop_cache
from vlm_magic.models.prompting import lay_out
from vlm_magic.models.reuse import Fitted, Reuse
from vlm_magic.models.sampling import use_config

__all__ = ["Score", "reply_ids", "score_choices"]

_BATCH_CACHE_BYTES = 512 * 2**20  # what the repeated prompt may take beside the model


@dataclass(frozen=True, slots=True)
class Score:
    """How likely one choice is as the next reply.

    Attributes:
        choice: its text.
        log_probability: natural logarithm, summed over its tokens.
        token_ids: its tokens, the end token included where it was scored.
        token_log_probabilities: one for each token.
    """

    choice: str
    log_probability: float
    token_ids: tuple[int, ...]
    token_log_probabilities: tuple[float, ...]


def reply_ids(
    loaded: Loaded, turns: Sequence[Turn], reply: str, settings: Settings, *, with_end: bool = True
) -> list[int]:
    """The tokens of ``reply`` as the answer to ``turns``, as the chat template would write it.

    Args:
        loaded: the model.
        turns: the conversation, the question last.
        reply: the words.
        settings: as for the prompt.
        with_end: whether the token that ends an answer is among them.
    """
    mask = Mask(loaded.control)
    mask.reserve([*(turn.text for turn in turns), reply])
    said = Turn("assistant", (Text(reply),))
    before = lay_out(loaded, turns, settings, mask.hide).text
    after = lay_out(loaded, [*turns, said], settings, mask.hide).text
    if isinstance(after, str) and isinstance(before, str) and after.startswith(before):
        tail = after[len(before) :]
    else:  # a list of texts and pictures, or a template that writes finished turns in another way
        tail = (" " if not settings.continuation else "") + mask.hide(reply)
    ids: list[int] = GuardedTokenizer(loaded.tokenizer, mask)([tail], add_special_tokens=False)["input_ids"][
        0
    ]
    stops = families.stop_token_ids(loaded, settings)
    end = next((n for n, token in enumerate(ids) if token in stops), len(ids))
    if not with_end:
        return ids[:end]
    return ids[: end + 1] if end < len(ids) or settings.continuation or not stops else [*ids, stops[0]]


def score_choices(
    loaded: Loaded,
    reuse: Reuse,
    turns: Sequence[Turn],
    choices: Sequence[str],
    settings: Settings,
    *,
    with_end: bool = True,
    check: Callable[[], None] = lambda: None,
) -> tuple[Score, ...]:
    """Score every choice as the next reply.

    Args:
        loaded: the model.
        reuse: its stores.
        turns: the conversation, the question last.
        choices: the replies to compare.
        settings: system text and the like.
        with_end: whether the end of the answer counts.
        check: called between forwards; raises to leave.

    Raises:
        PromptError: a choice without a token.
    """
    ids = [reply_ids(loaded, turns, choice, settings, with_end=with_end) for choice in choices]
    for choice, tokens in zip(choices, ids, strict=True):
        if not tokens:
            raise PromptError(f"the choice {choice!r} has no token", have=", ".join(map(repr, choices)))
    with torch.inference_mode():
        if reuse.is_able:
            scored = _with_shared_prompt(loaded, reuse, turns, ids, settings, check)
        else:
            scored = [_with_full_forward(loaded, turns, tokens, settings, check) for tokens in ids]
    return tuple(
        Score(choice, sum(logs), tuple(tokens), tuple(logs))
        for choice, tokens, logs in zip(choices, ids, scored, strict=True)
    )


def _with_shared_prompt(
    loaded: Loaded,
    reuse: Reuse,
    turns: Sequence[Turn],
    ids: Sequence[Sequence[int]],
    settings: Settings,
    check: Callable[[], None],
) -> list[list[float]]:
    """The prompt once, then the choices in batches on its repeated cache."""
    prepared = reuse.prepare(turns, settings)
    pictures: list[Picture] = [picture for turn in turns for picture in turn.pictures]
    fitted = reuse.fit(prepared, pictures)
    first = _prefill(loaded, fitted)  # (V,) log-probabilities of the next token
    check()
    n_prompt = cache_length(fitted.cache)
    n_rows = max(1, min(len(ids), _BATCH_CACHE_BYTES // max(1, cache_bytes(fitted.cache))))
    results: list[list[float]] = []
    for start in range(0, len(ids), n_rows):
        batch = ids[start : start + n_rows]
        results += _score_batch(loaded, fitted.cache, n_prompt, first, batch)
        check()
    reuse.keep(fitted, ())
    return results


def _prefill(loaded: Loaded, fitted: Fitted) -> torch.Tensor:
    """Fill the cache with the whole prompt; the log-probabilities of the token after it, (V,) float32."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True, pad_token_id=0
    )
    with use_config(loaded.model, config):
        out = loaded.model.generate(**fitted.inputs)
    return torch.log_softmax(out.logits[0][0].float(), dim=-1)  # (V,) float32


def _score_batch(
    loaded: Loaded, cache: Any, n_prompt: int, first: torch.Tensor, batch: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Log-probabilities of each choice's tokens; leaves the cache as it was."""
    scores = [[float(first[ids[0]])] for ids in batch]
    n_longest = max(map(len, batch)) - 1  # the last token needs no forward
    if n_longest == 0:
        return scores
    device = first.device
    n_rows = len(batch)
    inputs = torch.zeros((n_rows, n_longest), dtype=torch.int64, device=device)  # (B, T)
    mask = torch.zeros((n_rows, n_prompt + n_longest), dtype=torch.int64, device=device)
    mask[:, :n_prompt] = 1
    for row, ids in enumerate(batch):
        inputs[row, : len(ids) - 1] = torch.tensor(ids[:-1], device=device)
        mask[row, n_prompt : n_prompt + len(ids) - 1] = 1
    cache.batch_repeat_interleave(n_rows)
    try:
        out = loaded.model(
            input_ids=inputs,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **_positions(loaded.model, n_prompt, n_rows, n_longest, device),
        )
    finally:
        cache.batch_select_indices(torch.tensor([0], device=device))
        crop_cache(cache, n_prompt)
    logs = torch.log_softmax(out.logits.float(), dim=-1)  # (B, T, V) float32
    for row, ids in enumerate(batch):
        scores[row] += [float(logs[row, n, token]) for n, token in enumerate(ids[1:])]
    return scores


def _positions(model: Any, n_prompt: int, n_rows: int, n_new: int, device: torch.device) -> dict[str, Any]:
    """M-RoPE models are told positions that go on from the prompt's; others count for themselves."""
    deltas = getattr(getattr(model, "model", None), "rope_deltas", None)
    if deltas is None:
        return {}
    positions = torch.arange(n_prompt, n_prompt + n_new, device=device) + int(deltas.reshape(-1)[0])
    return {"position_ids": positions.expand(3, n_rows, n_new)}  # (3, B, T): time, height, width


def _with_full_forward(
    loaded: Loaded, turns: Sequence[Turn], ids: Sequence[int], settings: Settings, check: Callable[[], None]
) -> list[float]:
    """One forward over prompt and choice, for families that keep no cache."""
    inputs = memory.to_device(families.prepare(loaded, turns, settings).inputs, loaded)
    tail = torch.tensor([list(ids)], device=inputs["input_ids"].device)  # (1, T)
    n_prompt = int(inputs["input_ids"].shape[1])
    extended = {
        name: _extended(name, value, n_prompt, tail) if isinstance(value, torch.Tensor) else value
        for name, value in inputs.items()
    }
    logits = loaded.model(**extended).logits[0]  # (T, V)
    check()
    logs = torch.log_softmax(logits[-len(ids) - 1 : -1].float(), dim=-1)  # (T, V) float32
    return [float(logs[n, token]) for n, token in enumerate(ids)]


def _extended(name: str, value: torch.Tensor, n_prompt: int, tail: torch.Tensor) -> torch.Tensor:
    """An input of the prompt, continued over the tail: ids, masks, and masks of pictures by token."""
    if name == "input_ids":
        return torch.cat([value, tail], dim=1)
    if value.ndim < 2 or value.shape[1] != n_prompt or value.is_floating_point():
        return value
    if name.endswith("attention_mask") and value.ndim == 2:
        return torch.cat([value, torch.ones_like(tail, dtype=value.dtype)], dim=1)
    if name in ("image_attention_mask", "cross_attention_mask"):  # the last token's view goes on
        return torch.cat([value, value[:, -1:].expand(-1, tail.shape[1], *value.shape[2:])], dim=1)
    if value.ndim == 2:
        return torch.cat([value, torch.zeros_like(tail, dtype=value.dtype)], dim=1)
    return value
