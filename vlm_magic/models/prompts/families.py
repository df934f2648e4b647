"""What differs between families of vision-language models: one table, one row per family.

Everything is generic unless a row says otherwise. A model type without a row of its own gets the
default row: chat template, `image_token` of its processor, pictures in nested lists. A new family is one
row here and one tiny builder in the tests.

Knows the names of tokens and the shapes of processors; loads nothing. Neighbours: `loaded.Family` explains
the columns, `prepare` does what a row says, `checkpoints.loading` picks the row.
"""

from __future__ import annotations

import re
from functools import partial
from importlib.metadata import version
from typing import Literal

from vlm_magic.models.loaded import Family, Loaded, image_token
from vlm_magic.models.prompts.captioners import (
    lay_out_git,
    lay_out_got_ocr,
    lay_out_stripped,
    process_one_picture,
    process_qianfan,
)
from vlm_magic.models.prompts.idefics import lay_out_idefics, list_as_text, process_lists
from vlm_magic.models.prompts.layouts import lay_out_pictures_first, lay_out_words
from vlm_magic.models.prompts.prepare import process_texts

__all__ = ["FAMILIES", "NO_DIALOGUE", "family_of"]

_FAKE = "<fake_token_around_image>"
_EOU = "<end_of_utterance>"


def _idefics2_expansion(loaded: Loaded) -> str:
    """One run of image tokens, or five with a mark between where pictures are cut into tiles."""
    processor = loaded.processor
    run = processor.image_token * processor.image_seq_len
    return str(_FAKE.join([run] * (5 if processor.image_processor.do_image_splitting else 1)))


def _idefics2_after_expansion(text: str) -> str:
    """One border between two pictures, and a space before a word that follows a picture."""
    return re.sub(rf"{_FAKE}(?=[^\s<])", f"{_FAKE} ", text.replace(_FAKE * 2, _FAKE))


def _reuse_of_idefics() -> Literal["across", "none"]:
    """With transformers 5.24 pictures' features have another form, and reuse would answer otherwise."""
    major, minor = version("transformers").split(".")[:2]
    return "across" if (int(major), int(minor)) < (5, 24) else "none"


DEFAULT = Family("any other", silent_words=("<image>",), is_batchable=False)  # nobody has proved it

# Model types that transformers counts among those for pictures and text, and that nobody can talk to: why.
NO_DIALOGUE = {
    "pix2struct": "it reads its question off the picture, where its processor draws it",
    "udop": "it wants the words of a page with their boxes, as a text recogniser finds them",
    "vision-encoder-decoder": "it turns a picture into a text and takes no prompt",
    "shieldgemma2": "it says whether a picture breaks a policy, as probabilities of yes and no",
    "pp_formulanet": "it turns a picture of a formula into LaTeX and takes no prompt",
    "pi0": "it moves a robot",
    "evolla": "it talks about proteins, not pictures",
    "instructblipvideo": "it looks at videos",
    "diffusion_gemma": "it refines whole blocks of text instead of writing word by word",
}

FAMILIES: tuple[Family, ...] = (
    Family(
        "IDEFICS",
        ("idefics",),
        lay_out=lay_out_idefics,
        process=process_lists,
        as_text=list_as_text,
        expansion=lambda loaded: "<image>",
        border=_FAKE,
        stop_words=(_EOU,),
        silent_words=("<image>", _FAKE),
        has_own_dialogue=True,
        reuse=_reuse_of_idefics(),
        is_chunkable=False,  # the mask of who sees which picture is not cut along with the prompt
    ),
    Family(
        "Idefics2",
        ("idefics2",),
        expansion=_idefics2_expansion,
        border=_FAKE,
        stop_words=(_EOU,),
        silent_words=("<image>", _FAKE),
        is_float16_safe=True,
        reuse="features",
        after_expansion=_idefics2_after_expansion,
    ),
    Family(
        "Idefics3",
        ("idefics3",),
        stop_words=(_EOU,),
        silent_words=(_FAKE, "<global-img>"),
        reuse="features",
    ),
    Family(
        "SmolVLM",
        ("smolvlm",),
        stop_words=(_EOU,),
        silent_words=(_FAKE, "<global-img>"),
        stand_in_processor="Idefics3Processor",  # the same ids; its own needs two packages for videos
        reuse="features",
    ),
    Family("LLaVA", ("llava", "vipllava"), is_float16_safe=True, reuse="features"),
    Family("LLaVA-NeXT", ("llava_next",), is_float16_safe=True, reuse="features"),
    Family(
        "LLaVA-OneVision",
        ("llava_onevision",),
        stop_words=("<|im_end|>",),
        is_float16_safe=True,
        reuse="none",  # a picture is cut into tiles only where it is alone: others change its features
    ),
    Family(
        "Qwen-VL",
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"),
        placeholder=lambda processor: f"<|vision_start|>{image_token(processor)}<|vision_end|>",
        stop_words=("<|im_end|>", "<|endoftext|>"),
        silent_words=("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
        reuse="features",
    ),
    Family(
        "Qwen3.5",
        ("qwen3_5", "qwen3_5_moe"),
        placeholder=lambda processor: f"<|vision_start|>{image_token(processor)}<|vision_end|>",
        stop_words=("<|im_end|>", "<|endoftext|>"),
        silent_words=("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
        reuse="none",  # the state of a recurrent layer cannot be cut back to where two prompts part
    ),
    Family(
        "Gemma 3",
        ("gemma3", "gemma3n"),
        stop_words=("<end_of_turn>",),
        silent_words=("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        reuse="features",
        is_chunkable=False,
    ),
    Family(
        "Gemma 4",
        ("gemma4",),
        stop_words=("<turn|>",),
        silent_words=("<|image>", "<image|>", "<|audio>", "<audio|>", "<|video|>"),
        reuse="features",
        is_chunkable=False,
    ),
    Family(
        "PaliGemma",
        ("paligemma",),
        lay_out=lay_out_pictures_first,
        arrays="np",  # asked for torch it warns: it makes labels, which nobody wants, through numpy
        needs_picture=True,
        reuse="none",  # all tokens of a prompt see each other: with other last words, all keys are others
        plain_frame=("", ""),  # its processor ends the prompt's line
        said_type=1,
        control_pattern=r"<loc\d{4}>|<seg\d{3}>",
    ),
    Family(
        "InternVL",
        ("internvl",),
        stop_words=("<|im_end|>",),
        silent_words=("<img>", "</img>"),
        reuse="features",
    ),
    Family(
        "Llama 3.2 Vision",
        ("mllama",),
        stop_words=("<|eot_id|>", "<|eom_id|>"),
        reuse="none",  # layers across keep keys of the pictures, not of the text, and cannot be cut with it
        is_batchable=False,  # the cross-attention mask of a batch lets rows without pictures drift
    ),
    Family(
        "Florence-2",
        ("florence2",),
        lay_out=lay_out_stripped,
        process=process_one_picture,
        max_pictures=1,
        needs_picture=True,
        is_batchable=False,
        plain_frame=("", ""),
    ),
    Family(
        "BLIP",
        ("blip",),
        lay_out=lay_out_words,
        process=process_one_picture,
        expansion=None,
        max_pictures=1,
        needs_picture=True,
        stop_words=("[SEP]",),
        is_batchable=False,  # it drops the last token of each row, also where that is padding
        has_picture_tokens=False,
        n_dropped_tokens=1,
        plain_frame=("", ""),
    ),
    Family(
        "GIT",
        ("git",),
        lay_out=lay_out_git,
        process=process_one_picture,
        expansion=None,
        max_pictures=1,
        needs_picture=True,
        stop_words=("[SEP]",),
        is_batchable=False,
        has_picture_tokens=False,
        plain_frame=("", ""),
    ),
    Family(
        "Kosmos",
        ("kosmos-2", "kosmos-2.5"),
        lay_out=lay_out_words,
        process=process_one_picture,
        expansion=None,
        silent_words=("<image>", "</image>"),
        max_pictures=1,
        needs_picture=True,
        is_batchable=False,
        plain_frame=(" ", ""),
    ),
    Family(
        "GOT-OCR",
        ("got_ocr2",),
        lay_out=lay_out_got_ocr,
        process=process_one_picture,
        placeholder=lambda processor: f"<img>{image_token(processor)}</img>\n",
        stop_words=("<|im_end|>",),
        silent_words=("<img>", "</img>"),
        max_pictures=1,
        needs_picture=True,
        has_own_dialogue=True,
        is_batchable=False,
    ),
    Family(
        "Qianfan-OCR",
        ("qianfan_ocr",),
        process=process_qianfan,
        placeholder=lambda processor: str(processor.image_placeholder_token),
        template_token=lambda processor: str(processor.image_placeholder_token),
        silent_words=("<img>", "</img>", "<image>"),
        is_batchable=False,
    ),
    Family(
        "Cosmos 3",
        ("cosmos3_edge",),
        process=partial(process_texts, return_mm_token_type_ids=True),  # its model insists, it gives none
        placeholder=lambda processor: f"<|vision_start|>{image_token(processor)}<|vision_end|>",
        silent_words=("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
        is_batchable=False,
    ),
    Family(
        "ERNIE 4.5 VL",
        ("ernie4_5_vl_moe",),
        placeholder=lambda p: f"<|IMAGE_START|>{image_token(p)}<|IMAGE_END|>",
        arrays="np",  # asked for torch it warns: it reads its tensors through numpy
        silent_words=("<|IMAGE_START|>", "<|IMAGE_END|>"),
        is_batchable=False,
    ),
    Family(
        "HunYuan-VL",
        ("hunyuan_vl",),
        placeholder=lambda p: f"{p.image_start_token}{image_token(p)}{p.image_end_token}",
        is_batchable=False,
    ),
    Family("Aya Vision", ("aya_vision",), silent_words=("<image>",)),
    Family(
        "BLIP-2 and InstructBLIP",
        ("blip-2", "instructblip"),
        lay_out=lay_out_words,
        expansion=None,
        max_pictures=1,
        needs_picture=True,
        is_float16_safe=True,
        reuse="none",  # InstructBLIP's features depend on the question, and prompts are short
        plain_frame=(" ", ""),
    ),
)

_BY_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}


def family_of(model_type: str) -> Family:
    """The row of a model type; the generic one for a type without its own."""
    return _BY_TYPE.get(model_type, DEFAULT)
