"""Training stage 1: the vision tower and the connector learn to say what stands in each cell.

A linear head on the connector's 36 cells names the object whose centre lies in a cell (a bar counts where its
top is), its colour, place and size, the background and the cell's own place. The head is thrown away
afterwards: what it read out linearly is what the language model finds there. Knows nothing of language.

Neighbours: `world/` draws, `network` computes, `recipe` optimises.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vlm_magic.starter.making.training.network import cast_weights, connect, see
from vlm_magic.starter.making.training.recipe import Trainer, n_ranks, rank, step_rng
from vlm_magic.starter.making.world.charts import Chart, make_chart, make_plot, plan_chart
from vlm_magic.starter.making.world.drawing import to_square
from vlm_magic.starter.making.world.outside import Outside
from vlm_magic.starter.making.world.palette import BACKGROUNDS, COLOURS, SHAPES
from vlm_magic.starter.making.world.scenes import Scene, plan_scene

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration

__all__ = [
    "Pool",
    "build_head",
    "draw_batch",
    "fill_pool",
    "head_loss",
    "head_report",
    "targets_of",
    "train_vision",
]

SIDE = 6  # cells per side
KINDS = ("nothing", *SHAPES, "bar")
_PARTS = {
    "kind": len(KINDS),
    "colour": len(COLOURS),
    "box": 4,
    "background": len(BACKGROUNDS),
    "row": SIDE,
    "column": SIDE,
}

Truth = Scene | Chart | Outside


@dataclass(slots=True)
class Pool:
    """Pictures that matplotlib drew beforehand, scaled to (n, 96, 96, 3) uint8, and their truths."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    truths: list[Truth]

    @classmethod
    def load(cls, folder: Path) -> Pool:
        """Read all parts of a pool in a folder."""
        pixels, truths = [], []
        for path in sorted(folder.glob("pool_*.npy")):
            pixels.append(np.load(path))
            truths += pickle.loads(path.with_suffix(".pickle").read_bytes())  # our own file
        return cls(np.concatenate(pixels), truths)


def fill_pool(folder: Path, part: int, n: int, progress: Callable[[int], None] = lambda done: None) -> None:
    """Draw one part of the pool, half charts and half plots, and write it."""
    path = folder / f"pool_{part}.npy"
    if path.exists():
        return
    pixels, truths = np.zeros((n, 96, 96, 3), np.uint8), []
    for i in range(n):
        seed = 10_000_000 + part * 1_000_000 + i
        truth: Scene | Chart = make_chart(seed) if i % 2 else make_plot(seed)
        pixels[i] = np.asarray(to_square(truth.picture))
        truths.append(replace(truth, drawn=None))
        progress(i)
    folder.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".pickle").write_bytes(pickle.dumps(truths))
    np.save(path, pixels)


def draw_one(rng: Random, pool: Pool | None) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], Truth]:
    """One picture of the stage's mixture, as (96, 96, 3) uint8, and its truth."""
    draw = rng.random()
    if pool is not None and draw < 0.2:
        i = rng.randrange(len(pool.truths))
        return pool.pixels[i], pool.truths[i]
    truth: Truth
    if draw < 0.29:
        truth = plan_chart(rng)
    else:
        truth = plan_scene(rng, n_objects=rng.choices((0, 1, 2, 3, 4, 5, 6), (1, 12, 22, 26, 24, 10, 5))[0])
    return np.asarray(to_square(truth.picture)), truth


def draw_batch(rng: Random, pool: Pool | None, n: int) -> tuple[Tensor, list[Truth]]:
    """Draw a batch: pixels (N, 3, 96, 96) float32 as the processor normalises them, and the truths."""
    drawn = [draw_one(rng, pool) for _ in range(n)]
    return to_pixels(np.stack([pixels for pixels, _ in drawn])), [truth for _, truth in drawn]


def to_pixels(squares: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """(N, 96, 96, 3) uint8 to (N, 3, 96, 96) float32 in -1 to 1."""
    return torch.from_numpy(squares.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def targets_of(truths: Sequence[Truth]) -> dict[str, Tensor]:
    """What the head should say: integer classes (N, 36), boxes (N, 36, 4), backgrounds (N,)."""
    n = len(truths)
    kind = torch.zeros(n, SIDE * SIDE, dtype=torch.long)
    colour = torch.full((n, SIDE * SIDE), -100)
    box = torch.zeros(n, SIDE * SIDE, 4)
    ground = torch.zeros(n, dtype=torch.long)
    for i, truth in enumerate(truths):
        if isinstance(truth, Outside):
            raise ValueError("a picture outside the small world has no cells")
        if isinstance(truth, Chart):
            marks = [("bar", b.colour, b.x, b.top, b.w, b.base - b.top) for b in truth.bars]
            ground[i] = BACKGROUNDS.index("white")
        else:
            marks = [(t.shape, t.colour, t.x, t.y, t.w, t.h) for t in truth.objects]
            ground[i] = BACKGROUNDS.index(truth.background)
        for shape, name, x, y, w, h in marks:
            column, row = min(SIDE - 1, int(x * SIDE)), min(SIDE - 1, max(0, int(y * SIDE)))
            cell = row * SIDE + column
            kind[i, cell] = KINDS.index(shape)
            colour[i, cell] = COLOURS.index(name)
            box[i, cell] = torch.tensor([x * SIDE - column - 0.5, y * SIDE - row - 0.5, w * 3, h * 3])
    return {"kind": kind, "colour": colour, "box": box, "background": ground}


def build_head(model: Idefics3ForConditionalGeneration) -> nn.Linear:
    """A fresh linear head on the connector's cells, on the model's device."""
    torch.manual_seed(1)
    head = nn.Linear(model.config.text_config.hidden_size, sum(_PARTS.values()))
    return head.to(next(model.parameters()).device)


def head_loss(outputs: Tensor, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the parts' losses, and the head's outputs by part."""
    parts = dict(
        zip(_PARTS, torch.split(outputs.float(), list(_PARTS.values()), -1), strict=True)
    )  # (N, 36, ...)
    n, cells = targets["kind"].shape
    busy = targets["kind"] > 0
    places = torch.arange(cells, device=outputs.device).expand(n, cells)
    flat = {name: part.flatten(0, 1) for name, part in parts.items()}
    kind = F.cross_entropy(flat["kind"], targets["kind"].flatten(), reduction="none")
    weight = torch.where(busy.flatten(), 4.0, 1.0)
    loss = (kind * weight).sum() / weight.sum() * 3
    loss = loss + F.cross_entropy(flat["colour"], targets["colour"].flatten(), ignore_index=-100)
    loss = loss + F.smooth_l1_loss(parts["box"][busy], targets["box"][busy], beta=0.1) * 4
    ground = targets["background"][:, None].expand(n, cells).flatten()
    loss = loss + 0.3 * F.cross_entropy(flat["background"], ground)
    loss = loss + 0.1 * F.cross_entropy(flat["row"], (places // SIDE).flatten())
    loss = loss + 0.1 * F.cross_entropy(flat["column"], (places % SIDE).flatten())
    return loss, parts


def head_report(parts: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy by part on one batch."""
    busy = targets["kind"] > 0
    kinds = parts["kind"].argmax(-1)
    scene = busy & (targets["kind"] < len(KINDS) - 1)
    right = (kinds == targets["kind"])[scene].float().mean()
    occupied = ((kinds > 0) == busy).all(-1).float().mean()
    colour = (parts["colour"].argmax(-1) == targets["colour"])[busy].float().mean()
    offset = (parts["box"][busy] - targets["box"][busy]).abs().mean(0)
    ground = (parts["background"].mean(1).argmax(-1) == targets["background"]).float().mean()
    return {
        "shape": float(right),
        "whole picture's cells": float(occupied),
        "colour": float(colour),
        "background": float(ground),
        "xy error px": float(offset[:2].mean()) * 16,
        "size error px": float(offset[2:].mean()) * 32,
    }


def train_vision(
    model: Idefics3ForConditionalGeneration,
    pool: Pool | None,
    folder: Path,
    *,
    n_steps: int,
    batch_size: int = 32,
    lr: float = 0.003,
    log: Callable[[str], None] = print,
    tick: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train tower and connector; resumes from `folder/vision.pt`.

    Returns:
        The losses of the steps that this call made.
    """
    device = next(model.parameters()).device
    head = build_head(model)
    seen = ("model.vision_model.", "model.connector.")
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(seen)]
    # the patch kernel is a matrix too, but Muon takes only two dimensions: AdamW has it
    trainer = Trainer(
        [*named, *((f"head.{n}", p) for n, p in head.named_parameters())], lr=lr, n_steps=n_steps
    )
    modules = {"tower": model.model.vision_model, "connector": model.model.connector, "head": head}
    path = folder / "vision.pt"
    trainer.resume(path, **modules)
    losses, began = [], time.perf_counter()
    while trainer.step < n_steps:
        pixels, truths = draw_batch(step_rng("vision", trainer.step), pool, batch_size)
        targets = {k: v.to(device) for k, v in targets_of(truths).items()}
        weights = cast_weights(model, seen)
        cells = connect(weights, model.config, see(weights, model.config, pixels.to(device)))
        loss, parts = head_loss(head(cells.float()), targets)
        trainer.update(loss)
        losses.append(float(loss.detach()))
        tick(trainer.step, losses[-1])
        if trainer.step % 250 == 0 and rank() == 0:
            report = " ".join(f"{k} {v:.3f}" for k, v in head_report(parts, targets).items())
            rate = len(losses) * batch_size * n_ranks() / (time.perf_counter() - began)
            log(
                f"vision {trainer.step}: loss {sum(losses[-250:]) / len(losses[-250:]):.3f} {report} "
                f"({rate:.0f} pictures/s)"
            )
            trainer.save(path, **modules)
    if losses:
        trainer.save(path, **modules)
    return losses
