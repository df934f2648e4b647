"""From what people have as examples to finished conversations that can be learned.

The forms are those of few-shot examples, and whole conversations besides. Knows turns, not tensors.
Neighbours: `vlm_magic.tasks.examples` reads tables, pairs and messages; `batch` makes tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random

from vlm_magic.conversation import Conversation
from vlm_magic.errors import PromptError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Exchange, Part, Turn
from vlm_magic.session import Session
from vlm_magic.tasks.examples import EXAMPLE_FORMS, example_turns
from vlm_magic.wording import shorten

__all__ = ["Dialogue", "conversations_of", "split"]

Dialogue = tuple[Turn, ...]
"""A finished conversation: user and assistant by turns, the assistant last."""


def conversations_of(
    examples: object,
    *,
    prompt: str | Sequence[Part] | None = None,
    options: PictureOptions | None = None,
) -> list[Dialogue]:
    """Finished conversations, each to be learned by itself.

    Args:
        examples: a table, pairs, triples or dicts as for few-shot examples (each row is a conversation of one
            question); a session, a conversation, or turns or messages of one (one conversation, with all its
            turns); or a list of such conversations.
        prompt: what is asked about each picture where an example does not say.
        options: limits of pictures and downloads.

    Raises:
        PromptError: nothing in it, or something that is no example.
        ConversationError: turns that do not alternate, or without an answer.
        PictureError: a picture that cannot be found, fetched or decoded.
    """
    if isinstance(examples, (Session, Conversation)):
        return [_whole(examples, options)]
    if sniff.is_frame(examples) or isinstance(examples, Mapping):
        return _pairs(example_turns(examples, prompt=prompt, options=options))
    if isinstance(examples, (str, bytes)) or not isinstance(examples, Iterable):
        raise PromptError(
            f"examples are a table or a list, this is a {type(examples).__name__}", hint=EXAMPLE_FORMS
        )
    rows = list(examples)
    if rows and all(_is_conversation(row) for row in rows):
        return [_whole(row, options) for row in rows]
    if rows and all(_is_turn(row) for row in rows):
        return [_whole(rows, options)]
    return _pairs(example_turns(rows, prompt=prompt, options=options))


def split(items: Sequence[Dialogue], share: float, seed: int) -> tuple[list[Dialogue], list[Dialogue]]:
    """(those to learn, those put aside), drawn with the seed; each in its own order.

    Args:
        items: all of them.
        share: the fraction to put aside; at least one where it is above 0 and there are two or more.
        seed: of the draw.
    """
    n_aside = min(len(items) - 1, max(1, round(share * len(items)))) if share and len(items) > 1 else 0
    aside = set(Random(seed).sample(range(len(items)), n_aside))
    return (
        [item for n, item in enumerate(items) if n not in aside],
        [item for n, item in enumerate(items) if n in aside],
    )


def _pairs(turns: Sequence[Turn]) -> list[Dialogue]:
    return [(turns[n], turns[n + 1]) for n in range(0, len(turns), 2)]


def _is_turn(row: object) -> bool:
    return isinstance(row, (Turn, Exchange)) or (isinstance(row, Mapping) and "role" in row)


def _is_conversation(row: object) -> bool:
    if isinstance(row, (Session, Conversation)):
        return True
    return isinstance(row, (list, tuple)) and bool(row) and all(_is_turn(one) for one in row)


def _whole(conversation: object, options: PictureOptions | None) -> Dialogue:
    """All turns of one conversation; a system text of messages stays out, it is a setting."""
    held = conversation.conversation if isinstance(conversation, Session) else conversation
    if isinstance(held, Conversation):
        held = [exchange for exchange in held if exchange.reply is not None]
    rows = list(held) if isinstance(held, Iterable) else []
    if not rows:
        raise PromptError(
            "a conversation without turns has nothing to learn",
            have=shorten(repr(conversation), 80),
            hint="a session that was asked something",
        )
    if any(isinstance(row, Turn) for row in rows):
        return tuple(row for row in rows if isinstance(row, Turn))
    return example_turns(rows, options=options)
