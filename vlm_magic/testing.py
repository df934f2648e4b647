"""A scripted engine for tests of notebooks and tools: it says what was lined up and keeps what it was shown.

    engine = ScriptedEngine("a red circle", GenerationError("broke"))
    vlm_magic.Session(engine).ask("What is it?")

It passes the same contract as a model, without one. Knows nothing of torch, `vlm_magic.models` or servers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from vlm_magic.choice_scores import HOW, compare
from vlm_magic.errors import ModelError
from vlm_magic.messages import (
    Ability,
    About,
    Bill,
    Chunk,
    FinishReason,
    Picture,
    Progress,
    Reply,
    Score,
    Settings,
    Turn,
    Turns,
    check_abilities,
    turns_now,
)
from vlm_magic.work_queue import Generation, WorkQueue

__all__ = ["ScriptedEngine"]

_CONTEXT_TOKENS = 4096


class ScriptedEngine:
    """Answers with queued replies, word by word, and remembers what it was shown.

    A token is a word. Answers are taken to keep to a type, so script replies that do. One that was cut off is
    gone on with as it was scripted.

    Args:
        *replies: what to say, in order; an exception is raised in the worker. When the list is
            used up it echoes the last text it was shown.
        seconds_per_token: pause before each word.
        name: how people call the "model".
        log_probabilities: of replies, for choices; without them it cannot tell how likely a reply is.
        rows_at_once: above 1 it answers several conversations in one call, one after the other.

    Attributes:
        history: (turns, settings) of each answer that was begun.
        started: set when an answer is begun.
    """

    def __init__(
        self,
        *replies: str | BaseException,
        seconds_per_token: float = 0.0,
        name: str = "scripted",
        log_probabilities: Mapping[str, float] | None = None,
        rows_at_once: int = 1,
    ) -> None:
        self.name = name
        self.replies: list[str | BaseException] = list(replies)
        self.seconds_per_token = seconds_per_token
        self.log_probabilities = log_probabilities
        self.history: list[tuple[tuple[Turn, ...], Settings]] = []
        self.started = threading.Event()
        self._rows_at_once = rows_at_once
        self._rests: dict[str, str] = {}  # what was scripted behind a text that was cut off
        self._queue = WorkQueue(name)
        self._is_closed = False

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it was made to do; nothing once it was closed."""
        if self._is_closed:
            return frozenset()
        found: set[Ability] = {"counts", "constrains", "continues"}
        if self.log_probabilities is not None:
            found.add("scores")
        if self._rows_at_once > 1:
            found.add("batches")
        return frozenset(found)

    @property
    def host(self) -> str:
        """It answers in this process."""
        return ""

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    @property
    def identity(self) -> dict[str, str]:
        """Its name alone."""
        return {"name": self.name}

    @property
    def about(self) -> About:
        """A script, and how much of it is left."""
        return About(f"{self.name} · scripted", self.name, figures=(f"{len(self.replies)} replies left",))

    def enqueue(self, *replies: str | BaseException) -> None:
        """Script further replies."""
        self.replies.extend(replies)

    def check(self, settings: Settings) -> None:
        """Raise for choices where no log-probabilities were given.

        Raises:
            ModelError: it was closed. OptionError: choices that it cannot compare.
        """
        if self._is_closed:
            raise ModelError(f"{self.name} was closed", hint="a new ScriptedEngine")
        check_abilities(self, settings)

    def start(
        self,
        turns: Turns,
        settings: Settings | None = None,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue the next scripted answer."""
        how = settings or Settings()
        self.check(how)
        return self._queue.submit(
            lambda generation: self._answer(generation, turns_now(turns), how),
            on_end=on_end,
            on_progress=on_progress,
        )

    def continue_from(
        self,
        reply: Reply,
        turns: Turns,
        settings: Settings | None = None,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue the rest of a scripted answer that was cut off; for any other the next reply is the rest."""
        how = settings or Settings()
        self.check(how)

        def work(generation: Generation) -> Reply:
            rest = self._rests.get(str(reply.text))
            if rest is None:
                rest = str(self.replies.pop(0)) if self.replies else ""
            self.replies.insert(0, " ".join(filter(None, [str(reply.text), rest])))
            return self._answer(generation, turns_now(turns), how)

        return self._queue.submit(work, on_end=on_end, on_progress=on_progress)

    def rows_at_once(self, turns: Sequence[Turn], settings: Settings | None = None) -> int:
        """How many conversations it takes in one call, as it was made."""
        return self._rows_at_once

    def start_batch(
        self, conversations: Sequence[Sequence[Turn]], settings: Settings | None = None
    ) -> Generation:
        """Queue the next answers, a chunk with ``row`` and ``reply`` for each."""
        how = settings or Settings()
        self.check(how)

        def work(generation: Generation) -> Reply:
            reply = Reply("", model=self.name)
            for row, turns in enumerate(conversations):
                reply = self._answer(generation, tuple(turns), how, is_streamed=False)
                if reply.finish_reason == "interrupted":
                    break
                generation.push(Chunk("", reply.n_new_tokens, reply, row))
            return reply

        return self._queue.submit(work)

    def look_ahead(self, pictures: Sequence[Picture]) -> None:
        """Nothing: it never looks at pictures."""

    def score(
        self,
        turns: Turns,
        choices: Sequence[str],
        settings: Settings | None = None,
        *,
        with_end: bool = True,
    ) -> tuple[Score, ...]:
        """The scripted log-probabilities; a choice without one is taken to be impossible."""
        known = self.log_probabilities or {}
        logs = [(choice, known.get(choice, float("-inf")), max(1, len(choice.split()))) for choice in choices]
        return tuple(Score(choice, log, (0,) * n, (log / n,) * n) for choice, log, n in logs)

    def is_whole(self, reply: Reply, settings: Settings) -> bool:
        """Whether a reply that was cut off was whole: it never was."""
        return False

    def bill(self, turns: Sequence[Turn], settings: Settings | None = None) -> Bill:
        """One token a word and a picture."""
        n_pictures = sum(len(turn.pictures) for turn in turns)
        n_words = sum(len(turn.text.split()) for turn in turns)
        rendered = "\n".join(turn.text for turn in turns)
        return Bill(n_words + n_pictures, (1,) * n_pictures, _CONTEXT_TOKENS, rendered)

    def close(self) -> int:
        """Stop what runs; nothing to give back."""
        self._is_closed = True
        self._queue.close()
        return 0

    def _answer(
        self,
        generation: Generation,
        turns: tuple[Turn, ...],
        settings: Settings,
        *,
        is_streamed: bool = True,
    ) -> Reply:
        """Say what comes next; runs in the worker."""
        self.history.append((turns, settings))
        self.started.set()
        began = time.perf_counter()
        if settings.choices:
            return self._chosen(turns, settings)
        scripted = self.replies.pop(0) if self.replies else turns[-1].text
        if isinstance(scripted, BaseException):
            raise scripted
        said: list[str] = []
        reason: FinishReason = "stop"
        for word in scripted.split(" "):
            time.sleep(self.seconds_per_token)
            late = settings.time_limit_s is not None and time.perf_counter() > began + settings.time_limit_s
            if generation.is_stopped or late or len(said) == settings.max_tokens:
                reason = "interrupted" if generation.is_stopped else "time" if late else "length"
                break
            piece = f" {word}" if said else word
            said.append(piece)
            if is_streamed:
                generation.push(Chunk(piece, len(said)))
        if reason != "stop":
            self._rests["".join(said)] = " ".join(scripted.split(" ")[len(said) :])
        total_s = time.perf_counter() - began
        bill = self.bill(turns, settings)
        return Reply(
            "".join(said),
            finish_reason=reason,
            n_prompt_tokens=bill.n_tokens or 0,
            n_picture_tokens=len(bill.picture_tokens),
            n_new_tokens=len(said),
            total_s=total_s,
            tokens_per_s=len(said) / total_s if total_s else 0.0,
            model=self.name,
            picture_tokens=bill.picture_tokens,
        )

    def _chosen(self, turns: tuple[Turn, ...], settings: Settings) -> Reply:
        """The likeliest choice; the scripted numbers stand for the prior as well, were it asked for."""
        scores = self.score(turns, settings.choices, settings)
        choices = compare(scores, settings, scores if settings.normalize == "prior" else ())
        best = max(choices, key=lambda choice: choice.score)
        notes = tuple(filter(None, [HOW[settings.normalize]]))
        return Reply(best.text, model=self.name, notes=notes, choices=choices)
