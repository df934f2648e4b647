"""The views that need a model of this process: a prompt's tokens, and what each layer would say.

Neighbour: `vlm_magic.models.inside` looks; here is who may be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Engine, LayerWords, PromptTokens, Reply, Settings, Turn, is_here

__all__ = ["read_layer_words", "read_prompt_tokens"]


def read_prompt_tokens(engine: Engine, turns: Sequence[Turn], settings: Settings) -> PromptTokens:
    """The prompt token by token, and how its pictures became tokens.

    Raises:
        OptionError: the model is elsewhere; its server does not say how it reads a prompt.
    """
    if not is_here(engine):
        raise _elsewhere(engine, "tokens")
    how = engine.in_effect(settings)

    def work(loaded: Any, leave: Callable[[], None]) -> PromptTokens:
        from vlm_magic.models.inside.prompt_tokens import prompt_tokens

        return prompt_tokens(loaded, turns, how)

    return engine.borrow(work)


def read_layer_words(
    engine: Engine, turns: Sequence[Turn], reply: Reply, settings: Settings
) -> tuple[LayerWords, ...]:
    """What each layer would say at the place of each of the answer's tokens.

    Raises:
        OptionError: the model is elsewhere, or its layers cannot be read so.
    """
    if not is_here(engine):
        raise _elsewhere(engine, "layers")
    how = engine.in_effect(replace(settings, choices=()))

    def work(loaded: Any, leave: Callable[[], None]) -> tuple[LayerWords, ...]:
        from vlm_magic.models.inside.layers import read_layers

        return read_layers(loaded, turns, str(reply.text), how)

    return engine.borrow(work)


def _elsewhere(engine: Engine, view: str) -> OptionError:
    return OptionError(
        f"the view {view} looks into the model, and {engine.name} is not in this process",
        have=f"a server at {engine.host}" if engine.host else "an engine without a model",
        hint="%vlm_load for a model here; needed, without and words work with servers that can score",
    )
