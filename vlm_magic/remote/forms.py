"""The form of an answer in each server's words: JSON schemas, patterns, and grammars made of patterns.

`Settings.grammar` says the form. Patterns are Python's; what a server cannot be told is refused before it is
asked. Knows texts of grammars; sends nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.remote.dialects import Dialect

__all__ = ["WRAPPED", "form_fields", "gbnf_of", "is_whole", "is_wrapped", "pattern_for_xgrammar", "unwrapped"]

WRAPPED = "answer"  # the field of the object that holds what is no object
_MOST_ENUMERATED = 300


def form_fields(
    grammar: str, dialect: Dialect, opening: str = "", *, takes_patterns: bool = True
) -> dict[str, Any]:
    """The fields of a request that hold an answer to its form.

    Args:
        grammar: of the settings, "" for none.
        dialect: the kind of server.
        opening: what the model says before its first word: a space, where the template ends in none. Held
            to a form without it, the model would be on tokens that it never says.
        takes_patterns: whether a schema's ``pattern`` is obeyed, for servers that are told schemas alone.

    Raises:
        OptionError: this kind of server cannot be told such a form.
    """
    if not grammar:
        return {}
    form = json.loads(grammar)
    pattern, schema = form.get("regex"), form.get("json_schema")
    if dialect.forms in ("structured_outputs", "gbnf"):
        pattern = pattern or _pattern_of(schema)
        pattern = None if pattern is None else f"{opening}(?:{pattern})"
    match dialect.forms:
        case "structured_outputs":
            told = {"regex": pattern_for_xgrammar(pattern)} if pattern is not None else {"json": schema}
            return {"structured_outputs": told}
        case "gbnf" if pattern is not None:
            return {"grammar": gbnf_of(pattern)}
        case "gbnf" if schema is not None:
            return _schema_fields(schema)
        case "response_format":
            told = _string_schema(pattern, takes_patterns) if pattern is not None else schema
            return _schema_fields(_in_an_object(told) if is_wrapped(grammar, dialect) else told)
    raise OptionError(
        "this server cannot be held to a type", have=f"its kind is {dialect.kind}", hint="%vlm_load"
    )


def _schema_fields(schema: Any) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


# ---- what is no object, on servers that take schemas of objects alone -------------------------


def is_wrapped(grammar: str, dialect: Dialect) -> bool:
    """Whether the answer comes inside an object, because this kind of server is told of objects alone."""
    if not grammar or dialect.forms != "response_format":
        return False
    form = json.loads(grammar)
    return form.get("regex") is not None or (form.get("json_schema") or {}).get("type") != "object"


def unwrapped(text: str) -> str:
    """The answer in the object that a server made of it; of one that was cut short, as far as it came."""
    try:
        value = json.loads(text)[WRAPPED]
    except (ValueError, LookupError, TypeError):
        begun = re.match(rf'\s*{{\s*"{WRAPPED}"\s*:\s*"?', text)
        return text[begun.end() :] if begun else text
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _in_an_object(schema: Any) -> dict[str, Any]:
    inner = dict(schema)
    shared = {"$defs": inner.pop("$defs")} if "$defs" in inner else {}
    return {
        "type": "object",
        "properties": {WRAPPED: inner},
        "required": [WRAPPED],
        "additionalProperties": False,
        **shared,
    }


def _string_schema(pattern: str, takes_patterns: bool) -> dict[str, Any]:
    """A pattern as the schema of a string: the strings themselves where it allows but a few."""
    strings = enumerated(pattern)
    if strings is not None:
        return {"type": "string", "enum": strings}
    if not takes_patterns:
        raise OptionError(
            "this server takes JSON schemas, and does not keep to a pattern in them",
            have=f"a type that is written as the pattern {pattern}",
            hint="a Literal, or a Pydantic model with that field, or a model loaded here",
        )
    return {"type": "string", "pattern": f"^(?:{pattern_for_xgrammar(pattern)})$"}


def enumerated(pattern: str) -> list[str] | None:
    """All strings that a pattern allows, in its order; None where these are many or without end."""
    import re._parser as parser  # type: ignore[import-not-found, unused-ignore]

    try:
        return list(dict.fromkeys(_strings_of(parser.parse(_without_braced_escapes(pattern)))))
    except (re.error, LookupError):
        return None


def _strings_of(items: Sequence[tuple[Any, Any]]) -> list[str]:
    """Raises LookupError for what allows more than some strings."""
    found = [""]
    for op, value in items:
        match str(op):
            case "LITERAL":
                ends = [chr(value)]
            case "IN" if all(str(each) == "LITERAL" for each, _ in value):
                ends = [chr(code) for _, code in value]
            case "BRANCH":
                ends = [text for branch in value[1] for text in _strings_of(branch)]
            case "SUBPATTERN" if not value[1] and not value[2]:
                ends = _strings_of(value[3])
            case _:
                raise LookupError(op)
        found = [begun + end for begun in found for end in ends]
        if len(found) > _MOST_ENUMERATED:
            raise LookupError(op)
    return found


def is_whole(grammar: str, text: str) -> bool:
    """Whether an answer that was cut off had said everything that its form wants.

    Args:
        grammar: of the settings.
        text: the answer, unwrapped.
    """
    pattern = json.loads(grammar).get("regex")
    try:
        if pattern is not None:
            return re.fullmatch(_without_braced_escapes(pattern), text.strip()) is not None
        json.loads(text)
    except (ValueError, re.error):
        return False
    return True


def _pattern_of(schema: Any) -> str | None:
    """A plain value's schema as a pattern; None for objects, lists and what has limits of its own."""
    if not isinstance(schema, dict):
        return None
    if set(schema) <= {"enum", "title", "type"} and "enum" in schema:
        return "|".join(re.escape(json.dumps(value, ensure_ascii=False)) for value in schema["enum"])
    match schema.get("type"):
        case "boolean":
            return "true|false"
        case "integer" if abs(schema.get("minimum", 0)) >= _MANY and schema.get("maximum", 0) >= _MANY:
            return f"-?(0|[1-9][0-9]{{0,{len(str(_MANY)) - 2}}})"
    return None


_MANY = 10**9  # limits beyond it are there to end a number, not to bound it


def pattern_for_xgrammar(pattern: str) -> str:
    r"""A pattern in the words of xgrammar, which stands behind vLLM.

    It takes ``\x{20}`` for an error and ``\x20c`` for U+020C, and knows no flags: escapes become
    ``\u0020``, ``(?s:.*)`` becomes ``[\s\S]*``.
    """
    return _Pattern(pattern, _for_xgrammar).text


def gbnf_of(pattern: str) -> str:
    """A grammar of llama.cpp's own notation that allows what the pattern does."""
    return f"root ::= {_Pattern(pattern, _for_gbnf).text}"


# ---- patterns, read by Python's own parser ----------------------------------------------------


class _Pattern:
    """One pattern, written anew: as a pattern (for xgrammar) or as a grammar (GBNF)."""

    def __init__(self, pattern: str, style: _Style) -> None:
        import re._parser as parser  # type: ignore[import-not-found, unused-ignore]

        try:
            parsed = parser.parse(_without_braced_escapes(pattern))
        except re.error as error:
            raise OptionError(f"a pattern that cannot be read: {error}", have=pattern) from error
        self._style = style
        self._is_dotall = bool(parsed.state.flags & re.DOTALL)
        self.text = self._sequence(parsed)

    def _sequence(self, items: Sequence[tuple[Any, Any]]) -> str:
        return self._style.between.join(filter(None, (self._item(str(op), value) for op, value in items)))

    def _item(self, op: str, value: Any) -> str:  # noqa: PLR0911 - one return for each kind of item
        style = self._style
        match op:
            case "LITERAL":
                return style.literal(value)
            case "NOT_LITERAL":
                return f"[^{style.in_class(value)}]"
            case "ANY":
                return style.anything if self._is_dotall else style.no_line_end
            case "IN":
                return self._class(value)
            case "BRANCH":
                return f"({'|'.join(self._sequence(branch) or style.empty for branch in value[1])})"
            case "SUBPATTERN":
                return self._group(value)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, inner = value
                return f"({self._sequence(inner)}){_times(low, int(high))}"
            case "AT" if str(value) in ("AT_BEGINNING", "AT_END", "AT_END_STRING", "AT_BEGINNING_STRING"):
                return ""
        raise OptionError(
            "this server does not take such a pattern",
            have=f"{op.lower().replace('_', ' ')} in it",
            hint="a pattern of letters, classes, groups, | and repeats",
        )

    def _group(self, value: Any) -> str:
        _, added, removed, inner = value
        before = self._is_dotall
        self._is_dotall = (before or bool(added & re.DOTALL)) and not removed & re.DOTALL
        if added & re.IGNORECASE:
            raise OptionError("this server takes no pattern that ignores case", hint="[Yy]es for (?i:yes)")
        inside = self._sequence(inner)
        self._is_dotall = before
        return f"({inside})" if inside else ""

    def _class(self, members: Sequence[tuple[Any, Any]]) -> str:
        style, inside, sign = self._style, "", ""
        for op, value in members:
            match str(op):
                case "NEGATE":
                    sign = "^"
                case "LITERAL":
                    inside += style.in_class(value)
                case "RANGE":
                    inside += f"{style.in_class(value[0])}-{style.in_class(value[1])}"
                case "CATEGORY":
                    inside += _CATEGORIES[str(value)]
        return f"[{sign}{inside}]"


_CATEGORIES = {
    "CATEGORY_DIGIT": "0-9",
    "CATEGORY_WORD": "a-zA-Z0-9_",
    "CATEGORY_SPACE": r" \t\n\r",
}


def _times(low: int, high: int) -> str:
    if high > 2**20:  # as often as one likes
        return {0: "*", 1: "+"}.get(low, f"{{{low},}}")
    return "?" if (low, high) == (0, 1) else f"{{{low}}}" if low == high else f"{{{low},{high}}}"


def _without_braced_escapes(pattern: str) -> str:
    r"""``\x{20}``, which Python does not read, as ``\u0020``."""
    return re.sub(
        r"\\x\{([0-9a-fA-F]{1,6})\}",
        lambda found: f"\\U{int(found[1], 16):08x}",
        pattern,
    )


class _Style:
    """How characters are written."""

    between = ""
    empty = ""
    anything = r"[\s\S]"
    no_line_end = r"[^\n]"

    def literal(self, code: int) -> str:
        """One character outside a class."""
        char = chr(code)
        return char if char.isalnum() and char.isascii() else self.in_class(code)

    def in_class(self, code: int) -> str:
        """One character in a class."""
        char = chr(code)
        if char.isascii() and char.isalnum():
            return char
        return f"\\u{code:04x}" if code < 0x10000 else char


class _Gbnf(_Style):
    between = " "
    empty = '""'
    anything = r"[^\x00]"

    def literal(self, code: int) -> str:
        """One character as a string of its own."""
        return f'"{self.in_class(code)}"'

    def in_class(self, code: int) -> str:
        """One character in a class."""
        char = chr(code)
        if char.isascii() and (char.isalnum() or char == " "):
            return char
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_for_xgrammar = _Style()
_for_gbnf = _Gbnf()
