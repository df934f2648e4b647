"""pandas, looked for only when a table is asked for, and cells of tables that hold nothing.

Knows nothing of what the tables hold. Neighbours: `map.table`, `choices` and `compare` make them.
"""

from __future__ import annotations

import math
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.uninterrupted import import_whole

__all__ = ["is_missing", "need_pandas"]


def need_pandas(what: str, have: str = "") -> Any:
    """The pandas module.

    Args:
        what: what needs it, as the subject of a sentence: "a map", "to_frame".
        have: what works without it.

    Raises:
        OptionError: pandas is not installed.
    """
    try:
        import_whole("pandas")
        import pandas
    except ImportError:
        raise OptionError(
            f"{what} gives a pandas table, and pandas is not installed", have=have, hint="pip install pandas"
        ) from None
    return pandas


def is_missing(value: object) -> bool:
    """Whether a cell of a table, or what came out of one, is empty: None, NaN or pandas' NA."""
    return (
        value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"
    )
