"""How likely each of several replies is: whole sequences, the prompt computed once.

The prompt is prefilled (or found in the store), its cache is repeated for a few choices at a time,
and one forward gives the log-probability of every token of every choice. Families that keep no cache
get one full forward per choice. A choice is scored as the model's next reply: as the chat template would
write it, its end token included, so that "cat" and "cat and dog" compare as whole answers.

Knows models and prepared prompts. Neighbours: `reuse` fits the prompt, `engine` queues the work.

Source: the chain rule, log P(choice | prompt) = Σ log P(token | prompt, tokens before). The shared
prefix with repeated caches was checked against full forwards (differences up to 3e-6 in float32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vlm_magic.errors import PromptError
from vlm_magic.messages import Picture, Score, Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.caches.prefix_cache import cache_bytes, cache_length, crop_cache
from vlm_magic.models.caches.reuse import Fitted, Reuse
from vlm_magic.models.control_tokens import GuardedTokenizer, Mask
from vlm_magic.models.decoding.generation_config import use_config
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import lay_out, prepare
from vlm_magic.models.prompts.thinking import marks_of, thinks
from vlm_magic.models.prompts.turns import joint

__all__ = [
    "Scored",
    "behind_start",
    "extended",
    "is_plain",
    "replies_ids",
    "score_choices",
    "scored_as",
    "without_trailing_space",
]

_BATCH_BYTES = 512 * 2**20  # what the repeated prompt may take beside the model, and the logits too


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of several replies, and what their prompt was.

    Attributes:
        scores: one for each choice, in order.
        n_prompt_tokens: tokens of the prompt, pictures included.
        n_picture_tokens: those of them that stand for pictures.
        n_reused_tokens: prompt tokens that were not computed again.
        notes: remarks for the person.
    """

    scores: tuple[Score, ...]
    n_prompt_tokens: int
    n_picture_tokens: int
    n_reused_tokens: int
    notes: tuple[str, ...]


def replies_ids(
    loaded: Loaded,
    turns: Sequence[Turn],
    replies: Sequence[str],
    settings: Settings,
    *,
    with_end: bool = True,
) -> list[list[int]]:
    """The tokens of each reply as the answer to ``turns``, as the model's layout would write it.

    A reply is tokenized behind the end of the prompt, whose own tokens are then dropped: a tokenizer may
    split the same word differently at the beginning of a text. The end is what the chat template writes
    after an answer; a plain continuation ends with its line, as examples in such a prompt do.

    Args:
        loaded: the model.
        turns: the conversation, the question last.
        replies: the words.
        settings: as for the prompt.
        with_end: whether the token that ends an answer is among them.
    """
    frame = _Frame.of(loaded, turns, replies, settings)
    tokenizer = GuardedTokenizer(loaded.tokenizer, frame.mask)

    def encode(texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    closing = frame.closing if with_end else ""
    tails = [f"{frame.opening}{frame.mask.hide(reply)}{closing}" for reply in replies]
    found = _ids_after(frame.before[-_CONTEXT_CHARS:], tails, encode)
    stops = token_ids.stop_token_ids(loaded, settings)
    result = []
    for ids in found:
        end = next((n for n, token in enumerate(ids) if token in stops), len(ids))
        ends = ids[end : end + 1] or list(frame.end_ids)
        result.append([*ids[:end], *(ends if with_end else ())])
    return result


_CONTEXT_CHARS = 200  # of the prompt's end, to see how a reply is tokenized behind it
_STAND_IN = "\ue6a2"  # private use: stands for the reply while the layout is looked at


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands around a reply in the text of a conversation.

    Attributes:
        mask: control words of people's text, hidden.
        before: the prompt's text, up to where the model begins to write.
        opening: written before the reply (" " or nothing).
        closing: written after it, up to the end of the answer.
        end_ids: the token that ends an answer where ``closing`` does not hold it.
    """

    mask: Mask
    before: str
    opening: str
    closing: str
    end_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, loaded: Loaded, turns: Sequence[Turn], replies: Sequence[str], settings: Settings) -> _Frame:
        """Lay the conversation out with and without an answer, and compare."""
        mask = Mask(loaded.control)
        mask.reserve([*(turn.text for turn in turns), *replies, _STAND_IN])

        def text_of(shown: Sequence[Turn]) -> str:
            return loaded.family.as_text(loaded, lay_out(loaded, shown, settings, mask.hide))

        before = text_of(turns)
        after = text_of([*turns, Turn("assistant", (Text(_STAND_IN),))])
        head, _, rest = after.rpartition(_STAND_IN)
        marks = marks_of(loaded)
        between = head[len(before) :] if head.startswith(before) else None
        if between is not None and between.strip() in ("", marks.closing):  # an empty thought may end there
            opening = between
        else:  # a template that writes finished turns differently
            opening = "" if before[-1:].isspace() else " "
        if is_plain(loaded, settings):
            own = loaded.family.plain_frame
            is_bare = isinstance(turns[-1].parts[-1], Picture)  # a caption follows its picture at once
            opening, closing = own or ("" if is_bare else joint(before), "\n")
            ends = () if closing else tuple(token_ids.end_token_ids(loaded)[:1])
            return cls(mask, before, opening, closing, ends)
        closing = _up_to_end(rest, token_ids.stop_token_ids(loaded, settings), loaded)
        if closing:
            return cls(mask, before, opening, closing)
        return cls(mask, before, opening, "", tuple(token_ids.end_token_ids(loaded)[:1]))


def is_plain(loaded: Loaded, settings: Settings) -> bool:
    """Whether a conversation is continued as plain text, without a chat template or dialogue of its own."""
    if settings.continuation:
        return True
    return loaded.chat_template is None and not (
        loaded.family.has_own_dialogue and token_ids.has_end_of_turn(loaded)
    )


def _up_to_end(rest: str, stops: Sequence[int], loaded: Loaded) -> str:
    """What a template writes after an answer, up to its end token; "" where it writes none there."""
    ids: list[int] = loaded.tokenizer(rest, add_special_tokens=False)["input_ids"] if rest else []
    words = {loaded.tokenizer.convert_ids_to_tokens(token) for token in ids if token in stops}
    found = [(rest.find(word), word) for word in words if word and word in rest]
    at, word = min(found, default=(-1, ""))
    return rest[: at + len(word)] if at >= 0 and not rest[:at].strip() else ""


def _ids_after(
    context: str, tails: Sequence[str], encode: Callable[[Sequence[str]], list[list[int]]]
) -> list[list[int]]:
    """The tokens of each text behind ``context``."""
    for anchor in (context, "\n"):
        own, *whole = encode([anchor, *(anchor + tail for tail in tails)])
        if all(ids[: len(own)] == own for ids in whole):
            return [ids[len(own) :] for ids in whole]
    return encode(tails)


def without_trailing_space(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without the blanks at their end: "Category: " and "cat" meet as "Category:" and " cat".

    A tokenizer joins the blank and the word to one token; a model has hardly ever seen them apart.
    """
    *before, last = turns
    if not last.parts or not isinstance(last.parts[-1], Text):
        return list(turns)
    text = last.parts[-1].text.rstrip(" \t")
    return [*before, Turn(last.role, (*last.parts[:-1], Text(text)))]


def scored_as(loaded: Loaded, settings: Settings) -> Settings:
    """The settings for a reply that is scored: without a thought before it."""
    return replace(settings, think=False if settings.think is not None or thinks(loaded) else None)


def score_choices(
    loaded: Loaded,
    reuse: Reuse,
    turns: Sequence[Turn],
    choices: Sequence[str],
    settings: Settings,
    *,
    with_end: bool = True,
    check: Callable[[], None] = lambda: None,
) -> Scored:
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
        ContextLengthError: prompt and longest choice do not fit the context.
    """
    settings = scored_as(loaded, settings)
    if is_plain(loaded, settings):
        turns = without_trailing_space(turns)
    ids = replies_ids(loaded, turns, choices, settings, with_end=with_end)
    for choice, tokens in zip(choices, ids, strict=True):
        if not tokens:
            raise PromptError(f"the choice {choice!r} has no tokens", have=", ".join(map(repr, choices)))
    prepared = reuse.prepare(turns, settings)
    n_prompt = int(prepared.inputs["input_ids"].shape[1])
    token_ids.check_length(loaded, n_prompt + max(map(len, ids)) - 1)
    n_reused = 0
    with torch.inference_mode():
        if reuse.is_able:
            pictures = [picture for turn in turns for picture in turn.pictures]
            fitted = reuse.fit(prepared, pictures)
            n_reused = fitted.n_reused
            logs = _with_shared_prompt(loaded, reuse, fitted, ids, check)
        else:
            inputs = memory.to_device(prepared.inputs, loaded)
            logs = [_with_full_forward(loaded, turns, tokens, settings, check, inputs) for tokens in ids]
    scores = tuple(
        Score(choice, sum(each), tuple(tokens), tuple(each))
        for choice, tokens, each in zip(choices, ids, logs, strict=True)
    )
    return Scored(scores, n_prompt, sum(prepared.picture_tokens), n_reused, prepared.notes)


def _with_shared_prompt(
    loaded: Loaded, reuse: Reuse, fitted: Fitted, ids: Sequence[Sequence[int]], check: Callable[[], None]
) -> list[list[float]]:
    """The prompt once, then the choices in batches on its repeated cache."""
    results: list[list[float]] = []
    with reuse.filling(fitted):
        first = _prefill(loaded, fitted)  # (V,) log-probabilities of the next token
        check()
        n_rows = _n_rows(fitted.cache, ids, len(first))
        for start in range(0, len(ids), n_rows):
            batch = ids[start : start + n_rows]
            more = reuse.vision_cache.continuation(fitted.inputs, len(batch), max(map(len, batch)) - 1)
            results += _score_batch(loaded, fitted.cache, cache_length(fitted.cache), first, batch, more)
            check()
    return results


def _n_rows(cache: Any, ids: Sequence[Sequence[int]], n_vocabulary: int) -> int:
    """How many choices at a time: their caches and their logits are bounded."""
    logits_bytes = max(map(len, ids)) * n_vocabulary * 4  # float32
    return max(1, min(len(ids), _BATCH_BYTES // max(1, cache_bytes(cache), logits_bytes)))


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
    loaded: Loaded,
    cache: Any,
    n_prompt: int,
    first: torch.Tensor,
    batch: Sequence[Sequence[int]],
    more: dict[str, Any],
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
            **more,
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
    """Position ids that continue the prompt's, for M-RoPE models; others count for themselves."""
    deltas = getattr(getattr(model, "model", None), "rope_deltas", None)
    if deltas is None:
        return {}
    positions = torch.arange(n_prompt, n_prompt + n_new, device=device) + int(deltas.reshape(-1)[0])
    return {"position_ids": positions.expand(3, n_rows, n_new)}  # (3, B, T): time, height, width


def _with_full_forward(
    loaded: Loaded,
    turns: Sequence[Turn],
    ids: Sequence[int],
    settings: Settings,
    check: Callable[[], None],
    inputs: dict[str, Any] | None = None,
) -> list[float]:
    """One forward over prompt and choice, for families that keep no cache; ``inputs`` are the prompt's."""
    if inputs is None:
        inputs = memory.to_device(prepare(loaded, turns, settings).inputs, loaded)
    tail = torch.tensor([list(ids)], device=inputs["input_ids"].device)  # (1, T)
    if loaded.is_encoder_decoder:
        logits = loaded.model(**inputs, decoder_input_ids=behind_start(loaded, tail)).logits[0]  # (T, V)
    else:
        n_prompt = int(inputs["input_ids"].shape[1])
        continued = {
            name: extended(name, value, n_prompt, tail, loaded.family.said_type)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in inputs.items()
        }
        logits = loaded.model(**continued).logits[0, -len(ids) - 1 : -1]  # (T, V)
    check()
    logs = torch.log_softmax(logits.float(), dim=-1)  # (T, V) float32
    return [float(logs[n, token]) for n, token in enumerate(ids)]


def behind_start(loaded: Loaded, tail: torch.Tensor) -> torch.Tensor:
    """What a decoder reads to predict ``tail``: its start token, then all but the last of them; (1, T)."""
    start = token_ids.decoder_start_id(loaded)
    return torch.cat([torch.full_like(tail[:, :1], start), tail[:, :-1]], dim=1)


def extended(
    name: str, value: torch.Tensor, n_prompt: int, tail: torch.Tensor, said_type: int
) -> torch.Tensor:
    """An input of the prompt, continued over the tail: ids, masks, and masks of pictures by token."""
    if name == "input_ids":
        return torch.cat([value, tail], dim=1)
    if value.ndim < 2 or value.shape[1] != n_prompt or value.is_floating_point():
        return value
    if name.endswith("attention_mask") and value.ndim == 2:
        return torch.cat([value, torch.ones_like(tail, dtype=value.dtype)], dim=1)
    if name in ("image_attention_mask", "cross_attention_mask"):  # new tokens see what the last one sees
        return torch.cat([value, value[:, -1:].expand(-1, tail.shape[1], *value.shape[2:])], dim=1)
    if value.ndim == 2:
        filler = said_type if name == "token_type_ids" else 0
        return torch.cat([value, torch.full_like(tail, filler, dtype=value.dtype)], dim=1)
    return value
