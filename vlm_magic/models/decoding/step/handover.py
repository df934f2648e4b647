"""From a model's forward to a step of our own: when ours takes over, and what it keeps of the cache.

The first time for each kind of step, one token is computed both ways; see `proof`. One answer (`loop`) and
the rows of a batch (`rows`) go over alike: each says how its step is called, the rest is here.

Knows a transformers model and its cache; not prompts, people or how a token is chosen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import torch
from transformers.cache_utils import DynamicLayer

from vlm_magic.models.caches.growing import GrowingLayer
from vlm_magic.models.decoding.step.blueprint import Blueprint, read
from vlm_magic.models.decoding.step.drafts import Pay
from vlm_magic.models.decoding.step.eager import EagerStep, Rooms
from vlm_magic.models.decoding.step.kernel.compiler import Compile, kernel
from vlm_magic.models.decoding.step.kernel.native import NativeStep, native_step
from vlm_magic.models.decoding.step.positions import Positions
from vlm_magic.models.decoding.step.proof import Proofs, agree, is_faster
from vlm_magic.models.decoding.step.recorded import RecordedStep, recorded_step
from vlm_magic.models.memory import is_out_of_memory

__all__ = [
    "AnyStep",
    "Forward",
    "OwnStep",
    "StepRecord",
    "can_decode",
    "last_logits",
    "record_of",
    "steps_of",
    "take_over",
]

AnyStep: TypeAlias = "EagerStep | NativeStep | RecordedStep"


@dataclass
class StepRecord:
    """What is remembered of a model from answer to answer.

    Attributes:
        proofs: which steps gave what the model gives.
        positions: its angles.
        way: how the last token was computed: "generate", "eager", "native" or "recorded".
        remark: why it is "generate", in a few words.
        kernel_remark: why the kernel, or a recorded step, is not used with it, in a few words.
        pay: what drafts cost and gave.
    """

    proofs: Proofs = field(default_factory=Proofs)
    positions: Positions = field(default_factory=Positions)
    way: str = ""
    remark: str = ""
    kernel_remark: str = ""
    pay: Pay = field(default_factory=Pay)


_RECORDS: WeakKeyDictionary[Any, StepRecord] = WeakKeyDictionary()


def record_of(model: Any) -> StepRecord:
    """What is remembered of a model; goes with it."""
    return _RECORDS.setdefault(model, StepRecord())


def can_decode(model: Any) -> bool:
    """Whether it is worth handing `Decoding` to ``generate``."""
    return callable(getattr(model, "_prefill", None)) and read(model) is not None


class Forward:
    """The model's own forward, as ``_sample`` calls it."""

    def __init__(self, model: Any, model_kwargs: dict[str, Any], outputs: Any) -> None:
        self.model = model
        self.kwargs = model_kwargs
        self._update(outputs)

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Logits after all of ``input_ids``, (B, V) float32."""
        outputs = self.model(**self._inputs(input_ids), return_dict=True)
        self._update(outputs)
        return last_logits(outputs)

    def _inputs(self, input_ids: torch.Tensor) -> dict[str, Any]:
        n_next = 1 if self.kwargs["use_cache"] else None
        inputs: dict[str, Any] = self.model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=n_next, **self.kwargs
        )
        return inputs

    def _update(self, outputs: Any) -> None:
        self.kwargs = self.model._update_model_kwargs_for_generation(outputs, self.kwargs)

    def positions_of_last(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Where each row's last token stands, as the model counts, (B,); None where it does not."""
        ids = self._inputs(input_ids).get("position_ids")  # (B, T), and for some in several parts: (P, B, T)
        if ids is None:
            return None
        last: torch.Tensor = ids.reshape(-1, *ids.shape[-2:])[-1, :, -1]
        return last.expand(input_ids.shape[0])


class OwnStep(ABC):
    """Our step with the cache that it fills.

    Args:
        blueprint: of the model.
        step: ours.
        layers: of the cache.
        record: of the model.

    Attributes:
        way: which of ours it is.
        kind: what must be the same for a proof of it to hold on.
    """

    slow_remark = ""
    """What the record says of a step that is slower than torch's here."""

    def __init__(
        self, blueprint: Blueprint, step: AnyStep, layers: list[GrowingLayer], record: StepRecord
    ) -> None:
        self.way = step.way
        self.kind: tuple[object, ...] = ()
        self._blueprint = blueprint
        self._step = step
        self._layers = layers
        self._record = record
        self._n = layers[0].get_seq_length()
        self._rooms: Rooms = []
        self._n_room = 0

    @abstractmethod
    def _compute(self, step: AnyStep, ids: torch.Tensor, n: int) -> torch.Tensor:
        """Logits after ``ids``, which go into the cache from its column ``n`` on."""

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits after some more tokens: (T, V) float32 from (1, T) int64, or (B, V) from (B, 1)."""
        n_new = ids.shape[1]
        if self._n + n_new > self._n_room:
            self.hold()
            self._rooms = [layer.room(self._n + n_new) for layer in self._layers]
            self._n_room = min(keys.shape[2] for keys, _ in self._rooms)
        logits = self._compute(self._step, ids, self._n)
        self._n += n_new
        return logits.float()

    def hold(self) -> None:
        """Let the cache know how far its rooms are filled."""
        if self._rooms:
            for layer in self._layers:
                layer.hold(self._n)

    def agrees(self, ids: torch.Tensor, theirs: torch.Tensor) -> bool:
        """Whether it gives the logits that the model gave, (B, V); not where it cannot compute.

        The newest column is written again; see `newest` and `put_back`.
        """
        try:
            own = self(ids)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return False
        rows = zip(own, theirs, strict=True)
        return all(agree(one, other, self._blueprint.dtype) for one, other in rows)

    def pays(self, ids: torch.Tensor) -> bool:
        """Whether it is faster than torch's; computes the newest column a few times more."""
        if isinstance(self._step, EagerStep):
            return True
        if isinstance(self._step, RecordedStep) and not self._step.is_recorded:
            return False
        both = (self._step, EagerStep(self._blueprint))
        own, torchs = (partial(self._compute, step, ids, self._n - 1) for step in both)
        return is_faster(own, torchs, self._blueprint.device)

    def newest(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """A copy of the newest column's keys and values in each layer."""
        return [(layer.keys[:, :, -1:].clone(), layer.values[:, :, -1:].clone()) for layer in self._layers]

    def put_back(self, newest: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Undo what a step wrote over the newest column."""
        for layer, (keys, values) in zip(self._layers, newest, strict=True):
            layer.keys[:, :, -1:] = keys
            layer.values[:, :, -1:] = values


Own = TypeVar("Own", bound=OwnStep)
Make: TypeAlias = Callable[[Blueprint, AnyStep, "list[GrowingLayer]"], "Own | None"]


def take_over(
    forward: Forward, input_ids: torch.Tensor, record: StepRecord, compile_: Compile, make: Make[Own]
) -> tuple[torch.Tensor, Own | None]:
    """Go over to our own step where it is known to say the same.

    Args:
        forward: the model's, after the prompt.
        input_ids: all tokens, (B, T); the last column is new.
        record: of the model.
        compile_: whether the kernel is used where it is there, waited for, or left alone.
        make: our step with the cache's layers; None where they do not suit it.

    Returns:
        The logits after all of ``input_ids``, (B, V) float32, and the step that goes on from there; None
        where the model's forward does.
    """
    own = _first_not_failed(forward, input_ids, record, compile_, make)
    if own is None:
        record.way = "generate"
        return forward(input_ids), None
    ids = input_ids[:, -1:]
    if own.kind in record.proofs.passed:
        return own(ids), own
    logits = forward(input_ids)  # which adds the tokens to the cache
    theirs = own.newest()
    if not own.agrees(ids, logits):  # which writes them again, in the same place
        own.put_back(theirs)
        record.proofs.failed.add(own.kind)
        record.way, record.remark = "generate", "its own step says something else"
        return logits, None
    if not own.pays(ids):
        record.proofs.failed.add(own.kind)
        record.kernel_remark = own.slow_remark or record.kernel_remark
        return logits, None
    record.proofs.passed.add(own.kind)
    return logits, own


def _first_not_failed(
    forward: Forward, input_ids: torch.Tensor, record: StepRecord, compile_: Compile, make: Make[Own]
) -> Own | None:
    """The fastest step that has not failed before; None where there is none for this model and cache."""
    blueprint, cache = read(forward.model), forward.kwargs.get("past_key_values")
    layers = None if blueprint is None else _growing_layers(cache, blueprint, input_ids.shape[0])
    if blueprint is None or layers is None:
        return None
    for step in steps_of(blueprint, compile_):
        own = make(blueprint, step, layers)
        if own is None:
            return None
        if own.kind not in record.proofs.failed:
            record.way, record.remark = own.way, ""
            return own
    return None


def steps_of(blueprint: Blueprint, compile_: Compile) -> Iterator[AnyStep]:
    """The ways to compute a step, the fastest that is there first."""
    recorded = recorded_step(blueprint) if compile_ != "no" else None
    if recorded is not None:
        yield recorded
    native = native_step(blueprint) if compile_ != "no" else None
    if native is not None and native.find(kernel().library(compile_)):
        yield native
    yield EagerStep(blueprint)


def last_logits(outputs: Any) -> torch.Tensor:
    """A copy, so that a prompt's logits are not kept for it: (B, V) float32."""
    return outputs.logits[:, -1].to(copy=True, dtype=torch.float32)  # type: ignore[no-any-return]


def _growing_layers(cache: Any, blueprint: Blueprint, n_rows: int) -> list[GrowingLayer] | None:
    """A cache's layers with room behind what they hold; None where they are of another kind."""
    layers = getattr(cache, "layers", None) or []
    if len(layers) != len(blueprint.layers):
        return None
    for index, layer in enumerate(layers):
        if not layer.is_initialized or layer.keys.shape[0] != n_rows:
            return None
        if type(layer) is DynamicLayer:
            layers[index] = grown = GrowingLayer()
            grown.update(layer.keys, layer.values)
        elif not isinstance(layer, GrowingLayer):
            return None
    lengths = {layer.get_seq_length() for layer in layers}
    return layers if len(lengths) == 1 else None
