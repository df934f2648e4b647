"""Text that a model said: a string in every way, but marked, so that it never is a picture's source.

A prompt takes a variable that holds a URL or a path for that picture. An answer may hold a URL too, written
by whoever wrote the page or the picture that the model read; to fetch it would give that person a say in
what this machine asks for, and what it tells. The mark goes along with slices, joins and the like of the
text itself; what an f-string or another string's method makes of it is the person's own text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import wraps
from typing import Any

__all__ = ["ModelText", "as_said"]

_MOST_NESTED = 30  # values within values


class ModelText(str):
    """Text that a model said; see the module."""

    __slots__ = ()

    def __radd__(self, other: str) -> ModelText:
        return ModelText(str.__add__(other, self))


def _marking(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def marked(self: ModelText, *args: Any, **kwargs: Any) -> Any:
        return as_said(method(self, *args, **kwargs))

    return marked


_MARKING = """
    __add__ __getitem__ __mod__ __mul__ __rmul__ capitalize casefold center expandtabs format format_map join
    ljust lower lstrip partition removeprefix removesuffix replace rjust rpartition rsplit rstrip split
    splitlines strip swapcase title translate upper zfill
"""
for _name in _MARKING.split():
    setattr(ModelText, _name, _marking(getattr(str, _name)))


def as_said(value: Any, depth: int = 0) -> Any:
    """A value that was read from an answer, every text in it marked.

    Lists, tuples, sets and dicts are made anew; the fields of records (dataclasses, Pydantic models) are
    marked in place. Members of an enumeration are the person's own words and stay.
    """
    if depth > _MOST_NESTED or isinstance(value, Enum):
        return value
    if isinstance(value, str):
        return ModelText(value)
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(as_said(item, depth + 1) for item in value)
    if type(value) is dict:
        return {key: as_said(item, depth + 1) for key, item in value.items()}
    for name in _fields_of(value):
        marked = as_said(getattr(value, name), depth + 1)
        object.__setattr__(value, name, marked)
    return value


def _fields_of(value: object) -> list[str]:
    """The names of a record's fields."""
    if isinstance(value, type):
        return []
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    names = getattr(type(value), "model_fields", None)  # of a Pydantic model
    return list(names) if isinstance(names, dict) else []
