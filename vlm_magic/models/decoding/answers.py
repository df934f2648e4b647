"""The worker's side of an engine: a question, several, or one with choices, on a loaded model.

Picks the way that the settings and the family allow; each way is a module of its own. Knows a loaded model
and its stores, not the queue that calls it. Begin with `Worker`. Neighbours: `single`, `shared_batch`,
`batch`, `choices` and `scoring` do the work, `engine` queues it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from transformers import LogitsProcessor

from vlm_magic.errors import GenerationError, PromptError, VLMError
from vlm_magic.messages import Chunk, Progress, Reply, Settings, Turn
from vlm_magic.models import memory
from vlm_magic.models.caches.reuse import Reuse
from vlm_magic.models.cpu_threads import useful_threads
from vlm_magic.models.decoding.batch import PlainBatch
from vlm_magic.models.decoding.choices import choose_reply
from vlm_magic.models.decoding.continuing import begin
from vlm_magic.models.decoding.shared_batch import SharedBatch
from vlm_magic.models.decoding.single import SingleAnswer
from vlm_magic.models.decoding.stopping import StopCheck, hooks_on_layers
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts import token_ids
from vlm_magic.work_queue import Generation, Stopped

__all__ = ["Worker", "lend"]

T = TypeVar("T")


class Worker:
    """What an engine's queue has done: answers and scores, under the name that people call the model by.

    Args:
        name: that name.

    Attributes:
        last_reply: the newest reply.
    """

    def __init__(self, name: str) -> None:
        self.last_reply: Reply | None = None
        self._name = name
        self._has_remarked = False

    def answer(
        self,
        loaded: Loaded,
        reuse: Reuse,
        generation: Generation,
        turns: Sequence[Turn],
        settings: Settings,
        logits_processors: Sequence[LogitsProcessor] = (),
        before: Reply | None = None,
    ) -> Reply:
        """One answer; the first to a picture that the model was not made for says so.

        ``before`` is the answer so far, to go on with one that was cut off.
        """
        if before is not None and before.model == self._name:
            before = replace(before, model=loaded.name)
        with _at_work(loaded, reuse, self._name):
            reply = _answer_one(loaded, reuse, generation, turns, settings, logits_processors, before)
        remark = "" if self._has_remarked else loaded.remark_on(p.rgb for p in turns[-1].pictures)
        if remark:
            self._has_remarked = True
            reply = replace(reply, notes=(*reply.notes, remark))
        self.last_reply = self._named(reply)
        return self.last_reply

    def answer_rows(
        self,
        loaded: Loaded,
        reuse: Reuse,
        generation: Generation,
        conversations: Sequence[Sequence[Turn]],
        settings: Settings,
        n_answers: int,
    ) -> list[Reply]:
        """Answers to several conversations: side by side where the family can, else one after the other."""

        def tell(row: int, reply: Reply) -> None:
            generation.push(Chunk("", reply.n_new_tokens, self._named(reply), row))

        with _at_work(loaded, reuse, self._name):
            together = _answer_side_by_side(
                loaded, reuse, generation, conversations, settings, n_answers, tell
            )
            if together is not None:
                return [self._named(reply) for reply in together]
            replies = []
            for row, turns in enumerate(conversations):
                replies.append(self.answer(loaded, reuse, generation, tuple(turns), settings))
                if replies[-1].finish_reason != "interrupted":
                    tell(row, replies[-1])
            return replies

    def _named(self, reply: Reply) -> Reply:
        return reply if reply.model == self._name else replace(reply, model=self._name)


def _answer_one(
    loaded: Loaded,
    reuse: Reuse,
    generation: Generation,
    turns: Sequence[Turn],
    settings: Settings,
    logits_processors: Sequence[LogitsProcessor] = (),
    before: Reply | None = None,
) -> Reply:
    """Prepare, generate, sum up; partial after a stop or a time limit."""
    began = time.perf_counter()
    generation.report(Progress("pictures"))
    if settings.choices:
        reply = choose_reply(loaded, reuse, turns, settings, generation, began)
        generation.push(Chunk(reply.text))
        return reply
    try:
        prepared = reuse.prepare(turns, settings)
    except Stopped:
        total_s = time.perf_counter() - began
        return before or Reply("", finish_reason="interrupted", total_s=total_s, model=loaded.name)
    token_ids.check_length(loaded, int(prepared.inputs["input_ids"].shape[1]))
    pictures = [picture for turn in turns for picture in turn.pictures]
    begun = None
    if before is not None:
        prepared, begun = begin(loaded, reuse, turns, settings, before, prepared)
    run = SingleAnswer(loaded, prepared, settings, generation, began, logits_processors, begun)
    return run.generate(reuse, pictures)


def _answer_side_by_side(
    loaded: Loaded,
    reuse: Reuse,
    generation: Generation,
    conversations: Sequence[Sequence[Turn]],
    settings: Settings,
    n_answers: int,
    tell: Callable[[int, Reply], None],
) -> list[Reply] | None:
    """Answers to several conversations, or several to each; None where they must be asked one by one.

    Args:
        loaded: the model.
        reuse: its stores.
        generation: whose stop flag is looked at.
        conversations: the turns of each, the question last.
        settings: the same for all.
        n_answers: answers to each conversation, next to each other in the result.
        tell: called with (row, reply) for each row that has ended otherwise than by a stop.
    """
    is_batchable = loaded.family.is_batchable or len(conversations) == 1
    is_held = bool(settings.choices) or bool(settings.grammar and settings.think)
    if not is_batchable or is_held:
        return None
    try:
        return _together(loaded, reuse, generation, conversations, settings, n_answers, tell)
    except PromptError:  # one of them spoils the batch, and shall not spoil the others
        return None
    except Stopped:  # while the prompts were prepared
        nothing = Reply("", finish_reason="interrupted", model=loaded.name)
        return [nothing] * (len(conversations) * n_answers)


def _together(
    loaded: Loaded,
    reuse: Reuse,
    generation: Generation,
    conversations: Sequence[Sequence[Turn]],
    settings: Settings,
    n_answers: int,
    tell: Callable[[int, Reply], None],
) -> list[Reply] | None:
    if _can_share(loaded, reuse, conversations, settings, n_answers):
        shared = SharedBatch(loaded, reuse, conversations, settings, generation, tell)
        if shared.can_run:
            return shared.generate()
    batch = PlainBatch(loaded, conversations, settings, generation, n_answers)
    if batch.has_room or n_answers > 1:  # else each as far as its own prompt lets it
        replies = batch.generate()
        for row, reply in enumerate(replies):
            if reply.finish_reason != "interrupted":
                tell(row, reply)
        return replies
    return None


def _can_share(
    loaded: Loaded,
    reuse: Reuse,
    conversations: Sequence[Sequence[Turn]],
    settings: Settings,
    n_answers: int,
) -> bool:
    """Whether a batch can be computed together: see `SharedBatch`."""
    is_plain = n_answers == 1 and settings.beams == 1 and len(conversations) > 1
    return is_plain and loaded.family.reuse == "features" and reuse.is_able


def lend(
    loaded: Loaded,
    reuse: Reuse,
    generation: Generation,
    work: Callable[[Loaded, Callable[[], None]], T],
    name: str,
) -> T:
    """What ``work`` finds with the model; it is left between two layers where the generation is stopped."""
    leave = StopCheck(generation).leave_if_due
    with _at_work(loaded, reuse, name), hooks_on_layers(loaded.model, leave):
        return work(loaded, leave)


@contextmanager
def _at_work(loaded: Loaded, reuse: Reuse, name: str) -> Iterator[None]:
    """Do the model's work: what fails becomes one of our errors; out of memory empties the stores."""
    try:
        with useful_threads(loaded):
            yield
    except VLMError:
        raise
    except Stopped:
        raise GenerationError(f"the work of {name} was stopped before it had a result") from None
    except Exception as error:
        if memory.is_out_of_memory(error):
            reuse.clear()
            raise memory.out_of_memory(error, loaded, what=f"{name} ran out of memory") from None
        raise GenerationError(
            f"{name} failed while answering: {type(error).__name__}: {error}",
            hint="VLM_MAGIC_TRACEBACK=1 in the environment shows where",
        ) from error
