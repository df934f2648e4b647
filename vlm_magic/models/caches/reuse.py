"""Pay only for what is new: a prompt's inputs, less what the model has computed before.

Each resident model has one `Reuse`. `Reuse.prepare` makes a prompt without processing known pictures
again; `Reuse.fit` finds its longest beginning in the KV store, has the new pictures encoded, and
gives `generate` the rest to do; `Reuse.filling` puts the grown cache back. What a family can do is its
row's word ``reuse``; where it says "none" everything is computed again, and the reply says that
nothing was reused. A change of the weights, the adapters or the processor's settings empties the stores.

Knows prepared prompts and models, not conversations or generation's settings. Neighbours:
`prefix_cache` holds the caches, `vision_cache` the pictures (`cross_attention` those that stand beside the
text), `fingerprint` tells changes, `engine` calls.

Source: transformers 5.23: given features stand in for ``pixel_values`` in ``forward``, those of the
pictures that are not in the cache; M-RoPE models keep ``rope_deltas`` from one prompt to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from vlm_magic.messages import Picture, Settings, Turn
from vlm_magic.models import memory
from vlm_magic.models.caches.cross_attention import CrossAttentionCache
from vlm_magic.models.caches.fingerprint import fingerprint_of
from vlm_magic.models.caches.prefix_cache import Keys, PrefixStore, cache_length, keys_of
from vlm_magic.models.caches.vision_cache import VisionCache, key_of
from vlm_magic.models.cpu_threads import has_idle_core
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.work_queue import Stopped

__all__ = ["Fitted", "Reuse", "forget_positions"]

_STORE_SHARE = 0.2  # of the memory that is free when the model is loaded
_STORE_MIN_BYTES = 64 * 2**20
_STORE_MAX_BYTES = 4 * 2**30


@dataclass
class Fitted:
    """A prompt as `generate` gets it.

    Attributes:
        inputs: tensors on the model's device, ``past_key_values`` and ``mm_encoder_outputs`` among them.
        n_reused: tokens whose keys and values were there.
        cache: the cache that generation fills, or None where none is kept.
        keys: what the prompt's tokens are known by, (T,).
        n_whole: tokens that every layer is known to hold: the reused ones, and those of forwards that ended.
    """

    inputs: dict[str, Any]
    n_reused: int = 0
    cache: Any = None
    keys: Keys | None = None
    n_whole: int = field(init=False)

    def __post_init__(self) -> None:
        self.n_whole = self.n_reused


class Reuse:
    """The stores of one model.

    Args:
        loaded: the model.
        max_bytes: for caches and pictures together; a share of the device's free memory if not given. As
            much of the CPU's is for caches that had to leave another device.
    """

    def __init__(self, loaded: Loaded, max_bytes: int | None = None) -> None:
        if max_bytes is None:
            max_bytes = _share_of(loaded.device)
        self._loaded = loaded
        is_beside = loaded.device not in ("cpu", "mps")  # which share the CPU's memory
        self.prefixes = PrefixStore(max_bytes * 3 // 4, _share_of("cpu") if is_beside else 0)
        is_across = loaded.family.reuse == "across"
        self.vision_cache = (CrossAttentionCache if is_across else VisionCache)(loaded, max_bytes // 4)
        self._is_able = loaded.family.reuse != "none"
        self._proved: set[bool] = set()  # for prompts with one picture, and with several
        self._fingerprint: tuple[object, ...] | None = None  # of the model, when the stores were filled

    def emptied(self) -> Reuse:
        """Another one for the same model, with nothing in it, that need not prove again what this one has."""
        other = Reuse(self._loaded)
        other._is_able, other._proved = self._is_able, self._proved
        return other

    @property
    def is_able(self) -> bool:
        """Whether anything is reused with this model."""
        return self._is_able

    @property
    def n_bytes(self) -> int:
        """What the stores hold now."""
        return self.prefixes.n_bytes + self.vision_cache.n_bytes

    def clear(self) -> int:
        """Empty the stores; the bytes that they held."""
        return self.prefixes.clear() + self.vision_cache.clear()

    def prepare(self, turns: Sequence[Turn], settings: Settings) -> Prepared:
        """A prompt's inputs; known pictures are neither resized nor cut up again.

        The first prompt with one picture and the first with several are made both ways: a
        processor that joins pictures in a way of its own is then left to do so.
        """
        pictures = [picture for turn in turns for picture in turn.pictures]
        self._follow_changes()
        if not self._is_able:
            return prepare(self._loaded, turns, settings)
        prepared = prepare(self._loaded, turns, settings, self.vision_cache.process)
        is_several = len(pictures) > 1
        if pictures and is_several not in self._proved:
            plain = prepare(self._loaded, turns, settings)
            if not torch.equal(plain.inputs["input_ids"], prepared.inputs["input_ids"]):
                self._is_able = False
                self.clear()
                return plain
            self._proved.add(is_several)
        return prepared

    def _follow_changes(self) -> None:
        """Forget all when weights, adapters or the processor's settings have changed."""
        fingerprint = fingerprint_of(self._loaded)
        if self._fingerprint not in (None, fingerprint):
            self.clear()
            self._proved.clear()
            self._is_able = self._loaded.family.reuse != "none"
        self._fingerprint = fingerprint

    def look_ahead(self, pictures: Sequence[Picture], *, is_beside: bool = False) -> None:
        """Have pictures processed that coming prompts hold; safe from any thread.

        Args:
            pictures: of those prompts.
            is_beside: whether this thread is not the model's own; the vision tower may then encode them,
                where a core is idle.
        """
        if self._is_able and self._proved and self._loaded.family.reuse == "features":
            by_key = {key_of(picture): picture for picture in pictures}
            self.vision_cache.look_ahead(by_key, and_encode=is_beside and has_idle_core(self._loaded))

    def fit(self, prepared: Prepared, pictures: Sequence[Picture], *, use_cache: bool = True) -> Fitted:
        """The inputs for `generate`, less what is known.

        Args:
            prepared: from `prepare`.
            pictures: all its pictures, in order.
            use_cache: False computes all tokens again (beams reorder their caches).
        """
        forget_positions(self._loaded.model)
        inputs: dict[str, Any] = memory.to_device(prepared.inputs, self._loaded)
        if not self._is_able:
            return Fitted(inputs)
        digests = [key_of(picture) for picture in pictures]
        fitted = Fitted(inputs)
        if use_cache:
            keys = keys_of(inputs["input_ids"][0].tolist(), prepared.picture_spans, digests)
            cache, n_reused = self.prefixes.take(keys, prepared.picture_spans)
            inputs["past_key_values"] = cache
            fitted = Fitted(inputs, n_reused, cache, keys)
        try:
            inputs |= self.vision_cache.inputs(digests, prepared.picture_spans, fitted.n_reused, inputs)
        except Stopped:  # while a picture was encoded; nothing was added to the cache
            self._keep(fitted, ())
            raise
        self.vision_cache.tidy()
        return fitted

    @contextmanager
    def filling(self, fitted: Fitted, new_ids: Sequence[int] = ()) -> Iterator[None]:
        """While the model fills a prompt's cache; afterwards it is kept, as far as it is known to be whole.

        Known is what forwards held that went through all layers. After a stop the rest is cut off; after an
        error nothing is kept, for nobody can say what state it was left in.

        Args:
            fitted: from `fit`.
            new_ids: tokens of the answer, which a list may still get within the block.
        """
        if fitted.cache is None:
            yield
            return

        def note(*_: Any) -> None:
            fitted.n_whole = cache_length(fitted.cache)

        whole_forwards = self._loaded.model.register_forward_hook(note)
        try:
            yield
        except Stopped:
            self._keep(fitted, new_ids)
            raise
        finally:
            whole_forwards.remove()
        self._keep(fitted, new_ids)

    def _keep(self, fitted: Fitted, new_ids: Sequence[int]) -> None:
        if fitted.cache is not None and fitted.keys is not None:
            keys = keys_of([*fitted.keys.tolist(), *new_ids], (), ())
            self.prefixes.put(keys, fitted.cache, fitted.n_whole)


def _share_of(device: str) -> int:
    """Bytes of a device's free memory that stores may take."""
    share = int(memory.free_bytes(device) * _STORE_SHARE)
    return max(_STORE_MIN_BYTES, min(share, _STORE_MAX_BYTES))


def forget_positions(model: Any) -> None:
    """M-RoPE models take the position offset of the prompt before for this one's, unless it is gone."""
    for module in (model, getattr(model, "model", None)):
        if module is not None and getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None
