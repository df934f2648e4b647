"""What was measured of one skill, its interval, and how far its probabilities can be trusted.

Neighbours: `evaluate` fills it in, `card` writes it down.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Result", "calibration"]


@dataclass(slots=True)
class Result:
    """What was measured of one skill."""

    name: str
    target: float
    n_right: int = 0
    n: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)
    """(question, right answer, given answer)."""
    cases: list[tuple[int, int, bool]] = field(default_factory=list)
    """(objects on the first picture, its longer side in pixels, right or not)."""
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(right answer, given answer)."""
    confidences: list[tuple[float, bool]] = field(default_factory=list)
    """(probability of the answer that was given, right or not)."""
    kinds: dict[str, list[bool]] = field(default_factory=dict)
    """Right or not, by the finer skill of the turn ("difference: colour")."""

    @property
    def accuracy(self) -> float:
        """Fraction that was right."""
        return self.n_right / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy lies with 95 % probability (Wilson's interval)."""
        z, n, p = 1.96, max(1, self.n), self.accuracy
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)


def calibration(confidences: Iterable[tuple[float, bool]], n_bins: int = 10) -> tuple[float, float]:
    """How far probabilities can be trusted.

    Args:
        confidences: (probability of the given answer, whether it was right).
        n_bins: Bins of equal width.

    Returns:
        The expected calibration error (Guo et al. 2017, equation 3), and wrong answers' mean probability.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, right in confidences:
        bins.setdefault(min(n_bins - 1, int(p * n_bins)), []).append((p, right))
    total = sum(map(len, bins.values()))
    gaps = [abs(sum(p - right for p, right in some)) for some in bins.values()]
    wrong = [p for some in bins.values() for p, right in some if not right]
    return sum(gaps) / max(1, total), sum(wrong) / max(1, len(wrong))
