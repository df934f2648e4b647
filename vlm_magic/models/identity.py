"""Which model answered: what must be equal for the same prompt to get the same answer.

A journal of answers that outlives the kernel must know its model beyond its name: a folder may be
trained further, a revision may move. Knows loaded models; neighbour: `engine` tells it on.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from vlm_magic.models.loaded import Loaded

__all__ = ["identity_of"]

_SAMPLE = 8  # numbers of each weight; training changes nearly all of them


def identity_of(loaded: Loaded) -> dict[str, str]:
    """Name, options that change answers, and a hash of samples of the weights, each as text."""
    options = loaded.options
    told = {
        "name": loaded.name,
        "revision": options.revision,
        "adapter": options.adapter,
        "dtype": loaded.dtype,
        "quantization": loaded.quantization,
        "splitting": options.splitting,
        "picture tokens": options.picture_tokens,
        "weights": _digest_of(loaded.model),
    }
    return {name: str(value) for name, value in told.items() if value not in (None, "")}


def _digest_of(model: Any) -> str:
    """A hash of names, shapes and a few numbers of every weight that lies in memory as plain numbers."""
    whole = hashlib.blake2b(digest_size=8)
    for name, weight in model.named_parameters():
        whole.update(f"{name} {tuple(weight.shape)}".encode())
        if type(weight) is torch.nn.Parameter and weight.device.type != "meta":
            step = max(1, weight.numel() // _SAMPLE)
            sample = weight.detach().reshape(-1)[::step][:_SAMPLE]
            whole.update(repr(sample.to("cpu", torch.float32).tolist()).encode())
    return whole.hexdigest()
