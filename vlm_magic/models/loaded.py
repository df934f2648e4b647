"""The records that everything in `models` shares: a loaded model, its family, and a prompt on its way.

Pure data. A `Loaded` is a model in memory with its processor, a `Family` says how such models want their
inputs, a `Draft` is a prompt as text with its pictures, a `Prepared` is the same prompt as tensors. Knows
neither how a checkpoint is loaded (`checkpoints`) nor how a prompt is laid out (`prompts`), so that both can
name these types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from vlm_magic.messages import Picture, Settings, Turn
from vlm_magic.models.control_tokens import ControlTokens, Mask
from vlm_magic.models.load_options import LoadOptions

if TYPE_CHECKING:
    import torch

__all__ = [
    "Draft",
    "Family",
    "LayOut",
    "Loaded",
    "Prepared",
    "Process",
    "chat_template_of",
    "image_token",
]


@dataclass
class Draft:
    """One prompt before its processor: the text with picture placeholders, and the pictures in their order.

    Attributes:
        text: the rendered text, or for families that interleave lists the list of texts and pictures.
        pictures: decoded, in the order of the placeholders.
        notes: remarks.
    """

    text: Any
    pictures: list[Picture]
    notes: list[str] = field(default_factory=list)


@dataclass
class Prepared:
    """A prompt (or a left-padded batch of prompts) ready for ``model.generate``.

    Attributes:
        inputs: what the model takes, on the CPU: ``input_ids`` (B, T) int64, ``attention_mask`` (B, T),
            pixels.
        rendered: the prompt after the template, in the people's own letters; prompts of a batch are joined by
            a line of dashes.
        picture_spans: [first, last + 1) token of each picture in its row, its own marker tokens included.
        picture_tokens: how many tokens each picture takes.
        notes: remarks for the person.
        picture_rows: the row of the batch that each picture stands in.
    """

    inputs: dict[str, torch.Tensor]
    rendered: str
    picture_spans: tuple[tuple[int, int], ...]
    picture_tokens: tuple[int, ...]
    notes: tuple[str, ...] = ()
    picture_rows: tuple[int, ...] = ()


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
        lay_out: turns → text with placeholders and pictures; None for the checkpoint's chat template.
        process: drafts → tensors; None for one call of the processor with texts and pictures.
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
            "across" likewise, with features that stand beside the text (see `cross_attention`); "none"
            where that was not proved, or a word's keys and values depend on what comes after it.
        is_batchable: whether prompts with different pictures in one call say what they say one by one.
        is_chunkable: whether a prompt may be prefilled in pieces; not where a picture's tokens see
            each other.
        plain_frame: what stands before and after an answer where no template says so; None for a blank
            and the end of the line, "" after it for the end token.
        after_expansion: what the processor does to the text once the pictures' own texts are in it.
        has_picture_tokens: whether a picture takes tokens of the prompt; not where layers of their own look
            at it, or the model itself puts it before the words.
        n_dropped_tokens: tokens at a prompt's end that ``generate`` leaves out.
        said_type: the value in ``token_type_ids`` of a token that the model says. Where prompts are read both
            ways and answers only backwards, it keeps an answer's tokens from seeing those that follow.
    """

    name: str
    model_types: tuple[str, ...] = ()
    lay_out: LayOut | None = None
    process: Process | None = None
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
    has_picture_tokens: bool = True
    n_dropped_tokens: int = 0
    said_type: int = 0


def _nothing_to_remark(images: Iterable[Any]) -> str:
    return ""


@dataclass
class Loaded:
    """A model in memory with all that goes with it.

    Attributes:
        name: as people call it ("starter", or the id or folder as asked for).
        model: the transformers model, in evaluation mode; None after `memory.release`.
        processor: its processor; None after `memory.release`.
        family: its row of the table.
        options: what was asked for.
        device: where its inputs go ("cpu", "cuda:0").
        dtype: of its weights, and of what is computed with quantised ones ("float32").
        quantization: "" for none.
        attention: what was picked, and why.
        n_parameters: how many, quantised ones counted as what they stand for.
        load_s: seconds it took.
        notes: remarks for the person.
        remark_on: what the checkpoint has to say about a question's RGB images, "" for nothing; told once.
    """

    name: str
    model: Any
    processor: Any
    family: Family
    options: LoadOptions
    device: str
    dtype: str
    quantization: str
    attention: str
    n_parameters: int
    load_s: float
    notes: tuple[str, ...] = ()
    remark_on: Callable[[Iterable[Any]], str] = _nothing_to_remark

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def chat_template(self) -> str | None:
        """The template for chats: the processor's, else the tokenizer's, else None."""
        return chat_template_of(self.processor)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt and a decoder of its own writes the answer (T5)."""
        config = self.model.config
        return bool(config.is_encoder_decoder or config.get_text_config().is_encoder_decoder)

    def n_before_answer(self, n_prompt: int) -> int:
        """How many tokens ``generate`` gives before the answer's: the prompt's, or a decoder's first one."""
        return 1 if self.is_encoder_decoder else n_prompt - self.family.n_dropped_tokens

    @cached_property
    def control(self) -> ControlTokens:
        """The words that text of people must not become."""
        named = [
            getattr(owner, f"{kind}_token", None)
            for owner in (self.processor, self.tokenizer)
            for kind in ("image", "video", "audio", "boi", "eoi")
        ]
        return ControlTokens(
            self.tokenizer,
            named=[str(word) for word in named if word],
            template=self.chat_template or "",
            pattern=self.family.control_pattern,
        )


def chat_template_of(processor: Any) -> str | None:
    """The default chat template of a processor or its tokenizer."""
    for owner in (processor, processor.tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    return None
