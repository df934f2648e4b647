"""Families whose processor places the picture itself, one to a prompt: captioners and readers of pages.

Their prompts are words alone; the processor or the model puts the picture before them. Neighbours: `families`
names these in its rows, `layouts` writes what is common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Settings, Turn
from vlm_magic.models.control_tokens import Mask
from vlm_magic.models.loaded import Draft, Loaded
from vlm_magic.models.prompts.layouts import lay_out_chat, lay_out_parts, lay_out_words
from vlm_magic.models.prompts.prepare import process_texts

if TYPE_CHECKING:
    import torch

__all__ = ["lay_out_git", "lay_out_got_ocr", "lay_out_stripped", "process_one_picture", "process_qianfan"]


def process_one_picture(
    loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
) -> dict[str, torch.Tensor]:
    """One call of the processor for texts with one picture each, which are not in lists."""
    return process_texts(loaded, processor, drafts, mask, is_flat=True)


def process_qianfan(
    loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
) -> dict[str, torch.Tensor]:
    """Qianfan-OCR's processor counts pictures by one token and puts them in the place of another.

    Source: transformers 5.23, ``QianfanOCRProcessor.validate_inputs``. Here both are the second one.
    """
    counted, replaced = processor.image_placeholder_token, processor.image_token
    processor.image_placeholder_token = replaced  # of the copy that this prompt has
    texts = [replace(draft, text=draft.text.replace(counted, replaced)) for draft in drafts]
    return process_texts(loaded, processor, texts, mask)


def lay_out_stripped(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """The words alone, without blanks around them: a task such as ``<OD>`` must be all there is."""
    draft = lay_out_words(loaded, turns, settings, hide)
    draft.text = draft.text.strip()
    return draft


def lay_out_git(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """The words behind the opening token, and no closing one: the model takes that for the answer's end.

    Source: the examples for visual question answering of the model card of git-base-textvqa.
    """
    draft = lay_out_words(loaded, turns, settings, hide)
    draft.text = f"{loaded.tokenizer.cls_token}{draft.text}"
    return draft


_GOT_SYSTEM = "You should follow the instructions carefully and explain your answers in detail."


def lay_out_got_ocr(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """GOT-OCR's dialogue: its processor writes it for the words "OCR: ", its checkpoint has no template.

    Source: transformers 5.23, ``GotOcr2Processor.prepare_inputs_layout``.
    """
    if settings.continuation:
        return lay_out_parts(loaded, turns, settings, hide)
    if loaded.chat_template is not None:
        return lay_out_chat(loaded, turns, settings, hide)
    pieces = [f"<|im_start|>system\n{hide(settings.system) or _GOT_SYSTEM}<|im_end|>"]
    for turn in turns:
        body = lay_out_parts(loaded, [turn], Settings(), hide).text
        pieces.append(f"<|im_start|>{turn.role}\n{body}<|im_end|>")
    if turns[-1].role != "assistant":
        pieces.append("<|im_start|>assistant\n")
    return Draft("".join(pieces), [picture for turn in turns for picture in turn.pictures])
