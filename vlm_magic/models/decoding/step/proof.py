"""Whether a decoder was understood: its first step is computed both ways, and the logits must be the same.

Nothing here is believed by a model's name. The first answer of each kind of model (and again when its
layers are replaced, adapted, moved or put into other numbers) has one token computed by the model itself and
by the step. Only where both say the same goes the step on; else ``generate`` does, and the status says so.
What a compiler made of the kernel is not believed either: it takes part only where it is faster than torch.

Knows tensors. Neighbour: `loop` asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from vlm_magic.models.decoding.step.blueprint import Blueprint

__all__ = ["SLOW", "Proofs", "agree", "is_faster", "kind_of"]

SLOW = "it is slower than torch here"
_TRIALS = 3
_LONG_S = 0.1  # of a trial, after which there is no other

_ROUNDING = {torch.float32: 1e-4, torch.float16: 2e-2}  # of the largest logit
_ROUGH = 6e-2  # bfloat16 keeps three digits, and layers add up


@dataclass
class Proofs:
    """What was proved of one model.

    Attributes:
        passed: kinds of steps that agreed, see `kind_of`.
        failed: those that did not.
    """

    passed: set[tuple[object, ...]] = field(default_factory=set)
    failed: set[tuple[object, ...]] = field(default_factory=set)


def kind_of(blueprint: Blueprint, n_ahead: int, way: str) -> tuple[object, ...]:
    """What must be the same for a proof to hold on.

    Args:
        blueprint: of the model.
        n_ahead: how far a token's position is from its number in the cache; pictures can shift it.
        way: "eager", "native" or "recorded".
    """
    kinds = tuple(dict.fromkeys(type(linear) for linear in blueprint.linears))
    return way, blueprint.dtype, str(blueprint.device), len(blueprint.layers), kinds, n_ahead != 0


def agree(own: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two rows of logits, (V,), are the same but for rounding in these numbers."""
    theirs, own = theirs.float(), own.float()
    largest = float(theirs.abs().max())
    return bool((own - theirs).abs().max() <= _ROUNDING.get(dtype, _ROUGH) * max(largest, 1e-3))


def is_faster(one: Callable[[], object], other: Callable[[], object], device: torch.device) -> bool:
    """Whether ``one`` takes no longer than ``other``, at best of three times each; once where that is long.

    One thread of a CPU is measured by its own time, so that other work on the machine does not decide; a
    GPU is waited for.
    """
    is_own_time = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if is_own_time else time.perf_counter
    calls, best = (one, other), [float("inf")] * 2
    started = time.perf_counter()
    for _ in range(_TRIALS):
        for n, call in enumerate(calls):
            began = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[n] = min(best[n], clock() - began)
        if time.perf_counter() - started > _LONG_S:
            break
    return best[0] <= best[1]
