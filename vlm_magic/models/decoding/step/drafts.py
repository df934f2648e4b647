"""Guesses of the next few tokens, looked up in the conversation's own text, where they pay.

Captions, read text and JSON repeat themselves. What followed the last time that the newest three tokens stood
next to each other is a draft: our step computes it along with the newest token, for little more than that one
alone, and the loop takes of it what the model would have said anyway. So the answer is the same, token
by token. Whether it pays is measured while it runs: drafts that cost more than they gain are left out for a
while.

Knows token ids and seconds. Neighbour: `loop` asks for drafts and tells what became of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DRAFT_TOKENS", "Drafts", "Pay"]

DRAFT_TOKENS = 3  # with the newest one four: what the kernel computes with one reading of the weights
_KNOWN_BY = 3  # tokens in a row
_TRIALS = 4  # drafts before they are judged
_PAUSE = 96  # tokens without drafts, where they did not pay
_MEMORY = 0.8  # of what an average was, at each new value


@dataclass
class Pay:
    """What drafts cost and gave with one model, from answer to answer; running averages.

    Attributes:
        single_s: seconds of a step of one token.
        drafted_s: seconds of a step with a draft.
        gained: tokens that such a step gave.
        n_trials: drafts since the last judgement began.
        n_pause: tokens until the next try.
        n_accepted: drafted tokens that were said, ever.
    """

    single_s: float = 0.0
    drafted_s: float = 0.0
    gained: float = 1.0
    n_trials: int = 0
    n_pause: int = 0
    n_accepted: int = 0

    def is_worth_it(self) -> bool:
        """Whether the next step should have a draft; counts a pause down."""
        if self.n_pause:
            self.n_pause -= 1
            return False
        if self.n_trials >= _TRIALS and self.gained * self.single_s < self.drafted_s:
            self.n_trials, self.n_pause = 0, _PAUSE
            return False
        return self.single_s > 0

    def note_single(self, seconds: float) -> None:
        """A step of one token took so long."""
        self.single_s = _mean(self.single_s, seconds)

    def note_drafted(self, seconds: float, n_accepted: int) -> None:
        """A step with a draft took so long, and so many of its tokens were said."""
        self.drafted_s = _mean(self.drafted_s, seconds)
        self.gained = _MEMORY * self.gained + (1 - _MEMORY) * (1 + n_accepted)
        self.n_trials += 1
        self.n_accepted += n_accepted


def _mean(before: float, now: float) -> float:
    return now if before == 0 else _MEMORY * before + (1 - _MEMORY) * now


class Drafts:
    """The text so far, by what stood where.

    Args:
        ids: of the prompt.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where the text last went on after these tokens
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """The text goes on with this token."""
        ids = self._ids
        if len(ids) >= _KNOWN_BY:
            self._after[tuple(ids[-_KNOWN_BY:])] = len(ids)
        ids.append(token)

    def next(self, n_most: int) -> list[int]:
        """What may come next, at most so many tokens; empty where the newest ones are new together."""
        start = self._after.get(tuple(self._ids[-_KNOWN_BY:]))
        return [] if start is None else self._ids[start : start + min(n_most, DRAFT_TOKENS)]
