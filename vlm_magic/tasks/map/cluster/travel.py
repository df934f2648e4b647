"""What travels between the driver and its workers: rows with paths or encoded bytes, and their answers.

Pictures are never sent decoded: 12 megapixels are 36 MB then, and 2 as a file. Knows parts and records;
nothing of clusters or engines. Neighbours: `run` packs, `worker` unpacks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from vlm_magic.inputs import locate
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Engine, Part, Picture, Reply, Settings, Text, Turn

__all__ = [
    "FixedPicture",
    "MapTask",
    "ModelSpec",
    "RowAnswer",
    "RowPlace",
    "RowTask",
    "SliceAnswers",
    "TravellingPart",
    "packed_turns",
    "png_bytes",
    "travelling",
    "unpacked",
]


@dataclass(frozen=True)
class ModelSpec:
    """How a worker gets its engine.

    Attributes:
        name: how people call the model.
        key: equal for specs of the same engine: a worker keeps one for each.
        make: loads or connects it.
    """

    name: str
    key: str
    make: Callable[[], Engine]


@dataclass(frozen=True, slots=True)
class RowPlace:
    """Where the row's own pictures stand in its question."""


@dataclass(frozen=True, slots=True)
class FixedPicture:
    """A picture of the prompt or of an example, the same in many rows: sent once a slice, by its digest."""

    digest: str
    name: str


TravellingPart: TypeAlias = Text | RowPlace | FixedPicture


@dataclass(frozen=True, slots=True)
class RowTask:
    """One row to be answered.

    Attributes:
        position: its place, from 0.
        name: how people call its picture.
        source: what its pictures are read from: a path, URL, bytes, or a list of those.
        parts: its question.
        wants_thumbnail: whether somebody will look at it.
    """

    position: int
    name: str
    source: object
    parts: tuple[TravellingPart, ...]
    wants_thumbnail: bool = False


@dataclass(frozen=True)
class MapTask:
    """What is the same for all rows of a map.

    Attributes:
        id: of this run.
        model: who answers.
        settings: how.
        options: limits of pictures and downloads.
        examples: role and parts of the turns before every question.
        fixed: PNG bytes by digest.
        batch_size: rows that a worker asks at a time; its own choice where None.
    """

    id: str
    model: ModelSpec
    settings: Settings
    options: PictureOptions
    examples: tuple[tuple[Any, tuple[TravellingPart, ...]], ...] = ()
    fixed: Mapping[str, bytes] = field(default_factory=dict)
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class RowAnswer:
    """What became of one row on its worker.

    Attributes:
        position: of the row.
        key: its question by content, as a map on this machine would write it; "" where it was not read.
        reply: the answer, without tokens; None for an error.
        error: what went wrong, in one line.
        seconds: its share of the time.
        thumbnail: data URI of a small picture, where one was wanted.
    """

    position: int
    key: str = ""
    reply: Reply | None = None
    error: str = ""
    seconds: float = 0.0
    thumbnail: str = ""


@dataclass(frozen=True, slots=True)
class SliceAnswers:
    """What a worker made of a slice.

    Attributes:
        rows: in the order in which they were finished.
        notes: remarks for the person.
        worker: who it was, for people.
        identity: which model answered, see `vlm_magic.models.identity`.
        seconds: of the whole slice, the loading of the model left out.
    """

    rows: tuple[RowAnswer, ...]
    notes: tuple[str, ...]
    worker: str
    identity: Mapping[str, str]
    seconds: float


def travelling(source: object) -> object | None:
    """A row's source as it can be sent; None for one that has to be decoded here first.

    Relative paths become absolute, for a worker runs in another folder.
    """
    if isinstance(source, Picture):
        return None if source.image is not None else travelling(source.source)
    if isinstance(source, (str, os.PathLike)):
        path = locate.existing_path(source)
        return source if path is None else Path(os.path.abspath(path))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if sniff.is_dataset_cell(source):
        cell: Any = source
        return bytes(cell["bytes"]) if cell.get("bytes") else travelling(cell.get("path"))
    if isinstance(source, (list, tuple)) and source:
        found = [travelling(one) for one in source]
        return None if any(one is None for one in found) else found
    return None


def packed_turns(
    turns: Sequence[Turn], fixed: dict[str, bytes], place: Sequence[Picture] = ()
) -> list[tuple[TravellingPart, ...]]:
    """The parts of turns as they travel.

    Args:
        turns: with decoded pictures.
        fixed: gets the bytes of their pictures.
        place: those that stand for the row's own; neighbours of them are one place.
    """
    packed = []
    own = set(map(id, place))
    for turn in turns:
        parts: list[TravellingPart] = []
        for part in turn.parts:
            if isinstance(part, Text):
                parts.append(part)
            elif id(part) in own:
                parts += [] if parts and isinstance(parts[-1], RowPlace) else [RowPlace()]
            else:
                fixed.setdefault(part.digest, png_bytes(part))
                parts.append(FixedPicture(part.digest, part.name))
        packed.append(tuple(parts))
    return packed


def unpacked(
    parts: Sequence[TravellingPart], fixed: Mapping[str, Picture], own: Sequence[Picture] = ()
) -> tuple[Part, ...]:
    """The parts of a turn again, with their pictures."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, RowPlace):
            found += own
        else:
            found.append(part if isinstance(part, Text) else fixed[part.digest])
    return tuple(found)


def png_bytes(picture: Picture) -> bytes:
    """The pixels without loss, packed quickly rather than tightly."""
    file = io.BytesIO()
    picture.rgb.save(file, "PNG", compress_level=1)
    return file.getvalue()
