"""Typed answers: a question whose answer is a value of a Python type.

    colour = vlm_magic.typed(session, Literal["red", "blue"], "What colour is the square in ", picture, "?")

Every token is constrained, so the text always has the form of the type, unless it is cut off before its
end. `constraint_for` is the plain middle: its ``grammar`` goes into the settings of any call, its `read`
makes values of the replies, for one question as for a batch.

Neighbours: `schemas` knows types; `vlm_magic.models.decoding.grammar` holds a model to a form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError, TypedAnswerError
from vlm_magic.messages import Engine, Reply, Settings, as_said, can_constrain, is_here
from vlm_magic.session import Session
from vlm_magic.tasks.schemas import Schema, schema_of
from vlm_magic.wording import shorten

if TYPE_CHECKING:
    from transformers import LogitsProcessor

__all__ = ["Constraint", "constraint_for", "typed"]

_ENDINGS = {
    "length": "the token limit cut it short after {n} tokens",
    "interrupted": "it was stopped after {n} tokens",
    "time": "the time limit ended it after {n} tokens",
}
_HINTS = {
    "length": "--max-tokens {more}, or a type with limits (max_length) that says less",
    "interrupted": "ask again",
    "time": "a longer --time-limit, or a type that says less",
}


@dataclass(frozen=True)
class Constraint:
    """What holds answers to a type, and reads them.

    Attributes:
        schema: the form that the type gives.
        engine: who answers.
    """

    schema: Schema
    engine: Engine

    @property
    def grammar(self) -> str:
        """Goes into the settings of a call: ``settings.updated({"grammar": constraint.grammar})``.

        With it `start`, `generate`, `generate_batch` and `generate_several` give answers of the type.
        """
        return self.schema.grammar

    def processors(self, settings: Settings | None = None) -> list[LogitsProcessor]:
        """For a call of transformers' own ``generate``: fresh state, any number of rows and beams.

        Raises:
            OptionError: the engine is not a local one.
        """
        from vlm_magic.models.decoding.grammar import grammar_processors

        if not is_here(self.engine):
            raise OptionError(f"{self.engine.name} does not run here", have="no scores to change")
        return grammar_processors(
            self.engine.loaded, (settings or Settings()).updated({"grammar": self.grammar})
        )

    def parse(self, text: str) -> Any:
        """The value that a whole answer's text says.

        Raises:
            TypedAnswerError: it says none.
        """
        return self._parse(Reply(text))

    def read(self, reply: Reply) -> Any:
        """The value of a reply.

        Raises:
            TypedAnswerError: it was cut short, stopped, or the type does not accept it; the error keeps
                the reply and its text.
        """
        if reply.finish_reason != "stop" and not self._is_whole(reply):
            n, reason = reply.n_new_tokens, reply.finish_reason
            raise TypedAnswerError(
                f"the answer is not a whole {shorten(self.schema.name, 60)}: {_ENDINGS[reason].format(n=n)}",
                have=_quoted(reply.text),
                hint=_HINTS[reason].format(more=2 * max(n, 8)),
                text=reply.text,
                reply=reply,
            )
        return self._parse(reply)

    def _parse(self, reply: Reply) -> Any:
        try:
            return as_said(self.schema.parse(str(reply.text).strip()))
        except (ValueError, LookupError, StopIteration) as error:
            raise TypedAnswerError(
                f"the answer is not a valid {shorten(self.schema.name, 60)}: {shorten(error, 90)}",
                have=_quoted(reply.text),
                hint="a type that says in its schema what its validators want; ask again",
                text=reply.text,
                reply=reply,
            ) from error

    def _is_whole(self, reply: Reply) -> bool:
        """Whether a reply that was cut off had said everything there is to say."""
        return can_constrain(self.engine) and self.engine.is_whole(reply, Settings(grammar=self.grammar))


def constraint_for(engine: Engine, type_: object) -> Constraint:
    """What holds this engine's answers to a type; everything that can be wrong is found here.

    Args:
        engine: who answers.
        type_: see `vlm_magic.tasks.schemas.schema_of`; or what that made of it.

    Raises:
        OptionError: it cannot be the type of an answer, or nothing satisfies it.
        ModelKindError: the model's tokenizer cannot be held to a form.
    """
    constraint = Constraint(type_ if isinstance(type_, Schema) else schema_of(type_), engine)
    engine.check(Settings(grammar=constraint.grammar))
    return constraint


def typed(who: Session | Engine, type_: object, *parts: object, **settings: Any) -> Any:
    """Ask a question whose answer is a value of ``type_``.

    Args:
        who: a session, whose conversation gets the turn; or an engine, for a question on its own.
        type_: what the answer shall be, see `vlm_magic.tasks.schemas.schema_of`.
        *parts: the question: strings and anything picture-like, in order.
        **settings: for this question (see `vlm_magic.messages.Settings`).

    Returns:
        The value: an instance of the type; JSON's own values for a JSON schema, the text for a pattern.

    Raises:
        OptionError: no type of an answer, or nothing satisfies it. ModelKindError: the tokenizer cannot.
        TypedAnswerError: cut short, or refused by the type; the turn is kept, the error has its text.
    """
    session = who if isinstance(who, Session) else Session(who)
    if session.engine is None:
        raise OptionError("no model is loaded", hint="Session(vlm_magic.load()), or %vlm_load")
    constraint = constraint_for(session.engine, type_)
    return constraint.read(session.ask(*parts, grammar=constraint.grammar, **settings))


def _quoted(text: str) -> str:
    return f"{shorten(text, 150)!r} (the turn is kept)" if text else "no text"
