"""A transformers model that stays in the kernel and answers conversations.

Three storeys, each public: `LocalEngine.start` queues an answer and returns its handle,
`LocalEngine.stream` yields its chunks, `LocalEngine.generate` waits for its reply. How a family
wants its inputs is `families`' business, what fits in memory is `memory`'s; no cells, no widgets here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from transformers import LogitsProcessor

from vlm_magic.errors import (
    GenerationError,
    ModelError,
    OptionError,
    PromptError,
    VLMError,
)
from vlm_magic.messages import (
    Bill,
    Chunk,
    Picture,
    Progress,
    Reply,
    Settings,
    Turn,
    Turns,
    turns_now,
)
from vlm_magic.models import families, memory
from vlm_magic.models.batch import BatchRun
from vlm_magic.models.choosing import choose_reply
from vlm_magic.models.generation import Generation, Stopped, WorkQueue
from vlm_magic.models.identity import identity_of
from vlm_magic.models.loading import Loaded, LoadOptions, load_model
from vlm_magic.models.reuse import Reuse
from vlm_magic.models.run import Run
from vlm_magic.models.sampling import hooks_on_layers
from vlm_magic.models.scoring import Score, score_choices
from vlm_magic.models.state import weights_of
from vlm_magic.models.threads import useful_threads
from vlm_magic.models.tiles import tile_grids
from vlm_magic.models.together import TogetherRun, rows_that_fit
from vlm_magic.starter import scope

__all__ = ["LocalEngine"]


class LocalEngine:
    """A loaded model with its queue of answers.

    Args:
        loaded: what `vlm_magic.models.loading.load_model` returned.

    Attributes:
        loaded: the model, its processor and how it was loaded; None after `close`.
        last_reply: the newest reply, for the status.
        reuse: what it has computed before, kept for prompts that begin alike.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.loaded: Loaded | None = loaded
        self.last_reply: Reply | None = None
        self.reuse = Reuse(loaded)
        self._name = loaded.name
        self._queue = WorkQueue(loaded.name)
        self._told_scope = False
        self._away: tuple[str, LoadOptions] | None = None
        self._as_loaded = weights_of(loaded.model)

    @property
    def name(self) -> str:
        """How people call the model."""
        return self._name

    @property
    def is_closed(self) -> bool:
        """Whether the model was unloaded."""
        return self.loaded is None

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
        self._resident()
        how = self._settings(settings)
        return self._queue.submit(
            lambda generation: self._answer(generation, turns_now(turns), how, logits_processors),
            on_end=on_end,
            on_progress=on_progress,
        )

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
        how = self._settings(settings)
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
        return self._in_batch(conversations, self._settings(settings), 1)

    def rows_at_once(self, turns: Sequence[Turn], settings: Settings | None = None) -> int:
        """How many conversations like this one a batch should have on this machine."""
        loaded = self._resident()
        n_tokens = self.bill(turns, settings).n_tokens
        return rows_that_fit(loaded, n_tokens, self._settings(settings))

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
        how = self._settings(settings)
        return self._queue.submit(
            lambda generation: self._answer_batch(generation, conversations, how, 1)[-1]
        )

    def _in_batch(
        self, conversations: Sequence[Sequence[Turn]], settings: Settings, n_answers: int
    ) -> tuple[Reply, ...]:
        replies: list[Reply] = []

        def work(generation: Generation) -> Reply:
            replies.extend(self._answer_batch(generation, conversations, settings, n_answers))
            return replies[-1]

        for _ in self._queue.submit(work):
            pass
        return tuple(replies)

    def _answer_batch(
        self,
        generation: Generation,
        conversations: Sequence[Sequence[Turn]],
        settings: Settings,
        n_answers: int,
    ) -> list[Reply]:
        """Answer side by side where the family can, else one after the other; runs in the worker."""
        loaded = self._resident()
        with self._at_work(loaded):
            is_batchable = loaded.family.is_batchable or len(conversations) == 1
            if is_batchable and not settings.choices:
                with suppress(PromptError):
                    if self._can_share(conversations, settings, n_answers):
                        together = TogetherRun(
                            loaded, self.reuse, conversations, settings, generation, _teller(generation)
                        )
                        if together.can_run:
                            return together.generate()
                    run = BatchRun(loaded, conversations, settings, generation, n_answers)
                    return _told(generation, run.generate())
            replies: list[Reply] = []
            for turns in conversations:
                replies += _told(generation, [self._answer(generation, tuple(turns), settings)], len(replies))
        return replies

    def _can_share(self, conversations: Sequence[Sequence[Turn]], settings: Settings, n_answers: int) -> bool:
        """Whether a batch can be computed together: see `TogetherRun`."""
        family = self._resident().family
        is_plain = n_answers == 1 and settings.beams == 1 and len(conversations) > 1
        return is_plain and family.reuse == "features" and self.reuse.is_able

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
        how = self._settings(settings)
        scores: list[Score] = []

        def work(generation: Generation) -> Reply:
            def leave_if_stopped() -> None:
                if generation.is_stopped:
                    raise Stopped

            loaded = self._resident()
            with self._at_work(loaded), hooks_on_layers(loaded.model, lambda *_: leave_if_stopped()):
                scored = score_choices(
                    loaded,
                    self.reuse,
                    turns_now(turns),
                    choices,
                    how,
                    with_end=with_end,
                    check=leave_if_stopped,
                )
                scores.extend(scored.scores)
            return Reply(max(scores, key=lambda score: score.log_probability).choice, model=self.name)

        for _ in self._queue.submit(work):
            pass
        return tuple(scores)

    def bill(self, turns: Sequence[Turn], settings: Settings | None = None) -> Bill:
        """What the prompt would be and cost; generates nothing."""
        loaded = self._resident()
        prepared = families.prepare(loaded, turns, settings or Settings())
        return Bill(
            n_tokens=int(prepared.inputs["input_ids"].shape[1]),
            picture_tokens=tuple(prepared.n_picture_tokens),
            context_tokens=families.context_tokens(loaded),
            rendered=prepared.rendered,
            notes=tuple(prepared.notes),
            picture_grids=tile_grids(loaded, prepared, turns),
        )

    @contextmanager
    def from_nothing(self) -> Iterator[None]:
        """Answers within compute everything anew, for fair times; what was kept is there again afterwards."""
        own = self.reuse

        def use(reuse: Reuse) -> None:
            self.reuse = reuse

        self._between_answers(lambda: use(own.emptied()))
        try:
            yield
        finally:
            self._between_answers(lambda: use(own))

    def put_away(self) -> int:
        """Give the memory back for a while, after what runs and waits; the number of bytes that were freed.

        Until `bring_back` it answers with an error. Not for weights that were changed in place: they are
        read again from where they came from (see `is_as_loaded`).
        """
        freed = [0]

        def release() -> None:
            loaded, self.loaded = self._resident(), None
            self._away = (loaded.name, loaded.options)
            self.reuse.clear()
            freed[0] = memory.release(loaded)

        self._between_answers(release)
        return freed[0]

    def bring_back(self) -> None:
        """Load again what was put away; nothing where nothing was.

        Raises:
            ModelError: it does not load any more.
        """
        if self._away is None or self.loaded is not None:
            return
        loaded = load_model(*self._away)
        self.loaded, self.reuse, self._away = loaded, Reuse(loaded), None
        self._as_loaded = weights_of(loaded.model)

    @property
    def is_as_loaded(self) -> bool:
        """Whether the weights are those of the checkpoint: not trained, replaced or added to since."""
        return self.loaded is not None and weights_of(self.loaded.model) == self._as_loaded

    def _between_answers(self, change: Callable[[], None]) -> None:
        """Do something in the worker, when no answer is under way."""

        def work(generation: Generation) -> Reply:
            change()
            return Reply("")

        self._queue.submit(work).wait()

    def close(self) -> int:
        """Unload: stop what runs, give the memory back; the number of bytes that were freed."""
        if self.loaded is None:
            return 0
        self._queue.close()
        loaded, self.loaded = self.loaded, None
        self.reuse.clear()
        return memory.release(loaded)

    def _settings(self, settings: Settings | None) -> Settings:
        """The settings, with the checkpoint's own sampling where the model was loaded to use it."""
        how = settings or Settings()
        is_drawn = not how.is_sampling and how.beams == 1 and not how.choices
        if self._resident().options.sampling and is_drawn:
            return replace(how, sampling=True)
        return how

    def _resident(self) -> Loaded:
        if self.loaded is None:
            raise ModelError(f"{self._name} was unloaded", hint="%vlm_load, or vlm_magic.load()")
        return self.loaded

    def _answer(
        self,
        generation: Generation,
        turns: tuple[Turn, ...],
        settings: Settings,
        logits_processors: Sequence[LogitsProcessor] = (),
    ) -> Reply:
        """Prepare, generate, sum up; runs in the worker."""
        loaded = self._resident()
        began = time.perf_counter()
        with self._at_work(loaded):
            generation.report(Progress("pictures"))
            if settings.choices:
                reply = choose_reply(loaded, self.reuse, turns, settings, generation, began)
                generation.push(Chunk(reply.text))
            else:
                prepared = self.reuse.prepare(turns, settings)
                families.check_length(loaded, int(prepared.inputs["input_ids"].shape[1]))
                pictures = [picture for turn in turns for picture in turn.pictures]
                run = Run(loaded, prepared, settings, generation, began, logits_processors)
                reply = run.generate(self.reuse, pictures)
        if self._is_photograph_news(turns[-1].pictures):
            reply = replace(reply, notes=(*reply.notes, scope.REMARK))
        self.last_reply = reply
        return reply

    def _is_photograph_news(self, pictures: Sequence[Picture]) -> bool:
        """Whether the starter is asked about a photograph for the first time."""
        if self._name != "starter" or self._told_scope or all(scope.looks_drawn(p.rgb) for p in pictures):
            return False
        self._told_scope = True
        return True

    @contextmanager
    def _at_work(self, loaded: Loaded) -> Iterator[None]:
        """Do the model's work: what fails becomes one of our errors; out of memory empties the stores."""
        try:
            with useful_threads(loaded):
                yield
        except VLMError:
            raise
        except Exception as error:
            if memory.is_out_of_memory(error):
                self.reuse.clear()
                raise memory.out_of_memory(error, loaded, what=f"{loaded.name} ran out of memory") from None
            raise GenerationError(
                f"{loaded.name} failed while answering: {type(error).__name__}: {error}",
                hint="VLM_MAGIC_TRACEBACK=1 in the environment shows where",
            ) from error


def _teller(generation: Generation) -> Callable[[int, Reply], None]:
    """Hands out a finished reply as its row's chunk."""
    return lambda row, reply: generation.push(Chunk("", reply.n_new_tokens, reply, row))


def _told(generation: Generation, replies: list[Reply], first: int = 0) -> list[Reply]:
    """Hand out each finished reply of these rows."""
    tell = _teller(generation)
    for row, reply in enumerate(replies, start=first):
        if reply.finish_reason != "interrupted":
            tell(row, reply)
    return replies
