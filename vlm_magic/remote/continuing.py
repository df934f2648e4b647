"""Going on with an answer that was cut off, on servers that leave a begun answer at a prompt's end open.

vLLM is told so by fields, llama.cpp does it by itself; whether this server does is found out when it is
connected. The answer so far goes as words, which a server may cut into other tokens than it said them in.
Knows replies and messages; sends nothing. Neighbours: `payload` writes the rest of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Reply, Settings
from vlm_magic.remote.dialects import Dialect

__all__ = ["begun_fields", "begun_message", "check_can_continue", "joined", "rest_of"]


def check_can_continue(name: str, reply: Reply, settings: Settings) -> None:
    """Raise for an answer that a server cannot be given again as it was, before anything is sent.

    Raises:
        OptionError: it was chosen or held to a form, or the model thought before it.
    """
    have = "choices" if settings.choices else "an answer held to a form" if settings.grammar else ""
    if reply.thinking:
        have = "an answer with a thought before it"
    if have:
        raise OptionError(
            f"{name} cannot go on with this answer: a server takes plain words alone",
            have=have,
            hint="ask again with a larger max_tokens",
        )


def begun_message(text: str, dialect: Dialect, opening: str) -> dict[str, Any]:
    """The answer so far as the last message.

    Args:
        text: the words.
        dialect: the kind of server.
        opening: what stands before a reply's first word where the template ends without it: llama.cpp puts
            the words right behind the prompt, vLLM writes them as its template does.
    """
    blank = opening if dialect.continues == "last_message" and not text.startswith(opening) else ""
    return {"role": "assistant", "content": f"{blank}{text}"}


def begun_fields(dialect: Dialect) -> dict[str, Any]:
    """What tells a server that the last message has not ended."""
    if dialect.continues == "continue_final_message":
        return {"continue_final_message": True, "add_generation_prompt": False}
    return {}


def rest_of(settings: Settings, reply: Reply) -> Settings:
    """The settings of the rest: what was said counts for the limit."""
    return settings.updated({"max_tokens": max(1, settings.max_tokens - reply.n_new_tokens)})


def joined(before: Reply, rest: Reply) -> Reply:
    """The whole answer's figures: times add up, the first token came when it came."""
    logs: Sequence[Any] = rest.log_probabilities if before.log_probabilities or not before.text else ()
    top: Sequence[Any] = rest.top_log_probabilities if before.top_log_probabilities or not before.text else ()
    return replace(
        rest,
        n_prompt_tokens=before.n_prompt_tokens or rest.n_prompt_tokens,
        n_new_tokens=before.n_new_tokens + rest.n_new_tokens,
        ttft_s=before.ttft_s or rest.ttft_s,
        total_s=before.total_s + rest.total_s,
        log_probabilities=(*before.log_probabilities, *logs),
        top_log_probabilities=(*before.top_log_probabilities, *top),
    )
