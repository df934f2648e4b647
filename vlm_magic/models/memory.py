"""What a model holds, what there is, what it will need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["real_bytes"]


def real_bytes(model: Any) -> int:
    """Bytes of all tensors of a model, shared ones once, quantised ones as they are stored."""
    seen: dict[int, int] = {}
    for tensor in _tensors(model):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _tensors(model: Any) -> Iterator[Any]:
    for tensor in [*model.parameters(), *model.buffers()]:
        yield from _inner(tensor)


def _inner(tensor: Any) -> Iterator[Any]:
    """A plain tensor itself; the parts of a tensor subclass such as Quanto's."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _inner(getattr(tensor, name))
    else:
        yield tensor
