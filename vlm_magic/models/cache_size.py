"""How much memory one token's keys and values take, from a configuration alone.

Layers of one model may differ: some attend, some are recurrent and keep nothing for each token, some use the
keys of a layer before them, and their heads may be of different widths (`per_layer_config` in transformers).

Knows text configurations; knows nothing of devices or caches. Neighbours: `estimate` and the planning of
batches ask here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["cache_token_bytes", "first_int"]

# Kinds of layers that keep no keys and values, as transformers' caches name them.
_KEEP_NOTHING = {"linear_attention", "conv", "dummy", "moe", "mlp", "mamba", "recurrent"}


def cache_token_bytes(text: Any, n_number_bytes: int) -> int:
    """Bytes of one token's keys and values over all layers.

    An upper bound: layers with a sliding window are counted as if they kept every token.

    Args:
        text: the configuration of the language model.
        n_number_bytes: of one number, 4 for float32.
    """
    n_layers = first_int(text, "num_hidden_layers", "n_layer", "num_layers", "decoder_layers") or 0
    kinds = list(getattr(text, "layer_types", None) or ())
    shared = list(getattr(text, "kv_sharing_modes", None) or ())
    layers = _each_layer(text, n_layers)
    return sum(
        2 * _width(layers[n]) * n_number_bytes
        for n in range(n_layers)
        if (kinds[n : n + 1] or [""])[0] not in _KEEP_NOTHING and shared[n : n + 1] != ["reuse"]
    )


def first_int(owner: Any, *names: str) -> int | None:
    """The first of these attributes that is a positive whole number; None for none."""
    for name in names:
        value = getattr(owner, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _each_layer(text: Any, n_layers: int) -> list[Any]:
    """A configuration for each layer: its own where layers differ."""
    if getattr(text, "is_heterogeneous", False):
        own = text.per_layer_config
        return [own[n] for n in range(n_layers)]
    return [text] * n_layers


def _width(layer: Any) -> int:
    """Numbers in one token's keys."""
    n_heads = first_int(layer, "num_attention_heads", "n_head", "num_heads", "decoder_attention_heads") or 1
    n_kv_heads = first_int(layer, "num_key_value_heads") or n_heads
    width = first_int(layer, "hidden_size", "d_model", "n_embd") or 0
    return n_kv_heads * (first_int(layer, "head_dim", "d_kv") or width // n_heads)
