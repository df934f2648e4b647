"""Each picture is looked at once: what a processor and a vision tower make of it, kept by its content.

A processor turns a picture into pixels and into the text that stands for it; the vision tower turns
the pixels into features. Neither depends on the rest of the prompt in the families that use this, so
a prompt with known pictures is only text to tokenize: nothing is resized or encoded again. `Looks` is
bounded in bytes, least recently used out first.

Knows processors and models, not conversations. Neighbours: `prompting` calls `Looks.process` in place
of the processor; `reuse` takes the features.

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
from vlm_magic.models import memory
from vlm_magic.models.control_tokens import GuardedTokenizer, Mask
from vlm_magic.models.loading import Loaded
from vlm_magic.models.prompting import Draft, observed
from vlm_magic.models.threads import useful_threads

__all__ = ["Features", "Look", "Looks", "as_encoder_output"]

_SIDE_BY_SIDE = 8  # pictures: more at once are slower on a CPU, whose caches they leave
_TEXT_INPUTS = ("input_ids", "attention_mask")
_SIZES = ("image_sizes", "image_grid_thw")
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
class Look:
    """What is known of one picture.

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


class Looks:
    """The pictures that one model has seen.

    Args:
        loaded: the model.
        max_bytes: what all looks may hold together.
    """

    def __init__(self, loaded: Loaded, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._loaded = loaded
        self._looks: OrderedDict[str, Look] = OrderedDict()
        self._digests: list[str] = []
        self._encoding: set[int] = set()  # looks that some thread has the vision tower look at, by identity
        self._encoded = threading.Condition()  # guards that
        # What a replacement stands for: the text inputs of such a picture, and the shapes of its pixels.
        self._known: dict[str, tuple[tuple[Any, ...], dict[str, torch.Size]]] = {}

    def __len__(self) -> int:
        return len(self._looks)

    @property
    def n_bytes(self) -> int:
        """What the looks hold now."""
        return sum(look.n_bytes for look in list(self._looks.values()))  # others may add some

    def clear(self) -> int:
        """Forget all; the bytes that were held."""
        n_bytes = self.n_bytes
        self._looks.clear()
        return n_bytes

    def expect(self, digests: Sequence[str]) -> None:
        """Say which pictures the next prompt has, in order."""
        self._digests = list(digests)

    def process(
        self, loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
    ) -> dict[str, torch.Tensor]:
        """A prompt's text inputs, each picture's text in its place; a `families.Process`.

        Pixels are left out: their features are asked for by `features`.
        """
        (draft,) = drafts
        looks = [
            self._look(digest, image) for digest, image in zip(self._digests, draft.pictures, strict=True)
        ]
        text = _expand(draft.text, loaded.family.template_token(loaded.processor), looks)
        text = loaded.family.after_expansion(text)
        for look in looks:
            processor.replacements.extend(look.replacements)
        bos = loaded.tokenizer.bos_token
        encoded = processor.tokenizer(
            [text], return_tensors="pt", add_special_tokens=not (bos and text.startswith(bos))
        )
        inputs = {name: encoded[name] for name in _TEXT_INPUTS}  # (1, T) int64
        for name in looks[0].token_types if looks else ():
            inputs[name] = _typed(inputs["input_ids"], [look.token_types[name] for look in looks])
        for name in looks[0].grids if looks else ():
            inputs[name] = torch.cat([look.grids[name] for look in looks])
        return inputs

    def features(self, digest: str) -> Features:
        """What the vision tower makes of a picture of the last prompt, computed at most once."""
        look = self._looks[digest]
        if look.features is None:
            self._encode_looks([look])
        assert look.features is not None
        return look.features

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
        """Drop the least recently used looks beyond the limit; called when a prompt is done with them."""
        while self._looks and self.n_bytes > self.max_bytes:
            self._looks.popitem(last=False)

    def _look(self, digest: str, image: Any) -> Look:
        look = self._looks.get(digest)
        if look is None:
            look = self._looks[digest] = self._look_at(image)
        self._looks.move_to_end(digest)
        return look

    def _look_at(self, image: Any) -> Look:
        """Have one picture processed by itself."""
        loaded = self._loaded
        family = loaded.family
        mask = Mask(loaded.control)
        tokenizer = GuardedTokenizer(loaded.tokenizer, mask)
        processor, replacements = observed(loaded.processor, tokenizer)
        token = family.template_token(loaded.processor)
        inputs = family.process(loaded, processor, [Draft(token, [image])], mask)
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
        return Look(*text, {name: inputs[name] for name in _GRIDS if name in inputs}, pixels)

    def look_ahead(self, pictures: Mapping[str, Any], *, and_encode: bool) -> None:
        """Have pictures processed that a prompt will bring soon, several at a time; safe from any thread.

        Args:
            pictures: RGB images by their digest.
            and_encode: have the vision tower look at them as well, in this thread.
        """
        new = [(digest, image) for digest, image in pictures.items() if digest not in self._looks]
        for start in range(0, len(new), _SIDE_BY_SIDE):
            group = new[start : start + _SIDE_BY_SIDE]
            looks = self._look_at_several([image for _, image in group])
            for (digest, _), look in zip(group, looks, strict=False):
                self._looks[digest] = look
            if looks and and_encode:
                with torch.inference_mode(), useful_threads(self._loaded):
                    self._encode_looks(looks)

    def text_of(self, digest: str) -> tuple[object, ...] | None:
        """All that a known picture adds to a prompt's text inputs; None for one that was not looked at."""
        look = self._looks.get(digest)
        if look is None:
            return None
        grids = tuple(tuple(grid.flatten().tolist()) for grid in look.grids.values())
        return look.expanded, look.replacements, grids

    def encode(self, digests: Sequence[str]) -> None:
        """Have the vision tower look at several known pictures, those of one shape side by side."""
        self._encode_looks([self._looks[digest] for digest in dict.fromkeys(digests)])

    def _encode_looks(self, looks: Sequence[Look]) -> None:
        """Give all looks their features; what another thread is at is waited for, not done twice."""
        while any(look.features is None and look.pixels for look in looks):
            group = self._claimed(looks)
            if not group:
                with self._encoded:
                    self._encoded.wait_for(lambda: not self._encoding & set(map(id, looks)))
                continue
            try:
                names = group[0].pixels or {}
                pixels = {name: torch.cat([(look.pixels or {})[name] for look in group]) for name in names}
                for look, features in zip(group, _apart(self._encode(pixels), len(group)), strict=True):
                    look.features, look.pixels = features, None
            finally:
                with self._encoded:
                    self._encoding -= set(map(id, group))
                    self._encoded.notify_all()

    def _claimed(self, looks: Sequence[Look]) -> list[Look]:
        """Looks of one form that nobody is at, as many as go side by side; this thread has them now."""
        with self._encoded:
            free = [look for look in looks if look.features is None and id(look) not in self._encoding]
            forms = [(_form_of(look.pixels), look) for look in free if look.pixels]
            group = [look for form, look in forms if form == forms[0][0]][:_SIDE_BY_SIDE]
            self._encoding |= set(map(id, group))
            return group

    def _look_at_several(self, images: Sequence[Any]) -> list[Look]:
        """Looks of pictures that were processed in one call; [] where each has to be looked at by itself.

        The call is one prompt with all the pictures. What stands for a picture in the text is known from a
        picture with the same replacement; pixels are those of a single call where nothing was padded.
        """
        loaded, n = self._loaded, len(images)
        if n < 2 or not self._known or loaded.family.max_pictures is not None:
            return []
        mask = Mask(loaded.control)
        processor, replacements = observed(loaded.processor, GuardedTokenizer(loaded.tokenizer, mask))
        draft = Draft(loaded.family.template_token(loaded.processor) * n, list(images))
        inputs = loaded.family.process(loaded, processor, [draft], mask)
        known = [self._known.get(replacement) for replacement in replacements]
        if len(known) != n or not bool(inputs.get("pixel_attention_mask", torch.ones(1)).all()):
            return []
        pixels = {k: v for k, v in inputs.items() if v.shape[:2] != inputs["input_ids"].shape}
        parts = {name: _each(value, n) for name, value in pixels.items()}
        if not all(parts.values()):
            return []
        looks: list[Look] = []
        for at, like in enumerate(known):
            own = {name: part[at].clone() for name, part in parts.items()}
            if like is None or {k: v.shape for k, v in own.items()} != like[1]:
                return []
            grids = {name: own[name] for name in _GRIDS if name in own}
            expanded, own_replacements, typed = like[0]
            looks.append(Look(expanded, own_replacements, typed, grids, own))
        return looks

    def _encode(self, pixels: dict[str, torch.Tensor]) -> Features:
        """Run the vision tower and the connector on one picture."""
        look = self._loaded.model.get_image_features
        wanted = inspect.signature(look).parameters
        inputs = memory.to_device({k: v for k, v in pixels.items() if k in wanted}, self._loaded)
        seen = look(**inputs, return_dict=True)
        pooled = seen.pooler_output
        is_listed = not isinstance(pooled, torch.Tensor)
        deepstack = getattr(seen, "deepstack_features", None) or ()
        return Features(
            _joined(pooled) if is_listed else pooled, tuple(map(_joined, deepstack)), type(seen), is_listed
        )


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


def _expand(text: str, token: str, looks: Sequence[Look]) -> str:
    """The draft's text with each picture's own in its placeholder's place."""
    pieces = text.split(token)
    if len(pieces) != len(looks) + 1:
        raise PromptError(
            f"{len(pieces) - 1} places for {len(looks)} pictures in the prompt",
            hint="without --special-tokens, if they were given",
        )
    return pieces[0] + "".join(look.expanded + piece for look, piece in zip(looks, pieces[1:], strict=True))


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
    output = first.kind(pooler_output=pooled if first.is_listed else torch.cat(pooled))
    if first.deepstack:
        output.deepstack_features = list(zip(*(f.deepstack for f in features), strict=True))
    return output
