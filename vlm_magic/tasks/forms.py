"""What answers are held to: choices, a type, or nothing; the settings that say so, and who reads the replies.

A form goes with any call: a cell, a map on this machine, a map on a cluster. Knows choices and schemas,
not pictures, cells or notebooks. Neighbours: `choices.choices` reads choices, `schemas` and `typed` types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Engine, Reply
from vlm_magic.tasks.choices.choices import ChoiceSet
from vlm_magic.tasks.schemas import Schema, schema_of

__all__ = ["AnswerForm"]

_NOT_DRAWN: dict[str, object] = {"temperature": None, "top_p": None, "top_k": None, "sampling": False}


@dataclass(frozen=True)
class AnswerForm:
    """The form of an answer.

    Attributes:
        choices: the replies that it is chosen among, or None.
        schema: the form of the type that it has a value of, or None.
    """

    choices: ChoiceSet | None = None
    schema: Schema | None = None

    @classmethod
    def of(cls, choices: object = None, type_: object = None) -> AnswerForm:
        """Read a form from what people give.

        Raises:
            OptionError: choices and a type together, or something that is neither.
        """
        if choices is not None and type_ is not None:
            raise OptionError(
                "choices and a type do not go together",
                have="choices are whole replies, a type says what a reply may be",
                hint="one of them; Literal['red', 'blue'] is a type of choices",
            )
        return cls(
            None if choices is None else ChoiceSet.of(choices),
            None if type_ is None else schema_of(type_),
        )

    def settings_with(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a question in this form (see `vlm_magic.messages.Settings`).

        Args:
            settings: what else was asked for. Choices are compared, not drawn, whatever a conversation's own
                settings say; what is asked for here and contradicts that stays, to be refused.
        """
        if self.choices is not None:
            return {**_NOT_DRAWN, **settings, "choices": self.choices.texts}
        return {**settings, "grammar": self.schema.grammar} if self.schema is not None else dict(settings)

    def reader(self, engine: Engine) -> Callable[[Reply], object]:
        """What makes the answer of a reply: a choice's value, a value of the type, or the text.

        Args:
            engine: who answers, here or elsewhere.

        Raises:
            ModelKindError: this engine cannot be held to the type.
        """
        if self.choices is not None:
            values = dict(zip(self.choices.texts, self.choices.values, strict=True))
            return lambda reply: values[reply.text]
        if self.schema is not None:
            from vlm_magic.tasks.typed import constraint_for

            return constraint_for(engine, self.schema).read
        return lambda reply: reply.text
