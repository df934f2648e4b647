"""Training stage 2: the language model learns to answer, on stored features of a frozen vision tower.

At the end tower and language model may learn on together, from the stored pictures themselves: a tower that
was only asked what stands in each cell leaves an object between two cells to either or both, and no reader
can make up for that.

Every step words fresh questions about stored pictures. Questions that come after a picture share that picture
as the prefix of a tree, which costs a third of asking one by one. Knows nothing of drawing.

Neighbours: `batches` words and pads, `network` computes, `recipe` optimises, `vision_stage` made the tower.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vlm_magic.starter.making.training.batches import MIXES, Mix, Scribe, make_batch
from vlm_magic.starter.making.training.features import FeatureStore
from vlm_magic.starter.making.training.network import TreeBatch, cast_weights, connect, see, tree_logits
from vlm_magic.starter.making.training.recipe import Trainer, n_ranks, rank, step_rng
from vlm_magic.starter.making.training.vision_stage import build_head, head_loss, targets_of
from vlm_magic.starter.making.world.outside import Outside

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

__all__ = ["Tally", "train_text"]


class Tally:
    """Running accuracy by skill: all tokens of an answer right, given the right ones before."""

    def __init__(self) -> None:
        self.value: dict[str, tuple[float, float]] = {}

    def add(self, batch: TreeBatch, right: Tensor) -> None:
        """Count a batch; `right` (M,) tells for each labelled token whether it was predicted."""
        b, k, t = batch.branch.shape
        owner = batch.labelled.reshape(-1).nonzero().squeeze(1) // t
        wrong = torch.zeros(b * k, dtype=torch.long, device=owner.device).index_add(0, owner, (~right).long())
        for skill, ok in zip((s for row in batch.skills for s in row), (wrong == 0).tolist(), strict=True):
            done, seen = self.value.get(skill, (0.0, 0.0))
            self.value[skill] = (done * 0.985 + ok, seen * 0.985 + 1)

    def __str__(self) -> str:
        return ", ".join(f"{k} {d / n:.2f}" for k, (d, n) in sorted(self.value.items()))


_HEAD_SHARE = 0.1
_HEAD_ALONE = 200  # steps in which a fresh head learns to read before the tower hears of it


def _head_loss(
    head: nn.Linear, connected: Tensor, store: FeatureStore, rows: Sequence[int], step: int
) -> Tensor:
    """What the tower's head makes of the batch's pictures, (n, cells, D)."""
    inside = [i for i, row in enumerate(rows) if not isinstance(store.truths[row], Outside)]
    rows = [rows[i] for i in inside]
    if not rows:
        return connected.sum() * 0.0
    cells = connected[inside].float()
    outputs = head(cells.detach() if step < _HEAD_ALONE else cells)
    targets = targets_of([store.truths[row] for row in rows])
    return head_loss(outputs, {k: v.to(outputs.device) for k, v in targets.items()})[0]


def train_text(
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    store: FeatureStore,
    path: Path,
    *,
    n_steps: int,
    mixes: Sequence[tuple[float, Mix]] = MIXES,
    batches: Callable[..., TreeBatch] = make_batch,
    lr: float = 0.002,
    rest_lr: float = 0.002,
    with_tower: bool = False,
    horizon: int = 0,
    small: bool = False,
    stage: str = "text",
    save_every: int = 500,
    log: Callable[[str], None] = print,
    tick: Callable[[int, float], None] = lambda step, loss: None,
    on_save: Callable[[], None] = lambda: None,
) -> list[float]:
    """Train language model and connector; resumes from `path`.

    Args:
        model: Its vision tower stays as it is, unless `with_tower`.
        tokenizer: Of the model.
        store: Features of that tower, and the pictures.
        path: Checkpoint file.
        n_steps: Steps in all, over which the learning rate falls.
        mixes: (fraction of the steps until which, mixture).
        batches: Draws a batch from a mixture, called as `make_batch`.
        lr: Highest learning rate of the matrices.
        rest_lr: Highest learning rate of embeddings, norms and biases.
        with_tower: The vision tower learns too; a head like that of its own stage, thrown away afterwards,
            keeps asking what stands in each cell.
        horizon: Steps over which the parameters are averaged; saved weights are then their mean, and so is
            the model at the end.
        small: Tiny batches, for smoke runs.
        stage: Name that seeds the stage's random numbers.
        save_every: Steps between checkpoints.
        log: Gets a line now and then.
        tick: Gets step and loss after every step.
        on_save: Called after each checkpoint, on rank 0.

    Returns:
        The losses of the steps that this call made.
    """
    device = next(model.parameters()).device
    scribe, tally = Scribe(tokenizer), Tally()
    trained: tuple[str, ...] = ("model.text_model.", "model.connector.")
    modules: dict[str, nn.Module] = {"text": model.model.text_model, "connector": model.model.connector}
    head: nn.Linear | None = None
    if with_tower:
        trained += ("model.vision_model.",)
        head = build_head(model)
        modules |= {"tower": model.model.vision_model, "head": head}
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(trained)]
    if head is not None:
        named += [(f"head.{n}", p) for n, p in head.named_parameters()]
    trainer = Trainer(named, lr=lr, n_steps=n_steps, rest_lr=rest_lr, horizon=horizon)
    trainer.resume(path, **modules)
    losses: list[float] = []
    began, n_asked = time.perf_counter(), 0
    while trainer.step < n_steps:
        mix = next(m for until, m in mixes if trainer.step <= until * n_steps)
        batch = batches(step_rng(stage, trainer.step), scribe, store, mix, small=small)
        weights = cast_weights(model, trained)
        rows = batch.pictures.tolist()
        cells = torch.zeros(0, model.config.text_config.hidden_size, device=device)
        if rows:
            # each stored picture is looked at once, however often the batch shows it
            unique = sorted(set(rows))
            features = (
                see(weights, model.config, store.pixels(unique).to(device))
                if with_tower
                else store.features(unique).to(device)
            )
            connected = connect(weights, model.config, features)
            cells = connected[torch.tensor([unique.index(r) for r in rows])]
        batch = batch.to(device)
        logits, targets = tree_logits(weights, model.config, batch, cells)
        loss = F.cross_entropy(logits.float(), targets)
        tally.add(batch, logits.detach().argmax(-1) == targets)
        losses.append(float(loss.detach()))
        if head is not None and rows:
            loss = loss + _HEAD_SHARE * _head_loss(head, connected, store, unique, trainer.step)
        trainer.update(loss)
        n_asked += batch.branch.shape[0] * batch.branch.shape[1]
        tick(trainer.step, losses[-1])
        if trainer.step % 100 == 0 and rank() == 0:
            rate = n_asked * n_ranks() / (time.perf_counter() - began)
            mean = sum(losses[-100:]) / len(losses[-100:])
            log(f"{stage} {trainer.step}/{n_steps}: loss {mean:.3f} ({rate:.0f} answers/s) {tally}")
        if trainer.step % save_every == 0 or trainer.step == n_steps:
            trainer.save(path, **modules)
            if rank() == 0:
                with trainer.averaged():
                    on_save()
    trainer.settle()
    return losses
