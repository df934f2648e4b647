"""One answer of a local model: a call of ``generate`` that streams, stops, and is summed up.

Knows a loaded model, a prepared prompt and the generation that it serves; not queues or errors.
Neighbours: `engine` starts it, `reuse` fits the prompt, `sampling` says how tokens are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from vlm_magic.messages import Chunk, FinishReason, Picture, Progress, Reply, Settings
from vlm_magic.models import families
from vlm_magic.models.detokenizer import Detokenizer
from vlm_magic.models.families import Prepared
from vlm_magic.models.generation import Generation, Stopped
from vlm_magic.models.grammar import grammar_processors
from vlm_magic.models.loading import Loaded
from vlm_magic.models.prefix import cache_length
from vlm_magic.models.reuse import Fitted, Reuse
from vlm_magic.models.sampling import generation_config, hooks_on_layers, seeded, use_config

__all__ = ["PREFILL_CHUNK_TOKENS", "Run"]

PREFILL_CHUNK_TOKENS = 512  # of a longer prompt at a time; small enough to tell progress and to stop


class Run(BaseStreamer, StoppingCriteria):
    """One call of ``generate``: takes its tokens, ends it, sums it up.

    As streamer it sees the prompt first and then every token; as stopping criterion it looks at the
    stop flag and the clock after every token; while the prompt is computed, hooks on the layers look.
    """

    def __init__(
        self,
        loaded: Loaded,
        prepared: Prepared,
        settings: Settings,
        generation: Generation,
        began: float,
        logits_processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self._loaded = loaded
        self._prepared = prepared
        self._settings = settings
        self._generation = generation
        self._began = began
        self._deadline = None if settings.time_limit_s is None else began + settings.time_limit_s
        self._stop_ids = families.stop_token_ids(loaded, settings)
        self._detokenizer = Detokenizer(loaded.tokenizer, stop=settings.stop, strip=not settings.continuation)
        self._watch = _Watch() if settings.log_probabilities else None
        watched = [self._watch] if self._watch is not None else []
        held = grammar_processors(loaded, settings)
        self._logits_processors = LogitsProcessorList([*logits_processors, *held, *watched])
        self._log_probabilities: list[float] = []
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
            self._log_probabilities.append(float(self._watch.logs[0, token_id]))
        piece = self._detokenizer.add(token_id)
        if piece:
            self._generation.push(Chunk(piece, self._n_tokens))

    def end(self) -> None:
        """Called by transformers at the end; the summing up comes later."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether to stop, for each row: (B,) bool."""
        self._look()
        is_over = self._ended_by is not None or self._detokenizer.is_stopped
        return torch.full((input_ids.shape[0],), is_over, device=input_ids.device, dtype=torch.bool)

    def _look(self) -> None:
        """Note a stop that was asked for or a deadline that has passed."""
        if self._ended_by is None and self._generation.is_stopped:
            self._ended_by = "interrupted"
        elif self._ended_by is None and self._deadline is not None and time.perf_counter() > self._deadline:
            self._ended_by = "time"

    def _leave_if_stopped(self, *_: Any) -> None:
        """The layers' hook: leave a forward that is no longer wanted."""
        self._look()
        if self._ended_by in ("interrupted", "time"):
            raise Stopped

    # The work itself

    def generate(self, reuse: Reuse, pictures: Sequence[Picture]) -> Reply:
        """Run the model to the end, to a limit or to a stop, and sum up."""
        loaded, settings = self._loaded, self._settings
        self._generation.report(Progress("prefill", 0, self._n_prompt_tokens))
        options: dict[str, Any] = {
            "stopping_criteria": StoppingCriteriaList([self]),
            "logits_processor": self._logits_processors,
        }
        if settings.beams == 1:
            options["streamer"] = self  # transformers refuses a streamer with beams
        output: torch.Tensor | None = None
        with (
            torch.inference_mode(),
            use_config(loaded.model, generation_config(loaded, settings)),
            hooks_on_layers(loaded.model, self._leave_if_stopped) as self._remove_hooks,
            seeded(settings.seed),
        ):
            with suppress(Stopped):
                self._fitted = reuse.fit(self._prepared, pictures, use_cache=settings.beams == 1)
                with self._told_in_pieces(self._fitted) as pieces:
                    output = loaded.model.generate(**self._fitted.inputs, **options, **pieces)  # (B, T) int64
            if self._fitted is not None:
                reuse.keep(self._fitted, self._all_ids)
        if settings.beams > 1 and output is not None:
            self._take_all(output)
        tail = self._detokenizer.finish()
        if tail:
            self._generation.push(Chunk(tail, self._n_tokens))
        return self._sum_up()

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
        ended_by, self._ended_by = self._ended_by, None
        for token_id in output[0, n_prompt:].tolist():
            if token_id in self._stop_ids:
                self._ended_by = "stop"
                break
            self.put(torch.tensor([token_id]))
        self._ended_by = ended_by or self._ended_by

    @property
    def _n_prompt_tokens(self) -> int:
        return int(self._prepared.inputs["input_ids"].shape[1])

    def _sum_up(self) -> Reply:
        total_s = time.perf_counter() - self._began
        ttft_s = self._first_token_s if self._first_token_s is not None else total_s
        ids = tuple(self._detokenizer.ids)
        self._look()
        reason: FinishReason = self._ended_by or ("stop" if self._detokenizer.is_stopped else "length")
        decode_s = total_s - ttft_s
        return Reply(
            text=self._detokenizer.text,
            finish_reason=reason,
            n_prompt_tokens=self._n_prompt_tokens,
            n_picture_tokens=sum(self._prepared.n_picture_tokens),
            picture_tokens=tuple(self._prepared.n_picture_tokens),
            n_reused_tokens=0 if self._fitted is None else self._fitted.n_reused,
            n_new_tokens=self._n_tokens,
            ttft_s=ttft_s,
            tokens_per_s=(self._n_tokens - 1) / decode_s if self._n_tokens > 1 and decode_s > 0 else 0.0,
            total_s=total_s,
            model=self._loaded.name,
            notes=tuple(self._prepared.notes),
            token_ids=ids,
            log_probabilities=() if self._settings.beams > 1 else tuple(self._log_probabilities),
        )


class _Watch(LogitsProcessor):
    """Comes last and keeps the distribution that the next token is chosen from."""

    logs: torch.Tensor  # (B, V) float32

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logs = torch.log_softmax(scores.float(), dim=-1)
        return scores
