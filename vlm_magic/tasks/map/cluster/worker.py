"""What runs on a worker: one resident engine, and slices of rows that it answers.

The engine outlives the tasks: it is kept in this module, once per process and model. Rows are asked exactly
as on one machine (`vlm_magic.tasks.map.batches`), so batches, halving and errors are the same. Knows
engines and what travels; nothing of which cluster it runs on. Neighbour: `run` sends the slices.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Bill, Engine, Picture, Reply, Turn, can_constrain
from vlm_magic.tasks.map.batches import BatchedRun
from vlm_magic.tasks.map.cluster.travel import (
    MapTask,
    ModelSpec,
    RowAnswer,
    RowTask,
    SliceAnswers,
    unpacked,
)
from vlm_magic.tasks.map.in_flight import InFlightRun, run_here
from vlm_magic.tasks.map.rows import Item, RowView
from vlm_magic.tasks.map.table import MappedRow
from vlm_magic.tasks.map.window import Window

__all__ = ["Facts", "answer_slice", "bill", "facts", "forget", "stop", "versions"]

_PACKAGES = ("vlm_magic", "transformers", "torch")
_THUMBNAIL_PX = 96
_MAX_MAPS = 4  # whose prompts' pictures a worker keeps decoded


@dataclass(frozen=True)
class Facts:
    """What a worker says of itself before it gets rows.

    Attributes:
        versions: of the packages that answers depend on.
        name: of the model that it has loaded.
        identity: likewise, see `vlm_magic.models.identity`.
        abilities: likewise, see `vlm_magic.messages.Engine`.
    """

    versions: Mapping[str, str]
    name: str
    identity: Mapping[str, str]
    abilities: frozenset[str]


@dataclass
class _Kept:
    """What a worker keeps of a map between slices."""

    fixed: dict[str, Picture] = field(default_factory=dict)
    batch_size: int | None = None
    is_stopped: bool = False
    run: BatchedRun | InFlightRun | None = None


_engines: dict[str, Engine] = {}
_maps: OrderedDict[str, _Kept] = OrderedDict()
_lock = threading.RLock()  # held while a model loads
_maps_lock = threading.Lock()  # held for moments, so that a stop never waits for a model


def versions() -> dict[str, str]:
    """The packages of this process that answers depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def facts(model: ModelSpec) -> Facts:
    """Load the model, once per process, and say what there is.

    Raises:
        VLMError: it does not load here.
    """
    engine = _engine(model)
    return Facts(versions(), engine.name, engine.identity, engine.abilities)


def answer_slice(task: MapTask, rows: Sequence[RowTask]) -> SliceAnswers:
    """Answer rows, each by itself as far as errors go.

    Raises:
        VLMError: the model does not load, or is gone.
    """
    engine = _engine(task.model)
    kept = _kept(task)
    began = time.perf_counter()
    ledger = _Answers(task, engine, {row.position: row for row in rows})
    window = Window(_items(rows), _Questions(kept.fixed), task.options)
    examples = [Turn(role, unpacked(parts, kept.fixed)) for role, parts in task.examples]
    run = run_here(engine, task.settings, examples, window, ledger, kept.batch_size or task.batch_size)
    kept.run = run
    if not kept.is_stopped:
        for _ in run.rows():
            if kept.is_stopped:
                break
    if ledger.has_halved and isinstance(run, BatchedRun):
        kept.batch_size = run.n_rows_at_once
    seconds = time.perf_counter() - began
    worker = f"{platform.node()}, process {os.getpid()}"
    return SliceAnswers(tuple(ledger.rows), tuple(ledger.notes), worker, engine.identity, seconds)


def bill(task: MapTask) -> Bill:
    """What a prompt would cost whose turns are all among the task's examples."""
    fixed = _kept(task).fixed
    turns = [Turn(role, unpacked(parts, fixed)) for role, parts in task.examples]
    return _engine(task.model).bill(turns, task.settings)


def stop(task_id: str) -> None:
    """End the slice of this map that is being answered, or is on its way; nobody waits for it."""
    kept = _kept_of(task_id)
    kept.is_stopped = True
    if kept.run is not None:
        kept.run.stop()


def forget() -> None:
    """Close the engines of this process."""
    with _lock:
        for engine in _engines.values():
            engine.close()
        _engines.clear()
    with _maps_lock:
        _maps.clear()


def _engine(model: ModelSpec) -> Engine:
    with _lock:  # two slices at once load it once
        if model.key not in _engines:
            _engines[model.key] = model.make()
        return _engines[model.key]


def _kept_of(task_id: str) -> _Kept:
    with _maps_lock:
        kept = _maps.setdefault(task_id, _Kept())
        _maps.move_to_end(task_id)
        while len(_maps) > _MAX_MAPS:
            _maps.popitem(last=False)
        return kept


def _kept(task: MapTask) -> _Kept:
    from PIL import Image

    kept = _kept_of(task.id)
    with _lock:
        for digest, data in task.fixed.items():
            if digest not in kept.fixed:
                image = Image.open(BytesIO(data)).convert("RGB")
                kept.fixed[digest] = Picture(None, "", image, digest)
        return kept


def _items(rows: Sequence[RowTask]) -> Iterator[Item]:
    for row in rows:
        yield Item(row.position, row.position, row.name, row.source, RowView(row, row.position, ""))


class _Questions:
    """Stands where the prompt of a map does: rows bring their questions along."""

    def __init__(self, fixed: Mapping[str, Picture]) -> None:
        self._fixed = fixed

    def turn(self, pictures: Sequence[Picture], row: RowView) -> Turn:
        """The question of one row."""
        parts = row["parts"]
        assert isinstance(parts, tuple)
        return Turn("user", unpacked(parts, self._fixed, pictures))


class _Answers:
    """Stands where the ledger of a map does: what is written here travels back."""

    def __init__(self, task: MapTask, engine: Engine, rows: Mapping[int, RowTask]) -> None:
        self._task = task
        self._engine = engine
        self._rows = rows
        self.rows: list[RowAnswer] = []
        self.notes: list[str] = []
        self.n_answered = 0
        self.has_halved = False

    def find(self, key: str) -> None:
        """Nothing is known here of what was answered before."""

    def answered(
        self,
        item: Item,
        key: str,
        reply: Reply,
        seconds: float,
        pictures: tuple[Picture, ...] = (),
        source_key: str = "",
    ) -> MappedRow:
        """A row that the model has just answered."""
        self.n_answered += 1
        settings = self._task.settings
        if reply.finish_reason == "length" and settings.grammar and can_constrain(self._engine):
            is_whole = self._engine.is_whole(reply, settings)
            reply = replace(reply, finish_reason="stop" if is_whole else "length")
        light = replace(reply, token_ids=(), log_probabilities=(), notes=())
        self._add(RowAnswer(item.position, key.partition("#")[0], light, "", seconds), pictures)
        return MappedRow(item.position, item.label, item.name)

    def kept(self, item: Item, record: object, pictures: tuple[Picture, ...] = ()) -> MappedRow:
        """Never called, for `find` finds nothing."""
        raise AssertionError(record)

    def failed(self, item: Item, key: str, error: str, pictures: tuple[Picture, ...] = ()) -> MappedRow:
        """A row that could not be asked or answered."""
        self._add(RowAnswer(item.position, key.partition("#")[0], None, error), pictures)
        return MappedRow(item.position, item.label, item.name, error=error)

    def note(self, text: str) -> None:
        """A remark for the person."""
        self.has_halved |= "halved" in text
        self.notes.append(text)

    def _add(self, answer: RowAnswer, pictures: Sequence[Picture]) -> None:
        if pictures and self._rows[answer.position].wants_thumbnail:
            answer = replace(answer, thumbnail=thumbnail_data_uri(pictures[0], _THUMBNAIL_PX))
        self.rows.append(answer)
