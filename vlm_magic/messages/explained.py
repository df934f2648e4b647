"""What looking at an answer from all sides found: one record for each view. Pure data.

Made by `vlm_magic.explain`, shown by `vlm_magic.outputs.explain`. Boxes are in pixels of the picture that
the person gave, ``(x0, y0, x1, y1)``, the right and lower edge left out; probabilities run from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from vlm_magic.messages.parts import Picture
from vlm_magic.messages.replies import Choice

__all__ = [
    "Box",
    "DeletionCurve",
    "LayerToken",
    "LayerWords",
    "NeededPart",
    "NeededParts",
    "PictureTokens",
    "PromptToken",
    "PromptTokens",
    "TokenKind",
    "TurnCost",
    "WindowSize",
    "WithoutPicture",
    "WordHold",
]

Box: TypeAlias = tuple[int, int, int, int]
TokenKind: TypeAlias = Literal["picture", "mark", "person", "model", "system", "template"]
"""What a token of a prompt is: a picture's, a mark around or between its parts, said by the person or by the
model, system text, or the template's own."""


@dataclass(frozen=True, slots=True)
class NeededPart:
    """A part of a picture without which the answer is another one.

    Attributes:
        picture: which picture it is a part of.
        box_px: where it lies in it.
        says: what the model says with this part hidden; "" where it was not asked.
        probability: of the answer with this part hidden.
        words: the words of the answer that lean on it.
        n_cells: cells along its side.
        choices: of a question with choices, each with its probability while this part is hidden.
    """

    picture: Picture
    box_px: Box
    says: str
    probability: float
    words: tuple[str, ...] = ()
    n_cells: int = 1
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class WindowSize:
    """What hiding windows of one size came to.

    Attributes:
        n_cells: cells along the window's side.
        n_windows: how many places it was laid on.
        n_changes: at how many of them the answer did not hold, under both fillings.
        lowest: the lowest probability of the answer at any of them.
    """

    n_cells: int
    n_windows: int
    n_changes: int
    lowest: float


@dataclass(frozen=True, slots=True)
class WordHold:
    """One word of the answer, and how well it holds when pictures are hidden.

    Attributes:
        text: the word as it was said.
        probability: with the pictures as they are.
        hidden: with all of their pixels hidden.
        leans: whether it loses at least half of its probability then.
    """

    text: str
    probability: float
    hidden: float
    leans: bool


@dataclass(frozen=True, slots=True)
class DeletionCurve:
    """The answer's probability while more and more cells are hidden: a check of the explanation itself.

    Attributes:
        hidden: the share of the cells that is hidden, from 0 to 1.
        by_need: the answer's probability when the cells that matter most are hidden first.
        at_random: the same in a random order, the mean of several.
    """

    hidden: tuple[float, ...]
    by_need: tuple[float, ...]
    at_random: tuple[float, ...]

    @property
    def area_by_need(self) -> float:
        """The area under `by_need`; the lower, the more faithful."""
        return _area(self.hidden, self.by_need)

    @property
    def area_at_random(self) -> float:
        """The area under `at_random`."""
        return _area(self.hidden, self.at_random)


def _area(xs: tuple[float, ...], ys: tuple[float, ...]) -> float:
    """By the trapezoidal rule."""
    return sum((xs[n + 1] - xs[n]) * (ys[n] + ys[n + 1]) / 2 for n in range(len(xs) - 1))


class NeededParts(tuple[NeededPart, ...]):
    """The parts that the answer hangs on, strongest first; empty where no single part decides.

    Attributes:
        answer: what was said.
        probability: of the answer with the pictures as they are.
        pictures: those that were looked at.
        sizes: what the windows of each size came to, the smallest first.
        words: each word of the answer.
        curve: the deletion curve; None where hiding everything leaves the answer.
        choices: of a question with choices, each with its probability.
        n_questions: how often the model was asked.
        seconds: how long that took.
        n_cells: cells that the pictures were cut into.
    """

    answer: str
    probability: float
    pictures: tuple[Picture, ...]
    sizes: tuple[WindowSize, ...]
    words: tuple[WordHold, ...]
    curve: DeletionCurve | None
    choices: tuple[Choice, ...]
    n_questions: int
    seconds: float
    n_cells: int

    def __new__(cls, parts: Iterable[NeededPart] = (), **facts: Any) -> NeededParts:
        """The parts, and what else was found, by the names above."""
        made = super().__new__(cls, parts)
        made.__dict__.update(facts)
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[tuple[NeededPart, ...]], dict[str, Any]]:
        return (tuple(self),), dict(self.__dict__)

    @property
    def leans_on_pictures(self) -> bool:
        """Whether any word of the answer changes when all pictures are hidden."""
        return any(word.leans for word in self.words)


@dataclass(frozen=True, slots=True)
class WithoutPicture:
    """The same question with other pictures, or with none.

    Attributes:
        shown: what the model was shown, in words: "as asked", "no picture", "a grey picture", ….
        says: what it answered; "" where it cannot be asked so.
        probability: of the answer that was given first; None where it cannot be asked so.
        picture: what it was shown in the picture's place, if anything.
        choices: of a question with choices, each with its probability.
        note: why it cannot be asked so, or "".
    """

    shown: str
    says: str
    probability: float | None
    picture: Picture | None = None
    choices: tuple[Choice, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of a prompt.

    Attributes:
        text: how it is written.
        token_id: its number.
        kind: what it is.
        picture: number of the picture that it belongs to; -1 for none.
    """

    text: str
    token_id: int
    kind: TokenKind
    picture: int = -1


@dataclass(frozen=True, slots=True)
class PictureTokens:
    """How one picture became tokens, as far as its processor tells.

    Attributes:
        picture: the picture.
        seen_px: (width, height) that the vision tower sees, of one tile where there are several; None where
            that is not told.
        tiles: (rows, columns) that it was cut into; (1, 1) for a whole one.
        n_tokens: tokens that stand for pixels.
        n_marks: tokens around and between them.
        patch_px: side of the patches that the tower reads; None where that is not told.
        cells: (rows, columns) of the tokens on the whole picture; None where tokens do not lie so.
        is_filled_up: whether it keeps its shape, and the rest of the square is nothing.
        n_seen: how many pictures the tower sees of it, tiles and the whole; None where that is not told.
        mixing: "places" where each token stands for a place, "queries" where each is drawn from the whole
            picture, "beside" where layers of their own look at it and a token only marks where it stands.
    """

    picture: Picture
    seen_px: tuple[int, int] | None
    tiles: tuple[int, int]
    n_tokens: int
    n_marks: int
    patch_px: int | None
    cells: tuple[int, int] | None
    is_filled_up: bool = False
    n_seen: int | None = None
    mixing: Literal["places", "queries", "beside"] = "places"


class PromptTokens(tuple[PromptToken, ...]):
    """A prompt token by token.

    Attributes:
        pictures: how each picture became tokens.
        context_tokens: the model's context; None where it does not say.
    """

    pictures: tuple[PictureTokens, ...]
    context_tokens: int | None

    def __new__(cls, tokens: Iterable[PromptToken] = (), **facts: Any) -> PromptTokens:
        """The tokens, and what else was found, by the names above."""
        made = super().__new__(cls, tokens)
        made.__dict__.update(facts)
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[tuple[PromptToken, ...]], dict[str, Any]]:
        return (tuple(self),), dict(self.__dict__)

    def count(self, kind: object) -> int:
        """How many tokens are of this kind."""
        return sum(token.kind == kind for token in self)


@dataclass(frozen=True, slots=True)
class TurnCost:
    """What one turn of a conversation cost.

    Attributes:
        turn: its id.
        question: its words, on one line.
        n_reused: prompt tokens that were not computed again.
        n_new_picture: computed ones that stand for pictures.
        n_new_text: the other computed ones.
        n_answer: tokens of the answer.
        prefill_s: seconds up to the first token.
        decode_s: seconds from then on.
        n_bytes: of keys and values for prompt and answer; None where nobody knows.
    """

    turn: str
    question: str
    n_reused: int
    n_new_picture: int
    n_new_text: int
    n_answer: int
    prefill_s: float
    decode_s: float
    n_bytes: int | None


@dataclass(frozen=True, slots=True)
class LayerToken:
    """What one layer would say at one place.

    Attributes:
        text: the token on top.
        probability: of it.
        said: the probability of the token that was said in the end.
        rank: the place of that token, 1 for the top.
    """

    text: str
    probability: float
    said: float
    rank: int


@dataclass(frozen=True, slots=True)
class LayerWords:
    """One token of the answer through the layers.

    Attributes:
        text: what it adds to the text.
        token_id: its number.
        layers: what each layer would say at its place, first to last.
    """

    text: str
    token_id: int
    layers: tuple[LayerToken, ...]

    @property
    def first_on_top(self) -> int | None:
        """The first layer, from 1, from which on it stays on top; None where it never is."""
        n = len(self.layers)
        while n and self.layers[n - 1].rank == 1:
            n -= 1
        return n + 1 if n < len(self.layers) else None
