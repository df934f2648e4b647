"""Several prompts computed together: their beginning once, their pictures side by side, no row too long.

The tokens that all prompts begin with (system text, few-shot examples with their pictures) are computed
for one row and shared, and kept for the next batch. New pictures go through the vision tower in small
groups. Rows that have ended leave: the others go on without them, and their replies are told at once.
For models whose caches and features can be reused; `batch` does it plainly for the others.

Knows loaded models, prompts and their stores, not queues. Neighbours: `reuse` prepares each prompt,
`batch` is the plain way, `engine` picks one of the two.

Source: transformers 5.23: ``generate`` goes on from a cache whose rows were picked
(``batch_select_indices``), and takes positions from the attention mask, so that padding may stand
between the common beginning and the rest of a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from vlm_magic.messages import FinishReason, Reply, Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.cache_size import cache_token_bytes
from vlm_magic.models.caches.growing import GROWTH_TOKENS, GrowingCache
from vlm_magic.models.caches.prefix_cache import Keys, cache_length, common_length, keys_of
from vlm_magic.models.caches.reuse import Fitted, Reuse, forget_positions
from vlm_magic.models.caches.vision_cache import as_encoder_output, key_of
from vlm_magic.models.decoding.generation_config import generation_config, seeded, use_config
from vlm_magic.models.decoding.grammar import grammar_processors
from vlm_magic.models.decoding.step.rows import row_options
from vlm_magic.models.decoding.stopping import StopCheck, hooks_on_layers
from vlm_magic.models.decoding.thoughts import Teller, thought_guides
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts import token_ids
from vlm_magic.work_queue import Generation, Stopped

__all__ = ["SharedBatch", "rows_that_fit"]

_LEAST_SHARED_TOKENS = 16  # a shorter common beginning costs more to share than to compute
_ENDED_SHARE = 3  # rows leave when one in so many has ended
_MOST_ROWS = 64  # of a batch; more gain little
_MOST_TOKENS = 32_768  # of all prompts of a batch: pictures of many tokens fill a processor by themselves
_MEMORY_SHARE = 0.2  # of the free memory, for the caches of a batch


@dataclass
class _Row:
    """One prompt on its way.

    Attributes:
        prepared: its inputs.
        digests: the content of each of its pictures.
        keys: what its tokens are known by, (T,).
        ids: its new tokens so far, an end token included.
        reply: the answer, once it has ended.
    """

    prepared: Prepared
    digests: list[str]
    keys: Keys
    ids: list[int] = field(default_factory=list)
    reply: Reply | None = None

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.keys)


class SharedBatch(StoppingCriteria):
    """Answers to several conversations.

    Args:
        loaded: the model.
        reuse: its stores, which must be able to reuse.
        conversations: the turns of each, the question last.
        settings: the same for all; no beams.
        generation: whose stop flag is looked at.
        on_reply: called with (row, reply) as soon as a row has ended by itself or by a limit of tokens.

    Raises:
        ContextLengthError: a prompt that does not fit the context.
        PromptError: a prompt that the family does not take.
    """

    def __init__(
        self,
        loaded: Loaded,
        reuse: Reuse,
        conversations: Sequence[Sequence[Turn]],
        settings: Settings,
        generation: Generation,
        on_reply: Callable[[int, Reply], None] = lambda row, reply: None,
    ) -> None:
        self._loaded = loaded
        self._reuse = reuse
        self._settings = settings
        self._on_reply = on_reply
        self._began = time.perf_counter()
        self._stop_check = StopCheck(generation, settings.time_limit_s, self._began)
        self._stop_ids = frozenset(token_ids.stop_token_ids(loaded, settings))
        reuse.look_ahead([picture for turns in conversations for turn in turns for picture in turn.pictures])
        self._prepared: dict[tuple[object, ...], Prepared] = {}  # by all that their text is made of
        self._rows = [self._row(turns) for turns in conversations]
        self._live: list[int] = []  # the rows in the call of generate, in its order
        self._n_columns = 0  # of the padded prompts
        self._n_common = 0  # tokens that all prompts begin with
        self._n_begun = 0  # those of them that were in the store
        self._first_token_s: float | None = None
        self._remove_hooks: Callable[[], None] | None = None

    @property
    def can_run(self) -> bool:
        """Whether the stores may be used, and there is room for whole answers behind every prompt.

        A processor that joins pictures in its own way forbids the first.
        """
        longest = max(row.n_prompt for row in self._rows)
        return self._reuse.is_able and token_ids.has_room(self._loaded, longest, self._settings)

    def _row(self, turns: Sequence[Turn]) -> _Row:
        digests = [key_of(picture) for turn in turns for picture in turn.pictures]
        known = [self._reuse.vision_cache.text_of(digest) for digest in digests]
        form = (*(_form_of(turn) for turn in turns), *known)
        prepared = None if None in known else self._prepared.get(form)
        if prepared is None:
            prepared = self._reuse.prepare(turns, self._settings)
            self._prepared[form] = prepared
        ids = prepared.inputs["input_ids"][0].tolist()
        token_ids.check_length(self._loaded, len(ids))
        return _Row(prepared, digests, keys_of(ids, prepared.picture_spans, digests))

    # What transformers calls

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether to stop, for each row: (B,) bool; all of them when it is time for some to leave."""
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._began
            if self._remove_hooks is not None:  # a step is short: looking after each is enough
                self._remove_hooks()
        self._take(input_ids)
        is_due = self._stop_check.is_due()
        n_ended = sum(self._rows[row].reply is not None for row in self._live)
        n_new = input_ids.shape[1] - self._n_columns
        may_leave = n_ended * _ENDED_SHARE >= len(self._live) and n_new < self._settings.max_tokens
        is_over = is_due or n_ended == len(self._live) or may_leave
        return torch.full((input_ids.shape[0],), is_over, device=input_ids.device, dtype=torch.bool)

    def _take(self, input_ids: torch.Tensor) -> None:
        """Take each row's newest token; a row that ends is told."""
        for row, token in zip(self._live, input_ids[:, -1].tolist(), strict=True):
            state = self._rows[row]
            if state.reply is not None:
                continue
            state.ids.append(token)
            if token in self._stop_ids or (self._settings.stop and self._read(state).is_stopped):
                self._end(row, "stop")
            elif len(state.ids) >= self._settings.max_tokens:
                self._end(row, "length")

    # The work itself

    def generate(self) -> list[Reply]:
        """The replies, in order; partial ones after a stop or a time limit."""
        loaded, settings = self._loaded, self._settings
        held = grammar_processors(loaded, settings)
        guides = thought_guides(loaded, settings, self._rows[0].prepared.rendered, held)
        processors = LogitsProcessorList(guides)
        with (
            torch.inference_mode(),
            hooks_on_layers(loaded.model, self._stop_check.leave_if_due) as self._remove_hooks,
            seeded(settings.seed),
            suppress(Stopped),
        ):
            n_shared = self._n_shared()
            cache = self._shared_cache(n_shared)
            self._live = list(range(len(self._rows)))
            inputs = self._inputs(n_shared)
            features = self._features(n_shared)
            while self._live and not self._stop_check.reason:
                ids = self._generate(inputs, cache, features, processors)
                cache, features, inputs = self._without_ended(cache), {}, self._inputs_after(inputs, ids)
        self._reuse.vision_cache.tidy()
        cut_by = self._stop_check.reason
        for row, state in enumerate(self._rows):
            if state.reply is None:
                self._end(row, cut_by or "length", is_told=cut_by == "time")
        return [state.reply for state in self._rows if state.reply is not None]

    def _generate(
        self, inputs: dict[str, Any], cache: Any, features: dict[str, Any], processors: LogitsProcessorList
    ) -> torch.Tensor:
        """One call of ``generate``, until enough rows have ended: all tokens, (B, T) int64."""
        loaded = self._loaded
        forget_positions(loaded.model)
        n_left = self._settings.max_tokens - (int(inputs["input_ids"].shape[1]) - self._n_columns)
        config = generation_config(loaded, self._settings)
        config.max_new_tokens = n_left
        with use_config(loaded.model, config):
            ids: torch.Tensor = loaded.model.generate(
                **inputs,
                **features,
                past_key_values=cache,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([self]),
                **row_options(loaded.model, loaded.options.compile),
            )
        return ids

    def _n_shared(self) -> int:
        """How many tokens all prompts begin with: never a whole prompt, never a part of a picture."""
        if self._padding_would_show():
            return 0
        first, *others = self._rows
        n = min(
            [len(row.keys) - 1 for row in self._rows] + [common_length(first.keys, r.keys) for r in others]
        )
        n = min([n, *(start for start, end in first.prepared.picture_spans if start < n < end)])
        return n if n >= _LEAST_SHARED_TOKENS else 0

    def _padding_would_show(self) -> bool:
        """Whether padding behind the beginning would move it out of a sliding window."""
        window: int = getattr(self._loaded.model.config.get_text_config(), "sliding_window", None) or 0
        lengths = {row.n_prompt for row in self._rows}
        n_new: int = self._settings.max_tokens or 0
        return bool(window) and len(lengths) > 1 and max(lengths) + n_new > window

    def _shared_cache(self, n_shared: int) -> GrowingCache:
        """A cache with a row for each prompt, filled with their common beginning."""
        cache = GrowingCache()
        if n_shared == 0:
            return cache
        first = self._rows[0]
        keys = first.keys[: n_shared + 1]
        own, n = self._reuse.prefixes.take(keys, first.prepared.picture_spans)
        self._n_common, self._n_begun = n_shared, n
        with self._reuse.filling(Fitted({}, n, own, keys[:n_shared])):
            if n < n_shared:
                self._compute_beginning(first, own, n, n_shared)
            cache.spread(own, len(self._rows))
        return cache

    def _compute_beginning(self, row: _Row, cache: Any, n_reused: int, n_shared: int) -> None:
        """Fill a cache of one row with the common beginning."""
        vision_cache, loaded = self._reuse.vision_cache, self._loaded
        n_pictures = sum(end <= n_shared for _, end in row.prepared.picture_spans)
        spans, digests = row.prepared.picture_spans[:n_pictures], row.digests[:n_pictures]
        vision_cache.encode([d for d, (start, _) in zip(digests, spans, strict=True) if start >= n_reused])
        n_tokens = row.n_prompt
        inputs = {
            name: value[:, :n_shared] if _is_text(value, n_tokens) else value[:n_pictures]
            for name, value in row.prepared.inputs.items()
        }
        inputs = memory.to_device({k: v for k, v in inputs.items() if v.shape[0]}, loaded)
        inputs |= vision_cache.inputs(digests, spans, n_reused, inputs)
        forget_positions(loaded.model)
        config = generation_config(loaded, Settings(max_tokens=1))
        with use_config(loaded.model, config):
            loaded.model.generate(**inputs, past_key_values=cache)
        assert cache_length(cache) == n_shared

    def _inputs(self, n_shared: int) -> dict[str, Any]:
        """The prompts as one batch, on the model's device; padding stands behind the common beginning."""
        self._n_columns = max(row.n_prompt for row in self._rows)
        pad, names = (
            generation_config(self._loaded, self._settings).pad_token_id,
            self._rows[0].prepared.inputs,
        )
        inputs: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in self._rows for name in (*names, *row.prepared.inputs)):
            values = [(row, row.prepared.inputs.get(name)) for row in self._rows]
            if all(value is None or not _is_text(value, row.n_prompt) for row, value in values):
                inputs[name] = torch.cat([value for _, value in values if value is not None])
                continue
            filler = pad if name == "input_ids" else 0
            inputs[name] = torch.cat(
                [_padded(value, row.n_prompt, n_shared, self._n_columns, filler) for row, value in values]
            )  # (B, T)
        return memory.to_device(inputs, self._loaded)

    def _features(self, n_shared: int) -> dict[str, Any]:
        """What the vision tower makes of the pictures that are not in the common beginning."""
        wanted = [
            digest
            for row in self._rows
            for digest, (start, _) in zip(row.digests, row.prepared.picture_spans, strict=True)
            if start >= n_shared
        ]
        if not wanted:
            return {}
        cache = self._reuse.vision_cache
        cache.encode(wanted)
        return {"mm_encoder_outputs": {"image": as_encoder_output([cache.features(d) for d in wanted])}}

    def _without_ended(self, cache: Any) -> Any:
        """The cache of the rows that go on."""
        kept = [n for n, row in enumerate(self._live) if self._rows[row].reply is None]
        if len(kept) < len(self._live):
            for layer in cache.layers:
                layer.batch_select_indices(torch.tensor(kept, device=layer.keys.device, dtype=torch.int64))
        return cache

    def _inputs_after(self, inputs: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
        """The inputs of the rows that go on, grown by what was said."""
        kept = [n for n, row in enumerate(self._live) if self._rows[row].reply is None]
        n_before = int(inputs["input_ids"].shape[1])
        n_grown = int(ids.shape[1]) - n_before
        pick = torch.tensor(kept, device=ids.device, dtype=torch.int64)
        n_pictures = [len(self._rows[row].digests) for row in self._live]
        pictures = [n for n, count in enumerate(n_pictures) for _ in range(count)]
        picked = torch.tensor([n in set(kept) for n in pictures], device=ids.device, dtype=torch.bool)
        after: dict[str, Any] = {}
        for name, value in inputs.items():
            if name == "input_ids":
                after[name] = ids[pick]
            elif _is_text(value, n_before):
                filler = 1 if name == "attention_mask" else 0
                grown = value.new_full((len(kept), n_grown), filler)
                after[name] = torch.cat([value[pick], grown], dim=1)
            else:
                after[name] = value[picked]
        self._live = [self._live[n] for n in kept]
        return after

    # The end of a row

    def _read(self, row: _Row) -> Teller:
        teller = Teller(self._loaded, self._settings, row.prepared.rendered)
        for token in row.ids:
            if token not in self._stop_ids:
                teller.add(token)
        return teller

    def _end(self, row: int, reason: FinishReason, *, is_told: bool = True) -> None:
        state = self._rows[row]
        teller = self._read(state)
        teller.finish()
        total_s = time.perf_counter() - self._began
        ttft_s = total_s if self._first_token_s is None else self._first_token_s
        decode_s = total_s - ttft_s
        state.reply = Reply(
            text=teller.text,
            thinking=teller.thinking,
            n_thinking_tokens=teller.n_thinking,
            finish_reason="stop" if teller.is_stopped else reason,
            n_prompt_tokens=state.n_prompt,
            n_picture_tokens=sum(state.prepared.picture_tokens),
            n_reused_tokens=self._n_reused(row),
            n_new_tokens=len(state.ids),
            ttft_s=ttft_s,
            tokens_per_s=(len(state.ids) - 1) / decode_s if len(state.ids) > 1 and decode_s > 0 else 0.0,
            total_s=total_s,
            model=self._loaded.name,
            notes=state.prepared.notes,
            token_ids=tuple(token for token in state.ids if token not in self._stop_ids),
        )
        if is_told:
            self._on_reply(row, state.reply)

    def _n_reused(self, row: int) -> int:
        """The common beginning was computed for the first row alone."""
        return self._n_begun if row == 0 else self._n_common


def rows_that_fit(loaded: Loaded, n_tokens: int, settings: Settings) -> int:
    """How many prompts of so many tokens may be computed together: their caches get a share of what is free.

    Args:
        loaded: the model.
        n_tokens: of one prompt.
        settings: whose ``max_tokens`` may come on top.
    """
    text = loaded.model.config.get_text_config()
    token_bytes = cache_token_bytes(text, loaded.model.dtype.itemsize)
    row_bytes = token_bytes * (n_tokens + min(settings.max_tokens, GROWTH_TOKENS * 4))
    n = int(memory.free_bytes(loaded.device) * _MEMORY_SHARE) // max(1, row_bytes)
    return max(1, min(_MOST_ROWS, n, _MOST_TOKENS // max(1, n_tokens)))


def _form_of(turn: Turn) -> tuple[object, ...]:
    """A turn without its pictures: role, words, and where the pictures stand."""
    return turn.role, *(part.text if isinstance(part, Text) else None for part in turn.parts)


def _is_text(value: torch.Tensor, n_tokens: int) -> bool:
    """Whether an input has a value for each token, (B, T)."""
    return value.ndim == 2 and value.shape[1] == n_tokens and not value.is_floating_point()


def _padded(
    value: torch.Tensor | None, n_tokens: int, n_shared: int, n_columns: int, filler: int
) -> torch.Tensor:
    """A row's input with padding between the common beginning and the rest: (1, T)."""
    if value is None:  # a prompt without pictures has no marks of theirs
        return torch.zeros((1, n_columns), dtype=torch.int64)
    gap = value.new_full((1, n_columns - n_tokens), filler)
    return torch.cat([value[:, :n_shared], gap, value[:, n_shared:]], dim=1)
