"""How near a step comes to what this machine's memory lets it: bytes a token costs, bytes copied a second.

A token costs each weight of the decoder once, so the memory says how many tokens a second there can be. What
it does is measured by copying a block of the weights' size, for small models live in a processor's caches.

Knows torch. Neighbour: `engine` shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch

from vlm_magic.models.checkpoints.eight_bits import STEPS
from vlm_magic.models.decoding.step.blueprint import read, why_not
from vlm_magic.models.decoding.step.handover import record_of, steps_of
from vlm_magic.models.decoding.step.kernel.compiler import kernel
from vlm_magic.models.decoding.step.positions import Positions
from vlm_magic.models.memory import stored_bytes

__all__ = ["bandwidth_share", "copy_bytes_per_s", "speed_words", "token_bytes", "way_words"]

_SMALLEST, _LARGEST = 2**20, 2**27  # bytes of a block that is copied
_LONGEST_S = 0.05
_TRIAL_TOKENS = 255  # before the one that is tried
_SOON_S = 8.0  # that a build is waited for, once, before quantisations are compared


class _TrialStep:
    """One token of a decoder that is tried before a model is loaded, by the step that makes answers."""

    def is_there(self) -> bool:
        """Whether there is a kernel, or will be within seconds."""
        return kernel().soon(_SOON_S) is not None

    def __call__(self, decoder: Any) -> Callable[[], object] | None:
        blueprint = read(decoder)
        if blueprint is None:
            return None
        step = next(steps_of(blueprint, "auto"))
        n_heads = decoder.config.num_key_value_heads
        shape = (1, n_heads, _TRIAL_TOKENS + 1, blueprint.head_dim)
        rooms = [(torch.zeros(shape), torch.zeros(shape)) for _ in blueprint.layers]
        angles = Positions().slice(blueprint, _TRIAL_TOKENS, 1)
        return partial(step, torch.zeros(1, 1, dtype=torch.int64), _TRIAL_TOKENS, angles, rooms)


STEPS.append(_TrialStep())


def way_words(model: Any) -> str:
    """How a model's last tokens were computed, and why not faster; "" before the first."""
    record = record_of(model)
    if record.way == "native":
        return "tokens by the kernel built here"
    if record.way == "recorded":
        return "tokens by a recorded step"
    if record.way == "eager":
        build = kernel()
        why = "it is being built" if build.is_building else record.kernel_remark or build.remark
        return "tokens by our step in torch" + (f" (no kernel: {why})" if why else "")
    if record.way == "generate":
        why = record.remark or why_not(model)
        return "tokens by generate" + (f" ({why})" if why else "")
    return ""


def speed_words(model: Any, tokens_per_s: float, device: str) -> str:
    """Tokens a second, and beside it what share of the memory's bandwidth that is, unless next to nothing.

    A small model's weights stay in the processor's cache, and guessed tokens share one reading of them.
    """
    share = bandwidth_share(model, tokens_per_s, device)
    beside = ""
    if share is not None and share > 1:
        beside = " (faster than the memory gives its weights once a token)"
    elif share is not None and share >= 0.01:
        beside = f" ({100 * share:.0f} % of the memory's bandwidth)"
    return f"last {tokens_per_s:.0f} tokens/s{beside}"


def token_bytes(model: Any) -> int | None:
    """Bytes of weights that one token costs; None where the decoder is not understood."""
    blueprint = read(model)
    if blueprint is None:
        return None
    return sum(stored_bytes(linear) for linear in blueprint.linears)


def bandwidth_share(model: Any, tokens_per_s: float, device: str) -> float | None:
    """What share of the memory's bandwidth so many tokens a second use, about 0 to 1.

    None where the decoder is not understood. A copy reads and writes, so what it moves counts twice.
    """
    n_bytes = token_bytes(model)
    if not n_bytes or not tokens_per_s:
        return None
    block = min(max(_SMALLEST, 2 ** n_bytes.bit_length()), _LARGEST)
    return n_bytes * tokens_per_s / copy_bytes_per_s(block, device, torch.get_num_threads())


@lru_cache(maxsize=16)
def copy_bytes_per_s(n_bytes: int, device: str, n_threads: int) -> float:
    """Bytes read and written a second while a block is copied, at best; measured once, in about 50 ms.

    One thread on a CPU is measured by its own time, so that other work on the machine does not count.

    Args:
        n_bytes: of the block.
        device: where.
        n_threads: of torch, so that another number is measured anew.
    """
    source = torch.ones(n_bytes // 2 // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    clock = time.thread_time if device == "cpu" and n_threads == 1 else time.perf_counter
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _LONGEST_S or best == float("inf"):
        _wait(device)
        start = clock()
        target.copy_(source)
        _wait(device)
        best = min(best, max(clock() - start, 1e-9))
    return 2 * source.numel() * source.element_size() / best


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
