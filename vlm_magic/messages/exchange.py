"""One question with its answer, as a conversation keeps it and a panel shows it. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlm_magic.messages.parts import Part, Picture, Text, Turn
from vlm_magic.messages.replies import Reply
from vlm_magic.messages.settings import Settings

__all__ = ["Exchange"]


@dataclass(slots=True)
class Exchange:
    """One question with its answer, as a conversation keeps it and a panel shows it.

    Attributes:
        id: unique in its conversation, for ever.
        parts: what the person asked.
        settings: how it was asked.
        reply: the answer; None while it is being made.
        key: (cell id, number of the call within the run), or None outside a cell.
        replaces: id of the exchange whose place this one takes; "" for the place of its key, or the end.
        is_stale: an earlier exchange changed after this one was answered.
        is_hidden: kept and shown to people, but not to the model.
        alternatives: other answers to this exchange, oldest first.
        place: a number that orders the turns of a conversation; one that takes another's place takes it over.
        answered_at: when the answer was there, in seconds since 1970; 0.0 before.
        examples: few-shot examples that the model was shown before everything else, for this question
            alone.
    """

    id: str
    parts: tuple[Part, ...]
    settings: Settings = field(default_factory=Settings)
    reply: Reply | None = None
    key: tuple[str, int] | None = None
    replaces: str = ""
    is_stale: bool = False
    is_hidden: bool = False
    alternatives: list[Reply] = field(default_factory=list)
    place: int = 0
    answered_at: float = 0.0
    examples: tuple[Turn, ...] = ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The question and, where there is one, the answer."""
        question = Turn("user", self.parts)
        if self.reply is None:
            return (question,)
        return (question, Turn("assistant", (Text(self.reply.text),), self.reply.thinking))

    @property
    def state(self) -> tuple[object, ...]:
        """All that may change while its id stays: equal ones show the same."""
        return (self.parts, self.reply, self.is_stale, self.is_hidden, tuple(self.alternatives))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of the question."""
        return Turn("user", self.parts).pictures

    @property
    def picture_tokens(self) -> tuple[int, ...]:
        """Tokens of each picture of the question, in order; () where nobody knows."""
        n, known = len(self.pictures), () if self.reply is None else self.reply.picture_tokens
        return known[-n:] if 0 < n <= len(known) else ()  # the question is the last turn of its prompt
