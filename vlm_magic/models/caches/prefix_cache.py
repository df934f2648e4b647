"""What a language model has computed already: KV caches of the beginnings of prompts.

A follow-up, a regenerate, an edit or a second question about the same picture shares the beginning
of its prompt with one that was answered before. `PrefixStore` keeps those beginnings by their tokens,
a picture's tokens being known by its content; bounded in bytes, least recently used first out. It
never changes an answer: what does not match token by token is computed again.

Knows caches and tensors, not prompts, families or generation. Neighbour: `reuse` puts it to work.

Source: transformers 5.23, ``cache_utils.py`` (``crop`` takes the negative number of tokens to
remove); layer lengths after an interrupted forward were measured to differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vlm_magic.models.caches.growing import ConversationCache, GrowingLayer

__all__ = [
    "Keys",
    "PrefixStore",
    "cache_bytes",
    "cache_length",
    "crop_cache",
    "keys_of",
]

Keys = npt.NDArray[np.int64]

# A longer tail than this is worth a copy, so that the conversation it belongs to can go on too.
_COPIED_TAIL_TOKENS = 64


def keys_of(ids: Sequence[int], spans: Sequence[tuple[int, int]], digests: Sequence[str]) -> Keys:
    """One number per token that is equal only where the model would compute the same.

    Args:
        ids: the prompt's tokens, T of them.
        spans: [start, end) of each picture.
        digests: the content of each picture, with whatever else its features depend on.

    Returns:
        (T,) int64: the token's id, or for a picture's token a negative number made from the picture.
    """
    keys = np.array(ids, dtype=np.int64)
    for (start, end), digest in zip(spans, digests, strict=True):
        seed = int.from_bytes(hashlib.blake2b(digest.encode(), digest_size=7).digest(), "big")  # 56 bits
        keys[start:end] = -1 - (seed + np.arange(end - start))
    return keys


def common_length(a: Keys, b: Keys) -> int:
    """How many keys two prompts share from the beginning."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def cache_length(cache: Any) -> int:
    """Tokens that every layer *of the cache* holds: fewer than some do after an interrupted forward.

    A cache that began empty gets a layer when the model first reaches it, so of a first forward that was cut
    short this says nothing: see `PrefixStore.put`.
    """
    return min((int(layer.get_seq_length()) for layer in _filled(cache)), default=0)


def _filled(cache: Any) -> list[Any]:
    """The layers with keys and values of their own; some models share those of earlier layers."""
    return [layer for layer in cache.layers if layer.is_initialized]


def crop_cache(cache: Any, n_tokens: int) -> None:
    """Cut every layer to its first ``n_tokens``, also where the layers' lengths differ."""
    for layer in _filled(cache):
        n_surplus = int(layer.get_seq_length()) - n_tokens
        if n_surplus > 0:
            layer.crop(-n_surplus)


def cache_bytes(cache: Any) -> int:
    """Bytes of a cache's keys and values, the room behind them included."""
    return sum(map(_layer_bytes, cache.layers))


def _layer_bytes(layer: Any) -> int:
    if isinstance(layer, GrowingLayer) and layer.is_initialized:
        return layer.n_bytes
    held = (tensor for tensor in (layer.keys, layer.values) if isinstance(tensor, torch.Tensor))
    return sum(tensor.numel() * tensor.element_size() for tensor in held)


def copy_cache(cache: Any, n_tokens: int) -> Any:
    """A new cache with the first ``n_tokens`` of ``cache``; the original stays as it is."""
    copied = ConversationCache()
    for index, layer in enumerate(cache.layers):
        if not layer.is_initialized:
            continue
        copied.update(  # which copies into its own room
            layer.keys[:, :, :n_tokens].to(layer.device),  # (B, A, T, D)
            layer.values[:, :, :n_tokens].to(layer.device),
            index,
        )
    return copied


def move_cache(cache: Any, device: str | None = None) -> None:
    """Move every layer's keys and values to a device, or back to where the model computed them."""
    for layer in _filled(cache):
        target = layer.device if device is None else device
        layer.keys, layer.values = layer.keys.to(target), layer.values.to(target)
        if isinstance(layer, GrowingLayer):
            layer.leave_room()


@dataclass(eq=False)
class _Prefix:
    keys: Keys
    cache: Any
    n_bytes: int
    is_parked: bool = False


class PrefixStore:
    """KV caches of earlier prompts with their answers.

    Args:
        max_bytes: what they may hold together on the model's device; the least recently used leave first.
        parked_bytes: what those that left may hold together in the CPU's memory, to be moved back when they
            are of use; 0 where the model is on the CPU itself.
    """

    def __init__(self, max_bytes: int, parked_bytes: int = 0) -> None:
        self.max_bytes = max_bytes
        self.parked_bytes = parked_bytes
        self._prefixes: list[_Prefix] = []  # the least recently used first

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def n_bytes(self) -> int:
        """What the caches hold now, on the device and parked."""
        return sum(prefix.n_bytes for prefix in self._prefixes)

    @property
    def n_parked_bytes(self) -> int:
        """What is parked in the CPU's memory."""
        return sum(prefix.n_bytes for prefix in self._prefixes if prefix.is_parked)

    def take(self, keys: Keys, spans: Sequence[tuple[int, int]] = ()) -> tuple[Any, int]:
        """A cache for the beginning of this prompt, to be filled by the caller, and its length.

        Never the whole prompt: its last token is computed in any case, for its logits. Never a part
        of a picture: the reuse goes back to the picture's first token.

        Returns:
            The cache (empty where nothing matched) and the number of tokens in it.
        """
        best, n = None, 0
        for prefix in self._prefixes:
            shared = common_length(prefix.keys, keys)
            if shared > n:
                best, n = prefix, shared
        n = min(n, len(keys) - 1)
        n = min([n, *(start for start, end in spans if start < n < end)])
        if best is None or n < 1:
            return ConversationCache(), 0
        self._prefixes.remove(best)
        if len(best.keys) - n > _COPIED_TAIL_TOKENS:
            self._prefixes.append(best)
            return copy_cache(best.cache, n), n
        crop_cache(best.cache, n)
        if best.is_parked:
            move_cache(best.cache)
        return best.cache, n

    def put(self, keys: Keys, cache: Any, n_whole: int) -> None:
        """Keep a cache whose tokens are the first of ``keys``; what lies behind ``n_whole`` is cut off.

        Args:
            keys: what the tokens are known by, (T,).
            cache: the cache.
            n_whole: tokens that all layers *of the model* are known to hold. The cache cannot tell: after a
                first forward that was left half-way, layers that were not reached are missing in it.
        """
        n = min(n_whole, cache_length(cache), len(keys))
        if n == 0:
            return
        crop_cache(cache, n)
        n_bytes = cache_bytes(cache)
        if n_bytes > self.max_bytes:
            return
        keys = keys[:n].copy()
        # A beginning of what is kept anyway is of no use beside it.
        self._prefixes = [p for p in self._prefixes if common_length(p.keys, keys) < len(p.keys)]
        self._prefixes.append(_Prefix(keys, cache, n_bytes))
        self._make_room()

    def _make_room(self) -> None:
        """Park the least recently used, and drop the least recently used of those that are parked."""
        while self.n_bytes - self.n_parked_bytes > self.max_bytes:
            oldest = next(prefix for prefix in self._prefixes if not prefix.is_parked)
            if oldest.n_bytes > self.parked_bytes:
                self._prefixes.remove(oldest)
                continue
            move_cache(oldest.cache, "cpu")
            oldest.is_parked = True
        while self.n_parked_bytes > self.parked_bytes:
            self._prefixes.remove(next(prefix for prefix in self._prefixes if prefix.is_parked))

    def clear(self) -> int:
        """Forget all; the bytes that were held."""
        n_bytes = self.n_bytes
        self._prefixes.clear()
        return n_bytes
