"""One answer, token by token: transformers fills the cache and prepares the choice, our step does the rest.

`Decoding` is handed to ``generate`` as its decoding method. ``generate`` prepares all that it always
prepares (inputs, cache, its own logits processors); the prompt is computed by the model itself. From then on
each token costs a step of ours where the decoder is understood, and a forward of the model where not.

Knows a transformers model and who listens; not prompts or people. Neighbours: `single` starts it, `rows` does
the same for a batch.

Source: transformers 5.23, ``GenerationMixin._sample``: the order of processors, choice and stops is its.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from vlm_magic.models.caches.growing import GrowingLayer
from vlm_magic.models.decoding.step.blueprint import Blueprint
from vlm_magic.models.decoding.step.drafts import Drafts
from vlm_magic.models.decoding.step.handover import (
    AnyStep,
    Forward,
    OwnStep,
    StepRecord,
    last_logits,
    take_over,
)
from vlm_magic.models.decoding.step.kernel.compiler import Compile
from vlm_magic.models.decoding.step.proof import SLOW, kind_of

__all__ = ["Choice", "Decoding", "Listener"]


class Listener(Protocol):
    """Who takes the tokens."""

    def put(self, value: torch.Tensor) -> None:
        """Take one token."""

    def is_over(self) -> bool:
        """Whether that was the last."""


class Decoding:
    """The decoding method of one answer.

    Args:
        record: of the model.
        listener: who takes the tokens.
        compile_: whether the kernel is used where it is there, waited for, or left alone.
        on_whole: called with the number of tokens that all layers hold, after each step of ours.
    """

    def __init__(
        self, record: StepRecord, listener: Listener, compile_: Compile, on_whole: Callable[[int], None]
    ) -> None:
        self._record = record
        self._compile = compile_
        self._listener = listener
        self._on_whole = on_whole
        self._own: _OwnAnswer | None = None
        self._is_tried = False

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """Generate, as ``_sample`` would: all tokens, (1, T) int64."""
        outputs = model._prefill(input_ids, generation_config, model_kwargs)
        choose = Choice(logits_processor, generation_config.do_sample)
        logits = last_logits(outputs)
        self._forward = Forward(model, model_kwargs, outputs)
        del outputs  # whose logits and hidden states may be large
        try:
            for n_left in range(generation_config.max_length - input_ids.shape[1], 0, -1):
                token = choose(input_ids, logits)  # (1,)
                input_ids = torch.cat([input_ids, token[:, None]], dim=1)
                self._listener.put(token)
                if n_left == 1 or self._listener.is_over():
                    break
                logits = self._next(input_ids, 0 if choose.is_drawn else n_left - 2)
        finally:
            if self._own is not None:
                self._own.hold()
        return input_ids

    def _next(self, input_ids: torch.Tensor, n_draft: int) -> torch.Tensor:
        """The logits after all of ``input_ids``, (1, V) float32: the newest token is computed.

        Args:
            input_ids: (1, T).
            n_draft: how many tokens behind it may be guessed.
        """
        if self._own is not None:
            return self._own.next(input_ids, n_draft)
        if not self._is_tried:
            self._is_tried = True
            record, on_whole = self._record, self._on_whole
            make = partial(_OwnAnswer.after, self._forward, input_ids, record, on_whole)
            logits, self._own = take_over(self._forward, input_ids, record, self._compile, make)
            return logits
        return self._forward(input_ids)


class Choice:
    """The next token of each row from logits, by transformers' processors in transformers' order."""

    def __init__(self, processors: Any, is_drawn: bool) -> None:
        self._processors = processors
        self.is_drawn = is_drawn

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The tokens, (B,) int64, after (B, T) tokens with (B, V) float32 logits."""
        scores = logits
        for process in self._processors:  # the list's own call looks at each one's signature every time
            scores = process(input_ids, scores)
        if self.is_drawn:
            return torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        return torch.argmax(scores, dim=-1)


class _OwnAnswer(OwnStep):
    """Our step for one answer: with guesses, where they pay."""

    slow_remark = SLOW

    def __init__(
        self,
        blueprint: Blueprint,
        step: AnyStep,
        layers: list[GrowingLayer],
        record: StepRecord,
        n_ahead: int,
        on_whole: Callable[[int], None],
    ) -> None:
        super().__init__(blueprint, step, layers, record)
        self.kind = kind_of(blueprint, n_ahead, self.way)
        self._n_ahead = n_ahead
        self._on_whole = on_whole
        self._drafts: Drafts | None = None
        self._guessed: list[int] = []  # what the cache holds behind the newest token, if that is what is said
        self._logits: torch.Tensor | None = None  # after each of the last step's tokens
        self._drafted_s = 0.0
        self._n_drafted = 0

    @classmethod
    def after(
        cls,
        forward: Forward,
        input_ids: torch.Tensor,
        record: StepRecord,
        on_whole: Callable[[int], None],
        blueprint: Blueprint,
        step: AnyStep,
        layers: list[GrowingLayer],
    ) -> _OwnAnswer:
        """Go on with the last of ``input_ids`` after a model's forward."""
        position = forward.positions_of_last(input_ids)
        n_ahead = 0 if position is None else int(position) - layers[0].get_seq_length()
        return cls(blueprint, step, layers, record, n_ahead, on_whole)

    def next(self, input_ids: torch.Tensor, n_draft: int) -> torch.Tensor:
        """Logits after all of ``input_ids``, whose last token is new, (1, V) float32.

        With the kernel, tokens behind it are guessed and computed along: the same additions in the same
        order as one by one, so that a guess changes nothing but the time. (Torch's own products of several
        rows round otherwise than those of one.)
        """
        if self.way != "native" or n_draft < 1:
            self._forget_guesses()
            return self(input_ids[:, -1:])
        newest = int(input_ids[0, -1])
        if self._drafts is None:
            self._drafts = Drafts(input_ids[0, :-1].tolist())
        self._drafts.add(newest)
        if self._guessed and self._guessed[0] == newest and self._logits is not None:
            del self._guessed[0]
            at = self._n_drafted - len(self._guessed)
            return self._logits[at : at + 1]
        self._forget_guesses()
        pay = self._record.pay
        guessed = self._drafts.next(n_draft) if pay.is_worth_it() else []
        began = time.perf_counter()
        if not guessed:
            logits = self(input_ids[:, -1:])
            pay.note_single(time.perf_counter() - began)
            return logits
        ids = torch.tensor([[newest, *guessed]], device=input_ids.device)
        self._logits, self._guessed, self._n_drafted = self(ids), guessed, len(guessed)
        self._drafted_s = time.perf_counter() - began
        return self._logits[:1]

    def _forget_guesses(self) -> None:
        """Cut off what was guessed and not said, and note what guessing gave."""
        if self._logits is not None:
            self._n -= len(self._guessed)
            self._record.pay.note_drafted(self._drafted_s, self._n_drafted - len(self._guessed))
            self._guessed, self._logits = [], None

    def _compute(self, step: AnyStep, ids: torch.Tensor, n: int) -> torch.Tensor:
        angles = self._record.positions.slice(self._blueprint, n + self._n_ahead, ids.shape[1])
        return step(ids, n, angles, self._rooms)

    def hold(self) -> None:
        """Let the cache know how far its rooms are filled, guesses left out."""
        self._forget_guesses()
        super().hold()
        if self._rooms:
            self._on_whole(self._n)
