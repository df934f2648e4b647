"""Conversations as training batches: what the model is shown, and which tokens it shall learn.

The labels follow the Idefics2 guide: padding and image tokens count for nothing, and by default everything
but the assistant's words. Where those words are is found by comparing prompts, not by a template's own
marks: the built-in mask of transformers is wrong on Idefics2 and empty on most templates.

Knows engines and turns; knows nothing of optimisers. Neighbours: `conversations` reads examples,
`vlm_magic.models.prompts` makes prompts, `loop` learns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vlm_magic.errors import OptionError, PromptError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Engine, Part, Settings, Text, Turn, is_here
from vlm_magic.models import memory
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.prepare import prepare, prepare_batch
from vlm_magic.models.prompts.token_ids import picture_token_ids, stop_token_ids
from vlm_magic.tasks.training.conversations import Dialogue, conversations_of

__all__ = ["IGNORED", "Spans", "labelled_batch", "need_local", "training_batch"]

IGNORED = -100
"""The label that counts for nothing."""

Spans = list[tuple[int, int]]
"""[first, last + 1) token of each answer in a prompt."""

_OTHER_ANSWER = "\ue6a1"  # private use: no answer begins or ends with it


def training_batch(
    engine: Engine | Loaded,
    examples: object,
    settings: Settings | None = None,
    *,
    prompt: str | Sequence[Part] | None = None,
    only_assistant: bool = True,
    options: PictureOptions | None = None,
) -> dict[str, torch.Tensor]:
    """Inputs and labels for ``model(**batch).loss``.

    The assistant's words are learned together with the token that ends them, or the model would never stop.
    Each prompt is prepared once more for each of its answers, to see where that answer is.

    Args:
        engine: a local engine, or what `load_model` returned.
        examples: what ``--examples`` takes: a table, pairs, triples, dicts; or whole conversations: a
            session, turns or messages, or a list of such; see
            `vlm_magic.tasks.training.conversations.conversations_of`.
        settings: ``system``, ``continuation`` and ``special_tokens`` matter here.
        prompt: what is asked about each picture where an example does not say; ``{picture}`` marks its place.
        only_assistant: False learns the questions too.
        options: limits of pictures and downloads.

    Returns:
        What the model takes, on its device: ``input_ids`` (B, T) int64, padded on the left, pixels, and
        ``labels`` (B, T) int64 with -100 where nothing is to be learned.

    Raises:
        PromptError: no examples, or a conversation without an answer.
        PictureError: a picture that cannot be found, fetched or decoded.
        OptionError: the engine is not a local one.
    """
    loaded = need_local(engine)
    conversations = conversations_of(examples, prompt=prompt, options=options)
    return labelled_batch(loaded, conversations, settings or Settings(), only_assistant=only_assistant)


def labelled_batch(
    loaded: Loaded,
    conversations: Sequence[Dialogue],
    settings: Settings,
    *,
    only_assistant: bool = True,
    known: dict[int, Spans] | None = None,
) -> dict[str, torch.Tensor]:
    """The same for conversations that were read already.

    Args:
        loaded: the model.
        conversations: finished ones, the assistant's words last; pictures decoded.
        settings: see `training_batch`.
        only_assistant: False learns the questions too.
        known: where the answers of conversations are, by their ``id``; filled here, for later batches.
    """
    for turns in conversations:
        if not any(turn.role == "assistant" for turn in turns):
            raise PromptError(
                "a conversation has no answer to learn",
                have=", ".join(turn.role for turn in turns),
                hint='Turn("assistant", (Text("…"),)) at its end',
            )
    batch = prepare_batch(loaded, conversations, settings)
    ids = batch.inputs["input_ids"]  # (B, T) int64
    labels = ids.clone()
    labels[batch.inputs["attention_mask"] == 0] = IGNORED
    for token_id in picture_token_ids(loaded):
        labels[ids == token_id] = IGNORED
    spans_of: dict[int, Spans] = {} if known is None else known
    for row, turns in enumerate(conversations if only_assistant else ()):
        n_padding = int((batch.inputs["attention_mask"][row] == 0).sum())
        if id(turns) not in spans_of:
            spans_of[id(turns)] = _answers(loaded, turns, settings, ids[row, n_padding:].tolist())
        is_learned = torch.zeros(ids.shape[1], dtype=torch.bool)  # (T,)
        for start, end in spans_of[id(turns)]:
            is_learned[n_padding + start : n_padding + end] = True
        labels[row, ~is_learned] = IGNORED
    inputs = {**batch.inputs, "labels": labels}
    if loaded.family.said_type and "token_type_ids" in inputs:
        # What is learned must not see itself: from a row's first learned token on, all of it is an answer.
        is_said = (labels != IGNORED).cumsum(dim=1) > 0  # (B, T)
        inputs["token_type_ids"] = inputs["token_type_ids"].masked_fill(is_said, loaded.family.said_type)
    return memory.to_device(inputs, loaded)


def need_local(engine: Engine | Loaded) -> Loaded:
    """The model of an engine that has one here.

    Raises:
        OptionError: its model is elsewhere, or its encoder reads the prompt, so that nothing is learned here.
    """
    if isinstance(engine, Loaded):
        return engine
    if not is_here(engine):
        where = f"it answers on {engine.host}" if engine.host else "it has no weights"
        raise OptionError(
            f"{engine.name} cannot be taught from here", have=where, hint="a model loaded here: %vlm_load"
        )
    loaded: Loaded = engine.loaded
    return loaded


def _answers(loaded: Loaded, turns: Sequence[Turn], settings: Settings, whole: list[int]) -> Spans:
    """[first, last + 1) token of each answer in the whole prompt.

    An answer is where the prompt differs from the same prompt with another answer in that place, and the
    token that ends it. (A prompt cut off before the answer would not do: the tokens of a picture may depend
    on how many pictures there are.)
    """
    stops = set(stop_token_ids(loaded, settings))
    spans: Spans = []
    for n, turn in enumerate(turns):
        if turn.role != "assistant":
            continue
        changed = [*turns[:n], Turn("assistant", (Text(_OTHER_ANSWER),)), *turns[n + 1 :]]
        other: list[int] = prepare(loaded, changed, settings).inputs["input_ids"][0].tolist()
        start = _n_common(whole, other)
        n_behind = min(_n_common(whole[::-1], other[::-1]), len(whole) - start)
        end = len(whole) - n_behind
        if end < len(whole) and whole[end] in stops:
            end += 1
        spans.append((start, end))
    return spans


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
