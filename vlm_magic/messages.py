"""The vocabulary that all rooms share: parts, turns, settings, chunks, replies and the Engine protocol.

Pure data. This module knows nothing of torch, transformers or IPython, and of PIL only the type of
a decoded picture. `inputs` makes parts, `conversation` keeps exchanges, `models` turns them into
chunks and a reply, `outputs` shows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from vlm_magic.errors import OptionError, PictureTypeError, near_names

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Bill",
    "Choice",
    "Chunk",
    "Engine",
    "Exchange",
    "FinishReason",
    "Generating",
    "Normalize",
    "Part",
    "Picture",
    "Progress",
    "Reply",
    "Role",
    "Settings",
    "Text",
    "Turn",
    "Turns",
    "turns_now",
]

Role: TypeAlias = Literal["system", "user", "assistant"]
FinishReason: TypeAlias = Literal["stop", "length", "interrupted", "time"]
Normalize: TypeAlias = Literal["none", "length", "prior"]


@dataclass(frozen=True, slots=True)
class Text:
    """Words of a prompt, shown to the model literally (never scanned again, never control tokens)."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture of a prompt: where it came from and, once decoded, its pixels.

    A person makes one to say that a string is a path, a URL or a data URI: ``Picture("cat.png")``.
    `vlm_magic.inputs.pictures.to_picture` fills in the rest.

    Attributes:
        source: what the person gave (path, URL, PIL image, array, …); may be None once decoded.
        name: how the person called it, for the thumbnail's label ("cat", "photos[2]", "cat.png").
        image: upright RGB `PIL.Image`, or None while not decoded. Never changed in place.
        digest: hexadecimal hash of the decoded pixels and size; "" while not decoded. Equal
            pictures have equal digests.
        note: a guess that was made while decoding, in words ("first of 12 frames"), or "".
    """

    source: object
    name: str = ""
    image: Image.Image | None = None
    digest: str = ""
    note: str = ""

    @property
    def rgb(self) -> Image.Image:
        """The decoded RGB picture.

        Raises:
            PictureTypeError: it was not decoded yet.
        """
        if self.image is None:
            raise PictureTypeError(
                f"picture {self.name or self.source!r} is not decoded yet",
                hint="vlm_magic.inputs.pictures.to_picture(picture)",
            )
        return self.image

    @property
    def is_lost(self) -> bool:
        """Whether its pixels were known once and are no longer there; see `Conversation.restore`."""
        return self.image is None and bool(self.digest)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height) in pixels of the decoded picture."""
        return self.rgb.size


Part: TypeAlias = Text | Picture


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said: words and pictures in their order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The words alone, pictures left out."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures alone, in their order."""
        return tuple(part for part in self.parts if isinstance(part, Picture))


Turns: TypeAlias = Sequence[Turn] | Callable[[], Sequence[Turn]]
"""The turns of a prompt, or a function that gives them when the answer's time has come."""


def turns_now(turns: Turns) -> tuple[Turn, ...]:
    """The turns as they are now; an answer that waited in line sees what was said meanwhile."""
    return tuple(turns() if callable(turns) else turns)


@dataclass(frozen=True, slots=True)
class Settings:
    """How to answer. Greedy unless sampling is asked for, whatever the checkpoint's own defaults.

    Attributes:
        max_tokens: the most new tokens.
        system: system text put before the conversation; "" for none.
        temperature: above 0 samples; None or 0 is greedy.
        top_p: sample from the smallest set of tokens with this probability; asks for sampling.
        top_k: sample from this many tokens; asks for sampling.
        seed: makes sampling repeatable.
        beams: beams of a beam search; 1 is none.
        time_limit_s: stop after this many seconds with what there is.
        sampling: True takes the checkpoint's own generation defaults (its ``generation_config``).
        repetition_penalty: above 1 discourages tokens that are there already.
        stop: strings that end the answer (they are not part of it).
        bad_words: strings that the answer must not contain.
        continuation: plain continuation without the chat template (base checkpoints do so anyway).
        special_tokens: True lets text name the model's control tokens on purpose.
        log_probabilities: True gives the log-probability of each new token with the reply.
        choices: the replies to choose among: the answer is the likeliest of them, nothing is generated.
        normalize: how choices of different length and commonness are compared; see
            `vlm_magic.models.choosing`.
        grammar: JSON text that says the form that the answer must have, or "": ``{"json_schema": {…}}`` or
            ``{"regex": "…"}`` (see `vlm_magic.tasks.schemas`, which makes it from a Python type).
    """

    max_tokens: int = 512
    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    beams: int = 1
    time_limit_s: float | None = None
    sampling: bool = False
    repetition_penalty: float | None = None
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    continuation: bool = False
    special_tokens: bool = False
    log_probabilities: bool = False
    choices: tuple[str, ...] = ()
    normalize: Normalize = "none"
    grammar: str = ""

    def __post_init__(self) -> None:
        _check_range("max_tokens", self.max_tokens, low=1)
        _check_range("temperature", self.temperature, low=0)
        _check_range("top_p", self.top_p, low=0, high=1)
        _check_range("top_k", self.top_k, low=1)
        _check_range("beams", self.beams, low=1)
        _check_range("time_limit_s", self.time_limit_s, low=0)
        _check_range("repetition_penalty", self.repetition_penalty, low=0)
        if self.beams > 1 and self.is_sampling:
            raise OptionError(
                "beam search does not sample",
                have=f"beams={self.beams} together with temperature, top_p, top_k or sampling",
                hint="either beams or a temperature",
            )
        _check_choices(self)

    @property
    def is_sampling(self) -> bool:
        """Whether tokens are drawn at random."""
        return bool(self.temperature) or self.top_p is not None or self.top_k is not None or self.sampling

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(f.name for f in fields(cls))

    def updated(self, values: Mapping[str, object]) -> Settings:
        """A copy with ``values`` in place.

        Raises:
            OptionError: a name that is no setting, or a value out of its range.
        """
        for name in values:
            if name not in self.names():
                near = near_names(name, self.names())
                raise OptionError(
                    f"no setting {name!r}",
                    have=", ".join(near or self.names()),
                    hint=f"{near[0]}=…" if near else "",
                    name=name,
                )
        return replace(self, **values)  # type: ignore[arg-type]


def _check_range(
    name: str, value: float | None, *, low: float | None = None, high: float | None = None
) -> None:
    """Raise an OptionError unless ``value`` is None or a number within [low, high]."""
    if value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        is_number
        and not math.isnan(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
    ):
        return
    bounds = f"at least {low}" if high is None else f"from {low} to {high}"
    raise OptionError(f"{name} is {value!r}", have=f"{name} is a number, {bounds}", name=name, value=value)


def _check_choices(settings: Settings) -> None:
    """Raise an OptionError for choices that cannot be compared."""
    choices = settings.choices
    if settings.normalize not in ("none", "length", "prior"):
        raise OptionError(f"normalize is {settings.normalize!r}", have="none, length, prior")
    if not choices:
        return
    if isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
        raise OptionError("choices are several texts", have=repr(choices), hint='choices=("yes", "no")')
    if any(not choice.strip() for choice in choices):
        raise OptionError("an empty choice", have=", ".join(map(repr, choices)), hint="words for each choice")
    twice = sorted({choice for choice in choices if choices.count(choice) > 1})
    if twice:
        raise OptionError(
            f"a choice stands twice: {', '.join(map(repr, twice))}",
            have=", ".join(map(repr, choices)),
            hint="each choice once",
        )
    if len(choices) < 2:
        raise OptionError("one choice alone", have=repr(choices[0]), hint="two choices or more")
    if settings.is_sampling or settings.beams > 1:
        raise OptionError(
            "choices are compared, not drawn or searched",
            have="choices together with temperature, top_p, top_k, sampling or beams",
            hint="choices alone",
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the replies that an answer was chosen among.

    Attributes:
        text: its words.
        probability: its share among the choices, from 0 to 1; they add up to 1.
        log_probability: natural logarithm of the model's own probability of the whole reply, its end
            included; (−∞, 0].
        n_tokens: its tokens, the end included.
        score: what was compared: the log-probability, normalised as asked.
    """

    text: str
    probability: float
    log_probability: float
    n_tokens: int
    score: float


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished (or interrupted) answer with its figures.

    Attributes:
        text: what the model said.
        finish_reason: "stop" (it ended by itself), "length" (max_tokens), "interrupted" or "time".
        n_prompt_tokens: tokens of the prompt, pictures included.
        n_picture_tokens: those of them that stand for pictures.
        picture_tokens: tokens of each picture of the prompt, in order; () where nobody knows.
        n_reused_tokens: prompt tokens that were not computed again.
        n_new_tokens: tokens that were generated.
        ttft_s: seconds from the start of the work to the first token.
        tokens_per_s: decode speed after the first token; 0.0 for fewer than two tokens.
        total_s: seconds of the whole answer.
        model: name of the model that answered.
        notes: remarks for the proof line, not the model's words.
        token_ids: the new tokens, end token left out.
        log_probabilities: of each of them, from the distribution that it was chosen from; () unless
            the settings asked for them.
        choices: what the answer was chosen among, in the order of the settings; () for words of its own.
    """

    text: str
    finish_reason: FinishReason = "stop"
    n_prompt_tokens: int = 0
    n_picture_tokens: int = 0
    n_reused_tokens: int = 0
    n_new_tokens: int = 0
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    total_s: float = 0.0
    model: str = ""
    notes: tuple[str, ...] = ()
    picture_tokens: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    choices: tuple[Choice, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def is_partial(self) -> bool:
        """Whether the answer was cut off by a stop or a time limit."""
        return self.finish_reason in ("interrupted", "time")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer as it comes.

    Attributes:
        text: the new words, possibly "".
        n_new_tokens: tokens generated so far.
        reply: the whole answer; set on the last chunk only, and in a batch on each row's own.
        row: in a batch, whose answer this is; -1 elsewhere.
    """

    text: str
    n_new_tokens: int = 0
    reply: Reply | None = None
    row: int = -1


@dataclass(frozen=True, slots=True)
class Progress:
    """What an answer is waiting for.

    Attributes:
        stage: "queued" (done = answers ahead), "pictures", "prefill" or "decode".
        done: units done, or answers ahead while queued.
        total: units in all; 0 where unknown.
    """

    stage: Literal["queued", "pictures", "prefill", "decode"]
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a prompt costs, without generating.

    Attributes:
        n_tokens: tokens of the prompt, pictures included.
        picture_tokens: tokens of each picture, in order.
        context_tokens: the model's context, or None where it does not say.
        rendered: the prompt after the chat template, as the tokenizer sees it.
        notes: remarks (text that had to be neutralised, …).
        picture_grids: (rows, columns) of the tiles each picture was cut into; (1, 1) for a whole one,
            () where nobody knows.
    """

    n_tokens: int
    picture_tokens: tuple[int, ...]
    context_tokens: int | None
    rendered: str
    notes: tuple[str, ...] = ()
    picture_grids: tuple[tuple[int, int], ...] = ()


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
        return (question, Turn("assistant", (Text(self.reply.text),)))

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures of the question."""
        return Turn("user", self.parts).pictures

    @property
    def picture_tokens(self) -> tuple[int, ...]:
        """Tokens of each picture of the question, in order; () where nobody knows."""
        n, known = len(self.pictures), () if self.reply is None else self.reply.picture_tokens
        return known[-n:] if 0 < n <= len(known) else ()  # the question is the last turn of its prompt


@runtime_checkable
class Generating(Protocol):
    """An answer under way. Iterating yields chunks; the last one carries the reply."""

    def __iter__(self) -> Iterator[Chunk]: ...

    def stop(self) -> None:
        """Ask it to end now; safe from any thread, harmless when it has ended."""

    def wait(self, timeout_s: float | None = None) -> Reply | None:
        """Wait for the end; the reply (partial after a stop), or None when the time-out passed first."""


@runtime_checkable
class Engine(Protocol):
    """Anything that answers a conversation: a local model, a server, a scripted fake in tests."""

    @property
    def name(self) -> str:
        """How people call the model."""

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
