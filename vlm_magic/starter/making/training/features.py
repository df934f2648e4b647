"""Between the stages: pictures for the second stage, and what the frozen tower sees in them.

`fill_store` draws and writes, `FeatureStore` reads and deals. Neighbours: `vision_stage` made the tower,
`batches` asks about the stored pictures.
"""

from __future__ import annotations

import pickle
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlm_magic.starter.making.training.network import cast_weights, see
from vlm_magic.starter.making.training.vision_stage import Pool, Truth, to_pixels
from vlm_magic.starter.making.world.charts import Chart, plan_chart
from vlm_magic.starter.making.world.drawing import to_square
from vlm_magic.starter.making.world.edits import PLAIN_CHANGES, Edit, plan_edit
from vlm_magic.starter.making.world.outside import Outside, plan_outside
from vlm_magic.starter.making.world.scenes import Scene, plan_odd, plan_plain, plan_scene

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration

__all__ = ["FeatureStore", "fill_store"]

StoredEdit = tuple[int, int, str, str]


@dataclass(slots=True)
class FeatureStore:
    """Features of stored pictures, and their truths; deals them like a `turns.Deck`.

    Attributes:
        parts: Memory-mapped features, each (n, patches, width) int16 holding bfloat16.
        squares: Memory-mapped pictures, each (n, 96, 96, 3) uint8, for when the tower learns on.
        truths: One truth per row, over all parts.
        edits: (row before, row after, kind of change, sentence).
    """

    parts: list[np.ndarray[Any, np.dtype[np.int16]]]
    squares: list[np.ndarray[Any, np.dtype[np.uint8]]]
    truths: list[Truth]
    edits: list[StoredEdit]
    most: int = 6
    starts: list[int] = field(init=False)
    scenes: list[int] = field(init=False)
    charts: list[int] = field(init=False)
    easy_edits: list[StoredEdit] = field(init=False)
    plain_edits: list[StoredEdit] = field(init=False)
    odd_ones: list[int] = field(init=False)
    plain_ones: list[int] = field(init=False)
    outsiders: list[int] = field(init=False)
    unknown_ones: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.starts = list(accumulate(map(len, self.parts), initial=0))[:-1]
        sizes = [len(t.objects) if isinstance(t, Scene) else 0 for t in self.truths]
        self.scenes = [i for i, t in enumerate(self.truths) if isinstance(t, Scene)]
        self.charts = [i for i, t in enumerate(self.truths) if isinstance(t, Chart)]
        self.plain_edits = [e for e in self.edits if e[2] in PLAIN_CHANGES]
        self.easy_edits = [e for e in self.plain_edits if max(sizes[e[0]], sizes[e[1]]) <= 2]
        self.odd_ones = [i for i in self.scenes if sizes[i] in (3, 4) and _has_odd_one(self.truths[i])]
        self.plain_ones = [i for i in self.scenes if sizes[i] == 1 and _is_large(self.truths[i])]
        kinds = {i: t.kind for i, t in enumerate(self.truths) if isinstance(t, Outside)}
        self.outsiders = list(kinds)
        self.unknown_ones = [i for i, kind in kinds.items() if kind == "unknown shape"]

    @classmethod
    def load(cls, folder: Path) -> FeatureStore:
        """Open all parts in a folder."""
        store = cls([], [], [], [])
        for path in sorted(folder.glob("features_*.npy")):
            offset = len(store.truths)
            store.parts.append(np.load(path, mmap_mode="r"))
            store.squares.append(np.load(folder / path.name.replace("features", "pictures"), mmap_mode="r"))
            truths, edits = pickle.loads(path.with_suffix(".pickle").read_bytes())  # our own file
            store.truths += truths
            store.edits += [(i + offset, j + offset, kind, text) for i, j, kind, text in edits]
        store.__post_init__()
        return store

    def features(self, rows: Sequence[int]) -> Tensor:
        """Features of some rows, (n, patches, width) bfloat16."""
        return torch.from_numpy(self._picked(self.parts, rows)).view(torch.bfloat16)

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Some pictures, (n, 3, 96, 96) float32 as the processor normalises them."""
        return to_pixels(self._picked(self.squares, rows))

    def _picked(self, parts: Sequence[np.ndarray[Any, Any]], rows: Sequence[int]) -> np.ndarray[Any, Any]:
        """Rows that are counted over all parts, whatever the size of each, stacked."""
        found = [(bisect_right(self.starts, row) - 1, row) for row in rows]
        return np.stack([parts[i][row - self.starts[i]] for i, row in found])

    def scene(self, rng: Random) -> tuple[Scene, int]:
        """Some stored scene."""
        while True:
            row = self.scenes[int(rng.random() * len(self.scenes))]
            truth = self.truths[row]
            if isinstance(truth, Scene) and len(truth.objects) <= self.most:
                return truth, row

    def chart(self, rng: Random) -> tuple[Chart, int]:
        """Some stored chart."""
        row = self.charts[int(rng.random() * len(self.charts))]
        truth = self.truths[row]
        assert isinstance(truth, Chart)
        return truth, row

    def edit(self, rng: Random, *, easy: bool = False) -> tuple[Edit, tuple[int, int]]:
        """Some stored scene with its edited copy."""
        return self._deal(rng, self.easy_edits if easy else self.plain_edits)

    def any_edit(self, rng: Random) -> tuple[Edit, tuple[int, int]]:
        """Some stored scene with its edited copy, of any kind of change."""
        return self._deal(rng, self.edits)

    def _deal(self, rng: Random, edits: list[StoredEdit]) -> tuple[Edit, tuple[int, int]]:
        i, j, kind, sentence = edits[int(rng.random() * len(edits))]
        return (self.truths[i], self.truths[j], kind, sentence), (i, j)  # type: ignore[return-value]

    def odd(self, rng: Random) -> tuple[Scene, int]:
        """Some stored scene one object of which differs from the others."""
        row = self.odd_ones[int(rng.random() * len(self.odd_ones))]
        truth = self.truths[row]
        assert isinstance(truth, Scene)
        return truth, row

    def plain(self, rng: Random) -> tuple[Scene, int]:
        """Some stored scene of one large object alone."""
        row = self.plain_ones[int(rng.random() * len(self.plain_ones))]
        truth = self.truths[row]
        assert isinstance(truth, Scene)
        return truth, row

    def outside(self, rng: Random) -> tuple[Outside, int]:
        """Some stored picture outside the small world; often a shape without a name, the nearest to it."""
        rows = self.unknown_ones if self.unknown_ones and rng.random() < 0.5 else self.outsiders
        row = rows[int(rng.random() * len(rows))]
        truth = self.truths[row]
        assert isinstance(truth, Outside)
        return truth, row


def _is_large(scene: Truth) -> bool:
    assert isinstance(scene, Scene)
    return scene.objects[0].size >= 0.3


def _has_odd_one(scene: Truth) -> bool:
    assert isinstance(scene, Scene)
    tallies = [Counter(t.shape for t in scene.objects), Counter(t.colour for t in scene.objects)]
    return any(sorted(tally.values()) == [1, len(scene.objects) - 1] for tally in tallies)


@torch.no_grad()
def fill_store(
    model: Idefics3ForConditionalGeneration,
    pool: Pool | None,
    folder: Path,
    part: int,
    *,
    n_parts: int = 1,
    n_scenes: int,
    n_alike: int,
    n_charts: int,
    n_edits: int,
    n_odd: int = 0,
    n_plain: int = 0,
    n_outside: int = 0,
    n_unknown: int = 0,
    changes: Sequence[str] = PLAIN_CHANGES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write one part of the feature store, unless it is there.

    Args:
        model: Its vision tower looks.
        pool: matplotlib's pictures; each part takes every `n_parts`-th.
        folder: Where `features_<part>.npy`, `pictures_<part>.npy` and their truths go.
        part: Number of this part; seeds it.
        n_parts: How many parts there are.
        n_scenes: Scenes to draw.
        n_alike: Scenes to draw whose objects are easily taken for each other.
        n_charts: Charts to draw with PIL.
        n_edits: Scenes to draw together with an edited copy.
        n_odd: Scenes to draw in which one object differs from the others.
        n_plain: Scenes to draw of one large object alone.
        n_outside: Pictures to draw that are not of the small world.
        n_unknown: Shapes without a name to draw beside these.
        changes: Kinds of change, drawn as often as each other where they are not the plain ones.
        progress: Gets the number of pictures done, and of all.
    """
    path = folder / f"features_{part}.npy"
    if path.exists():
        return
    rng = Random(f"store/{part}")
    truths: list[Truth] = []
    edits: list[tuple[int, int, str, str]] = []
    pooled = range(part, len(pool.truths), n_parts) if pool else range(0)
    truths += [pool.truths[i] for i in pooled] if pool else []
    truths += [
        plan_scene(rng, n_objects=rng.choices((0, 1, 2, 3, 4, 5, 6), (1.5, 20, 26, 24, 18, 7, 3.5))[0])
        for _ in range(n_scenes)
    ]
    truths += [_plan_alike(rng) for _ in range(n_alike)]
    truths += [plan_chart(rng) for _ in range(n_charts)]
    truths += [plan_odd(rng) for _ in range(n_odd)]
    truths += [plan_plain(rng) for _ in range(n_plain)]
    truths += [plan_outside(rng) for _ in range(n_outside)]
    truths += [plan_outside(rng, "unknown shape") for _ in range(n_unknown)]
    for _ in range(n_edits):
        before, after, kind, sentence = plan_edit(rng, kind=_some_change(rng, changes))
        edits.append((len(truths), len(truths) + 1, kind, sentence))
        truths += [before, after]
    weights = cast_weights(model, ("model.vision_model.",))
    device = next(model.parameters()).device
    config = model.config.vision_config
    patches = (config.image_size // config.patch_size) ** 2
    shape = (len(truths), patches, config.hidden_size)
    store = np.lib.format.open_memmap(folder / f"part_{part}.npy", "w+", np.int16, shape)
    side = (config.image_size, config.image_size, 3)
    drawn = np.lib.format.open_memmap(folder / f"pictures_{part}.npy", "w+", np.uint8, (len(truths), *side))
    size = 64
    for start in range(0, len(truths), size):
        some = range(start, min(start + size, len(truths)))
        squares = np.stack(
            [
                pool.pixels[pooled[i]]
                if pool and i < len(pooled)
                else np.asarray(to_square(truths[i].picture))
                for i in some
            ]
        )
        drawn[start : start + len(some)] = squares
        seen = see(weights, model.config, to_pixels(squares).to(device))  # (n, patches, D)
        store[start : start + len(some)] = seen.to("cpu", torch.bfloat16).view(torch.int16).numpy()
        progress(start + len(some), len(truths))
    store.flush()
    drawn.flush()
    path.with_suffix(".pickle").write_bytes(pickle.dumps((truths, edits)))
    (folder / f"part_{part}.npy").rename(path)


def _some_change(rng: Random, changes: Sequence[str]) -> str | None:
    """A kind of change; None where a pair's own shares shall rule."""
    return None if tuple(changes) == PLAIN_CHANGES else rng.choice(changes)


def _plan_alike(rng: Random) -> Scene:
    """A scene of three or four objects, two of one kind, or three of one shape or colour.

    Where objects are missed or counted twice, it is in these; chance makes one scene in twelve so.
    """
    while True:
        scene = plan_scene(rng, n_objects=3 if rng.random() < 0.68 else 4, distinct=False)
        kinds, shapes, colours = (
            max(Counter(words).values(), default=0)
            for words in (
                [thing.kind for thing in scene.objects],
                [thing.shape for thing in scene.objects],
                [thing.colour for thing in scene.objects],
            )
        )
        if len(scene.objects) >= 3 and (kinds >= 2 or shapes >= 3 or colours >= 3):
            return scene
