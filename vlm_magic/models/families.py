"""What differs between families of vision-language models: one table, one row per family.

Everything here is generic unless a row says otherwise. A model type without a row of its own gets the
default row: chat template, `image_token` of its processor, pictures in nested lists. A new family is one
row here and one tiny builder in the tests.

Knows the names of tokens and the shapes of processors; loads nothing. Neighbours: `prompting` does what a
row says, `loading` picks the row. `prepare`, `prepare_batch` and `Prepared` can be had from here too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vlm_magic.errors import ContextLengthError
from vlm_magic.messages import Settings, Turn
from vlm_magic.models.control_tokens import Mask
from vlm_magic.models.interleaved import lay_out_idefics, list_as_text, process_lists
from vlm_magic.models.layouts import lay_out_chat, lay_out_pictures_first, lay_out_words
from vlm_magic.models.prompting import (
    Draft,
    Prepared,
    prepare,
    prepare_batch,
    process_texts,
)

if TYPE_CHECKING:
    import torch

    from vlm_magic.models.loading import Loaded

__all__ = [
    "FAMILIES",
    "Family",
    "Prepared",
    "check_length",
    "context_tokens",
    "end_token_ids",
    "family_of",
    "forbidden_token_ids",
    "generating_parts",
    "has_end_of_turn",
    "picture_token_ids",
    "prepare",
    "prepare_batch",
    "stop_token_ids",
]

LayOut = Callable[["Loaded", Sequence[Turn], Settings, Callable[[str], str]], Draft]
Process = Callable[["Loaded", Any, Sequence[Draft], Mask], "dict[str, torch.Tensor]"]


def image_token(processor: Any) -> str:
    """The placeholder that a processor expands into a picture's tokens."""
    token = getattr(processor, "image_token", None) or "<image>"
    return str(getattr(token, "content", token))


def _text_of(loaded: Loaded, draft: Draft) -> str:
    return str(draft.text)


def _one_token(loaded: Loaded) -> str:
    return image_token(loaded.processor)


@dataclass(frozen=True)
class Family:
    """How one family wants its inputs.

    Attributes:
        name: how people call it.
        model_types: ``model_type`` of the configurations that belong to it.
        lay_out: turns → text with placeholders and pictures.
        process: drafts → tensors.
        placeholder: what stands for a picture in a plain continuation.
        template_token: what the chat template writes for a picture.
        expansion: what the processor writes in a placeholder's place, for processors that do not tell; None
            where it puts the pictures before everything, wherever they stood.
        border: token on both sides of a picture, one between two neighbours.
        arrays: "pt" or "np": what the processor is asked for.
        as_text: a draft as one text, for showing.
        max_pictures: the most pictures of a prompt; None for any number.
        needs_picture: whether a prompt without a picture fails.
        stop_words: tokens that end an answer, beside the checkpoint's own.
        silent_words: tokens that must never be generated, beside the image tokens.
        control_pattern: regular expression of further control words.
        is_float16_safe: whether its activations are known to stay within float16.
        stand_in_processor: class to use where the family's own needs packages that are not there.
        has_own_dialogue: whether `lay_out` writes dialogues without a chat template.
        reuse: "features" where caches and features of earlier prompts serve later ones (see `reuse`);
            "across" likewise, with features that stand beside the text (see `crossing`); "none" where that
            was not proved, or a word's keys and values depend on what comes after it.
        is_batchable: whether prompts with different pictures in one call say what they say one by one.
        is_chunkable: whether a prompt may be prefilled in pieces; not where a picture's tokens see
            each other.
        plain_frame: what stands before and after an answer where no template says so; None for a blank
            and the end of the line, "" after it for the end token.
        after_expansion: what the processor does to the text once the pictures' own texts are in it.
    """

    name: str
    model_types: tuple[str, ...] = ()
    lay_out: LayOut = lay_out_chat
    process: Process = process_texts
    placeholder: Callable[[Any], str] = image_token
    template_token: Callable[[Any], str] = image_token
    expansion: Callable[[Loaded], str] | None = _one_token
    border: str = ""
    arrays: str = "pt"
    as_text: Callable[[Loaded, Draft], str] = _text_of
    max_pictures: int | None = None
    needs_picture: bool = False
    stop_words: tuple[str, ...] = ()
    silent_words: tuple[str, ...] = ()
    control_pattern: str = ""
    is_float16_safe: bool = False
    stand_in_processor: str = ""
    has_own_dialogue: bool = False
    reuse: Literal["features", "across", "none"] = "none"
    after_expansion: Callable[[str], str] = str
    is_batchable: bool = True
    is_chunkable: bool = True
    plain_frame: tuple[str, str] | None = None


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


DEFAULT = Family("any other", silent_words=("<image>",))

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
        reuse="across",
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
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
        placeholder=lambda processor: f"<|vision_start|>{image_token(processor)}<|vision_end|>",
        stop_words=("<|im_end|>", "<|endoftext|>"),
        silent_words=("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
        reuse="features",
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
        "PaliGemma",
        ("paligemma",),
        lay_out=lay_out_pictures_first,
        arrays="np",  # asked for torch it warns: it makes labels, which nobody wants, through numpy
        needs_picture=True,
        reuse="none",  # all tokens of a prompt see each other: with other last words, all keys are others
        plain_frame=("", ""),  # its processor ends the prompt's line
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


def stop_token_ids(loaded: Loaded, settings: Settings) -> list[int]:
    """Tokens that end an answer: the checkpoint's own and the family's."""
    ids: set[int] = set()
    for source in (loaded.model.generation_config.eos_token_id, loaded.tokenizer.eos_token_id):
        if source is not None:
            ids.update([source] if isinstance(source, int) else source)
    ids.update(_known_ids(loaded, loaded.family.stop_words))
    return sorted(ids)


def end_token_ids(loaded: Loaded) -> list[int]:
    """Tokens that end an answer, the one that this family's answers end with first."""
    theirs = loaded.model.generation_config.eos_token_id
    own = [] if theirs is None else [theirs] if isinstance(theirs, int) else list(theirs)
    named = [loaded.control.added[w] for w in loaded.family.stop_words if w in loaded.control.added]
    return list(dict.fromkeys([*named, *own, *stop_token_ids(loaded, Settings())]))


def has_end_of_turn(loaded: Loaded) -> bool:
    """Whether the tokenizer has a token of the family's own that ends a turn: an instruct checkpoint."""
    return bool(_known_ids(loaded, loaded.family.stop_words))


def check_length(loaded: Loaded, n_tokens: int) -> None:
    """Raise a ContextLengthError for a prompt that leaves no room for an answer."""
    limit = context_tokens(loaded)
    if limit is None or n_tokens < limit:
        return
    raise ContextLengthError(
        f"the prompt has {n_tokens} tokens, {loaded.name} takes {limit}",
        have="nothing was trimmed; every turn and picture of the conversation counts",
        hint="--new for a fresh conversation, fewer or smaller pictures, or %%vlm --dry-run for the bill",
        n_tokens=n_tokens,
        context_tokens=limit,
    )


def picture_token_ids(loaded: Loaded) -> list[int]:
    """Tokens that stand for what is not text: pictures, and in some models videos and sounds."""
    ids: set[int] = set()
    config, processor = loaded.model.config, loaded.processor
    for owner in (config, processor):
        for kind in ("image", "video", "audio"):
            for name in (f"{kind}_token_id", f"{kind}_token_index"):
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    ids.add(value)
    words = [getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio")]
    ids.update(_known_ids(loaded, [str(getattr(word, "content", word)) for word in words if word]))
    return sorted(ids)


def forbidden_token_ids(loaded: Loaded) -> list[int]:
    """Tokens that must never be generated: they belong to pictures, and feeding them back fails."""
    ids = {*picture_token_ids(loaded), *_known_ids(loaded, loaded.family.silent_words)}
    return sorted(ids - set(stop_token_ids(loaded, Settings())))


def context_tokens(loaded: Loaded) -> int | None:
    """The most tokens of prompt and answer together, or None where the checkpoint does not say."""
    text = loaded.model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    limit = loaded.tokenizer.model_max_length
    return int(limit) if limit and limit < 10**7 else None


def generating_parts(model: Any) -> list[Any]:
    """The model and what it hands over to: BLIP's kind calls its language model's own ``generate``.

    Whoever sets a ``generation_config`` sets it on all of these, or a part answers by its checkpoint's
    defaults.
    """
    inner = getattr(model, "language_model", None)
    return [model, inner] if inner is not None and hasattr(inner, "generation_config") else [model]


def _known_ids(loaded: Loaded, words: Sequence[str]) -> set[int]:
    """Ids of those words that are single added tokens of this tokenizer."""
    return {loaded.control.added[word] for word in words if word in loaded.control.added}
