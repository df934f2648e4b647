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
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import ModelKindError, PromptError
from vlm_magic.messages import Settings, Turn
from vlm_magic.models.control_tokens import GuardedTokenizer, Mask
from vlm_magic.models.loaded import Draft, Loaded, Prepared, Process
from vlm_magic.models.prompts.layouts import lay_out_chat
from vlm_magic.models.prompts.turns import merged
from vlm_magic.wording import list_words, shorten

if TYPE_CHECKING:
    import torch

__all__ = ["lay_out", "observed", "prepare", "prepare_batch", "process_drafts", "process_texts"]


def prepare(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, process: Process | None = None
) -> Prepared:
    """Everything that ``generate`` needs for one conversation.

    Args:
        loaded: the model.
        turns: what was said, the question last; pictures decoded.
        settings: ``system``, ``continuation`` and ``special_tokens`` matter here.
        process: makes tensors of drafts in place of the family's own (see `VisionCache`).

    Raises:
        PromptError: the family cannot take this prompt (too many pictures, none, no turns).
        ModelKindError: the checkpoint's template drops a part of the prompt.
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
    inputs = (process or process_drafts)(loaded, processor, drafts, mask)
    rows, spans = _picture_spans(loaded, tokenizer, drafts, replacements, inputs)
    return Prepared(
        inputs=inputs,
        rendered="\n---\n".join(mask.reveal(family.as_text(loaded, draft)) for draft in drafts),
        picture_spans=tuple(spans),
        picture_tokens=tuple(end - start for start, end in spans),
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
    draft = (family.lay_out or lay_out_chat)(loaded, merged(turns), settings, hide)
    if len(draft.pictures) != n_pictures:
        raise ModelKindError(
            f"the layout of {family.name} lost a picture", have=f"{len(draft.pictures)} of {n_pictures}"
        )
    return draft


# ---- processing: Draft → tensors -----------------------------------------------------------------


def process_drafts(
    loaded: Loaded, processor: Any, drafts: Sequence[Draft], mask: Mask
) -> dict[str, torch.Tensor]:
    """Drafts → tensors as the model's family does it."""
    return (loaded.family.process or process_texts)(loaded, processor, drafts, mask)


def process_texts(
    loaded: Loaded,
    processor: Any,
    drafts: Sequence[Draft],
    mask: Mask,
    *,
    is_flat: bool = False,
    **asked: bool,
) -> dict[str, torch.Tensor]:
    """One call of the processor for texts with placeholders and their pictures.

    Args:
        loaded: the model.
        processor: its processor, observed.
        drafts: the prompts.
        mask: their hidden words.
        is_flat: whether the processor wants one list of pictures, not one for each text.
        **asked: further options of the processor.
    """
    tokenizer = loaded.tokenizer
    options: dict[str, Any] = {"return_tensors": loaded.family.arrays, **asked}
    if len(drafts) > 1:
        options.update(padding=True, padding_side="left")
    openings = tuple(filter(None, (tokenizer.bos_token, tokenizer.cls_token)))
    if drafts[0].text.startswith(openings):
        options["add_special_tokens"] = False
    images: Any = [[picture.rgb for picture in draft.pictures] for draft in drafts]
    if is_flat:
        images = [picture for each in images for picture in each]
    try:
        data = processor(
            text=[draft.text for draft in drafts], images=images if any(images) else None, **options
        )
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        raise PromptError(
            f"the processor of {loaded.name} does not take this prompt",
            have=f"{sum(len(draft.pictures) for draft in drafts)} pictures; it says: {shorten(error, 160)}",
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
    types_of = getattr(processor, "create_mm_token_type_ids", None)
    if types_of is not None:  # GLM's reads the rows of a tensor through numpy, which warns of it
        watched.create_mm_token_type_ids = lambda rows: types_of(
            [row if isinstance(row, list) else row.tolist() for row in rows]
        )
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
            shown = next(queue).strip()  # blank lines around it are text
            start, end = _place_of(shown, text, cursor, loaded.family.border)
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
    """Spans where each row opens with its one picture; empty ones where a picture has no tokens."""
    if "image_embeds_position_mask" in inputs:  # Kosmos; a mark stands on either side
        marked = [row.eq(1).nonzero().flatten().tolist() for row in inputs["image_embeds_position_mask"]]
        return list(range(len(marked))), [(places[0] - 1, places[-1] + 2) for places in marked]
    token_id = loaded.tokenizer.convert_tokens_to_ids(loaded.family.placeholder(loaded.processor))
    rows, spans = [], []
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        if token_id in ids:
            start = ids.index(token_id)
            rows.append(row)
            spans.append((start, start + ids.count(token_id)))
        elif not loaded.family.has_picture_tokens:
            rows.append(row)
            spans.append((0, 0))
    return rows, spans


def _mask_notes(mask: Mask, tokenizer: GuardedTokenizer) -> list[str]:
    """How control words in people's text reached the model."""
    words = list_words(mask.words, 3)
    if not words:
        return []
    if tokenizer.is_exact:
        return [f"{words} in the text was shown to the model as plain letters (--special-tokens means it)"]
    return [f"{words} in the text was shown to the model with a zero-width mark (--special-tokens means it)"]
