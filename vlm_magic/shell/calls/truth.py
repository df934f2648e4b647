"""``%%vlm --map … --truth``: what is right about each row, and the verdicts on the answers.

Neighbours: `map` has the rows; `vlm_magic.tasks.evaluate` judges them and does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from vlm_magic.errors import OptionError, near_names
from vlm_magic.inputs.pixels import sniff
from vlm_magic.outputs.results.verdicts import Verdict
from vlm_magic.shell.calls.call import Call
from vlm_magic.shell.calls.choices import value_of
from vlm_magic.tasks.evaluate.evaluate import probability_of
from vlm_magic.tasks.evaluate.evaluated import verdict_of
from vlm_magic.tasks.evaluate.judging import Matcher, matcher_of, truth_words
from vlm_magic.tasks.evaluate.proportions import Proportion
from vlm_magic.tasks.map.mapping import PictureMap
from vlm_magic.tasks.map.rows import NoColumnError
from vlm_magic.tasks.map.table import MappedRow
from vlm_magic.wording import list_words, shorten

__all__ = ["Truths", "find_truths"]


@dataclass
class Truths:
    """What is right about the rows of a map, and what was decided about their answers.

    Attributes:
        of: the truth of a row.
        judge: whether an answer is right.
        verdicts: (truth, right or not, probability) of each finished row, by its place.
    """

    of: Callable[[MappedRow], object]
    judge: Matcher
    verdicts: dict[int, tuple[str, bool | None, float | None]] = field(default_factory=dict)

    def about(self, run: PictureMap, row: MappedRow) -> dict[str, Any]:
        """The verdict on a row, as its card shows it; of a wrong answer also how sure it was."""
        truth = self.of(row)
        words = truth_words(truth)
        is_right = False if row.error and words else self.judge(row.answer, truth)
        is_wrong = is_right is False and not row.error
        sure = probability_of(run.engine, run, row) if is_wrong or row.probabilities else None
        self.verdicts[row.position] = words, is_right, sure
        return {"truth": words, "is_right": is_right, "probability": sure}

    def verdict(self, n_right: int, n_judged: int, wrong: list[Any]) -> Verdict:
        """What the view says at the end."""
        return verdict_of(Proportion(n_right, n_judged), {}, wrong)

    def add_columns(self, frame: Any) -> Any:
        """The map's table with the columns ``truth`` and ``right``."""
        found = [self.verdicts[position] for position in sorted(self.verdicts)]
        if len(found) == len(frame):
            frame["truth"] = [words or None for words, _, _ in found]
            frame["right"] = [is_right for _, is_right, _ in found]
        return frame


def find_truths(call: Call, names: Mapping[str, Any], table: object, n_total: int | None) -> Truths | None:
    """The truths that a line names; None without ``--truth``.

    A column of the pictures' table, or else a variable of the notebook with a truth for each picture.

    Raises:
        OptionError: neither of them, another number of truths than pictures, or no way to compare.
    """
    if call.truth is None:
        return None
    judge = matcher_of(_match_of(call, names))
    columns = list(map(str, table.columns)) if sniff.is_frame(table) else []  # type: ignore[attr-defined]
    name = call.truth.removeprefix("{").removesuffix("}")
    if name in columns:
        return Truths(lambda row: _in_row(row, name), judge)
    if name.split(".")[0].split("[")[0] not in names:
        if columns:
            raise _no_truth(name, columns)
        return Truths(lambda row: _in_row(row, name), judge)  # the table may be in a file
    values = value_of(name, names, "--truth", "--truth column")
    if isinstance(values, (str, bytes)) or not (isinstance(values, Sized) and isinstance(values, Iterable)):
        raise OptionError(
            f"--truth {shorten(name, 60)} is a {type(values).__name__}, not a truth for each picture",
            have=f"columns {list_words(columns)}" if columns else "no table beside the pictures",
            hint="--truth column, or a list as long as the pictures",
        )
    truths = list(values)
    if n_total is not None and len(truths) != n_total:
        raise OptionError(
            f"{len(truths)} truths for {n_total} pictures",
            have=f"--truth {shorten(name, 60)}",
            hint="one truth for each picture, None where nobody knows",
        )
    return Truths(lambda row: truths[row.position] if row.position < len(truths) else None, judge)


def _match_of(call: Call, names: Mapping[str, Any]) -> Any:
    """How answers are compared: a word, or a function of the notebook."""
    if call.match is None:
        return "normalised"
    if call.match in ("exact", "normalised", "normalized"):
        return call.match
    return value_of(call.match, names, "--match", "--match exact, --match normalised, or a function")


def _in_row(row: MappedRow, column: str) -> object:
    assert row.view is not None
    try:
        return row.view[column]
    except NoColumnError as error:
        raise _no_truth(column, list(map(str, error.columns))) from None


def _no_truth(name: str, columns: list[str]) -> OptionError:
    near = near_names(name, columns)
    return OptionError(
        f"--truth {shorten(name, 60)} is no column of the pictures' table, and no variable",
        have=f"columns {list_words(near or columns)}" if columns else "no table beside the pictures",
        hint=f"--truth {near[0]}" if near else "--map frame.photo --truth label",
    )
