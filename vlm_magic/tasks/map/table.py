"""The table of a map: finished rows as a pandas DataFrame, in the order of the pictures.

Knows rows and pandas, which is looked for when it is needed. Neighbour: `mapping` makes the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import ModelText, Picture
from vlm_magic.tasks.frames import need_pandas
from vlm_magic.tasks.map.rows import RowView

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MappedRow", "table_of"]


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
        thumbnail: data URI of a small picture where the pictures themselves are elsewhere, or "".
        view: the row of the person's table; None in the rows that the map itself keeps.
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
    thumbnail: str = ""
    view: RowView | None = None


def table_of(rows: Sequence[MappedRow], *, has_choices: bool, is_labelled: bool) -> pd.DataFrame:
    """The rows as a DataFrame; see `vlm_magic.tasks.map.mapping.PictureMap.to_frame`.

    Args:
        rows: in any order.
        has_choices: whether answers were chosen: two more columns.
        is_labelled: whether the labels are the person's own; else the index is the place.

    Raises:
        OptionError: pandas is not installed.
    """
    pandas = need_pandas("a map")
    rows = sorted(rows, key=lambda row: row.position)
    columns: dict[str, Any] = {
        "picture": [row.name for row in rows],
        "answer": _column(pandas, [row.answer for row in rows]),
    }
    if has_choices:
        best = [max(row.probabilities.values()) if row.probabilities else float("nan") for row in rows]
        columns["probability"] = pandas.array(best, dtype="float64")
        columns["probabilities"] = _column(pandas, [row.probabilities for row in rows])
    columns["tokens"] = pandas.array([row.n_tokens for row in rows], dtype="int64")
    columns["seconds"] = pandas.array([row.seconds for row in rows], dtype="float64")
    columns["error"] = _column(pandas, [row.error or None for row in rows])
    labels = [row.label if is_labelled else row.position for row in rows]
    index = pandas.Index(labels) if labels else pandas.RangeIndex(0)
    return pandas.DataFrame(columns).set_axis(index, axis="index")


def _column(pandas: Any, values: list[Any]) -> Any:
    """A column that takes any value as it is, lists and records too."""
    import numpy

    cells = numpy.empty(len(values), dtype=object)
    for n, value in enumerate(values):  # one by one: lists of one length would become a second axis
        cells[n] = value
    column = pandas.Series(cells, dtype=object)
    if any(isinstance(value, ModelText) for value in values):
        return column  # as it is: a column of type str drops the mark of what a model said
    if values and all(isinstance(value, str) for value in values):
        return column.astype("str")
    return column.to_numpy()
