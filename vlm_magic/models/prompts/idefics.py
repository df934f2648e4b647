"""The first IDEFICS: prompts are lists of texts and pictures, dialogues are written without a template.

Its processor strips the spaces around each text, writes
``<fake_token_around_image><image><fake_token_around_image>`` for a picture, and would fetch a text that is
nothing but a URL; a character that means nothing, put before such a text, keeps it a text. Neighbours:
`prepare` calls these through the family's row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Part, Picture, Settings, Turn
from vlm_magic.models.control_tokens import Mask
from vlm_magic.models.loaded import Draft, Loaded
from vlm_magic.models.prompts.prepare import as_tensors
from vlm_magic.models.prompts.turns import joint

if TYPE_CHECKING:
    import torch

__all__ = ["lay_out_idefics", "list_as_text", "process_lists"]

_END = "<end_of_utterance>"
_NAMES = {"user": "User", "assistant": "Assistant", "system": "System"}


def lay_out_idefics(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """A list of texts and images: a dialogue for instruct checkpoints, else the parts as they come.

    Source: the dialogue form is that of the model cards of idefics-9b-instruct and idefics-80b-instruct.
    """
    is_instruct = any(str(token.content) == _END for token in loaded.tokenizer.added_tokens_decoder.values())
    items: list[Any] = []
    if not is_instruct or settings.continuation:
        if settings.system:
            items.append(hide(settings.system) + "\n")
        for turn in turns:
            if turn.role == "assistant" and not settings.continuation and isinstance(_last(items), str):
                items.append(joint(items[-1], turn.text))
            items += _items(turn.parts, hide)
            if turn.role == "assistant" and turn is not turns[-1]:
                items.append("\n")
        return Draft(_joined(items), _images(items))
    if settings.system:
        items.append(f"System: {hide(settings.system)}{_END}\n")
    for n, turn in enumerate(turns):
        items.append(("\n" if n else "") + f"{_NAMES[turn.role]}:")
        if turn.parts and not isinstance(turn.parts[0], Picture):
            items.append(" ")
        items += _items(turn.parts, hide)
        items.append(_END)
    if turns[-1].role != "assistant":
        items.append("\nAssistant:")
    return Draft(_joined(items), _images(items))


def _last(items: Sequence[Any]) -> Any:
    return items[-1] if items else None


def _items(parts: Sequence[Part], hide: Callable[[str], str]) -> list[Any]:
    return [part if isinstance(part, Picture) else hide(part.text) for part in parts]


def _images(items: Sequence[Any]) -> list[Any]:
    return [item for item in items if not isinstance(item, str)]


def _joined(items: Sequence[Any]) -> list[Any]:
    """Neighbouring texts as one: the processor takes the spaces off each."""
    joined: list[Any] = []
    for item in items:
        if isinstance(item, str) and joined and isinstance(joined[-1], str):
            joined[-1] += item
        elif item != "":
            joined.append(item)
    return joined


def process_lists(
    loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
) -> dict[str, torch.Tensor]:
    """One call of the processor for lists of texts and images."""
    prompts = [[_as_input(item, mask) for item in draft.text] for draft in drafts]
    data = processor(text=prompts, add_end_of_utterance_token=False, return_tensors="pt")
    return as_tensors(data)


def _as_input(item: Any, mask: Mask) -> Any:
    """A picture's image, or a text that the processor does not take for a URL."""
    if isinstance(item, Picture):
        return item.rgb
    if "://" in item and " " not in item.strip(" "):
        return mask.character("") + item
    return item


def list_as_text(loaded: Loaded, draft: Draft) -> str:
    """The list as the processor will join it."""
    return "".join(item.strip(" ") if isinstance(item, str) else "<image>" for item in draft.text)
