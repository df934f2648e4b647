"""An answer that is chosen, not generated: the likeliest of several replies.

Knows models and prompts, not queues. Neighbours: `scoring` does the forwards, `vlm_magic.choice_scores` makes
probabilities of them, `engine` queues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from vlm_magic.choice_scores import HOW, compare, content_free
from vlm_magic.messages import FinishReason, Reply, Score, Settings, Turn
from vlm_magic.models.caches.reuse import Reuse
from vlm_magic.models.decoding.scoring import score_choices
from vlm_magic.models.decoding.stopping import StopCheck, hooks_on_layers
from vlm_magic.models.loaded import Loaded
from vlm_magic.work_queue import Generation, Stopped

__all__ = ["choose_reply"]


def choose_reply(
    loaded: Loaded,
    reuse: Reuse,
    turns: Sequence[Turn],
    settings: Settings,
    generation: Generation,
    began: float,
) -> Reply:
    """The likeliest of ``settings.choices`` as the answer, all of them with the reply.

    A stop or a time limit leaves no answer: nothing can be said of choices that were not looked at.

    Args:
        loaded: the model.
        reuse: its stores.
        turns: the conversation, the question last.
        settings: with the choices.
        generation: whose stop flag is looked at.
        began: when the work began, `time.perf_counter` seconds.

    Raises:
        PromptError: a choice without a token, or "prior" for a question without a picture.
        ContextLengthError: prompt and longest choice do not fit.
    """
    stop_check = StopCheck(generation, settings.time_limit_s, began)
    leave = stop_check.leave_if_due
    try:
        with hooks_on_layers(loaded.model, leave):
            priors = _priors(loaded, reuse, turns, settings, leave)
            scored = score_choices(loaded, reuse, turns, settings.choices, settings, check=leave)
    except Stopped:
        reason: FinishReason = stop_check.reason or "interrupted"
        total_s = time.perf_counter() - began
        return Reply("", finish_reason=reason, total_s=total_s, model=loaded.name)
    choices = compare(scored.scores, settings, priors)
    best = max(range(len(choices)), key=lambda n: choices[n].score)
    total_s = time.perf_counter() - began
    return Reply(
        text=choices[best].text,
        n_prompt_tokens=scored.n_prompt_tokens,
        n_picture_tokens=scored.n_picture_tokens,
        n_reused_tokens=scored.n_reused_tokens,
        ttft_s=total_s,
        total_s=total_s,
        model=loaded.name,
        notes=(*scored.notes, *filter(None, [HOW[settings.normalize]])),
        token_ids=scored.scores[best].token_ids[:-1],
        choices=choices,
    )


def _priors(
    loaded: Loaded, reuse: Reuse, turns: Sequence[Turn], settings: Settings, check: Callable[[], None]
) -> tuple[Score, ...]:
    """The scores after the content-free prompt, where they are wanted."""
    if settings.normalize != "prior":
        return ()
    return score_choices(loaded, reuse, content_free(turns), settings.choices, settings, check=check).scores
