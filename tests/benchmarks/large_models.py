"""Random builds of real architectures of about 100 million parameters, for benchmarks.

The tokenizers, templates and saving are those of the tiny builds; only the sizes differ. Pictures of
224 pixels cost 64 tokens in all but LLaVA (256).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tiny_models as tiny
from tiny_parts import byte_tokenizer, ids_of, llama_text, piece_tokenizer, save

from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.loaded import Loaded

SIDE = 224
TEXT = {
    "hidden_size": 640,
    "intermediate_size": 1792,
    "num_hidden_layers": 14,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "max_position_embeddings": 8192,
}
VISION = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "image_size": SIDE,
    "patch_size": 14,
}


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return llama_text(tokenizer, **TEXT, **more)


def idefics2(folder: Path) -> None:
    """64 latents a picture, as released."""
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration
    from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = piece_tokenizer(specials, pad="<unk>")
    perceiver = {
        "model_type": "idefics2_perceiver",
        "hidden_size": TEXT["hidden_size"],
        "resampler_n_latents": 64,
        "resampler_depth": 2,
        "resampler_n_heads": 8,
        "resampler_head_dim": 64,
        "num_key_value_heads": 4,
    }
    config = Idefics2Config(
        text_config={"model_type": "mistral", **_text(tokenizer, sliding_window=None)},
        vision_config=VISION,
        perceiver_config=perceiver,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    processor = Idefics2ImageProcessorPil(
        size={"longest_edge": SIDE, "shortest_edge": SIDE}, do_image_splitting=False
    )
    model = Idefics2ForConditionalGeneration(config)
    save(
        folder,
        model,
        tokenizer,
        processor,
        "Idefics2Processor",
        template=tiny.IDEFICS_CHAT,
        image_seq_len=64,
    )


def idefics3(folder: Path) -> None:
    """One tile of 256 patches, shuffled to 64 tokens."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer = byte_tokenizer(specials, bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>")
    config = Idefics3Config(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config=VISION,
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    model = Idefics3ForConditionalGeneration(config)
    template = "<|im_start|>" + tiny.IDEFICS_CHAT
    save(folder, model, tokenizer, processor, "Idefics3Processor", template=template, image_seq_len=64)


def llava(folder: Path) -> None:
    """256 tokens a picture."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = piece_tokenizer(["<image>", "<pad>"], pad="<pad>")
    config = LlavaConfig(
        text_config={"model_type": "llama", **_text(tokenizer)},
        vision_config={"model_type": "clip_vision_model", "projection_dim": 384, **VISION},
        image_seq_length=256,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    save(
        folder,
        LlavaForConditionalGeneration(config),
        tokenizer,
        processor,
        "LlavaProcessor",
        template=tiny.LLAVA_CHAT,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def qwen2_vl(folder: Path) -> None:
    """256 patches merged to 64 tokens."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = byte_tokenizer(
        tiny._QWEN_SPECIALS, words=["<tool_call>", "</tool_call>"], eos="<|im_end|>", pad="<|endoftext|>"
    )
    config = Qwen2VLConfig(
        text_config=_text(tokenizer, rope_scaling={"rope_type": "default", "mrope_section": [8, 12, 12]}),
        vision_config={
            "depth": 10,
            "embed_dim": 384,
            "hidden_size": TEXT["hidden_size"],
            "num_heads": 6,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        **ids_of(
            tokenizer,
            image_token_id="<|image_pad|>",
            video_token_id="<|video_pad|>",
            vision_start_token_id="<|vision_start|>",
            vision_end_token_id="<|vision_end|>",
        ),
    )
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 56 * 56, "longest_edge": SIDE * SIDE},
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
    )
    model = Qwen2VLForConditionalGeneration(config)
    save(folder, model, tokenizer, processor, "Qwen2VLProcessor", template=tiny.QWEN_VL_CHAT)


def smolvlm_256m(folder: Path) -> None:
    """A text model of SmolVLM-256M's shape; the vision tower is a small one."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    tokenizer = byte_tokenizer(specials, bos="<|im_start|>", eos="<|im_end|>", pad="<|im_end|>")
    shape = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
    }
    text = {**llama_text(tokenizer, **shape), "vocab_size": 49_280}
    config = Idefics3Config(
        text_config={"model_type": "llama", **text},
        vision_config={**VISION, "num_hidden_layers": 2},
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        **ids_of(tokenizer, image_token_id="<image>"),
    )
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    model = Idefics3ForConditionalGeneration(config)
    template = "<|im_start|>" + tiny.IDEFICS_CHAT
    save(folder, model, tokenizer, processor, "Idefics3Processor", template=template, image_seq_len=64)


BUILDS = {
    "idefics2": idefics2,
    "idefics3": idefics3,
    "llava": llava,
    "qwen2-vl": qwen2_vl,
    "smolvlm-256m": smolvlm_256m,
}


def large(name: str, options: LoadOptions | None = None) -> Loaded:
    """A large build, saved to disk and loaded again."""
    with tempfile.TemporaryDirectory(prefix="large-models-") as folder:
        BUILDS[name](Path(folder) / name)
        return load_model(Path(folder) / name, options)
