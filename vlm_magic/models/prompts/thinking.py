"""How a model thinks before it answers: the marks around its thoughts, and its template's switch.

Read off the chat template and the tokenizer, as no configuration says it. Knows templates; generates nothing.
Neighbours: `layouts` opens and closes thoughts in prompts, `decoding.thoughts` tells them from answers.

Source: the chat templates of Qwen3 and 3.5, GLM-4.x, LFM2 (``<think>``), Gemma 4 (``<|channel>thought``),
Magistral (``[THINK]``), Kimi-VL (``◁think▷``), Command A Vision (``<|START_THINKING|>``), Seed
(``<seed:think>``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlm_magic.errors import OptionError
from vlm_magic.messages import Settings
from vlm_magic.models.loaded import Loaded

__all__ = ["Marks", "answers_at_once", "check_think", "closed", "is_open", "marks_of", "switch_of", "thinks"]


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands around a thought.

    Attributes:
        opening: before it.
        closing: after it.
        label: what the model writes first within it, which is no part of the thought.
    """

    opening: str
    closing: str
    label: str = ""


_KNOWN = (
    Marks("<think>", "</think>"),
    Marks("<|channel>", "<channel|>", "thought\n"),
    Marks("[THINK]", "[/THINK]"),
    Marks("◁think▷", "◁/think▷"),
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),
    Marks("<seed:think>", "</seed:think>"),
)
# A variable of the template, not a word of its text.
_SWITCHES = (
    ("enable_thinking", re.compile(r"\benable_thinking\b")),
    ("thinking", re.compile(r"(?<![\w.'\"])thinking\s+is\s+(?:not\s+)?defined\b")),
)


def marks_of(loaded: Loaded) -> Marks:
    """The marks of this checkpoint; the most common ones where it shows none."""
    template = loaded.chat_template or ""
    for marks in _KNOWN:
        if marks.closing in template or marks.closing in loaded.control.added:
            return marks
    return _KNOWN[0]


def thinks(loaded: Loaded) -> bool:
    """Whether the checkpoint shows that it can think."""
    marks, template = marks_of(loaded), loaded.chat_template or ""
    return bool(switch_of(loaded)) or marks.closing in template or marks.closing in loaded.control.added


def switch_of(loaded: Loaded) -> str:
    """The template's variable that turns thinking on and off; "" for none."""
    template = loaded.chat_template or ""
    return next((name for name, pattern in _SWITCHES if pattern.search(template)), "")


def check_think(loaded: Loaded, settings: Settings) -> None:
    """Raise an OptionError where the person wants thoughts of a model that has none."""
    if not settings.think or (thinks(loaded) and not settings.continuation):
        return
    raise OptionError(
        f"{loaded.name} does not think before it answers",
        have="--continuation"
        if settings.continuation
        else "neither its template nor its tokenizer knows how",
        hint="without --think",
        think=settings.think,
    )


def answers_at_once(settings: Settings) -> bool:
    """Whether the prompt closes the thought, so that the next token is the answer's.

    Choices are compared as answers, and a typed answer is held to its type from its first token, unless
    thinking was asked for.
    """
    return (
        settings.think is False or bool(settings.choices) or (bool(settings.grammar) and not settings.think)
    )


def is_open(text: str, marks: Marks) -> bool:
    """Whether a prompt ends within a thought: its template has opened one for the model."""
    return text.rstrip().removesuffix(marks.label.strip()).rstrip().endswith(marks.opening)


def closed(text: str, marks: Marks) -> str:
    """A prompt with the thought that it ends in closed, empty."""
    return f"{text.rstrip()}\n\n{marks.closing}\n\n" if is_open(text, marks) else text
