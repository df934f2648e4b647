"""Ask a model again about changed pictures, and leave no trace in its stores or in the conversation.

Every question goes through what the engine can do: replies are scored, many pictures at once where the model
is here and gives the same numbers that way, and words of its own are generated. Counts the questions, tells
how far it is, and leaves when it is asked to. Neighbours: `hiding` changes the pictures, `needed` and
`without` decide what is asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from vlm_magic.choice_scores import compare, content_free
from vlm_magic.errors import OptionError, VLMError
from vlm_magic.messages import (
    Choice,
    Engine,
    Part,
    Picture,
    Reply,
    Score,
    Settings,
    Turn,
    can_score,
    is_here,
    remembers,
)

__all__ = ["Asker", "Held", "LookingStoppedError", "outside_the_stores", "swapped"]

_AT_ONCE = 12  # pictures in one forward; more gain nothing on a CPU and fit less often elsewhere
_SAME = 0.02  # a log-probability that differs by more, computed together, is not the same number


class LookingStoppedError(Exception):
    """The person asked to stop; nothing was found yet."""


@dataclass(frozen=True, slots=True)
class Held:
    """How well an answer holds after one prompt.

    Attributes:
        probability: of the whole answer; of a choice, its share among the choices.
        units: of each word of the answer.
        choices: of a question with choices, each with its probability.
    """

    probability: float
    units: tuple[float, ...]
    choices: tuple[Choice, ...] = ()


class Asker:
    """Asks one engine about one answer.

    Args:
        engine: who is asked.
        turns: the prompt that was answered, the question last.
        reply: the answer.
        settings: how it was asked.
        on_progress: called with (questions asked, questions expected).
        is_stopped: asked before each question.

    Attributes:
        words: the answer's words, as far as its tokens tell.
        n_questions: how often the model was asked.
        n_expected: how many questions there will be, as far as is known.

    Raises:
        OptionError: the engine cannot tell how likely a reply is.
    """

    def __init__(
        self,
        engine: Engine,
        turns: Sequence[Turn],
        reply: Reply,
        settings: Settings,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        if not can_score(engine):
            raise OptionError(
                f"{engine.name} cannot tell how likely a reply is, so nothing shows what its answer hangs on",
                have="it answers in its own words",
                hint="a model loaded here: %vlm_load, or a server of vLLM's or llama.cpp's",
            )
        self._engine = engine
        self.turns = tuple(turns)
        self._reply = reply
        self._settings = replace(settings, time_limit_s=None, log_probabilities=False)
        self._on_progress = on_progress or (lambda done, total: None)
        self._is_stopped = is_stopped
        self.n_questions = 0
        self.n_expected = 0
        self.began = time.monotonic()
        self._is_together = is_here(engine) and not settings.choices and engine.loaded.family.is_batchable
        self._priors: tuple[Score, ...] = ()
        self._spans: tuple[tuple[int, int], ...] = ()
        self.words: tuple[str, ...] = (reply.text,)
        self.base = self._first()

    @property
    def answer(self) -> str:
        """What was said."""
        return str(self._reply.text)

    @property
    def seconds(self) -> float:
        """How long the asking has taken so far."""
        return time.monotonic() - self.began

    def ask(self, prompts: Sequence[Sequence[Turn]]) -> list[Held]:
        """How well the answer holds after each of these prompts."""
        found: list[Held] = []
        at_once = self._rows() if self._is_together else 1
        for start in range(0, len(prompts), at_once):
            self._go_on()
            some = prompts[start : start + at_once]
            found += self._together(some) if self._is_together and len(some) > 1 else map(self._one, some)
            self.n_questions += len(some)
            self._on_progress(self.n_questions, max(self.n_questions, self.n_expected))
        return found

    def says(self, prompt: Sequence[Turn]) -> str:
        """What the model answers to a prompt, in words of its own or by its choices."""
        self._go_on()
        self.n_questions += 1
        generating = self._engine.start(tuple(prompt), self._settings)
        reply = None
        for chunk in generating:
            reply = chunk.reply or reply
            if self._is_stopped():
                generating.stop()
        self._go_on()
        self._on_progress(self.n_questions, max(self.n_questions, self.n_expected))
        return "" if reply is None else str(reply.text)

    def _go_on(self) -> None:
        if self._is_stopped():
            raise LookingStoppedError

    def _first(self) -> Held:
        """The answer as it was given; finds its words, and whether asking together gives the same."""
        if self._settings.choices:
            if self._settings.normalize == "prior":
                self._priors = self._score(content_free(self.turns), self._settings.choices)
            self.n_questions += 1
            return self._one(self.turns)
        score = self._score(self.turns, [self._reply.text])[0]
        self.n_questions += 1
        texts = score.token_texts or self._texts_of(score.token_ids)
        self._spans, self.words = words_of(texts, self._reply.text, len(score.token_ids))
        if self._is_together:
            self._is_together = self._gives_the_same(score)
        return self._held(score.token_log_probabilities)

    def _gives_the_same(self, score: Score) -> bool:
        try:
            rows = self._logs_together([self.turns, self.turns])
        except LookingStoppedError:
            raise
        except (VLMError, ValueError, RuntimeError, TypeError, KeyError, IndexError, AttributeError):
            return False  # what a processor or a model does not take is asked one by one
        logs = score.token_log_probabilities
        return all(
            len(row) == len(logs) and all(abs(a - b) < _SAME for a, b in zip(row, logs, strict=True))
            for row in rows
        )

    def _one(self, prompt: Sequence[Turn]) -> Held:
        if self._settings.choices:
            scores = self._score(prompt, self._settings.choices)
            choices = compare(scores, self._settings, self._priors)
            share = next(choice.probability for choice in choices if choice.text == self._reply.text)
            return Held(share, (share,), choices)
        return self._held(self._score(prompt, [self._reply.text])[0].token_log_probabilities)

    def _together(self, prompts: Sequence[Sequence[Turn]]) -> list[Held]:
        return [self._held(row) for row in self._logs_together(prompts)]

    def _logs_together(self, prompts: Sequence[Sequence[Turn]]) -> list[list[float]]:
        assert is_here(self._engine)
        settings, text = self._engine.in_effect(self._settings), self._reply.text

        def work(loaded: Any, leave: Callable[[], None]) -> list[list[float]]:
            from vlm_magic.models.inside.batch_scores import score_reply

            return score_reply(loaded, prompts, text, settings, check=leave)

        return self._engine.borrow(work)

    def _rows(self) -> int:
        rows_at_once = getattr(self._engine, "rows_at_once", None)
        return min(_AT_ONCE, rows_at_once(self.turns, self._settings)) if rows_at_once else _AT_ONCE

    def _held(self, logs: Sequence[float]) -> Held:
        units = tuple(math.exp(sum(logs[start:end])) for start, end in self._spans)
        return Held(math.exp(sum(logs)), units)

    def _score(self, prompt: Sequence[Turn], replies: Sequence[str]) -> tuple[Score, ...]:
        assert can_score(self._engine)
        return self._engine.score(tuple(prompt), replies, self._settings)

    def _texts_of(self, ids: Sequence[int]) -> tuple[str, ...]:
        if not is_here(self._engine):
            return ()

        def work(loaded: Any, leave: Callable[[], None]) -> tuple[str, ...]:
            from vlm_magic.models.said_tokens import texts_of

            return texts_of(loaded.tokenizer, ids)

        return self._engine.borrow(work)


def words_of(
    texts: Sequence[str], answer: str, n_tokens: int
) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """The tokens of each word of an answer, and the words; one word where the tokens do not tell.

    The token that ends the answer belongs to the last word.
    """
    said = "".join(texts)
    if not answer.strip() or answer.strip() not in said:
        return ((0, n_tokens),), (answer,)
    spans: list[tuple[int, int]] = []
    words: list[str] = []
    for n, text in enumerate(texts):
        is_over = "".join(words).strip() == answer.strip()
        begins = bool(text.strip()) and (text[0].isspace() or "".join(words)[-1:].isspace())
        if not words or (begins and not is_over):
            spans.append((n, n + 1))
            words.append(text)
        else:
            spans[-1] = (spans[-1][0], n + 1)
            words[-1] += "" if is_over else text
    return tuple(spans), tuple(word.strip() for word in words)


def swapped(turns: Sequence[Turn], changed: dict[int, Picture | None]) -> tuple[Turn, ...]:
    """The turns with pictures changed, by their number in the prompt; None takes one away.

    A picture that stands in the prompt more than once is changed in all its places.
    """
    all_of_them = [picture for turn in turns for picture in turn.pictures]
    by_digest = {all_of_them[n].digest: other for n, other in changed.items() if all_of_them[n].digest}
    n, made = 0, []
    for turn in turns:
        parts: list[Part] = []
        for part in turn.parts:
            if isinstance(part, Picture):
                other = changed.get(n, by_digest.get(part.digest, part))
                n += 1
                if other is not None:
                    parts.append(other)
            else:
                parts.append(part)
        made.append(replace(turn, parts=tuple(parts)))
    return tuple(made)


@contextmanager
def outside_the_stores(engine: Engine) -> Iterator[None]:
    """What is asked within is kept nowhere; what was kept before is there again afterwards."""
    if not remembers(engine):
        yield
        return
    with engine.from_nothing():
        yield
