"""What answers: an engine, what it can do beyond answering, and one answer under way.

An engine says what it can do now (`Engine.abilities`), which settings it keeps (`Engine.check`) and what it
is (`Engine.about`); nothing is inferred from which methods a class happens to have. The small protocols
behind `Engine` are what an ability gives: ask `can_score`, `can_batch`, … and a type checker knows the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeGuard, TypeVar, runtime_checkable

from vlm_magic.errors import OptionError
from vlm_magic.messages.parts import Picture, Turn, Turns
from vlm_magic.messages.replies import Bill, Chunk, Progress, Reply, Score
from vlm_magic.messages.settings import Settings

__all__ = [
    "Ability",
    "About",
    "Batches",
    "Constrains",
    "Continues",
    "Elsewhere",
    "Engine",
    "Generating",
    "Here",
    "Parallel",
    "Remembers",
    "Request",
    "Scores",
    "can_batch",
    "can_constrain",
    "can_continue",
    "can_count",
    "can_score",
    "check_abilities",
    "check_can_continue",
    "is_elsewhere",
    "is_here",
    "is_parallel",
    "remembers",
]

T = TypeVar("T")
Ability: TypeAlias = Literal[
    "scores", "batches", "parallel", "constrains", "continues", "counts", "remembers", "here", "elsewhere"
]
"""What an engine may be able to do:

- scores: tell how likely given replies are, which choices need (`Scores`).
- batches: answer several conversations in one call (`Batches`).
- parallel: answer several questions beside each other, each with its own time (`Parallel`).
- constrains: hold an answer to ``Settings.grammar`` (`Constrains`).
- continues: go on with an answer that was cut off (`Continues`).
- counts: say what a prompt costs before it is asked; without it a `Bill` has no ``n_tokens``.
- remembers: it keeps computed prompts, and can do without them for a while (`Remembers`).
- here: its model is in this process (`Here`).
- elsewhere: its model is behind a server that is sent requests (`Elsewhere`).
"""


@dataclass(frozen=True, slots=True)
class About:
    """What an engine says of itself.

    Attributes:
        line: one line for people, the model's own name first.
        model: the model's own name, whatever people call it here.
        details: how it computes, an item each; for the status.
        remarks: what a person should know when it is loaded.
        figures: how it does: speed, what it keeps.
    """

    line: str
    model: str
    details: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


@runtime_checkable
class Generating(Protocol):
    """An answer under way. Iterating yields chunks; the last one carries the reply."""

    def __iter__(self) -> Iterator[Chunk]: ...

    def stop(self) -> None:
        """Ask it to end now; safe from any thread, harmless when it has ended."""

    def wait(self, timeout_s: float | None = None) -> Reply | None:
        """Wait for the end; the reply (partial after a stop), or None when the time-out passed first."""


class Engine(Protocol):
    """Anything that answers a conversation: a local model, a server, a scripted one in tests."""

    @property
    def name(self) -> str:
        """How people call the model."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """What it can do now beyond answering; nothing once it was closed."""

    @property
    def host(self) -> str:
        """The machine that answers, as people know it; "" for this process."""

    @property
    def is_closed(self) -> bool:
        """Whether it was unloaded or disconnected."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What must be equal for the same prompt to get the same answer, in words."""

    @property
    def about(self) -> About:
        """What it says of itself."""

    def check(self, settings: Settings) -> None:
        """Raise where it cannot keep these settings, before anything is sent or computed.

        Raises:
            OptionError: a setting that it lacks. ModelError: it was closed, or is of the wrong kind.
        """

    def start(
        self,
        turns: Turns,
        settings: Settings,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generating:
        """Queue an answer to ``turns`` (the last one is the question) and return at once.

        ``turns`` given as a function are looked up when the answer's time has come.

        ``on_end`` is called by the worker itself with the reply, partial or whole, before the last
        chunk is handed out, so that an interrupted caller loses nothing. It is not called when the
        model fails; then iterating raises.
        """

    def bill(self, turns: Sequence[Turn], settings: Settings) -> Bill:
        """What the prompt would be and cost; generates nothing."""

    def close(self) -> int:
        """Give the memory back; the number of bytes that were freed."""


class Scores(Engine, Protocol):
    """Tells how likely given replies are."""

    def score(
        self, turns: Turns, choices: Sequence[str], settings: Settings, *, with_end: bool = True
    ) -> tuple[Score, ...]:
        """How likely each choice is as the next reply: log-probabilities of whole sequences."""


class Batches(Engine, Protocol):
    """Answers several conversations in one call."""

    def rows_at_once(self, turns: Sequence[Turn], settings: Settings) -> int:
        """How many conversations like this one a batch should have."""

    def start_batch(self, conversations: Sequence[Sequence[Turn]], settings: Settings) -> Generating:
        """Queue a batch; each row's reply is a chunk with ``row`` and ``reply``, in any order."""

    def look_ahead(self, pictures: Sequence[Picture]) -> None:
        """Have pictures processed that coming prompts hold; safe from any thread."""


@dataclass(frozen=True, slots=True)
class Request:
    """One question as a server is sent it.

    Attributes:
        url: where to.
        key_env: the environment variable that holds the key; "" for none.
        body: the fields, with pictures as data URIs.
        inside: the field of the JSON object that the answer comes in; "" for an answer in plain words.
    """

    url: str
    key_env: str
    body: Mapping[str, Any]
    inside: str = ""


class Elsewhere(Engine, Protocol):
    """Its model is behind a server."""

    def request_for(self, turns: Sequence[Turn], settings: Settings) -> Request:
        """What the server would be sent."""


class Parallel(Engine, Protocol):
    """Answers several questions beside each other."""

    @property
    def at_once(self) -> int:
        """How many should be under way at a time."""

    def start_beside(self, turns: Sequence[Turn], settings: Settings) -> Generating:
        """Answer at once, beside whatever else is under way."""


class Constrains(Engine, Protocol):
    """Holds answers to a form."""

    def is_whole(self, reply: Reply, settings: Settings) -> bool:
        """Whether a reply that was cut off had said everything that its form lets it say."""


class Continues(Engine, Protocol):
    """Goes on with answers that were cut off."""

    def continue_from(
        self,
        reply: Reply,
        turns: Turns,
        settings: Settings,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generating:
        """Queue the rest of an answer and return at once; chunks and reply are those of the whole answer.

        Greedy, it is the answer that ``settings`` would have given at once: their ``max_tokens`` counts
        all of it, what ``reply`` holds included. ``turns`` are those that were answered.
        """


class Remembers(Engine, Protocol):
    """Keeps computed prompts for those that begin alike."""

    def from_nothing(self) -> AbstractContextManager[None]:
        """Answers within compute everything anew, for fair times."""

    def forget(self) -> int:
        """Empty its stores; the bytes that they held."""


class Here(Engine, Protocol):
    """Its model is in this process."""

    @property
    def loaded(self) -> Any:
        """The model, its processor and how it was loaded."""

    def in_effect(self, settings: Settings) -> Settings:
        """The settings as it answers them, with what it was loaded to use."""

    def borrow(self, work: Callable[[Any, Callable[[], None]], T]) -> T:
        """Have something done with what is loaded, when no answer is under way."""


def can_score(engine: Engine) -> TypeGuard[Scores]:
    """Whether it tells how likely a reply is."""
    return "scores" in engine.abilities


def can_batch(engine: Engine) -> TypeGuard[Batches]:
    """Whether it answers several conversations in one call."""
    return "batches" in engine.abilities


def is_elsewhere(engine: Engine) -> TypeGuard[Elsewhere]:
    """Whether its model is behind a server."""
    return "elsewhere" in engine.abilities


def is_parallel(engine: Engine) -> TypeGuard[Parallel]:
    """Whether it answers several questions beside each other."""
    return "parallel" in engine.abilities


def can_constrain(engine: Engine) -> TypeGuard[Constrains]:
    """Whether it holds answers to a form."""
    return "constrains" in engine.abilities


def can_continue(engine: Engine) -> TypeGuard[Continues]:
    """Whether it goes on with answers that were cut off."""
    return "continues" in engine.abilities


def can_count(engine: Engine) -> bool:
    """Whether it knows what a prompt costs."""
    return "counts" in engine.abilities


def remembers(engine: Engine) -> TypeGuard[Remembers]:
    """Whether it keeps computed prompts."""
    return "remembers" in engine.abilities


def is_here(engine: Engine) -> TypeGuard[Here]:
    """Whether its model is in this process."""
    return "here" in engine.abilities


def check_can_continue(engine: Engine) -> None:
    """Raise for an engine that answers from the beginning alone.

    Raises:
        OptionError: it cannot go on with an answer.
    """
    if not can_continue(engine):
        raise OptionError(
            f"{engine.name} cannot go on with an answer",
            have=f"{engine.host} answers from the beginning"
            if engine.host
            else "it answers from the beginning",
            hint="ask again with a larger max_tokens, or a model loaded here: %vlm_load",
        )


def check_abilities(engine: Engine, settings: Settings) -> None:
    """Raise for settings that need an ability which this engine lacks.

    Raises:
        OptionError: choices, or a form of the answer.
    """
    if settings.choices and not can_score(engine):
        raise OptionError(
            f"{engine.name} cannot tell how likely a reply is",
            have="it answers in its own words",
            hint="a model loaded here: %vlm_load"
            + (", or --type \"Literal['a', 'b']\"" if engine.host else ""),
        )
    if settings.grammar and not can_constrain(engine):
        raise OptionError(
            f"{engine.name} cannot be held to a type",
            have="it answers in its own words",
            hint="a model loaded here: %vlm_load",
        )
