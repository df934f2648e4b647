"""What servers say when they say no, as our errors: five shapes of JSON, plain text and pages of HTML.

Names the host, never a key. Knows statuses and words of servers; sends nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from vlm_magic.errors import (
    ContextLengthError,
    EngineGoneError,
    GenerationError,
    KeyRefusedError,
    ModelError,
    ModelNotFoundError,
)
from vlm_magic.remote.transport.address import Address
from vlm_magic.wording import shorten

__all__ = ["complaint", "complaint_in_stream", "unreachable", "words_of"]

_TOO_LONG = re.compile(
    r"maximum context length|context_length_exceeded|exceed_context_size|context size", re.I
)
_ENDED_EARLY = ("ended prematurely", "InvalidChunkLength", "IncompleteRead")  # as urllib3 says it


def words_of(text: str) -> str:
    """The message in an error's body, on one line."""
    try:
        found = json.loads(text)
    except ValueError:
        plain = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text, flags=re.S | re.I)
        return shorten(plain, 150)
    return shorten(_message(found), 150)


def _message(found: Any) -> str:
    if isinstance(found, Mapping):
        for name in ("error", "message", "detail", "msg"):
            if found.get(name):
                return _message(found[name])
        return json.dumps(found, ensure_ascii=False)
    if isinstance(found, list):
        return "; ".join(map(_message, found))
    return str(found)


def complaint(  # noqa: PLR0911 - one return for each kind of no
    address: Address, status: int, text: str, *, location: str = ""
) -> ModelError:
    """The error for an answer that is none.

    Args:
        address: whose.
        status: of HTTP.
        text: the body.
        location: where a redirect points to.
    """
    said = address.scrub(words_of(text)) or "nothing"
    host = address.host
    have = f"status {status}: {said}"
    too_long = _too_long(text, said)
    if too_long is not None:
        return too_long
    if 300 <= status < 400:
        return EngineGoneError(
            f"{host} points to another address, which is not followed",
            have=f"status {status} to {shorten(location.partition('?')[0], 100)}",
            hint="%vlm_load with the address itself",
            status=status,
        )
    if status in (401, 403):
        hint = f"another key in {address.key_env}" if address.key_env else "--key-env VARIABLE"
        return KeyRefusedError(f"{host} refuses the request", have=have, hint=hint, status=status)
    if status == 404:
        return ModelNotFoundError(
            f"{host} does not know the model or the path", have=have, hint="%vlm_load URL lists its models"
        )
    if status == 413:
        return GenerationError(
            f"the request is too large for {host}", have=have, hint="--picture-size 1024", status=status
        )
    if status == 429:
        return GenerationError(
            f"{host} takes no more requests at the moment",
            have=have,
            hint="--at-once 1, or later",
            status=status,
        )
    if status >= 500:
        return GenerationError(
            f"{host} failed while answering", have=have, hint="its own log says why", status=status
        )
    return GenerationError(f"{host} does not take the request", have=have, status=status)


def complaint_in_stream(address: Address, event: Any) -> ModelError:
    """The error for an event of a stream that says that the server failed."""
    text = json.dumps(event)
    said = address.scrub(shorten(_message(event), 150))
    return _too_long(text, said) or GenerationError(
        f"{address.host} failed in the middle of its answer", have=said, hint="its own log says why"
    )


def unreachable(address: Address, error: Exception) -> ModelError:
    """The error for a connection that was not made, or broke."""
    words, kind = str(error), type(error).__name__
    host = address.host
    if "CERTIFICATE" in words.upper() or "SSL" in kind.upper() or "SSL" in words:
        return EngineGoneError(
            f"the certificate of {host} is not trusted, or it does not speak TLS",
            have=shorten(_innermost(error), 120),
            hint="http://… without TLS; REQUESTS_CA_BUNDLE=FILE in the environment for your own authority",
        )
    if "Failed to resolve" in words or "NameResolution" in words or "getaddrinfo" in words:
        return EngineGoneError(
            f"the name {host} does not resolve", have="no such host, or no network", hint="the spelling"
        )
    if "timed out" in words.lower() or "Timeout" in kind:
        return EngineGoneError(
            f"{host} was silent for too long", have="it may be loading, or very busy", hint="--timeout 600"
        )
    if "refused" in words.lower():
        return EngineGoneError(
            f"nothing answers at {host}", have="the connection was refused", hint="is the server running?"
        )
    ended_early = any(each in words for each in _ENDED_EARLY)
    return EngineGoneError(
        f"the connection to {host} broke",
        have="it was closed in the middle of an answer"
        if ended_early
        else address.scrub(shorten(_innermost(error), 120)),
        hint="is the server still running?",
    )


def _innermost(error: BaseException) -> str:
    while True:
        inner = error.__cause__ or error.__context__
        reason = getattr(error, "reason", None)
        inner = reason if isinstance(reason, BaseException) else inner
        if inner is None or inner is error:
            return f"{type(error).__name__}: {error}"
        error = inner


def _too_long(text: str, said: str) -> ContextLengthError | None:
    """A prompt that does not fit, with the numbers that the server names."""
    if not _TOO_LONG.search(text):
        return None
    fields = {name: int(n) for name, n in re.findall(r'"(n_prompt_tokens|n_ctx)":\s*(\d+)', text)}
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\b\d[\d,]*\b", said)]
    limit = fields.get("n_ctx") or next(iter(numbers), None)
    n_tokens = fields.get("n_prompt_tokens") or next((n for n in numbers[1:] if n != limit), None)
    known = n_tokens is not None and limit is not None
    least = "at least " if "at least" in said else ""  # vLLM counts no further
    return ContextLengthError(
        f"the prompt has {least}{n_tokens} tokens, the model takes {limit}"
        if known
        else "the prompt does not fit",
        have=said,
        hint="--new, fewer pictures, or a shorter question",
        n_tokens=n_tokens,
        context_tokens=limit,
    )
