"""How far probabilities can be believed: bins of confidence, expected calibration error, its diagram.

A model is calibrated if, of all answers that it gives with probability p, the fraction p is right.

Knows numbers alone; matplotlib only to draw. Neighbour: `choices` has answers to measure.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599), section 2:
bins ((m−1)/M, m/M], acc(B) and conf(B) of each, ECE = Σ_m |B_m|/n · |acc(B_m) − conf(B_m)| (equation 3),
MCE = max_m |acc(B_m) − conf(B_m)| (equation 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm_magic.errors import OptionError

__all__ = ["Bin", "Calibration", "calibrate"]


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers of one interval of confidence.

    Attributes:
        low: its lower end, not part of it (but 0 is of the first).
        high: its upper end, part of it.
        n: how many answers.
        confidence: their mean probability; NaN for an empty bin.
        accuracy: the fraction of them that is right; NaN for an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float

    @property
    def gap(self) -> float:
        """How far accuracy and confidence are apart; 0 for an empty bin."""
        return abs(self.accuracy - self.confidence) if self.n else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Confidence against accuracy.

    Attributes:
        bins: from 0 to 1, of equal width.
    """

    bins: tuple[Bin, ...]

    @property
    def n(self) -> int:
        """How many answers."""
        return sum(each.n for each in self.bins)

    @property
    def expected_error(self) -> float:
        """The expected calibration error (ECE), 0 for a calibrated model."""
        return sum(each.n * each.gap for each in self.bins) / self.n

    @property
    def maximum_error(self) -> float:
        """The gap of the worst bin (MCE)."""
        return max(each.gap for each in self.bins)

    def plot(self, ax: Any = None) -> Any:
        """Draw the reliability diagram: accuracy over confidence, with how many answers there are.

        Args:
            ax: matplotlib axes; those of a new figure, which a notebook shows, if not given.

        Returns:
            The axes.

        Raises:
            OptionError: matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError:
                raise OptionError(
                    "a reliability diagram needs matplotlib, and it is not installed",
                    have=".bins and .expected_error work without it",
                    hint="pip install matplotlib",
                ) from None
            _, ax = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
        filled = [each for each in self.bins if each.n]
        width = self.bins[0].high - self.bins[0].low
        middles = [(each.low + each.high) / 2 for each in filled]
        most = max(each.n for each in filled)
        ax.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color="grey", label="calibrated")
        bars = ax.bar(middles, [each.accuracy for each in filled], width=0.94 * width, label="accuracy")
        for each, bar in zip(filled, bars, strict=True):  # faint where few answers stand behind it
            bar.set_alpha(0.35 + 0.65 * each.n / most)
        ax.plot(
            [each.confidence for each in filled],
            [each.accuracy for each in filled],
            linestyle="none",
            marker="o",
            markersize=4,
            color="black",
            label="mean confidence",
        )
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="probability of the answer", ylabel="fraction right")
        ax.set_title(f"{self.n} answers, expected calibration error {self.expected_error:.3f}", fontsize=10)
        ax.legend(loc="upper left", fontsize=8, frameon=False)
        return ax


def calibrate(confidences: Sequence[float], right: Sequence[bool], *, n_bins: int = 15) -> Calibration:
    """Sort answers into bins of confidence.

    Args:
        confidences: the probability that each answer was given with, from 0 to 1.
        right: whether it was right.
        n_bins: M, of equal width.

    Raises:
        OptionError: no answers, a probability outside [0, 1], or other than one verdict for each.
    """
    if not confidences or len(confidences) != len(right):
        raise OptionError(
            "calibration needs a verdict for every answer",
            have=f"{len(confidences)} probabilities, {len(right)} verdicts",
        )
    if n_bins < 1 or any(not 0 <= value <= 1 for value in confidences):
        raise OptionError("probabilities are from 0 to 1, bins at least one", have=f"n_bins={n_bins}")
    members: list[list[int]] = [[] for _ in range(n_bins)]
    for n, value in enumerate(confidences):
        members[min(n_bins - 1, max(0, math.ceil(value * n_bins) - 1))].append(n)
    bins = []
    for m, held in enumerate(members):
        confidence = sum(confidences[n] for n in held) / len(held) if held else math.nan
        accuracy = sum(bool(right[n]) for n in held) / len(held) if held else math.nan
        bins.append(Bin(m / n_bins, (m + 1) / n_bins, len(held), confidence, accuracy))
    return Calibration(tuple(bins))
