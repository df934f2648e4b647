"""How to answer: every setting with its range, checked when it is set.

Pure data. What of it an engine can keep is said by the engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

from vlm_magic.errors import OptionError, near_names

__all__ = ["Normalize", "Settings"]

Normalize: TypeAlias = Literal["none", "length", "prior"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to answer. Greedy unless sampling is asked for, whatever the checkpoint's own defaults.

    Attributes:
        max_tokens: the most new tokens.
        system: system text put before the conversation; "" for none.
        temperature: above 0 samples; None or 0 is greedy.
        top_p: sample from the smallest set of tokens with this probability; asks for sampling.
        top_k: sample from this many tokens; asks for sampling.
        seed: makes sampling repeatable.
        beams: beams of a beam search; 1 is none.
        time_limit_s: stop after this many seconds with what there is.
        sampling: True takes the checkpoint's own generation defaults (its ``generation_config``).
        repetition_penalty: above 1 discourages tokens that are there already.
        stop: strings that end the answer (they are not part of it).
        bad_words: strings that the answer must not contain.
        continuation: plain continuation without the chat template (base checkpoints do so anyway).
        special_tokens: True lets text name the model's control tokens on purpose.
        log_probabilities: True gives the log-probability of each new token with the reply.
        top_log_probabilities: how many of the likeliest tokens to give at each new token's place, up to 20.
        choices: the replies to choose among: the answer is the likeliest of them, nothing is generated.
        normalize: how choices of different length and commonness are compared; see
            `vlm_magic.choice_scores`.
        grammar: JSON text that says the form that the answer must have, or "": ``{"json_schema": {…}}`` or
            ``{"regex": "…"}`` (see `vlm_magic.tasks.schemas`, which makes it from a Python type).
        think: whether the model thinks before it answers: True, False, or the most tokens of a thought; None
            leaves it to its template.
    """

    max_tokens: int = 512
    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    beams: int = 1
    time_limit_s: float | None = None
    sampling: bool = False
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    continuation: bool = False
    special_tokens: bool = False
    log_probabilities: bool = False
    top_log_probabilities: int = 0
    choices: tuple[str, ...] = ()
    normalize: Normalize = "none"
    grammar: str = ""
    think: bool | int | None = None

    def __post_init__(self) -> None:
        _check_range("max_tokens", self.max_tokens, low=1)
        _check_range("temperature", self.temperature, low=0)
        _check_range("top_p", self.top_p, low=0, high=1)
        _check_range("top_k", self.top_k, low=1)
        _check_range("beams", self.beams, low=1)
        _check_range("top_log_probabilities", self.top_log_probabilities, low=0, high=20)
        _check_range("time_limit_s", self.time_limit_s, low=0)
        _check_range("repetition_penalty", self.repetition_penalty, low=0)
        if not isinstance(self.think, bool):
            _check_range("think", self.think, low=1)
        if self.beams > 1 and self.is_sampling:
            raise OptionError(
                "beam search does not sample",
                have=f"beams={self.beams} together with temperature, top_p, top_k or sampling",
                hint="either beams or a temperature",
            )
        _check_choices(self)

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are drawn at random."""
        return bool(self.temperature) or self.top_p is not None or self.top_k is not None or self.sampling

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(f.name for f in fields(cls))

    def updated(self, values: Mapping[str, object]) -> Settings:
        """A copy with ``values`` in place.

        Raises:
            OptionError: a name that is no setting, or a value out of its range.
        """
        for name in values:
            if name not in self.names():
                near = near_names(name, self.names())
                raise OptionError(
                    f"no setting {name!r}",
                    have=", ".join(near or self.names()),
                    hint=f"{near[0]}=…" if near else "",
                    name=name,
                )
        return replace(self, **values)  # type: ignore[arg-type]


def _check_range(
    name: str, value: float | None, *, low: float | None = None, high: float | None = None
) -> None:
    """Raise an OptionError unless ``value`` is None or a number within [low, high]."""
    if value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        is_number
        and not math.isnan(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
    ):
        return
    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
    nearest = high if is_number and high is not None and value > high else low
    raise OptionError(
        f"{name} is {value!r}",
        have=f"a number, {bounds}, is wanted",
        hint=f"{name}={nearest}",
        name=name,
        value=value,
        nearest=nearest,
    )


def _check_choices(settings: Settings) -> None:
    """Raise an OptionError for choices that cannot be compared."""
    choices = settings.choices
    if settings.normalize not in ("none", "length", "prior"):
        raise OptionError(f"normalize is {settings.normalize!r}", have="none, length, prior")
    if not choices:
        return
    if isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
        raise OptionError("choices must be several texts", have=repr(choices), hint='choices=("yes", "no")')
    if any(not choice.strip() for choice in choices):
        raise OptionError("an empty choice", have=", ".join(map(repr, choices)), hint="words for each choice")
    twice = sorted({choice for choice in choices if choices.count(choice) > 1})
    if twice:
        raise OptionError(
            f"a choice appears twice: {', '.join(map(repr, twice))}",
            have=", ".join(map(repr, choices)),
            hint="each choice once",
        )
    if len(choices) < 2:
        is_list = "," in choices[0]
        hint = f"no quotes around all of them: {choices[0]}" if is_list else "two choices or more"
        raise OptionError("only one choice", have=repr(choices[0]), hint=hint)
    if settings.is_sampling or settings.beams > 1:
        raise OptionError(
            "choices are compared, not drawn or searched",
            have="choices together with temperature, top_p, top_k, sampling or beams",
            hint="choices alone",
        )
