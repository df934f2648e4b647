"""Go on with an answer that was cut off, as if it had been allowed more tokens from the start.

The tokens of the answer so far stand behind the prompt, where the cache of that answer is mostly there
still. Where a family's inputs cannot simply be made longer, or the tokens so far count for what may come
(a grammar, a thought's limit, random draws from a seed), they are said once more, one by one.
Knows prepared prompts and tokens. Neighbours: `single` generates, `scoring` tokenizes replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import LogitsProcessor

from vlm_magic.errors import OptionError
from vlm_magic.messages import Reply, Settings, Turn
from vlm_magic.models.caches.reuse import Reuse
from vlm_magic.models.decoding.scoring import replies_ids
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts import token_ids

__all__ = ["Begun", "SaidAgain", "begin", "check_can_continue", "joined"]

_LENGTHENED = {"input_ids", "attention_mask", "mm_token_type_ids", "image_attention_mask"}
_BESIDE = {"image_grid_thw", "pixel_values", "pixel_attention_mask", "image_sizes"}  # of pictures, not tokens


def check_can_continue(settings: Settings) -> None:
    """Raise for an answer that was not said token by token.

    Raises:
        OptionError: it was chosen, or searched for with beams.
    """
    if settings.choices or settings.beams > 1:
        raise OptionError(
            "only an answer that was said token by token can be gone on with",
            have="choices" if settings.choices else f"beams={settings.beams}",
            hint="ask again with a larger max_tokens",
        )


@dataclass(frozen=True)
class Begun:
    """An answer that is gone on with.

    Attributes:
        reply: the answer so far.
        ids: its tokens.
        is_in_prompt: whether they stand behind the prompt; otherwise they are said once more.
    """

    reply: Reply
    ids: tuple[int, ...]
    is_in_prompt: bool


def begin(
    loaded: Loaded,
    reuse: Reuse,
    turns: Sequence[Turn],
    settings: Settings,
    reply: Reply,
    prepared: Prepared,
) -> tuple[Prepared, Begun]:
    """The prompt to go on from, and what was said so far.

    Args:
        loaded: the model.
        reuse: its stores.
        turns: the conversation, the question last.
        settings: of the whole answer.
        reply: the answer so far. Its tokens are those that it names where this model made it; a text
            without them is tokenized.
        prepared: the prompt alone.

    Raises:
        ContextLengthError: the answer so far fills the context.
    """
    is_own = bool(reply.token_ids) and reply.model == loaded.name
    if is_own:
        ids = reply.token_ids
    else:
        ids = tuple(replies_ids(loaded, turns, [reply.text], settings, with_end=False)[0])
    if not loaded.is_encoder_decoder:
        token_ids.check_length(loaded, int(prepared.inputs["input_ids"].shape[1]) + len(ids))
    counts = bool(settings.grammar or settings.think) or (settings.is_sampling and settings.seed is not None)
    can = not counts and reuse.is_able and not loaded.is_encoder_decoder and _can_be_longer(prepared)
    begun = Begun(reply, ids, bool(ids) and can)
    return (_longer(prepared, ids) if begun.is_in_prompt else prepared), begun


def _can_be_longer(prepared: Prepared) -> bool:
    """Whether all that the model takes for each token is known to go on as the answer's tokens want it."""
    return prepared.inputs.keys() <= _LENGTHENED | _BESIDE


def _longer(prepared: Prepared, ids: Sequence[int]) -> Prepared:
    """The prompt with tokens of an answer behind it: (1, T) becomes (1, T + n)."""
    inputs = dict(prepared.inputs)
    added = torch.tensor([list(ids)], dtype=inputs["input_ids"].dtype)  # (1, n)
    for name in _LENGTHENED & inputs.keys():
        before = inputs[name]
        if name == "input_ids":
            more = added
        elif name == "image_attention_mask":  # each token sees what the prompt's last one sees: (1, n, N)
            more = before[:, -1:].expand(-1, len(ids), -1)
        else:  # attended to; text
            more = torch.full_like(added, 1 if name == "attention_mask" else 0, dtype=before.dtype)
        inputs[name] = torch.cat([before, more], dim=1)
    return replace(prepared, inputs=inputs)


class SaidAgain(LogitsProcessor):
    """Has the tokens of the answer so far said once more, then lets the model choose."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)
        self._n_said = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores, with -inf for all but the token that comes: (B, V)."""
        if self._n_said == len(self._ids):
            return scores
        only = torch.full_like(scores, -torch.inf)
        only[:, self._ids[self._n_said]] = 0.0
        self._n_said += 1
        return only


def joined(reply: Reply, begun: Begun, n_tokens: int) -> Reply:
    """The whole answer's figures: times add up, the first token came when it came.

    Where a stop came before all was said again, the answer is what it was.
    """
    before = begun.reply
    if n_tokens < len(begun.ids):
        return before
    logs = reply.log_probabilities
    if logs and before.log_probabilities:
        own = logs if begun.is_in_prompt else logs[len(begun.ids) :]
        logs = (*before.log_probabilities, *own)
    top = reply.top_log_probabilities
    if top and before.top_log_probabilities:
        top = (*before.top_log_probabilities, *(top if begun.is_in_prompt else top[len(begun.ids) :]))
    return replace(
        reply,
        n_new_tokens=n_tokens,
        ttft_s=before.ttft_s or reply.ttft_s,
        total_s=before.total_s + reply.total_s,
        log_probabilities=logs,
        top_log_probabilities=top,
    )
