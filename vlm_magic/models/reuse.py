"""Pay only for what is new: a prompt's inputs, less what the model has computed before.

Each resident model has one `Reuse`. `Reuse.fit` finds the longest beginning of a prompt that is in
the KV store, takes features of known pictures from the feature store, looks at the new pictures one
by one, and gives `generate` the rest to do; `Reuse.keep` puts the grown cache back. What a family
can do is its row's word `reuse`; where it says "none" everything is computed again, and the reply
says that nothing was reused.

Knows prepared prompts and models, not conversations or generation's settings. Neighbours: `prefix`
holds the stores, `families` prepares, `engine` calls.

Source: transformers 5.23. ``mm_encoder_outputs`` in the ``forward`` of the models' classes: given
features stand in for ``pixel_values``, and only those of pictures that are not in the cache yet.
M-RoPE models keep ``rope_deltas`` on the model from one prompt to the next.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlm_magic.messages import Picture, Settings, Turn
from vlm_magic.models import families, memory
from vlm_magic.models.families import Prepared
from vlm_magic.models.loading import Loaded
from vlm_magic.models.prefix import Features, FeatureStore, Keys, PrefixStore, keys_of

__all__ = ["Fitted", "Reuse", "digest_of"]

# What of a processor's answer belongs to the text; the rest belongs to the pictures.
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids"}
# Belongs to all pictures of the prompt even where their pixels are not needed any more.
_ALWAYS_NEEDED = {"image_grid_thw"}
_STORE_SHARE = 0.2  # of the memory that is free when the model is loaded
_STORE_MIN_BYTES = 64 * 2**20
_STORE_MAX_BYTES = 4 * 2**30


@dataclass
class Fitted:
    """A prompt as `generate` gets it.

    Attributes:
        inputs: tensors on the model's device, ``past_key_values`` and ``mm_encoder_outputs`` among them.
        n_reused: tokens whose keys and values were there.
        cache: the cache that generation fills, or None where the family reuses none.
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
        max_bytes: for caches and features together; a share of the free memory if not given.
    """

    def __init__(self, loaded: Loaded, max_bytes: int | None = None) -> None:
        if max_bytes is None:
            share = int(memory.free_bytes(loaded.device) * _STORE_SHARE)
            max_bytes = max(_STORE_MIN_BYTES, min(share, _STORE_MAX_BYTES))
        self._loaded = loaded
        self.prefixes = PrefixStore(max_bytes * 3 // 4)
        self.features = FeatureStore(max_bytes // 4)

    @property
    def is_able(self) -> bool:
        """Whether the family reuses anything."""
        return self._loaded.family.reuse == "features"

    @property
    def n_bytes(self) -> int:
        """What the stores hold now."""
        return self.prefixes.n_bytes + self.features.n_bytes

    def clear(self) -> int:
        """Empty the stores; the bytes that they held."""
        return self.prefixes.clear() + self.features.clear()

    def fit(self, prepared: Prepared, pictures: Sequence[Picture], *, use_cache: bool = True) -> Fitted:
        """The inputs for `generate`, less what is known.

        Args:
            prepared: one prompt (B is 1).
            pictures: all its pictures, in order.
            use_cache: False computes everything again (beams reorder their caches).
        """
        _forget_positions(self._loaded.model)
        inputs = memory.to_device(prepared.inputs, self._loaded)
        if not use_cache or not self.is_able:
            return Fitted(inputs)
        digests = [digest_of(picture) for picture in pictures]
        keys = keys_of(inputs["input_ids"][0].tolist(), prepared.picture_spans, digests)
        cache, n = self.prefixes.take(keys, prepared.picture_spans)
        new = [
            self._features_of(picture, digest)
            for picture, digest, (start, _) in zip(pictures, digests, prepared.picture_spans, strict=True)
            if start >= n
        ]
        fitted = {k: v for k, v in inputs.items() if k in _TEXT_INPUTS or k in _ALWAYS_NEEDED}
        fitted["past_key_values"] = cache
        if new:
            fitted["mm_encoder_outputs"] = {"image": _as_encoder_output(new)}
        return Fitted(fitted, n, cache, keys)

    def keep(self, fitted: Fitted, new_ids: Sequence[int]) -> None:
        """Put the cache back, grown by the answer; also after a stop, whatever state it was left in."""
        if fitted.cache is None or fitted.keys is None:
            return
        self.prefixes.put(keys_of([*fitted.keys.tolist(), *new_ids], (), ()), fitted.cache)

    def _features_of(self, picture: Picture, digest: str) -> Features:
        """What the model makes of one picture before the language model."""
        known = self.features.get(digest)
        if known is not None:
            return known
        alone = families.prepare(
            self._loaded, (Turn("user", (picture,)),), Settings(continuation=True, special_tokens=True)
        )
        inputs = memory.to_device(alone.inputs, self._loaded)
        look = self._loaded.model.get_image_features
        wanted = inspect.signature(look).parameters
        seen = look(
            **{k: v for k, v in inputs.items() if k in wanted and k not in _TEXT_INPUTS}, return_dict=True
        )
        deepstack = getattr(seen, "deepstack_features", None) or ()
        pooled = seen.pooler_output
        is_listed = not isinstance(pooled, torch.Tensor)
        features = Features(
            _joined(pooled) if is_listed else pooled, tuple(map(_joined, deepstack)), type(seen), is_listed
        )
        self.features.put(digest, features)
        return features


def digest_of(picture: Picture) -> str:
    """A picture's content, also for one that was not made by `inputs`."""
    if picture.digest:
        return picture.digest
    image = picture.rgb
    return hashlib.blake2b(image.tobytes() + repr(image.size).encode(), digest_size=16).hexdigest()


def _joined(features: Sequence[torch.Tensor]) -> torch.Tensor:
    """A picture's features, in as many pieces as its family makes of it, as one (T, D)."""
    return torch.cat([piece.reshape(-1, piece.shape[-1]) for piece in features])


def _as_encoder_output(features: Sequence[Features]) -> Any:
    """Features of several pictures in the form that ``forward`` takes."""
    first = features[0]
    pooled = [f.pooled for f in features]
    output = first.kind(pooler_output=pooled if first.is_listed else torch.cat(pooled))
    if first.deepstack:
        output.deepstack_features = list(zip(*(f.deepstack for f in features), strict=True))
    return output


def _forget_positions(model: Any) -> None:
    """M-RoPE models take the position offset of the prompt before for this one's, unless it is gone."""
    for module in (model, getattr(model, "model", None)):
        if module is not None and getattr(module, "rope_deltas", None) is not None:
            module.rope_deltas = None
