"""When work on a model must end early, and how it leaves a forward that is no longer wanted.

A stop that was asked for and a time limit are one question, asked after every token and, while a long
prompt or a picture is computed, before every layer. Knows a generation's flag, the clock and layers; not what
is generated. Neighbours: `single`, `batch`, `shared_batch` and `choices` each keep one `StopCheck`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

from vlm_magic.work_queue import Generation, Stopped

__all__ = ["StopCheck", "hooks_on_layers"]


class StopCheck:
    """Whether work must end now, and why.

    Args:
        generation: whose stop flag is looked at.
        time_limit_s: seconds that the work may take; None for no limit.
        began: when it began, `time.perf_counter` seconds; now if not given.

    Attributes:
        reason: what `is_due` found first; None as long as the work may go on.
    """

    def __init__(
        self, generation: Generation, time_limit_s: float | None = None, began: float | None = None
    ) -> None:
        self._generation = generation
        began = time.perf_counter() if began is None else began
        self._deadline = None if time_limit_s is None else began + time_limit_s
        self.reason: Literal["interrupted", "time"] | None = None

    def is_due(self) -> bool:
        """Look at the flag and the clock; what was found once stays."""
        if self.reason is None and self._generation.is_stopped:
            self.reason = "interrupted"
        elif self.reason is None and self._deadline is not None and time.perf_counter() > self._deadline:
            self.reason = "time"
        return self.reason is not None

    def leave_if_due(self, *_: Any) -> None:
        """Leave the work by raising `Stopped`; a hook for layers."""
        if self.is_due():
            raise Stopped


_LAYERS: WeakKeyDictionary[Any, list[Any]] = WeakKeyDictionary()


def _layers_of(model: Any) -> list[Any]:
    """The layers of all stacks; looked for once, as walking a model's modules takes milliseconds."""
    if model not in _LAYERS:
        stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
        _LAYERS[model] = [layer for stack in stacks for layer in stack]
    return _LAYERS[model]


@contextmanager
def hooks_on_layers(model: Any, hook: Callable[..., None]) -> Iterator[Callable[[], None]]:
    """Call ``hook`` before every layer of every stack (language model and vision tower alike).

    Only in the thread that asks: another one may have the vision tower encode coming pictures meanwhile, and
    a stop of this answer is none of its business.

    Yields:
        A function that takes the hooks off before the block ends.
    """
    own_thread = threading.get_ident()

    def call(*_: Any) -> None:
        if threading.get_ident() == own_thread:
            hook()

    handles = [layer.register_forward_pre_hook(call) for layer in _layers_of(model)]

    def remove() -> None:
        for handle in handles:
            handle.remove()
        handles.clear()

    try:
        yield remove
    finally:
        remove()
