"""Requests as servers take them: turns become messages, settings become fields of the kind of server.

Knows dialects and the vocabulary; sends nothing. Neighbours: `forms` says the form of an answer,
`pictures_sent` encodes pictures.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Picture, Settings, Turn
from vlm_magic.remote.dialects import Dialect
from vlm_magic.remote.forms import form_fields
from vlm_magic.remote.pictures_sent import PictureEncoder
from vlm_magic.wording import list_words

__all__ = ["anew_fields", "body_of", "check_settings", "messages_of"]

_NEVER = {  # settings that no server of this kind takes, and their value where they are not asked for
    "beams": 1,
    "bad_words": (),
    "continuation": False,
}


def messages_of(turns: Sequence[Turn], settings: Settings, encoder: PictureEncoder) -> list[dict[str, Any]]:
    """The turns as messages of the chat API, pictures at their place."""
    messages: list[dict[str, Any]] = []
    if settings.system:
        messages.append({"role": "system", "content": settings.system})
    for turn in turns:
        if not turn.pictures:
            messages.append({"role": turn.role, "content": turn.text})
            continue
        parts = [
            {"type": "image_url", "image_url": {"url": encoder.encode(part).uri}}
            if isinstance(part, Picture)
            else {"type": "text", "text": part.text}
            for part in turn.parts
        ]
        messages.append({"role": turn.role, "content": parts})
    return messages


def body_of(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    settings: Settings,
    dialect: Dialect,
    opening: str = "",
) -> dict[str, Any]:
    """The fields of one question; a stream is asked for."""
    body: dict[str, Any] = {"model": model, "messages": list(messages), "stream": True}
    body[dialect.max_tokens] = settings.max_tokens
    if dialect.has_usage_option:
        body["stream_options"] = {"include_usage": True}
    if not settings.is_sampling:
        body["temperature"] = 0
    for name in ("temperature", "top_p", "top_k", "seed", "repetition_penalty"):
        value = getattr(settings, name)
        if value is not None and name in dialect.fields:
            body[dialect.fields[name]] = value
    if settings.stop and dialect.n_stops:
        body["stop"] = list(settings.stop[: dialect.n_stops])
    if settings.think is not None and dialect.thinks_by:
        body[dialect.thinks_by] = {"enable_thinking": bool(settings.think)}
    if settings.log_probabilities or settings.top_log_probabilities:
        body |= {"logprobs": True, "top_logprobs": settings.top_log_probabilities or 1}
    return body | form_fields(settings.grammar, dialect, opening)


def anew_fields(dialect: Dialect) -> dict[str, Any]:
    """What has a server compute a prompt from its beginning, whatever it keeps of others."""
    match dialect.anew_by:
        case "cache_salt":
            return {"cache_salt": secrets.token_hex(16)}
        case "cache_prompt":
            return {"cache_prompt": False}
    return {}


def check_settings(name: str, settings: Settings, dialect: Dialect, abilities: Mapping[str, bool]) -> None:
    """Raise for settings that a server does not take, before anything is sent.

    Args:
        name: how people call the engine.
        settings: what is asked for.
        dialect: the kind of server.
        abilities: what was found out about this one: "log_probabilities", "forms", "patterns".

    Raises:
        OptionError: beams, forbidden words, continuation, and what this kind does not know.
    """
    form_fields(settings.grammar, dialect, takes_patterns=abilities.get("patterns", False))
    lacking = [each for each, default in _NEVER.items() if getattr(settings, each) != default]
    for each in ("top_p", "top_k", "seed", "repetition_penalty"):
        if getattr(settings, each) is not None and each not in dialect.fields:
            lacking.append(each)
    if settings.think is not None and not dialect.thinks_by:
        lacking.append("think")
    for each in ("log_probabilities", "top_log_probabilities"):
        if getattr(settings, each) and not abilities.get("log_probabilities"):
            lacking.append(each)
    if lacking:
        raise OptionError(
            f"{name} does not take {list_words(lacking)}",
            have=f"a server of the kind {dialect.kind}: {', '.join(sorted(dialect.fields))}",
            hint="without it, or a model loaded here: %vlm_load",
        )
