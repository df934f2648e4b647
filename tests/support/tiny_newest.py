"""Tiny builds of the newest further types, for the contract of families alone.

Neighbours: `tiny_further` has the older ones, and what these share.
"""

from __future__ import annotations

from pathlib import Path

from tiny_further import (
    QWEN_PICTURES,
    SQUARE,
    pictures_of,
    qwen_ids,
    save_kind,
    seeing,
    tokenizer_of,
)
from tiny_parts import QWEN_SPECIALS, SIDE, builder, ends_of, ids_of, llama_text, vision
from tiny_templates import QWEN_VL_CHAT

__all__: list[str] = []

_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}


@builder("hyperclovax-vision", "hyperclovax_vision_v2", is_further=True)
def build_hyperclovax(folder: Path) -> None:
    """HyperCLOVA X: Qwen2.5-VL's tower under a language model of its own."""
    tokenizer = tokenizer_of(*QWEN_SPECIALS[2:])
    config = {
        "text_config": {"model_type": "hyperclovax", **llama_text(tokenizer)},
        "vision_config": {
            "model_type": "qwen2_5_vl_vision", **seeing(window_size=32, fullatt_block_indexes=[1]),
        },
        **ids_of(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    }  # fmt: skip
    pictures = pictures_of("qwen2_vl", "Qwen2VL", **QWEN_PICTURES)
    save_kind(folder, "HyperCLOVAXVisionV2", tokenizer, pictures, config, template=QWEN_VL_CHAT)


@builder("cosmos-3-edge", "cosmos3_edge", is_further=True)
def build_cosmos3_edge(folder: Path) -> None:
    """Cosmos 3 Edge."""
    tokenizer = tokenizer_of(*QWEN_SPECIALS[2:])
    config = {
        "text_config": llama_text(tokenizer, rope_parameters=_ROPE, head_dim=32),
        "vision_config": vision(num_patches=64, spatial_merge_size=2),
        "projector_hidden_size": 64,
        **qwen_ids(tokenizer),
    }
    pictures = pictures_of("cosmos3_edge", "Cosmos3Edge", **{**QWEN_PICTURES, "temporal_patch_size": 1})
    save_kind(folder, "Cosmos3Edge", tokenizer, pictures, config, template=QWEN_VL_CHAT)


@builder("lfm3-vl", "lfm3_vl", is_further=True)
def build_lfm3_vl(folder: Path) -> None:
    """LFM3-VL."""
    tokenizer = tokenizer_of(*QWEN_SPECIALS[2:])
    config = {
        "text_config": {
            "model_type": "lfm3", **llama_text(tokenizer, layer_types=["conv", "full_attention"]),
        },
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "patch_size": 8, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1,
        },
        "projector_hidden_size": 64,
        **qwen_ids(tokenizer),
    }  # fmt: skip
    pictures = pictures_of("qwen2_vl", "Qwen2VL", **QWEN_PICTURES)
    save_kind(folder, "Lfm3Vl", tokenizer, pictures, config, template=QWEN_VL_CHAT)


@builder("cohere-compass", "cohere_compass", is_further=True)
def build_cohere_compass(folder: Path) -> None:
    """Cohere Compass: Qwen3-VL's tower under Cohere's language model."""
    names = [name.upper() for name in QWEN_SPECIALS[2:]]
    tokenizer = tokenizer_of(*names)
    config = {
        "text_config": llama_text(
            tokenizer, layer_types=["sliding_attention", "full_attention"], sliding_window=64,
            rope_parameters={kind: dict(_PLAIN_ROPE) for kind in ("sliding_attention", "full_attention")},
        ),
        "vision_config": seeing(depth=3, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
        **ids_of(
            tokenizer, image_token_id="<|IMAGE_PAD|>", video_token_id="<|VIDEO_PAD|>",
            vision_start_token_id="<|VISION_START|>", vision_end_token_id="<|VISION_END|>",
        ),
    }  # fmt: skip
    pictures = pictures_of("cohere_compass", "CohereCompass", **QWEN_PICTURES)
    save_kind(
        folder, "CohereCompass", tokenizer, pictures, config,
        placeholder="<|VISION_START|><|IMAGE_PAD|><|VISION_END|>",
    )  # fmt: skip


_YARN = {
    "rope_type": "xdrope", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0, "beta_fast": 32,
    "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip


@builder("hunyuan-vl", "hunyuan_vl", is_further=True)
def build_hunyuan_vl(folder: Path) -> None:
    """HunYuan-VL: a token ends each line of patches."""
    tokenizer = tokenizer_of(
        "<new>", image_token="<image>", image_start_token="<img>", image_end_token="</img>"
    )
    config = {
        "text_config": llama_text(
            tokenizer, head_dim=32,
            rope_parameters={"xdrope_section": [4] * 4, "mrope_section": [4] * 4, **_YARN},
        ),
        "vision_config": vision(
            out_hidden_size=64, text_hidden_size=64, spatial_merge_size=2, max_image_size=64,
            min_image_size=16,
        ),
        **ids_of(
            tokenizer, image_token_id="<image>", im_start_id="<img>", im_end_id="</img>",
            im_newline_id="<new>",
        ),
    }  # fmt: skip
    pictures = pictures_of("hunyuan_vl", "HunYuanVL", **{**QWEN_PICTURES, "temporal_patch_size": 1})
    save_kind(folder, "HunYuanVL", tokenizer, pictures, config, placeholder="<img><image></img>")


@builder("granite-docling", "granite_docling", is_further=True)
def build_granite_docling(folder: Path) -> None:
    """Granite Docling: reads pages; tiles, and features of several layers."""
    marks = [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    tokenizer = tokenizer_of("<fake_token_around_image>", "<global-img>", *marks, image_token="<image>")
    config = {
        "text_config": llama_text(tokenizer),
        "vision_config": vision(
            out_hidden_size=64, scale_factor=2, use_fine_route=False, deepstack_visual_indexes=[0, 1]
        ),
        "pad_token_id": tokenizer.pad_token_id,
        **ids_of(tokenizer, image_token_id="<image>"),
    }
    pictures = pictures_of("granite_docling", "GraniteDocling", size=SQUARE, max_patches=4)
    save_kind(folder, "GraniteDocling", tokenizer, pictures, config, image_seq_len=4)


@builder("minicpm-v-4.6", "minicpmv4_6", is_further=True)
def build_minicpm_v(folder: Path) -> None:
    """MiniCPM-V: slices, over Qwen3.5's recurrent layers."""
    tokenizer = tokenizer_of(
        image_token="<unk_image>", video_token="<video>", image_start_token="<image>",
        image_end_token="</image>", slice_start_token="<slice>", slice_end_token="</slice>",
        image_id_start_token="<image_id>", image_id_end_token="</image_id>",
    )  # fmt: skip
    config = {
        "text_config": {
            "model_type": "qwen3_5_text",
            **llama_text(tokenizer, num_hidden_layers=4, head_dim=32),
            "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16,
            "linear_value_head_dim": 16, "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        },
        "vision_config": vision(image_size=64, insert_layer_id=0),
        "insert_layer_id": 0,
        "image_size": 64,
        **ids_of(tokenizer, image_token_id="<unk_image>", video_token_id="<video>"),
    }  # fmt: skip
    pictures = pictures_of("minicpmv4_6", "MiniCPMV4_6", scale_resolution=64, patch_size=8, max_slice_nums=2)
    save_kind(folder, "MiniCPMV4_6", tokenizer, pictures, config, placeholder="<unk_image>")


@builder("t5gemma-2", "t5gemma2", is_further=True)
def build_t5gemma2(folder: Path) -> None:
    """T5Gemma 2: an encoder reads pictures and words, a decoder answers."""
    tokenizer = tokenizer_of(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    text = llama_text(
        tokenizer, head_dim=32, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
    )
    marks = ids_of(
        tokenizer, image_token_index="<image_soft_token>", boi_token_index="<start_of_image>",
        eoi_token_index="<end_of_image>",
    )  # fmt: skip
    config = {
        "encoder": {
            "text_config": text,
            "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **vision()},
            "mm_tokens_per_image": 4, **marks,
        },
        "decoder": text,
        "image_token_index": marks["image_token_index"],
        "eoi_token_index": marks["eoi_token_index"],
        **ends_of(tokenizer),
        "decoder_start_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    pictures = pictures_of("gemma3", "Gemma3", size=SQUARE, image_seq_length=4)
    save_kind(
        folder, "T5Gemma2", tokenizer, pictures, config, processor="Gemma3Processor",
        placeholder="<start_of_image>", image_seq_length=4, woken=("mm_input_projection_weight",),
    )  # fmt: skip


@builder("ernie-4.5-vl", "ernie4_5_vl_moe", is_further=True)
def build_ernie(folder: Path) -> None:
    """ERNIE 4.5 VL: experts for words and others for pictures."""
    tokenizer = tokenizer_of(
        image_token="<|IMAGE_PLACEHOLDER|>", video_token="<|VIDEO_PLACEHOLDER|>",
        image_start_token="<|IMAGE_START|>", image_end_token="<|IMAGE_END|>",
        video_start_token="<|VIDEO_START|>", video_end_token="<|VIDEO_END|>",
    )  # fmt: skip
    config = {
        "text_config": llama_text(
            tokenizer, moe_intermediate_size=[32, 16], moe_k=2, moe_num_experts=4, moe_num_shared_experts=1,
            mlp_layer_types=["dense", "sparse"],
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 6, 4]},
        ),
        "vision_config": {
            "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "patch_size": 8,
            "spatial_merge_size": 2, "temporal_merge_size": 2,
        },
        **ids_of(
            tokenizer, image_token_id="<|IMAGE_PLACEHOLDER|>", image_start_token_id="<|IMAGE_START|>",
            image_end_token_id="<|IMAGE_END|>", video_token_id="<|VIDEO_PLACEHOLDER|>",
            video_start_token_id="<|VIDEO_START|>", video_end_token_id="<|VIDEO_END|>",
        ),
    }  # fmt: skip
    pictures = pictures_of("ernie4_5_vl_moe", "Ernie4_5_VLMoe", **{**QWEN_PICTURES, "temporal_patch_size": 1})
    save_kind(
        folder, "Ernie4_5_VLMoe", tokenizer, pictures, config,
        placeholder="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    )  # fmt: skip


@builder("qianfan-ocr", "qianfan_ocr", is_further=True)
def build_qianfan_ocr(folder: Path) -> None:
    """Qianfan-OCR: reads pages; InternVL's way."""
    tokenizer = tokenizer_of(
        "<image>",
        "<video>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
    )
    config = {
        "text_config": {"model_type": "qwen3", **llama_text(tokenizer, head_dim=32)},
        "vision_config": vision(image_size=[SIDE, SIDE], patch_size=[8, 8], drop_path_rate=0.0),
        "image_seq_length": 4,
        **ids_of(tokenizer, image_token_id="<IMG_CONTEXT>"),
    }
    pictures = pictures_of(
        "got_ocr2", "GotOcr2", size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=4
    )
    save_kind(folder, "QianfanOCR", tokenizer, pictures, config, image_seq_length=4)
