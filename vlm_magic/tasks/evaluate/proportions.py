"""What can be said of a fraction that was measured: its interval, and whether two fractions differ.

Plain arithmetic on counts. Neighbour: `evaluated` has counts of answers.

Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference", for the interval;
McNemar 1947 with the exact binomial tail (Fagerland, Lydersen and Laake 2013, section 2) for the paired test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Proportion", "mcnemar_exact"]

_Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True, slots=True, repr=False)
class Proportion:
    """So many of so many.

    Attributes:
        n_right: those that are right.
        n: all of them.
    """

    n_right: int
    n: int

    @property
    def value(self) -> float:
        """The fraction; NaN of none."""
        return self.n_right / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, within [0, 1]: of a small sample it is wide, and never beyond 0 or 1."""
        if not self.n:
            return 0.0, 1.0
        n, share, z2 = self.n, self.value, _Z95**2
        centre = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
        low = 0.0 if self.n_right == 0 else max(0.0, centre - half)
        high = 1.0 if self.n_right == n else min(1.0, centre + half)
        return low, high

    def __str__(self) -> str:
        """``83.3 % right (50 of 60; 95 % interval 72.0 to 90.7 %)``."""
        if not self.n:
            return "no answer with a truth"
        low, high = self.interval
        return (
            f"{100 * self.value:.1f} % right ({self.n_right:,} of {self.n:,}; "
            f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
        )

    __repr__ = __str__


def mcnemar_exact(n_first_only: int, n_second_only: int) -> float:
    """How likely at least so lopsided a split is if both are equally good: the two-sided exact p-value.

    Args:
        n_first_only: questions that only the first one has right.
        n_second_only: questions that only the second one has right.
    """
    n = n_first_only + n_second_only
    tail = sum(math.comb(n, k) for k in range(min(n_first_only, n_second_only) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))
