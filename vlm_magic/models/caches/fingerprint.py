"""What computed things depend on beside the prompt: weights, adapters, the processor's settings.

A model in a notebook is an object that people train, adapt and set up further. `fingerprint_of` gives a value
that is another one after such a change, in a fraction of a millisecond, so that nothing computed before
it is taken for true after it. Neighbours: `reuse` empties its stores when the value
changes; `engine` asks `weights_of` before it lets weights go that could be read again.

Source: PyTorch counts changes of a tensor in place (``Tensor._version``), as its autograd needs it.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from vlm_magic.models.loaded import Loaded

__all__ = ["fingerprint_of", "weights_of"]

_Parts = tuple[tuple[str, ...], list[Any], list[Any]]  # names of adapters, weights, layers with adapters
_PARTS: WeakKeyDictionary[Any, _Parts] = WeakKeyDictionary()


def fingerprint_of(loaded: Loaded) -> tuple[object, ...]:
    """Equal as long as the same prompt gives the same features, keys and values."""
    _, weights, adapted = _parts_of(loaded.model)
    n_changes = sum(map(_n_changes, weights))
    switches = [
        (tuple(layer.active_adapters), layer.disable_adapters, tuple(getattr(layer, "merged_adapters", ())))
        for layer in adapted[:1]  # they are switched together
    ]
    return (
        n_changes,
        weights[0].dtype,
        str(weights[0].device),
        len(weights),
        tuple(switches),
        _settings_of(loaded.processor),
        _settings_of(getattr(loaded.processor, "image_processor", None)),
    )


def weights_of(model: Any) -> list[tuple[str, int, int]]:
    """Name, place and number of changes of every weight that could be trained; equal while none was touched.

    It looks at each weight by itself, so it is for moments before a model is let go, not for every answer.
    """
    return [
        (name, weight.data_ptr(), _n_changes(weight))
        for name, weight in model.named_parameters()
        if type(weight) is torch.nn.Parameter and weight.is_floating_point()
    ]


def _n_changes(weight: torch.Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _parts_of(model: Any) -> _Parts:
    """A model's weights and the layers with adapters; looked for again when adapters come or go."""
    adapters = tuple(getattr(model, "peft_config", None) or ())
    known = _PARTS.get(model)
    if known is None or known[0] != adapters:
        adapted = [module for module in model.modules() if hasattr(module, "disable_adapters")]
        adapted = [layer for layer in adapted if hasattr(layer, "base_layer")]
        known = _PARTS[model] = (adapters, list(model.parameters()), adapted)
    return known


def _settings_of(processor: Any) -> str:
    """The plain values among a processor's attributes, with their names."""
    plain = (bool, int, float, str, list, tuple, dict)
    own = vars(processor).items() if processor is not None else ()
    return repr([(k, v) for k, v in own if isinstance(v, plain) or is_dataclass(v)])
