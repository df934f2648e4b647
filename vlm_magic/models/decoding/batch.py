"""Several prompts in one call of ``generate``: the same answers as one by one, in less time.

Prompts are padded on the left, so that each row ends where its answer begins. A family whose
processor cannot mix some prompts gets them one by one.

Knows loaded models and prompts, not queues. Neighbours: `single` answers one prompt, `engine`
starts both, `generation_config` says how tokens are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from vlm_magic.messages import FinishReason, Reply, Settings, Turn
from vlm_magic.models import memory
from vlm_magic.models.caches.reuse import forget_positions
from vlm_magic.models.decoding.generation_config import generation_config, seeded, use_config
from vlm_magic.models.decoding.grammar import grammar_processors
from vlm_magic.models.decoding.step.rows import row_options
from vlm_magic.models.decoding.stopping import StopCheck, hooks_on_layers
from vlm_magic.models.decoding.thoughts import Teller, thought_guides
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import prepare_batch
from vlm_magic.work_queue import Generation, Stopped

__all__ = ["PlainBatch"]


class PlainBatch(StoppingCriteria):
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
        self._n_answers = n_answers
        self._began = time.perf_counter()
        self._stop_check = StopCheck(generation, settings.time_limit_s, self._began)
        self._prepared = prepare_batch(loaded, conversations, settings)
        token_ids.check_length(loaded, self._n_prompt)
        self._asked_tokens = settings.max_tokens
        self._settings = token_ids.within_context(loaded, self._n_prompt, settings)
        self.has_room = self._settings is settings  # for whole answers, behind the longest prompt
        self._ids: torch.Tensor | None = None  # (B, T) int64, prompts included, as far as it got
        self._stop_ids = set(token_ids.stop_token_ids(loaded, settings))

    def generate(self) -> list[Reply]:
        """The replies, in order; partial ones after a stop or a time limit."""
        loaded, settings = self._loaded, self._settings
        inputs = memory.to_device(self._prepared.inputs, loaded)
        forget_positions(loaded.model)
        with (
            torch.inference_mode(),
            use_config(loaded.model, generation_config(loaded, settings)),
            hooks_on_layers(loaded.model, self._stop_check.leave_if_due),
            seeded(settings.seed),
            suppress(Stopped),
        ):
            self._ids = loaded.model.generate(
                **inputs,
                stopping_criteria=StoppingCriteriaList([self]),
                logits_processor=LogitsProcessorList(self._processors()),
                num_return_sequences=self._n_answers,
                **({} if settings.beams > 1 else row_options(loaded.model, loaded.options.compile)),
            )  # (B, T) int64
        return [self._reply(row) for row in range(inputs["input_ids"].shape[0] * self._n_answers)]

    def _processors(self) -> list[LogitsProcessor]:
        held = grammar_processors(self._loaded, self._settings)
        return thought_guides(self._loaded, self._settings, self._prepared.rendered, held)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether to stop, for each row: (B,) bool."""
        self._ids = input_ids
        is_due = self._stop_check.is_due()
        is_over = torch.full((input_ids.shape[0],), is_due, device=input_ids.device, dtype=torch.bool)
        if self._settings.stop and not is_due:
            for row in range(len(is_over)):
                is_over[row] = self._read(row).is_stopped
        return is_over

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

    def _read(self, row: int) -> Teller:
        teller = Teller(self._loaded, self._settings, self._prepared.rendered)
        for token in self._new_ids(row):
            if token not in self._stop_ids:
                teller.add(token)
        return teller

    def _reply(self, row: int) -> Reply:
        ids = self._new_ids(row)
        teller = self._read(row)
        teller.finish()
        ended = bool(ids) and ids[-1] in self._stop_ids
        is_whole = ended or teller.is_stopped
        reason: FinishReason = "stop" if is_whole else (self._stop_check.reason or "length")
        cut = reason == "length"
        notes = token_ids.context_notes(self._loaded, self._asked_tokens, self._settings.max_tokens)
        prompt = row // self._n_answers
        n_prompt = int(self._prepared.inputs["attention_mask"][prompt].sum())
        total_s = time.perf_counter() - self._began
        pictures = zip(self._prepared.picture_rows, self._prepared.picture_tokens, strict=True)
        return Reply(
            text=teller.text,
            thinking=teller.thinking,
            n_thinking_tokens=teller.n_thinking,
            finish_reason=reason,
            n_prompt_tokens=n_prompt,
            n_picture_tokens=sum(n for at, n in pictures if at == prompt),
            n_new_tokens=len(ids),
            tokens_per_s=len(ids) / total_s,
            ttft_s=total_s,
            total_s=total_s,
            model=self._loaded.name,
            notes=(*self._prepared.notes, *notes) if cut else self._prepared.notes,
            token_ids=tuple(token for token in ids if token not in self._stop_ids),
        )
