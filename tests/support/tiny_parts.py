"""What the tiny builds are made of: tokenizers trained on the spot, small configurations, a folder's layout.

Neighbours: `tiny_models` puts them together, one function a family; `tiny_templates` holds chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

SIDE = 32  # pixels of a picture, or of a tile

QWEN_SPECIALS = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """One tiny build.

    Attributes:
        name: of the build ("idefics2-chatty").
        model_type: of its configuration.
        build: writes the folder.
        max_pictures: as the family's row says.
        needs_picture: likewise.
        is_chat: whether it has a chat template.
        tokens_per_picture: of a 64 by 48 picture, marks included; None where it depends on more.
        is_further: whether it goes through the contract of families alone, and through no other tests.
        needs_package: a package that the architecture cannot be made without; "" for none.
    """

    name: str
    model_type: str
    build: Callable[[Path], None]
    max_pictures: int | None = None
    needs_picture: bool = False
    is_chat: bool = True
    tokens_per_picture: int | None = None
    needs_package: str = ""
    is_further: bool = False


TINY: dict[str, Tiny] = {}
MORE: dict[str, Tiny] = {}  # further ones
NOT_BUILT: dict[str, str] = {}  # name of a build → the package that it lacks here


def builder(
    name: str, model_type: str, **facts: Any
) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a function that writes a folder, where what it needs is installed."""

    def register(build: Callable[[Path], None]) -> Callable[[Path], None]:
        package = facts.get("needs_package")
        if package and find_spec(package) is None:
            NOT_BUILT[name] = package
        else:
            (MORE if facts.get("is_further") else TINY)[name] = Tiny(name, model_type, build, **facts)
        return build

    return register


CORPUS = [
    "User: What do we see in this image? Assistant: In this image we can see two cats on the nets.",
    "And how about this image? In this image we can see flowers, plants and insect.",
    "This is an image of the Eiffel Tower in Paris, France. Describe this image. Question: Answer: Story:",
    "the quick brown fox jumps over the lazy dog 0123456789 {}[]()<>|/_-+*.,;:!?'\"\n\t",
] * 4


def byte_tokenizer(
    specials: Sequence[str],
    *,
    words: Sequence[str] = (),
    bos: str | None = None,
    eos: str,
    pad: str | None = None,
    adds_bos: bool = False,
    named: dict[str, str] | None = None,
) -> Any:
    """A byte-level BPE, as of GPT-2, Llama 3 and Qwen.

    Args:
        specials: special tokens, in the order of their ids.
        words: added tokens that are not special.
        bos: opening token.
        eos: end token.
        pad: padding token.
        adds_bos: whether the tokenizer writes the opening token by itself.
        named: further named tokens of the tokenizer, such as ``image_token``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        ),
    )
    return _finished(core, specials, words, bos, eos, pad, adds_bos, named)


def piece_tokenizer(
    specials: Sequence[str],
    *,
    words: Sequence[str] = (),
    bos: str | None = "<s>",
    eos: str = "</s>",
    pad: str | None = None,
    adds_bos: bool = True,
    named: dict[str, str] | None = None,
    prefix: bool = True,
) -> Any:
    """A BPE over pieces with ``▁`` for spaces and bytes for the rest, as of Llama 2, Mistral and Gemma.

    Args:
        specials: special tokens beside ``<unk>``, in the order of their ids.
        words: added tokens that are not special.
        bos: opening token.
        eos: end token.
        pad: padding token.
        adds_bos: whether the tokenizer writes the opening token by itself.
        named: further named tokens.
        prefix: whether the first word of a text gets a space (Llama 2), or not (Gemma).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [*([normalizers.Prepend("▁")] if prefix else []), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    unknown_and_bytes = ["<unk>", *(f"<0x{value:02X}>" for value in range(256))]
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=480, special_tokens=unknown_and_bytes, show_progress=False)
    )
    state = json.loads(core.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] == "<unk>"]
    state["pre_tokenizer"] = None
    return _finished(Tokenizer.from_str(json.dumps(state)), specials, words, bos, eos, pad, adds_bos, named)


def _finished(
    core: Any,
    specials: Sequence[str],
    words: Sequence[str],
    bos: str | None,
    eos: str,
    pad: str | None,
    adds_bos: bool,
    named: dict[str, str] | None,
) -> Any:
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    order = [token for token in dict.fromkeys([pad, bos, eos, *specials]) if token]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in order])
    core.add_tokens([AddedToken(word, special=False, normalized=False) for word in words])
    if adds_bos and bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, core.token_to_id(bos))]
        )
    options: dict[str, Any] = {"bos_token": bos} if bos else {}
    extra = [token for token in specials if token not in (bos, eos, pad)]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=eos,
        pad_token=pad,
        extra_special_tokens={**named} if named else extra,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        **options,
    )


def save(
    folder: Path,
    model: Any,
    tokenizer: Any,
    image_processor: Any,
    processor_class: str,
    *,
    template: str | None = None,
    **settings: Any,
) -> None:
    """Write the folder in the layout of a hub checkpoint; no processor is made, some need torchvision."""
    folder.mkdir(parents=True)
    model.config.architectures = [type(model).__name__]
    with _quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    _update(folder / "preprocessor_config.json", processor_class=processor_class)
    _update(folder / "processor_config.json", processor_class=processor_class, **settings)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


def _update(path: Path, **values: Any) -> None:
    state = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**state, **values}, indent=1), "utf-8")


def wake(model: Any, *names: str) -> None:
    """Give parameters that start as zeros, so that pictures would have no effect, other values."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in names:
                parameter.normal_(0, 0.5)


def ids_of(tokenizer: Any, **names: str) -> dict[str, int]:
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def ends_of(tokenizer: Any) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def llama_text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    """A two-layer Llama-like text configuration."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        **ends_of(tokenizer),
        **more,
    }


def vision(**more: Any) -> dict[str, Any]:
    """A two-layer vision transformer configuration."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 8,
        **more,
    }


def clip_vision(**more: Any) -> dict[str, Any]:
    return {"model_type": "clip_vision_model", "projection_dim": 32, **vision(), **more}


def qformer(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "encoder_hidden_size": 32, "vocab_size": 120, **more,
    }  # fmt: skip
