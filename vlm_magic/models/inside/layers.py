"""The logit lens: what a model would say, were the answer read off after each of its layers.

What a layer holds at the place where a token is chosen goes through the model's own last norm and its output
embeddings, as the last layer's does. Layers before the last were not made to be read so: early ones mean
little, and a word that is on top there was not decided there. Source: nostalgebraist 2020, "interpreting GPT:
the logit lens".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vlm_magic.errors import OptionError
from vlm_magic.messages import LayerToken, LayerWords, Settings, Turn
from vlm_magic.models.inside.batch_scores import read_reply
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.said_tokens import texts_of, written

__all__ = ["read_layers"]

_NORMS = (
    "norm",
    "final_layernorm",
    "final_layer_norm",
    "ln_f",
    "model.norm",
    "model.decoder.final_layer_norm",
)
_AGREE = 0.99  # of the places: reading the last layer so must say what the model says


def read_layers(
    loaded: Loaded, turns: Sequence[Turn], reply: str, settings: Settings
) -> tuple[LayerWords, ...]:
    """For each token of the answer, what each layer would say at its place.

    Args:
        loaded: the model.
        turns: the prompt, the question last.
        reply: what was said.
        settings: as for the answer.

    Raises:
        OptionError: the layers cannot be read in this way, which is found out by reading the last one.
    """
    reading = read_reply(loaded, [turns], reply, settings, output_hidden_states=True)
    given = getattr(reading.out, "hidden_states", None) or getattr(reading.out, "decoder_hidden_states", None)
    head = loaded.model.get_output_embeddings()
    if not given or head is None:
        raise _cannot(loaded)
    states = [reading.at_reply(each)[0] for each in given[1:]]  # L of (T, D)
    truth = reading.at_reply(reading.out.logits)[0].float()  # (T, V)
    norm = _last_norm(loaded.model)
    with torch.inference_mode():
        if not _agrees(head(states[-1]).float(), truth):  # the last one is normed already in most models
            if norm is None or not _agrees(head(norm(states[-1])).float(), truth):
                raise _cannot(loaded)
            states[-1] = norm(states[-1])
        elif norm is None:
            raise _cannot(loaded)
        layers = [head(norm(state)).float() for state in states[:-1]] + [truth]  # L of (T, V)
    texts = texts_of(loaded.tokenizer, reading.ids)
    logs = [torch.log_softmax(layer, dim=-1) for layer in layers]
    return tuple(
        LayerWords(text, token, tuple(_token(loaded, layer[place], token) for layer in logs))
        for place, (text, token) in enumerate(zip(texts, reading.ids, strict=True))
    )


def _token(loaded: Loaded, logs: torch.Tensor, token: int) -> LayerToken:
    """What one layer would say at one place; ``logs`` (V,)."""
    best = int(logs.argmax())
    rank = int((logs > logs[token]).sum()) + 1
    return LayerToken(
        written(loaded.tokenizer, best), float(logs[best].exp()), float(logs[token].exp()), rank
    )


def _agrees(logits: torch.Tensor, truth: torch.Tensor) -> bool:
    """Whether two readings would say the same at every place."""
    if logits.shape != truth.shape:
        return False
    return float((logits.argmax(-1) == truth.argmax(-1)).float().mean()) >= _AGREE


def _last_norm(model: Any) -> Any:
    """The norm behind the last layer of the language model; None where it has another name."""
    try:
        decoder = model.get_decoder()
    except (AttributeError, NotImplementedError):
        decoder = getattr(model, "language_model", None)
    for name in _NORMS:
        found = decoder
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, torch.nn.Module):
            return found
    return None


def _cannot(loaded: Loaded) -> OptionError:
    return OptionError(
        f"the layers of {loaded.name} cannot be read one by one",
        have=f"{loaded.family.name}: what a layer gives does not lead to words by the model's own head",
        hint="%vlm_explain needed,words",
    )
