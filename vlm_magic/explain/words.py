"""The answer token by token: how likely each was, and what the model might have said in its place.

A model here is read at every place of the answer. A server says it with the answer, where the answer was
asked for it; where it was not, the question is asked once more, and counts if the words come again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Engine, Reply, SaidToken, Settings, Turn, is_here

__all__ = ["N_LIKELIEST", "read_words"]

N_LIKELIEST = 5


def read_words(
    engine: Engine, turns: Sequence[Turn], reply: Reply, settings: Settings
) -> tuple[SaidToken, ...]:
    """Each token of the answer with the likeliest in its place.

    Raises:
        OptionError: the engine tells nothing of its tokens, or says other words when asked again.
    """
    if is_here(engine):
        how = engine.in_effect(replace(settings, choices=()))

        def work(loaded: Any, leave: Callable[[], None]) -> tuple[SaidToken, ...]:
            from vlm_magic.models.inside.said_again import said_again

            return said_again(loaded, turns, str(reply.text), how, N_LIKELIEST)

        return engine.borrow(work)
    if reply.top_log_probabilities:
        return reply.top_log_probabilities
    return _asked_again(engine, turns, reply, settings)


def _asked_again(
    engine: Engine, turns: Sequence[Turn], reply: Reply, settings: Settings
) -> tuple[SaidToken, ...]:
    asked = replace(settings, log_probabilities=True, top_log_probabilities=N_LIKELIEST)
    engine.check(asked)
    again = None
    for chunk in engine.start(tuple(turns), asked):
        again = chunk.reply or again
    if again is None or not again.top_log_probabilities:
        raise OptionError(
            f"{engine.name} does not say how likely its words are",
            have="the words alone",
            hint="a model loaded here: %vlm_load",
        )
    if again.text != reply.text:
        raise OptionError(
            f"{engine.name} says other words when it is asked again, so these tell nothing of the answer",
            have=str(again.text),
            hint="%%vlm --explain words, which asks for them with the answer",
        )
    return again.top_log_probabilities
