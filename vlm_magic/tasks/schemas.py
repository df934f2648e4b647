"""From a Python type to the form of an answer, and from the answer's text back to a value of that type.

Words stay words: `bool`, `int`, `Literal` and `Enum` on their own are said as a person would ("yes", "3",
"red"), because that is what models have learned to answer; everything that has parts is JSON. Schemas of
Python types are pydantic's, which also has the last word about the value: what a grammar cannot express
(a validator, a set without duplicates) is checked there.

Knows nothing of models or tokens. Neighbours: `typed` asks with these forms;
`vlm_magic.models.decoding.grammar` holds a model to them.
"""

from __future__ import annotations

import enum
import functools
import json
import operator
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from vlm_magic.errors import OptionError
from vlm_magic.wording import shorten

__all__ = ["Schema", "schema_of", "type_name"]

_INT = "-?(?:0|[1-9][0-9]{0,17})"  # 18 digits fit everything that is counted, and end
_MOST = 10**18 - 1
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const")
_FLOAT = rf"{_INT}(?:\.[0-9]{{1,17}})?"


@dataclass(frozen=True)
class Schema:
    """The form of an answer.

    Attributes:
        name: how people call the type ("Scene", "list[int]").
        grammar: what `vlm_magic.messages.Settings` takes.
        parse: text of an answer → value; raises ValueError with a reason.
    """

    name: str
    grammar: str
    parse: Callable[[str], Any]


def schema_of(type_: object) -> Schema:
    """The form of answers of this type.

    Args:
        type_: a Pydantic model, dataclass, ``TypedDict``, ``NamedTuple``, ``Enum``, ``Literal``; `bool`,
            `int`, `float`, `str`; ``list[…]``, ``dict[…]``, ``… | None`` and so on of these; a JSON schema
            as a dict; a compiled regular expression of text.

    Raises:
        OptionError: it is no type, or no text says a value of it.
    """
    if isinstance(type_, re.Pattern):
        return _of_pattern(type_)
    if isinstance(type_, Mapping):
        return _of_json_schema(dict(type_))
    name = type_name(type_)
    if isinstance(type_, type) and type_ in _SCALARS:
        pattern, parse = _SCALARS[type_]
        return Schema(name, _regex(pattern), parse)
    words_of = _words(type_)
    if words_of is not None:
        return Schema(name, _regex(_either(words_of)), lambda text: _pick(words_of, text))
    return _of_type(type_, name)


def type_name(type_: object) -> str:
    """How people call a type: short, as they would write it."""
    if isinstance(type_, re.Pattern):
        return f"re.compile({type_.pattern!r})"
    if isinstance(type_, Mapping):
        return str(type_.get("title") or "JSON schema")
    if isinstance(type_, type) and not get_args(type_):
        return type_.__name__
    return re.sub(r"\b(?:typing|__main__|builtins)\.", "", str(type_))


# ---- words ---------------------------------------------------------------------------------------


def _words(type_: object) -> dict[str, Any] | None:
    """The word for each value of a ``Literal`` or ``Enum``; None for another type, or where two are alike."""
    values: Sequence[Any]
    if get_origin(type_) is Literal:
        values = get_args(type_)
        words = [_word(value) for value in values]
    elif isinstance(type_, type) and issubclass(type_, enum.Enum):
        values = list(type_)
        words = [_word(member.value) or member.name for member in values]
        if not values:
            raise OptionError(f"{type_.__name__} has no members", hint="an Enum with at least one")
    else:
        return None
    if None in words or len(set(words)) < len(words) or any(word != word.strip() for word in words if word):
        return None
    return {str(word): value for word, value in zip(words, values, strict=True)}


def _word(value: object) -> str | None:
    """What one says for a value; None where that is not plain."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        return _word(value.value) or value.name
    return str(value) if isinstance(value, (str, int, float)) else None


def _either(words: Iterable[str]) -> str:
    """A pattern of these words; each may begin with a capital, as sentences do."""
    known = list(words)
    capital = [word[:1].upper() + word[1:] for word in known]
    return "|".join(map(_literal, dict.fromkeys([*known, *capital])))


def _pick(values: Mapping[str, Any], text: str) -> Any:
    """The value of a word, which may begin with a capital."""
    if text in values:
        return values[text]
    return next(v for word, v in values.items() if word[:1].upper() + word[1:] == text)


def _literal(text: str) -> str:
    """A pattern of this text alone, in the syntax that regular expressions share everywhere."""
    return "".join(c if c.isalnum() and c.isascii() else f"\\x{{{ord(c):x}}}" for c in text)


_SCALARS: dict[type, tuple[str, Callable[[str], Any]]] = {
    bool: (_either(["yes", "no", "true", "false"]), lambda text: text.lower() in ("yes", "true")),
    int: (_INT, int),
    float: (_FLOAT, float),
    str: ("(?s:.*)", str),
}
"""Pattern and reader of what is said in a word."""


# ---- patterns ------------------------------------------------------------------------------------


def _of_pattern(pattern: re.Pattern[Any]) -> Schema:
    """A regular expression: the whole answer matches it; its value is the text."""
    source = pattern.pattern
    if isinstance(source, bytes):
        raise OptionError(
            f"{source!r} is a pattern of bytes", hint=f"re.compile({source.decode('latin-1')!r})"
        )
    known = {re.IGNORECASE: "i", re.DOTALL: "s"}
    flags = "".join(letter for flag, letter in known.items() if pattern.flags & flag)
    if pattern.flags & re.MULTILINE:
        raise OptionError(
            f"{type_name(pattern)} has the flag MULTILINE",
            have="the whole answer is one match",
            hint="without it",
        )
    body = _without_anchors(_without_remarks(source) if pattern.flags & re.VERBOSE else source)
    if pattern.flags & re.ASCII:
        body = _with_ascii_classes(body)

    def parse(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError(f"it does not match {source!r}")
        return text

    return Schema(type_name(pattern), _regex(f"(?{flags}:{body})" if flags else body), parse)


def _pieces(pattern: str) -> Iterator[tuple[str, bool]]:
    """Characters of a pattern, escapes in one piece, and whether each is in a class (its brackets too)."""
    in_class = False
    for piece in re.findall(r"\\.|.", pattern, flags=re.DOTALL):
        was_in, in_class = in_class, (piece == "[" or in_class) and piece != "]"
        yield piece, was_in or in_class


def _without_remarks(pattern: str) -> str:
    """Without the spaces and remarks that the flag VERBOSE allows."""
    kept, in_remark = "", False
    for piece, in_class in _pieces(pattern):
        in_remark = piece != "\n" if in_remark else piece == "#" and not in_class
        if in_class or not (in_remark or piece.isspace()):
            kept += piece
    return kept


def _without_anchors(pattern: str) -> str:
    """Without the marks of beginning and end around whole alternatives: the whole answer matches anyway."""
    branches, depth = [""], 0
    for piece, in_class in _pieces(pattern):
        if piece == "|" and depth == 0 and not in_class:
            branches.append("")
            continue
        depth += 0 if in_class else (piece == "(") - (piece == ")")
        branches[-1] += piece
    return "|".join(re.sub(r"^(?:\^|\\A)+|(?:(?<!\\)\$|\\Z)+$", "", branch) for branch in branches)


def _with_ascii_classes(pattern: str) -> str:
    """Classes of digits, letters and spaces as the flag ASCII means them."""
    inside = {r"\d": "0-9", r"\w": "0-9a-zA-Z_", r"\s": r" \t\n\r\f\v"}
    return re.sub(
        r"\\(.)", lambda m: f"[{inside[m[0]]}]" if m[0] in inside else m[0], pattern, flags=re.DOTALL
    )


# ---- JSON ----------------------------------------------------------------------------------------


def _of_json_schema(schema: dict[str, Any]) -> Schema:
    """A JSON schema that a person wrote: taken word for word, its value is what JSON says."""
    try:
        grammar = json.dumps({"json_schema": schema})
    except (TypeError, ValueError) as error:
        raise OptionError(
            "this is not a valid JSON schema",
            have=shorten(error, 120),
            hint='{"type": "object", "properties": {…}} with values that JSON knows',
        ) from error
    return Schema(type_name(schema), grammar, json.loads)


def _of_type(type_: object, name: str) -> Schema:
    """Any type that pydantic knows."""
    import pydantic

    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(_as_pydantic_wants(type_))
        _refuse_what_no_text_says(adapter.core_schema, name)
        schema = adapter.json_schema()
    except (pydantic.errors.PydanticUserError, TypeError, NameError, AttributeError) as error:
        raise OptionError(
            f"{shorten(name, 60)} cannot be the type of an answer",
            have=shorten(str(error).partition("For further")[0], 150),
            hint="a Pydantic model, dataclass, TypedDict, Literal, int, bool, list[…], or a JSON schema",
        ) from error

    def parse(text: str) -> Any:
        try:
            return adapter.validate_json(text)
        except pydantic.ValidationError as error:
            raise ValueError(_first_complaint(error)) from error

    return Schema(name, json.dumps({"json_schema": _closed(schema), "lenient": True}), parse)


def _refuse_what_no_text_says(schema: object, name: str) -> None:
    """Raise for bytes and complex numbers, at any depth: pydantic takes them for strings of any kind."""
    if isinstance(schema, (list, tuple)):
        for item in schema:
            _refuse_what_no_text_says(item, name)
    elif isinstance(schema, Mapping):
        kind = schema.get("type")
        if kind in ("bytes", "complex"):
            raise OptionError(
                f"{shorten(name, 60)} cannot be the type of an answer",
                have=f"models answer in text, and plain text cannot say {kind} values",
                hint="str" if kind == "bytes" else "float, or a tuple of two",
                type=kind,
            )
        for key, value in schema.items():
            if key != "metadata":
                _refuse_what_no_text_says(value, name)


def _first_complaint(error: Any) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _closed(schema: Any) -> Any:
    """Objects without keys that nobody asked for, and whole numbers with an end: models go on for ever."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key not in ("default", "examples")}
    if closed.get("type") == "integer" and not closed.keys() & set(_LIMITS):
        closed |= {"minimum": -_MOST, "maximum": _MOST}
    if isinstance(schema.get("properties"), dict) and "$ref" not in schema:
        closed["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    return closed


def _as_pydantic_wants(type_: Any) -> Any:
    """The same type with a ``TypedDict`` that pydantic reads: before Python 3.12 not that of ``typing``."""
    if sys.version_info >= (3, 12):
        return type_
    if type(type_).__name__ == "_TypedDictMeta" and type(type_).__module__ == "typing":
        return _own_typed_dict(type_)
    origin, args = get_origin(type_), get_args(type_)
    if origin is typing.Annotated:
        return typing.Annotated[(_as_pydantic_wants(args[0]), *type_.__metadata__)]
    inside = () if origin is Literal else tuple(_as_pydantic_wants(arg) for arg in args)
    if inside in ((), args):
        return type_
    return functools.reduce(operator.or_, inside) if _is_union(origin) else origin[inside]


def _own_typed_dict(type_: Any) -> Any:
    """A ``typing.TypedDict`` once more, as one of ``typing_extensions``."""
    import typing_extensions

    fields = {}
    for name, hint in typing.get_type_hints(type_, include_extras=True).items():
        mark = get_origin(hint)
        inner = _as_pydantic_wants(
            get_args(hint)[0] if mark in (typing.Required, typing.NotRequired) else hint
        )
        is_required = mark is typing.Required or (
            mark is not typing.NotRequired and name in type_.__required_keys__
        )
        fields[name] = inner if is_required else typing_extensions.NotRequired[inner]
    return typing_extensions.TypedDict(type_.__name__, fields)  # type: ignore[operator]


def _is_union(origin: object) -> bool:
    return origin in (typing.Union, types.UnionType)


def _regex(pattern: str) -> str:
    return json.dumps({"regex": pattern})
