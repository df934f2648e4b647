"""Several prompts in one call of ``generate``: the same answers as one by one, in less time.

Prompts are padded on the left, so that each row ends where its answer begins. A family whose
processor cannot mix some prompts gets them one by one.

Knows loaded models and prompts, not queues. Neighbours: `run` answers a single prompt, `engine`
starts both, `sampling` says how tokens are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from vlm_magic.messages import FinishReason, Reply, Settings, Turn
from vlm_magic.models import families, memory
from vlm_magic.models.detokenizer import Detokenizer
from vlm_magic.models.generation import Generation, Stopped
from vlm_magic.models.grammar import grammar_processors
from vlm_magic.models.loading import Loaded
from vlm_magic.models.sampling import generation_config, hooks_on_layers, seeded, use_config

__all__ = ["BatchRun"]


class BatchRun(StoppingCriteria):
    """One call of ``generate`` for several conversations.

    Args:
        loaded: the model.
        conversations: the turns of each, the question last.
        settings: the same for all.
        generation: whose stop flag is looked at.
        n_answers: answers to each conversation, next to each other in the result.
    """

    def __init__(
        self,
        loaded: Loaded,
        conversations: Sequence[Sequence[Turn]],
        settings: Settings,
        generation: Generation,
        n_answers: int = 1,
    ) -> None:
        self._loaded = loaded
        self._settings = settings
        self._generation = generation
        self._n_answers = n_answers
        self._began = time.perf_counter()
        limit = settings.time_limit_s
        self._deadline = None if limit is None else self._began + limit
        self._prepared = families.prepare_batch(loaded, conversations, settings)
        self._ids: torch.Tensor | None = None  # (B, T) int64, prompts included, as far as it got
        self._cut_by: FinishReason | None = None
        self._stop_ids = set(families.stop_token_ids(loaded, settings))

    def generate(self) -> list[Reply]:
        """The replies, in order; partial ones after a stop or a time limit."""
        loaded, settings = self._loaded, self._settings
        inputs = memory.to_device(self._prepared.inputs, loaded)
        with (
            torch.inference_mode(),
            use_config(loaded.model, generation_config(loaded, settings)),
            hooks_on_layers(loaded.model, self._leave_if_stopped),
            seeded(settings.seed),
            suppress(Stopped),
        ):
            self._ids = loaded.model.generate(
                **inputs,
                stopping_criteria=StoppingCriteriaList([self]),
                logits_processor=LogitsProcessorList(grammar_processors(loaded, settings)),
                num_return_sequences=self._n_answers,
            )  # (B, T) int64
        return [self._reply(row) for row in range(inputs["input_ids"].shape[0] * self._n_answers)]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether to stop, for each row: (B,) bool."""
        self._ids = input_ids
        self._look()
        is_over = torch.full(
            (input_ids.shape[0],), self._cut_by is not None, device=input_ids.device, dtype=torch.bool
        )
        if self._settings.stop and self._cut_by is None:
            for row in range(len(is_over)):
                is_over[row] = self._read(row).is_stopped
        return is_over

    def _look(self) -> None:
        if self._cut_by is None and self._generation.is_stopped:
            self._cut_by = "interrupted"
        elif self._cut_by is None and self._deadline is not None and time.perf_counter() > self._deadline:
            self._cut_by = "time"

    def _leave_if_stopped(self, *_: Any) -> None:
        self._look()
        if self._cut_by is not None:
            raise Stopped

    def _new_ids(self, row: int) -> list[int]:
        """A row's new tokens, up to its end token, which is included."""
        if self._ids is None:
            return []
        n_prompt = self._loaded.n_before_answer(self._n_prompt)
        ids: list[int] = self._ids[row, n_prompt:].tolist()
        end = next((n for n, token in enumerate(ids) if token in self._stop_ids), None)
        return ids if end is None else ids[: end + 1]

    @property
    def _n_prompt(self) -> int:
        """Tokens of the longest prompt, to which the others are padded."""
        return int(self._prepared.inputs["input_ids"].shape[1])

    def _read(self, row: int) -> Detokenizer:
        settings = self._settings
        detokenizer = Detokenizer(self._loaded.tokenizer, stop=settings.stop, strip=not settings.continuation)
        for token in self._new_ids(row):
            if token not in self._stop_ids:
                detokenizer.add(token)
        return detokenizer

    def _reply(self, row: int) -> Reply:
        ids = self._new_ids(row)
        detokenizer = self._read(row)
        detokenizer.finish()
        ended = bool(ids) and ids[-1] in self._stop_ids
        reason: FinishReason = "stop" if ended or detokenizer.is_stopped else (self._cut_by or "length")
        prompt = row // self._n_answers
        n_prompt = int(self._prepared.inputs["attention_mask"][prompt].sum())
        total_s = time.perf_counter() - self._began
        pictures = zip(self._prepared.picture_rows, self._prepared.n_picture_tokens, strict=True)
        return Reply(
            text=detokenizer.text,
            finish_reason=reason,
            n_prompt_tokens=n_prompt,
            n_picture_tokens=sum(n for at, n in pictures if at == prompt),
            n_new_tokens=len(ids),
            tokens_per_s=len(ids) / total_s,
            ttft_s=total_s,
            total_s=total_s,
            model=self._loaded.name,
            notes=self._prepared.notes,
            token_ids=tuple(token for token in ids if token not in self._stop_ids),
        )
