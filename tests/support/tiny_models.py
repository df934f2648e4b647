"""Tiny random builds of real architectures: configuration, tokenizer, chat template, processor, weights.

Each is made in about a tenth of a second, saved to a folder and loaded again through `load_model`, so tests
walk the same path as people. The tokenizers are trained on the spot with the family's own special tokens;
the chat templates are written here in the form that the family uses. The weights are random: nothing these
models say means anything.

A new family is one function here with `@builder` above it, and one row in
`vlm_magic.models.prompts.families`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tiny_captioners  # noqa: F401  (registers its builds)
import tiny_further  # noqa: F401  (registers its builds)
import tiny_newest  # noqa: F401  (registers its builds)
import tiny_today  # noqa: F401  (registers its builds)
import torch
from tiny_parts import (
    MORE,
    NOT_BUILT,
    QWEN_SPECIALS,
    SIDE,
    TINY,
    Tiny,
    builder,
    byte_tokenizer,
    clip_vision,
    ends_of,
    ids_of,
    llama_text,
    piece_tokenizer,
    qformer,
    save,
    vision,
    wake,
)
from tiny_templates import (
    GEMMA_CHAT,
    IDEFICS_CHAT,
    INTERN_CHAT,
    LLAMA_CHAT,
    LLAVA_CHAT,
    MISTRAL_CHAT,
    QWEN_TEXT_CHAT,
    QWEN_VL_CHAT,
)

__all__ = [
    "MORE",
    "NOT_BUILT",
    "TINY",
    "Tiny",
    "build_large",
    "build_wide_cache",
    "copy_of",
    "folder_of",
    "tiny",
]


@cache
def _root() -> Path:
    return Path(tempfile.mkdtemp(prefix="tiny-models-"))


@cache
def folder_of(name: str) -> Path:
    """The folder of a tiny build, made when first asked for."""
    folder = _root() / name
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        {**TINY, **MORE}[name].build(folder)
    finally:
        torch.random.set_rng_state(state)
    return folder


def copy_of(name: str, target: Path) -> Path:
    """A copy of a tiny build that a test may spoil."""
    shutil.copytree(folder_of(name), target)
    return target


@cache
def tiny(name: str) -> Any:
    """A tiny build, loaded; shared by all tests of a session, so leave it as it is."""
    from vlm_magic.models.checkpoints.loading import load_model

    return load_model(folder_of(name))


# ---- Idefics -----------------------------------------------------------------------------------


def _build_idefics(folder: Path, specials: Sequence[str]) -> None:
    from transformers import IdeficsConfig, IdeficsForVisionText2Text
    from transformers.models.idefics.image_processing_pil_idefics import IdeficsImageProcessorPil

    tokenizer = piece_tokenizer(specials, pad="<unk>")
    config = IdeficsConfig(
        **llama_text(tokenizer, num_key_value_heads=None),
        additional_vocab_size=0,
        cross_layer_interval=1,
        alpha_initializer="ones",  # with the default, zeros, pictures have no effect at all
        qk_layer_norms=True,
        use_resampler=True,
        vision_config={
            "embed_dim": 32, "image_size": SIDE, "patch_size": 8, "num_hidden_layers": 2,
            "num_attention_heads": 2, "intermediate_size": 64,
        },
        perceiver_config={
            "use_resampler": True, "resampler_n_latents": 4, "resampler_depth": 1,
            "resampler_n_heads": 2, "resampler_head_dim": 16, "qk_layer_norms_perceiver": True,
        },
    )  # fmt: skip
    model = IdeficsForVisionText2Text(config)
    image_processor = IdeficsImageProcessorPil(image_size=SIDE, image_num_channels=3)
    save(folder, model, tokenizer, image_processor, "IdeficsProcessor")


@builder("idefics", "idefics", is_chat=False, tokens_per_picture=3)
def build_idefics(folder: Path) -> None:
    """The base checkpoint: continues interleaved texts and pictures."""
    _build_idefics(folder, ["<fake_token_around_image>", "<image>"])


@builder("idefics-instruct", "idefics", tokens_per_picture=3)
def build_idefics_instruct(folder: Path) -> None:
    """The instruct checkpoint: dialogues without a chat template."""
    _build_idefics(folder, ["<fake_token_around_image>", "<image>", "<end_of_utterance>"])


def _build_idefics2(folder: Path, template: str | None) -> None:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = piece_tokenizer(specials, pad="<unk>")
    config = Idefics2Config(
        text_config={"model_type": "mistral", **llama_text(tokenizer, sliding_window=None)},
        vision_config=vision(),
        perceiver_config={
            "model_type": "idefics2_perceiver", "resampler_n_latents": 4, "resampler_depth": 1,
            "resampler_n_heads": 2, "resampler_head_dim": 16, "num_key_value_heads": 1,
        },
        **ids_of(tokenizer, image_token_id="<image>"),
    )  # fmt: skip
    image_processor = Idefics2ImageProcessorPil(
        size={"longest_edge": SIDE, "shortest_edge": 16}, do_image_splitting=False
    )
    model = Idefics2ForConditionalGeneration(config)
    save(folder, model, tokenizer, image_processor, "Idefics2Processor", template=template, image_seq_len=4)


@builder("idefics2-base", "idefics2", is_chat=False, tokens_per_picture=6)
def build_idefics2_base(folder: Path) -> None:
    """The base checkpoint, without a template."""
    _build_idefics2(folder, None)


@builder("idefics2-chatty", "idefics2", tokens_per_picture=6)
def build_idefics2_chatty(folder: Path) -> None:
    """The chat checkpoint."""
    _build_idefics2(folder, IDEFICS_CHAT)


def _build_idefics3(folder: Path, kind: str, splitting: bool = False, **text: int) -> None:
    import transformers
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    marks = [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *marks]
    tokenizer = byte_tokenizer(specials, bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>")
    config = getattr(transformers, f"{kind}Config")(
        text_config={"model_type": "llama", **llama_text(tokenizer, **text)},
        vision_config=vision(),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE * 2},
        max_image_size={"longest_edge": SIDE},
        do_image_splitting=splitting,
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    template = "<|im_start|>" + IDEFICS_CHAT
    save(folder, model, tokenizer, image_processor, f"{kind}Processor", template=template, image_seq_len=4)


@builder("idefics3", "idefics3", tokens_per_picture=7)
def build_idefics3(folder: Path) -> None:
    """One tile a picture."""
    _build_idefics3(folder, "Idefics3")


@builder("idefics3-tiles", "idefics3")
def build_idefics3_tiles(folder: Path) -> None:
    """Pictures cut into tiles, as released."""
    _build_idefics3(folder, "Idefics3", splitting=True)


@builder("smolvlm", "smolvlm")
def build_smolvlm(folder: Path) -> None:
    """SmolVLM with tiles; its own processor wants torchvision and num2words."""
    _build_idefics3(folder, "SmolVLM", splitting=True)


# ---- LLaVA -------------------------------------------------------------------------------------


@builder("llava", "llava", tokens_per_picture=16)
def build_llava(folder: Path) -> None:
    """LLaVA 1.5: always 16 tokens here, 576 as released."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = piece_tokenizer(["<image>", "<pad>"], pad="<pad>")
    config = LlavaConfig(
        text_config={"model_type": "llama", **llama_text(tokenizer)},
        vision_config=clip_vision(),
        image_seq_length=16,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    save(
        folder, LlavaForConditionalGeneration(config), tokenizer, image_processor, "LlavaProcessor",
        template=LLAVA_CHAT, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


@builder("vip-llava", "vipllava", tokens_per_picture=16)
def build_vip_llava(folder: Path) -> None:
    """LLaVA with features of several vision layers."""
    from transformers import VipLlavaConfig, VipLlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = piece_tokenizer(["<image>", "<pad>"], pad="<pad>")
    config = VipLlavaConfig(
        text_config={"model_type": "llama", **llama_text(tokenizer)},
        vision_config=clip_vision(),
        vision_feature_layers=[-2, -1],
        image_seq_length=16,
        **ids_of(tokenizer, image_token_index="<image>"),
    )
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    save(
        folder, VipLlavaForConditionalGeneration(config), tokenizer, image_processor, "LlavaProcessor",
        template=LLAVA_CHAT, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


@builder("aya-vision", "aya_vision")
def build_aya_vision(folder: Path) -> None:
    """A family without a row of its own: tiles, over Cohere2."""
    from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    marks = [f"TILE_{n}" for n in range(1, 10)]
    specials = [
        "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>",
        "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL", *marks,
    ]  # fmt: skip
    tokenizer = byte_tokenizer(specials, bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>", pad="<PAD>")
    config = AyaVisionConfig(
        text_config={"model_type": "cohere2", **llama_text(tokenizer, layer_types=["full_attention"] * 2)},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision()},
        downsample_factor=2,
        **ids_of(tokenizer, image_token_index="<|IMG_PATCH|>"),
    )
    image_processor = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    template = INTERN_CHAT.replace("<IMG_CONTEXT>\n", "<image>")
    save(
        folder, AyaVisionForConditionalGeneration(config), tokenizer, image_processor, "AyaVisionProcessor",
        template=template, patch_size=16, img_size=SIDE, downsample_factor=1,
    )  # fmt: skip


@builder("llava-next", "llava_next")
def build_llava_next(folder: Path) -> None:
    """LLaVA-NeXT over Mistral: tiles in a grid; its template wants roles to alternate and knows no system."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    grids = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    tokenizer = piece_tokenizer(["<image>", "<pad>"], pad="<pad>")
    config = LlavaNextConfig(
        text_config={"model_type": "mistral", **llama_text(tokenizer, sliding_window=None)},
        vision_config=clip_vision(),
        image_grid_pinpoints=grids,
        image_seq_length=16,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=grids,
    )
    save(
        folder, LlavaNextForConditionalGeneration(config), tokenizer, image_processor, "LlavaNextProcessor",
        template=MISTRAL_CHAT, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip


@builder("llava-onevision", "llava_onevision")
def build_llava_onevision(folder: Path) -> None:
    """LLaVA-OneVision over Qwen2; its processor wants torchvision for videos."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    grids = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    tokenizer = byte_tokenizer(
        ["<|im_start|>", "<|im_end|>", "<image>", "<video>"], eos="<|im_end|>", pad="<|endoftext|>"
    )
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **llama_text(tokenizer)},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision()},
        image_grid_pinpoints=grids,
        **ids_of(tokenizer, image_token_id="<image>", video_token_id="<video>"),
    )
    image_processor = LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grids
    )
    save(
        folder, LlavaOnevisionForConditionalGeneration(config), tokenizer, image_processor,
        "LlavaOnevisionProcessor", template=QWEN_TEXT_CHAT, num_image_tokens=16,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip


# ---- Qwen --------------------------------------------------------------------------------------


def _build_qwen(
    folder: Path, kind: str, vision: dict[str, Any], processor_class: str, text: dict[str, Any]
) -> None:
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = byte_tokenizer(
        QWEN_SPECIALS, words=["<tool_call>", "</tool_call>"], eos="<|im_end|>", pad="<|endoftext|>"
    )
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6]}
    config = getattr(transformers, f"{kind}Config")(
        text_config=llama_text(tokenizer, rope_scaling=rope, **text),
        vision_config=vision,
        **ids_of(
            tokenizer,
            image_token_id="<|image_pad|>",
            video_token_id="<|video_pad|>",
            vision_start_token_id="<|vision_start|>",
            vision_end_token_id="<|vision_end|>",
        ),
    )
    image_processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64},
        patch_size=vision["patch_size"],
        temporal_patch_size=2,
        merge_size=2,
    )
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    save(folder, model, tokenizer, image_processor, processor_class, template=QWEN_VL_CHAT)


@builder("qwen2-vl", "qwen2_vl")
def build_qwen2_vl(folder: Path) -> None:
    """Any resolution, one token for four patches."""
    vision = {
        "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    _build_qwen(folder, "Qwen2VL", vision, "Qwen2VLProcessor", {})


@builder("qwen2.5-vl", "qwen2_5_vl")
def build_qwen2_5_vl(folder: Path) -> None:
    """With windows in the vision tower."""
    vision = {
        "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64,
        "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    _build_qwen(folder, "Qwen2_5_VL", vision, "Qwen2_5_VLProcessor", {})


@builder("qwen3-vl", "qwen3_vl")
def build_qwen3_vl(folder: Path) -> None:
    """With features of several vision layers."""
    vision = {
        "depth": 3, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 64,
        "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    _build_qwen(folder, "Qwen3VL", vision, "Qwen3VLProcessor", {"head_dim": 32})


# ---- Gemma, PaliGemma --------------------------------------------------------------------------


@builder("gemma3", "gemma3", tokens_per_picture=None)
def build_gemma3(folder: Path) -> None:
    """Attention over pictures both ways, sliding windows."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    specials = [
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    ]
    tokenizer = piece_tokenizer(
        specials, words=["<table>", "\n\n"], bos="<bos>", eos="<eos>", pad="<pad>", prefix=False,
        named={
            "image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )  # fmt: skip
    config = Gemma3Config(
        text_config=llama_text(
            tokenizer, head_dim=32, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
        ),
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision()},
        mm_tokens_per_image=4,
        **ids_of(
            tokenizer,
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
            image_token_index="<image_soft_token>",
        ),
    )
    model = Gemma3ForConditionalGeneration(config)
    wake(model, "mm_input_projection_weight")
    image_processor = Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_seq_length=4)
    save(
        folder, model, tokenizer, image_processor, "Gemma3Processor",
        template=GEMMA_CHAT, image_seq_length=4,
    )  # fmt: skip


@builder("paligemma", "paligemma", needs_picture=True, is_chat=False, tokens_per_picture=16)
def build_paligemma(folder: Path) -> None:
    """Pictures first, then a task in words; places are tokens such as <loc0123>."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = piece_tokenizer(
        ["<image>"], words=[f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)],
        bos="<bos>", eos="<eos>", pad="<pad>", adds_bos=False, prefix=False,
    )  # fmt: skip
    config = PaliGemmaConfig(
        text_config={"model_type": "gemma", **llama_text(tokenizer, head_dim=32)},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision()},
        projection_dim=64,
        vocab_size=len(tokenizer),
        **ids_of(tokenizer, image_token_index="<image>"),
    )
    image_processor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    image_processor.image_seq_length = 16
    save(folder, PaliGemmaForConditionalGeneration(config), tokenizer, image_processor, "PaliGemmaProcessor")


# ---- InternVL, Mllama --------------------------------------------------------------------------


@builder("internvl", "internvl")
def build_internvl(folder: Path) -> None:
    """Tiles beside the whole picture; its processor wants torchvision for videos."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    specials = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    tokenizer = byte_tokenizer(
        specials, eos="<|im_end|>", pad="<|endoftext|>",
        named={
            "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )  # fmt: skip
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **llama_text(tokenizer)},
        vision_config=vision(image_size=[SIDE, SIDE], patch_size=[8, 8]),
        image_seq_length=4,
        downsample_ratio=0.5,
        **ids_of(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )
    image_processor = GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    save(
        folder, InternVLForConditionalGeneration(config), tokenizer, image_processor, "InternVLProcessor",
        template=INTERN_CHAT, image_seq_length=4,
    )  # fmt: skip


@builder("mllama", "mllama", tokens_per_picture=1)
def build_mllama(folder: Path) -> None:
    """Pictures by cross-attention: one token in the text stands for each."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    specials = [
        "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>",
        "<|finetune_right_pad_id|>", "<|image|>",
    ]  # fmt: skip
    tokenizer = byte_tokenizer(
        specials, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|finetune_right_pad_id|>", adds_bos=True
    )
    config = MllamaConfig(
        text_config=llama_text(
            tokenizer, num_hidden_layers=3, cross_attention_layers=[1], rope_scaling={"rope_type": "default"},
            vocab_size=len(tokenizer) - 1,
        ),
        vision_config=vision(
            attention_heads=2, num_global_layers=1, max_num_tiles=4, intermediate_layers_indices=[0, 1],
            vision_output_dim=32 * 3,
            supported_aspect_ratios=[[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
        ),
        **ids_of(tokenizer, image_token_index="<|image|>"),
    )  # fmt: skip
    model = MllamaForConditionalGeneration(config)
    wake(model, "cross_attn_attn_gate", "cross_attn_mlp_gate")
    image_processor = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=4)
    save(
        folder, model, tokenizer, image_processor, "MllamaProcessor",
        template=LLAMA_CHAT,
    )  # fmt: skip


# ---- BLIP --------------------------------------------------------------------------------------


@builder("blip-2", "blip-2", max_pictures=1, needs_picture=True, is_chat=False, tokens_per_picture=4)
def build_blip2(folder: Path) -> None:
    """One picture, then words, over OPT."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = byte_tokenizer(["<image>"], bos="</s>", eos="</s>", pad="<pad>", adds_bos=True)
    config = Blip2Config(
        vision_config=vision(),
        qformer_config=qformer(),
        text_config={
            "model_type": "opt", "vocab_size": len(tokenizer), "hidden_size": 64, "ffn_dim": 128,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512,
            "word_embed_proj_dim": 64, **ends_of(tokenizer),
        },
        num_query_tokens=4,
        **ids_of(tokenizer, image_token_index="<image>"),
    )  # fmt: skip
    image_processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    save(
        folder, Blip2ForConditionalGeneration(config), tokenizer, image_processor, "Blip2Processor",
        num_query_tokens=4,
    )  # fmt: skip


@builder(
    "instructblip", "instructblip", max_pictures=1, needs_picture=True, is_chat=False, tokens_per_picture=4
)
def build_instructblip(folder: Path) -> None:
    """One picture and an instruction that its Q-Former reads too, over Vicuna."""
    tokenizer = piece_tokenizer(["<image>", "<pad>"], pad="<pad>")
    save_instructblip(folder, tokenizer, {"model_type": "llama", **llama_text(tokenizer)})


@builder(
    "instructblip-t5", "instructblip", max_pictures=1, needs_picture=True, is_chat=False, tokens_per_picture=4
)
def build_instructblip_t5(folder: Path) -> None:
    """The same over Flan-T5: an encoder reads the prompt, a decoder writes the answer."""
    tokenizer = piece_tokenizer(["<image>"], bos=None, pad="<pad>", adds_bos=False)
    text = {
        "model_type": "t5", "vocab_size": len(tokenizer), "d_model": 64, "d_kv": 32, "d_ff": 128,
        "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "feed_forward_proj": "gated-gelu",
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": tokenizer.pad_token_id, "is_encoder_decoder": True,
    }  # fmt: skip
    save_instructblip(folder, tokenizer, text)


def save_instructblip(folder: Path, tokenizer: Any, text_config: dict[str, Any]) -> None:
    """A build over some language model, with the second tokenizer that the Q-Former has."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, PreTrainedTokenizerFast
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    config = InstructBlipConfig(
        vision_config=vision(),
        qformer_config=qformer(),
        text_config=text_config,
        num_query_tokens=4,
        **ids_of(tokenizer, image_token_index="<image>"),
    )
    image_processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    save(
        folder, InstructBlipForConditionalGeneration(config), tokenizer, image_processor,
        "InstructBlipProcessor",
        num_query_tokens=4,
    )  # fmt: skip
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789.,?!<>|_"]
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder / "qformer_tokenizer")


def first_of_decoder(model: Any) -> dict[str, Any]:
    """What a forward needs beside the prompt where a decoder writes the answer: its first token."""
    text = model.config.get_text_config()
    if not (model.config.is_encoder_decoder or text.is_encoder_decoder):
        return {}
    start = getattr(text, "decoder_start_token_id", None)
    start = model.generation_config.decoder_start_token_id if start is None else start
    return {"decoder_input_ids": torch.tensor([[start]])}  # (1, 1) int64


# ---- not tiny ----------------------------------------------------------------------------------


def build_large(folder: Path, kind: str = "idefics3") -> Path:
    """A random build of about 100 million parameters, for figures of memory and time.

    Args:
        folder: to write.
        kind: "idefics3" or "llava".
    """
    torch.manual_seed(0)
    wide = {
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    }
    seeing = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 6}
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    if kind == "llava":
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        tokenizer = piece_tokenizer(["<image>", "<pad>"], pad="<pad>")
        text = {"model_type": "llama", **llama_text(tokenizer, **wide, num_hidden_layers=12)}
        config = LlavaConfig(
            text_config=text,
            vision_config=clip_vision(**seeing),
            **ids_of(tokenizer, image_token_id="<image>"),
        )
        crop = {"height": SIDE, "width": SIDE}
        pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop)
        save(
            folder, LlavaForConditionalGeneration(config), tokenizer, pictures, "LlavaProcessor",
            template=LLAVA_CHAT, patch_size=8, vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )  # fmt: skip
        return folder
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer = byte_tokenizer(specials, bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>")
    config = Idefics3Config(
        text_config={"model_type": "llama", **llama_text(tokenizer, **wide, num_hidden_layers=12)},
        vision_config=vision(**seeing),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    edge = {"longest_edge": SIDE}
    pictures = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    save(
        folder, Idefics3ForConditionalGeneration(config), tokenizer, pictures, "Idefics3Processor",
        template="<|im_start|>" + IDEFICS_CHAT, image_seq_len=4,
    )  # fmt: skip
    return folder


def build_wide_cache(folder: Path) -> Path:
    """A tiny build whose keys and values take 32 KB a token, too much for a small limit."""
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 256}
    _build_idefics3(folder, "Idefics3", num_hidden_layers=8, **heads)
    return folder
