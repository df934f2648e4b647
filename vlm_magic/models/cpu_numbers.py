"""Which numbers this machine's processor computes in, found by trying: no name of a processor is believed.

Some CPUs multiply bfloat16 several times faster than float32 (AMX, AVX512-BF16), others, of the same age, far
slower. Knows torch. Neighbour: `checkpoints.plan` asks.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch

__all__ = ["bfloat16_speedup"]

_ROWS, _WIDTH = 64, 1024  # tokens of a prompt, and the width of a model that is worth asking for
_LONGEST_S = 0.025  # for each kind of numbers


@lru_cache(maxsize=1)
def bfloat16_speedup() -> float:
    """How many times as fast a prompt's matrix product is in bfloat16 as in float32; tried once, in 50 ms."""
    seconds = {dtype: _seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _seconds(dtype: torch.dtype) -> float:
    """Of one product, at best: other work on the machine makes some of them slow."""
    x, weight = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    best, began = float("inf"), time.perf_counter()
    torch.nn.functional.linear(x, weight)  # the first one sets things up
    while time.perf_counter() - began < _LONGEST_S or best == float("inf"):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = min(best, max(time.perf_counter() - start, 1e-9))
    return best
