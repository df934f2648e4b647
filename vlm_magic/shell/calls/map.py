"""``%%vlm --map``: one prompt over many pictures, shown as a contact sheet that fills as answers come.

Neighbours: `vlm_magic.tasks.map.mapping` does the work, `vlm_magic.outputs.results.map_view` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vlm_magic.errors import OptionError
from vlm_magic.messages import Settings, Turn
from vlm_magic.outputs.results.cards import Card
from vlm_magic.outputs.results.map_view import MapView
from vlm_magic.shell.calls.call import Call, Context
from vlm_magic.shell.calls.cluster import answering
from vlm_magic.shell.calls.dry_run import show_cost_of_first_row
from vlm_magic.shell.calls.truth import Truths, find_truths
from vlm_magic.shell.interrupted import CellStop, Interrupted
from vlm_magic.tasks.forms import AnswerForm
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.tasks.map.mapping import PictureMap
from vlm_magic.tasks.map.rows import evaluated

if TYPE_CHECKING:
    from vlm_magic.tasks.map.table import MappedRow

__all__ = ["map_pictures"]

_CUT_OFF = {"length": "cut off at the token limit", "time": "stopped at the time limit"}


def map_pictures(context: Context, call: Call, form: AnswerForm, examples: Sequence[Turn]) -> None:
    """Ask the prompt about every picture; ``-o`` gets the table, also of an interrupted run."""
    if call.conversation is not None:
        raise OptionError("a map belongs to no conversation", have="-c", hint="--map without it")
    need_pandas("a map")
    settings = Settings().updated(form.settings_with(call.settings))
    assert call.map is not None
    pictures, table = evaluated(call.map, context.names)
    with answering(context, call) as engine:
        run = PictureMap(
            engine,
            call.text,
            pictures,
            table=table,
            names=context.names,
            name=call.map,
            examples=examples,
            read=form.reader(engine),
            batch_size=call.batch_size,
            journal=call.journal,
            into=call.into,
            resume=not call.new,
            raw=call.raw,
            first_line=call.first_line,
            options=context.pictures,
            settings=settings,
        )
        if call.dry_run:
            show_cost_of_first_row(run)
        else:
            _show(context, call, run, find_truths(call, context.names, table, run.n_total))


def _show(context: Context, call: Call, run: PictureMap, truths: Truths | None) -> None:
    """Show the rows as they come, and put the table into the notebook however that ends."""
    stop = CellStop()
    view = MapView(run.n_total, call.out or "", context.thumbnail, stop.ask)
    kept = "rows are kept; running the cell again asks only the others."
    notes: tuple[str, ...] = ()

    def push(row: MappedRow) -> None:
        view.push(
            row.position,
            replace(_card(row), **truths.about(run, row)) if truths else _card(row),
            row.pictures,
            is_kept=row.is_kept,
            notes=run.notes,
            figures=run.figures,
        )

    try:
        for row in run:
            push(row)
        stop.end()
    except KeyboardInterrupt:
        if not stop.was_asked:
            raise Interrupted(f"{run.n_done} {kept}") from None
        notes = (f"stopped: {run.n_done} {kept}",)
    finally:
        stop.end()
        for row in run.unseen:
            push(row)
        verdict = truths.verdict(*view.judged, view.wrong) if truths else None
        view.finish((*run.notes, *notes), run.last_figures, verdict)
        if call.out and (run.n_done or run.is_complete):
            table = run.to_frame()
            context.names[call.out] = truths.add_columns(table) if truths else table


def _card(row: MappedRow) -> Card:
    return Card(
        label=str(row.label),
        name=row.name,
        answer=row.text,
        probability=max(row.probabilities.values()) if row.probabilities else None,
        n_tokens=row.n_tokens,
        seconds=row.seconds,
        error=row.error,
        thumbnail=row.thumbnail,
        remark=_CUT_OFF.get(row.finish_reason, ""),
        is_cut_off=row.finish_reason == "length",
    )
