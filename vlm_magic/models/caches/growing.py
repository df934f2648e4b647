"""A KV cache with room behind what it holds: a step writes its own keys and values, and copies no others.

Knows tensors and transformers' cache classes. Neighbours: `prefix_cache` keeps such caches,
`decoding.step` and `decoding.shared_batch` fill them.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["GROWTH_TOKENS", "ConversationCache", "GrowingCache", "GrowingLayer", "with_room"]

GROWTH_TOKENS = 32  # room that the cache of a batch gets at a time
_CONVERSATION_TOKENS = 256  # the same for one conversation, whose answers follow each other


class GrowingLayer(DynamicLayer):
    """One layer: ``keys`` and ``values`` are the filled part of tensors that have room behind it."""

    growth_tokens = GROWTH_TOKENS
    keys: torch.Tensor
    values: torch.Tensor
    _room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add (B, A, T, D) keys and values; all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        n = self.get_seq_length()
        n_all = n + key_states.shape[-2]
        keys, values = self._room_for(n_all, key_states, value_states)
        keys[:, :, n:n_all] = key_states
        values[:, :, n:n_all] = value_states
        self.keys, self.values = keys[:, :, :n_all], values[:, :, :n_all]
        return self.keys, self.values

    def room(self, n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values with room for at least so many tokens, (B, A, R, D); what is held stands in them.

        After writing behind it, `hold` says how far.
        """
        n = self.get_seq_length()
        keys, values = room = self._room_for(n_tokens, self.keys, self.values)
        self.keys, self.values = keys[:, :, :n], values[:, :, :n]
        return room

    def hold(self, n_tokens: int) -> None:
        """Take the first tokens of the room for filled."""
        assert self._room is not None
        self.keys, self.values = (tensor[:, :, :n_tokens] for tensor in self._room)

    def leave_room(self) -> None:
        """Let go of the room where what is held does not stand in it any more."""
        if not self._is_in_room():
            self._room = None

    @property
    def n_bytes(self) -> int:
        """Bytes of the keys and values with the room behind them."""
        held = self._room if self._is_in_room() and self._room is not None else (self.keys, self.values)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def _is_in_room(self) -> bool:
        """Whether what is held still stands in the room: not after it was moved, picked or repeated."""
        room = self._room
        return (
            room is not None
            and self.keys.data_ptr() == room[0].data_ptr()
            and self.keys.shape[0] == room[0].shape[0]
            and self.keys.device == room[0].device
        )

    def _room_for(
        self, n_tokens: int, like_keys: torch.Tensor, like_values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        room = self._room
        if room is None or n_tokens > room[0].shape[-2] or not self._is_in_room() or _is_closed(room[0]):
            n, n_room = self.get_seq_length(), n_tokens + self.growth_tokens
            self._room = room = (
                with_room(self.keys, like_keys, n, n_room),
                with_room(self.values, like_values, n, n_room),
            )
        return room


class _ConversationLayer(GrowingLayer):
    growth_tokens = _CONVERSATION_TOKENS


class GrowingCache(DynamicCache):
    """A cache whose rows are written in place: a step copies its own keys and values, not all before it."""

    layer_class: type[GrowingLayer] = GrowingLayer

    def __init__(self) -> None:
        super().__init__()
        self.layer_class_to_replicate = self.layer_class

    def spread(self, cache: Any, n_rows: int) -> None:
        """Begin each of ``n_rows`` with what ``cache`` holds for one."""
        for index, layer in enumerate(cache.layers):
            self.update(layer.keys.expand(n_rows, -1, -1, -1), layer.values.expand(n_rows, -1, -1, -1), index)


class ConversationCache(GrowingCache):
    """One conversation's cache, with room for an answer of usual length behind its prompt."""

    layer_class = _ConversationLayer


def with_room(held: torch.Tensor, like: torch.Tensor, n: int, n_room: int) -> torch.Tensor:
    """A tensor of ``n_room`` tokens that begins with the ``n`` held ones, else as ``like``: (B, A, T, D)."""
    whole = like.new_empty((*like.shape[:2], n_room, like.shape[3]))
    if n:
        whole[:, :, :n] = held
    return whole


def _is_closed(tensor: torch.Tensor) -> bool:
    """Whether torch lets nobody write into it here: made in inference mode, and that mode is over."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()
