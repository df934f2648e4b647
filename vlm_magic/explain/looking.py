"""Look at one answer from the sides that were asked for. Begin with `explain`.

    explanation = explain(engine, exchange, turns, ("needed", "words"))

Knows engines by what they can do; each view is a module of its own. What a view asks of the model goes
through the queue in which answers wait, and is kept nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_magic.errors import ConversationError, GenerationError, OptionError, PictureNotFoundError
from vlm_magic.explain.asking import Asker, LookingStoppedError, outside_the_stores
from vlm_magic.explain.explanation import Explanation, check_views
from vlm_magic.explain.inside import read_layer_words, read_prompt_tokens
from vlm_magic.explain.memory import read_costs
from vlm_magic.explain.needed import find_needed, numbered_pictures
from vlm_magic.explain.without import ask_without
from vlm_magic.explain.words import read_words
from vlm_magic.messages import Engine, Exchange, Picture, Reply, Turn
from vlm_magic.uninterrupted import run_apart

__all__ = ["explain"]

_PATIENCE_S = 30.0  # after an interrupt: one question, and the stores are back
_ABOUT_PICTURES = ("needed", "without")


@dataclass(frozen=True)
class _Case:
    """What the views look at."""

    engine: Engine
    exchange: Exchange
    reply: Reply
    turns: tuple[Turn, ...]
    exchanges: tuple[Exchange, ...]
    others: tuple[Picture, ...]
    tell: Callable[[int, int], None]
    is_stopped: Callable[[], bool]

    def asker(self) -> Asker:
        return Asker(
            self.engine,
            self.turns,
            self.reply,
            self.exchange.settings,
            on_progress=self.tell,
            is_stopped=self.is_stopped,
        )


_VIEWS: dict[str, Callable[[_Case], Any]] = {
    "needed": lambda case: find_needed(case.asker()),
    "without": lambda case: ask_without(case.asker(), case.others),
    "words": lambda case: read_words(case.engine, case.turns, case.reply, case.exchange.settings),
    "tokens": lambda case: read_prompt_tokens(case.engine, case.turns, case.exchange.settings),
    "memory": lambda case: read_costs(case.engine, case.exchanges),
    "layers": lambda case: read_layer_words(case.engine, case.turns, case.reply, case.exchange.settings),
}


def explain(
    engine: Engine,
    exchange: Exchange,
    turns: Sequence[Turn],
    views: Sequence[str] = (),
    *,
    exchanges: Sequence[Exchange] = (),
    others: Sequence[Picture] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
    is_stopped: Callable[[], bool] | None = None,
) -> Explanation:
    """Look at an answer.

    Args:
        engine: who gave it, or who shall be asked about it.
        exchange: the question with the answer.
        turns: the prompt as the model was shown it, the question last.
        views: names of `VIEWS`; the needed parts and the words if not given.
        exchanges: the whole conversation.
        others: pictures that may stand in for the question's own, the best first.
        on_progress: called with (view, questions asked, questions expected).
        is_stopped: asked between questions; True ends the looking.

    Raises:
        ConversationError: the question has no answer yet.
        OptionError: no such view, no picture to look at, or an engine that cannot tell.
        GenerationError: it was stopped before it had a result.
    """
    names = check_views(tuple(views)) or _default_views(turns)
    reply = _checked(exchange, turns, names)
    left = threading.Event()

    def is_left() -> bool:
        return left.is_set() or (is_stopped is not None and is_stopped())

    def work(news: Callable[..., None]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with outside_the_stores(engine):
            for name in names:
                case = _Case(
                    engine,
                    exchange,
                    reply,
                    tuple(turns),
                    tuple(exchanges),
                    tuple(others),
                    lambda done, total, name=name: news(name, done, total),  # type: ignore[misc]
                    is_left,
                )
                found[name] = _VIEWS[name](case)
        return found

    try:
        found = run_apart(work, on_progress or (lambda *_: None), stop=left.set, patience_s=_PATIENCE_S)
    except LookingStoppedError:
        raise GenerationError(
            "the looking was stopped before it had a result", have="the answer is as it was"
        ) from None
    return Explanation(exchange, found, engine.name, tuple(_notes(engine, exchange, reply)))


def _default_views(turns: Sequence[Turn]) -> tuple[str, ...]:
    return ("needed", "words") if numbered_pictures(turns) else ("words",)


def _checked(exchange: Exchange, turns: Sequence[Turn], names: Sequence[str]) -> Reply:
    """The answer, where there is one to look at in these ways."""
    if exchange.reply is None or not exchange.reply.text:
        raise ConversationError(
            "this turn has no answer yet", have="a question alone", hint="%%vlm with a question, then this"
        )
    about = [name for name in names if name in _ABOUT_PICTURES]
    if about and not numbered_pictures(turns):
        raise OptionError(
            f"no picture in this turn, so nothing to show under {', '.join(about)}",
            have="a question in words alone",
            hint="%vlm_explain words",
        )
    lost = [picture.name for picture in exchange.pictures if picture.is_lost]
    if about and lost:
        raise PictureNotFoundError(
            f"picture {lost[0]!r} of this turn is no longer on this machine",
            have="the words of the turn",
            hint="run its cell again",
            name=lost[0],
        )
    return exchange.reply


def _notes(engine: Engine, exchange: Exchange, reply: Reply) -> list[str]:
    notes = []
    if exchange.is_stale:
        notes.append(
            "stale: an earlier turn has changed since; what was asked here is the turns as they are now"
        )
    if reply.model and reply.model != engine.name:
        notes.append(f"{reply.model} gave the answer, {engine.name} was asked about it")
    if reply.is_partial:
        notes.append("the answer was cut off; what was asked is about the words that are there, as if whole")
    if reply.thinking:
        notes.append("asked without the thought that came before the answer")
    if exchange.settings.is_sampling:
        notes.append(
            "the answer was drawn at random; probabilities are those of the model's own distribution"
        )
    return notes
