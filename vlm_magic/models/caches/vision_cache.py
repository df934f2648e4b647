"""Each picture is encoded once: what a processor and a vision tower make of it, kept by its content.

A processor turns a picture into pixels and into the text that stands for it; the vision tower turns
the pixels into features. Neither depends on the rest of the prompt in the families that use this, so
a prompt with known pictures is only text to tokenize: nothing is resized or encoded again. `VisionCache` is
bounded in bytes, least recently used out first.

Knows processors and models, not conversations. Neighbours: `prompts.prepare` calls `VisionCache.process` in
place of the processor; `reuse` takes the features.

Source: transformers 5.23, ``get_image_features`` and ``mm_encoder_outputs`` of the models' classes.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vlm_magic.errors import PromptError
from vlm_magic.messages import Picture, digest_of
from vlm_magic.models import memory
from vlm_magic.models.control_tokens import GuardedTokenizer, Mask
from vlm_magic.models.cpu_threads import useful_threads
from vlm_magic.models.loaded import Draft, Loaded
from vlm_magic.models.prompts.prepare import observed, process_drafts

__all__ = ["EncodedPicture", "Features", "VisionCache", "as_encoder_output", "key_of"]

_SIDE_BY_SIDE = 8  # pictures: more at once are slower on a CPU, whose caches they leave
_TEXT_INPUTS = ("input_ids", "attention_mask")
_SIZES = ("image_sizes", "image_grid_thw", "image_position_ids")
_GRIDS = ("image_grid_thw",)  # shapes that the model asks for with every prompt, for positions


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the model made of one picture before the language model.

    Attributes:
        pooled: (T, D), one row for each of the picture's tokens; (1, T, D), or one for each tile, where
            the model's ``forward`` takes one tensor for all pictures.
        deepstack: (T, D) for each early layer that gets its own (Qwen3-VL); mostly none.
        kind: the class of encoder output that the model's ``forward`` takes them in.
        is_listed: whether that holds a list with an item for each picture, or one tensor.
    """

    pooled: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]
    kind: type[Any]
    is_listed: bool


@dataclass(slots=True, eq=False)
class EncodedPicture:
    """What a processor and the vision tower made of one picture.

    Attributes:
        expanded: the text that stands for it, its border tokens included.
        replacements: what the processor says that it put in the placeholder's place; () where it does not.
        token_types: for each further text input ("mm_token_type_ids"), the value of each token id in it.
        grids: the shapes that go with every prompt.
        pixels: what the vision tower takes; None once the features are there.
        features: what the vision tower made; None until somebody asks.
    """

    expanded: str
    replacements: tuple[str, ...]
    token_types: dict[str, dict[int, int]]
    grids: dict[str, torch.Tensor]
    pixels: dict[str, torch.Tensor] | None
    features: Features | None = None

    @property
    def n_bytes(self) -> int:
        """What its tensors hold."""
        tensors = [*self.grids.values(), *(self.pixels or {}).values()]
        if self.features is not None:
            tensors += [self.features.pooled, *self.features.deepstack]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class VisionCache:
    """The pictures that one model was shown.

    Args:
        loaded: the model.
        max_bytes: what all of them may hold together.
    """

    def __init__(self, loaded: Loaded, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._loaded = loaded
        self._entries: OrderedDict[str, EncodedPicture] = OrderedDict()
        self._encoding: set[int] = set()  # by identity, entries that some thread encodes
        self._encoded = threading.Condition()  # guards that
        self._weights: dict[str, int] = {}  # bytes of each entry, as far as they were counted
        self._n_counted = 0  # their sum
        self._touched: set[str] = set()  # entries to be counted, or counted again
        self._counting = threading.Lock()  # guards the three
        # What a replacement stands for: the text inputs of such a picture, and the shapes of its pixels.
        self._known: dict[str, tuple[tuple[Any, ...], dict[str, torch.Size]]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """What it holds now."""
        return sum(entry.n_bytes for entry in list(self._entries.values()))  # others may add some

    def clear(self) -> int:
        """Forget all; the bytes that were held."""
        n_bytes = self.n_bytes
        with self._counting:
            self._entries.clear()
            self._weights.clear()
            self._touched.clear()
            self._n_counted = 0
        return n_bytes

    def process(
        self, loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
    ) -> dict[str, torch.Tensor]:
        """A prompt's text inputs, each picture's text in its place; a `loaded.Process`.

        Pixels are left out: their features are asked for by `features`.
        """
        (draft,) = drafts
        entries = [self._entry(key_of(picture), picture) for picture in draft.pictures]
        text = _expand(draft.text, loaded.family.template_token(loaded.processor), entries)
        text = loaded.family.after_expansion(text)
        for entry in entries:
            processor.replacements.extend(entry.replacements)
        bos = loaded.tokenizer.bos_token
        encoded = processor.tokenizer(
            [text], return_tensors="pt", add_special_tokens=not (bos and text.startswith(bos))
        )
        inputs = {name: encoded[name] for name in _TEXT_INPUTS}  # (1, T) int64
        for name in entries[0].token_types if entries else ():
            inputs[name] = _typed(inputs["input_ids"], [entry.token_types[name] for entry in entries])
        for name in entries[0].grids if entries else ():
            inputs[name] = torch.cat([entry.grids[name] for entry in entries])
        return inputs

    def features(self, digest: str) -> Features:
        """What the vision tower makes of a picture of the last prompt, computed at most once."""
        entry = self._entries[digest]
        if entry.features is None:
            self._encode_all([entry])
            self._touched.add(digest)
        assert entry.features is not None
        return entry.features

    def inputs(
        self,
        digests: Sequence[str],
        spans: Sequence[tuple[int, int]],
        n_reused: int,
        inputs: dict[str, Any],
    ) -> dict[str, Any]:
        """What the model takes in the place of pixels: features of the pictures that are not in the cache.

        Args:
            digests: all pictures of the prompt.
            spans: [start, end) token of each.
            n_reused: tokens in the cache.
            inputs: the prompt's other inputs, on the model's device.
        """
        pairs = zip(digests, spans, strict=True)
        new = [self.features(digest) for digest, (start, _) in pairs if start >= n_reused]
        return {"mm_encoder_outputs": {"image": as_encoder_output(new)}} if new else {}

    def continuation(self, inputs: dict[str, Any], n_rows: int, n_new: int) -> dict[str, Any]:
        """What a forward needs beside its tokens to go on from a cached prompt, for several replies."""
        return {}

    def tidy(self) -> None:
        """Drop the least recently used entries beyond the limit; called when a prompt is done with them.

        Only what was added or encoded since is counted: a map leaves tens of thousands of entries.
        """
        with self._counting:
            while self._touched:
                self._count(self._touched.pop())
            while self._entries and self._n_counted > self.max_bytes:
                self._count(self._entries.popitem(last=False)[0])

    def _count(self, digest: str) -> None:
        """Take the bytes of an entry, which may be gone, into the sum."""
        entry = self._entries.get(digest)
        n_bytes = 0 if entry is None else entry.n_bytes
        self._n_counted += n_bytes - self._weights.pop(digest, 0)
        if entry is not None:
            self._weights[digest] = n_bytes

    def _entry(self, digest: str, picture: Picture) -> EncodedPicture:
        """What is known of a picture, which is processed where nothing is."""
        entry = self._entries.get(digest)
        if entry is None:
            entry = self._entries[digest] = self._process_one(picture)
            self._touched.add(digest)
        self._entries.move_to_end(digest)
        return entry

    def _process_one(self, picture: Picture) -> EncodedPicture:
        """Have one picture processed by itself."""
        loaded = self._loaded
        family = loaded.family
        mask = Mask(loaded.control)
        tokenizer = GuardedTokenizer(loaded.tokenizer, mask)
        processor, replacements = observed(loaded.processor, tokenizer)
        token = family.template_token(loaded.processor)
        inputs = process_drafts(loaded, processor, [Draft(token, [picture])], mask)
        ids = inputs["input_ids"][0].tolist()
        typed = {
            name: dict(zip(ids, value[0].tolist(), strict=True))
            for name, value in inputs.items()
            if value.shape == inputs["input_ids"].shape and name not in _TEXT_INPUTS
        }
        pixels = {k: v for k, v in inputs.items() if k not in typed and k not in _TEXT_INPUTS}
        text = (tokenizer.texts[0], tuple(replacements), typed)
        if len(replacements) == 1:
            self._known[replacements[0]] = text, {name: value.shape for name, value in pixels.items()}
        return EncodedPicture(*text, {name: inputs[name] for name in _GRIDS if name in inputs}, pixels)

    def look_ahead(self, pictures: Mapping[str, Picture], *, and_encode: bool) -> None:
        """Have pictures processed that a prompt will bring soon, several at a time; safe from any thread.

        Args:
            pictures: by `key_of`.
            and_encode: have the vision tower encode them as well, in this thread.
        """
        new = [(digest, picture) for digest, picture in pictures.items() if digest not in self._entries]
        for start in range(0, len(new), _SIDE_BY_SIDE):
            group = new[start : start + _SIDE_BY_SIDE]
            entries = self._process_several([picture for _, picture in group])
            for (digest, _), entry in zip(group, entries, strict=False):
                self._entries[digest] = entry
            if entries and and_encode:
                with torch.inference_mode(), useful_threads(self._loaded):
                    self._encode_all(entries)
            self._touched.update(digest for digest, _ in group[: len(entries)])

    def text_of(self, digest: str) -> tuple[object, ...] | None:
        """All that a known picture adds to a prompt's text inputs; None for one that was not processed."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        grids = tuple(tuple(grid.flatten().tolist()) for grid in entry.grids.values())
        return entry.expanded, entry.replacements, grids

    def encode(self, digests: Sequence[str]) -> None:
        """Have the vision tower encode several known pictures, those of one shape side by side."""
        self._encode_all([self._entries[digest] for digest in dict.fromkeys(digests)])
        self._touched.update(digests)

    def _encode_all(self, entries: Sequence[EncodedPicture]) -> None:
        """Give all entries their features; what another thread is at is waited for, not done twice."""
        while any(entry.features is None and entry.pixels for entry in entries):
            group = self._claimed(entries)
            if not group:
                with self._encoded:
                    self._encoded.wait_for(lambda: not self._encoding & set(map(id, entries)))
                continue
            try:
                names = group[0].pixels or {}
                pixels = {name: torch.cat([(entry.pixels or {})[name] for entry in group]) for name in names}
                for entry, features in zip(group, _apart(self._encode(pixels), len(group)), strict=True):
                    entry.features, entry.pixels = features, None
            finally:
                with self._encoded:
                    self._encoding -= set(map(id, group))
                    self._encoded.notify_all()

    def _claimed(self, entries: Sequence[EncodedPicture]) -> list[EncodedPicture]:
        """Entries of one form that nobody is at, as many as go side by side; this thread has them now."""
        with self._encoded:
            free = [entry for entry in entries if entry.features is None and id(entry) not in self._encoding]
            forms = [(_form_of(entry.pixels), entry) for entry in free if entry.pixels]
            group = [entry for form, entry in forms if form == forms[0][0]][:_SIDE_BY_SIDE]
            self._encoding |= set(map(id, group))
            return group

    def _process_several(self, pictures: Sequence[Picture]) -> list[EncodedPicture]:
        """Entries of pictures that were processed in one call; [] where each has to be processed by itself.

        The call is one prompt with all the pictures. What stands for a picture in the text is known from a
        picture with the same replacement; pixels are those of a single call where nothing was padded.
        """
        loaded, n = self._loaded, len(pictures)
        if n < 2 or not self._known or loaded.family.max_pictures is not None:
            return []
        mask = Mask(loaded.control)
        processor, replacements = observed(loaded.processor, GuardedTokenizer(loaded.tokenizer, mask))
        draft = Draft(loaded.family.template_token(loaded.processor) * n, list(pictures))
        inputs = process_drafts(loaded, processor, [draft], mask)
        known = [self._known.get(replacement) for replacement in replacements]
        if len(known) != n or not bool(inputs.get("pixel_attention_mask", torch.ones(1)).all()):
            return []
        pixels = {k: v for k, v in inputs.items() if v.shape[:2] != inputs["input_ids"].shape}
        parts = {name: _each(value, n) for name, value in pixels.items()}
        if not all(parts.values()):
            return []
        entries: list[EncodedPicture] = []
        for at, like in enumerate(known):
            own = {name: part[at].clone() for name, part in parts.items()}
            if like is None or {k: v.shape for k, v in own.items()} != like[1]:
                return []
            grids = {name: own[name] for name in _GRIDS if name in own}
            expanded, own_replacements, typed = like[0]
            entries.append(EncodedPicture(expanded, own_replacements, typed, grids, own))
        return entries

    def _encode(self, pixels: dict[str, torch.Tensor]) -> Features:
        """Run the vision tower and the connector on one picture."""
        encode = self._loaded.model.get_image_features
        wanted = inspect.signature(encode).parameters
        inputs = memory.to_device({k: v for k, v in pixels.items() if k in wanted}, self._loaded)
        output = encode(**inputs, return_dict=True)
        pooled = output.pooler_output
        is_listed = not isinstance(pooled, torch.Tensor)
        deepstack = getattr(output, "deepstack_features", None) or ()
        return Features(
            _joined(pooled) if is_listed else pooled, tuple(map(_joined, deepstack)), type(output), is_listed
        )


def key_of(picture: Picture) -> str:
    """What a picture is known by: its content, also where `inputs` did not make it."""
    return picture.digest or digest_of(picture.rgb)


def _each(value: torch.Tensor, n: int) -> tuple[torch.Tensor, ...]:
    """One tensor for each of ``n`` pictures, as each by itself would have it; () where that is unclear."""
    if value.ndim > 1 and value.shape[:2] == (1, n):
        return torch.split(value, 1, dim=1)
    return torch.split(value, 1) if value.shape[0] == n else ()


def _form_of(pixels: dict[str, torch.Tensor]) -> tuple[object, ...]:
    """Equal for pictures that have as many features: shapes, and sizes that are numbers."""
    return tuple(
        (name, tuple(value.shape), *(value.flatten().tolist() if name in _SIZES else ()))
        for name, value in pixels.items()
    )


def _apart(features: Features, n: int) -> list[Features]:
    """Features of ``n`` pictures of one shape as those of each."""
    axis = -2 if features.is_listed else 0
    pooled = features.pooled.chunk(n, dim=axis)
    deepstack = [layer.chunk(n, dim=-2) for layer in features.deepstack]
    return [
        replace(features, pooled=own.clone(), deepstack=tuple(layer[k].clone() for layer in deepstack))
        for k, own in enumerate(pooled)
    ]


def _expand(text: str, token: str, entries: Sequence[EncodedPicture]) -> str:
    """The draft's text with each picture's own in its placeholder's place."""
    pieces = text.split(token)
    if len(pieces) != len(entries) + 1:
        raise PromptError(
            f"{len(pieces) - 1} places for {len(entries)} pictures in the prompt",
            hint="without --special-tokens, if they were given",
        )
    return pieces[0] + "".join(
        entry.expanded + piece for entry, piece in zip(entries, pieces[1:], strict=True)
    )


def _typed(ids: torch.Tensor, maps: Sequence[dict[int, int]]) -> torch.Tensor:
    """A type for each token: that of a picture's token, 0 for text; (1, T) int64."""
    merged = {token: value for each in maps for token, value in each.items()}
    return torch.tensor([[merged.get(token, 0) for token in ids[0].tolist()]], dtype=torch.int64)


def _joined(features: Sequence[torch.Tensor]) -> torch.Tensor:
    """A picture's features, in as many pieces as its family makes of it, as one (T, D)."""
    return torch.cat([piece.reshape(-1, piece.shape[-1]) for piece in features])


def as_encoder_output(features: Sequence[Features]) -> Any:
    """Features of several pictures in the form that ``forward`` takes."""
    first = features[0]
    pooled = [f.pooled for f in features]
    pooler_output = pooled if first.is_listed else torch.cat(pooled)
    output = first.kind(last_hidden_state=None, pooler_output=pooler_output)  # some insist on the first
    if first.deepstack:
        output.deepstack_features = list(zip(*(f.deepstack for f in features), strict=True))
    return output
