"""Tiny builds of further types, for the contract of families alone: most go through the generic row.

They share one tokenizer and one dialogue, so a build is its configuration. Neighbours: `tiny_parts` holds
what they are made of, `tiny_models` loads them.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import transformers
from tiny_parts import (
    QWEN_SPECIALS,
    SIDE,
    builder,
    byte_tokenizer,
    clip_vision,
    ids_of,
    llama_text,
    qformer,
    save,
    vision,
    wake,
)
from tiny_templates import INTERN_CHAT, QWEN_VL_CHAT

__all__ = [
    "QWEN_PICTURES", "SQUARE", "pictures_of", "qwen_ids", "save_kind", "seeing", "tokenizer_of",
]  # fmt: skip

SQUARE = {"height": SIDE, "width": SIDE}
QWEN_PICTURES = {
    "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, "patch_size": 8, "temporal_patch_size": 2,
    "merge_size": 2,
}  # fmt: skip
_GRIDS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
_SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **vision()}


def tokenizer_of(*specials: str, **named: str) -> Any:
    """Of Qwen's form, with a family's own special tokens, those with a name as keywords."""
    every = ["<|im_start|>", "<|im_end|>", *specials, *named.values()]
    return byte_tokenizer(every, bos="<s>", eos="<|im_end|>", pad="<|endoftext|>", named=named or None)


def pictures_of(module: str, name: str, **settings: Any) -> Any:
    """An image processor without torchvision."""
    found = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    return getattr(found, f"{name}ImageProcessorPil")(**settings)


def save_kind(
    folder: Path,
    kind: str,
    tokenizer: Any,
    pictures: Any,
    config: dict[str, Any],
    *,
    processor: str = "",
    placeholder: str = "<image>",
    template: str = "",
    videos: str = "",
    woken: tuple[str, ...] = (),
    **settings: Any,
) -> None:
    """A build of the classes that start with ``kind``."""
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(
        getattr(transformers, f"{kind}Config")(**config)
    )
    wake(model, *woken)
    template = template or INTERN_CHAT.replace("<IMG_CONTEXT>\n", placeholder)
    save(folder, model, tokenizer, pictures, processor or f"{kind}Processor", template=template, **settings)
    if videos:
        (folder / "video_preprocessor_config.json").write_text(json.dumps({"video_processor_type": videos}))


# ---- Qwen's way: any resolution ----------------------------------------------------------------


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    return ids_of(
        tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>",
    )  # fmt: skip


def seeing(**more: Any) -> dict[str, Any]:
    """A vision tower that takes any resolution."""
    return {
        "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64,
        "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, **more,
    }  # fmt: skip


@builder("qwen3-vl-moe", "qwen3_vl_moe", is_further=True)
def build_qwen3_vl_moe(folder: Path) -> None:
    """Qwen3-VL with experts."""
    tokenizer = tokenizer_of(*QWEN_SPECIALS[2:])
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = {
        "text_config": llama_text(tokenizer, rope_parameters=rope, head_dim=32, **experts),
        "vision_config": seeing(depth=3, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
        **qwen_ids(tokenizer),
    }
    save_kind(
        folder, "Qwen3VLMoe", tokenizer, pictures_of("qwen2_vl", "Qwen2VL", **QWEN_PICTURES), config,
        processor="Qwen3VLProcessor", template=QWEN_VL_CHAT,
    )  # fmt: skip


_GLM = [f"<|{edge}_of_{what}|>" for what in ("image", "video") for edge in ("begin", "end")]


def _build_glm(folder: Path, kind: str, processor: str, **text: Any) -> None:
    tokenizer = tokenizer_of(*_GLM, image_token="<|image|>", video_token="<|video|>")
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 6, 6],
        "partial_rotary_factor": 1.0,
    }
    config = {
        "text_config": llama_text(tokenizer, rope_parameters=rope, **text),
        "vision_config": seeing(image_size=SIDE, out_hidden_size=64),
        **ids_of(
            tokenizer,
            image_token_id="<|image|>",
            video_token_id="<|video|>",
            image_start_token_id=_GLM[0],
            image_end_token_id=_GLM[1],
            video_start_token_id=_GLM[2],
            video_end_token_id=_GLM[3],
        ),
    }
    save_kind(
        folder,
        kind,
        tokenizer,
        pictures_of("glm46v", "Glm46V", **QWEN_PICTURES)
        if processor == "Glm46VProcessor"
        else pictures_of("glm4v", "Glm4v", **QWEN_PICTURES),
        config,
        processor=processor,
        placeholder="<|begin_of_image|><|image|><|end_of_image|>",
    )


_GLM_EXPERTS = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
}  # fmt: skip


@builder("glm-4.1v", "glm4v", is_further=True)
def build_glm4v(folder: Path) -> None:
    """GLM-4.1V."""
    _build_glm(folder, "Glm4v", "Glm4vProcessor")


@builder("glm-4.5v", "glm4v_moe", is_further=True)
def build_glm4v_moe(folder: Path) -> None:
    """GLM-4.5V: with experts."""
    _build_glm(folder, "Glm4vMoe", "Glm4vProcessor", **_GLM_EXPERTS)


@builder("glm-4.6v", "glm46v", is_further=True)
def build_glm46v(folder: Path) -> None:
    """GLM-4.6V."""
    _build_glm(folder, "Glm46V", "Glm46VProcessor", model_type="glm4v_text")


@builder("glm-ocr", "glm_ocr", is_further=True)
def build_glm_ocr(folder: Path) -> None:
    """GLM-OCR: reads pages."""
    _build_glm(folder, "GlmOcr", "Glm46VProcessor")


@builder("paddleocr-vl", "paddleocr_vl", is_further=True)
def build_paddleocr_vl(folder: Path) -> None:
    """PaddleOCR-VL: reads pages."""
    tokenizer = tokenizer_of(
        "<|IMAGE_START|>", "<|IMAGE_END|>", "<|video|>", image_token="<|IMAGE_PLACEHOLDER|>"
    )
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    config = {
        "text_config": llama_text(tokenizer, rope_parameters=rope, head_dim=32),
        "vision_config": vision(spatial_merge_size=2),
        **ids_of(
            tokenizer, image_token_id="<|IMAGE_PLACEHOLDER|>", video_token_id="<|video|>",
            vision_start_token_id="<|IMAGE_START|>", vision_end_token_id="<|IMAGE_END|>",
        ),
    }  # fmt: skip
    pictures = pictures_of("paddleocr_vl", "PaddleOCRVL", **{**QWEN_PICTURES, "temporal_patch_size": 1})
    save_kind(
        folder, "PaddleOCRVL", tokenizer, pictures, config,
        placeholder="<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    )  # fmt: skip


@builder("exaone-4.5", "exaone4_5", is_further=True)
def build_exaone(folder: Path) -> None:
    """EXAONE 4.5: a tower with grouped keys."""
    tokenizer = tokenizer_of(*QWEN_SPECIALS[2:])
    config = {
        "text_config": {"model_type": "exaone4", **llama_text(tokenizer)},
        "vision_config": seeing(window_size=32, fullatt_block_indexes=[1], num_key_value_heads=1),
        **ids_of(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
    }
    save_kind(
        folder, "Exaone4_5_", tokenizer, pictures_of("qwen2_vl", "Qwen2VL", **QWEN_PICTURES), config,
        template=QWEN_VL_CHAT,
    )  # fmt: skip


@builder("video-llama-3", "video_llama_3", is_further=True)
def build_video_llama_3(folder: Path) -> None:
    """VideoLLaMA 3, asked about pictures."""
    tokenizer = tokenizer_of(image_token="<image>", video_token="<video>")
    config = {
        "text_config": {"model_type": "qwen2", **llama_text(tokenizer)},
        "vision_config": vision(),
        **ids_of(tokenizer, image_token_id="<image>", video_token_id="<video>"),
    }
    pictures = pictures_of("video_llama_3", "VideoLlama3", **{**QWEN_PICTURES, "temporal_patch_size": 1})
    save_kind(folder, "VideoLlama3", tokenizer, pictures, config)


@builder("lighton-ocr", "lighton_ocr", is_further=True)
def build_lighton_ocr(folder: Path) -> None:
    """LightOnOCR: Pixtral's tower under Qwen3."""
    tokenizer = tokenizer_of(
        image_token="<|image_pad|>", image_break_token="<|vision_pad|>", image_end_token="<|vision_end|>"
    )
    config = {
        "text_config": {"model_type": "qwen3", **llama_text(tokenizer, head_dim=32)},
        "vision_config": {"model_type": "pixtral", **vision(head_dim=16)},
        "spatial_merge_size": 2,
        **ids_of(tokenizer, image_token_id="<|image_pad|>"),
    }
    pictures = pictures_of("pixtral", "Pixtral", size={"longest_edge": SIDE}, patch_size=16)
    save_kind(
        folder, "LightOnOcr", tokenizer, pictures, config, placeholder="<|image_pad|>", patch_size=8,
        spatial_merge_size=2,
    )  # fmt: skip


# ---- always as many tokens a picture -------------------------------------------------------------


@builder("deepseek-vl", "deepseek_vl", tokens_per_picture=16, is_further=True)
def build_deepseek_vl(folder: Path) -> None:
    """DeepSeek-VL."""
    tokenizer = tokenizer_of(image_token="<image_placeholder>")
    config = {
        "text_config": {"model_type": "llama", **llama_text(tokenizer)},
        "vision_config": _SIGLIP,
        **ids_of(tokenizer, image_token_id="<image_placeholder>"),
    }
    pictures = pictures_of("deepseek_vl", "DeepseekVL", size=SQUARE)
    save_kind(
        folder, "DeepseekVL", tokenizer, pictures, config, placeholder="<image_placeholder>",
        num_image_tokens=16,
    )  # fmt: skip


@builder("deepseek-vl-hybrid", "deepseek_vl_hybrid", tokens_per_picture=16, is_further=True)
def build_deepseek_vl_hybrid(folder: Path) -> None:
    """DeepSeek-VL 7B: a second tower sees the picture larger."""
    tokenizer = tokenizer_of(image_token="<image_placeholder>")
    config = {
        "text_config": {"model_type": "llama", **llama_text(tokenizer)},
        "vision_config": _SIGLIP,
        "high_res_vision_config": {
            "model_type": "sam_vision_model", "hidden_size": 32, "output_channels": 16,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
            "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64,
        },
        **ids_of(tokenizer, image_token_id="<image_placeholder>"),
    }  # fmt: skip
    large = {"height": 64, "width": 64}
    pictures = pictures_of("deepseek_vl_hybrid", "DeepseekVLHybrid", size=SQUARE, high_res_size=large)
    save_kind(
        folder, "DeepseekVLHybrid", tokenizer, pictures, config, placeholder="<image_placeholder>",
        num_image_tokens=16,
    )  # fmt: skip


@builder("janus", "janus", tokens_per_picture=18, is_further=True)
def build_janus(folder: Path) -> None:
    """Janus: it could draw as well, and is asked for words."""
    tokenizer = tokenizer_of(
        image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>"
    )
    config = {
        "text_config": {"model_type": "llama", **llama_text(tokenizer)},
        "vision_config": vision(mlp_ratio=2.0, projection_dim=64, num_image_tokens=16),
        "vq_config": {
            "embed_dim": 8, "num_embeddings": 16, "latent_channels": 32, "base_channels": 32,
            "channel_multiplier": [1, 1], "num_res_blocks": 1, "num_patches": 4, "projection_dim": 64,
            "image_token_embed_dim": 64,
        },
        **ids_of(tokenizer, image_token_id="<image_placeholder>"),
    }  # fmt: skip
    pictures = pictures_of("janus", "Janus", size=SQUARE)
    save_kind(
        folder, "Janus", tokenizer, pictures, config, placeholder="<image_placeholder>", num_image_tokens=16
    )


@builder("ovis2", "ovis2", is_further=True)
def build_ovis2(folder: Path) -> None:
    """Ovis2: pictures as weights over a vocabulary of their own."""
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = tokenizer_of(*marks, "<IMG_ATOM>", "<image>")
    config = {
        "text_config": {"model_type": "qwen2", **llama_text(tokenizer)},
        "vision_config": vision(vocab_size=32),
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "visual_indicator_token_ids": [tokenizer.convert_tokens_to_ids(mark) for mark in marks],
        **ids_of(tokenizer, image_token_id="<IMG_ATOM>"),
    }
    save_kind(
        folder, "Ovis2", tokenizer, pictures_of("ovis2", "Ovis2", size=SQUARE), config, image_seq_length=16
    )


@builder("aria", "aria", is_further=True)
def build_aria(folder: Path) -> None:
    """Aria: experts, and a projector that asks a fixed number of questions."""
    tokenizer = tokenizer_of(image_token="<|img|>")
    config = {
        "text_config": llama_text(tokenizer, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1),
        "vision_config": {"model_type": "idefics3_vision", **vision(image_size=980, patch_size=140)},
        "projector_patch_to_query_dict": {49: 4},
        **ids_of(tokenizer, image_token_index="<|img|>"),
    }
    pictures = pictures_of("aria", "Aria", max_image_size=980, min_image_size=336)
    save_kind(folder, "Aria", tokenizer, pictures, config, placeholder="<|img|>", size_conversion={"980": 4})


@builder("llava-next-video", "llava_next_video", is_further=True)
def build_llava_next_video(folder: Path) -> None:
    """LLaVA-NeXT-Video, asked about pictures."""
    tokenizer = tokenizer_of("<image>", "<video>")
    config = {
        "text_config": {"model_type": "llama", **llama_text(tokenizer)},
        "vision_config": clip_vision(),
        "image_grid_pinpoints": _GRIDS,
        "image_seq_length": 16,
        **ids_of(tokenizer, image_token_index="<image>", video_token_index="<video>"),
    }
    pictures = pictures_of(
        "llava_next", "LlavaNext", size={"shortest_edge": SIDE}, crop_size=SQUARE,
        image_grid_pinpoints=_GRIDS,
    )  # fmt: skip
    save_kind(
        folder, "LlavaNextVideo", tokenizer, pictures, config, patch_size=8,
        videos="LlavaNextVideoVideoProcessor",
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


@builder("video-llava", "video_llava", tokens_per_picture=16, is_further=True)
def build_video_llava(folder: Path) -> None:
    """Video-LLaVA, asked about pictures."""
    from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

    tokenizer = tokenizer_of("<image>", "<video>")
    config = {
        "text_config": {"model_type": "llama", **llama_text(tokenizer)},
        "vision_config": clip_vision(),
        "image_seq_length": 16,
        **ids_of(tokenizer, image_token_index="<image>", video_token_index="<video>"),
    }
    pictures = VideoLlavaImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    save_kind(
        folder, "VideoLlava", tokenizer, pictures, config, patch_size=8, videos="VideoLlavaVideoProcessor",
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


@builder("chameleon", "chameleon", is_further=True)
def build_chameleon(folder: Path) -> None:
    """Chameleon: pictures become words of the vocabulary."""
    codes = [f"IMGIMG{tens}{ones}Z" for tens in "AB" for ones in "ABCDEFGHIJ"]
    tokenizer = tokenizer_of(
        *codes, "<reserved08706>", image_token="<image>", boi_token="<racm3:break>", eoi_token="<eoss>"
    )
    config = {
        **llama_text(tokenizer),
        "vocabulary_map": tokenizer.get_vocab(),
        "vq_config": {
            "embed_dim": 8, "num_embeddings": 16, "latent_channels": 32, "base_channels": 32,
            "channel_multiplier": [1, 1, 1], "num_res_blocks": 1, "resolution": SIDE,
        },
    }  # fmt: skip
    pictures = pictures_of("chameleon", "Chameleon", size={"shortest_edge": SIDE}, crop_size=SQUARE)
    save_kind(folder, "Chameleon", tokenizer, pictures, config, image_seq_length=64)


@builder("granite-4-vision", "granite4_vision", is_further=True)
def build_granite4_vision(folder: Path) -> None:
    """Granite 4 Vision: Q-Formers between LLaVA-NeXT's tower and several layers."""
    tokenizer = tokenizer_of("<image>")
    config = {
        "text_config": llama_text(tokenizer, num_key_value_heads=2),
        "vision_config": {**_SIGLIP, "hidden_size": 64},
        "image_grid_pinpoints": _GRIDS,
        "vision_feature_select_strategy": "full",
        "image_seq_length": 16,
        "downsample_rate": "2/4",
        "deepstack_layer_map": [[-1, 0]],
        "qformer_config": {"model_type": "blip_2_qformer", **qformer()},
        **ids_of(tokenizer, image_token_index="<image>"),
    }
    pictures = pictures_of(
        "llava_next", "LlavaNext", size={"shortest_edge": SIDE}, crop_size=SQUARE,
        image_grid_pinpoints=_GRIDS,
    )  # fmt: skip
    save_kind(
        folder, "Granite4Vision", tokenizer, pictures, config, patch_size=8, downsample_rate="2/4",
        vision_feature_select_strategy="full", num_additional_image_tokens=0,
    )  # fmt: skip


@builder("emu3", "emu3", is_further=True)
def build_emu3(folder: Path) -> None:
    """Emu3: pictures become words of the vocabulary, row by row."""
    from transformers.models.emu3.image_processing_emu3 import Emu3ImageProcessor

    codes = [f"<|visual token {n:06d}|>" for n in range(16)]
    tokenizer = tokenizer_of(
        *codes,
        "<|extra_200|>",
        image_token="<image>",
        boi_token="<|image start|>",
        eoi_token="<|image end|>",
        image_wrapper_token="<|image token|>",
        eof_token="<|extra_201|>",
    )
    config = {
        "text_config": llama_text(tokenizer),
        "vocabulary_map": tokenizer.get_vocab(),
        "vq_config": {
            "codebook_size": 16, "embed_dim": 4, "latent_channels": 4, "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1, "hidden_size": 32,
            "temporal_downsample_factor": 1, "attn_resolutions": [3],
        },
    }  # fmt: skip
    pictures = Emu3ImageProcessor(min_pixels=32 * 32, max_pixels=64 * 64, spatial_factor=8)
    save_kind(folder, "Emu3", tokenizer, pictures, config)
