"""Layouts: how a conversation becomes one text with a placeholder for each picture.

Through the checkpoint's chat template, or joined for a plain continuation. A template is tried, not
trusted: what it renders must hold every text and every picture, else the next form of message is tried, and
then it is an error.

Knows templates and placeholders, not tensors. Neighbours: `families` names a layout in each row,
`prepare` calls it; `idefics` holds the one layout that is no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vlm_magic.errors import ModelKindError, ModelLoadError, PromptError
from vlm_magic.messages import Part, Picture, Settings, Text, Turn
from vlm_magic.models.loaded import Draft, Loaded
from vlm_magic.models.prompts import templates
from vlm_magic.models.prompts.thinking import answers_at_once, check_think, closed, marks_of, switch_of
from vlm_magic.models.prompts.turns import joined, joint, merged

__all__ = ["lay_out_chat", "lay_out_parts", "lay_out_pictures_first", "lay_out_words"]


def lay_out_chat(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]
) -> Draft:
    """Through the checkpoint's chat template; plain continuation where asked for or where there is none.

    Raises:
        ModelKindError: the template does not show what was said.
        PromptError: it refuses this conversation; its own words are in the message.
        ModelLoadError: it takes too long or too much memory.
    """
    check_think(loaded, settings)
    template = loaded.chat_template
    if settings.continuation or template is None:
        return lay_out_parts(loaded, turns, settings, hide)
    notes: list[str] = []
    pictures = [picture for turn in turns for picture in turn.pictures]
    shown = _with_system(turns, settings.system)
    text, refusal = _render(loaded, template, shown, hide, settings)
    if text is None and shown[0].role == "system":
        shown = _system_in_question(shown)
        why = (
            f'this model\'s template refuses a system text here ("{refusal}")'
            if refusal
            else "this model's template has no place for a system text"
        )
        notes.append(f"{why}; it stands before the first question")
        text, refusal = _render(loaded, template, shown, hide, settings)
    if text is None and refusal:
        raise PromptError(
            f"the chat template of {loaded.name} refuses this conversation",
            have=f"it says: {refusal}",
            hint="--new for a fresh conversation, or --continuation",
            refusal=refusal,
        )
    if text is None:
        raise ModelKindError(
            f"the chat template of {loaded.name} drops a part of the prompt",
            have="what it renders lacks a text or a picture",
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
                pictures.append(part)
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
) -> tuple[str | None, str]:
    """(rendered template, ""), or (None, why the template itself refuses) where a text or a picture is lost.

    Templates want the content of a message as a list of blocks or as one string; which, only a try can tell.
    """
    token = loaded.family.template_token(loaded.processor)
    placeholder = loaded.family.placeholder(loaded.processor)
    n_pictures = sum(len(turn.pictures) for turn in turns)
    marks, is_answer_next = marks_of(loaded), turns[-1].role != "assistant"
    options = _thinking_options(loaded, settings)
    refusal = ""
    for to_content in (_as_blocks, _as_string):
        messages = [
            {
                "role": turn.role,
                "content": to_content(turn.parts, hide, placeholder),
                **_thought(turn, hide, template),
            }
            for turn in turns
        ]
        made = _rendering(loaded, template, messages, is_answer_next, options)
        if made.kind == "refused":
            refusal = refusal or made.words
        if made.kind != "text":  # a template may fail in any way; the other form, or an error, follows
            continue
        n_shown = made.text.count(token)
        if settings.special_tokens and n_shown > n_pictures:  # people's own; the processor will count them
            n_shown = n_pictures
        if n_shown == n_pictures and _shows(made.text, turns, hide):
            is_closed = is_answer_next and answers_at_once(settings)
            return (closed(made.text, marks) if is_closed else made.text), ""
    return None, refusal


def _rendering(
    loaded: Loaded,
    template: str,
    messages: list[dict[str, Any]],
    is_answer_next: bool,
    options: dict[str, bool],
) -> templates.Rendering:
    """Render in a child process; this package's own template here.

    Raises:
        ModelLoadError: it took too long or too much.
    """
    names = dict(loaded.tokenizer.special_tokens_map)
    if templates.is_trusted(template):
        try:
            text: str = loaded.processor.apply_chat_template(
                messages,
                chat_template=template,
                add_generation_prompt=is_answer_next,
                tokenize=False,
                **options,
            )
        except Exception as error:
            return templates.Rendering("failed", words=str(error))
        return templates.Rendering("text", text)
    made = templates.render(template, names, messages, add_generation_prompt=is_answer_next, **options)
    if made.took_too_much:
        raise ModelLoadError(
            f"the chat template of {loaded.name} takes too long or too much memory with this conversation",
            have=f"{len(messages)} messages; it was given {templates.LIMIT_S:g} s, "
            f"{templates.LIMIT_BYTES >> 20} MB and {templates.LIMIT_CHARS >> 20} M letters of output",
            hint="--new for a short conversation, or --continuation",
        )
    return made


def _thinking_options(loaded: Loaded, settings: Settings) -> dict[str, bool]:
    """The template's own switch, where the person or the form of the answer says how it should stand."""
    switch = switch_of(loaded)
    if not switch or (settings.think is None and not answers_at_once(settings)):
        return {}
    return {switch: not answers_at_once(settings)}


def _thought(turn: Turn, hide: Callable[[str], str], template: str) -> dict[str, str]:
    """What the model thought before this answer, for templates that ask for it and say what becomes of it."""
    if not turn.thinking or "reasoning" not in template:
        return {}
    return dict.fromkeys(("reasoning_content", "reasoning"), hide(turn.thinking))


def _shows(rendered: str, turns: Sequence[Turn], hide: Callable[[str], str]) -> bool:
    """Whether everything that was said is in the rendering, as text and not as Python's picture of a list.

    Templates may trim texts, move pictures before them, and write the system text elsewhere.
    """

    def texts_of(shown: Sequence[Turn]) -> list[str]:
        return [hide(part.text).strip() for turn in shown for part in turn.parts if isinstance(part, Text)]

    said = texts_of([turn for turn in turns if turn.role != "system"])
    system = texts_of([turn for turn in turns if turn.role == "system"])
    n_lists = sum(text.count(_LIST) for text in (*said, *system))
    return (
        rendered.count(_LIST) == n_lists
        and _appear_in_order(said, rendered)
        and all(text in rendered for text in system)
    )


_LIST = "{'type': 'text'"  # how Python writes a block that a template took for a string


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
