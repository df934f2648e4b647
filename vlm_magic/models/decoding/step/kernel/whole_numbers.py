"""The whole numbers in a quantised linear module: 8 bits a weight, and a factor for each row.

Knows modules of torchao and Quanto by their attributes; imports neither.
Neighbour: `native` computes with them.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["eight_bits_of"]


def eight_bits_of(module: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(O, I) int8 and (O,) factors, where weights alone are quantised, evenly around zero, row by row.

    None for anything else: what also quantises its inputs says something else than the product of these.
    """
    weight = getattr(module, "weight", None)
    found = _of_torchao(weight) or _of_quanto(module)
    if found is None:
        return None
    whole, factor = found
    if whole.dtype != torch.int8 or whole.dim() != 2 or factor.numel() != whole.shape[0]:
        return None
    return whole, factor.reshape(-1)


def _of_torchao(weight: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Source: torchao 0.18, ``Int8Tensor``: qdata (O, I), scale (O, 1), zero_point always 0."""
    if type(weight).__name__ != "Int8Tensor" or getattr(weight, "act_quant_kwargs", None) is not None:
        return None
    offset = getattr(weight, "zero_point", None)
    if offset is not None and bool(offset.any()):
        return None
    return weight.qdata, weight.scale


def _of_quanto(module: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Source: optimum-quanto 0.2, ``QLinear`` with a ``WeightQBytesTensor`` along axis 0."""
    weight: Any = getattr(module, "weight", None)
    if type(weight).__name__ != "WeightQBytesTensor" or getattr(module, "activation_qtype", None) is not None:
        return None
    return weight._data, weight._scale
