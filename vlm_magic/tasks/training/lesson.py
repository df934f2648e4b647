"""A lesson: what is taught to one engine, how far it came, what it changed; on and off.

Knows engines, loops and adapters, not how people write examples. Neighbours: `teach` makes lessons,
`loop` has the steps, `vlm_magic.outputs.results.lesson` shows them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from vlm_magic.errors import OptionError
from vlm_magic.messages import Chunk, Reply, Settings
from vlm_magic.models import memory
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loaded import Loaded
from vlm_magic.outputs.results.lesson import LessonFigures, LessonView, lesson_bundle
from vlm_magic.tasks.evaluate.evaluated import Evaluated
from vlm_magic.tasks.evaluate.judging import Matcher
from vlm_magic.tasks.training.adapters import Adapter
from vlm_magic.tasks.training.conversations import Dialogue
from vlm_magic.tasks.training.kept import KeptLesson
from vlm_magic.tasks.training.loop import Loop, Recipe
from vlm_magic.tasks.training.measure import measure
from vlm_magic.work_queue import Generation

__all__ = ["Lesson", "LessonStopped"]


class LessonStopped(KeyboardInterrupt):
    """The kernel's interrupt during a lesson: one line; like any KeyboardInterrupt it ends a Run All."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class Lesson:
    """What one call of `vlm_magic.teach` does to an engine.

    Args:
        engine: learns.
        key: what makes two calls the same lesson.
        method: "lora" or "all".
        recipe: how many steps, how large.
        adapter: what is learned with "lora"; None with "all".
        examples: the conversations to learn.
        rehearsal: conversations of what it can do already.
        aside: those that are asked before and after, by what they are.
        judge: whether an answer that was put aside is right.
        settings: of the prompts.
        kept: the folder to go on from in another kernel; None for none.

    Attributes:
        method: "lora" or "all".
        losses: of each step so far, in nats for a token.
        steps: how many there shall be.
        before: how questions were answered before, by what they are: "new" for those put aside of the
            examples, "old" for those put aside of the rehearsal.
        after: the same afterwards; {} until all steps are done.
        seconds: that the steps took.
        n_parameters: numbers that are learned.
        is_finished: whether all steps are done and measured.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        key: str,
        method: str,
        recipe: Recipe,
        adapter: Adapter | None,
        examples: Sequence[Dialogue],
        rehearsal: Sequence[Dialogue],
        aside: dict[str, list[Dialogue]],
        judge: Matcher,
        settings: Settings,
        kept: KeptLesson | None,
    ) -> None:
        self.key = key
        self.method = method
        self.before: dict[str, Evaluated] = {}
        self.after: dict[str, Evaluated] = {}
        self.seconds = 0.0
        self.n_parameters = 0
        self._engine = engine
        self._recipe = recipe
        self._adapter = adapter
        self._examples = list(examples)
        self._rehearsal = list(rehearsal)
        self._aside = {name: held for name, held in aside.items() if held}
        self._judge = judge
        self._settings = settings
        self._kept = kept
        self._loop: Loop | None = None
        self.is_finished = False
        self._is_on = False
        self._copies: dict[str, torch.Tensor] | None = None  # the weights before, or after, of method="all"

    # ---- how far it is ---------------------------------------------------------------------------------

    @property
    def losses(self) -> list[float]:
        """Of each step so far."""
        return self._loop.losses if self._loop is not None else []

    @property
    def steps(self) -> int:
        """How many there shall be."""
        return self._recipe.steps

    @property
    def is_done(self) -> bool:
        """Whether all steps are done."""
        return len(self.losses) >= self.steps

    @property
    def is_on(self) -> bool:
        """Whether the model answers with what it learned."""
        return self._is_on

    # ---- learning --------------------------------------------------------------------------------------

    def run(self, view: LessonView) -> None:
        """Learn what is left, in the engine's own line; an interrupt ends it after a step.

        Raises:
            LessonStopped: interrupted; what was learned is kept, and `run` goes on there.
            OutOfMemoryError: a batch did not fit; the model is as it was.
        """
        if not self.before and self._loop is None:
            self.before = self._measured("before")
        began, n_before = time.perf_counter(), len(self.losses)
        try:
            for _ in self._engine.start_work(self._work):
                self.seconds += time.perf_counter() - began
                began = time.perf_counter()
                view.show(self.figures())
        except KeyboardInterrupt:
            self._keep()
            view.finish(self.figures())
            raise LessonStopped(
                f"{len(self.losses)} of {self.steps} steps are done and kept; the same call goes on, "
                "vlm_magic.lesson(engine).take_off() takes them off."
            ) from None
        except BaseException:
            if not n_before:
                self._engine.start_work(self._undo).wait()
            raise
        if not self.is_done:  # stopped in another way than by the interrupt of this thread
            self._keep()
            raise LessonStopped(f"{len(self.losses)} of {self.steps} steps are done and kept.")
        self.after = self._measured("after")
        self._keep()
        self.is_finished = True
        view.finish(self.figures())

    def _work(self, generation: Generation) -> Reply:
        """In the engine's worker: put on what is learned, and step."""
        loaded = self._engine.loaded
        assert loaded is not None
        failure: Exception
        try:
            loop = self._prepared(loaded)
            loop.run(
                lambda: generation.is_stopped,
                lambda: generation.push(Chunk("", len(loop.losses))),
            )
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
            failure = memory.out_of_memory(
                error,
                loaded,
                what=f"{loaded.name} ran out of memory at step {len(self.losses) + 1} of a lesson",
                hint=f"batch_size={max(1, self._recipe.batch_size // 2)}, or smaller pictures",
            )
        else:
            return Reply("")
        finally:
            self._engine.reuse.clear()
        raise failure

    def _prepared(self, loaded: Loaded) -> Loop:
        if self._loop is not None:
            self._turn_on()
            return self._loop
        with torch.random.fork_rng():
            torch.manual_seed(self._recipe.seed)
            self._turn_on()
        weights = self._weights(loaded)
        self.n_parameters = sum(weight.numel() for weight in weights.values())
        self._loop = Loop(loaded, weights, self._examples, self._rehearsal, self._recipe, self._settings)
        if self._kept is not None and (found := self._kept.read(self.key)) is not None:
            tensors, losses, self.seconds = found
            self._loop.restore(tensors, losses)
        return self._loop

    def _weights(self, loaded: Loaded) -> dict[str, torch.nn.Parameter]:
        if self._adapter is not None:
            return self._adapter.parameters()
        return dict(loaded.model.named_parameters())

    def _measured(self, when: str) -> dict[str, Evaluated]:
        return {
            name: measure(self._engine, held, self._judge, self._settings, f"{name}, {when}")
            for name, held in self._aside.items()
        }

    def _keep(self) -> None:
        if self._kept is not None and self._loop is not None:
            self._kept.write(self.key, self._loop, self.seconds)
            if self._adapter is not None:
                self._adapter.save(self._kept.folder)

    # ---- on and off ------------------------------------------------------------------------------------

    def take_off(self) -> None:
        """The model answers as before; nothing that was learned is lost.

        Raises:
            OptionError: all weights were learned, and there was no room for a copy of those before.
        """
        if self._is_on:
            self._between(self._turn_off)

    def put_on(self) -> None:
        """The model answers with what it learned, again.

        Raises:
            OptionError: another adapter is on.
        """
        if not self._is_on:
            self._between(self._turn_on)

    def _between(self, change: Callable[[], None]) -> None:
        def work(generation: Generation) -> Reply:
            change()
            self._engine.reuse.clear()
            return Reply("")

        self._engine.start_work(work).wait()

    def _undo(self, generation: Generation) -> Reply:
        """After a failure before the first step: the model is as it was."""
        if self._is_on:
            self._turn_off()
        self._loop = None
        return Reply("")

    def _turn_on(self) -> None:
        if self._is_on:
            return
        if self._adapter is not None:
            self._adapter.put_on()
            if self._loop is not None:
                self._loop.follow(self._adapter.parameters())
        elif self._loop is None:
            self._copies = _copies_of(self._engine.model)
        else:
            self._swap()
        self._is_on = True

    def _turn_off(self) -> None:
        if self._adapter is not None:
            self._adapter.take_off()
        else:
            self._swap()
        self._is_on = False

    def _swap(self) -> None:
        """The model's weights and the copies change places."""
        if self._copies is None:
            raise OptionError(
                f"{self._engine.name} learned with all its weights, and no copy of them fitted into memory",
                have="the weights after the lesson",
                hint="%vlm_unload and %vlm_load read those of the checkpoint again",
            )
        with torch.no_grad():
            for name, weight in self._engine.model.named_parameters():
                now = weight.detach().to("cpu", copy=True)
                weight.copy_(self._copies[name])
                self._copies[name] = now

    def save(self, folder: str | Path) -> Path:
        """Write what was learned: an adapter for ``%vlm_load --adapter``, or a whole model for ``%vlm_load``.

        Args:
            folder: made where it is not there.

        Raises:
            OptionError: the lesson is off.
        """
        if not self._is_on:
            raise OptionError("the lesson is off", have="the model as it was", hint="lesson.put_on()")
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        if self._adapter is not None:
            self._adapter.save(path)
        else:
            self._engine.model.save_pretrained(path)
            self._engine.processor.save_pretrained(path)
        return path

    # ---- how it looks ----------------------------------------------------------------------------------

    def figures(self) -> LessonFigures:
        """What a view shows."""
        names = {"new": "new, put aside", "old": "old, put aside"}
        rows = []
        for name, was in self.before.items():
            after = self.after.get(name)
            now = (after.accuracy.n_right, after.accuracy.n) if after else None
            rows.append((names.get(name, name), (was.accuracy.n_right, was.accuracy.n), now))
        return LessonFigures(
            name=self._engine.name,
            method=self.method,
            steps=self.steps,
            losses=tuple(self.losses),
            seconds=self.seconds,
            n_parameters=self.n_parameters,
            rows=tuple(rows),
        )

    def __repr__(self) -> str:
        return f"<Lesson: {lesson_bundle(self.figures())['text/plain'].splitlines()[0]}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return lesson_bundle(self.figures())


def _copies_of(model: Any) -> dict[str, torch.Tensor] | None:
    """The weights on the CPU; None where they would not fit beside the model."""
    n_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if 2 * n_bytes > memory.free_bytes("cpu"):
        return None
    return {name: weight.detach().to("cpu", copy=True) for name, weight in model.named_parameters()}
