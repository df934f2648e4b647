"""Layouts: how a conversation becomes one text with a placeholder for each picture.

Through the checkpoint's chat template, or joined for a plain continuation. A template is tried, not
trusted: what it renders must hold every text and every picture, else the next form of message is tried, and
then it is an error.

Knows templates and placeholders, not tensors. Neighbours: `families` names a layout in each row,
`prompting` calls it; `interleaved` holds the one layout that is no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import ModelKindError
from vlm_magic.messages import Part, Picture, Settings, Text, Turn
from vlm_magic.models.prompting import Draft, joined, joint, merged

if TYPE_CHECKING:
    from vlm_magic.models.loading import Loaded

__all__ = ["lay_out_chat", "lay_out_parts", "lay_out_pictures_first", "lay_out_words"]


def lay_out_chat(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """Through the checkpoint's chat template; plain continuation where asked for or where there is none."""
    template = loaded.chat_template
    if settings.continuation or template is None:
        return lay_out_parts(loaded, turns, settings, hide)
    notes: list[str] = []
    pictures = [picture.rgb for turn in turns for picture in turn.pictures]
    shown = _with_system(turns, settings.system)
    text = _render(loaded, template, shown, hide, settings)
    if text is None and shown[0].role == "system":
        shown = _system_in_question(shown)
        notes.append(
            "this model's template has no place for a system text; it stands before the first question"
        )
        text = _render(loaded, template, shown, hide, settings)
    if text is None:
        raise ModelKindError(
            f"the chat template of {loaded.name} does not show the model what was said",
            have="a text or a picture of the prompt is missing in what it renders",
            hint="--continuation, or a checkpoint with a template for pictures",
        )
    return Draft(text, pictures, notes)


def lay_out_parts(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """All parts in their order, nothing between them: what a base checkpoint continues.

    An answer that does not end its line gets a line break, so that examples in a few-shot prompt stay apart,
    and a blank before it where the question leaves none, as the model would write one.
    """
    placeholder = loaded.family.placeholder(loaded.processor)
    pieces = [settings.system + "\n"] if settings.system else []
    pieces = [hide(piece) for piece in pieces]
    pictures: list[Any] = []
    for turn in turns:
        if turn.role == "assistant" and not settings.continuation and pieces and pieces[-1] != placeholder:
            pieces.append(joint(pieces[-1], turn.text))
        for part in turn.parts:
            if isinstance(part, Picture):
                pictures.append(part.rgb)
                pieces.append(placeholder)
            else:
                pieces.append(hide(part.text))
        if turn.role == "assistant" and pieces and not pieces[-1].endswith("\n") and turn is not turns[-1]:
            pieces.append("\n")
    return Draft("".join(pieces), pictures)


def lay_out_pictures_first(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """As `lay_out_chat`; without a template pictures come first, then the words, as PaliGemma wants."""
    if loaded.chat_template is not None and not settings.continuation:
        return lay_out_chat(loaded, turns, settings, hide)
    draft = lay_out_parts(loaded, turns, settings, hide)
    placeholder = loaded.family.placeholder(loaded.processor)
    draft.text = placeholder * len(draft.pictures) + draft.text.replace(placeholder, "")
    return draft


def lay_out_words(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """The words alone: the processor puts the picture before them by itself."""
    draft = lay_out_parts(loaded, turns, settings, hide)
    draft.text = draft.text.replace(loaded.family.placeholder(loaded.processor), "")
    return draft


def _with_system(turns: Sequence[Turn], system: str) -> list[Turn]:
    if not system:
        return list(turns)
    return merged([Turn("system", (Text(system),)), *turns])


def _system_in_question(turns: Sequence[Turn]) -> list[Turn]:
    """The system text moved into the first turn after it."""
    system, *rest = turns
    if not rest:
        return [Turn("user", system.parts)]
    first = Turn(rest[0].role, tuple(joined((*system.parts, Text("\n\n"), *rest[0].parts))))
    return [first, *rest[1:]]


def _render(
    loaded: Loaded, template: str, turns: Sequence[Turn], hide: Callable[[str], str], settings: Settings
) -> str | None:
    """The rendered template, or None where it drops a text or a picture.

    Templates want the content of a message as a list of blocks or as one string; which, only a try can tell.
    """
    token = loaded.family.template_token(loaded.processor)
    placeholder = loaded.family.placeholder(loaded.processor)
    n_pictures = sum(len(turn.pictures) for turn in turns)
    texts = [hide(part.text).strip() for turn in turns for part in turn.parts if isinstance(part, Text)]
    for to_content in (_as_blocks, _as_string):
        messages = [
            {"role": turn.role, "content": to_content(turn.parts, hide, placeholder)} for turn in turns
        ]
        try:
            text: str = loaded.processor.apply_chat_template(
                messages,
                chat_template=template,
                add_generation_prompt=turns[-1].role != "assistant",
                tokenize=False,
            )
        except Exception:  # a template may raise anything; the other form, or the caller's error, follows
            continue
        n_shown = text.count(token)
        if settings.special_tokens and n_shown > n_pictures:  # people's own; the processor will count them
            n_shown = n_pictures
        if n_shown == n_pictures and _appear_in_order(texts, text):
            return text
    return None


def _as_blocks(parts: Sequence[Part], hide: Callable[[str], str], placeholder: str) -> list[dict[str, str]]:
    return [
        {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": hide(part.text)}
        for part in parts
    ]


def _as_string(parts: Sequence[Part], hide: Callable[[str], str], placeholder: str) -> str:
    return "".join(placeholder if isinstance(part, Picture) else hide(part.text) for part in parts)


def _appear_in_order(texts: Sequence[str], rendered: str) -> bool:
    """Whether all texts are in the rendering; templates may trim them and may move pictures before them."""
    cursor = 0
    for text in texts:
        found = rendered.find(text, cursor)
        if found < 0:
            return False
        cursor = found + len(text)
    return True
