"""``%%vlm --map``: one prompt over many pictures, shown as a contact sheet that fills as answers come.

Neighbours: `vlm_magic.tasks.mapping` does the work, `vlm_magic.outputs.mapping` draws the sheet.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vlm_magic.errors import OptionError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Picture, Settings, Turn
from vlm_magic.outputs.bill import bill_bundle
from vlm_magic.outputs.mapping import MAX_CARDS, Card, Sheet, sheet_bundle
from vlm_magic.outputs.views import surroundings
from vlm_magic.shell.showing import Interrupted, show_bundle
from vlm_magic.workspace import Workspace

if TYPE_CHECKING:
    from vlm_magic.tasks.choices import ChoiceSet
    from vlm_magic.tasks.map_table import MappedRow
    from vlm_magic.tasks.mapping import PictureMap
    from vlm_magic.tasks.schemas import Schema

__all__ = ["map_cell"]

_THUMBNAIL_PX = 96
_N_NEWEST = 12  # cards of a sheet that is still filling
_UPDATE_S = 0.5  # an update carries some 25 kB; later ones come less often


class _Asked(Protocol):
    """What a line asked for (see `asking.Call`)."""

    @property
    def out(self) -> str | None: ...
    @property
    def conversation(self) -> str | None: ...
    @property
    def new(self) -> bool: ...
    @property
    def model(self) -> str | None: ...
    @property
    def raw(self) -> bool: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def map(self) -> str | None: ...
    @property
    def journal(self) -> str | None: ...
    @property
    def batch_size(self) -> int | None: ...


def map_cell(
    shell: Any,
    workspace: Workspace,
    call: _Asked,
    text: str,
    settings: Mapping[str, Any],
    *,
    first_line: int = 1,
    pictures: PictureOptions | None = None,
    save_thumbnails: bool = True,
    examples: Sequence[Turn] = (),
    choices: ChoiceSet | None = None,
    schema: Schema | None = None,
) -> None:
    """Ask the prompt about every picture; ``-o`` gets the table, also of an interrupted run."""
    from vlm_magic.tasks.map_calls import value_of_choice
    from vlm_magic.tasks.map_table import need_pandas
    from vlm_magic.tasks.mapping import PictureMap
    from vlm_magic.tasks.rows import evaluated
    from vlm_magic.tasks.typed import constraint_for

    assert call.map is not None
    if call.conversation is not None:
        raise OptionError("a map is outside the conversation", have="-c", hint="--map without it")
    need_pandas()
    how = Settings().updated(settings)
    collection, table = evaluated(call.map, shell.user_ns)
    if remark := workspace.ensure_engine():
        print(remark)
    engine = workspace.engine(call.model)
    read = None if choices is None else value_of_choice(choices)
    if schema is not None:
        read = constraint_for(engine, schema).read
    run = PictureMap(
        engine,
        text,
        collection,
        table=table,
        names=shell.user_ns,
        name=call.map,
        examples=examples,
        read=read,
        batch_size=call.batch_size,
        journal=call.journal,
        resume=not call.new,
        raw=call.raw,
        first_line=first_line,
        options=pictures,
        settings=how,
    )
    if call.dry_run:
        _show_bill(run)
        return
    view = _View(run, call.out or "", thumbnail_data_uri if save_thumbnails else None)
    try:
        for row in run:
            view.push(row)
    except KeyboardInterrupt:
        raise Interrupted(
            f"{len(run.rows)} rows are kept; running the cell again asks only the others."
        ) from None
    finally:
        view.finish()
        if call.out and (run.rows or run.is_complete):
            shell.user_ns[call.out] = run.to_frame()


def _show_bill(run: PictureMap) -> None:
    """What the first row would cost."""
    turns = run.preview()
    bill = run.engine.bill(turns, run.settings)
    n = "" if run.n_total is None else f" of {run.n_total}"
    print(f"The first row{n}:")
    show_bundle(
        bill_bundle(bill, [picture for turn in turns for picture in turn.pictures], thumbnail_data_uri)
    )


class _View:
    """The sheet of one map: an output that is updated, a bar in a terminal, or the end alone.

    Args:
        run: the map.
        out: the variable that will hold the table.
        thumbnail: makes the data URI of a picture; None keeps pictures out of the file.
    """

    def __init__(self, run: PictureMap, out: str, thumbnail: Callable[[Picture, int], str] | None) -> None:
        from tqdm.auto import tqdm
        from tqdm.std import tqdm as plain_bar

        self._run = run
        self._out = out
        self._thumbnail = thumbnail
        self._where = surroundings()
        self._handle: Any = None
        self._began_at = self._shown_at = time.monotonic()
        self._newest: deque[MappedRow] = deque(maxlen=_N_NEWEST)
        self._small: dict[int, str] = {}  # thumbnails by position
        self._n_wrong_shown = 0
        options: dict[str, Any] = {"total": run.n_total, "unit": "picture", "leave": False}
        if self._where == "terminal":
            self._bar = tqdm(**options)
        else:  # it only counts: the sheet has a bar of its own
            self._bar = plain_bar(**options, file=_Nowhere())

    def push(self, row: MappedRow) -> None:
        """Take a finished row in."""
        self._bar.update()
        self._newest.append(row)
        if row.position < MAX_CARDS or (row.error and self._n_wrong_shown < MAX_CARDS // 4):
            self._n_wrong_shown += bool(row.error)
            self._make_small(row)
        if self._where == "person" and time.monotonic() - self._shown_at > self._pause_s():
            self._shown_at = time.monotonic()
            self._publish(self._growing())

    def finish(self) -> None:
        """Show the sheet as it is at the end."""
        figures = self._figures(is_running=False)
        self._bar.close()
        if not self._run.rows and self._run.n_total != 0:
            return  # nothing was asked; the error says why
        rows = sorted(self._run.rows, key=lambda row: row.position)
        shown = [row for n, row in enumerate(rows) if n < MAX_CARDS]
        shown += [row for row in rows[MAX_CARDS:] if row.error][: MAX_CARDS // 4]
        sheet = Sheet(
            cards=[self._card(row) for row in shown],
            rows=[self._card(row) for row in rows[:101]],
            n_done=len(rows),
            n_total=self._run.n_total,
            figures=figures,
            notes=self._notes(),
            out=self._out,
        )
        self._publish(sheet)

    def _growing(self) -> Sheet:
        newest = sorted(self._newest, key=lambda row: row.position)
        for row in newest:
            self._make_small(row)
        return Sheet(
            cards=[self._card(row) for row in newest],
            n_done=len(self._run.rows),
            n_total=self._run.n_total,
            figures=self._figures(is_running=True),
            notes=self._notes(),
            is_running=True,
        )

    def _pause_s(self) -> float:
        """Two updates a second, one after a minute, one in two seconds after ten."""
        elapsed_s = time.monotonic() - self._began_at
        return _UPDATE_S * (1 if elapsed_s < 60 else 2 if elapsed_s < 600 else 4)

    def _make_small(self, row: MappedRow) -> None:
        if self._thumbnail is not None and row.pictures and row.position not in self._small:
            self._small[row.position] = self._thumbnail(row.pictures[0], _THUMBNAIL_PX)

    def _card(self, row: MappedRow) -> Card:
        cut_off = {"length": "cut off at the token limit", "time": "stopped at the time limit"}
        return Card(
            label=str(row.label),
            name=row.name,
            answer=row.text,
            probability=max(row.probabilities.values()) if row.probabilities else None,
            n_tokens=row.n_tokens,
            seconds=row.seconds,
            error=row.error,
            thumbnail=self._small.get(row.position, ""),
            remark=cut_off.get(row.finish_reason, ""),
        )

    def _figures(self, *, is_running: bool) -> list[str]:
        """What is counted, in words; rate and time left as tqdm measures them."""
        from tqdm.std import tqdm

        rows, said = self._run.rows, self._bar.format_dict
        n_wrong = sum(bool(row.error) for row in rows)
        figures = [f"{n_wrong} error{'s' * (n_wrong != 1)}"] if n_wrong else []
        if self._run.n_kept:
            figures.append(f"{self._run.n_kept:,} answered before")
        figures.append(f"{sum(row.n_tokens for row in rows):,} tokens")
        elapsed_s = said["elapsed"]
        rate = said["rate"] or (len(rows) / elapsed_s if elapsed_s else 0)
        if not is_running:
            rate = len(rows) / elapsed_s if elapsed_s else 0
            figures.append(f"{elapsed_s:.1f} s")
        if rate:
            figures.append(f"{rate:.1f} pictures/s" if rate >= 1 else f"{1 / rate:.1f} s a picture")
        if is_running and rate and self._run.n_total:
            left_s = (self._run.n_total - len(rows)) / rate
            figures.append(f"{tqdm.format_interval(left_s)} left")
        return figures

    def _notes(self) -> list[str]:
        notes = list(self._run.notes)
        n_cut = sum(row.finish_reason == "length" for row in self._run.rows)
        if n_cut:
            notes.append(f"{n_cut} answer{'s were' if n_cut != 1 else ' was'} cut off at the token limit")
        return notes

    def _publish(self, sheet: Sheet) -> None:
        bundle = sheet_bundle(sheet)
        if self._where != "person":
            show_bundle(bundle)
            return
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class _Nowhere:
    """A file that forgets what is written: the bar counts, and the sheet shows."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""
