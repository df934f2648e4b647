"""A model that leans towards some tokens, or away from them: what it says is then known beforehand."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["leaning"]


@contextmanager
def leaning(model: Any, token_ids: Iterable[int], by: float, *, pause_s: float = 0.0) -> Iterator[None]:
    """Add ``by`` to the logits of some tokens, in every forward of the block.

    Args:
        model: a transformers model.
        token_ids: those that it has no logit of are left out.
        by: above 0 it wants to say them; below, it never does.
        pause_s: seconds that every forward takes longer.
    """

    def lean(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        if pause_s:
            time.sleep(pause_s)
        wanted = [token for token in token_ids if token < logits.shape[-1]]
        changed = logits.clone()
        changed[..., wanted] += by
        return changed

    handle = model.get_output_embeddings().register_forward_hook(lean)
    try:
        yield
    finally:
        handle.remove()
