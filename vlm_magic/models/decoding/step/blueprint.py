"""What a decoder is made of: its weights and the few facts that its arithmetic needs, read off the model.

Most language models of today are one design with small differences: normed, attended, normed, a gated
network. `read` finds the parts by their names and says None where something is of another kind; whether
it understood rightly is not taken on trust but proved (see `proof`). It is read anew for every answer, in
microseconds, so that trained, replaced or adapted weights are never answered without.

Source: transformers 5.23, the ``modeling_*`` files of Llama, Mistral, Qwen2, Qwen2-VL, Qwen3-VL, Gemma and
Gemma 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional

__all__ = ["Blueprint", "Layer", "Norm", "read", "why_not"]

_OURS = "vlm_magic."
_ROPES = {"default", "linear", "llama3", "yarn"}  # those whose angles do not change as the text grows
_NO_SLIDING: Any = object()
_ODD = (
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    RuntimeError,
)  # parts of other names, or with other sizes


@dataclass(frozen=True, slots=True)
class Norm:
    """A root-mean-square norm: ``x / rms(x) * (weight + offset)``."""

    weight: torch.Tensor  # (C,)
    eps: float
    offset: int  # 1 for the Gemma family, whose weights are differences from one


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer.

    Attributes:
        q, k, v, o, gate, up, down: linear modules.
        before, between: the norms before attention and before the gated network.
        q_norm, k_norm: of each head, or None.
        after, last: norms of what attention and the gated network give, or None.
        activation: of the gate.
        scale: of the attention's scores.
        window: how many tokens it sees, itself included; None for all.
        rope: its kind of positions, "" where all layers have the same.
    """

    q: Any
    k: Any
    v: Any
    o: Any
    gate: Any
    up: Any
    down: Any
    before: Norm
    between: Norm
    q_norm: Norm | None
    k_norm: Norm | None
    after: Norm | None
    last: Norm | None
    activation: Callable[[torch.Tensor], torch.Tensor]
    scale: float
    window: int | None
    rope: str


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A decoder from token ids to logits.

    Attributes:
        embed: the embedding module; it scales, where the family does.
        layers: in their order.
        norm: the last one.
        head: the linear module that gives logits.
        softcap: logits are bent to stay below it; None for no bending.
        rotary: the module that gives cosines and sines of positions.
        n_rope_axes: 3 where a position has three parts (Qwen-VL), else 1.
        head_dim: width of a head.
    """

    embed: Any
    layers: tuple[Layer, ...]
    norm: Norm
    head: Any
    softcap: float | None
    rotary: Any
    n_rope_axes: int
    head_dim: int

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        device: torch.device = self.norm.weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.norm.weight.dtype

    @property
    def linears(self) -> Iterator[Any]:
        """All linear modules that a step goes through."""
        for layer in self.layers:
            yield from (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down)
        yield self.head


class _OtherKindError(Exception):
    """Something of another kind."""


def read(model: Any) -> Blueprint | None:
    """The blueprint of a model's decoder; None where it is of another design, or somebody listens in it."""
    try:
        return _read(model)
    except (_OtherKindError, *_ODD):
        return None


def why_not(model: Any) -> str:
    """In a few words why `read` gives None; "" where it does not."""
    try:
        _read(model)
    except _OtherKindError as error:
        return str(error)
    except _ODD:
        return "its layers are of another design"
    return ""


def _read(model: Any) -> Blueprint:
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if decoder is None or head is None or not len(decoder.layers):
        raise _OtherKindError("it has no decoder of the usual form")
    config = decoder.config
    if decoder.training:
        raise _OtherKindError("it is being trained")
    layers = tuple(_layer(layer, config) for layer in decoder.layers)
    rotary = decoder.rotary_emb
    kinds = getattr(rotary, "rope_type", "default")
    if not set(kinds.values() if isinstance(kinds, dict) else [kinds]) <= _ROPES:
        raise _OtherKindError("its positions change as the text grows")
    first = decoder.layers[0].self_attn
    found = Blueprint(
        embed=decoder.embed_tokens,
        layers=layers,
        norm=_norm(decoder.norm),
        head=head,
        softcap=_softcap(config),
        rotary=rotary,
        n_rope_axes=3 if _is_multimodal_rope(rotary, config) else 1,
        head_dim=int(first.head_dim),
    )
    _check_nobody_listens(model, decoder)
    if found.device.type == "meta" or any(norm.weight.device != found.device for norm in _norms(found)):
        raise _OtherKindError("it is spread over devices")
    return found


def _layer(layer: Any, config: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    known = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    parts = set(layer._modules)
    is_four_normed = parts == known | {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
    if parts != known and not is_four_normed:
        raise _OtherKindError("its layers are of another design")
    usual = {"q_proj", "k_proj", "v_proj", "o_proj"}
    if not usual <= set(attention._modules) <= usual | {"q_norm", "k_norm", "rotary_emb"}:
        raise _OtherKindError("its attention is of another design")
    if set(mlp._modules) != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        raise _OtherKindError("its layers are of another design")
    if getattr(attention, "attn_logit_softcapping", None) is not None:
        raise _OtherKindError("its attention is of another design")
    after = _norm(layer.post_attention_layernorm)
    return Layer(
        q=attention.q_proj,
        k=attention.k_proj,
        v=attention.v_proj,
        o=attention.o_proj,
        gate=mlp.gate_proj,
        up=mlp.up_proj,
        down=mlp.down_proj,
        before=_norm(layer.input_layernorm),
        between=_norm(layer.pre_feedforward_layernorm) if is_four_normed else after,
        q_norm=_norm(attention.q_norm) if "q_norm" in attention._modules else None,
        k_norm=_norm(attention.k_norm) if "k_norm" in attention._modules else None,
        after=after if is_four_normed else None,
        last=_norm(layer.post_feedforward_layernorm) if is_four_normed else None,
        activation=mlp.act_fn,
        scale=float(attention.scaling),
        window=_window(attention, config),
        rope=str(attention.layer_type) if isinstance(_rope_parameters(config), dict) else "",
    )


def _rope_parameters(config: Any) -> Any:
    """Those of each kind of layer, where they differ; else None."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return parameters if any(isinstance(value, dict) for value in parameters.values()) else None


def _is_multimodal_rope(rotary: Any, config: Any) -> bool:
    parameters = getattr(config, "rope_parameters", None) or {}
    return hasattr(rotary, "mrope_section") or "mrope_section" in parameters


def _window(attention: Any, config: Any) -> int | None:
    own = getattr(attention, "sliding_window", _NO_SLIDING)
    if own is _NO_SLIDING:  # Mistral's are all alike, and say so in the configuration alone
        own = getattr(config, "sliding_window", None)
    return None if own is None else int(own)


def _softcap(config: Any) -> float | None:
    cap = getattr(config, "final_logit_softcapping", None)
    return None if cap is None else float(cap)


def _norms(found: Blueprint) -> Iterator[Norm]:
    yield found.norm
    for layer in found.layers:
        yield layer.before


_OFFSETS: WeakKeyDictionary[type, int] = WeakKeyDictionary()  # of a norm's class, found by trying


def _norm(module: Any) -> Norm:
    weight = module.weight
    if weight.dim() != 1 or getattr(module, "bias", None) is not None:
        raise _OtherKindError("its norms are of another kind")
    eps = getattr(module, "variance_epsilon", None)
    eps = float(module.eps if eps is None else eps)
    kind = type(module)
    if kind not in _OFFSETS:
        _OFFSETS[kind] = _offset_of(module, weight, eps)
    return Norm(weight, eps, _OFFSETS[kind])


def _offset_of(module: Any, weight: torch.Tensor, eps: float) -> int:
    """Which of the two forms a norm has; found by trying it on one vector."""
    with torch.inference_mode():
        x = torch.linspace(-1, 2, weight.shape[0], device=weight.device, dtype=torch.float32)
        got = module(x.to(weight.dtype)).float()
        for offset in (0, 1):
            expected = functional.rms_norm(x, x.shape, weight.float() + offset, eps)
            if torch.allclose(got, expected, rtol=0.02, atol=0.02):
                return offset
    raise _OtherKindError("its norms are of another kind")


def _check_nobody_listens(model: Any, decoder: Any) -> None:
    """Hooks and replaced forwards are somebody's, and a step that goes past them would leave them out."""
    for module in (model, *decoder.modules(), model.get_output_embeddings()):
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        if any(not _is_ours(hook) for hook in hooks) or "forward" in module.__dict__:
            raise _OtherKindError("somebody listens in its layers")


def _is_ours(hook: Any) -> bool:
    """Whether a hook counts or stops a prompt's forward, which our step does by itself."""
    return str(getattr(hook, "__module__", "")).startswith(_OURS)
