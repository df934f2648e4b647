"""Rows with a question and its known answer, from a table, pairs, triples or dicts; no picture is opened.

Neighbours: `vlm_magic.tasks.examples` reads the same forms as turns; `evaluate` asks the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlm_magic.errors import PromptError, near_names
from vlm_magic.tasks.examples import EXAMPLE_FORMS, fields_of, rows_of

__all__ = ["ExampleRow", "read_rows"]


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One example before its picture is opened.

    Attributes:
        picture: whatever the person gave.
        question: its own, or None.
        answer: as the person gave it.
        columns: all that the row holds, by name; of a pair or a triple nothing.
    """

    picture: object
    question: str | None
    answer: object
    columns: Mapping[str, object]


def read_rows(examples: object, *, by: str | None = None) -> list[ExampleRow]:
    """The rows of a table, pairs, triples or dicts, as for `example_turns`; no picture is opened.

    Args:
        examples: what holds them.
        by: a column that every row must have.

    Raises:
        PromptError: nothing in it, or no such columns.
    """
    rows = rows_of(examples)
    if not rows:
        raise PromptError("no examples", have="an empty table or list", hint=EXAMPLE_FORMS)
    read = []
    for n, row in enumerate(rows, start=1):
        columns = {str(k): v for k, v in row.items()} if isinstance(row, Mapping) else {}
        if by is not None and by not in columns:
            near = near_names(by, columns)
            raise PromptError(
                f"example {n} has no column {by!r}",
                have=", ".join(map(str, near or columns)) or "a pair, which has no columns",
                hint=f"by={near[0]!r}" if near else "a table, or rows as dicts",
            )
        read.append(ExampleRow(*fields_of(row, n), columns))
    return read
