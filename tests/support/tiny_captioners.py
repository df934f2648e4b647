"""Tiny builds of captioners and readers of pages: families whose processor places the picture itself.

Neighbours: `tiny_parts` holds what they are made of, `tiny_models` loads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_parts import SIDE, builder, byte_tokenizer, ends_of, ids_of, llama_text, save, vision

__all__: list[str] = []


def _bert_like(specials: list[str]) -> Any:
    """A tokenizer that writes [CLS] and [SEP] around a text; byte-level, so that every text comes back."""
    from tokenizers import processors

    tokenizer = byte_tokenizer(["[CLS]", *specials], eos="[SEP]", pad="[PAD]")
    tokenizer.cls_token, tokenizer.sep_token = "[CLS]", "[SEP]"
    ends = [(word, tokenizer.convert_tokens_to_ids(word)) for word in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return tokenizer


_ALONE = {"max_pictures": 1, "needs_picture": True, "is_chat": False, "is_further": True}


@builder("blip", "blip", tokens_per_picture=0, **_ALONE)
def build_blip(folder: Path) -> None:
    """Captions and answers; a text decoder looks at the picture across."""
    from transformers import BlipConfig, BlipForConditionalGeneration
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    tokenizer = _bert_like(["[DEC]"])
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "encoder_hidden_size": 32, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512,
        "initializer_range": 0.5, **ids_of(
            tokenizer, bos_token_id="[DEC]", eos_token_id="[SEP]", sep_token_id="[SEP]", pad_token_id="[PAD]"
        ),
    }  # fmt: skip
    seeing = vision(initializer_range=0.5)
    config = BlipConfig(text_config=text, vision_config=seeing, image_text_hidden_size=16)
    image_processor = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    save(folder, BlipForConditionalGeneration(config), tokenizer, image_processor, "BlipProcessor")


@builder("git", "git", tokens_per_picture=0, **_ALONE)
def build_git(folder: Path) -> None:
    """The model itself puts the picture before the words."""
    from transformers import GitConfig, GitForCausalLM
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = _bert_like([])
    config = GitConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=1024, vision_config=vision(),
        **ids_of(tokenizer, bos_token_id="[CLS]", eos_token_id="[SEP]", pad_token_id="[PAD]"),
    )  # fmt: skip
    crop = {"height": SIDE, "width": SIDE}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop)
    save(folder, GitForCausalLM(config), tokenizer, image_processor, "GitProcessor")


@builder("kosmos-2", "kosmos-2", tokens_per_picture=66, **_ALONE)
def build_kosmos2(folder: Path) -> None:
    """Places are words of their own; a mask says where the picture stands."""
    from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tags = [
        "</doc>", "<image>", "</image>", "</chunk>", "</line>", "<phrase>", "</phrase>", "<object>",
        "</object>", "</delimiter_of_multi_objects/>", "<grounding>",
    ]  # fmt: skip
    patches = [f"<patch_index_{n:04d}>" for n in range(16)]
    tokenizer = byte_tokenizer([*tags, *patches], bos="<s>", eos="</s>", pad="<pad>")
    tokenizer.unk_token = "Ā"  # a byte that no text has: the picture's places are the ids behind it
    config = Kosmos2Config(
        text_config={
            "vocab_size": len(tokenizer), "embed_dim": 64, "layers": 2, "ffn_dim": 128, "attention_heads": 2,
            **ends_of(tokenizer),
        },
        vision_config=vision(),
        latent_query_num=64,
    )  # fmt: skip
    crop = {"height": SIDE, "width": SIDE}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=crop)
    save(
        folder, Kosmos2ForConditionalGeneration(config), tokenizer, image_processor, "Kosmos2Processor",
        num_patch_index_tokens=16,
    )  # fmt: skip


@builder("florence-2", "florence2", tokens_per_picture=5, **_ALONE)
def build_florence2(folder: Path) -> None:
    """Tasks as words (``<OD>``), over BART: an encoder reads, a decoder answers."""
    from transformers import Florence2Config, Florence2ForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = byte_tokenizer(
        ["<image>"], bos="<s>", eos="</s>", pad="<pad>", named={"image_token": "<image>"}
    )
    config = Florence2Config(
        text_config={
            "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 64, "encoder_layers": 2,
            "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
            "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 512,
            "decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": None,
            "init_std": 0.2, **ends_of(tokenizer),
        },
        vision_config={
            "depths": (1, 1, 1, 1), "embed_dim": (8, 16, 16, 32), "num_heads": (1, 1, 1, 2),
            "num_groups": (1, 1, 1, 2), "window_size": 4, "projection_dim": 64, "drop_path_rate": 0.0,
        },
        **ids_of(tokenizer, image_token_id="<image>"),
    )  # fmt: skip
    crop = {"height": 64, "width": 64}
    image_processor = CLIPImageProcessorPil(size=crop, crop_size=crop, do_center_crop=False)
    image_processor.image_seq_length = 5
    save(folder, Florence2ForConditionalGeneration(config), tokenizer, image_processor, "Florence2Processor")


@builder("got-ocr", "got_ocr2", max_pictures=1, needs_picture=True, tokens_per_picture=256, is_further=True)
def build_got_ocr(folder: Path) -> None:
    """Reads pages; a dialogue without a template."""
    from transformers import GotOcr2Config, GotOcr2ForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    tokenizer = byte_tokenizer(
        ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>"], eos="<|im_end|>", pad="<|endoftext|>"
    )
    config = GotOcr2Config(
        text_config={"model_type": "qwen2", **llama_text(tokenizer)},
        vision_config={
            "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 256, "patch_size": 4, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64,
            "initializer_range": 0.2,
        },
        image_seq_length=256,
        **ids_of(tokenizer, image_token_index="<imgpad>"),
    )  # fmt: skip
    image_processor = GotOcr2ImageProcessorPil(size={"height": 256, "width": 256})
    save(folder, GotOcr2ForConditionalGeneration(config), tokenizer, image_processor, "GotOcr2Processor")
