"""Pay only for what is new: a prompt's inputs, less what the model has computed before.

Each resident model has one `Reuse`. `Reuse.prepare` makes a prompt without processing known pictures
again; `Reuse.fit` finds its longest beginning in the KV store, has the new pictures looked at, and
gives `generate` the rest to do; `Reuse.keep` puts the grown cache back. What a family can do is its
row's word ``reuse``; where it says "none" everything is computed again, and the reply says that
nothing was reused. A change of the weights, the adapters or the processor's settings empties the stores.

Knows prepared prompts and models, not conversations or generation's settings. Neighbours: `prefix`
holds the caches, `looks` the pictures (`crossing` those that stand beside the text), `state` tells changes,
`engine` calls.

Source: transformers 5.23: given features stand in for ``pixel_values`` in ``forward``, those of the
pictures that are not in the cache; M-RoPE models keep ``rope_deltas`` from one prompt to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlm_magic.messages import Picture, Settings, Turn
from vlm_magic.models import families, memory
from vlm_magic.models.crossing import CrossLooks
from vlm_magic.models.families import Prepared
from vlm_magic.models.loading import Loaded
from vlm_magic.models.looks import Looks
from vlm_magic.models.prefix import Keys, PrefixStore, keys_of
from vlm_magic.models.state import state_of
from vlm_magic.models.threads import has_idle_core

__all__ = ["Fitted", "Reuse", "digest_of", "forget_positions"]

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
    """

    inputs: dict[str, Any]
    n_reused: int = 0
    cache: Any = None
    keys: Keys | None = None


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
        self.looks = (CrossLooks if is_across else Looks)(loaded, max_bytes // 4)
        self._is_able = loaded.family.reuse != "none"
        self._proved: set[bool] = set()  # for prompts with one picture, and with several
        self._state: tuple[object, ...] | None = None  # of the model, when the stores were filled

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
        return self.prefixes.n_bytes + self.looks.n_bytes

    def clear(self) -> int:
        """Empty the stores; the bytes that they held."""
        return self.prefixes.clear() + self.looks.clear()

    def prepare(self, turns: Sequence[Turn], settings: Settings) -> Prepared:
        """A prompt's inputs; known pictures are neither resized nor cut up again.

        The first prompt with one picture and the first with several are made both ways: a
        processor that joins pictures in a way of its own is then left to do so.
        """
        pictures = [picture for turn in turns for picture in turn.pictures]
        self._follow_changes()
        if not self._is_able:
            return families.prepare(self._loaded, turns, settings)
        self.looks.expect([digest_of(picture) for picture in pictures])
        prepared = families.prepare(self._loaded, turns, settings, self.looks.process)
        is_several = len(pictures) > 1
        if pictures and is_several not in self._proved:
            plain = families.prepare(self._loaded, turns, settings)
            if not torch.equal(plain.inputs["input_ids"], prepared.inputs["input_ids"]):
                self._is_able = False
                self.clear()
                return plain
            self._proved.add(is_several)
        return prepared

    def _follow_changes(self) -> None:
        """Forget all when weights, adapters or the processor's settings have changed."""
        state = state_of(self._loaded)
        if self._state not in (None, state):
            self.clear()
            self._proved.clear()
            self._is_able = self._loaded.family.reuse != "none"
        self._state = state

    def look_ahead(self, pictures: Sequence[Picture], *, is_beside: bool = False) -> None:
        """Have pictures processed that coming prompts hold; safe from any thread.

        Args:
            pictures: of those prompts.
            is_beside: whether this thread is not the model's own; the vision tower may then look at them,
                where a core is idle.
        """
        if self._is_able and self._proved and self._loaded.family.reuse == "features":
            images = {digest_of(picture): picture.rgb for picture in pictures}
            self.looks.look_ahead(images, and_encode=is_beside and has_idle_core(self._loaded))

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
        digests = [digest_of(picture) for picture in pictures]
        fitted = Fitted(inputs)
        if use_cache:
            fitted.keys = keys_of(inputs["input_ids"][0].tolist(), prepared.picture_spans, digests)
            fitted.cache, fitted.n_reused = self.prefixes.take(fitted.keys, prepared.picture_spans)
            inputs["past_key_values"] = fitted.cache
        try:
            inputs |= self.looks.inputs(digests, prepared.picture_spans, fitted.n_reused, inputs)
        except BaseException:  # a stop while a picture was looked at: the cache is whole, so keep it
            self.keep(fitted, ())
            raise
        self.looks.tidy()
        return fitted

    def keep(self, fitted: Fitted, new_ids: Sequence[int]) -> None:
        """Put the cache back, grown by the answer; also after a stop, whatever state it was left in."""
        if fitted.cache is not None and fitted.keys is not None:
            self.prefixes.put(keys_of([*fitted.keys.tolist(), *new_ids], (), ()), fitted.cache)


def _share_of(device: str) -> int:
    """Bytes of a device's free memory that stores may take."""
    share = int(memory.free_bytes(device) * _STORE_SHARE)
    return max(_STORE_MIN_BYTES, min(share, _STORE_MAX_BYTES))


def digest_of(picture: Picture) -> str:
    """A picture's content, also for one that was not made by `inputs`."""
    if picture.digest:
        return picture.digest
    image = picture.rgb
    return hashlib.blake2b(image.tobytes() + repr(image.size).encode(), digest_size=16).hexdigest()


def forget_positions(model: Any) -> None:
    """M-RoPE models take the position offset of the prompt before for this one's, unless it is gone."""
    for module in (model, getattr(model, "model", None)):
        if module is not None and getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None
