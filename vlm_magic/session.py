"""The plain-Python front door: an engine, a conversation, and pictures in their order.

    engine = vlm_magic.load()
    session = vlm_magic.Session(engine)
    print(session.ask("What is in ", picture, "?"))

The magics do nothing that this cannot do. Knows nothing of IPython or widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlm_magic.conversation import CellKey, Conversation
from vlm_magic.errors import (
    ConversationError,
    PromptError,
)
from vlm_magic.inputs.parts import to_parts
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
    SaidToken,
    Settings,
    Turn,
    can_continue,
    check_can_continue,
)

if TYPE_CHECKING:
    from vlm_magic.explain.explanation import Explanation

__all__ = ["Answer", "Session", "to_parts"]


class Answer:
    """One question under way: iterate it for its chunks, `stop` or `cancel` it, `wait` for its reply.

    Attributes:
        exchange: the question; after the end, with its reply and at its place in the conversation.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._is_cancelled = False
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

    def cancel(self) -> None:
        """Take the question back: where nothing was said yet, no turn comes of it; else it is stopped."""
        self._is_cancelled = True
        self.stop()

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
            VLMError: a part that is not a picture, a setting that does not exist, a model that failed.
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
            fresh: let the conversation begin with this question, once it is answered (see
                `Conversation.commit`).
            engine: who answers this question, if not the session's own.
            on_commit: called by the worker when the answer, partial or whole, is in the conversation.
            on_progress: called by the worker with what the answer waits for.
            examples: few-shot examples to show the model before everything else, from
                `vlm_magic.tasks.examples.example_turns`.
            remarks: what else to tell the person, put before the reply's own notes.
            **settings: for this question only.

        Raises:
            OptionError: a setting that the engine cannot keep; nothing was sent or computed.
        """
        answering = self._engine(engine)
        exchange = self.draft(to_parts(parts), self.settings.updated(settings), key, replaces, examples)
        answering.check(exchange.settings)
        answer = Answer(exchange)

        def commit(reply: Reply) -> None:
            if answer._is_cancelled and not reply.n_new_tokens:
                return
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

    def continue_answer(
        self,
        exchange_id: str = "",
        *,
        max_tokens: int | None = None,
        engine: Engine | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Answer:
        """Go on with an answer that was cut off, at the token limit or by a stop; it stays one answer.

        Greedy, it is the answer that a larger limit would have given at once. Later turns, which saw it cut
        off, become stale.

        Args:
            exchange_id: the turn; "" is the last one.
            max_tokens: the most tokens to add; as many again as its limit so far, if not given.
            engine: who goes on, if not the session's own.
            on_progress: as for `start`.

        Raises:
            ConversationError: no such turn, or its answer has an end.
            OptionError: the engine cannot go on with an answer, or not with one of this kind.
        """
        exchange = self._cut_off(exchange_id)
        before, engine = exchange.reply, self._engine(engine)
        assert before is not None
        check_can_continue(engine)
        assert can_continue(engine)
        more = exchange.settings.max_tokens if max_tokens is None else max_tokens
        settings = exchange.settings.updated({"max_tokens": max(1, before.n_new_tokens) + more})
        draft = self.draft(exchange.parts, settings, replaces=exchange.id, examples=exchange.examples)
        answer = Answer(draft)

        def commit(reply: Reply) -> None:
            stands = not reply.n_new_tokens  # stopped while it waited in line
            done = exchange if stands else self.conversation.commit(draft, reply, joins=True)
            answer.exchange = done

        def turns() -> tuple[Turn, ...]:
            return self.conversation.turns_for(draft)

        return answer._is_made_by(
            engine.continue_from(before, turns, settings, on_end=commit, on_progress=on_progress)
        )

    def _cut_off(self, exchange_id: str) -> Exchange:
        """The turn whose answer is gone on with."""
        turns = self.conversation.exchanges
        if not exchange_id and not turns:
            raise ConversationError("there is no answer to go on with", have="no turns yet")
        exchange = self.conversation.find(exchange_id) if exchange_id else turns[-1]
        if exchange.reply is None or exchange.reply.finish_reason == "stop":
            raise ConversationError(
                "the answer came to its end by itself: there is nothing to go on with",
                have=f"turn {exchange.id!r}",
                hint="ask for more in a further question",
            )
        return exchange

    def explain(
        self,
        *views: str,
        turn: str | None = None,
        engine: Engine | None = None,
        others: Sequence[Picture] = (),
        on_progress: Callable[[str, int, int], None] | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> Explanation:
        """Why this answer: look at it from several sides by asking the model again in other ways.

            session.explain("needed", "words").needed[0].says

        Neither the conversation nor what the engine keeps for reuse changes.

        Args:
            *views: names of `vlm_magic.explain.explanation.VIEWS`; "needed" and "words" if not given.
            turn: id of the turn; the last one that was answered if not given.
            engine: who is asked, if not the session's own.
            others: pictures to ask with instead; earlier ones of the conversation if not given.
            on_progress: called with (view, questions asked, questions expected).
            is_stopped: asked between questions; True ends it.

        Raises:
            ConversationError: nothing was answered yet, or no such turn.
            OptionError: no such view, no picture to look at, or an engine that cannot tell.
        """
        from vlm_magic.explain.looking import explain

        asked = self._answered(turn)
        turns = self.conversation.turns_for(replace(asked, replaces=asked.id))
        before = [picture for other in self.conversation for picture in other.pictures]
        return explain(
            self._engine(engine),
            asked,
            turns,
            views,
            exchanges=self.conversation.exchanges,
            others=others or [picture for picture in reversed(before) if not picture.is_lost],
            on_progress=on_progress,
            is_stopped=is_stopped,
        )

    def continue_with(
        self,
        word: str,
        place: int | None = None,
        *,
        turn: str | None = None,
        words: Sequence[SaidToken] = (),
        engine: Engine | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Answer:
        """Take another word at a place of an answer and let the model go on from there.

        What comes is another answer of the turn; the one so far becomes an alternative, and later turns
        become stale.

        Args:
            word: what to say there; one of the likeliest tokens of the view "words", or any other text.
            place: of the token that it takes the place of, from 1; the first place where it was among the
                likeliest if not given.
            turn: id of the turn; the last one that was answered if not given.
            words: the view "words" of this answer, where somebody has it; read anew if not given.
            engine: who goes on, if not the session's own.
            on_progress: as for `start`.

        Raises:
            ConversationError: nothing was answered yet, or no such turn.
            OptionError: no such place, or an engine that cannot go on with an answer.
        """
        from vlm_magic.explain.alternatives import begun_with, remark

        exchange, answering = self._answered(turn), self._engine(engine)
        check_can_continue(answering)
        words = words or self.explain("words", turn=exchange.id, engine=answering).words
        begun, n = begun_with(answering, words, word, place)
        draft = self.draft(
            exchange.parts, exchange.settings, replaces=exchange.id, examples=exchange.examples
        )
        answer = Answer(draft)

        def commit(reply: Reply) -> None:
            told = replace(reply, notes=(*reply.notes, remark(words[n], word)))
            answer.exchange = self.conversation.commit(draft, told) if reply.n_new_tokens else exchange

        def turns() -> tuple[Turn, ...]:
            return self.conversation.turns_for(draft)

        assert can_continue(answering)
        return answer._is_made_by(
            answering.continue_from(begun, turns, draft.settings, on_end=commit, on_progress=on_progress)
        )

    def _answered(self, turn: str | None) -> Exchange:
        """The turn of this id; without one, the last that was answered."""
        if turn is not None:
            return self.conversation.find(turn)
        answered = [exchange for exchange in self.conversation if exchange.reply is not None]
        if not answered:
            raise ConversationError(
                f"nothing has been answered yet in conversation {self.conversation.name!r}",
                have="no turns yet",
                hint="a question first",
            )
        return answered[-1]

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
