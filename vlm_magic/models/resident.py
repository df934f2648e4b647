"""A loaded model that stays: its stores, its line of answers, and how it is lent, put away and closed.

What an engine is beside its answers. Neighbours: `engine` answers with it, `lending` has it make room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vlm_magic.errors import GenerationError, ModelError
from vlm_magic.messages import Reply
from vlm_magic.models import memory
from vlm_magic.models.caches.fingerprint import weights_of
from vlm_magic.models.caches.reuse import Reuse
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding.answers import lend
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.loaded import Loaded
from vlm_magic.work_queue import Generation, WorkQueue

__all__ = ["Resident"]

T = TypeVar("T")


class Resident:
    """A loaded model with its stores and the line in which answers wait for it.

    Args:
        loaded: what `vlm_magic.models.checkpoints.loading.load_model` returned.
        name: how people call it.

    Attributes:
        loaded: the model, its processor and how it was loaded; None after `close`, and while it is away.
        reuse: what it has computed before, kept for prompts that begin alike.
    """

    def __init__(self, loaded: Loaded, name: str) -> None:
        self.loaded: Loaded | None = loaded
        self.reuse = Reuse(loaded)
        self._name = name
        self._queue = WorkQueue(name)
        self._is_over = False
        self._set_aside: Reuse | None = None  # what is kept, while somebody asks from nothing
        self._n_from_nothing = 0
        self._away: tuple[str, LoadOptions] | None = None
        self._as_loaded = weights_of(loaded.model)

    @property
    def is_closed(self) -> bool:
        """Whether the model was unloaded."""
        return self.loaded is None

    def forget(self) -> int:
        """Empty what it keeps for reuse, after the answers that are under way; the bytes that it held."""
        if self._is_over:
            return self.reuse.clear()

        def clear() -> int:
            return self.reuse.clear()  # whichever is in use by then

        return self._between_answers(clear)

    @contextmanager
    def from_nothing(self) -> Iterator[None]:
        """Answers within compute everything anew, for fair times; what was kept is there again afterwards.

        Several may be within at once (two answers that are explained); it comes back when the last is out.
        """
        is_within = False

        def enter() -> None:
            nonlocal is_within
            is_within = True
            self._n_from_nothing += 1
            if self._set_aside is None:
                self._set_aside = self.reuse
            self.reuse = self._set_aside.emptied()

        def leave() -> None:
            if is_within:
                self._n_from_nothing -= 1
            if not self._n_from_nothing and self._set_aside is not None:
                self.reuse, self._set_aside = self._set_aside, None

        try:
            self._between_answers(enter)  # an interrupt of the wait does not take it out of the line
            yield
        finally:
            self._between_answers(leave)

    def put_away(self) -> int:
        """Give the memory back for a while, after what runs and waits; the number of bytes that were freed.

        Until `bring_back` it answers with an error. Not for weights that were changed in place: they are
        read again from where they came from (see `is_as_loaded`).
        """

        def release() -> int:
            loaded, self.loaded = self._resident(), None
            self._away = (loaded.name, loaded.options)
            self.reuse.clear()
            return memory.release(loaded)

        return self._between_answers(release)

    def bring_back(self) -> None:
        """Load again what was put away; nothing where nothing was, or where it was closed since.

        Raises:
            ModelError: it does not load any more.
        """
        if self._away is None or self.loaded is not None:
            return
        loaded = load_model(*self._away)
        if self._is_over:  # it was closed meanwhile
            memory.release(loaded)
            return
        self.loaded, self.reuse, self._away = loaded, Reuse(loaded), None
        self._set_aside = None  # it was of the model that is gone
        self._as_loaded = weights_of(loaded.model)

    @property
    def is_as_loaded(self) -> bool:
        """Whether the weights are those of the checkpoint: not trained, replaced or added to since."""
        return self.loaded is not None and weights_of(self.loaded.model) == self._as_loaded

    def borrow(self, work: Callable[[Loaded, Callable[[], None]], T]) -> T:
        """Have something done with the model when no answer is under way; a stop ends it between layers.

        Args:
            work: gets the model, and a function to call now and then: it raises when the caller has left.
        """
        found: list[T] = []

        def do(generation: Generation) -> Reply:
            found.append(lend(self._resident(), self.reuse, generation, work, self._name))
            return Reply("", model=self._name)

        for _ in self._queue.submit(do):
            pass
        if not found:
            raise GenerationError(f"the work of {self._name} was stopped before it began")
        return found[0]

    def start_work(self, work: Callable[[Generation], Reply]) -> Generation:
        """Queue other work on the model, such as training, in line with its answers; none runs beside it.

        Raises:
            ModelError: the engine was closed.
        """
        self._resident()
        return self._queue.submit(work)

    def _between_answers(self, change: Callable[[], T]) -> T:
        """Do something in the worker, when no answer is under way."""
        found: list[T] = []

        def work(generation: Generation) -> Reply:
            found.append(change())
            return Reply("")

        self._queue.submit(work).wait()
        if not found:
            raise ModelError(f"{self._name} was unloaded before its turn came")
        return found[0]

    def close(self) -> int:
        """Unload: stop what runs, give the memory back; the number of bytes that were freed."""
        self._is_over, self._away = True, None
        self._queue.close()
        loaded, self.loaded = self.loaded, None
        self.reuse.clear()
        return 0 if loaded is None else memory.release(loaded)

    def _resident(self) -> Loaded:
        if self.loaded is None:
            raise ModelError(f"{self._name} was unloaded", hint="%vlm_load, or vlm_magic.load()")
        return self.loaded
