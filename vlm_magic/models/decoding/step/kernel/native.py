"""One decode step by the kernel in ``kernel.cpp``, on a CPU: the arithmetic of `eager`, at memory's speed.

Fills the kernel's records with the addresses of the model's own tensors. That is done anew for every
answer, and the tensors are held as long: what was replaced or unloaded before is never read. All sizes are
checked here, for the kernel checks none.

Knows a `Blueprint` and the rooms of a cache. Neighbours: `compiler` builds the kernel, `eager` does without.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from vlm_magic.models.decoding.step.blueprint import Blueprint, Layer, Norm
from vlm_magic.models.decoding.step.eager import Rooms
from vlm_magic.models.decoding.step.kernel.whole_numbers import eight_bits_of
from vlm_magic.models.decoding.step.positions import Angles

__all__ = ["MOST_TOKENS", "NativeStep", "is_right_size", "native_step"]

MOST_TOKENS = 8  # of a step of one conversation
_KINDS = {torch.float32: 0, torch.bfloat16: 1}
_INT8 = 2
_MOST_ROPES = 2


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("factor", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("rows", ctypes.c_int32),
        ("cols", ctypes.c_int32),
        ("kind", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )


_MAPS = ("q", "k", "v", "o", "gate", "up", "down")
_NORMS = ("before", "between", "q_norm", "k_norm", "after", "last")


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in _MAPS),
        *((name, ctypes.c_void_p) for name in _NORMS),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("window", ctypes.c_int32),
        ("rope", ctypes.c_int32),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("layers", ctypes.POINTER(_Layer)),
        ("head", _Linear),
        ("norm", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("n_layers", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("n_heads", ctypes.c_int32),
        ("n_shared_heads", ctypes.c_int32),
        ("head_width", ctypes.c_int32),
        ("activation", ctypes.c_int32),
        ("cache_kind", ctypes.c_int32),
        ("room", ctypes.c_int64),
        ("scratch", ctypes.c_void_p),
        ("cos", ctypes.c_void_p * _MOST_ROPES),
        ("sin", ctypes.c_void_p * _MOST_ROPES),
        ("n_threads", ctypes.c_int32),
    )


def is_right_size(library: Any) -> bool:
    """Whether a kernel was built from records of the same sizes as these."""
    sizes = [ctypes.c_int32() for _ in range(3)]
    n_tokens = library.vlm_sizes(*map(ctypes.byref, sizes))
    own = [ctypes.sizeof(kind) for kind in (_Linear, _Layer, _Model)]
    return n_tokens == MOST_TOKENS and [size.value for size in sizes] == own


class _Unsuited(Exception):  # noqa: N818, it never leaves this module
    """Something that the kernel does not do."""


def native_step(blueprint: Blueprint) -> NativeStep | None:
    """A decoder's step by the kernel; None where it does not do what this decoder needs."""
    try:
        return NativeStep(blueprint)
    except _Unsuited:
        return None


class NativeStep:
    """A decoder's step by the kernel.

    Args:
        blueprint: what the decoder is made of.
    """

    way = "native"

    def __init__(self, blueprint: Blueprint) -> None:
        if blueprint.device.type != "cpu" or blueprint.dtype not in _KINDS:
            raise _Unsuited
        self._blueprint = blueprint
        self._library: Any = None
        self._held: list[torch.Tensor] = []  # what the records point to
        self._rooms: Rooms = ()
        ropes = list(dict.fromkeys(layer.rope for layer in blueprint.layers))
        if len(ropes) > _MOST_ROPES:
            raise _Unsuited
        self._ropes = ropes
        first = blueprint.layers[0]
        self._width = blueprint.norm.weight.shape[0]
        self._n_heads = _sizes(first.q)[0] // blueprint.head_dim
        self._n_shared = _sizes(first.k)[0] // blueprint.head_dim
        self._inner = _sizes(first.gate)[0]
        self._eps = blueprint.norm.eps
        self._check_heads()
        self._layers = (_Layer * len(blueprint.layers))(*map(self._layer, blueprint.layers))
        self._model = self._record(_activation_of(blueprint))
        self._n_logits = int(self._model.head.rows)

    def find(self, library: Any) -> bool:
        """Take the kernel, loaded; whether it is there."""
        self._library = library
        return library is not None

    def __call__(self, ids: torch.Tensor, n_before: int, angles: Angles, rooms: Rooms) -> torch.Tensor:
        """As `EagerStep`; (T, V) float32."""
        if ids.shape[1] > MOST_TOKENS:
            raise ValueError(f"{ids.shape[1]} tokens in one step")
        if rooms is not self._rooms:
            self._enter(rooms, 1)
        return self._step(self._blueprint.embed(ids)[0], n_before, angles, None)

    def rows(
        self, ids: torch.Tensor, n_before: int, angles: Angles, rooms: Rooms, gaps: torch.Tensor
    ) -> torch.Tensor:
        """As `EagerStep.rows`; (B, V) float32."""
        if rooms is not self._rooms:
            self._enter(rooms, ids.shape[0])
        if gaps.shape != (ids.shape[0], 2) or gaps.dtype != torch.int32 or not gaps.is_contiguous():
            raise ValueError("gaps are a pair of int32 for each row")
        return self._step(self._blueprint.embed(ids)[:, 0], n_before, angles, gaps)

    def _step(
        self, hidden: torch.Tensor, n_before: int, angles: Angles, gaps: torch.Tensor | None
    ) -> torch.Tensor:
        """From token vectors, (T, C), to logits, (T, V) float32."""
        n_new = hidden.shape[0]
        hidden = hidden.to(torch.float32).contiguous()  # spoilt by the kernel
        turned = [[tensor.to(torch.float32).contiguous() for tensor in angles[rope]] for rope in self._ropes]
        for at, (cos, sin) in enumerate(turned):
            self._model.cos[at], self._model.sin[at] = cos.data_ptr(), sin.data_ptr()
        logits = torch.empty(n_new, self._n_logits)
        self._model.n_threads = min(self._model.n_threads, torch.get_num_threads())  # scratch is for so many
        failed = self._library.vlm_step(
            ctypes.byref(self._model),
            ctypes.c_void_p(hidden.data_ptr()),
            n_before,
            n_new,
            self._inner,
            None if gaps is None else ctypes.c_void_p(gaps.data_ptr()),
            ctypes.c_void_p(logits.data_ptr()),
        )
        if failed:
            raise ValueError(f"no room for {n_new} tokens behind {n_before}")
        cap = self._blueprint.softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    # What the records hold

    def _check_heads(self) -> None:
        if not self._n_shared or self._n_heads % self._n_shared or self._blueprint.head_dim % 2:
            raise _Unsuited

    def _record(self, activation: int) -> _Model:
        blueprint = self._blueprint
        model = _Model()
        model.layers = ctypes.cast(self._layers, ctypes.POINTER(_Layer))
        model.head = self._linear(blueprint.head, None, self._width)
        model.norm = self._norm(blueprint.norm, self._width)
        model.eps = self._eps
        model.n_layers, model.width = len(blueprint.layers), self._width
        model.n_heads, model.n_shared_heads = self._n_heads, self._n_shared
        model.head_width, model.activation = blueprint.head_dim, activation
        model.cache_kind = _KINDS[blueprint.dtype]
        return model

    def _layer(self, layer: Layer) -> _Layer:
        record, width, inner = _Layer(), self._width, self._inner
        own, shared = self._n_heads * self._blueprint.head_dim, self._n_shared * self._blueprint.head_dim
        shapes = {"q": (own, width), "k": (shared, width), "v": (shared, width), "o": (width, own)}
        shapes |= {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
        for name in _MAPS:
            setattr(record, name, self._linear(getattr(layer, name), *shapes[name]))
        for name in _NORMS:
            norm = getattr(layer, name)
            size = self._blueprint.head_dim if name in ("q_norm", "k_norm") else width
            setattr(record, name, None if norm is None else self._norm(norm, size))
        record.scale, record.window = layer.scale, layer.window or 0
        record.rope = self._ropes.index(layer.rope)
        return record

    def _linear(self, module: Any, n_rows: int | None, n_cols: int) -> _Linear:
        weight, factor = _weight_of(module)
        if weight.dim() != 2 or weight.shape[1] != n_cols or n_rows not in (None, weight.shape[0]):
            raise _Unsuited
        kind = _INT8 if factor is not None else _KINDS.get(weight.dtype)
        if kind is None or not weight.is_contiguous() or weight.device.type != "cpu":
            raise _Unsuited
        bias = getattr(module, "bias", None)
        return _Linear(
            self._hold(weight),
            None if factor is None else self._hold(_plain(factor, weight.shape[0])),
            None if bias is None else self._hold(_plain(bias, weight.shape[0])),
            weight.shape[0],
            weight.shape[1],
            kind,
            0,
        )

    def _norm(self, norm: Norm, size: int) -> int:
        if norm.eps != self._eps:
            raise _Unsuited
        weight = _plain(norm.weight, size)
        return self._hold(weight + norm.offset if norm.offset else weight)

    def _hold(self, tensor: torch.Tensor) -> int:
        self._held.append(tensor)
        return tensor.data_ptr()

    def _enter(self, rooms: Rooms, n_rows: int) -> None:
        """Take the addresses of other rooms."""
        first = rooms[0][0]
        shape = (n_rows, self._n_shared, first.shape[2], self._blueprint.head_dim)
        for tensor in (tensor for room in rooms for tensor in room):
            is_fit = tensor.shape == shape and tensor.dtype == self._blueprint.dtype
            if not is_fit or not tensor.is_contiguous() or tensor.device.type != "cpu":
                raise RuntimeError("the cache has another form than the kernel takes")
        for record, (keys, values) in zip(self._layers, rooms, strict=True):
            record.keys, record.values = keys.data_ptr(), values.data_ptr()
        self._model.room = first.shape[2]
        self._model.n_threads = torch.get_num_threads()
        most = max(MOST_TOKENS, n_rows)
        n_floats = self._library.vlm_scratch(ctypes.byref(self._model), self._inner, most)
        self._scratch = torch.empty(n_floats)
        self._model.scratch = self._scratch.data_ptr()
        self._rooms = rooms


def _weight_of(module: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A linear module's weight, (O, I), and the factor of each row where it is of 8-bit integers."""
    if type(module) is torch.nn.Linear and type(module.weight) is torch.nn.Parameter:
        return module.weight.detach(), None
    found = eight_bits_of(module)
    if found is None:
        raise _Unsuited
    return found


def _sizes(module: Any) -> tuple[int, ...]:
    return tuple(_weight_of(module)[0].shape)


def _plain(tensor: torch.Tensor, size: int) -> torch.Tensor:
    """One float32 number for each of ``size`` rows."""
    tensor = tensor.detach().reshape(-1)
    if tensor.shape[0] != size or tensor.device.type != "cpu":
        raise _Unsuited
    return tensor.to(torch.float32).contiguous()


def _activation_of(blueprint: Blueprint) -> int:
    """0 for SiLU, 1 for the GELU with a hyperbolic tangent."""
    names = {type(layer.activation).__name__ for layer in blueprint.layers}
    for number, known in enumerate(({"SiLU", "SiLUActivation"}, {"GELUTanh"})):
        if names <= known:
            return number
    raise _Unsuited
