"""What both training stages share: optimisers, ranks, checkpoints.

Knows nothing of what is trained. Neighbours: `vision_stage` and `text_stage`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Trainer", "n_ranks", "rank", "step_rng"]


def rank() -> int:
    """Which process this is, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def n_ranks() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def step_rng(stage: str, step: int) -> random.Random:
    """The random numbers of one step on one rank: a resumed run draws what an unbroken one would have."""
    return random.Random(f"{stage}/{step}/{rank()}")


class Trainer:
    """Muon on the matrices, AdamW on embeddings, norms and biases; one cosine over a fixed number of steps.

    Muon and not AdamW throughout: at equal CPU seconds it learned what AdamW had not begun to (measured).

    With a `horizon` it keeps the exponential mean of the parameters over that many steps: what small batches
    push to and fro cancels out in it, which halved the loss in the middle of a run (measured).
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        n_steps: int,
        rest_lr: float = 2e-3,
        warmup: int = 100,
        horizon: int = 0,
    ):
        named = [(name, p) for name, p in parameters if p.requires_grad]
        self.parameters: list[Tensor] = [p for _, p in named]
        matrices = [
            p for name, p in named if p.ndim == 2 and "embed" not in name and not name.startswith("head")
        ]
        chosen = {id(p) for p in matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self.n_steps, self.warmup, self.step = n_steps, warmup, 0
        muon = torch.optim.Muon(
            matrices, lr=lr, momentum=0.95, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        )
        adam = torch.optim.AdamW(rest, lr=rest_lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.optimisers: list[torch.optim.Optimizer] = [muon, adam]
        self._base = [lr, rest_lr]
        self.horizon = horizon
        self.mean = [p.detach().clone() for p in self.parameters] if horizon else []

    def scale(self) -> float:
        """Learning rate of this step as a fraction of the highest."""
        if self.step < self.warmup:
            return (self.step + 1) / self.warmup
        done = (self.step - self.warmup) / max(1, self.n_steps - self.warmup)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def update(self, loss: Tensor) -> None:
        """Backpropagate, average over ranks, clip, step."""
        loss.backward()  # type: ignore[no-untyped-call]
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        if n_ranks() > 1:
            flat = torch.cat([g.reshape(-1) for g in grads])
            dist.all_reduce(flat)
            flat /= n_ranks()
            for p, part in zip(self.parameters, torch.split(flat, [g.numel() for g in grads]), strict=True):
                p.grad = part.view_as(p)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser, base in zip(self.optimisers, self._base, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = base * self.scale()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.horizon:
            torch._foreach_lerp_(self.mean, self.parameters, 1 / min(self.step, self.horizon))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts, the parameters are their mean, if there is one."""
        learned = [p.detach().clone() for p in self.parameters]
        self.settle()
        yield
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, learned)

    def settle(self) -> None:
        """Replace the parameters by their mean, if there is one."""
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.mean or self.parameters)

    def save(self, path: Path, **modules: nn.Module) -> None:
        """Write a checkpoint (rank 0 only), whole or not at all."""
        if rank() == 0:
            state: dict[str, Any] = {name: module.state_dict() for name, module in modules.items()}
            state["optimisers"] = [o.state_dict() for o in self.optimisers]
            state["step"], state["mean"] = self.step, self.mean
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)

    def resume(self, path: Path, **modules: nn.Module) -> bool:
        """Take up a checkpoint if there is one."""
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        for name, module in modules.items():
            module.load_state_dict(state[name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        for mean, saved in zip(self.mean, state["mean"], strict=True):
            mean.copy_(saved)
        return True
