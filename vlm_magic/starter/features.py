"""Between the stages: pictures for the second stage, and what the frozen tower sees in them.

`fill_store` draws and writes, `FeatureStore` reads and deals. Neighbours: `vision_stage` made the tower,
`batches` asks about the stored pictures.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlm_magic.starter.charts import Chart, plan_chart
from vlm_magic.starter.drawing import to_square
from vlm_magic.starter.edits import Edit, plan_edit
from vlm_magic.starter.network import cast_weights, see
from vlm_magic.starter.scenes import Scene, plan_scene
from vlm_magic.starter.vision_stage import Pool, Truth, to_pixels

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration

__all__ = ["FeatureStore", "fill_store"]

StoredEdit = tuple[int, int, str, str]


@dataclass(slots=True)
class FeatureStore:
    """Features of stored pictures, and their truths; deals them like a `dialogues.Deck`.

    Attributes:
        parts: Memory-mapped features, each (n, patches, width) int16 holding bfloat16.
        squares: Memory-mapped pictures, each (n, 96, 96, 3) uint8, for when the tower learns on.
        truths: One truth per row, over all parts.
        edits: (row before, row after, kind of change, sentence).
    """

    parts: list[np.ndarray[Any, np.dtype[np.int16]]]
    squares: list[np.ndarray[Any, np.dtype[np.uint8]]]
    truths: list[Scene | Chart]
    edits: list[StoredEdit]
    most: int = 6
    scenes: list[int] = field(init=False)
    charts: list[int] = field(init=False)
    easy_edits: list[StoredEdit] = field(init=False)

    def __post_init__(self) -> None:
        sizes = [len(t.objects) if isinstance(t, Scene) else 0 for t in self.truths]
        self.scenes = [i for i, t in enumerate(self.truths) if isinstance(t, Scene)]
        self.charts = [i for i, t in enumerate(self.truths) if isinstance(t, Chart)]
        self.easy_edits = [e for e in self.edits if max(sizes[e[0]], sizes[e[1]]) <= 2]

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
        size = len(self.parts[0])  # all parts but the last are of one size
        picked = np.stack([self.parts[r // size][r % size] for r in rows])
        return torch.from_numpy(picked).view(torch.bfloat16)

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """Some pictures, (n, 3, 96, 96) float32 as the processor normalises them."""
        size = len(self.squares[0])
        return to_pixels(np.stack([self.squares[r // size][r % size] for r in rows]))

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
        edits = self.easy_edits if easy else self.edits
        i, j, kind, sentence = edits[int(rng.random() * len(edits))]
        return (self.truths[i], self.truths[j], kind, sentence), (i, j)  # type: ignore[return-value]


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
    for _ in range(n_edits):
        before, after, kind, sentence = plan_edit(rng)
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
