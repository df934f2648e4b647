"""One decode step with torch's operations alone: on any device, in any numbers, quantised and adapted too.

Knows a `Blueprint` and the rooms of a cache. Neighbours: `native` does the same with a kernel,
`positions` has the angles.

Source: the norms round where transformers' own do, so that low precision says what ``generate`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from vlm_magic.models.decoding.step.blueprint import Blueprint, Layer, Norm
from vlm_magic.models.decoding.step.positions import Angles

__all__ = ["EagerStep", "linear_of"]

Rooms = Sequence[tuple[torch.Tensor, torch.Tensor]]
_Map = Callable[[torch.Tensor], torch.Tensor]


class EagerStep:
    """A decoder's step.

    Args:
        blueprint: what it is made of.
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint = blueprint
        self._layers = [_EagerLayer(layer, blueprint.head_dim) for layer in blueprint.layers]
        self._norm = _norm_of(blueprint.norm)
        self._head = linear_of(blueprint.head)

    def __call__(self, ids: torch.Tensor, n_before: int, angles: Angles, rooms: Rooms) -> torch.Tensor:
        """The logits after each of some tokens, whose keys and values are written into the rooms.

        Args:
            ids: (1, T) int64.
            n_before: tokens that the cache holds before them.
            angles: cosines and sines of their positions by kind of layer, (T, D).
            rooms: keys and values of each layer, (1, A, R, D), with room for T more tokens.

        Returns:
            (T, V) in the model's numbers.
        """
        return self._step(ids, n_before, angles, rooms)[0]

    def rows(
        self, ids: torch.Tensor, n_before: int, angles: Angles, rooms: Rooms, gaps: torch.Tensor
    ) -> torch.Tensor:
        """The logits after the newest token of each of several rows.

        Args:
            ids: (B, 1) int64.
            n_before: columns that the cache holds before them.
            angles: cosines and sines of their positions by kind of layer, (B, D).
            rooms: keys and values of each layer, (B, A, R, D), with room for one more column.
            gaps: the columns of each row that hold padding, [from, to), (B, 2) int32.

        Returns:
            (B, V) in the model's numbers.
        """
        apart = {kind: (cos[:, None, None], sin[:, None, None]) for kind, (cos, sin) in angles.items()}
        columns = torch.arange(n_before + 1, device=ids.device)
        seen = (columns < gaps[:, :1]) | (columns >= gaps[:, 1:])  # (B, n)
        is_padded = bool((gaps[:, 1] > gaps[:, 0]).any())
        return self._step(ids, n_before, apart, rooms, seen[:, None, None] if is_padded else None)[:, 0]

    def _step(
        self, ids: torch.Tensor, n_before: int, angles: Angles, rooms: Rooms, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        hidden = self._blueprint.embed(ids)  # (B, T, C)
        for layer, room in zip(self._layers, rooms, strict=True):
            hidden = layer(hidden, n_before, angles, room, seen)
        logits: torch.Tensor = self._head(self._norm(hidden))  # (B, T, V)
        cap = self._blueprint.softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap


class _EagerLayer:
    """One layer, with what can be looked up beforehand looked up."""

    def __init__(self, layer: Layer, head_dim: int) -> None:
        self._layer = layer
        self._head_dim = head_dim
        self._q, self._k, self._v, self._o = map(linear_of, (layer.q, layer.k, layer.v, layer.o))
        self._gate, self._up, self._down = map(linear_of, (layer.gate, layer.up, layer.down))
        self._before, self._between = _norm_of(layer.before), _norm_of(layer.between)
        self._q_norm = None if layer.q_norm is None else _norm_of(layer.q_norm)
        self._k_norm = None if layer.k_norm is None else _norm_of(layer.k_norm)
        self._after = None if layer.after is None else _norm_of(layer.after)
        self._last = None if layer.last is None else _norm_of(layer.last)
        self._activation = _activation_of(layer.activation)

    def __call__(
        self,
        hidden: torch.Tensor,
        n_before: int,
        angles: Angles,
        room: tuple[torch.Tensor, torch.Tensor],
        seen: torch.Tensor | None,
    ) -> torch.Tensor:
        attended = self._o(self._attend(self._before(hidden), n_before, angles, room, seen))
        hidden = hidden + (attended if self._after is None else self._after(attended))
        x = self._between(hidden)
        gated = self._down(self._activation(self._gate(x)) * self._up(x))
        return hidden + (gated if self._last is None else self._last(gated))

    def _attend(
        self,
        x: torch.Tensor,
        n_before: int,
        angles: Angles,
        room: tuple[torch.Tensor, torch.Tensor],
        seen: torch.Tensor | None,
    ) -> torch.Tensor:
        n_rows, n_new, width = *x.shape[:2], self._head_dim
        q = self._q(x).view(n_rows, n_new, -1, width)
        k = self._k(x).view(n_rows, n_new, -1, width)
        v = self._v(x).view(n_rows, n_new, -1, width)
        q = q if self._q_norm is None else self._q_norm(q)
        k = k if self._k_norm is None else self._k_norm(k)
        cos, sin = angles[self._layer.rope]
        q = _turned(q.transpose(1, 2), cos, sin)  # (B, A, T, D)
        keys, values = room  # (B, A', R, D): several heads may share one's keys
        n_all = n_before + n_new
        keys[:, :, n_before:n_all] = _turned(k.transpose(1, 2), cos, sin)
        values[:, :, n_before:n_all] = v.transpose(1, 2)
        start, mask = self._seen(n_before, n_new, q)
        n_shared = q.shape[1] // keys.shape[1]
        q = q.reshape(n_rows, keys.shape[1], n_shared * n_new, width)
        if mask is not None:
            mask = mask.repeat(n_shared, 1)
        elif seen is not None:
            mask = seen[..., start:]
        out = functional.scaled_dot_product_attention(
            q, keys[:, :, start:n_all], values[:, :, start:n_all], mask, scale=self._layer.scale
        )
        return out.view(n_rows, -1, n_new, width).transpose(1, 2).reshape(n_rows, n_new, -1)

    def _seen(self, n_before: int, n_new: int, q: torch.Tensor) -> tuple[int, torch.Tensor | None]:
        """The first token that is seen, and which token sees which, (T, n): None for all."""
        window = self._layer.window
        start = 0 if window is None else max(0, n_before + 1 - window)
        if n_new == 1:
            return start, None
        at = torch.arange(n_before, n_before + n_new, device=q.device)[:, None]
        other = torch.arange(start, n_before + n_new, device=q.device)
        mask = other <= at
        return start, mask if window is None else mask & (other > at - window)


def linear_of(module: Any) -> _Map:
    """The function of a linear module, without the detour through its call where it is a plain one."""
    if type(module) is torch.nn.Linear and type(module.weight) is torch.nn.Parameter:
        if module.bias is None:
            return partial(functional.linear, weight=module.weight)
        return partial(functional.linear, weight=module.weight, bias=module.bias)
    return module  # type: ignore[no-any-return]


def _activation_of(module: Any) -> _Map:
    if type(module).__name__ in ("SiLU", "SiLUActivation"):
        return functional.silu
    if type(module).__name__ == "GELUTanh":
        return partial(functional.gelu, approximate="tanh")
    return module  # type: ignore[no-any-return]


def _norm_of(norm: Norm) -> _Map:
    """The function of a norm: torch's own in float32, else with the roundings of transformers' classes."""
    weight, shape, eps = norm.weight, norm.weight.shape, norm.eps
    if weight.dtype == torch.float32:
        whole = weight + norm.offset if norm.offset else weight
        return lambda x: torch.rms_norm(x, shape, whole, eps)
    if norm.offset:
        whole = weight.float() + norm.offset
        return lambda x: (torch.rms_norm(x.float(), shape, None, eps) * whole).to(x.dtype)
    return lambda x: weight * torch.rms_norm(x.float(), shape, None, eps).to(x.dtype)


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions: (B, A, T, D)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
