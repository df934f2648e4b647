"""How likely given replies are to a server's model: log-probabilities of whole replies, their end included.

vLLM tells those of a prompt that holds the reply; llama.cpp those of tokens that a grammar forces. Both are
exact for the prompt that the server itself makes. Knows these two; the arithmetic of choices is
`vlm_magic.choice_scores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_magic.errors import GenerationError
from vlm_magic.messages import Score, Settings
from vlm_magic.remote.dialects import Dialect
from vlm_magic.remote.payload import body_of
from vlm_magic.remote.transport.wire import Line, Wire

__all__ = ["count_by_asking", "count_messages", "score_by_grammar", "score_by_prompt", "without_end"]

Messages = Sequence[Mapping[str, Any]]


def count_messages(wire: Wire, model: str, messages: Messages, line: Line, **more: Any) -> int:
    """Tokens of a prompt, pictures included, as vLLM counts them."""
    body = {"model": model, "messages": list(messages), "add_generation_prompt": True, **more}
    return int(wire.post(f"{wire.address.root}/tokenize", body, line)["count"])


def count_by_asking(wire: Wire, model: str, messages: Messages, dialect: Dialect) -> int:
    """Tokens of a prompt, as a server says them beside an answer of one token."""
    body = body_of(model, messages, Settings(max_tokens=1), dialect) | {"stream": False}
    body.pop("stream_options", None)
    return int(wire.post("/chat/completions", body)["usage"]["prompt_tokens"])


def without_end(scores: Sequence[Score]) -> tuple[Score, ...]:
    """The scores of replies that may go on."""
    kept = [(s.choice, s.token_ids[:-1], s.token_log_probabilities[:-1]) for s in scores]
    return tuple(Score(choice, sum(logs), ids, logs) for choice, ids, logs in kept)


def score_by_prompt(
    wire: Wire, model: str, messages: Messages, choices: Sequence[str], line: Line
) -> tuple[tuple[Score, ...], int]:
    """Scores by the log-probabilities of a prompt, and how many tokens the prompt has without a reply."""
    n_prompt = count_messages(wire, model, messages, line)
    scores = []
    for choice in choices:
        body = {
            "model": model,
            "messages": [*messages, {"role": "assistant", "content": choice}],
            "add_generation_prompt": False,
            "prompt_logprobs": 0,
            "max_tokens": 1,
            "temperature": 0,
        }
        found = wire.post("/chat/completions", body, line)
        tokens = found.get("prompt_logprobs") or (found.get("choices") or [{}])[0].get("prompt_logprobs")
        if not tokens:
            raise GenerationError(
                f"{wire.address.host} gives no log-probabilities for a prompt", hint="a model loaded here"
            )
        scores.append(_score_of(choice, tokens[n_prompt:]))
    return tuple(scores), n_prompt


def _score_of(choice: str, tokens: Sequence[Mapping[str, Any] | None]) -> Score:
    """The tokens of the choice and the one that ends it; what the template adds is not the model's."""
    said, ids, logs, texts = "", [], [], []
    for token in tokens:
        if not token:
            continue
        token_id, known = next(iter(token.items()))
        is_whole = said.strip() == choice.strip()
        ids.append(int(token_id))
        logs.append(float(known["logprob"]))
        texts.append("" if is_whole else str(known.get("decoded_token") or ""))
        if is_whole:  # so this one was the end
            break
        said += texts[-1]
    return Score(choice, sum(logs), tuple(ids), tuple(logs), tuple(texts))


def score_by_grammar(
    wire: Wire, model: str, messages: Messages, choices: Sequence[str], line: Line, *, opening: str
) -> tuple[tuple[Score, ...], int]:
    """Scores by tokens that a grammar forces, and how many tokens the prompt has.

    A grammar of the text would walk other tokens than the model's own.

    Args:
        wire: the server.
        model: its name there.
        messages: the prompt.
        choices: the replies.
        line: the request.
        opening: what stands before a reply's first word: a space where the template ends in none.
    """
    scores, n_prompt = [], 0
    for choice in choices:
        tokens = wire.post(f"{wire.address.root}/tokenize", {"content": opening + choice}, line)["tokens"]
        body = {
            "model": model,
            "messages": list(messages),
            "grammar": f"root ::= {' '.join(f'<[{token}]>' for token in tokens)}",
            "logprobs": True,
            "top_logprobs": 1,
            "temperature": 0,
            "max_tokens": len(tokens) + 1,
        }
        found = wire.post("/chat/completions", body, line)
        n_prompt = int((found.get("usage") or {}).get("prompt_tokens") or 0)
        entries = (found["choices"][0].get("logprobs") or {}).get("content") or ()
        logs = tuple(float(entry["logprob"]) for entry in entries)
        if len(logs) < len(tokens):
            raise GenerationError(
                f"{wire.address.host} gives no log-probabilities for forced tokens",
                hint="a model loaded here",
            )
        ids = tuple(int(entry.get("id", 0)) for entry in entries)
        scores.append(Score(choice, sum(logs), ids, logs))
    return tuple(scores), n_prompt
