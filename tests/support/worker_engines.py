"""Engines that workers of a cluster make for themselves: they answer at once, or fail in a way that is asked.

What happens to a row is said by the width of its picture, which travels with it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vlm_magic.errors import ModelNotFoundError, OutOfMemoryError
from vlm_magic.messages import (
    Ability,
    About,
    Bill,
    Chunk,
    Picture,
    Reply,
    Settings,
    Turn,
    Turns,
    check_abilities,
    turns_now,
)
from vlm_magic.tasks.map.cluster.travel import ModelSpec
from vlm_magic.work_queue import Generation, WorkQueue

KILLS, SLOW, UNLUCKY = 13, 17, 19
"""Widths: the worker dies, the answer takes long, the worker dies the first time."""


class SizeEngine:
    """Answers with the size of the last picture.

    Args:
        seconds: that each row takes.
        most_rows: of a batch; beyond it memory runs out.
        identity: what it says of itself.
        traces: a folder in which it leaves a file for each row that it answered.
    """

    name = "sizes"
    is_closed = False
    host = ""
    abilities: frozenset[Ability] = frozenset({"batches", "counts"})
    about = About("sizes", "sizes")

    def __init__(
        self, seconds: float = 0.0, most_rows: int = 1000, weights: str = "same", traces: str = ""
    ) -> None:
        self.seconds = seconds
        self.most_rows = most_rows
        self.identity = {"name": self.name, "weights": weights}
        self.traces = traces
        self._queue = WorkQueue(self.name)

    def check(self, settings: Settings) -> None:
        check_abilities(self, settings)

    def look_ahead(self, pictures: Sequence[Picture]) -> None:
        """There is nothing to process."""

    def start(self, turns: Turns, settings: Settings, **more: object) -> Generation:
        return self._queue.submit(lambda generation: self._reply(turns_now(turns), generation))

    def start_batch(self, conversations: Sequence[Sequence[Turn]], settings: Settings) -> Generation:
        def work(generation: Generation) -> Reply:
            if len(conversations) > self.most_rows:
                raise OutOfMemoryError("memory ran out", have=f"{len(conversations)} rows", hint="fewer")
            for row, turns in enumerate(conversations):
                reply = self._reply(turns, generation)
                generation.push(Chunk("", 1, reply, row))
            return Reply("")

        return self._queue.submit(work)

    def rows_at_once(self, turns: Sequence[Turn], settings: Settings) -> int:
        return 16

    def bill(self, turns: Sequence[Turn], settings: Settings) -> Bill:
        n = sum(len(turn.pictures) for turn in turns)
        return Bill(5 + n, (1,) * n, 4096, "".join(turn.text for turn in turns))

    def close(self) -> int:
        self._queue.close()
        return 0

    def _reply(self, turns: Sequence[Turn], generation: Generation) -> Reply:
        picture = turns[-1].pictures[-1]
        width, height = picture.size_px
        self._suffer(width, generation)
        if self.traces:
            path = Path(self.traces, f"{width}x{height}-{os.getpid()}-{time.monotonic_ns()}")
            path.write_text(turns[-1].text)
        return Reply(f"{width}x{height}", n_new_tokens=1, total_s=0.001)

    def _suffer(self, width: int, generation: Generation) -> None:
        if width == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if width == UNLUCKY and self.traces:
            mark = Path(self.traces, "unlucky")
            if not mark.exists():
                mark.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
        seconds = 30.0 if width == SLOW else self.seconds
        until = time.monotonic() + seconds
        while time.monotonic() < until and not generation.is_stopped:
            time.sleep(min(0.05, seconds))


def _missing() -> SizeEngine:
    raise ModelNotFoundError("no folder /models/secret", have="nothing there", hint="%vlm_load starter")


def sizes(**options: object) -> ModelSpec:
    """A model of which every worker makes a `SizeEngine`."""
    return ModelSpec("sizes", f"sizes {sorted(options.items())}", partial(SizeEngine, **options))  # type: ignore[arg-type]


def register_store(folder: str) -> None:
    """In this process ``s3://`` is a folder of this machine."""
    import fsspec
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    class Store(DirFileSystem):  # type: ignore[misc]
        protocol = "s3"

        def __init__(self, **_: object) -> None:
            super().__init__(path=folder, fs=LocalFileSystem())

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(path).removeprefix("s3://").rstrip("/")

    fsspec.register_implementation("s3", Store, clobber=True)


def _sizes_with_store(folder: str) -> SizeEngine:
    register_store(folder)
    return SizeEngine()


def sizes_with_store(folder: str) -> ModelSpec:
    """Likewise on workers that have such a store."""
    return ModelSpec("sizes", f"store {folder}", partial(_sizes_with_store, folder))


def missing() -> ModelSpec:
    """A model that no worker can load."""
    return ModelSpec("secret", "secret", _missing)


def made_by(make: Callable[[], SizeEngine]) -> ModelSpec:
    """A model that is made by this function."""
    return ModelSpec("sizes", repr(make), make)
