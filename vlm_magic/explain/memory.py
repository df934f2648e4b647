"""What each turn of a conversation cost: what was reused, what was new, how long it took, what it holds.

Read from the replies' own figures; nothing is asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_magic.messages import Engine, Exchange, Reply, TurnCost, is_here

__all__ = ["read_costs"]


def read_costs(engine: Engine, exchanges: Sequence[Exchange]) -> tuple[TurnCost, ...]:
    """A row for each answered turn.

    Args:
        engine: whose cache a token is held in, for the bytes.
        exchanges: the conversation.
    """
    token_bytes = _token_bytes(engine)
    return tuple(
        _cost(exchange, exchange.reply, token_bytes) for exchange in exchanges if exchange.reply is not None
    )


def _cost(exchange: Exchange, reply: Reply, token_bytes: int | None) -> TurnCost:
    n_new = max(0, reply.n_prompt_tokens - reply.n_reused_tokens)
    n_pictures = 0
    for n_tokens in reversed(reply.picture_tokens):  # what is reused is a prompt's beginning
        if n_pictures + n_tokens > n_new:
            break
        n_pictures += n_tokens
    n_tokens = reply.n_prompt_tokens + reply.n_new_tokens
    question = "".join(getattr(part, "text", " ▢ ") for part in exchange.parts)
    return TurnCost(
        turn=exchange.id,
        question=" ".join(question.split()),
        n_reused=reply.n_reused_tokens,
        n_new_picture=n_pictures,
        n_new_text=n_new - n_pictures,
        n_answer=reply.n_new_tokens,
        prefill_s=reply.ttft_s,
        decode_s=max(0.0, reply.total_s - reply.ttft_s),
        n_bytes=None if token_bytes is None else n_tokens * token_bytes,
    )


def _token_bytes(engine: Engine) -> int | None:
    """Bytes of one token's keys and values; None where nobody knows."""
    if not is_here(engine):
        return None
    from vlm_magic.models.cache_size import cache_token_bytes

    model = engine.loaded.model
    return cache_token_bytes(model.config.get_text_config(), model.dtype.itemsize)
