"""The kinds of servers, and which words each of them takes for what a person may ask.

Measured against vLLM 0.32, llama.cpp 0.7, transformers serve 5.23 and mlx-vlm 0.7; a server that is none of
the known kinds gets what OpenAI's own API takes. A field here is one that the kind is known to obey; whether
this server does is found out by `probe`, for many ignore what they do not know without a word. Pure data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["DIALECTS", "Dialect", "dialect_of"]

Scoring: TypeAlias = Literal["", "prompt_logprobs", "token_grammar"]
Counting: TypeAlias = Literal["", "tokenize", "one_token"]
Continuing: TypeAlias = Literal["", "continue_final_message", "last_message"]
Forms: TypeAlias = Literal["", "structured_outputs", "response_format", "gbnf"]


@dataclass(frozen=True)
class Dialect:
    """How to ask a kind of server.

    Attributes:
        kind: its name for people.
        fields: our settings by the names that it takes; what is not here is refused.
        max_tokens: its name for the most new tokens.
        n_stops: stop strings that it takes; the others are cut off here.
        forms: how it is told the form of an answer.
        counts: how it counts a prompt.
        scores: how it tells the log-probability of a given reply.
        has_log_probabilities: whether it may tell those of its own words.
        thinks_by: the field of template options, where it has one.
        has_usage_option: whether ``stream_options`` asks it for its figures.
        anew_by: the field that has a prompt computed anew, "" for none.
        continues: how it goes on with an answer that was cut off: told by a field, or whenever the last
            message is the assistant's; "" where it answers from the beginning.
    """

    kind: str
    fields: Mapping[str, str] = field(default_factory=dict)
    max_tokens: str = "max_tokens"
    n_stops: int = 4
    forms: Forms = "response_format"
    counts: Counting = ""
    scores: Scoring = ""
    has_log_probabilities: bool = True
    thinks_by: str = ""
    has_usage_option: bool = True
    anew_by: Literal["", "cache_salt", "cache_prompt"] = ""
    continues: Continuing = ""


_PLAIN = {"temperature": "temperature", "top_p": "top_p", "seed": "seed"}

DIALECTS: dict[str, Dialect] = {
    made.kind: made
    for made in (
        Dialect(
            "vllm",
            {**_PLAIN, "top_k": "top_k", "repetition_penalty": "repetition_penalty"},
            forms="structured_outputs",
            counts="tokenize",
            scores="prompt_logprobs",
            thinks_by="chat_template_kwargs",
            anew_by="cache_salt",
            continues="continue_final_message",
        ),
        Dialect(
            "sglang",
            {**_PLAIN, "top_k": "top_k", "repetition_penalty": "repetition_penalty"},
            thinks_by="chat_template_kwargs",
        ),
        Dialect(
            "llamacpp",
            {**_PLAIN, "top_k": "top_k", "repetition_penalty": "repeat_penalty"},
            n_stops=64,
            forms="gbnf",
            counts="one_token",
            scores="token_grammar",
            thinks_by="chat_template_kwargs",
            anew_by="cache_prompt",
            continues="last_message",
        ),
        Dialect(
            "transformers",
            _PLAIN,
            n_stops=0,
            forms="",
            counts="one_token",
            has_log_probabilities=False,
            has_usage_option=False,
            thinks_by="chat_template_kwargs",
        ),
        Dialect(
            "mlx",
            {**_PLAIN, "top_k": "top_k", "repetition_penalty": "repetition_penalty"},
            n_stops=0,
            forms="",
            has_log_probabilities=False,
        ),
        Dialect("ollama", _PLAIN),
        Dialect("lmstudio", {**_PLAIN, "top_k": "top_k", "repetition_penalty": "repeat_penalty"}),
        Dialect("openai", _PLAIN),
    )
}

_BY_OWNER = {
    "vllm": "vllm",
    "llamacpp": "llamacpp",
    "sglang": "sglang",
    "library": "ollama",
    "organization_owner": "lmstudio",
}


def dialect_of(models: Any, openapi: Any) -> Dialect:
    """The kind of a server, by what it says of itself.

    Args:
        models: what ``/v1/models`` answered; None where it did not.
        openapi: what ``/openapi.json`` answered; None where it did not.
    """
    entries = models.get("data", ()) if isinstance(models, Mapping) else ()
    owners = {str(entry.get("owned_by", "")).lower() for entry in entries if isinstance(entry, Mapping)}
    for owner, kind in _BY_OWNER.items():
        if owner in owners:
            return DIALECTS[kind]
    if isinstance(openapi, Mapping):
        title = str(openapi.get("info", {}).get("title", "")).lower()
        paths = openapi.get("paths", {})
        if "mlx" in title:
            return DIALECTS["mlx"]
        if "/v1/systemone" in paths or {"/load_model", "/reset"} <= set(paths):
            return DIALECTS["transformers"]
    return DIALECTS["openai"]
