"""Several answers, token by token: what `loop` does for one, for the rows of a batch.

Rows end at the same column and have columns of padding before it, which no step looks at: one gap in
each row, behind what all prompts begin with or at the start. All of them cost one reading of the weights.

Knows a transformers model; not prompts or people. Neighbours: `batch` and `shared_batch` start it.

Source: transformers 5.23, ``GenerationMixin._sample``: the order of processors, choice and stops is its.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from vlm_magic.models.caches.growing import GrowingLayer
from vlm_magic.models.decoding.step.blueprint import Blueprint
from vlm_magic.models.decoding.step.handover import (
    AnyStep,
    Forward,
    OwnStep,
    StepRecord,
    can_decode,
    last_logits,
    record_of,
    take_over,
)
from vlm_magic.models.decoding.step.kernel.compiler import Compile
from vlm_magic.models.decoding.step.loop import Choice
from vlm_magic.models.decoding.step.proof import kind_of

__all__ = ["RowDecoding", "row_options"]


def row_options(model: Any, compile_: Compile) -> dict[str, Any]:
    """What a batch's call of ``generate`` is given beside its inputs: our own decoding, where it can be."""
    record = record_of(model)
    if can_decode(model):
        return {"custom_generate": RowDecoding(record, compile_)}
    record.way = "generate"
    return {}


class RowDecoding:
    """The decoding method of a batch.

    Args:
        record: of the model.
        compile_: whether the kernel is used where it is there, waited for, or left alone.
    """

    def __init__(self, record: StepRecord, compile_: Compile) -> None:
        self._record = record
        self._compile = compile_
        self._own: _OwnRows | None = None

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> torch.Tensor:
        """Generate, as ``_sample`` would: all tokens, (B, T) int64; rows that have ended get padding."""
        outputs = model._prefill(input_ids, generation_config, model_kwargs)
        choose = Choice(logits_processor, generation_config.do_sample)
        logits = last_logits(outputs)
        forward = Forward(model, model_kwargs, outputs)
        del outputs  # whose logits and hidden states may be large
        has_ends = any(hasattr(each, "eos_token_id") for each in stopping_criteria)
        pad = generation_config.pad_token_id if has_ends else None
        open_ = torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)  # rows that go on
        is_first = True
        try:
            while True:
                tokens = choose(input_ids, logits)  # (B,)
                if pad is not None:
                    tokens = torch.where(open_, tokens, pad)
                input_ids = torch.cat([input_ids, tokens[:, None]], dim=1)
                open_ = open_ & ~stopping_criteria(input_ids, None)
                if not open_.any():
                    return input_ids
                if self._own is not None:
                    logits = self._own(input_ids[:, -1:])
                elif is_first:
                    make = partial(_OwnRows.after, forward, input_ids, self._record)
                    logits, self._own = take_over(forward, input_ids, self._record, self._compile, make)
                else:
                    logits = forward(input_ids)
                is_first = False
        finally:
            if self._own is not None:
                self._own.hold()


class _OwnRows(OwnStep):
    """Our step for the rows of a batch.

    Args:
        blueprint: of the model.
        step: ours.
        layers: of the cache.
        record: of the model.
        n_ahead: how far each row's next position is from its column, (B,) int64.
        gaps: each row's columns of padding, (B, 2) int32.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        step: AnyStep,
        layers: list[GrowingLayer],
        record: StepRecord,
        n_ahead: torch.Tensor,
        gaps: torch.Tensor,
    ) -> None:
        super().__init__(blueprint, step, layers, record)
        self._n_ahead = n_ahead
        self._gaps = gaps
        is_padded, size = bool((gaps[:, 1] > gaps[:, 0]).any()), (gaps.shape[0] - 1).bit_length() // 2
        self.kind = (*kind_of(blueprint, int(n_ahead.abs().max()), f"{self.way} rows"), is_padded, size)

    @classmethod
    def after(
        cls,
        forward: Forward,
        input_ids: torch.Tensor,
        record: StepRecord,
        blueprint: Blueprint,
        step: AnyStep,
        layers: list[GrowingLayer],
    ) -> _OwnRows | None:
        """Go on with the last column of ``input_ids`` after a model's forward; None for padding in pieces."""
        n = layers[0].get_seq_length()
        gaps = _gaps(forward.kwargs.get("attention_mask"), input_ids.shape[0], n, input_ids.device)
        if gaps is None:
            return None
        positions = forward.positions_of_last(input_ids)
        n_ahead = torch.zeros_like(gaps[:, 0]) if positions is None else positions - n
        return cls(blueprint, step, layers, record, n_ahead.long(), gaps)

    def _compute(self, step: AnyStep, ids: torch.Tensor, n: int) -> torch.Tensor:
        angles = self._record.positions.at(self._blueprint, self._n_ahead + n)
        return step.rows(ids, n, angles, self._rooms, self._gaps)


def _gaps(mask: Any, n_rows: int, n_columns: int, device: torch.device) -> torch.Tensor | None:
    """Where each row's padding is, [from, to), (B, 2) int32; None where it is in several places."""
    if mask is None:
        return torch.zeros((n_rows, 2), dtype=torch.int32, device=device)
    if mask.ndim != 2 or mask.shape[0] != n_rows or mask.shape[1] < n_columns:
        return None
    hidden = mask[:, :n_columns] == 0  # (B, T)
    starts = hidden & ~torch.cat([torch.zeros_like(hidden[:, :1]), hidden[:, :-1]], dim=1)
    if bool((starts.sum(1) > 1).any()):
        return None
    first = starts.int().argmax(1)  # 0 where there is none
    return torch.stack([first, first + hidden.sum(1)], dim=1).to(torch.int32).contiguous()
