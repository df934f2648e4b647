"""From turns to tensors: lay a conversation out as the model's family wants it, and find its pictures.

`prepare` is the one way in: it hides control words, renders the chat template (or joins the parts, for a
plain continuation), calls the processor once and finds each picture's run of tokens. The difference between
families is data in `families`; nothing here asks for a family by name.

Knows processors and tokenizers, not models' weights, generation, IPython or where pictures come from.
Neighbours: `control_tokens` below, `families` holds the rows, `engine` generates from a `Prepared`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import ModelKindError, PromptError, shorten
from vlm_magic.messages import Part, Picture, Settings, Text, Turn
from vlm_magic.models.control_tokens import GuardedTokenizer, Mask

if TYPE_CHECKING:
    import torch

    from vlm_magic.models.families import Process
    from vlm_magic.models.loading import Loaded

__all__ = [
    "Draft",
    "Prepared",
    "lay_out_chat",
    "lay_out_parts",
    "lay_out_pictures_first",
    "lay_out_words",
    "prepare",
    "prepare_batch",
    "process_texts",
]


@dataclass
class Prepared:
    """A prompt (or a left-padded batch of prompts) ready for ``model.generate``.

    Attributes:
        inputs: what the model takes, on the CPU: ``input_ids`` (B, T) int64, ``attention_mask`` (B, T),
            pixels.
        rendered: the prompt after the template, in the people's own letters; prompts of a batch are joined by
            a line of dashes.
        picture_spans: [first, last + 1) token of each picture in its row, its own marker tokens included.
        n_picture_tokens: tokens of each picture.
        notes: remarks for the person.
        picture_rows: the row of the batch that each picture stands in.
    """

    inputs: dict[str, torch.Tensor]
    rendered: str
    picture_spans: tuple[tuple[int, int], ...]
    n_picture_tokens: tuple[int, ...]
    notes: tuple[str, ...] = ()
    picture_rows: tuple[int, ...] = ()


@dataclass
class Draft:
    """One prompt before its processor: the text with picture placeholders, and the pictures in their order.

    Attributes:
        text: the rendered text, or for families that interleave lists the list of texts and images.
        pictures: decoded RGB images, in the order of the placeholders.
        notes: remarks.
    """

    text: Any
    pictures: list[Any]
    notes: list[str] = field(default_factory=list)


def prepare(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, process: Process | None = None
) -> Prepared:
    """Everything that ``generate`` needs for one conversation.

    Args:
        loaded: the model.
        turns: what was said, the question last; pictures decoded.
        settings: ``system``, ``continuation`` and ``special_tokens`` matter here.
        process: makes tensors of drafts in place of the family's own (see `looks`).

    Raises:
        PromptError: the family cannot take this prompt (too many pictures, none, no turns).
        ModelKindError: the checkpoint's template does not show the model what was said.
    """
    return prepare_batch(loaded, [turns], settings, process)


def prepare_batch(
    loaded: Loaded,
    conversations: Sequence[Sequence[Turn]],
    settings: Settings,
    process: Process | None = None,
) -> Prepared:
    """The same for several conversations at once, padded on the left.

    Raises:
        PromptError: as for `prepare`, or the family's processor cannot mix these prompts in one batch.
    """
    if not conversations or not all(conversations):
        raise PromptError("there is nothing to answer", have="no turns", hint="write a question")
    family = loaded.family
    mask = Mask(loaded.control)
    mask.reserve(t.text for turns in conversations for t in turns)
    hide = (lambda text: text) if settings.special_tokens else mask.hide
    drafts = [lay_out(loaded, turns, settings, hide) for turns in conversations]
    tokenizer = GuardedTokenizer(loaded.tokenizer, mask)
    processor, replacements = observed(loaded.processor, tokenizer)
    inputs = (process or family.process)(loaded, processor, drafts, mask)
    rows, spans = _picture_spans(loaded, tokenizer, drafts, replacements, inputs)
    return Prepared(
        inputs=inputs,
        rendered="\n---\n".join(mask.reveal(family.as_text(loaded, draft)) for draft in drafts),
        picture_spans=tuple(spans),
        n_picture_tokens=tuple(end - start for start, end in spans),
        notes=tuple(dict.fromkeys([*(n for d in drafts for n in d.notes), *_mask_notes(mask, tokenizer)])),
        picture_rows=tuple(rows),
    )


def lay_out(loaded: Loaded, turns: Sequence[Turn], settings: Settings, hide: Callable[[str], str]) -> Draft:
    """One conversation laid out, its pictures counted against what the family takes."""
    family = loaded.family
    n_pictures = sum(len(turn.pictures) for turn in turns)
    if family.max_pictures is not None and n_pictures > family.max_pictures:
        raise PromptError(
            f"{loaded.name} looks at {family.max_pictures} picture in a prompt",
            have=f"{n_pictures} pictures",
            hint="--new for a conversation with this picture alone",
            n_pictures=n_pictures,
        )
    if family.needs_picture and n_pictures == 0:
        raise PromptError(f"{loaded.name} needs a picture in every prompt", hint="{picture} in the prompt")
    draft = family.lay_out(loaded, merged(turns), settings, hide)
    if len(draft.pictures) != n_pictures:
        raise ModelKindError(
            f"the layout of {family.name} lost a picture", have=f"{len(draft.pictures)} of {n_pictures}"
        )
    return draft


def merged(turns: Sequence[Turn]) -> list[Turn]:
    """Neighbouring turns of one role as one (templates want roles to alternate), likewise texts."""
    result: list[Turn] = []
    for turn in turns:
        parts: tuple[Part, ...] = turn.parts
        if result and result[-1].role == turn.role:
            gap: tuple[Part, ...] = (Text("\n\n"),)
            parts = result.pop().parts + gap + parts
        result.append(Turn(turn.role, tuple(_joined(parts))))
    return result


def _joined(parts: Sequence[Part]) -> list[Part]:
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        else:
            joined.append(part)
    return joined


# ---- layouts: turns → Draft ----------------------------------------------------------------------


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

    An answer that does not end its line gets a line break, so that examples in a few-shot prompt stay apart.
    """
    placeholder = loaded.family.placeholder(loaded.processor)
    pieces = [settings.system + "\n"] if settings.system else []
    pieces = [hide(piece) for piece in pieces]
    pictures: list[Any] = []
    for turn in turns:
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
    first = Turn(rest[0].role, tuple(_joined((*system.parts, Text("\n\n"), *rest[0].parts))))
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


# ---- processing: Draft → tensors -----------------------------------------------------------------


def process_texts(
    loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
) -> dict[str, torch.Tensor]:
    """One call of the processor for texts with placeholders and their pictures."""
    tokenizer = loaded.tokenizer
    options: dict[str, Any] = {"return_tensors": loaded.family.arrays}
    if len(drafts) > 1:
        options.update(padding=True, padding_side="left")
    if tokenizer.bos_token and drafts[0].text.startswith(tokenizer.bos_token):
        options["add_special_tokens"] = False
    images = [draft.pictures for draft in drafts]
    try:
        data = processor(
            text=[draft.text for draft in drafts], images=images if any(images) else None, **options
        )
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        raise PromptError(
            f"the processor of {loaded.name} does not take this prompt",
            have=f"{sum(map(len, images))} pictures; it says: {shorten(error, 160)}",
            hint="without --special-tokens, if they were given; else fewer pictures",
        ) from error
    return as_tensors(data)


def as_tensors(data: Any) -> dict[str, torch.Tensor]:
    """The tensors of a processor's answer that ``generate`` takes."""
    import numpy as np
    import torch

    made = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in dict(data).items()}
    return {k: v for k, v in made.items() if isinstance(v, torch.Tensor) and k != "labels"}


def observed(processor: Any, tokenizer: GuardedTokenizer) -> tuple[Any, list[str]]:
    """A shallow copy of the processor with the guarded tokenizer; keeps what each picture was replaced by."""
    replacements: list[str] = []
    watched = copy.copy(processor)
    watched.replacements = replacements
    watched.tokenizer = tokenizer
    if hasattr(processor, "qformer_tokenizer"):  # it reads the words too, and has no picture tokens
        watched.qformer_tokenizer = lambda text, **options: processor.qformer_tokenizer(
            [tokenizer.mask.reveal(sample) for sample in text],
            **{**options, "padding_side": "right"},  # its positions are absolute
        )
    original = getattr(processor, "replace_image_token", None)
    if original is not None:

        def replace_image_token(*args: Any, **kwargs: Any) -> str:
            replacement: str = original(*args, **kwargs)
            replacements.append(replacement)
            return replacement

        watched.replace_image_token = replace_image_token
    return watched, replacements


def _picture_spans(
    loaded: Loaded,
    tokenizer: GuardedTokenizer,
    drafts: Sequence[Draft],
    replacements: Sequence[str],
    inputs: dict[str, torch.Tensor],
) -> tuple[list[int], list[tuple[int, int]]]:
    """Row and token span of each picture."""
    n_pictures = sum(len(draft.pictures) for draft in drafts)
    if loaded.family.expansion is None:
        return _leading_spans(loaded, inputs)
    if len(replacements) != n_pictures:
        replacements = [loaded.family.expansion(loaded)] * n_pictures
    rows: list[int] = []
    spans: list[tuple[int, int]] = []
    queue = iter(replacements)
    for row, draft in enumerate(drafts):
        text, cursor = tokenizer.texts[row], 0
        for _ in draft.pictures:
            start, end = _place_of(next(queue), text, cursor, loaded.family.border)
            cursor = end
            first, last = tokenizer.token_at(row, start), tokenizer.token_at(row, end - 1)
            if start < 0 or first is None or last is None:
                raise ModelKindError(f"cannot find the pictures' tokens in a prompt of {loaded.name}")
            rows.append(row)
            spans.append((first, last + 1))
    return rows, spans


def _place_of(replacement: str, text: str, cursor: int, border: str) -> tuple[int, int]:
    """Where a picture stands in the expanded text, its border tokens included; (-1, …) for nowhere."""
    start = text.find(replacement, cursor) if replacement else -1
    end = start + len(replacement)
    if border and start >= 0:
        if text.startswith(border, end):
            end += len(border)
        if start - len(border) >= cursor and text.startswith(border, start - len(border)):
            start -= len(border)
    return start, end


def _leading_spans(
    loaded: Loaded, inputs: dict[str, torch.Tensor]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Spans where each row opens with its one picture."""
    token_id = loaded.tokenizer.convert_tokens_to_ids(loaded.family.placeholder(loaded.processor))
    rows, spans = [], []
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        if token_id in ids:
            start = ids.index(token_id)
            rows.append(row)
            spans.append((start, start + ids.count(token_id)))
    return rows, spans


def _mask_notes(mask: Mask, tokenizer: GuardedTokenizer) -> list[str]:
    """How control words in people's text reached the model."""
    words = ", ".join(mask.words[:3]) + (", …" if len(mask.words) > 3 else "")
    if not words:
        return []
    if tokenizer.is_exact:
        return [f"{words} in the text was shown to the model as plain letters (--special-tokens means it)"]
    return [f"{words} in the text was shown to the model with a zero-width mark (--special-tokens means it)"]
