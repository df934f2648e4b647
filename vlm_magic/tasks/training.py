"""Conversations as training batches: what the model is shown, and which tokens it shall learn.

The labels follow the Idefics2 guide: padding and image tokens count for nothing, and by default everything
but the assistant's words. Where those words are is found by comparing prompts, not by a template's own
marks: the built-in mask of transformers is wrong on Idefics2 and empty on most templates.

Knows engines and turns; knows nothing of optimisers. Neighbours: `models.prompting` makes the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import PromptError
from vlm_magic.messages import Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.families import picture_token_ids, prepare, prepare_batch, stop_token_ids

if TYPE_CHECKING:
    import torch

    from vlm_magic.models.engine import LocalEngine
    from vlm_magic.models.loading import Loaded

__all__ = ["IGNORED", "training_batch"]

IGNORED = -100
"""The label that counts for nothing."""

_OTHER_ANSWER = "\ue6a1"  # private use: no answer begins or ends with it


def training_batch(
    engine: LocalEngine | Loaded,
    conversations: Sequence[Sequence[Turn]],
    settings: Settings | None = None,
    *,
    only_assistant: bool = True,
) -> dict[str, torch.Tensor]:
    """Inputs and labels for ``model(**batch).loss``.

    The assistant's words are learned together with the token that ends them, or the model would never stop.
    Each prompt is prepared once more for each of its answers, to see where that answer is.

    Args:
        engine: a local engine, or what `load_model` returned.
        conversations: finished ones, the assistant's words last; pictures decoded.
        settings: ``system``, ``continuation`` and ``special_tokens`` matter here.
        only_assistant: False learns the questions too.

    Returns:
        What the model takes, on its device: ``input_ids`` (B, T) int64, padded on the left, pixels, and
        ``labels`` (B, T) int64 with -100 where nothing is to be learned.

    Raises:
        PromptError: a conversation without an answer.
    """
    loaded = _loaded(engine)
    how = settings or Settings()
    for turns in conversations:
        if not any(turn.role == "assistant" for turn in turns):
            raise PromptError(
                "a conversation has no answer to learn",
                have=", ".join(turn.role for turn in turns),
                hint='Turn("assistant", (Text("…"),)) at its end',
            )
    batch = prepare_batch(loaded, conversations, how)
    ids = batch.inputs["input_ids"]  # (B, T) int64
    labels = ids.clone()
    labels[batch.inputs["attention_mask"] == 0] = IGNORED
    for token_id in picture_token_ids(loaded):
        labels[ids == token_id] = IGNORED
    if only_assistant:
        for row, turns in enumerate(conversations):
            n_padding = int((batch.inputs["attention_mask"][row] == 0).sum())
            learned = _answers(loaded, turns, how, ids[row, n_padding:].tolist())
            outside = [n for n in range(ids.shape[1]) if not any(a <= n - n_padding < b for a, b in learned)]
            labels[row, outside] = IGNORED
    return memory.to_device({**batch.inputs, "labels": labels}, loaded)


def _loaded(engine: Any) -> Loaded:
    loaded: Loaded = engine if hasattr(engine, "family") else engine.loaded
    return loaded


def _answers(
    loaded: Loaded, turns: Sequence[Turn], settings: Settings, whole: list[int]
) -> list[tuple[int, int]]:
    """[first, last + 1) token of each answer in the whole prompt.

    An answer is where the prompt differs from the same prompt with another answer in that place, and the
    token that ends it. (A prompt cut off before the answer would not do: the tokens of a picture may depend
    on how many pictures there are.)
    """
    stops = set(stop_token_ids(loaded, settings))
    spans = []
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
