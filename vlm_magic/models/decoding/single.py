"""One answer of a local model: a call of ``generate`` that streams, stops, and is summed up.

Knows a loaded model, a prepared prompt and the generation that it serves; not queues or errors.
Neighbours: `engine` starts it, `reuse` fits the prompt, `generation_config` says how
tokens are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vlm_magic.messages import Chunk, FinishReason, Picture, Progress, Reply, SaidToken, Settings
from vlm_magic.models.caches.prefix_cache import cache_length
from vlm_magic.models.caches.reuse import Fitted, Reuse
from vlm_magic.models.decoding.continuing import Begun, SaidAgain, joined
from vlm_magic.models.decoding.generation_config import generation_config, seeded, use_config
from vlm_magic.models.decoding.grammar import grammar_processors
from vlm_magic.models.decoding.step.handover import can_decode, record_of
from vlm_magic.models.decoding.step.loop import Decoding
from vlm_magic.models.decoding.stopping import StopCheck, hooks_on_layers
from vlm_magic.models.decoding.thoughts import Teller, thought_guides
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.said_tokens import said_token, texts_of
from vlm_magic.work_queue import Generation, Stopped

__all__ = ["PREFILL_CHUNK_TOKENS", "SingleAnswer"]

PREFILL_CHUNK_TOKENS = 512  # of a longer prompt at a time; small enough to tell progress and to stop


class SingleAnswer(BaseStreamer, StoppingCriteria):
    """One call of ``generate``: takes its tokens, ends it, sums it up.

    As streamer it sees the prompt first and then every token; as stopping criterion it looks at the
    stop flag and the clock after every token; while the prompt is computed, the layers' hooks do.
    """

    def __init__(
        self,
        loaded: Loaded,
        prepared: Prepared,
        settings: Settings,
        generation: Generation,
        began: float,
        logits_processors: Sequence[LogitsProcessor] = (),
        begun: Begun | None = None,
    ) -> None:
        self._begun = begun
        self._n_behind = len(begun.ids) if begun is not None and begun.is_in_prompt else 0
        self._loaded = loaded
        self._prepared = prepared
        self._asked_tokens = settings.max_tokens
        settings = token_ids.within_context(loaded, self._n_prompt_tokens, settings)
        self._settings = settings
        self._generation = generation
        self._began = began
        self._stop_check = StopCheck(generation, settings.time_limit_s, began)
        self._stop_ids = token_ids.stop_token_ids(loaded, settings)
        self._teller = Teller(loaded, settings, prepared.rendered)
        self._watch = _Watch() if settings.log_probabilities or settings.top_log_probabilities else None
        watched = [self._watch] if self._watch is not None else []
        held = thought_guides(loaded, settings, prepared.rendered, grammar_processors(loaded, settings))
        again = [SaidAgain(begun.ids)] if begun is not None and not begun.is_in_prompt else []
        self._logits_processors = LogitsProcessorList([*logits_processors, *held, *again, *watched])
        self._log_probabilities: list[float] = []
        self._top: list[SaidToken] = []  # their texts come at the end
        self._first_token_s: float | None = None
        self._n_tokens = 0
        self._all_ids: list[int] = []
        self._fitted: Fitted | None = None
        self._saw_prompt = False
        self._ended_by: FinishReason | None = None
        self._remove_hooks: Callable[[], None] | None = None

    # What transformers calls

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt (the first call) or one new token."""
        if not self._saw_prompt:
            self._saw_prompt = True
            return
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._began
            self._generation.report(Progress("decode"))
            if self._remove_hooks is not None:
                self._remove_hooks()
        token_id = int(value.reshape(-1)[-1])
        self._n_tokens += 1
        self._all_ids.append(token_id)
        if token_id in self._stop_ids:
            self._ended_by = "stop"
            return
        if self._watch is not None:
            self._note(self._watch.logs[0], token_id)
        self._push(*self._teller.add(token_id))

    def _note(self, logs: torch.Tensor, token_id: int) -> None:
        """Keep how likely a new token was; ``logs`` (V,) float32."""
        self._log_probabilities.append(float(logs[token_id]))
        if n := self._settings.top_log_probabilities:
            self._top.append(said_token(self._loaded.tokenizer, logs, token_id, "", n))

    def _push(self, words: str, thought: str) -> None:
        if words or thought:
            self._generation.push(Chunk(words, self._n_tokens, thinking=thought))

    def end(self) -> None:
        """Called by transformers at the end; the summing up comes later."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether to stop, for each row: (B,) bool."""
        return torch.full((input_ids.shape[0],), self.is_over(), device=input_ids.device, dtype=torch.bool)

    def is_over(self) -> bool:
        """Whether the newest token was the last, or somebody or the clock wants it to be."""
        return self._ended_by is not None or self._teller.is_stopped or self._stop_check.is_due()

    # The work itself

    def _say_what_stands(self) -> None:
        """Of an answer that is gone on with, what stands behind the prompt is said at once."""
        if self._begun is None or not self._n_behind:
            return
        said = [self._teller.add(token_id) for token_id in self._begun.ids]
        self._n_tokens = self._n_behind
        self._push("".join(words for words, _ in said), "".join(thought for _, thought in said))

    def generate(self, reuse: Reuse, pictures: Sequence[Picture]) -> Reply:
        """Run the model to the end, to a limit or to a stop, and sum up."""
        loaded, settings = self._loaded, self._settings
        self._generation.report(Progress("prefill", 0, self._n_prompt_tokens))
        self._say_what_stands()
        rest = replace(settings, max_tokens=max(1, settings.max_tokens - self._n_behind))
        options: dict[str, Any] = {
            "stopping_criteria": StoppingCriteriaList([self]),
            "logits_processor": self._logits_processors,
        }
        if settings.beams == 1:
            options["streamer"] = self  # transformers refuses a streamer with beams
        output: torch.Tensor | None = None
        with (
            torch.inference_mode(),
            use_config(loaded.model, generation_config(loaded, rest)),
            hooks_on_layers(loaded.model, self._stop_check.leave_if_due) as self._remove_hooks,
            seeded(settings.seed),
            suppress(Stopped),
        ):
            self._fitted = reuse.fit(self._prepared, pictures, use_cache=settings.beams == 1)
            with (
                reuse.filling(self._fitted, self._all_ids),
                self._told_in_pieces(self._fitted) as pieces,
            ):
                options |= self._way()
                output = loaded.model.generate(**self._fitted.inputs, **options, **pieces)  # (B, T) int64
        if settings.beams > 1 and output is not None:
            self._take_all(output)
        self._push(*self._teller.finish())
        return self._sum_up()

    def _way(self) -> dict[str, Any]:
        """How tokens are decoded: by our own loop where the model's decoder is understood."""
        record = record_of(self._loaded.model)
        if self._settings.beams > 1 or not can_decode(self._loaded.model):
            record.way = "generate"
            return {}
        return {"custom_generate": Decoding(record, self, self._loaded.options.compile, self._note_whole)}

    def _note_whole(self, n_tokens: int) -> None:
        """Our own steps go past the hook by which `Reuse.filling` counts whole forwards."""
        if self._fitted is not None:
            self._fitted.n_whole = n_tokens

    @contextmanager
    def _told_in_pieces(self, fitted: Fitted) -> Iterator[dict[str, int]]:
        """Prefill a long prompt in pieces, where the family allows it, and tell how far it is."""
        n_all = self._n_prompt_tokens
        is_long = n_all - fitted.n_reused > PREFILL_CHUNK_TOKENS
        if fitted.cache is None or not is_long or not self._loaded.family.is_chunkable:
            yield {}
            return

        def tell(*_: Any) -> None:
            if self._first_token_s is None:
                self._generation.report(Progress("prefill", cache_length(fitted.cache), n_all))

        handle = self._loaded.model.register_forward_hook(tell)
        try:
            yield {"prefill_chunk_size": PREFILL_CHUNK_TOKENS}
        finally:
            handle.remove()

    def _take_all(self, output: torch.Tensor) -> None:
        """Feed the best beam through the detokenizer, as if it had been streamed."""
        n_prompt = self._loaded.n_before_answer(self._n_prompt_tokens)
        self._saw_prompt = True
        for token_id in output[0, n_prompt:].tolist():
            if token_id in self._stop_ids:
                self._ended_by = "stop"
                break
            self.put(torch.tensor([token_id]))
        self._ended_by = self._stop_check.reason or self._ended_by

    @property
    def _n_prompt_tokens(self) -> int:
        """Tokens of the prompt itself, without an answer that stands behind it."""
        return int(self._prepared.inputs["input_ids"].shape[1]) - self._n_behind

    def _sum_up(self) -> Reply:
        total_s = time.perf_counter() - self._began
        ttft_s = self._first_token_s if self._first_token_s is not None else total_s
        ids = tuple(self._teller.ids)
        at_last: FinishReason = "stop" if self._teller.is_stopped else "length"
        reason = self._ended_by or self._stop_check.reason or at_last
        searched = self._settings.beams > 1  # then all tokens come at once, at the end
        decode_s = total_s - ttft_s
        n_made = self._n_tokens - self._n_behind
        reply = Reply(
            text=self._teller.text,
            thinking=self._teller.thinking,
            n_thinking_tokens=self._teller.n_thinking,
            finish_reason=reason,
            n_prompt_tokens=self._n_prompt_tokens,
            n_picture_tokens=sum(self._prepared.picture_tokens),
            picture_tokens=tuple(self._prepared.picture_tokens),
            n_reused_tokens=0 if self._fitted is None else self._fitted.n_reused,
            n_new_tokens=self._n_tokens,
            ttft_s=ttft_s,
            tokens_per_s=(n_made - 1) / decode_s if n_made > 1 and decode_s > 0 and not searched else 0.0,
            total_s=total_s,
            model=self._loaded.name,
            notes=(*self._prepared.notes, *self._context_notes(reason), *self._thinking_notes(reason)),
            token_ids=ids,
            **self._likelihoods(),
        )
        return reply if self._begun is None else joined(reply, self._begun, self._n_tokens)

    def _likelihoods(self) -> dict[str, Any]:
        """How likely the tokens were, as the settings ask for it; nothing of a search with beams."""
        if self._settings.beams > 1:
            return {}
        texts = texts_of(self._loaded.tokenizer, [token.token_id for token in self._top])
        return {
            "log_probabilities": tuple(self._log_probabilities) if self._settings.log_probabilities else (),
            "top_log_probabilities": tuple(
                replace(token, text=text) for token, text in zip(self._top, texts, strict=True)
            ),
        }

    def _context_notes(self, reason: FinishReason) -> tuple[str, ...]:
        """What to say of an answer that reached the end of the context before its own limit."""
        if reason != "length":
            return ()
        return token_ids.context_notes(self._loaded, self._asked_tokens, self._settings.max_tokens)

    def _thinking_notes(self, reason: FinishReason) -> list[str]:
        """What to say of a thought that left no tokens for an answer."""
        if reason != "length" or self._teller.text or not self._teller.n_thinking:
            return []
        return [
            "it was still thinking when its tokens were used up: --max-tokens gives more, --think off none"
        ]


class _Watch(LogitsProcessor):
    """Comes last and keeps the distribution that the next token is chosen from."""

    logs: torch.Tensor  # (B, V) float32

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logs = torch.log_softmax(scores.float(), dim=-1)
        return scores
