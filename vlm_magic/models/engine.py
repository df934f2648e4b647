"""A transformers model that stays in the kernel and answers conversations.

Three storeys, each public: `LocalEngine.start` queues an answer and returns its handle,
`LocalEngine.stream` yields its chunks, `LocalEngine.generate` waits for its reply. How a family
wants its inputs is the business of `prompts`, what fits in memory that of `memory`; the worker's side of an
answer is in `decoding.answers`. No cells, no widgets here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from transformers import LogitsProcessor

from vlm_magic.errors import OptionError, PromptError
from vlm_magic.messages import (
    Ability,
    About,
    Bill,
    Chunk,
    Picture,
    Progress,
    Reply,
    Score,
    Settings,
    Turn,
    Turns,
    turns_now,
)
from vlm_magic.models.checkpoints.loading import about_loaded
from vlm_magic.models.decoding.answers import Worker
from vlm_magic.models.decoding.continuing import check_can_continue
from vlm_magic.models.decoding.grammar import check_grammar, is_whole
from vlm_magic.models.decoding.scoring import score_choices
from vlm_magic.models.decoding.shared_batch import rows_that_fit
from vlm_magic.models.decoding.step.figures import speed_words, way_words
from vlm_magic.models.identity import identity_of
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.bill import bill_of
from vlm_magic.models.resident import Resident
from vlm_magic.uninterrupted import run_apart
from vlm_magic.work_queue import Generation

__all__ = ["LocalEngine"]

_ABILITIES: frozenset[Ability] = frozenset(
    {"scores", "batches", "constrains", "continues", "counts", "remembers", "here"}
)


class LocalEngine(Resident):
    """A loaded model with its queue of answers.

    Args:
        loaded: what `vlm_magic.models.checkpoints.loading.load_model` returned.
        name: how people call it; the model's own name if not given.

    Attributes:
        loaded: the model, its processor and how it was loaded; None after `close`.
        reuse: what it has computed before, kept for prompts that begin alike.
    """

    def __init__(self, loaded: Loaded, name: str | None = None) -> None:
        super().__init__(loaded, name or loaded.name)
        self._worker = Worker(self._name)

    @property
    def name(self) -> str:
        """How people call the model."""
        return self._name

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can do beyond answering; nothing while its model is away."""
        return _ABILITIES if self.loaded is not None else frozenset()

    @property
    def host(self) -> str:
        """It answers in this process."""
        return ""

    @property
    def last_reply(self) -> Reply | None:
        """The newest reply, for the status."""
        return self._worker.last_reply

    @property
    def about(self) -> About:
        """What the model is, how it computes, how fast it was and what it keeps."""
        loaded, last = self._resident(), self.last_reply
        speed = speed_words(loaded.model, last.tokens_per_s, loaded.device) if last else ""
        return about_loaded(loaded, way_words(loaded.model), speed, self.reuse.n_bytes)

    def check(self, settings: Settings) -> None:
        """Raise where the tokenizer cannot be held to the form that the answer shall have.

        Raises:
            ModelError: it was unloaded.
            ModelKindError: the tokenizer cannot be read byte by byte.
            OptionError: the form is not understood, or no text fits it.
        """
        loaded = self._resident()
        if settings.grammar:
            check_grammar(loaded, settings.grammar)

    def is_whole(self, reply: Reply, settings: Settings) -> bool:
        """Whether a reply that was cut off had said everything that its form lets it say."""
        said = reply.token_ids[reply.n_thinking_tokens :]
        return bool(said) and is_whole(self._resident(), settings.grammar, said)

    @property
    def model(self) -> Any:
        """The transformers model itself."""
        return self._resident().model

    @property
    def processor(self) -> Any:
        """The transformers processor itself."""
        return self._resident().processor

    def start(
        self,
        turns: Turns,
        settings: Settings | None = None,
        *,
        logits_processors: Sequence[LogitsProcessor] = (),
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue an answer to ``turns`` (the last one is the question) and return at once.

        ``turns`` given as a function are looked up when the answer's time has come. The
        ``logits_processors`` of transformers may change the scores before each token is chosen.

        Raises:
            ModelError: the engine was closed.
        """
        more = {"logits_processors": logits_processors}
        return self._queued(turns, settings, more, on_end, on_progress)

    def continue_from(
        self,
        reply: Reply,
        turns: Turns,
        settings: Settings | None = None,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue the rest of an answer that was cut off; see `vlm_magic.messages.Continues`.

        Raises:
            ModelError: the engine was closed.
            OptionError: an answer that was chosen, or searched for with beams.
        """
        check_can_continue(self.in_effect(settings))
        return self._queued(turns, settings, {"before": reply}, on_end, on_progress)

    def _queued(
        self, turns: Turns, settings: Settings | None, more: dict[str, Any], *told: Any
    ) -> Generation:
        """Put an answer in line; ``more`` is for `Worker.answer`, ``told`` are on_end and on_progress."""
        self._resident()
        how = self.in_effect(settings)

        def work(generation: Generation) -> Reply:
            loaded = self._resident()
            return self._worker.answer(loaded, self.reuse, generation, turns_now(turns), how, **more)

        return self._queue.submit(work, on_end=told[0], on_progress=told[1])

    def stream(self, turns: Turns, settings: Settings | None = None) -> Iterator[Chunk]:
        """The chunks of an answer; the last one carries the reply. Closing the iterator stops it."""
        yield from self.start(turns, settings)

    def generate(self, turns: Turns, settings: Settings | None = None) -> Reply:
        """The whole answer."""
        generation = self.start(turns, settings)
        for _ in generation:
            pass
        assert generation.reply is not None
        return generation.reply

    def generate_several(
        self, turns: Sequence[Turn], n_answers: int, settings: Settings | None = None
    ) -> tuple[Reply, ...]:
        """Several answers to one question: drawn at random, or the best of as many beams.

        Raises:
            OptionError: neither sampling nor enough beams were asked for, so all would be the same.
        """
        how = self.in_effect(settings)
        if n_answers > 1 and not how.is_sampling and how.beams < n_answers:
            raise OptionError(
                f"{n_answers} greedy answers would all be the same",
                have=f"beams={how.beams}, no temperature",
                hint=f"temperature=0.8, or beams={n_answers}",
            )
        return self._in_batch([turns], how, n_answers)

    def generate_batch(
        self, conversations: Sequence[Sequence[Turn]], settings: Settings | None = None
    ) -> tuple[Reply, ...]:
        """Answer several conversations in one call of the model: the same answers as one by one.

        They may have different numbers of pictures; where the family's processor cannot mix them,
        they are answered one after the other. The times of a reply are those of the whole batch.
        """
        return self._in_batch(conversations, self.in_effect(settings), 1)

    def rows_at_once(self, turns: Sequence[Turn], settings: Settings | None = None) -> int:
        """How many conversations like this one a batch should have on this machine."""
        loaded = self._resident()
        n_tokens = self.bill(turns, settings).n_tokens
        assert n_tokens is not None  # of a model here
        return rows_that_fit(loaded, n_tokens, self.in_effect(settings))

    @property
    def identity(self) -> dict[str, str]:
        """What must be equal for the same prompt to get the same answer, in words."""
        return identity_of(self._resident())

    def look_ahead(self, pictures: Sequence[Picture]) -> None:
        """Have pictures processed that coming prompts hold, while it answers; safe from any thread."""
        self.reuse.look_ahead(pictures, is_beside=True)

    def start_batch(
        self, conversations: Sequence[Sequence[Turn]], settings: Settings | None = None
    ) -> Generation:
        """Queue a batch and return at once; each row's reply comes as a chunk of its own when it is there.

        Such a chunk carries ``row`` and ``reply``; rows end in any order. A row that a stop cut off gives
        none. Answers are those of `generate_batch`.

        Raises:
            ModelError: the engine was closed.
        """
        self._resident()
        how = self.in_effect(settings)
        return self._queue.submit(
            lambda generation: self._worker.answer_rows(
                self._resident(), self.reuse, generation, conversations, how, 1
            )[-1]
        )

    def _in_batch(
        self, conversations: Sequence[Sequence[Turn]], settings: Settings, n_answers: int
    ) -> tuple[Reply, ...]:
        replies: list[Reply] = []

        def work(generation: Generation) -> Reply:
            loaded = self._resident()
            replies.extend(
                self._worker.answer_rows(loaded, self.reuse, generation, conversations, settings, n_answers)
            )
            return replies[-1]

        for _ in self._queue.submit(work):
            pass
        if not replies:  # stopped before its turn came
            nothing = Reply("", finish_reason="interrupted", model=self._name)
            return (nothing,) * (len(conversations) * n_answers)
        return tuple(replies)

    def score(
        self,
        turns: Turns,
        choices: Sequence[str],
        settings: Settings | None = None,
        *,
        with_end: bool = True,
    ) -> tuple[Score, ...]:
        """How likely each choice is as the next reply: log-probabilities of whole sequences.

        Args:
            turns: the conversation, the question last.
            choices: the replies to compare.
            settings: system text and the like.
            with_end: whether the token that ends an answer counts; without it a choice that begins
                another one is always the likelier of the two.

        Raises:
            PromptError: no choices, or one without a token.
        """
        if not choices:
            raise PromptError("no choices to score", hint='score(turns, ["yes", "no"])')
        self._resident()
        how = self.in_effect(settings)
        return self.borrow(
            lambda loaded, leave: (
                score_choices(
                    loaded, self.reuse, turns_now(turns), choices, how, with_end=with_end, check=leave
                ).scores
            )
        )

    def bill(self, turns: Sequence[Turn], settings: Settings | None = None) -> Bill:
        """What the prompt would be and cost; generates nothing."""
        loaded, how = self._resident(), settings or Settings()
        return run_apart(lambda _: bill_of(loaded, turns, how))

    def in_effect(self, settings: Settings | None) -> Settings:
        """The settings as it answers them: with the checkpoint's own sampling where it was loaded so."""
        how = settings or Settings()
        is_drawn = not how.is_sampling and how.beams == 1 and not how.choices
        if self._resident().options.sampling and is_drawn:
            return replace(how, sampling=True)
        return how
