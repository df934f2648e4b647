"""The loop: batches in a seeded order, a loss, a step; it can stop after any step and go on exactly there.

Knows tensors and optimisers, not where examples come from or how progress looks. Neighbours: `batch` makes
the inputs, `lesson` runs it in the model's own line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from vlm_magic.errors import PromptError
from vlm_magic.messages import Settings
from vlm_magic.models.caches.reuse import forget_positions
from vlm_magic.models.cpu_threads import useful_threads
from vlm_magic.models.loaded import Loaded
from vlm_magic.tasks.training.batch import Spans, labelled_batch
from vlm_magic.tasks.training.conversations import Dialogue

__all__ = ["Loop", "Recipe"]

_WARM_UP = 0.1  # of all steps
_MAX_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to learn.

    Attributes:
        steps: how many in all.
        batch_size: conversations of one step; half of them rehearsed ones, where there are such.
        learning_rate: the highest; it rises over the first tenth and falls to nothing along a cosine.
        seed: of the order of examples and of new weights.
    """

    steps: int
    batch_size: int
    learning_rate: float
    seed: int


class Loop:
    """Steps on a loaded model.

    Args:
        loaded: the model.
        weights: what is learned, by name.
        examples: the conversations to learn.
        rehearsal: conversations of what it knows already; () for none.
        recipe: how.
        settings: of the prompts: ``system``, ``continuation``, ``special_tokens``.

    Attributes:
        losses: of each step so far: mean negative log-likelihood of the answers' tokens, in nats.
        recipe: as given.
    """

    def __init__(
        self,
        loaded: Loaded,
        weights: Mapping[str, torch.nn.Parameter],
        examples: Sequence[Dialogue],
        rehearsal: Sequence[Dialogue],
        recipe: Recipe,
        settings: Settings,
    ) -> None:
        self._loaded = loaded
        self._weights = dict(weights)
        self._examples = list(examples)
        self._rehearsal = list(rehearsal)
        self._settings = settings
        self._spans: dict[int, Spans] = {}  # where each conversation's answers are: found once
        self.recipe = recipe
        self.losses: list[float] = []
        self._optimizer = torch.optim.AdamW(
            self._weights.values(), lr=recipe.learning_rate, weight_decay=0.0, foreach=False
        )

    def run(self, is_over: Callable[[], bool], on_step: Callable[[], None]) -> None:
        """Steps until all are done, or until ``is_over`` says so after one of them."""
        model = self._loaded.model
        model.train()
        try:
            with torch.enable_grad(), useful_threads(self._loaded), torch.random.fork_rng():
                while len(self.losses) < self.recipe.steps and not is_over():
                    self.losses.append(self._step(len(self.losses)))
                    on_step()
        finally:
            model.eval()
            self._optimizer.zero_grad(set_to_none=True)

    def _step(self, step: int) -> float:
        """One step on one batch: its loss."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # where a model drops out
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * self._share_of_rate(step)
        loss = self._backward(self._rows(step))
        torch.nn.utils.clip_grad_norm_(self._weights.values(), _MAX_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss

    def _backward(self, rows: Sequence[Dialogue]) -> float:
        """Gradients of a batch: in one pass, or row by row where the family cannot mix them."""
        if self._loaded.family.is_batchable:
            try:
                return self._backward_of(rows, 1.0)
            except PromptError:
                if len(rows) == 1:
                    raise
        return sum(self._backward_of([row], 1 / len(rows)) for row in rows)

    def _backward_of(self, rows: Sequence[Dialogue], share: float) -> float:
        forget_positions(self._loaded.model)
        batch = labelled_batch(self._loaded, rows, self._settings, known=self._spans)
        loss = self._loaded.model(**batch).loss * share  # () float
        loss.backward()
        return float(loss.detach())

    def _share_of_rate(self, step: int) -> float:
        n_rising = max(1, round(_WARM_UP * self.recipe.steps))
        if step < n_rising:
            return (step + 1) / n_rising
        return 0.5 * (1 + math.cos(math.pi * (step - n_rising) / max(1, self.recipe.steps - n_rising)))

    def _rows(self, step: int) -> list[Dialogue]:
        """The conversations of a step: every example once, then all again in another order."""
        n_old = self.recipe.batch_size // 2 if self._rehearsal else 0
        n_new = max(1, self.recipe.batch_size - n_old)
        return [
            *_in_turn(self._examples, step * n_new, n_new, self.recipe.seed),
            *_in_turn(self._rehearsal, step * n_old, n_old, self.recipe.seed + 1),
        ]

    # ---- what a folder keeps ---------------------------------------------------------------------------

    def follow(self, weights: Mapping[str, torch.nn.Parameter]) -> None:
        """The same weights are other tensors now: an adapter that was taken off and put on again."""
        for group in self._optimizer.param_groups:
            group["params"] = list(weights.values())
        moments = [self._optimizer.state.pop(self._weights[name], None) for name in weights]
        self._weights = dict(weights)
        for parameter, own in zip(weights.values(), moments, strict=True):
            if own is not None:
                self._optimizer.state[parameter] = own

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and the optimiser's two moments, by name."""
        tensors = {f"weight.{name}": p.detach() for name, p in self._weights.items()}
        for name, parameter in self._weights.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in self._optimizer.state[parameter]:
                    tensors[f"{moment}.{name}"] = self._optimizer.state[parameter][moment]
        return {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], losses: Sequence[float]) -> None:
        """Go on where another loop of the same recipe was."""
        self.losses = list(losses)
        with torch.no_grad():
            for name, parameter in self._weights.items():
                parameter.copy_(tensors[f"weight.{name}"])
                own: dict[str, Any] = {"step": torch.tensor(float(len(losses)))}
                for moment in ("exp_avg", "exp_avg_sq"):
                    own[moment] = tensors[f"{moment}.{name}"].to(parameter.device).clone()
                self._optimizer.state[parameter] = own


def _in_turn(items: Sequence[Dialogue], start: int, n: int, seed: int) -> list[Dialogue]:
    """The items number start, start + 1, … of an endless row of shuffled rounds."""
    found = []
    for place in range(start, start + n):
        round_, at = divmod(place, len(items))
        order = list(range(len(items)))
        Random(seed * 7919 + round_).shuffle(order)
        found.append(items[order[at]])
    return found
