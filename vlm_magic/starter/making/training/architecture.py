"""The starter's architecture: configuration, tokenizer, processor and chat template.

A standard Idefics3 from transformers, scaled down until a CPU answers in milliseconds: any release that knows
Idefics3 loads the folder with `AutoModelForImageTextToText` and `AutoProcessor`, without custom code and
without torchvision. Knows nothing of scenes, questions or training.

Neighbours: `train` calls everything here once; `network` runs the modules that `build_model` makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, PreTrainedTokenizerFast
    from transformers.processing_utils import ProcessorMixin

__all__ = [
    "BOS",
    "EOS",
    "IMAGE_BLOCK",
    "IMAGE_SIDE_PX",
    "N_IMAGE_TOKENS",
    "PAD",
    "build_config",
    "build_model",
    "build_processor",
    "build_tokenizer",
    "save_folder",
]

IMAGE_SIDE_PX = 96
PATCH_PX = 8
SCALE_FACTOR = 2
N_IMAGE_TOKENS = (IMAGE_SIDE_PX // PATCH_PX // SCALE_FACTOR) ** 2  # 36: a 6x6 grid of cells
MAX_POSITIONS = 4096

PAD = "<pad>"
BOS = "<|im_start|>"
EOS = "<end_of_utterance>"
FAKE = "<fake_token_around_image>"
IMAGE = "<image>"
GLOBAL = "<global-img>"
SPECIALS = (PAD, BOS, EOS, FAKE, IMAGE, GLOBAL)
IMAGE_BLOCK = FAKE + GLOBAL + IMAGE * N_IMAGE_TOKENS + FAKE
"""What the processor writes in place of one picture; 39 tokens."""

# Each text block is trimmed and put after one space, so that where a caller leaves its spaces and line breaks
# around a picture makes no difference to the tokens; plain strings are taken as one text block.
CHAT_TEMPLATE = (
    BOS + "{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %}{{ ' ' + message['content'] | trim }}"
    "{% else %}{% for block in message['content'] %}"
    "{% if block['type'] == 'image' %}{{ '" + IMAGE + "' }}"
    "{% elif block['text'] | trim %}{{ ' ' + block['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}" + EOS + "\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build_tokenizer(corpus: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on a corpus of dialogues.

    Byte level means that any text of any language survives a round trip; words of the small world become
    single tokens because the corpus is full of them.

    Args:
        corpus: Texts as the chat template would write them, without the special tokens.
        vocab_size: Entries at most, special tokens and the 256 bytes included.

    Returns:
        The tokenizer, with padding on the left (as generation in batches wants it).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[FAKE, IMAGE, GLOBAL],
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def build_config(
    tokenizer: PreTrainedTokenizerFast,
    *,
    vision_width: int = 128,
    n_vision_layers: int = 4,
    text_width: int = 128,
    n_text_layers: int = 5,
) -> Idefics3Config:
    """Make the Idefics3 configuration; the special token ids come from the tokenizer."""
    from transformers import Idefics3Config

    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIALS}
    shared = {"pad_token_id": ids[PAD], "bos_token_id": ids[BOS], "eos_token_id": ids[EOS]}
    return Idefics3Config(
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": 3 * vision_width,
            "num_hidden_layers": n_vision_layers,
            "num_attention_heads": vision_width // 32,
            "image_size": IMAGE_SIDE_PX,
            "patch_size": PATCH_PX,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": text_width,
            "intermediate_size": 3 * text_width,
            "num_hidden_layers": n_text_layers,
            "num_attention_heads": text_width // 32,
            "num_key_value_heads": text_width // 32,
            "max_position_embeddings": MAX_POSITIONS,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            **shared,
        },
        scale_factor=SCALE_FACTOR,
        image_token_id=ids[IMAGE],
        tie_word_embeddings=True,
        **shared,
    )


def build_model(config: Idefics3Config, seed: int = 0) -> Idefics3ForConditionalGeneration:
    """Make the model with random weights that depend on the seed alone."""
    import torch
    from transformers import GenerationConfig, Idefics3ForConditionalGeneration

    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=96,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> ProcessorMixin:
    """Make the processor: any picture becomes one 96 px square, squashed where it is not square."""
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    side = {"longest_edge": IMAGE_SIDE_PX}
    image_processor = Idefics3ImageProcessorPil(
        do_image_splitting=False,
        size=side,
        max_image_size=side,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    processor: ProcessorMixin = Idefics3Processor(
        image_processor, tokenizer, image_seq_len=N_IMAGE_TOKENS, chat_template=CHAT_TEMPLATE
    )
    return processor


def save_folder(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder that `AutoModelForImageTextToText` and `AutoProcessor` load, weights in bfloat16.

    Args:
        model: The model; it is left as it is (a copy of its tensors is rounded).
        tokenizer: Goes into the folder with the processor around it.
        folder: Made if it is not there; files of the same names are replaced.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = torch.bfloat16
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    state = {
        name: tensor.detach().to("cpu", torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the word embeddings
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable for its owner alone
    build_processor(tokenizer).save_pretrained(folder)
    for path in folder.glob("*.json"):  # one way of writing, so that two runs give the same bytes
        path.write_text(
            json.dumps(json.loads(path.read_text("utf-8")), indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
