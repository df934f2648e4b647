"""Scores of choices: from log-probabilities of whole replies to probabilities among them.

Each choice is scored as the model's next reply, whole and with its end, and the scores are made
probabilities among the choices: P(c) = exp(s_c) / Σ_k exp(s_k). What is compared, s_c, is said by
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

Pure arithmetic: whoever has log-probabilities, from a model here or from a server, brings them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from vlm_magic.errors import PromptError
from vlm_magic.messages import Choice, Part, Picture, Score, Settings, Turn

__all__ = ["HOW", "compare", "content_free"]

_BLANK_PX = 224  # side of the grey square; a size that every family takes
_GREY = (127, 127, 127)
_IMPOSSIBLE = -1e6  # stands for −∞, where a model rules a token out
HOW = {
    "none": "",
    "length": "choices compared by their mean log p per token (normalize length)",
    "prior": "choices compared by what the picture adds to what a grey square gives (normalize prior)",
}
"""What to tell the person about each way to normalise."""


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
            "normalize prior needs a picture in the question",
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
