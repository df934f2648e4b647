"""Few-shot examples: from a table, pairs or messages to the turns that stand before a question.

An example is a question with its picture and the answer that the person gives to it. The turns are
those of a conversation, so that chat templates and plain continuations lay them out as they do any
other, and what was computed for them is found again by every question that begins with them.

Knows pictures, turns and what an engine says a prompt costs; nothing of IPython. Neighbours:
`conversation` puts the turns before the question, `mapping` shares them among many pictures.

Source: interleaved examples as in the IDEFICS guide ("Few-shot prompting"): picture, question and
answer of each example, then the picture and the question that are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vlm_magic.errors import ContextLengthError, ConversationError, PictureError, PromptError, VLMError
from vlm_magic.inputs import pictures as picture_inputs
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Engine, Exchange, Part, Picture, Settings, Text, Turn
from vlm_magic.tasks.frames import is_missing
from vlm_magic.wording import count_words, shorten

__all__ = [
    "EXAMPLE_FORMS",
    "ExamplesFit",
    "example_turns",
    "fields_of",
    "fit_examples",
    "question_with",
    "rows_of",
]

_PICTURE_COLUMNS = ("picture", "image", "photo")
_ANSWER_COLUMNS = ("answer", "caption", "label")
_QUESTION_COLUMNS = ("question", "prompt")
_PLACE = "{picture}"  # where the picture stands in a question that is given as text
_MAX_EXAMPLES = 10_000  # a table of more rows is a data set, not examples
_ANSWER_SHARE = 10  # one part in this many of the context is left for the answer


def example_turns(
    examples: object,
    *,
    prompt: str | Sequence[Part] | None = None,
    options: PictureOptions | None = None,
) -> tuple[Turn, ...]:
    """The turns of few-shot examples: question and answer, question and answer, ….

    Args:
        examples: one of
            a table (pandas, polars, a dict of columns) with the columns ``picture`` (or image, photo)
            and ``answer`` (or caption, label), and where each has its own question ``question`` (or prompt);
            pairs ``(picture, answer)`` or triples ``(picture, question, answer)``;
            rows as dicts with those names;
            messages of a chat template, `Turn`s, or a conversation.
        prompt: what is asked about each picture where an example does not say. As text, ``{picture}``
            marks the picture's place, first if absent; as the parts of a question, the example's
            picture takes the place of the question's. None asks with the picture alone.
        options: limits of pictures and downloads.

    Returns:
        User and assistant turns by turns, pictures decoded; as many as there are examples, twice.

    Raises:
        PromptError: nothing in it, no such columns, or an example without picture or answer.
        PictureError: a picture that cannot be found, fetched or decoded; says which example.
    """
    rows = rows_of(examples)
    if not rows:
        raise PromptError("no examples", have="an empty table or list", hint=EXAMPLE_FORMS)
    if all(isinstance(row, Turn) for row in rows):
        return _checked([row for row in rows if isinstance(row, Turn)])
    if all(isinstance(row, Exchange) for row in rows):
        return _checked([turn for row in rows if isinstance(row, Exchange) for turn in row.turns])
    if all(isinstance(row, Mapping) and "role" in row for row in rows):
        return _checked([_from_message(row, n, options) for n, row in enumerate(rows, start=1)])
    turns: list[Turn] = []
    for n, row in enumerate(rows, start=1):
        picture, question, answer = fields_of(row, n)
        shown = _pictures(picture, n, options)
        asked = question_with(prompt if question is None else question, shown)
        turns += [Turn("user", asked), Turn("assistant", (Text(_answer(answer, n)),))]
    return tuple(turns)


EXAMPLE_FORMS = "columns picture and answer, or a list of (picture, answer)"
"""What examples may be, for the hints of errors."""


@dataclass(frozen=True, slots=True)
class ExamplesFit:
    """How examples fit into a model's context.

    Attributes:
        n_examples: how many there are, all of which fit.
        n_tokens: what they cost, pictures included; None where nobody can count them.
        n_room: about how many such examples would fit; None where the model does not say its context.
    """

    n_examples: int
    n_tokens: int | None
    n_room: int | None

    def __str__(self) -> str:
        said = f"{count_words(self.n_examples, 'example')} before it"
        if self.n_tokens is not None:
            said += f", {count_words(self.n_tokens, 'token')}"
        return said if self.n_room is None else f"{said}; about {self.n_room} such would fit"


def fit_examples(
    engine: Engine,
    examples: Sequence[Turn],
    question: Sequence[Turn],
    settings: Settings | None = None,
    *,
    name: str = "examples",
) -> ExamplesFit:
    """What examples cost before a question; nothing is ever dropped.

    A tenth of the context (or ``max_tokens``, if that is less) is left for the answer.

    Args:
        engine: whose context it is.
        examples: from `example_turns`.
        question: what else the prompt holds, the question last.
        settings: as for the question.
        name: how the person calls the examples, for the hint.

    Raises:
        ContextLengthError: they do not fit; carries ``n_fitting``, how many of the first would.
    """
    how = settings or Settings()
    n_examples = sum(turn.role == "user" for turn in examples)
    own = engine.bill(question, how)
    bill = engine.bill([*examples, *question], how)
    if own.n_tokens is None or bill.n_tokens is None:
        return ExamplesFit(n_examples, None, None)
    n_tokens = bill.n_tokens - own.n_tokens
    limit = bill.context_tokens
    if limit is None:
        return ExamplesFit(n_examples, n_tokens, None)
    room = limit - min(how.max_tokens, limit // _ANSWER_SHARE)
    if bill.n_tokens <= room:
        each = max(1.0, n_tokens / n_examples)
        return ExamplesFit(n_examples, n_tokens, max(n_examples, int((room - own.n_tokens) / each)))
    n_fitting = _n_fitting(engine, examples, question, how, room)
    raise ContextLengthError(
        f"{n_examples} examples make a prompt of {bill.n_tokens} tokens, {engine.name} takes {limit}",
        have=f"the first {n_fitting} fit, with {limit - room} tokens left for the answer; none was dropped",
        hint=f"--examples {name}[:{n_fitting}]" if n_fitting else "smaller pictures, or a shorter question",
        n_tokens=bill.n_tokens,
        context_tokens=limit,
        n_fitting=n_fitting,
    )


def _n_fitting(
    engine: Engine, examples: Sequence[Turn], question: Sequence[Turn], settings: Settings, room: int
) -> int:
    """How many of the first examples fit, by halving the interval."""
    starts = [n for n, turn in enumerate(examples) if turn.role == "user"]
    ends = [*starts[1:], len(examples)]
    low, high = 0, len(ends)  # low fit, high do not
    while high - low > 1:
        middle = (low + high) // 2
        n_tokens = engine.bill([*examples[: ends[middle - 1]], *question], settings).n_tokens
        is_fitting = n_tokens is None or n_tokens <= room
        low, high = (middle, high) if is_fitting else (low, middle)
    return low


# ---- reading ---------------------------------------------------------------------------------------------


def rows_of(examples: object) -> list[object]:
    """The examples one by one, whatever holds them."""
    if sniff.is_frame(examples):
        _refuse_twice(list(map(str, examples.columns)))  # type: ignore[attr-defined]
        return _table_rows({str(name): list(examples[name]) for name in examples.columns})  # type: ignore[index,attr-defined]
    if isinstance(examples, Mapping):
        columns = {str(name): value for name, value in examples.items()}
        if _column(columns, _ANSWER_COLUMNS) and not any(isinstance(v, str) for v in columns.values()):
            return _table_rows({name: list(values) for name, values in columns.items()})
        return [examples]
    if isinstance(examples, (str, bytes)) or not isinstance(examples, Iterable):
        raise PromptError(
            f"examples are a table or a list, this is a {type(examples).__name__}", hint=EXAMPLE_FORMS
        )
    try:
        rows = list(islice(examples, _MAX_EXAMPLES + 1))
    except VLMError:
        raise
    except Exception as error:  # a stranger's generator
        raise PromptError(
            "the examples cannot be read",
            have=shorten(f"{type(error).__name__}: {error}", 160),
            hint=EXAMPLE_FORMS,
        ) from error
    if len(rows) > _MAX_EXAMPLES:
        raise PromptError(f"more than {_MAX_EXAMPLES} examples", hint="the first few: examples[:8]")
    return rows


def _refuse_twice(names: Sequence[str]) -> None:
    """Raise where two columns share a name that the examples need."""
    known = (*_PICTURE_COLUMNS, *_ANSWER_COLUMNS, *_QUESTION_COLUMNS)
    twice = next((name for name in names if name.lower() in known and names.count(name) > 1), None)
    if twice is not None:
        raise PromptError(
            f"the examples have the column {twice!r} {names.count(twice)} times",
            have=f"columns {', '.join(map(repr, names))}",
            hint="frame.loc[:, ~frame.columns.duplicated()]",
        )


def _table_rows(columns: Mapping[str, list[object]]) -> list[object]:
    """A table's rows as dicts; says which columns there are where the needed ones are missing."""
    _need_columns(columns)
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise PromptError(
            "the columns of the examples have different lengths",
            have=", ".join(f"{name}: {len(values)}" for name, values in columns.items()),
            hint="one answer for each picture",
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _need_columns(columns: Iterable[str], where: str = "the examples have") -> tuple[str, str]:
    """The names of the picture's and the answer's column."""
    names = list(columns)
    picture, answer = _column(names, _PICTURE_COLUMNS), _column(names, _ANSWER_COLUMNS)
    missing = [word for word, found in (("picture", picture), ("answer", answer)) if found is None]
    if picture is None or answer is None:
        raise PromptError(
            f"{where} no {' and no '.join(missing)}",
            have=f"columns {', '.join(map(repr, names)) or 'none'}",
            hint='frame.rename(columns={"…": "picture", "…": "answer"})',
        )
    return picture, answer


def _column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first column that is called like one of ``wanted``, in any case of letters."""
    by_name = {str(name).lower(): str(name) for name in names}
    return next((by_name[name] for name in wanted if name in by_name), None)


def fields_of(row: object, n: int) -> tuple[object, str | None, object]:
    """(picture, question or None, answer) of one example."""
    if isinstance(row, Mapping):
        picture, answer = _need_columns(map(str, row), f"example {n} has")
        question = _column(map(str, row), _QUESTION_COLUMNS)
        asked = None if question is None or is_missing(row[question]) else str(row[question])
        return row[picture], asked, row[answer]
    if isinstance(row, (tuple, list)) and len(row) in (2, 3):
        return row[0], str(row[1]) if len(row) == 3 else None, row[-1]
    raise PromptError(
        f"example {n} is a {type(row).__name__}", have=shorten(repr(row), 80), hint=EXAMPLE_FORMS
    )


def _pictures(value: object, n: int, options: PictureOptions | None) -> list[Picture]:
    """The decoded pictures of one example; a string is a path or a URL, as the column is one of pictures."""
    name = f"example {n}"
    if is_missing(value):
        raise PromptError(f"{name} has no picture", have=repr(value), hint="drop the row, or give it one")
    try:
        if isinstance(value, str):
            return [picture_inputs.to_picture(value, options=options)]
        found = picture_inputs.try_pictures(value, name, options=options)
        return found if found is not None else [picture_inputs.to_picture(value, name=name, options=options)]
    except PictureError as error:
        raise type(error)(f"{name}: {error.what}", have=error.have, hint=error.hint) from error


def _answer(value: object, n: int) -> str:
    text = "" if is_missing(value) else str(value).strip()
    if not text:
        raise PromptError(
            f"example {n} has no answer", have=repr(value), hint="the answer that you would give"
        )
    return text


def question_with(prompt: str | Sequence[Part] | None, shown: Sequence[Picture]) -> tuple[Part, ...]:
    """The parts of a question with these pictures at its picture's place, see `example_turns`."""
    if prompt is None:
        return tuple(shown)
    if isinstance(prompt, str):
        before, mark, after = prompt.partition(_PLACE)
        texts = (before, after) if mark else ("", prompt)
        parts: list[Part] = [Text(texts[0]), *shown, Text(texts[1])]
        return tuple(part for part in parts if isinstance(part, Picture) or part.text)
    n_places = sum(isinstance(part, Picture) for part in prompt)
    if n_places == 0:
        return (*shown, *prompt)
    queue = list(shown)
    filled: list[Part] = []
    for part in prompt:
        if isinstance(part, Text):
            filled.append(part)
        elif n_places == len(shown):
            filled.append(queue.pop(0))
        else:  # another number of pictures: all of them where the first one stands
            filled += queue
            queue = []
    return tuple(filled)


# ---- turns and messages ----------------------------------------------------------------------------------


def _checked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Turns that can stand before a question: user and assistant by turns, each with something in it."""
    roles = [turn.role for turn in turns]
    if "system" in roles:
        raise ConversationError(
            "a system text among the examples",
            have=", ".join(roles[:8]),
            hint="--system TEXT, or Settings(system=…)",
        )
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        raise ConversationError(
            "examples are questions with their answers",
            have=shorten(", ".join(roles), 120) or "no turns",
            hint="user, assistant, user, assistant, …",
        )
    for n, turn in enumerate(turns, start=1):
        if not turn.text.strip() and not turn.pictures:
            raise ConversationError(f"turn {n} of the examples is empty", have=turn.role)
    return tuple(turns)


def _from_message(row: Any, n: int, options: PictureOptions | None) -> Turn:
    """A message of a chat template: role, and content as a string or as a list of blocks."""
    role, content = row["role"], row.get("content")
    if role not in ("user", "assistant", "system"):
        raise ConversationError(f"message {n} has the role {role!r}", have="user, assistant")
    if isinstance(content, str):
        return Turn(role, (Text(content),))
    if not isinstance(content, (list, tuple)):
        raise PromptError(f"message {n} has no content", have=shorten(repr(content), 80))
    read: Callable[[Any], list[Part]] = lambda block: _from_block(block, n, options)  # noqa: E731
    return Turn(role, tuple(part for block in content for part in read(block)))


def _from_block(block: Any, n: int, options: PictureOptions | None) -> list[Part]:
    if isinstance(block, str):
        return [Text(block)]
    if isinstance(block, Mapping) and block.get("type") == "text":
        return [Text(str(block.get("text", "")))]
    if isinstance(block, Mapping) and block.get("type") in ("image", "image_url"):
        keys = [key for key in ("image", "url", "path", "base64", "image_url") if block.get(key) is not None]
        value = block[keys[0]] if keys else None
        if isinstance(value, Mapping):  # {"image_url": {"url": …}}
            value = value.get("url")
        return list(_pictures(value, n, options))
    raise PromptError(
        f"message {n} has a block that is neither text nor an image", have=shorten(repr(block), 100)
    )
