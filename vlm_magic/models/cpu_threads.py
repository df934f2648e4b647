"""How many threads a model's work is worth on a CPU, and whether a core is left for work beside it.

Knows loaded models and torch's own settings. Neighbours: `engine` answers within `useful_threads`,
`vision_cache` asks `has_idle_core` before it encodes pictures ahead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vlm_magic.models.loaded import Loaded

__all__ = ["has_idle_core", "useful_threads"]

_SMALL_PARAMETERS = 20_000_000  # a matrix product of such a model is over before a second thread wakes up


@contextmanager
def useful_threads(loaded: Loaded) -> Iterator[None]:
    """One thread for a small model on a CPU: threads waiting for each other cost more than they help.

    Measured with the starter on a busy machine of two cores: 42 ms an answer instead of 746.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1 or not _is_small(loaded):
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def has_idle_core(loaded: Loaded) -> bool:
    """Whether the model answers on a CPU and leaves one of its cores to others."""
    if loaded.device != "cpu":
        return False
    return (1 if _is_small(loaded) else torch.get_num_threads()) < _n_cores()


def _is_small(loaded: Loaded) -> bool:
    return loaded.device == "cpu" and loaded.n_parameters <= _SMALL_PARAMETERS


def _n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
