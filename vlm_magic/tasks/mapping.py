"""One prompt over many pictures: decode ahead, ask in batches, keep what is answered, give a table.

`PictureMap` is the run: iterate it for its rows as they are answered, close it (or interrupt) and what is
there is kept; `map_pictures` runs one to its end and returns a table. Each picture is asked outside any
conversation. Pictures are opened by a few threads while the model answers, never more than a few
batches ahead, so that a generator of a million pictures is never held whole. Rows that were answered
before (in this kernel, or in a journal on disk) are not asked again.

Knows engines, prompts and rows, not IPython or how anything is shown. Neighbours: `rows` and `map_prompt`
say what is asked, `journal` keeps the answers, `examples` makes the shared beginning.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import (
    ModelError,
    OptionError,
    OutOfMemoryError,
    PromptError,
    VLMError,
    near_names,
    shorten,
)
from vlm_magic.inputs import sniff
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Choice, Chunk, Engine, Generating, Picture, Reply, Settings, Turn
from vlm_magic.tasks.journal import FileJournal, Journal, Memory, Record, remembered
from vlm_magic.tasks.map_prompt import MapPrompt, digest_of_parts
from vlm_magic.tasks.rows import Item, NoColumnError, items_of, open_pictures

if TYPE_CHECKING:
    import pandas as pd

    from vlm_magic.tasks.choices import ChoiceSet

__all__ = ["MappedRow", "PictureMap", "map_pictures"]

_ROWS = 16  # of a batch, where neither a person nor the engine says
_BATCHES_AHEAD = 2  # that are opened while one is answered
_WINDOW_BYTES = 256 * 2**20  # of decoded pictures that wait
_N_THREADS = 4  # that open pictures
_PICTURES_AHEAD = 8  # that are processed in one go, before the model asks for them
_MAX_FAILURES = 8  # rows in a row that the model itself failed at, before any was answered


@dataclass(frozen=True, slots=True)
class MappedRow:
    """One row with its answer, or with what went wrong.

    Attributes:
        position: its place, from 0.
        label: how the table's index calls it.
        name: how people call its picture.
        answer: the text, the best choice, or the typed value; None for an error.
        text: the answer in words, also where it does not fit its type.
        probabilities: of each choice; None where there are no choices.
        n_tokens: new tokens.
        seconds: the row's share of the time that its batch took.
        finish_reason: why the answer ended.
        error: what went wrong, in one line; "" for an answer.
        pictures: the decoded pictures; () in the rows that the map itself keeps.
        is_kept: answered by an earlier run.
    """

    position: int
    label: object
    name: str
    answer: object = None
    text: str = ""
    probabilities: Mapping[str, float] | None = None
    n_tokens: int = 0
    seconds: float = 0.0
    finish_reason: str = "stop"
    error: str = ""
    pictures: tuple[Picture, ...] = ()
    is_kept: bool = False


@dataclass(slots=True)
class _Waiting:
    """A row on its way to the model."""

    item: Item
    opened: Future[list[Picture]] | None = None
    pictures: tuple[Picture, ...] = ()
    turn: Turn | None = None
    key: str = ""
    error: str = ""

    @property
    def n_bytes(self) -> int:
        """Bytes of its decoded pictures, four a pixel."""
        return sum(4 * picture.size_px[0] * picture.size_px[1] for picture in self.pictures)

    @property
    def likeness(self) -> tuple[object, ...]:
        """Rows that sort close together are of similar cost: number and sizes of pictures, words."""
        assert self.turn is not None
        return (
            len(self.pictures),
            tuple(picture.size_px for picture in self.pictures),
            len(self.turn.text),
        )


@dataclass(slots=True)
class _Figures:
    """What a run counts."""

    n_kept: int = 0
    n_answered: int = 0
    n_errors: int = 0
    n_tokens: int = 0
    n_model_failures: int = 0
    n_rows_at_once: int = _ROWS
    notes: list[str] = field(default_factory=list)


class PictureMap:
    """A prompt on its way over many pictures.

    Args:
        engine: who answers.
        prompt: the words; ``{picture}`` is the place of the row's picture (first if absent),
            ``{row.title}`` a column of its table, other ``{names}`` as in any cell.
        pictures: a column, list, dict (name → picture), array batch, generator, glob or folder.
        table: a frame, or one mapping or object for each row, for ``{row.…}``.
        names: the variables that the prompt may use.
        name: how people call ``pictures``.
        examples: turns before every question, see `vlm_magic.tasks.examples`.
        read: makes the answer of a reply (a typed value, the label of a choice); its text if not given.
            What it raises is the row's error.
        batch_size: rows at a time; about what the machine takes if not given.
        journal: a file that finished rows are written to, and found in by the next run.
        resume: False asks every picture again.
        raw: take the prompt as it stands.
        first_line: the line of the cell that the prompt begins on, for errors.
        options: limits of pictures and downloads.
        settings: how to answer.

    Attributes:
        rows: the finished rows, in the order in which they were finished, without pictures.
        n_total: how many there are, or None where nobody knows before the end.

    Raises:
        VLMError: whatever can be known to be wrong before the first picture is asked.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: str,
        pictures: object,
        *,
        table: object = None,
        names: Mapping[str, object] | None = None,
        name: str = "",
        examples: Sequence[Turn] = (),
        read: Callable[[Reply], object] | None = None,
        batch_size: int | None = None,
        journal: str | Path | None = None,
        resume: bool = True,
        raw: bool = False,
        first_line: int = 1,
        options: PictureOptions | None = None,
        settings: Settings | None = None,
    ) -> None:
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise OptionError(f"batch_size is {batch_size!r}", have="a whole number, at least 1")
        self.engine = engine
        self.settings = settings or Settings()
        self._options = options or PictureOptions()
        self._prompt = MapPrompt(prompt, names, raw=raw, first_line=first_line, options=self._options)
        self._examples = tuple(examples)
        self._read = read or (lambda reply: reply.text)
        self._items = items_of(pictures, table, name=name)
        self._header = _header(engine, self._prompt, self._examples, self.settings)
        self._journal = self._open_journal(journal, resume)
        self._figures = _Figures(n_rows_at_once=batch_size or _ROWS)
        self._is_size_open = batch_size is None
        self._seen: dict[str, int] = {}
        self._locks = [Lock() for _ in range(64)]
        self._window: deque[_Waiting] = deque()
        self._is_drained = False
        self._source_error: Exception | None = None
        self.rows: list[MappedRow] = []
        self.n_total = self._items.n

    # What there is

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the person: halved batches, a generator that raised, a journal that is full."""
        return tuple(self._figures.notes)

    @property
    def n_kept(self) -> int:
        """Rows that an earlier run had answered."""
        return self._figures.n_kept

    @property
    def is_complete(self) -> bool:
        """Whether no row is left."""
        return self._is_drained and not self._window and self._source_error is None

    def to_frame(self) -> pd.DataFrame:
        """The finished rows in the order of the pictures.

        Returns:
            A pandas DataFrame with the columns ``picture`` (its name), ``answer``, ``tokens``, ``seconds``
            and ``error`` (None for an answer); with choices also ``probability`` of the best one and
            ``probabilities``. The index is that of the pictures' own column, or the keys of their dict.

        Raises:
            OptionError: pandas is not installed.
        """
        pandas = need_pandas()
        rows = sorted(self.rows, key=lambda row: row.position)
        columns: dict[str, Any] = {
            "picture": [row.name for row in rows],
            "answer": _column(pandas, [row.answer for row in rows]),
        }
        if self.settings.choices:
            best = [max(row.probabilities.values()) if row.probabilities else None for row in rows]
            columns["probability"] = pandas.array(best, dtype="Float64").to_numpy(
                float, na_value=float("nan")
            )
            columns["probabilities"] = _column(pandas, [row.probabilities for row in rows])
        columns["tokens"] = pandas.array([row.n_tokens for row in rows], dtype="int64")
        columns["seconds"] = pandas.array([row.seconds for row in rows], dtype="float64")
        columns["error"] = _column(pandas, [row.error or None for row in rows])
        labels = [row.label if self._items.is_labelled else row.position for row in rows]
        index = pandas.Index(labels) if labels else pandas.RangeIndex(0)
        return pandas.DataFrame(columns).set_axis(index, axis="index")

    def preview(self) -> tuple[Turn, ...]:
        """The turns of the first row, which is taken from the pictures for good.

        Raises:
            PromptError: there is no picture.
        """
        item = next(self._items.rows, None)
        self._journal.close()
        if item is None:
            raise PromptError("no pictures to map over")
        return (*self._examples, self._prompt.turn(self._open(item), item.row))

    # The run

    def __iter__(self) -> Iterator[MappedRow]:
        """The rows as they are finished; leaving the loop early stops the model and keeps what is there.

        Raises:
            VLMError: the model is gone, or fails at every row. What a generator of pictures raised is
                kept for the end: then every row before it is finished.
        """
        try:
            with ThreadPoolExecutor(_N_THREADS, "vlm_magic picture") as pool:
                try:
                    yield from self._run(pool)
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
        finally:
            self._journal.close()
        if self._source_error is not None:
            raise self._failed_source(self._source_error)

    def _run(self, pool: ThreadPoolExecutor) -> Iterator[MappedRow]:
        self._fill(pool)
        while self._window:
            yield from self._settled()
            self._settle_size()
            batch = self._take_batch()
            if batch:
                yield from self._answered(batch, pool)
            self._fill(pool)
        self._finish()

    def _finish(self) -> None:
        """Random answers are drawn anew by the next run, unless a seed or a journal says otherwise."""
        if self.settings.is_sampling and self.settings.seed is None and isinstance(self._journal, Memory):
            self._journal.clear()

    def _fill(self, pool: ThreadPoolExecutor) -> None:
        """Ask the source for the next rows and have their pictures opened, as far ahead as is allowed."""
        n_ahead = self._figures.n_rows_at_once * (1 + _BATCHES_AHEAD)
        while not self._is_drained and len(self._window) < n_ahead:
            if self._window and sum(waiting.n_bytes for waiting in self._window) > _WINDOW_BYTES:
                return
            try:
                item = next(self._items.rows)
            except StopIteration:
                self._is_drained = True
                return
            except Exception as error:
                self._is_drained, self._source_error = True, error
                return
            waiting = _Waiting(item)
            if _is_thread_safe(item.source):
                waiting.opened = pool.submit(self._open, item)
            else:  # figures and objects that draw themselves: only in the thread that made them
                waiting.opened = Future()
                _fulfil(waiting.opened, lambda item=item: self._open(item))  # type: ignore[misc]
            self._window.append(waiting)

    def _open(self, item: Item) -> list[Picture]:
        with self._locks[id(item.source) % len(self._locks)]:  # one object may stand in several rows
            return open_pictures(item, self._options)

    def _settled(self) -> Iterator[MappedRow]:
        """The rows that need no model: those that cannot be asked and those that were answered before."""
        waiting_rows, self._window = list(self._window), deque()
        n_needed = self._figures.n_rows_at_once
        for waiting in waiting_rows:
            if waiting.turn is None and len(self._window) < n_needed:
                self._look_up(waiting)
            known = self._journal.find(waiting.key) if waiting.turn is not None else None
            if waiting.error:
                yield self._failed(waiting, waiting.error)
            elif known is not None:
                yield self._kept(waiting, known)
            else:
                self._window.append(waiting)

    def _look_up(self, waiting: _Waiting) -> None:
        """Wait for a row's pictures and put its question together."""
        assert waiting.opened is not None
        try:
            waiting.pictures = tuple(waiting.opened.result())
            waiting.turn = self._prompt.turn(waiting.pictures, waiting.item.row)
        except VLMError as error:
            if isinstance(error.__cause__, NoColumnError):  # every row would say so
                raise _no_column(error.__cause__) from None
            waiting.error = _one_line(error)
        finally:
            waiting.opened = None
        if waiting.turn is not None:
            content = digest_of_parts(waiting.turn.parts)
            n = self._seen[content] = self._seen.get(content, 0) + 1
            waiting.key = content if n == 1 else f"{content}#{n}"  # the same question again is another row

    def _settle_size(self) -> None:
        """Let the engine say how many rows it takes at once, from the first question."""
        first = next((waiting for waiting in self._window if waiting.turn is not None), None)
        rows_at_once: Any = getattr(self.engine, "rows_at_once", None)
        if self._is_size_open and first is not None and rows_at_once is not None:
            self._is_size_open = False
            with suppress(VLMError):  # a question that does not fit is that row's own error
                self._figures.n_rows_at_once = rows_at_once(self._turns(first), self.settings)

    def _take_batch(self) -> list[_Waiting]:
        """The rows that are asked together: the oldest one and those most like it."""
        ready = [waiting for waiting in self._window if waiting.turn is not None]
        if not ready:
            return []
        n = self._figures.n_rows_at_once
        alike = sorted(ready, key=lambda waiting: waiting.likeness)
        at = alike.index(ready[0])
        start = min(max(0, at - n // 2), max(0, len(alike) - n))
        batch = alike[start : start + n]
        taken = set(map(id, batch))
        self._window = deque(waiting for waiting in self._window if id(waiting) not in taken)
        return batch

    def _answered(self, batch: list[_Waiting], pool: ThreadPoolExecutor) -> Iterator[MappedRow]:
        """Ask a batch; rows come as they are answered. What fails is asked again in smaller batches."""
        left = dict(enumerate(batch))
        try:
            generating = self._start([self._turns(waiting) for waiting in batch])
            self._fill(pool)  # pictures are opened while the model works
            self._look_ahead(pool)
            for chunk in generating:
                row, reply = _row_of(chunk, batch)
                if row is not None and reply is not None and row in left:
                    waiting = left.pop(row)
                    self._figures.n_model_failures = 0
                    yield self._finished(waiting, reply, len(batch))
        except OutOfMemoryError as error:
            if len(batch) > 1:
                self._halve(len(batch))
            elif left:
                yield self._failed(left.popitem()[1], _one_line(error))
            self._put_back(left)
        except VLMError as error:
            self._check_engine(error)
            if len(batch) == 1 and left:
                yield self._failed_in_model(left.popitem()[1], error)
            elif left:
                self._note(f"a batch failed, so its rows were asked one by one ({_one_line(error)})")
            for waiting in left.values():  # one of them spoils the batch: each by itself
                yield from self._answered([waiting], pool)

    def _look_ahead(self, pool: ThreadPoolExecutor) -> None:
        """Have the next batch's pictures processed beside the model's work."""
        look_ahead: Any = getattr(self.engine, "look_ahead", None)
        coming = [waiting.opened for waiting in self._window][: self._figures.n_rows_at_once]
        if look_ahead is not None and coming:
            pool.submit(_when_opened, coming, look_ahead)

    def _start(self, conversations: list[Sequence[Turn]]) -> Generating:
        start_batch: Any = getattr(self.engine, "start_batch", None)
        if start_batch is not None and len(conversations) > 1:
            generating: Generating = start_batch(conversations, self.settings)
            return generating
        if len(conversations) > 1:
            return _OneByOne(self.engine, conversations, self.settings)
        return self.engine.start(conversations[0], self.settings)

    def _turns(self, waiting: _Waiting) -> Sequence[Turn]:
        assert waiting.turn is not None
        return (*self._examples, waiting.turn)

    def _halve(self, n_rows: int) -> None:
        n = self._figures.n_rows_at_once = max(1, n_rows // 2)
        self._note(f"memory ran out, so batches were halved to {n} row{'s' * (n > 1)}")

    def _put_back(self, left: Mapping[int, _Waiting]) -> None:
        """Rows that were not answered stand first again, in their order."""
        again = sorted(left.values(), key=lambda waiting: waiting.item.position)
        self._window.extendleft(reversed(again))

    def _check_engine(self, error: VLMError) -> None:
        """Raise what would be every row's error: the model is gone."""
        if getattr(self.engine, "is_closed", False) or (type(error) is ModelError):
            raise error

    def _failed_in_model(self, waiting: _Waiting, error: VLMError) -> MappedRow:
        self._figures.n_model_failures += isinstance(error, ModelError)
        if self._figures.n_model_failures >= _MAX_FAILURES and not self._figures.n_answered:
            raise error
        return self._failed(waiting, _one_line(error))

    # Rows that are done

    def _finished(self, waiting: _Waiting, reply: Reply, n_rows: int) -> MappedRow:
        row = self._row(waiting, reply)
        record = Record(
            key=waiting.key,
            name=waiting.item.name,
            text=reply.text,
            probabilities={c.text: c.probability for c in reply.choices} if reply.choices else None,
            n_tokens=reply.n_new_tokens,
            seconds=round(reply.total_s / n_rows, 6),
            # What was read as a whole value is whole, wherever the tokens ended.
            finish_reason="stop" if self.settings.grammar and not row.error else reply.finish_reason,
            error=row.error,
        )
        self._figures.n_answered += 1
        self._figures.n_tokens += record.n_tokens
        self._write(record)
        return self._done(waiting, replace(row, seconds=record.seconds))

    def _kept(self, waiting: _Waiting, record: Record) -> MappedRow:
        """A row that an earlier run answered."""
        self._figures.n_kept += 1
        shares = record.probabilities or {}
        reply = Reply(
            record.text,
            finish_reason=record.finish_reason,  # type: ignore[arg-type]
            n_new_tokens=record.n_tokens,
            choices=tuple(Choice(text, share, math.nan, 0, math.nan) for text, share in shares.items()),
        )
        row = replace(self._row(waiting, reply), seconds=record.seconds, is_kept=True)
        return self._done(waiting, row)

    def _failed(self, waiting: _Waiting, error: str) -> MappedRow:
        item = waiting.item
        self._write(Record(waiting.key or f"row {item.position}", item.name, error=error))
        return self._done(waiting, MappedRow(item.position, item.label, item.name, error=error))

    def _row(self, waiting: _Waiting, reply: Reply) -> MappedRow:
        item, answer, error = waiting.item, None, ""
        try:
            answer = self._read(reply)
        except VLMError as failure:
            error = _one_line(failure)
        shares = {choice.text: choice.probability for choice in reply.choices}
        return MappedRow(
            item.position,
            item.label,
            item.name,
            answer,
            reply.text,
            shares or None,
            reply.n_new_tokens,
            finish_reason=reply.finish_reason,
            error=error,
        )

    def _done(self, waiting: _Waiting, row: MappedRow) -> MappedRow:
        self._figures.n_errors += bool(row.error)
        self.rows.append(row)
        return replace(row, pictures=waiting.pictures)

    def _write(self, record: Record) -> None:
        try:
            self._journal.add(record)
        except OSError as error:  # a full disk: the rows go on, in memory
            self._note(f"the journal could not be written any more: {error.strerror or error}")
            self._journal.close()
            self._journal = Memory()

    def _note(self, text: str) -> None:
        if text not in self._figures.notes:
            self._figures.notes.append(text)

    def _open_journal(self, path: str | Path | None, resume: bool) -> Journal:
        if path is not None:
            if not resume:
                raise OptionError(
                    "a journal goes on where it stopped, and every picture is to be asked again",
                    hint="--journal with a new file",
                )
            return FileJournal(path, self._header)
        kept = remembered(self._header)
        if not resume:
            kept.clear()
        return kept

    def _failed_source(self, error: Exception) -> VLMError:
        if isinstance(error, VLMError):
            return error
        failure = PromptError(
            f"the pictures ended with {type(error).__name__}: {shorten(error, 100)}",
            have=f"{len(self.rows)} rows before it are kept",
            hint="run it again once that is mended: only what is missing is asked",
        )
        failure.__cause__ = error
        return failure


def map_pictures(
    engine: Engine,
    prompt: str,
    pictures: object,
    *,
    table: object = None,
    names: Mapping[str, object] | None = None,
    examples: object = None,
    choices: object = None,
    type: object = None,  # noqa: A002 - what people call it
    batch_size: int | None = None,
    journal: str | Path | None = None,
    resume: bool = True,
    raw: bool = False,
    progress: bool = True,
    on_row: Callable[[MappedRow], None] | None = None,
    options: PictureOptions | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Ask one prompt about many pictures, each outside any conversation.

    Args:
        engine: who answers, from `vlm_magic.load`.
        prompt: the words; ``{picture}`` is the place of the picture (first if absent), ``{row.title}`` a
            column of ``table``.
        pictures: a column, list, dict (name → picture), array batch, generator, glob, folder.
        table: a frame, or one mapping or object for each picture.
        names: further variables that the prompt may use.
        examples: few-shot examples before every question, see `vlm_magic.tasks.examples`.
        choices: the replies to choose among, see `vlm_magic.tasks.choices.ChoiceSet.of`.
        type: what every answer shall be, see `vlm_magic.tasks.schemas.schema_of`.
        batch_size: pictures at a time; about what the machine takes if not given.
        journal: a file of JSON lines that survives the process; the next call with the same prompt,
            model and settings asks only what is missing in it.
        resume: False asks again what this process has answered before.
        raw: take the prompt as it stands.
        progress: show a bar.
        on_row: called with each finished row, pictures included.
        options: limits of pictures and downloads.
        **settings: as for a question (`vlm_magic.messages.Settings`): ``max_tokens``, ``system``,
            ….

    Returns:
        A pandas DataFrame in the order of the pictures, see `PictureMap.to_frame`. A picture that cannot
        be asked is a row with an ``error``.

    Raises:
        OptionError: pandas is not installed; a journal that cannot be written, is in use or belongs to
            another prompt, model or settings.
        PromptError: the generator of the pictures raised; the rows before it are kept for the next call.
        VLMError: anything else that would be wrong with every row.
    """
    need_pandas()
    shown: Sequence[Turn] = ()
    if examples is not None:
        from vlm_magic.tasks.examples import example_turns

        shown = example_turns(examples, prompt=prompt, options=options)
    read = _held(engine, choices, type, settings)
    run = PictureMap(
        engine,
        prompt,
        pictures,
        table=table,
        names=names,
        examples=shown,
        read=read,
        batch_size=batch_size,
        journal=journal,
        resume=resume,
        raw=raw,
        options=options,
        settings=Settings().updated(settings),
    )
    from tqdm.auto import tqdm

    with tqdm(total=run.n_total, unit="picture", disable=not progress, leave=False) as bar:
        for row in run:
            bar.update()
            if on_row is not None:
                on_row(row)
    return run.to_frame()


def _held(
    engine: Engine, choices: object, type_: object, settings: dict[str, Any]
) -> Callable[[Reply], object] | None:
    """Put choices or a type into the settings; what reads the answers."""
    if choices is not None and type_ is not None:
        raise OptionError("choices and a type do not go together", hint="one of them")
    if choices is not None:
        from vlm_magic.tasks.choices import ChoiceSet

        asked = ChoiceSet.of(choices)
        settings["choices"] = asked.texts
        return value_of_choice(asked)
    if type_ is not None:
        from vlm_magic.tasks.typed import constraint_for

        constraint = constraint_for(engine, type_)
        settings["grammar"] = constraint.grammar
        return constraint.read
    return None


def value_of_choice(asked: ChoiceSet) -> Callable[[Reply], object]:
    """Reads a reply as what its best choice stands for: a label, a number, a member of an Enum."""
    values = dict(zip(asked.texts, asked.values, strict=True))
    return lambda reply: values[reply.text]


def need_pandas() -> Any:
    """The pandas module.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise OptionError(
            "a map gives a pandas DataFrame, and pandas is not installed",
            hint="pip install pandas",
        ) from None
    return pandas


class _OneByOne:
    """A batch for an engine that has none: its rows one after the other."""

    def __init__(self, engine: Engine, conversations: Sequence[Sequence[Turn]], settings: Settings) -> None:
        self._engine = engine
        self._conversations = conversations
        self._settings = settings
        self._current: Generating | None = None
        self._is_stopped = False

    def __iter__(self) -> Iterator[Chunk]:
        n = len(self._conversations)
        for row, turns in enumerate(self._conversations):
            if self._is_stopped:
                return
            self._current = self._engine.start(turns, self._settings)
            for chunk in self._current:
                if chunk.reply is not None and chunk.reply.finish_reason != "interrupted":
                    reply = replace(chunk.reply, total_s=chunk.reply.total_s * n)  # shared among n rows later
                    yield Chunk("", chunk.n_new_tokens, reply, row)

    def stop(self) -> None:
        self._is_stopped = True
        if self._current is not None:
            self._current.stop()

    def wait(self, timeout_s: float | None = None) -> Reply | None:
        return self._current.wait(timeout_s) if self._current is not None else None


def _when_opened(
    futures: Sequence[Future[list[Picture]] | None], look_ahead: Callable[[list[Picture]], None]
) -> None:
    """Hand pictures on as they are opened, a few at a time; what fails is said where its row is asked."""
    opened: list[Picture] = []
    for future in futures:
        with suppress(Exception):
            opened += future.result() if future is not None else ()
        if len(opened) >= _PICTURES_AHEAD:
            look_ahead(opened)
            opened = []
    look_ahead(opened)


def _row_of(chunk: Chunk, batch: Sequence[_Waiting]) -> tuple[int | None, Reply | None]:
    """Which row a chunk ends; of a single answer the last chunk has no row of its own."""
    reply = chunk.reply
    if reply is None or reply.finish_reason == "interrupted":
        return None, None
    if chunk.row >= 0:
        return chunk.row, reply
    return (0, reply) if len(batch) == 1 else (None, None)


def _header(
    engine: Engine, prompt: MapPrompt, examples: Sequence[Turn], settings: Settings
) -> dict[str, object]:
    """What a journal knows of a map: prompt, model, settings and examples, as plain JSON values."""
    default = Settings()
    changed = {
        name: value
        for name in Settings.names()
        if (value := getattr(settings, name)) != getattr(default, name)
    }
    return {
        "prompt": "".join(prompt.text),
        "content": prompt.identity,
        "model": dict(getattr(engine, "identity", None) or {"name": engine.name}),
        "settings": {name: list(v) if isinstance(v, tuple) else v for name, v in changed.items()},
        "examples": [f"{turn.role}: {digest_of_parts(turn.parts)}" for turn in examples],
    }


def _no_column(cause: NoColumnError) -> PromptError:
    near = near_names(cause.column, cause.columns)
    return PromptError(
        f"no column {cause.column!r} for {{row.{shorten(cause.column, 60)}}}",
        have=", ".join(near or cause.columns) or "no table beside these pictures",
        hint=f"{{row.{near[0]}}}" if near else "--map frame.column, or table=frame",
        name=cause.column,
    )


def _one_line(error: VLMError) -> str:
    """An error as a cell of a table: its kind, what failed and what there is."""
    have = f" ({error.have})" if error.have else ""
    return f"{type(error).__name__}: {error.what}{have}"


def _column(pandas: Any, values: list[Any]) -> Any:
    """A column that takes any value as it is, lists and records too."""
    column = pandas.Series([None] * len(values), dtype=object)
    for n, value in enumerate(values):
        column.iat[n] = value
    if values and all(isinstance(value, str) for value in values):
        return column.astype("str")
    return column.to_numpy()


def _is_thread_safe(source: object) -> bool:
    """Whether a picture may be opened beside the others."""
    if isinstance(source, (list, tuple)):
        return all(map(_is_thread_safe, source))
    return (
        source is None
        or isinstance(source, (str, bytes, bytearray, memoryview, float, Path, Picture))
        or sniff.is_pil(source)
        or sniff.is_dataset_cell(source)
        or sniff.has_type(source, "numpy.ndarray", "torch.Tensor")
    )


def _fulfil(future: Future[list[Picture]], work: Callable[[], list[Picture]]) -> None:
    """Do the work here and now."""
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
