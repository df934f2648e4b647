"""One decode step with torch's operations alone: on any device, in any numbers, quantised and adapted too.

Knows a `Blueprint` and the rooms of a cache. Neighbours: `kernel` does the same with its own arithmetic,
`recorded` has it recorded, `positions` has the angles.

Source: the norms round where transformers' own do, so that low precision says what ``generate`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn import functional

from vlm_magic.models.decoding.step.blueprint import Blueprint, Layer, Norm
from vlm_magic.models.decoding.step.positions import Angles

__all__ = ["EagerStep", "Place", "Rooms", "apart", "linear_of"]

Rooms = Sequence[tuple[torch.Tensor, torch.Tensor]]
_Map = Callable[[torch.Tensor], torch.Tensor]


class Place(Protocol):
    """Where in the rooms of a cache new tokens stand, and what they see of it."""

    def put(self, room: torch.Tensor, new: torch.Tensor) -> None:
        """Write keys or values, (B, A, T, D), into a room, (B, A, R, D)."""

    def seen(
        self, room: tuple[torch.Tensor, torch.Tensor], window: int | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The keys and values, (B, A, n, D), that a layer of this window looks at.

        And which token sees which, (T, n) or (B, 1, 1, n); None for all.
        """


class EagerStep:
    """A decoder's step.

    Args:
        blueprint: what it is made of.
    """

    way = "eager"

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
        return self.at(ids, angles, rooms, _Behind(n_before, ids.shape[1], None))[0]

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
        columns = torch.arange(n_before + 1, device=ids.device)
        seen = (columns < gaps[:, :1]) | (columns >= gaps[:, 1:])  # (B, n)
        is_padded = bool((gaps[:, 1] > gaps[:, 0]).any())
        place = _Behind(n_before, 1, seen[:, None, None] if is_padded else None)
        return self.at(ids, apart(angles), rooms, place)[:, 0]

    def at(self, ids: torch.Tensor, angles: Angles, rooms: Rooms, place: Place) -> torch.Tensor:
        """The logits, (B, T, V), after tokens, (B, T), that stand at a place of the rooms."""
        hidden = self._blueprint.embed(ids)  # (B, T, C)
        for layer, room in zip(self._layers, rooms, strict=True):
            hidden = layer(hidden, angles, room, place)
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
        self, hidden: torch.Tensor, angles: Angles, room: tuple[torch.Tensor, torch.Tensor], place: Place
    ) -> torch.Tensor:
        attended = self._o(self._attend(self._before(hidden), angles, room, place))
        hidden = hidden + (attended if self._after is None else self._after(attended))
        x = self._between(hidden)
        gated = self._down(self._activation(self._gate(x)) * self._up(x))
        return hidden + (gated if self._last is None else self._last(gated))

    def _attend(
        self, x: torch.Tensor, angles: Angles, room: tuple[torch.Tensor, torch.Tensor], place: Place
    ) -> torch.Tensor:
        n_rows, n_new, width = *x.shape[:2], self._head_dim
        q = self._q(x).view(n_rows, n_new, -1, width)
        k = self._k(x).view(n_rows, n_new, -1, width)
        v = self._v(x).view(n_rows, n_new, -1, width)
        q = q if self._q_norm is None else self._q_norm(q)
        k = k if self._k_norm is None else self._k_norm(k)
        cos, sin = angles[self._layer.rope]
        q = _turned(q.transpose(1, 2), cos, sin)  # (B, A, T, D)
        place.put(room[0], _turned(k.transpose(1, 2), cos, sin))
        place.put(room[1], v.transpose(1, 2))
        keys, values, mask = place.seen(room, self._layer.window)  # (B, A', n, D): heads may share one's keys
        n_shared = q.shape[1] // keys.shape[1]
        q = q.reshape(n_rows, keys.shape[1], n_shared * n_new, width)
        if mask is not None and mask.dim() == 2:
            mask = mask.repeat(n_shared, 1)
        out = functional.scaled_dot_product_attention(q, keys, values, mask, scale=self._layer.scale)
        return out.view(n_rows, -1, n_new, width).transpose(1, 2).reshape(n_rows, n_new, -1)


class _Behind:
    """Right behind what a cache holds.

    Args:
        n_before: columns that it holds.
        n_new: columns that are added.
        shown: columns of each row that are no padding, (B, 1, 1, n); None for all.
    """

    def __init__(self, n_before: int, n_new: int, shown: torch.Tensor | None) -> None:
        self._n_before, self._n_all = n_before, n_before + n_new
        self._shown = shown

    def put(self, room: torch.Tensor, new: torch.Tensor) -> None:
        room[:, :, self._n_before : self._n_all] = new

    def seen(
        self, room: tuple[torch.Tensor, torch.Tensor], window: int | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        start = 0 if window is None else max(0, self._n_before + 1 - window)
        keys, values = (tensor[:, :, start : self._n_all] for tensor in room)
        if self._shown is not None:
            return keys, values, self._shown[..., start:]
        return keys, values, self._order(start, window, keys.device)

    def _order(self, start: int, window: int | None, device: torch.device) -> torch.Tensor | None:
        """Which of the new tokens sees which, (T, n); None for all."""
        if self._n_all - self._n_before == 1:
            return None
        at = torch.arange(self._n_before, self._n_all, device=device)[:, None]
        other = torch.arange(start, self._n_all, device=device)
        order = other <= at
        return order if window is None else order & (other > at - window)


def apart(angles: Angles) -> Angles:
    """Angles of one token of each row, (B, D), for all of its heads: (B, 1, 1, D)."""
    return {kind: (cos[:, None, None], sin[:, None, None]) for kind, (cos, sin) in angles.items()}


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
