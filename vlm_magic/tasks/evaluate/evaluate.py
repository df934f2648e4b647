"""`vlm_magic.evaluate`: ask questions whose answers are known, and say how many answers are right.

    result = vlm_magic.evaluate(engine, frame, by="kind")
    result.accuracy, result.errors[0], result.compare(other)

The questions are a map (`vlm_magic.tasks.map`), with all that it does: batches, pictures opened ahead, rows
that are kept. Knows engines and pictures, nothing of IPython. Neighbours: `judging` decides about an answer,
`evaluated` holds what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlm_magic.errors import VLMError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Engine, Picture, Settings, Turn, can_score
from vlm_magic.tasks.evaluate.evaluated import Evaluated, EvaluatedRow
from vlm_magic.tasks.evaluate.judging import Match, Matcher, matcher_of, truth_words
from vlm_magic.tasks.evaluate.questions import read_rows
from vlm_magic.tasks.examples import example_turns, question_with
from vlm_magic.tasks.forms import AnswerForm
from vlm_magic.tasks.map.mapping import PictureMap
from vlm_magic.tasks.map.prompt import MapPrompt
from vlm_magic.tasks.map.rows import RowView, items_of
from vlm_magic.tasks.map.table import MappedRow

__all__ = ["evaluate", "probability_of"]

_MAX_THUMBNAILS = 48
_THUMBNAIL_PX = 96


def evaluate(
    engine: Engine,
    questions: object,
    prompt: str | None = None,
    *,
    match: Match = "normalised",
    by: str | None = None,
    probabilities: bool = False,
    examples: object = None,
    choices: object = None,
    type: object = None,  # noqa: A002 - what people call it
    batch_size: int | None = None,
    journal: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    name: str = "",
    options: PictureOptions | None = None,
    **settings: Any,
) -> Evaluated:
    """Ask questions whose answers are known, each on its own, and judge the answers.

    Args:
        engine: who answers.
        questions: a table with the columns ``picture`` (or image, photo), ``answer`` (or caption, label) that
            holds the truth (a list: any of them), and where each has its own ``question`` (or prompt); or
            pairs ``(picture, answer)``, triples ``(picture, question, answer)``, or rows as dicts.
        prompt: what is asked where a row does not say; ``{picture}`` marks the picture's place.
        match: "exact"; "normalised", which leaves out case, punctuation and articles; or a function
            of (answer, truth).
        by: a column to group by.
        probabilities: True has the probability of every answer computed, not of wrong ones alone; one more
            forward pass for each, by an engine that can tell.
        examples: few-shot examples before every question, see `vlm_magic.tasks.examples.example_turns`.
        choices: the replies to choose among, see `vlm_magic.tasks.choices.choices.ChoiceSet.of`.
        type: what every answer shall be, see `vlm_magic.tasks.schemas.schema_of`.
        batch_size: questions at a time; about what the machine takes if not given.
        journal: a file that answered questions are kept in and found again.
        progress: called with (done, total).
        name: how to call this evaluation; the engine's name if not given.
        options: limits of pictures and downloads.
        **settings: as for a question (`vlm_magic.messages.Settings`).

    Returns:
        An `Evaluated`: ``accuracy`` with its 95 % interval, ``by_group``, ``errors``, ``compare``.

    Raises:
        PromptError: no questions, or columns that are missing.
        OptionError: ``match`` or a setting that does not fit.
    """
    judge = matcher_of(match)
    rows = read_rows(questions, by=by)
    form = AnswerForm.of(choices, type)
    asked = _OwnQuestions(prompt, options)
    table = [
        {"question": row.question, "truth": row.answer, "group": row.columns.get(by or "")} for row in rows
    ]
    run = PictureMap(
        engine,
        asked,
        items_of([_as_source(row.picture) for row in rows], table),
        examples=() if examples is None else example_turns(examples, prompt=prompt, options=options),
        read=form.reader(engine),
        batch_size=batch_size,
        journal=journal,
        options=options,
        settings=Settings().updated(form.settings_with(settings)),
    )
    done: dict[int, EvaluatedRow] = {}
    for mapped in run:
        done[mapped.position] = _judged(engine, run, mapped, judge, with_all=probabilities)
        if progress is not None:
            progress(len(done), len(rows))
    return Evaluated([done[position] for position in sorted(done)], name or engine.name)


class _OwnQuestions(MapPrompt):
    """A prompt whose words are each row's own; ``{picture}`` in them marks the picture's place."""

    def __init__(self, prompt: str | None, options: PictureOptions | None) -> None:
        super().__init__("", options=options)
        self.text = f"question: {prompt or ''}"
        self._default = prompt

    @property
    def identity(self) -> list[str]:
        return [self.text]

    def turn(self, pictures: Sequence[Picture], row: RowView) -> Turn:
        question = row["question"]
        words = self._default if question is None else str(question)
        return Turn("user", question_with(words, pictures))


def _as_source(picture: object) -> object:
    """A path in a string is one picture, not the pattern of several."""
    return (
        Path(picture)
        if isinstance(picture, str) and "://" not in picture and picture[:5] != "data:"
        else picture
    )


def _judged(
    engine: Engine, run: PictureMap, row: MappedRow, judge: Matcher, *, with_all: bool
) -> EvaluatedRow:
    """A row of the map with its verdict."""
    assert row.view is not None
    truth, group = row.view["truth"], row.view["group"]
    is_right = None if row.error else judge(row.answer, truth)
    needs_probability = not row.error and (with_all or is_right is False)
    keeps_picture = row.pictures and (row.position < _MAX_THUMBNAILS or is_right is False)
    question = row.view["question"]
    return EvaluatedRow(
        name=row.name,
        question="" if question is None else _in_words(str(question)),
        answer=None if row.error else row.answer,
        truth=truth_words(truth),
        is_right=is_right,
        group="" if group is None else str(group),
        probability=probability_of(engine, run, row) if needs_probability else None,
        error=row.error,
        seconds=row.seconds,
        thumbnail=thumbnail_data_uri(row.pictures[0], _THUMBNAIL_PX) if keeps_picture else "",
    )


def _in_words(question: str) -> str:
    """A question as a view shows it: its picture stands above it."""
    words = question.strip().removeprefix("{picture}").removesuffix("{picture}")
    return words.replace("{picture}", "[picture]").strip()


def probability_of(engine: Engine, run: PictureMap, row: MappedRow) -> float | None:
    """How likely the whole answer of a row was; None where nobody can tell.

    Of choices their share among the choices; else the probability of the answer's words and its end.
    """
    if row.probabilities:
        return max(row.probabilities.values())
    if not (row.text and row.pictures and can_score(engine)):
        return None
    try:
        (score,) = engine.score(run.turns(row), [row.text], Settings())
    except VLMError:  # a family that cannot be scored: no reason to lose the answers
        return None
    return math.exp(score.log_probability)
