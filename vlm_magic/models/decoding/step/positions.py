"""Cosines and sines of positions, computed once by the model's own module and kept for the answers to come.

Knows a `Blueprint`. Neighbours: `eager` and `native` turn queries and keys by them.
"""

from __future__ import annotations

import torch

from vlm_magic.models.decoding.step.blueprint import Blueprint

__all__ = ["Angles", "Positions"]

Angles = dict[str, tuple[torch.Tensor, torch.Tensor]]  # by kind of layer: cosines, sines, (T, D)

_AT_LEAST = 512  # positions that are computed at a time


class Positions:
    """The tables of one decoder."""

    def __init__(self) -> None:
        self._tables: Angles = {}
        self._key: tuple[object, ...] = ()
        self._n = 0

    def table(self, blueprint: Blueprint, n: int) -> Angles:
        """Angles of at least the first ``n`` positions, (P, D), as the model's own module gives them."""
        key = (id(blueprint.rotary), blueprint.device, blueprint.dtype)
        if n > self._n or key != self._key:
            self._n, self._key = max(n + n // 4, _AT_LEAST), key
            kinds = dict.fromkeys(layer.rope for layer in blueprint.layers)
            self._tables = {kind: _angles(blueprint, kind, self._n) for kind in kinds}
        return self._tables

    def slice(self, blueprint: Blueprint, start: int, n: int) -> Angles:
        """Angles of ``n`` positions from ``start``: (n, D) each."""
        tables = self.table(blueprint, start + n)
        return {kind: (cos[start : start + n], sin[start : start + n]) for kind, (cos, sin) in tables.items()}

    def at(self, blueprint: Blueprint, positions: torch.Tensor) -> Angles:
        """Angles of some positions, (T,) int64: (T, D) each."""
        tables = self.table(blueprint, int(positions.max()) + 1)
        return {kind: (cos[positions], sin[positions]) for kind, (cos, sin) in tables.items()}


def _angles(blueprint: Blueprint, kind: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.arange(n, device=blueprint.device)[None]  # (1, P)
    if blueprint.n_rope_axes > 1:
        ids = ids.expand(blueprint.n_rope_axes, 1, n)
    carrier = torch.zeros(1, device=blueprint.device, dtype=blueprint.dtype)
    cos, sin = blueprint.rotary(carrier, ids, kind) if kind else blueprint.rotary(carrier, ids)
    return cos[0].contiguous(), sin[0].contiguous()  # (P, D)
