"""Which part of a picture the answer hangs on, found by hiding parts and asking again.

First all pictures are hidden: words of the answer that hold then hang on no part. For the others a window is
laid over every place, of one cell, then of 2×2, 3×3 and 4×4, until one of them makes the word lose half of
its probability. The window must do so in the colour of the ground and in another one, so that a hole that
happens to look like something is not taken for a reason. No window may do so: then no single part decides.

Last the deletion curve: cells are hidden one after the other, those first that mattered most, and again in
random orders. An explanation that is true makes the answer fall sooner than chance. Knows no engine;
`asking` asks. Source of the curve: Petsiuk et al. 2018 (arXiv 1806.07421), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from vlm_magic.explain.asking import Asker, Held, swapped
from vlm_magic.explain.hiding import RGB, Cell, Grid, Window, ground_of, hidden, other_filling
from vlm_magic.messages import (
    DeletionCurve,
    NeededPart,
    NeededParts,
    Picture,
    Turn,
    WindowSize,
    WordHold,
)

__all__ = ["Search", "find_needed", "numbered_pictures"]

_SIDES = (1, 2, 3, 4)
_LOSES = 0.5  # of its probability: then a word does not hold
_MOST_CHECKED = 16  # windows of one size that are tried in the second colour
_MOST_PARTS = 6  # of one picture that are shown
_STEPS = (0, 1, 2, 3, 4, 6, 9, 13, 18, 25, 36)  # of 36 cells hidden, for the curve
_RANDOM_ORDERS = 3


@dataclass
class _Found:
    """A window and what hiding it came to.

    Attributes:
        held: the answer, with the window in the ground's colour.
        words: numbers of the words that do not hold.
    """

    n: int
    window: Window
    held: Held
    words: set[int] = field(default_factory=set)


@dataclass
class _Looked:
    """One picture that is looked at: its number in the prompt, its cells, its colours."""

    n: int
    picture: Picture
    grid: Grid
    ground: RGB
    other: RGB

    @classmethod
    def at(cls, n: int, picture: Picture) -> _Looked:
        ground = ground_of(picture.rgb)
        return cls(n, picture, Grid.of(picture), ground, other_filling(ground))

    def without(self, window: Window, colour: RGB) -> Picture:
        return hidden(self.picture, self.grid, self.grid.cells_of(window), colour)


def numbered_pictures(turns: Sequence[Turn]) -> dict[int, Picture]:
    """The pictures that an answer may hang on, by their number in the prompt.

    Those of the question; for a question without one those of the newest turn that has some.
    """
    n, found = 0, {}
    for turn in turns:
        if turn.pictures:
            found = dict(enumerate(turn.pictures, start=n))
            n += len(turn.pictures)
    return found


def find_needed(asker: Asker, *, with_curve: bool = True) -> NeededParts:
    """The parts that the answer hangs on.

    Args:
        asker: asks about the answer.
        with_curve: whether the deletion curve is measured, about forty more questions.
    """
    return Search(asker).find(with_curve=with_curve)


class Search:
    """The search in all pictures of one question.

    Args:
        asker: asks about the answer.

    Attributes:
        looked: the pictures that are looked at.
        sizes: what the windows of each size came to.
    """

    def __init__(self, asker: Asker) -> None:
        self.looked = [_Looked.at(n, picture) for n, picture in numbered_pictures(asker.turns).items()]
        self.sizes: list[WindowSize] = []
        self._asker = asker
        self._open: set[int] = set()  # words that lean on the pictures and have no window yet
        self._found: list[_Found] = []
        self._drops: dict[tuple[int, Cell], float] = {}  # how much hiding a cell cost at most, by size

    def find(self, *, with_curve: bool = True) -> NeededParts:
        """The parts that the answer hangs on; see `find_needed`."""
        asker, words = self._asker, self.hide_everything()
        self.lay_windows()
        parts = self.parts()
        curve = self.measure_curve() if with_curve and any(word.leans for word in words) else None
        return NeededParts(
            parts,
            answer=asker.answer,
            probability=asker.base.probability,
            pictures=tuple(looked.picture for looked in self.looked),
            sizes=tuple(self.sizes),
            words=words,
            curve=curve,
            choices=asker.base.choices,
            n_questions=asker.n_questions,
            seconds=asker.seconds,
            n_cells=self.n_cells,
        )

    @property
    def n_cells(self) -> int:
        """Cells of all pictures."""
        return sum(len(looked.grid.cells) for looked in self.looked)

    def hide_everything(self) -> tuple[WordHold, ...]:
        """Which words hold when all pictures are hidden; the others are looked for."""
        base = self._asker.base
        self._asker.n_expected = 2 + sum(
            len(looked.grid.windows(side)) for looked in self.looked for side in _SIDES[:2]
        )
        prompts = [
            swapped(
                self._asker.turns,
                {
                    looked.n: hidden(looked.picture, looked.grid, looked.grid.cells, colour)
                    for looked, colour in zip(self.looked, colours, strict=True)
                },
            )
            for colours in ([each.ground for each in self.looked], [each.other for each in self.looked])
        ]
        held = self._asker.ask(prompts)
        words = []
        for n, (text, p) in enumerate(zip(self._asker.words, base.units, strict=True)):
            rest = max(each.units[n] for each in held)
            words.append(WordHold(text, p, rest, rest <= _LOSES * p))
            if words[-1].leans:
                self._open.add(n)
        return tuple(words)

    def lay_windows(self) -> None:
        """Windows of one size after the other, until every word that leans has one."""
        for side in _SIDES:
            places = [(looked, window) for looked in self.looked for window in looked.grid.windows(side)]
            if not self._open or not places:
                return
            held = self._asker.ask([self._prompt(*place, place[0].ground) for place in places])
            for (looked, window), each in zip(places, held, strict=True):
                self._note(looked, window, each)
            found = self._confirmed(
                [
                    _Found(looked.n, window, each, self._lost(each))
                    for (looked, window), each in zip(places, held, strict=True)
                ]
            )
            lowest = min(each.probability for each in held)
            self.sizes.append(WindowSize(side, len(places), len(found), lowest))
            self._found += found
            self._open -= {word for each in found for word in each.words}

    def _prompt(self, looked: _Looked, window: Window, colour: RGB) -> tuple[Turn, ...]:
        return swapped(self._asker.turns, {looked.n: looked.without(window, colour)})

    def _lost(self, held: Held) -> set[int]:
        """Words that are still looked for and do not hold."""
        base = self._asker.base.units
        return {n for n in self._open if held.units[n] <= _LOSES * base[n]}

    def _confirmed(self, candidates: Sequence[_Found]) -> list[_Found]:
        """Those that make a word fall in the second colour as well."""
        falling = sorted((each for each in candidates if each.words), key=lambda each: each.held.probability)
        some = falling[:_MOST_CHECKED]
        by_n = {looked.n: looked for looked in self.looked}
        again = self._asker.ask(
            [self._prompt(by_n[each.n], each.window, by_n[each.n].other) for each in some]
        )
        for each, held in zip(some, again, strict=True):
            each.words &= self._lost(held)
        return [each for each in some if each.words]

    def _note(self, looked: _Looked, window: Window, held: Held) -> None:
        """What hiding a window cost is shared out among its cells; a small window says more of each."""
        base = self._asker.base.probability
        drop = max(0.0, 1 - held.probability / base) if base else 0.0
        cells = looked.grid.cells_of(window)
        for cell in cells:
            key = (looked.n, cell)
            self._drops[key] = self._drops.get(key, 0.0) + drop / len(cells)

    def parts(self) -> list[NeededPart]:
        """The windows that are shown: small ones first, then strong ones.

        One that overlaps another is left out, where its words fall with that one as well.
        """
        by_n = {looked.n: looked for looked in self.looked}
        base = self._asker.base.units
        kept: list[_Found] = []
        for each in sorted(self._found, key=lambda each: (each.window.side, each.held.probability)):
            others = [other for other in kept if other.n == each.n]
            left = set(each.words)
            for other in others:
                if other.window.overlaps(each.window):
                    fall = {n for n in left if other.held.units[n] <= _LOSES * base[n]}
                    other.words |= fall
                    left -= fall
            if left and len(others) < _MOST_PARTS:
                each.words = left
                kept.append(each)
        parts = []
        for each in kept:
            looked = by_n[each.n]
            says = self._asker.says(self._prompt(looked, each.window, looked.ground))
            parts.append(
                NeededPart(
                    looked.picture,
                    looked.grid.window_px(each.window),
                    says,
                    each.held.probability,
                    tuple(self._asker.words[n] for n in sorted(each.words)),
                    each.window.side,
                    each.held.choices,
                )
            )
        return parts

    def order(self) -> list[tuple[int, Cell]]:
        """All cells, those first whose hiding cost most."""
        cells = [(looked.n, cell) for looked in self.looked for cell in looked.grid.cells]
        return sorted(cells, key=lambda cell: -self._drops.get(cell, 0.0))

    def measure_curve(self) -> DeletionCurve:
        """How fast the answer falls when cells are hidden in the order found, and in random orders."""
        order = self.order()
        steps = sorted({round(step * len(order) / 36) for step in _STEPS})
        orders = [order]
        for seed in range(_RANDOM_ORDERS):
            orders.append(Random(seed).sample(order, len(order)))
        prompts = [self._with_hidden(each[:step]) for each in orders for step in steps]
        held = [each.probability for each in self._asker.ask(prompts)]
        rows = [held[n * len(steps) : (n + 1) * len(steps)] for n in range(len(orders))]
        at_random = tuple(sum(each) / _RANDOM_ORDERS for each in zip(*rows[1:], strict=True))
        return DeletionCurve(tuple(step / len(order) for step in steps), tuple(rows[0]), at_random)

    def _with_hidden(self, cells: Sequence[tuple[int, Cell]]) -> tuple[Turn, ...]:
        changed: dict[int, Picture | None] = {}
        for looked in self.looked:
            own = [cell for n, cell in cells if n == looked.n]
            if own:
                changed[looked.n] = hidden(looked.picture, looked.grid, own, looked.ground)
        return swapped(self._asker.turns, changed)
