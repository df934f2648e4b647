"""The plain-Python front door: an engine, a conversation, and pictures in their order.

    engine = vlm_magic.load()
    session = vlm_magic.Session(engine)
    print(session.ask("What is in ", picture, "?"))

The magics do nothing that this cannot do. Knows nothing of IPython or widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm_magic.conversation import CellKey, Conversation
from vlm_magic.errors import OptionError, PictureNotFoundError, PictureTypeError, PromptError
from vlm_magic.inputs import pictures
from vlm_magic.messages import (
    Bill,
    Chunk,
    Engine,
    Exchange,
    Generating,
    Part,
    Picture,
    Progress,
    Reply,
    Settings,
    Text,
    Turn,
)

__all__ = ["Answer", "Session", "to_parts"]


class Answer:
    """One question under way: iterate it for its chunks, `stop` it, `wait` for its reply.

    Attributes:
        exchange: the question; after the end, with its reply and at its place in the conversation.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._generating: Generating | None = None

    def _is_made_by(self, generating: Generating) -> Answer:
        self._generating = generating
        return self

    def __iter__(self) -> Iterator[Chunk]:
        assert self._generating is not None
        return iter(self._generating)

    def stop(self) -> None:
        """Ask it to end now; the partial answer is kept."""
        assert self._generating is not None
        self._generating.stop()

    def wait(self, timeout_s: float | None = None) -> Reply | None:
        """Wait for the end and return the reply; None if the time-out passed first."""
        assert self._generating is not None
        return self._generating.wait(timeout_s)


class Session:
    """A conversation with an engine.

    Args:
        engine: who answers, from `vlm_magic.load`.
        conversation: where the turns go; a new one if not given.
        **settings: defaults for every question (see `vlm_magic.messages.Settings`).

    Attributes:
        engine: may be set to another one between questions; the conversation stays.
        conversation: the turns.
        settings: the defaults.
    """

    def __init__(
        self, engine: Engine | None = None, conversation: Conversation | None = None, **settings: Any
    ) -> None:
        self.engine = engine
        self.conversation = conversation if conversation is not None else Conversation()
        self.settings = Settings().updated(settings)

    def ask(self, *parts: object, **settings: Any) -> Reply:
        """Ask and wait for the whole answer.

        Args:
            *parts: in order, strings (always text) and anything picture-like; a path is a `Path`
                or a `Picture`.
            **settings: for this question only.

        Raises:
            VLMError: a part that is no picture, a setting that does not exist, a model that failed.
        """
        answer = self.start(parts, **settings)
        for _ in answer:
            pass
        reply = answer.wait()
        assert reply is not None
        return reply

    def stream(self, *parts: object, **settings: Any) -> Iterator[Chunk]:
        """Ask and yield the chunks of the answer; the last one carries the reply.

        Closing the iterator early stops the answer and keeps its partial text.
        """
        yield from self.start(parts, **settings)

    def bill(
        self,
        *parts: object,
        key: CellKey | None = None,
        fresh: bool = False,
        engine: Engine | None = None,
        examples: Sequence[Turn] = (),
        **settings: Any,
    ) -> tuple[Bill, tuple[Picture, ...]]:
        """What the model would be given for this question, its cost, and all pictures of the prompt.

        Generates nothing. Arguments are those of `start`; the pictures are in the order of the
        bill's ``picture_tokens``, those of earlier turns first.
        """
        exchange = self.draft(to_parts(parts), self.settings.updated(settings), key, examples=examples)
        turns = self.conversation.turns_for(exchange, fresh=fresh)
        pictures = tuple(picture for turn in turns for picture in turn.pictures)
        return self._engine(engine).bill(turns, exchange.settings), pictures

    def draft(
        self,
        parts: Sequence[Part],
        settings: Settings,
        key: CellKey | None = None,
        replaces: str = "",
        examples: Sequence[Turn] = (),
    ) -> Exchange:
        """The question as an exchange that is not part of the conversation yet."""
        if not any(isinstance(part, Picture) or part.text.strip() for part in parts):
            raise PromptError("an empty prompt", hint="a question, a picture, or both")
        return self.conversation.draft(tuple(parts), settings, key, replaces, tuple(examples))

    def start(
        self,
        parts: Iterable[object],
        *,
        key: CellKey | None = None,
        replaces: str = "",
        fresh: bool = False,
        engine: Engine | None = None,
        on_commit: Callable[[Exchange], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        examples: Sequence[Turn] = (),
        remarks: Sequence[str] = (),
        **settings: Any,
    ) -> Answer:
        """Queue a question and return its handle at once.

        Args:
            parts: as for `ask`.
            key: the cell's call that owns the turn; the same key again replaces it in place.
            replaces: id of a turn whose place this question takes (an edit).
            fresh: start the conversation over with this question, once it is answered.
            engine: who answers this question, if not the session's own.
            on_commit: called by the worker when the answer, partial or whole, is in the conversation.
            on_progress: called by the worker with what the answer waits for.
            examples: few-shot examples to show the model before everything else, from
                `vlm_magic.tasks.examples.example_turns`.
            remarks: what else to tell the person, put before the reply's own notes.
            **settings: for this question only.

        Raises:
            OptionError: choices for an engine that cannot compare replies.
        """
        answering = self._engine(engine)
        exchange = self.draft(to_parts(parts), self.settings.updated(settings), key, replaces, examples)
        if exchange.settings.choices and not hasattr(answering, "score"):
            raise OptionError(
                f"{answering.name} cannot tell how likely a reply is",
                have="it answers in its own words",
                hint="a model loaded here: %vlm_load",
            )
        answer = Answer(exchange)

        def commit(reply: Reply) -> None:
            told = replace(reply, notes=(*remarks, *reply.notes)) if remarks else reply
            answer.exchange = self.conversation.commit(exchange, told, fresh=fresh)
            if on_commit is not None:
                on_commit(answer.exchange)

        def turns() -> tuple[Turn, ...]:
            return self.conversation.turns_for(exchange, fresh=fresh)

        return answer._is_made_by(
            answering.start(turns, exchange.settings, on_end=commit, on_progress=on_progress)
        )

    def again(self, exchange_id: str, **options: Any) -> Answer:
        """Ask a turn's question again, in its place: nothing is evaluated or looked up anew.

        The answer so far becomes an alternative. Options are those of `start`; without settings among
        them the turn's own are used.

        Raises:
            ConversationError: no such turn.
        """
        exchange = self.conversation.find(exchange_id)
        own = {name: getattr(exchange.settings, name) for name in Settings.names()}
        asked = {"examples": exchange.examples, **own, **options}
        return self.start(exchange.parts, replaces=exchange_id, **asked)

    def refresh(self) -> int:
        """Ask every stale turn again, in order; returns how many there were."""
        stale = [exchange.id for exchange in self.conversation if exchange.is_stale]
        for exchange_id in stale:
            for _ in self.again(exchange_id):
                pass
        return len(stale)

    def reset(self) -> int:
        """Forget the conversation; returns how many turns there were."""
        return self.conversation.clear()

    def _engine(self, other: Engine | None = None) -> Engine:
        engine = other or self.engine
        if engine is None:
            raise PromptError("no model is loaded", hint="Session(vlm_magic.load()), or %vlm_load")
        return engine


def to_parts(values: Iterable[object]) -> tuple[Part, ...]:
    """Strings to text, everything else to decoded pictures, in order; texts side by side are joined.

    Raises:
        PictureTypeError: something that is neither.
        PictureError: a picture that cannot be found, fetched or decoded.
    """
    parts: list[Part] = []
    for n, value in enumerate(values, start=1):
        for part in _to_parts_of_one(value, n):
            if isinstance(part, Text) and parts and isinstance(parts[-1], Text):
                parts[-1] = replace(parts[-1], text=parts[-1].text + part.text)
            else:
                parts.append(part)
    return tuple(parts)


def _to_parts_of_one(value: object, n: int) -> Sequence[Part]:
    if isinstance(value, str):
        return (Text(value),) if value else ()
    if isinstance(value, Text):
        return (value,)
    if isinstance(value, Picture) and value.is_lost:
        raise PictureNotFoundError(
            f"picture {value.name!r} of this turn is no longer on this machine",
            have="the words of the turn; full pictures are kept in a bounded store",
            hint="run its cell again, or ask anew with the picture",
            name=value.name,
        )
    if isinstance(value, (Picture, Path)):
        return (pictures.to_picture(value),)
    found = None if isinstance(value, Mapping) else pictures.try_pictures(value, f"picture {n}")
    if found is None:
        raise PictureTypeError(
            f"part {n} is a {type(value).__name__}, neither text nor a picture",
            have="strings, PIL images, arrays, tensors, figures, Path objects, vlm_magic.Picture",
            hint="str(value) for its text, vlm_magic.Picture(value) for a path or URL",
            value_type=type(value).__name__,
        )
    return found
