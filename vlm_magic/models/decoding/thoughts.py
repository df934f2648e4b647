"""Tell a thought from the answer behind it, token by token, and end a thought that is long enough.

`Teller` reads what a model says: inside the marks it is thought, behind them it is the answer. `ThoughtGuide`
steers: it closes a thought at its limit, and lets a grammar begin where the answer begins. Marks that are
single tokens are known by their id, others by their letters.

Knows marks and tokens; knows nothing of prompts. Neighbours: `detokenizer` makes text, `single`, `batch` and
`shared_batch` read answers here, `prompts.thinking` finds the marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from vlm_magic.messages import Settings
from vlm_magic.models.decoding.detokenizer import Detokenizer
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.thinking import is_open, marks_of, thinks

__all__ = ["Teller", "ThoughtGuide", "thought_guides"]


class Teller:
    """Turns a growing list of token ids into the words of a thought and those of an answer.

    Args:
        loaded: the model.
        settings: ``stop`` strings end the answer, not the thought.
        prompt: the rendered prompt, which may have opened a thought.

    Attributes:
        ids: all ids so far, marks among them.
        n_thinking: how many of them are the thought's, its marks included.
    """

    def __init__(self, loaded: Loaded, settings: Settings, prompt: str) -> None:
        marks = marks_of(loaded)
        strip = not settings.continuation
        self.ids: list[int] = []
        self.n_thinking = 0
        self._marks = marks
        self._opening_id = loaded.control.added.get(marks.opening)
        self._closing_id = loaded.control.added.get(marks.closing)
        self._answer = Detokenizer(loaded.tokenizer, stop=settings.stop, strip=strip)
        by_letters = () if self._closing_id is not None else (marks.closing,)
        self._thought = Detokenizer(loaded.tokenizer, stop=by_letters)
        self._start = Detokenizer(loaded.tokenizer)  # of what may be an opening mark in letters
        self._held: list[int] = []
        self._label_left = marks.label
        self._thinking: list[str] = []
        can_think = not settings.continuation
        self._state = (
            "thought" if can_think and is_open(prompt, marks) else "start" if can_think else "answer"
        )

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._answer.text

    @property
    def thinking(self) -> str:
        """The thought so far."""
        return "".join(self._thinking)

    @property
    def is_stopped(self) -> bool:
        """A stop string was met; nothing more comes."""
        return self._answer.is_stopped

    def add(self, token_id: int) -> tuple[str, str]:
        """(words of the answer, words of the thought) that this token completes, possibly none."""
        self.ids.append(token_id)
        if self._state == "start":
            return self._begin(token_id), ""
        if self._state == "thought":
            self.n_thinking += 1
            return "", self._think(token_id)
        return self._answer.add(token_id), ""

    def finish(self) -> tuple[str, str]:
        """What was held back, now that nothing follows."""
        thought = ""
        if self._state == "thought":
            thought = self._shown(self._thought.finish(), is_last=True)
        answer = "".join(self._answer.add(held) for held in self._held)
        self._held = []
        return answer + self._answer.finish(), thought

    def _begin(self, token_id: int) -> str:
        """Before the first word it is open whether a thought comes: blanks and parts of a mark are held."""
        self._held.append(token_id)
        if token_id == self._opening_id:
            return self._open()
        self._start.add(token_id)
        seen = self._start.text + self._start._held
        seen = seen.lstrip()
        if self._opening_id is None and seen.startswith(self._marks.opening):
            return self._open()
        could_be = self._opening_id is None and self._marks.opening.startswith(seen)
        if not seen or could_be:
            return ""
        self._state = "answer"
        held, self._held = self._held, []
        return "".join(self._answer.add(each) for each in held)

    def _open(self) -> str:
        self._state, self.n_thinking, self._held = "thought", len(self._held), []
        return ""

    def _think(self, token_id: int) -> str:
        is_over = token_id == self._closing_id
        words = self._thought.finish() if is_over else self._thought.add(token_id)
        if is_over or self._thought.is_stopped:
            self._state = "answer"
            return self._shown(words, is_last=True)
        return self._shown(words)

    def _shown(self, words: str, *, is_last: bool = False) -> str:
        """Words of a thought, less the label that stands at its beginning."""
        if self._label_left:
            words = "".join(self._thinking) + words
            self._thinking = []
            if self._marks.label.startswith(words) and not is_last:
                self._thinking = [words]
                return ""
            words = words.removeprefix(self._marks.label.strip()).lstrip("\n")
            self._label_left = ""
        self._thinking.append(words)
        return words


class ThoughtGuide(LogitsProcessor):
    """Closes a thought at its limit, and gives the scores to others only once the answer has begun.

    Args:
        loaded: the model; the closing mark is known by its tokens.
        is_begun: whether the prompt ends within a thought.
        limit: the most tokens of a thought; None for any number.
        held: processors that hold the answer to a form; then it is one answer at a time, without beams.
    """

    def __init__(
        self, loaded: Loaded, *, is_begun: bool, limit: int | None, held: Sequence[LogitsProcessor]
    ) -> None:
        marks = marks_of(loaded)
        self._opening, self._closing = (_ids_of(loaded, mark) for mark in (marks.opening, marks.closing))
        self._gap = _ids_of(loaded, "\n\n")
        self._end = [*_ids_of(loaded, "\n"), *self._closing]
        self._is_begun = is_begun
        self._limit = limit
        self._held = held
        self._n_prompt: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores, with -inf for what may not come next: (B, V)."""
        if self._n_prompt is None:
            self._n_prompt = input_ids.shape[1]
        rows = enumerate(input_ids[:, self._n_prompt :].tolist())
        return torch.stack([self._guided(said, input_ids[row], scores[row]) for row, said in rows])

    def _guided(self, said: list[int], ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = _find(said, self._closing)
        if at < 0:
            return self._within(said, scores)
        if not self._held:
            return scores
        n_answer = at + len(self._closing)
        if said[n_answer:] == self._gap[: len(said) - n_answer] and len(said) - n_answer < len(self._gap):
            return _only(scores, self._gap[len(said) - n_answer])
        answer = ids[self._n_prompt + n_answer + len(self._gap) :]  # type: ignore[operator]
        for processor in self._held:
            scores = processor(answer[None], scores[None])[0]
        return scores

    def _within(self, said: list[int], scores: torch.Tensor) -> torch.Tensor:
        """The scores inside a thought, or before it."""
        if not self._is_begun and not said:  # asked to think, and its template has not begun for it
            return _only(scores, self._opening[0])
        if not self._is_begun and said == self._opening[: len(said)] and len(said) < len(self._opening):
            return _only(scores, self._opening[len(said)])
        n_thought = len(said) - (0 if self._is_begun else len(self._opening))
        if self._limit is None or n_thought < self._limit:
            return scores
        return _only(scores, self._end[min(n_thought - self._limit, len(self._end) - 1)])


def thought_guides(
    loaded: Loaded, settings: Settings, prompt: str, held: Sequence[LogitsProcessor]
) -> list[LogitsProcessor]:
    """What steers one call of ``generate``: the processors themselves where no thought is wanted of it."""
    wants = bool(settings.think) and not settings.choices and thinks(loaded)
    limit = settings.think if isinstance(settings.think, int) and settings.think is not True else None
    if not wants or (limit is None and not held):
        return list(held)
    return [ThoughtGuide(loaded, is_begun=is_open(prompt, marks_of(loaded)), limit=limit, held=held)]


def _ids_of(loaded: Loaded, text: str) -> list[int]:
    ids: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _find(ids: list[int], part: list[int]) -> int:
    """Where ``part`` begins in ``ids``; -1 for nowhere."""
    n = len(part)
    return next((at for at in range(len(ids) - n + 1) if ids[at : at + n] == part), -1)


def _only(scores: torch.Tensor, token_id: int) -> torch.Tensor:
    """Scores that leave one token: (V,)."""
    only: Any = torch.full_like(scores, -torch.inf)
    only[token_id] = 0.0
    return only  # type: ignore[no-any-return]
