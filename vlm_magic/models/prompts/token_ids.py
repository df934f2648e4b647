"""Which tokens of a checkpoint mean what: those that end an answer, stand for pictures, or must never come.

Reads configurations and tokenizers of loaded models. Neighbours: `families` names each family's words,
`decoding` generates by these ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vlm_magic.errors import ContextLengthError
from vlm_magic.messages import Settings
from vlm_magic.models.loaded import Loaded

__all__ = [
    "check_length",
    "context_notes",
    "context_tokens",
    "decoder_start_id",
    "end_token_ids",
    "forbidden_token_ids",
    "generating_parts",
    "has_end_of_turn",
    "has_room",
    "picture_token_ids",
    "stop_token_ids",
    "within_context",
]


def stop_token_ids(loaded: Loaded, settings: Settings) -> list[int]:
    """Tokens that end an answer: the checkpoint's own and the family's."""
    ids: set[int] = set()
    for source in (loaded.model.generation_config.eos_token_id, loaded.tokenizer.eos_token_id):
        if source is not None:
            ids.update([source] if isinstance(source, int) else source)
    ids.update(_known_ids(loaded, loaded.family.stop_words))
    return sorted(ids)


def end_token_ids(loaded: Loaded) -> list[int]:
    """Tokens that end an answer, the one that this family's answers end with first."""
    theirs = loaded.model.generation_config.eos_token_id
    own = [] if theirs is None else [theirs] if isinstance(theirs, int) else list(theirs)
    named = [loaded.control.added[w] for w in loaded.family.stop_words if w in loaded.control.added]
    return list(dict.fromkeys([*named, *own, *stop_token_ids(loaded, Settings())]))


def has_end_of_turn(loaded: Loaded) -> bool:
    """Whether the tokenizer has a token of the family's own that ends a turn: an instruct checkpoint."""
    return bool(_known_ids(loaded, loaded.family.stop_words))


def check_length(loaded: Loaded, n_tokens: int) -> None:
    """Raise a ContextLengthError for a prompt that leaves no room for an answer."""
    limit = context_tokens(loaded)
    if limit is None or n_tokens < limit:
        return
    raise ContextLengthError(
        f"the prompt has {n_tokens} tokens, {loaded.name} takes {limit}",
        have="nothing was trimmed; every turn and picture of the conversation counts",
        hint="--new for a fresh conversation, fewer or smaller pictures, or %%vlm --dry-run to see costs",
        n_tokens=n_tokens,
        context_tokens=limit,
    )


def picture_token_ids(loaded: Loaded) -> list[int]:
    """Tokens that stand for what is not text: pictures, and in some models videos and sounds."""
    ids: set[int] = set()
    config, processor = loaded.model.config, loaded.processor
    for owner in (config, processor):
        for kind in ("image", "video", "audio"):
            for name in (f"{kind}_token_id", f"{kind}_token_index"):
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    ids.add(value)
    words = [getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio")]
    ids.update(_known_ids(loaded, [str(getattr(word, "content", word)) for word in words if word]))
    return sorted(ids)


def forbidden_token_ids(loaded: Loaded) -> list[int]:
    """Tokens that must never be generated: they belong to pictures, and feeding them back fails."""
    ids = {*picture_token_ids(loaded), *_known_ids(loaded, loaded.family.silent_words)}
    return sorted(ids - set(stop_token_ids(loaded, Settings())))


def context_tokens(loaded: Loaded) -> int | None:
    """The most tokens of prompt and answer together, or None where the checkpoint does not say."""
    text = loaded.model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    limit = loaded.tokenizer.model_max_length
    return int(limit) if limit and limit < 10**7 else None


def within_context(loaded: Loaded, n_prompt: int, settings: Settings) -> Settings:
    """The settings, ``max_tokens`` cut to the room in the context behind a prompt of so many tokens."""
    room = _answer_room(loaded, n_prompt)
    return settings if room is None or settings.max_tokens <= room else replace(settings, max_tokens=room)


def has_room(loaded: Loaded, n_prompt: int, settings: Settings) -> bool:
    """Whether an answer of ``max_tokens`` fits the context behind a prompt of so many tokens."""
    return within_context(loaded, n_prompt, settings) is settings


def context_notes(loaded: Loaded, asked_tokens: int, room_tokens: int) -> tuple[str, ...]:
    """What to say of an answer that used up its tokens: the context had room for fewer than were asked."""
    limit = context_tokens(loaded)
    if room_tokens == asked_tokens or limit is None:
        return ()
    room = f"it had room for {room_tokens:,} of {asked_tokens:,}"
    return (f"cut where the context of {limit:,} tokens ends: {room}",)


def _answer_room(loaded: Loaded, n_prompt: int) -> int | None:
    """The most tokens of an answer; None for any number."""
    limit = context_tokens(loaded)
    if limit is None:
        return None
    if not loaded.is_encoder_decoder:
        return max(1, limit - n_prompt)
    has_positions = not hasattr(loaded.model.config.get_text_config(), "relative_attention_num_buckets")
    return limit - 1 if has_positions else None  # T5's kind counts distances, which know no end


def decoder_start_id(loaded: Loaded) -> int:
    """The token that an encoder-decoder's answer begins behind."""
    config = loaded.model.config
    owners = (config.get_text_config(), config, loaded.model.generation_config)
    found = [getattr(owner, "decoder_start_token_id", None) for owner in owners]
    begin = getattr(config.get_text_config(), "bos_token_id", None)  # a T5 has none
    return next(int(token) for token in (*found, begin) if token is not None)


def generating_parts(model: Any) -> list[Any]:
    """The model and what it hands over to: BLIP's kind calls its language model's own ``generate``.

    Whoever sets a ``generation_config`` sets it on all of these, or a part answers by its checkpoint's
    defaults.
    """
    inner = [getattr(model, name, None) for name in ("language_model", "text_decoder", "text_model")]
    return [model, *(part for part in inner if hasattr(part, "generation_config"))]


def _known_ids(loaded: Loaded, words: Sequence[str]) -> set[int]:
    """Ids of those words that are single added tokens of this tokenizer."""
    return {loaded.control.added[word] for word in words if word in loaded.control.added}
