"""One decode step that is recorded once and played again, for GPUs: they wait for Python otherwise.

A token costs hundreds of small operations, and Python starts them one by one. A CUDA graph starts all of
them at once. What is recorded may hold no number that changes, so the step looks at all of its cache's
rooms behind a mask, and all that differs from token to token is written into the same few tensors. It is
recorded anew for each answer, and where the cache outgrows its rooms, which costs about as much as three
tokens, so that weights which were trained, replaced or adapted in between are never answered without.

Knows a `Blueprint` and the rooms of a cache. Neighbours: `eager` has the arithmetic, `handover` proves
that both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from vlm_magic.models.decoding.step.blueprint import Blueprint
from vlm_magic.models.decoding.step.eager import EagerStep, Rooms, apart
from vlm_magic.models.decoding.step.positions import Angles

__all__ = ["RECORDERS", "RecordedStep", "Recorder", "Step", "recorded_step"]

Step = Callable[[], torch.Tensor]
"""Takes its inputs from tensors that stay where they are, and gives logits."""
Recorder = Callable[[Step], Step]
"""Makes a step quicker that is always the same but for what those tensors hold."""


def recorded_step(blueprint: Blueprint) -> RecordedStep | None:
    """A decoder's step, recorded; None where its device has no way to."""
    record = RECORDERS.get(blueprint.device.type)
    return None if record is None else RecordedStep(blueprint, record)


class RecordedStep:
    """A decoder's step of one token a row, recorded.

    Args:
        blueprint: what the decoder is made of.
        record: of its device.

    Attributes:
        is_recorded: whether it could be; else its tokens are computed by torch as ever.
    """

    way = "recorded"

    def __init__(self, blueprint: Blueprint, record: Recorder) -> None:
        self.is_recorded = False
        self._eager = EagerStep(blueprint)
        self._record = record
        self._rooms: Rooms = ()
        self._inputs: _Inputs | None = None
        self._play: Step | None = None

    def __call__(self, ids: torch.Tensor, n_before: int, angles: Angles, rooms: Rooms) -> torch.Tensor:
        """As `EagerStep`: (T, V); more than one token are not played."""
        if ids.shape[1] != 1 or not self._enter(rooms, ids, n_before, angles):
            return self._eager(ids, n_before, angles, rooms)
        return self._played(ids, n_before, angles, None)[0]

    def rows(
        self, ids: torch.Tensor, n_before: int, angles: Angles, rooms: Rooms, gaps: torch.Tensor
    ) -> torch.Tensor:
        """As `EagerStep.rows`: (B, V)."""
        if not self._enter(rooms, ids, n_before, angles):
            return self._eager.rows(ids, n_before, angles, rooms, gaps)
        return self._played(ids, n_before, angles, gaps)[:, 0]

    def _enter(self, rooms: Rooms, ids: torch.Tensor, n_before: int, angles: Angles) -> bool:
        """Record the step in these rooms, unless it is; whether that went well."""
        if rooms is self._rooms:
            return self._play is not None
        self._rooms, self._play = rooms, None
        for room in rooms:
            for tensor in room:
                tensor[:, :, n_before:] = 0  # it is looked at with no weight, but may not be NaN
        self._inputs = inputs = _Inputs(ids, angles, rooms)
        try:
            self._play = self._record(lambda: self._eager.at(inputs.ids, inputs.angles, rooms, inputs))
        except (RuntimeError, ValueError):  # memory that ran out, or an operation that no graph can hold
            self._inputs = None
        self.is_recorded = self._play is not None
        return self.is_recorded

    def _played(
        self, ids: torch.Tensor, n_before: int, angles: Angles, gaps: torch.Tensor | None
    ) -> torch.Tensor:
        assert self._inputs is not None
        assert self._play is not None
        self._inputs.write(ids, n_before, angles, gaps)
        return self._play().clone()  # the next token is written over it


class _Inputs:
    """What differs from token to token, each in a tensor that stays where it is; a `Place` of one column."""

    def __init__(self, ids: torch.Tensor, angles: Angles, rooms: Rooms) -> None:
        device, sizes = ids.device, [keys.shape[2] for keys, _ in rooms]
        self.ids = ids.clone()
        self.angles = {kind: (cos.clone(), sin.clone()) for kind, (cos, sin) in apart(angles).items()}
        self._at = torch.full((1,), min(sizes) - 1, dtype=torch.int64, device=device)
        self._gaps = torch.zeros((ids.shape[0], 2), dtype=torch.int32, device=device)
        self._columns = torch.arange(max(sizes), device=device)

    def write(self, ids: torch.Tensor, n_before: int, angles: Angles, gaps: torch.Tensor | None) -> None:
        """Take the values of a token."""
        self.ids.copy_(ids)
        self._at.fill_(n_before)
        for kind, tensors in apart(angles).items():
            for own, new in zip(self.angles[kind], tensors, strict=True):
                own.copy_(new)
        if gaps is not None:
            self._gaps.copy_(gaps)

    def put(self, room: torch.Tensor, new: torch.Tensor) -> None:
        room.index_copy_(2, self._at, new.to(room.dtype))

    def seen(
        self, room: tuple[torch.Tensor, torch.Tensor], window: int | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        keys, values = room
        columns = self._columns[: keys.shape[2]]
        shown = columns <= self._at
        if window is not None:
            shown = shown & (columns > self._at - window)
        gaps = self._gaps
        outside = (columns < gaps[:, :1]) | (columns >= gaps[:, 1:])  # (B, n)
        return keys, values, (shown & outside)[:, None, None]


def _cuda_graph(step: Step) -> Step:
    """Record a step as a CUDA graph, after computing it once for what libraries set up at their first call.

    Other threads of the notebook may go on meanwhile.

    Source: torch.cuda.CUDAGraph, whose warm-up wants a stream of its own.
    """
    current, own = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    own.wait_stream(current)
    with torch.cuda.stream(own):
        step()
    current.wait_stream(own)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits = step()

    def play() -> torch.Tensor:
        graph.replay()
        return logits

    return play


RECORDERS: Mapping[str, Recorder] = {"cuda": _cuda_graph}
