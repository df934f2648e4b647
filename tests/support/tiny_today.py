"""Tiny builds of the families that are newest: Qwen3.5 and the Gemmas after 3.

Their layers differ within one model (recurrent and full attention, sliding windows with narrower heads),
which is what their builds are here to show. Neighbours: `tiny_parts` holds what they are made of,
`tiny_models` loads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_parts import (
    QWEN_SPECIALS,
    SIDE,
    builder,
    byte_tokenizer,
    ends_of,
    ids_of,
    llama_text,
    piece_tokenizer,
    save,
)
from tiny_templates import GEMMA4_CHAT, GEMMA_CHAT, QWEN3_5_CHAT

__all__: list[str] = []


def _build_qwen3_5(folder: Path, kind: str, text: dict[str, Any]) -> None:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = byte_tokenizer(
        QWEN_SPECIALS, words=["<think>", "</think>"], eos="<|im_end|>", pad="<|endoftext|>"
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            **llama_text(tokenizer, num_hidden_layers=4, head_dim=32),
            "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16,
            "linear_value_head_dim": 16, "layer_types": ["linear_attention"] * 3 + ["full_attention"],
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                "mrope_section": [2, 3, 3], "mrope_interleaved": True,
            },
            **text,
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64,
            "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
        },
        **ids_of(
            tokenizer,
            image_token_id="<|image_pad|>",
            video_token_id="<|video_pad|>",
            vision_start_token_id="<|vision_start|>",
            vision_end_token_id="<|vision_end|>",
        ),
    )  # fmt: skip
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
        patch_size=8, temporal_patch_size=2, merge_size=2,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    save(folder, model, tokenizer, image_processor, "Qwen3VLProcessor", template=QWEN3_5_CHAT)


@builder("qwen3.5", "qwen3_5")
def build_qwen3_5(folder: Path) -> None:
    """Three recurrent layers to one of attention; it thinks before it answers."""
    _build_qwen3_5(folder, "Qwen3_5", {})


@builder("qwen3.5-moe", "qwen3_5_moe")
def build_qwen3_5_moe(folder: Path) -> None:
    """The same with experts."""
    experts = {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    }  # fmt: skip
    _build_qwen3_5(folder, "Qwen3_5Moe", experts)


_GEMMA4_NAMED = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip


@builder("gemma4", "gemma4")
def build_gemma4(folder: Path) -> None:
    """Layers with heads of two widths, shared keys, an embedding for each layer."""
    from transformers import Gemma4AudioFeatureExtractor, Gemma4Config, Gemma4ForConditionalGeneration
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    specials = ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", *_GEMMA4_NAMED.values()]
    tokenizer = piece_tokenizer(
        [*specials, "<|video|>"], words=["\n\n"], bos="<bos>", eos="<eos>", pad="<pad>", prefix=False,
        named=_GEMMA4_NAMED,
    )  # fmt: skip
    n_layers = 4
    text = llama_text(tokenizer, num_hidden_layers=n_layers, head_dim=16)
    hearing = json.loads(Gemma4AudioFeatureExtractor().to_json_string())
    config = Gemma4Config(
        text_config={
            **text, "global_head_dim": 32, "sliding_window": 64, "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": len(tokenizer), "use_bidirectional_attention": "vision",
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 16, "patch_size": 8, "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        audio_config=None,
        **ids_of(
            tokenizer, image_token_id="<|image|>", boi_token_id="<|image>", eoi_token_id="<image|>",
            video_token_id="<|video|>", audio_token_id="<|audio|>", boa_token_id="<|audio>",
            eoa_token_index="<audio|>",
        ),
        **ends_of(tokenizer),
    )  # fmt: skip
    image_processor = Gemma4ImageProcessorPil(patch_size=8, max_soft_tokens=70, pooling_kernel_size=2)
    save(
        folder, Gemma4ForConditionalGeneration(config), tokenizer, image_processor, "Gemma4Processor",
        template=GEMMA4_CHAT, image_seq_length=70, feature_extractor=hearing,
    )  # fmt: skip


_GEMMA3N_NAMED = {  # in this order: what is neither word nor picture has the last ids
    "boi_token": "<start_of_image>", "boa_token": "<start_of_audio>", "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>", "eoa_token": "<end_of_audio>", "audio_token": "<audio_soft_token>",
}  # fmt: skip


@builder("gemma3n", "gemma3n", needs_package="timm")
def build_gemma3n(folder: Path) -> None:
    """A convolutional vision tower of timm's, and streams of several widths in the language model."""
    from transformers import (
        Gemma3nAudioFeatureExtractor,
        Gemma3nConfig,
        Gemma3nForConditionalGeneration,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = piece_tokenizer(
        ["<start_of_turn>", "<end_of_turn>", *_GEMMA3N_NAMED.values()], bos="<bos>", eos="<eos>",
        pad="<pad>", prefix=False, named=_GEMMA3N_NAMED,
    )  # fmt: skip
    n = len(tokenizer)
    image, audio = (tokenizer.convert_tokens_to_ids(f"<end_of_{kind}>") for kind in ("image", "audio"))
    config = Gemma3nConfig(
        text_config={
            **llama_text(tokenizer, num_hidden_layers=4, head_dim=16), "sliding_window": 64,
            "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": n, "altup_num_inputs": 2,
            "laurel_rank": 8, "activation_sparsity_pattern": [0.0] * 4,
        },
        vision_config={
            "architecture": "mobilenetv5_base", "hidden_size": 2048, "vocab_offset": image, "vocab_size": 2,
            "model_args": {"channel_multiplier": 0.02, "msfa_output_resolution": 2},
        },
        audio_config={
            "hidden_size": 32, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 1, "vocab_size": 2,
            "vocab_offset": audio, "sscp_conv_channel_size": (8, 4), "input_feat_size": 16,
        },
        vision_soft_tokens_per_image=4,
        **ids_of(
            tokenizer, image_token_id="<image_soft_token>", boi_token_id="<start_of_image>",
            eoi_token_id="<end_of_image>", audio_token_id="<audio_soft_token>",
            boa_token_id="<start_of_audio>", eoa_token_id="<end_of_audio>",
        ),
        **ends_of(tokenizer),
    )  # fmt: skip
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    save(
        folder, Gemma3nForConditionalGeneration(config), tokenizer, image_processor, "Gemma3nProcessor",
        template=GEMMA_CHAT.replace("<start_of_image>", "<image_soft_token>"), image_seq_length=4,
        feature_extractor=json.loads(Gemma3nAudioFeatureExtractor().to_json_string()),
    )  # fmt: skip
