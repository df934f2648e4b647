"""An answer that is chosen, not generated: the likeliest of several replies.

Each choice is scored as the model's next reply, whole and with its end (`scoring`), and the scores are
made probabilities among the choices: P(c) = exp(s_c) / Σ_k exp(s_k). What is compared, s_c, is said by
``Settings.normalize``, for a choice c of the tokens c_1 … c_n after the prompt x:

- "none":   s_c = Σ_i log p(c_i | x, c_<i), the model's own log-probability of the reply. Right where
            the choices are what it would say; a longer one has more factors below 1.
- "length": s_c = (1/n) Σ_i log p(c_i | x, c_<i), the mean per token, the end counted. For choices of
            very different length. Source: Brown et al. 2020 (arXiv 2005.14165), section 2.4.
- "prior":  s_c = log p(c | x) − log p(c | x₀), how much more likely the pictures make it: x₀ is the same
            prompt with a plain grey square in each picture's place of the question, x's own examples and
            earlier turns staying. For choices that a model likes or shuns whatever it is shown. Source:
            the domain-conditional PMI of Holtzman et al. 2021 (arXiv 2104.08315), equation 4, with a
            content-free input as of Zhao et al. 2021 (arXiv 2102.09690), section 5; their contextual
            calibration, W = diag(p₀)⁻¹ and b = 0, gives the same probabilities once these are made to
            add up to 1.

Knows models and prompts, not queues. Neighbours: `scoring` does the forwards, `engine` queues.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import cache

from vlm_magic.errors import PromptError
from vlm_magic.messages import Choice, FinishReason, Part, Picture, Reply, Settings, Turn
from vlm_magic.models.generation import Generation, Stopped
from vlm_magic.models.loading import Loaded
from vlm_magic.models.reuse import Reuse
from vlm_magic.models.sampling import hooks_on_layers
from vlm_magic.models.scoring import Score, score_choices

__all__ = ["choose_reply", "compare", "content_free"]

_BLANK_PX = 224  # side of the grey square; a size that every family takes
_GREY = (127, 127, 127)
_IMPOSSIBLE = -1e6  # stands for −∞, where a model rules a token out
_HOW = {
    "none": "",
    "length": "choices compared by their mean log p per token (normalize length)",
    "prior": "choices compared by what the picture adds to what a grey square gives (normalize prior)",
}


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
    cut_by: list[FinishReason] = []

    def leave(*_: object) -> None:
        late = settings.time_limit_s is not None and time.perf_counter() > began + settings.time_limit_s
        if generation.is_stopped or late:
            cut_by.append("interrupted" if generation.is_stopped else "time")
            raise Stopped

    try:
        with hooks_on_layers(loaded.model, leave):
            priors = _priors(loaded, reuse, turns, settings, leave)
            scored = score_choices(loaded, reuse, turns, settings.choices, settings, check=leave)
    except Stopped:
        total_s = time.perf_counter() - began
        return Reply("", finish_reason=cut_by[-1], total_s=total_s, model=loaded.name)
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
        notes=(*scored.notes, *filter(None, [_HOW[settings.normalize]])),
        token_ids=scored.scores[best].token_ids[:-1],
        choices=choices,
    )


def compare(scores: Sequence[Score], settings: Settings, priors: Sequence[Score] = ()) -> tuple[Choice, ...]:
    """The choices with what is compared and their probabilities.

    Args:
        scores: of each choice.
        settings: says how to normalise.
        priors: of each choice after the content-free prompt; needed for "prior".
    """
    logs = [max(score.log_probability, _IMPOSSIBLE) for score in scores]
    match settings.normalize:
        case "length":
            compared = [log / len(score.token_ids) for log, score in zip(logs, scores, strict=True)]
        case "prior":
            compared = [
                log - max(prior.log_probability, _IMPOSSIBLE) for log, prior in zip(logs, priors, strict=True)
            ]
        case _:
            compared = logs
    most = max(compared)
    weights = [math.exp(value - most) for value in compared]
    total = sum(weights)
    return tuple(
        Choice(score.choice, weight / total, log, len(score.token_ids), value)
        for score, weight, log, value in zip(scores, weights, logs, compared, strict=True)
    )


def content_free(turns: Sequence[Turn]) -> list[Turn]:
    """The same prompt with a grey square for each picture of its question.

    Raises:
        PromptError: the question has no picture to take away.
    """
    *before, question = turns
    if not question.pictures:
        raise PromptError(
            "the prior is that of the question without its picture, and it has none",
            have=question.text or "an empty question",
            hint="--normalize length, or a {picture} in the question",
        )
    parts: tuple[Part, ...] = tuple(_grey() if isinstance(p, Picture) else p for p in question.parts)
    return [*before, Turn(question.role, parts)]


@cache
def _grey() -> Picture:
    from PIL import Image

    image = Image.new("RGB", (_BLANK_PX, _BLANK_PX), _GREY)
    return Picture(None, "content-free", image, f"content-free {_BLANK_PX} {_GREY}")


def _priors(
    loaded: Loaded, reuse: Reuse, turns: Sequence[Turn], settings: Settings, check: Callable[[], None]
) -> tuple[Score, ...]:
    """The scores after the content-free prompt, where they are wanted."""
    if settings.normalize != "prior":
        return ()
    return score_choices(loaded, reuse, content_free(turns), settings.choices, settings, check=check).scores
