"""The training-time forward pass: the standard modules' weights, run the fast way.

Reads the parameters of an Idefics3 model by name and computes what its modules compute, in bfloat16, with two
savings: the vision tower without masks, and the language model over a *tree*, where one prefix (a picture,
say) is shared by several branches (questions about it). A test compares both with the modules of
transformers.

Knows nothing of scenes, questions or optimisers. Neighbours: `vision_stage` and `text_stage` call it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  (the field's own name for it)
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Idefics3Config

__all__ = ["TreeBatch", "Weights", "cast_weights", "connect", "see", "tree_logits"]

Weights = dict[str, Tensor]
VISION = "model.vision_model."
TEXT = "model.text_model."


def cast_weights(
    model: torch.nn.Module, prefixes: tuple[str, ...], dtype: torch.dtype = torch.bfloat16
) -> Weights:
    """Round the named parameters for one step; gradients flow back to the float32 originals."""
    return {name: p.to(dtype) for name, p in model.named_parameters() if name.startswith(prefixes)}


def see(weights: Weights, config: Idefics3Config, pixels: Tensor) -> Tensor:
    """Run the vision tower.

    Args:
        weights: Parameters under `model.vision_model.`.
        config: The model's configuration.
        pixels: (N, 3, H, W), normalised as the processor does.

    Returns:
        Features of the patches, (N, patches, vision width), in the weights' dtype.
    """
    vision = config.vision_config
    patch, heads = vision.patch_size, vision.num_attention_heads
    n, _, height, width = pixels.shape
    kernel = weights[VISION + "embeddings.patch_embedding.weight"]  # (D, 3, P, P)
    rows, columns = height // patch, width // patch
    tiles = pixels.to(kernel.dtype).view(n, 3, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    x = F.linear(
        tiles.reshape(n, rows * columns, -1),
        kernel.flatten(1),
        weights[VISION + "embeddings.patch_embedding.bias"],
    )
    x = x + weights[VISION + "embeddings.position_embedding.weight"]  # (N, patches, D)
    for i in range(vision.num_hidden_layers):
        name = f"{VISION}encoder.layers.{i}."
        h = _layer_norm(weights, name + "layer_norm1", x)
        q, k, v = (_linear(weights, f"{name}self_attn.{p}_proj", h) for p in "qkv")
        h = _attend(_split(q, heads), _split(k, heads), _split(v, heads))
        x = x + _linear(weights, name + "self_attn.out_proj", h.transpose(1, 2).flatten(2))
        h = _layer_norm(weights, name + "layer_norm2", x)
        h = F.gelu(_linear(weights, name + "mlp.fc1", h), approximate="tanh")
        x = x + _linear(weights, name + "mlp.fc2", h)
    return _layer_norm(weights, VISION + "post_layernorm", x)


def connect(weights: Weights, config: Idefics3Config, features: Tensor) -> Tensor:
    """Gather patches into cells, at the language model's width: (N, patches, D) to (N, cells, D)."""
    n, patches, width = features.shape
    side, s = math.isqrt(patches), config.scale_factor
    cells = features.view(n, side // s, s, side // s, s * width).permute(0, 1, 3, 2, 4)
    cells = cells.reshape(n, (side // s) ** 2, s * s * width)
    return F.linear(cells, weights["model.connector.modality_projection.proj.weight"])


@dataclass(slots=True)
class TreeBatch:
    """Prefixes, and branches that continue them.

    Attributes:
        prefix: (B, P) int64 token ids, padded on the right.
        prefix_length: (B,) int64.
        branch: (B, K, T) int64 token ids, padded on the right.
        labelled: (B, K, T) bool, the tokens that the model has to predict (the answers and their end).
        pictures: (n,) int64 rows of the feature store, in the order in which the picture blocks stand in
            `prefix` (row by row) and then in `branch`.
        skills: The skill of each branch, B x K.
    """

    prefix: Tensor
    prefix_length: Tensor
    branch: Tensor
    labelled: Tensor
    pictures: Tensor
    skills: list[list[str]]

    def to(self, device: torch.device | str) -> TreeBatch:
        """The same batch on a device; its pictures' numbers stay where they are."""
        prefix, length, branch = self.prefix.to(device), self.prefix_length.to(device), self.branch.to(device)
        return TreeBatch(prefix, length, branch, self.labelled.to(device), self.pictures, self.skills)


def tree_logits(
    weights: Weights, config: Idefics3Config, batch: TreeBatch, cells: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the language model over a batch of trees.

    Args:
        weights: Parameters under `model.text_model.`.
        config: The model's configuration.
        batch: What to read.
        cells: (n, cells, D) connected features of the batch's pictures, in its order.

    Returns:
        Logits (M, V) for every labelled token, and those tokens (M,).
    """
    text = config.text_config
    table = weights[TEXT + "embed_tokens.weight"]  # (V, D)
    b, p = batch.prefix.shape
    _, k, t = batch.branch.shape
    ids = torch.cat([batch.prefix.reshape(-1), batch.branch.reshape(-1)])  # (B*P + B*K*T,)
    x = F.embedding(ids, table)
    places = (ids == config.image_token_id).nonzero().squeeze(1)
    if len(places):
        x = x.index_copy(0, places, cells.reshape(-1, cells.shape[-1]).to(x.dtype))
    device = ids.device
    start = batch.prefix_length[:, None, None] + torch.arange(t, device=device)  # (B, 1, T)
    positions = torch.cat([torch.arange(p, device=device).repeat(b), start.expand(b, k, t).reshape(-1)])
    head_dim = text.hidden_size // text.num_attention_heads
    cos, sin = _rotary(positions, head_dim, text.rope_parameters["rope_theta"], x.dtype)
    masks = _tree_masks(batch, x.dtype)
    targets = batch.labelled.reshape(-1).nonzero().squeeze(1) + b * p  # never the first token of a branch
    for i in range(text.num_hidden_layers):
        name = f"{TEXT}layers.{i}."
        h = _rms_norm(x, weights[name + "input_layernorm.weight"], text.rms_norm_eps)
        q, key, v = (
            F.linear(h, weights[f"{name}self_attn.{part}_proj.weight"]).view(len(ids), -1, head_dim)
            for part in "qkv"
        )
        q, key = _rotate(q, cos, sin), _rotate(key, cos, sin)
        h = _tree_attention(q, key, v, (b, p, k, t), masks)
        if i == text.num_hidden_layers - 1:  # from here on only what predicts a labelled token
            x, h = x[targets - 1], h[targets - 1]
        x = x + F.linear(h, weights[name + "self_attn.o_proj.weight"])
        h = _rms_norm(x, weights[name + "post_attention_layernorm.weight"], text.rms_norm_eps)
        h = F.silu(F.linear(h, weights[name + "mlp.gate_proj.weight"])) * F.linear(
            h, weights[name + "mlp.up_proj.weight"]
        )
        x = x + F.linear(h, weights[name + "mlp.down_proj.weight"])
    h = _rms_norm(x, weights[TEXT + "norm.weight"], text.rms_norm_eps)
    return F.linear(h, table), ids[targets]


def _tree_masks(batch: TreeBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Additive masks: prefix to prefix (B,1,P,P), branch to prefix (B,1,1,1,P), within a branch (T,T)."""
    p, t = batch.prefix.shape[1], batch.branch.shape[2]
    device = batch.prefix.device
    low = torch.finfo(dtype).min / 2
    padding = torch.arange(p, device=device)[None, :] >= batch.prefix_length[:, None]  # (B, P)
    padding = padding.to(dtype) * low
    causal_p = torch.triu(torch.full((p, p), low, dtype=dtype, device=device), 1)
    causal_t = torch.triu(torch.full((t, t), low, dtype=dtype, device=device), 1)
    return causal_p[None, None], padding[:, None, None, None, :], causal_t


def _tree_attention(
    q: Tensor, k: Tensor, v: Tensor, shape: tuple[int, int, int, int], masks: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Attention of flat tokens (tokens, A, head width): a branch sees its prefix and itself."""
    b, p, n, t = shape
    heads, width = q.shape[1:]
    scale = width**-0.5
    within_prefix, to_prefix, within_branch = masks
    outputs = []
    cut = b * p
    kp = k[:cut].view(b, p, heads, width).transpose(1, 2)  # (B, A, P, d)
    vp = v[:cut].view(b, p, heads, width).transpose(1, 2)
    if p:
        qp = q[:cut].view(b, p, heads, width).transpose(1, 2)
        scores = (qp * scale) @ kp.transpose(-1, -2) + within_prefix
        outputs.append((scores.softmax(-1) @ vp).transpose(1, 2).reshape(cut, -1))
    qb, kb, vb = (
        z[cut:].view(b, n, t, heads, width).permute(0, 3, 1, 2, 4) for z in (q, k, v)
    )  # (B, A, K, T, d)
    qb = qb * scale
    own = qb @ kb.transpose(-1, -2) + within_branch  # (B, A, K, T, T)
    if p:
        shared = (qb.reshape(b, heads, n * t, width) @ kp.transpose(-1, -2)).view(
            b, heads, n, t, p
        ) + to_prefix
        weights = torch.cat([shared, own], -1).softmax(-1)
        mixed = (weights[..., :p].reshape(b, heads, n * t, p) @ vp).view(b, heads, n, t, width)
        mixed = mixed + weights[..., p:] @ vb
    else:
        mixed = own.softmax(-1) @ vb
    outputs.append(mixed.permute(0, 2, 3, 1, 4).reshape(b * n * t, -1))
    return torch.cat(outputs)


def _rotary(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, (tokens, 1, head width)."""
    rates = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions.float()[:, None] * rates  # (tokens, d/2)
    angles = torch.cat([angles, angles], -1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def _layer_norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], 1e-6)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])


def _split(x: Tensor, heads: int) -> Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights: Tensor = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
    return weights @ v
