"""The vision cache of models that attend to pictures in layers of their own: the first IDEFICS.

There a picture is one token in the text and its features stand beside it: every word sees the last
picture before it, and none sees a later one. So keys and values of a prompt's beginning hold whatever
follows; the features of the pictures that new words see are handed to the model again, encoded once.

Knows the model's own names for these things. Neighbours: `vision_cache` does the keeping, `reuse`
picks one of the two, `prompts.idefics` has the prompts.

Source: transformers 5.23, ``IdeficsModel.forward`` (features in the pixels' place) and
``IdeficsProcessor.__call__`` (one column of ``image_attention_mask`` for each picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlm_magic.messages import Picture
from vlm_magic.models import memory
from vlm_magic.models.caches.vision_cache import EncodedPicture, Features, VisionCache, key_of
from vlm_magic.models.control_tokens import Mask
from vlm_magic.models.loaded import Draft, Loaded
from vlm_magic.models.prompts.prepare import process_drafts

__all__ = ["CrossAttentionCache"]

_NO_PICTURE = ""  # the digest of the blank picture that the processor gives a prompt without one


class CrossAttentionCache(VisionCache):
    """The pictures that one such model was shown."""

    def process(
        self, loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
    ) -> dict[str, torch.Tensor]:
        """A prompt's text inputs and which picture each token sees; a `loaded.Process`."""
        (draft,) = drafts
        for picture in draft.pictures:
            self._entry(key_of(picture), picture)
        processor.image_processor = _no_pixels
        inputs = process_drafts(loaded, processor, drafts, mask)
        pixels = inputs.pop("pixel_values")
        if not draft.pictures and _NO_PICTURE not in self._entries:
            self._entries[_NO_PICTURE] = _entry_of({"pixel_values": pixels})
        return inputs

    def inputs(
        self,
        digests: Sequence[str],
        spans: Sequence[tuple[int, int]],
        n_reused: int,
        inputs: dict[str, Any],
    ) -> dict[str, Any]:
        """The features of the pictures that new tokens see, and who sees them."""
        who_sees = inputs["image_attention_mask"]  # (1, T, N)
        columns = torch.nonzero(who_sees[0, n_reused:].any(dim=0)).flatten().tolist() or [0]
        known = digests or [_NO_PICTURE]
        return {
            "image_hidden_states": torch.cat([self.features(known[n]).pooled for n in columns], dim=1),
            "image_attention_mask": who_sees[:, :, columns],
        }

    def continuation(self, inputs: dict[str, Any], n_rows: int, n_new: int) -> dict[str, Any]:
        """The same for replies that follow: each token sees what the prompt's last one sees."""
        last = inputs["image_attention_mask"][:, -1:]  # (1, 1, N)
        features = inputs["image_hidden_states"]  # (1, N, S, D)
        has_resampler = self._loaded.model.config.use_resampler
        return {
            "image_attention_mask": last.expand(n_rows, n_new, -1),
            "perceiver_embeddings" if has_resampler else "image_encoder_embeddings": features.expand(
                n_rows, -1, -1, -1
            ),
        }

    def _process_one(self, picture: Picture) -> EncodedPicture:
        processor, mask = self._loaded.processor, Mask(self._loaded.control)
        made = process_drafts(self._loaded, processor, [Draft([picture], [picture])], mask)
        return _entry_of({"pixel_values": made["pixel_values"]})

    def _encode(self, pixels: dict[str, torch.Tensor]) -> Features:
        """Vision tower and resampler, as the model's own ``forward`` begins: (1, 1, S, D)."""
        model = self._loaded.model.model
        values = memory.to_device(pixels, self._loaded)["pixel_values"][0]  # (1, C, H, W)
        features = model.vision_model(pixel_values=values).last_hidden_state  # (1, S, D)
        if model.config.use_resampler:
            features = model.perceiver_resampler(features)
        return Features(features[None], (), type(None), is_listed=False)


def _no_pixels(images: Sequence[Any], **_: Any) -> torch.Tensor:
    """Stands in for an image processor that would do again what is known: one number a picture."""
    return torch.zeros(len(images), 1)


def _entry_of(pixels: dict[str, torch.Tensor]) -> EncodedPicture:
    return EncodedPicture(expanded="", replacements=(), token_types={}, grids={}, pixels=pixels)
