"""What comes back: pieces of an answer, the answer with its figures, and what a prompt costs.

Pure data, made by engines, kept by `vlm_magic.conversation`, shown by `vlm_magic.outputs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from vlm_magic.messages.parts import Part
from vlm_magic.messages.said import ModelText
from vlm_magic.wording import count_words

__all__ = ["Bill", "Choice", "Chunk", "FinishReason", "Likely", "Progress", "Reply", "SaidToken", "Score"]

FinishReason: TypeAlias = Literal["stop", "length", "interrupted", "time"]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the replies that an answer was chosen among.

    Attributes:
        text: its words.
        probability: its share among the choices, from 0 to 1; they add up to 1.
        log_probability: natural logarithm of the model's own probability of the whole reply, its end
            included; (−∞, 0].
        n_tokens: its tokens, the end included.
        score: what was compared: the log-probability, normalised as asked.
    """

    text: str
    probability: float
    log_probability: float
    n_tokens: int
    score: float


@dataclass(frozen=True, slots=True)
class Score:
    """How likely one choice is as the next reply.

    Attributes:
        choice: its text.
        log_probability: natural logarithm, summed over its tokens.
        token_ids: its tokens, the end token included where it was scored.
        token_log_probabilities: one for each token.
        token_texts: likewise, where a server says them; else ().
    """

    choice: str
    log_probability: float
    token_ids: tuple[int, ...]
    token_log_probabilities: tuple[float, ...]
    token_texts: tuple[str, ...] = ()


class Likely(NamedTuple):
    """A token that might have been said.

    Attributes:
        text: how it is written.
        log_probability: natural logarithm of its probability.
        token_id: its number; -1 where a server does not say.
    """

    text: str
    log_probability: float
    token_id: int = -1


@dataclass(frozen=True, slots=True)
class SaidToken:
    """One token of an answer, and what the model might have said in its place.

    Attributes:
        text: what it adds to the text; "" for one that only begins a character.
        token_id: its number; -1 where a server does not say.
        log_probability: natural logarithm of its probability.
        likeliest: the likeliest tokens at its place, itself among them where it is one.
        entropy_bits: of the whole distribution; None where only its top is known.
        is_end: whether it ends the answer and adds no text.
    """

    text: str
    token_id: int
    log_probability: float
    likeliest: tuple[Likely, ...] = ()
    entropy_bits: float | None = None
    is_end: bool = False

    @property
    def probability(self) -> float:
        """From 0 to 1."""
        return math.exp(self.log_probability)


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished (or interrupted) answer with its figures.

    Attributes:
        text: what the model said, as a `ModelText`.
        finish_reason: "stop" (it ended by itself), "length" (max_tokens), "interrupted" or "time".
        n_prompt_tokens: tokens of the prompt, pictures included.
        n_picture_tokens: those of them that stand for pictures.
        picture_tokens: tokens of each picture of the prompt, in order; () where nobody knows.
        n_reused_tokens: prompt tokens that were not computed again.
        n_new_tokens: tokens that were generated.
        ttft_s: seconds from the start of the work to the first token.
        tokens_per_s: decode speed after the first token; 0.0 for fewer than two tokens, or with beams.
        total_s: seconds of the whole answer.
        model: name of the model that answered.
        notes: remarks for the proof line, not the model's words.
        token_ids: the new tokens, end token left out.
        log_probabilities: of each of them, from the distribution that it was chosen from; () unless
            the settings asked for them.
        top_log_probabilities: each new token with the likeliest in its place; () unless the settings asked
            for them.
        choices: what the answer was chosen among, in the order of the settings; () for words of its own.
        thinking: what the model thought before it answered; it is no part of `text`.
        n_thinking_tokens: tokens of that, its marks included; `n_new_tokens` counts them too.
        asked: of an alternative whose question was edited since, the question that it answered; else ().
    """

    text: str
    finish_reason: FinishReason = "stop"
    n_prompt_tokens: int = 0
    n_picture_tokens: int = 0
    n_reused_tokens: int = 0
    n_new_tokens: int = 0
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    total_s: float = 0.0
    model: str = ""
    notes: tuple[str, ...] = ()
    picture_tokens: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    choices: tuple[Choice, ...] = ()
    thinking: str = ""
    n_thinking_tokens: int = 0
    asked: tuple[Part, ...] = ()
    top_log_probabilities: tuple[SaidToken, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", ModelText(self.text))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        """Short, for a cell that ends in it: who said what, and the figures that people look at."""
        who = f" from {self.model}" if self.model else ""
        end = "" if self.finish_reason == "stop" else f", {self.finish_reason}"
        tokens = count_words(self.n_new_tokens, "token")
        return f"<Reply{who}: {str(self.text)!r} ({tokens}, {self.total_s:.1f} s{end})>"

    @property
    def is_partial(self) -> bool:
        """Whether the answer was cut off by a stop or a time limit."""
        return self.finish_reason in ("interrupted", "time")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer as it comes.

    Attributes:
        text: the new words, possibly "".
        n_new_tokens: tokens generated so far.
        reply: the whole answer; set on the last chunk only, and in a batch on each row's own.
        row: in a batch, whose answer this is; -1 elsewhere.
        thinking: new words of the model's thought, which are not in ``text``.
    """

    text: str
    n_new_tokens: int = 0
    reply: Reply | None = None
    row: int = -1
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """What an answer is waiting for.

    Attributes:
        stage: "load" (of a model), "queued" (done = answers ahead), "pictures", "prefill" or "decode".
        done: units done, or answers ahead while queued.
        total: units in all; 0 where unknown.
    """

    stage: Literal["load", "queued", "pictures", "prefill", "decode"]
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a prompt costs, without generating.

    Attributes:
        n_tokens: tokens of the prompt, pictures included; None where nobody can count them.
        picture_tokens: tokens of each picture, in order; () where nobody knows.
        context_tokens: the model's context, or None where it does not say.
        rendered: the prompt after the chat template, as the tokenizer sees it.
        notes: remarks (text that had to be neutralised, …).
        picture_grids: (rows, columns) of the tiles each picture was cut into; (1, 1) for a whole one,
            () where nobody knows.
    """

    n_tokens: int | None
    picture_tokens: tuple[int, ...]
    context_tokens: int | None
    rendered: str
    notes: tuple[str, ...] = ()
    picture_grids: tuple[tuple[int, int], ...] = ()
