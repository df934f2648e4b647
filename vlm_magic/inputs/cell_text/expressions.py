"""One ``{expression}`` of a prompt: where it ends, whether it is one, and what it is worth.

An expression starts from a name and goes on with attributes, items, slices and calls, as in an
f-string, or is a list of such, ``[a, b]``; with an optional conversion (``!r``) and format spec
(``:.2f``). This module knows nothing of pictures or of the prompt around the braces; `marks` finds the
braces and `prompt` asks for values.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from vlm_magic.errors import ExpressionError, near_names
from vlm_magic.wording import shorten

__all__ = [
    "Field",
    "Value",
    "evaluate_field",
    "field_names",
    "formatted",
    "read_field",
    "value_of",
    "written_items",
]

_MAX_CHARS = 1_000  # of one expression; a longer one is no expression but a document in braces
_MAX_NESTED = 30  # brackets within brackets

_HEAD = re.compile(r"\{([ \t]*)([^\W\d]\w*|(?=\[[ \t]*[^\W\d]))")  # a name, or a list that begins with one
_CHAIN = re.compile(r"[\w. \t]*")
_NESTED = re.compile(r"[^()\[\]{}'\"]*")
_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL)
_CONVERSION = re.compile(r"!([rsa])(?=[:}])")
_SPEC = re.compile(r":((?:[^{}\n]|\{[^\W\d]\w*\}){1,60})\}")
_SPEC_NAME = re.compile(r"\{([^\W\d]\w*)\}")  # {x:{width}.{digits}f}
# [[fill]align][sign][z][#][0][width][grouping][.precision][type], or a date format such as %d %B %Y
_MINI_LANGUAGE = re.compile(r"(?:.?[<>=^])?[-+]?z?#?0?\d*[_,]?(?:\.\d+)?[bcdeEfFgGnosxX%]?")
_DATE_FORMAT = re.compile(r"(?=.*%[a-zA-Z])[%\w /:.,\-]+")
_TELLING_SPEC = re.compile(r"[-+0]?\d*,?\.\d+[eEfFgG%]?|[<>^]\d+")

_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_NO_CALL = (ast.List, ast.Attribute, ast.Subscript, ast.Slice, ast.Name, ast.Constant, ast.Tuple, ast.UnaryOp)
_NO_CALL_PARTS = (ast.Expression, ast.expr_context, ast.unaryop)
_NEVER = (ast.NamedExpr, ast.Await, ast.Yield, ast.YieldFrom)
# Built-ins that ask, run or end something; the others are names when they are called with one's own.
_UNWANTED = frozenset(
    "exit quit input breakpoint help eval exec compile print open copyright credits license __import__ "  # noqa: SIM905
    "setattr delattr globals locals super memoryview".split()
)


@dataclass(frozen=True, slots=True)
class Field:
    """What stands between two braces and may be an expression.

    Attributes:
        source: the expression, without conversion and format spec.
        root: the name that it starts from.
        conversion: "r", "s", "a" or "".
        spec: the format spec, or "".
        inner: other names that the expression reads.
        is_plain: nothing but a name.
        is_padded: there are spaces inside the braces, as in ``import { useState }``.
        calls_root: the root itself is called, as in ``len(x)``.
        end: index just behind the closing brace.
    """

    source: str
    root: str
    conversion: str
    spec: str
    inner: frozenset[str]
    is_plain: bool
    is_padded: bool
    calls_root: bool
    end: int

    @property
    def is_telling(self) -> bool:
        """Whether it can hardly be anything but a field, so that a missing name is a slip of the pen."""
        if not self.is_plain or self.is_padded or not any(c.isalpha() for c in self.root):
            return False
        return not self.spec or bool(_TELLING_SPEC.fullmatch(self.spec))

    def is_known(self, names: Mapping[str, object]) -> bool:
        """Whether ``names`` has what the expression starts from."""
        if any(name not in names for name in _SPEC_NAME.findall(self.spec)):
            return False
        if self.source.startswith("["):  # one known name tells that the others are slips of the pen
            return any(name in names for name in (self.root, *self.inner))
        if self.root in names:
            # {a:b} is a field with a format spec, or a dict display of two variables: then it is code.
            return not (len(self.spec) == 1 and self.spec.isalpha() and self.spec in names)
        is_builtin = callable(getattr(builtins, self.root, None)) and self.root not in _UNWANTED
        return self.calls_root and is_builtin and any(name in names for name in self.inner)


def read_field(text: str, start: int, *, calls: bool = True) -> Field | None:
    """The field whose opening brace is ``text[start]``, or None when that is not one.

    Args:
        text: the prompt.
        start: index of the opening brace.
        calls: whether calls are allowed; without them only names, attributes and items are.
    """
    head = _HEAD.match(text, start)
    if head is None:
        return None
    stop = _end_of_chain(text, head.end())
    if stop is None:
        return None
    source, pos, conversion, spec = text[head.start(2) : stop], stop, "", ""
    if match := _CONVERSION.match(text, pos):
        conversion, pos = match[1], match.end()
    if text[pos] == ":":
        found = _SPEC.match(text, pos)
        if found is None or not _is_format_spec(found[1]):
            return None
        spec, pos = found[1], found.end() - 1
    if text[pos] != "}":
        return None
    is_padded = bool(head[1]) or source != source.rstrip()
    return _checked(source.rstrip(), conversion, spec, is_padded=is_padded, end=pos + 1, calls=calls)


def _is_format_spec(spec: str) -> bool:
    spec = _SPEC_NAME.sub("1", spec)
    return bool(_MINI_LANGUAGE.fullmatch(spec) or _DATE_FORMAT.fullmatch(spec))


def _end_of_chain(text: str, pos: int) -> int | None:
    """Where a chain of attributes, items and calls ends: the index of its ``}``, ``!`` or ``:``."""
    limit = min(len(text), pos + _MAX_CHARS)
    while True:
        found = _CHAIN.match(text, pos, limit)
        pos = found.end() if found else pos
        if pos >= limit:
            return None
        if text[pos] in "}!:":
            return pos
        if text[pos] not in "([":
            return None
        behind = _end_of_brackets(text, pos, limit)
        if behind is None:
            return None
        pos = behind


def _end_of_brackets(text: str, pos: int, limit: int) -> int | None:
    """Just behind the bracket that closes the one at ``pos``; strings are skipped whole."""
    closers: list[str] = []
    while pos < limit:
        char = text[pos]
        if char in _CLOSERS:
            if len(closers) >= _MAX_NESTED:
                return None
            closers.append(_CLOSERS[char])
            pos += 1
        elif char in ")]}":
            if char != closers.pop():
                return None
            pos += 1
            if not closers:
                return pos
        elif char in "'\"":
            string = _STRING.match(text, pos, limit)
            if string is None:
                return None
            pos = string.end()
        else:
            found = _NESTED.match(text, pos, limit)
            pos = found.end() if found else pos + 1
    return None


def _checked(
    source: str, conversion: str, spec: str, *, is_padded: bool, end: int, calls: bool
) -> Field | None:
    """The field, if ``source`` is a chain that starts from a name."""
    chain = _read_chain(source)
    if chain is None or (not calls and not chain.is_without_calls):
        return None
    return Field(
        source=source,
        root=chain.root,
        conversion=conversion,
        spec=spec,
        inner=chain.inner | frozenset(_SPEC_NAME.findall(spec)),
        is_plain=chain.is_plain,
        is_padded=is_padded,
        calls_root=chain.calls_root,
        end=end,
    )


@dataclass(frozen=True, slots=True)
class _Chain:
    """What the syntax of one expression says."""

    root: str
    inner: frozenset[str]
    is_plain: bool
    calls_root: bool
    is_without_calls: bool


@lru_cache(maxsize=1024)  # a prompt is read again at every run of its cell
def _read_chain(source: str) -> _Chain | None:
    """The chain that ``source`` is, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the person's escapes are not for now
            tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    root = _root_of(tree.body)
    if isinstance(tree.body, ast.List):  # [a, b.c]: several chains
        roots = [_root_of(item) for item in tree.body.elts]
        root = roots[0] if all(roots) else None
    if root is None:
        return None
    nodes = list(ast.walk(tree))
    if any(isinstance(node, _NEVER) for node in nodes):
        return None
    return _Chain(
        root=root.id,
        inner=frozenset(n.id for n in nodes if isinstance(n, ast.Name) and n is not root),
        is_plain=tree.body is root,
        calls_root=any(isinstance(n, ast.Call) and n.func is root for n in nodes),
        is_without_calls=all(isinstance(node, _NO_CALL + _NO_CALL_PARTS) for node in nodes),
    )


def _root_of(node: ast.expr) -> ast.Name | None:
    """The name that a chain starts from, or None when it is not a chain."""
    while not isinstance(node, ast.Name):
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        else:
            return None
    return node


def evaluate_field(
    field: Field, names: Mapping[str, object], *, where: str = "", written: str = ""
) -> object:
    """The value of the expression, evaluated once; conversion and spec are not applied.

    Args:
        field: a field that is known to ``names``.
        names: the notebook's variables; not changed.
        where: the place for an error ("line 3 of the cell").
        written: what the person wrote, for an error; the field's source if not given.

    Raises:
        ExpressionError: it raised; the cause is chained.
    """
    if field.is_plain:
        return names[field.root]
    # A copy: eval puts __builtins__ into its globals, and comprehensions look names up there only.
    scope = {"__builtins__": builtins, **names}
    try:
        return eval(compile(field.source, "<prompt>", "eval", dont_inherit=True), scope)
    except Exception as exc:
        raise _failure(written or field.source, names, exc, where) from exc


@dataclass(frozen=True, slots=True)
class Value:
    """What a field is worth.

    Attributes:
        obj: the value of the expression.
        field: the field itself.
        names: the variables, for a format spec that names some.
        where: the place for an error.
    """

    obj: object
    field: Field
    names: Mapping[str, object]
    where: str = ""

    @property
    def is_bare(self) -> bool:
        """Whether nothing asks for its text: neither a conversion nor a format spec."""
        return not self.field.conversion and not self.field.spec

    @property
    def text(self) -> str:
        """Its text, as in an f-string.

        Raises:
            ExpressionError: the value does not take that spec, or its own ``__str__`` raised.
        """
        return formatted(self.field, self.obj, self.names, where=self.where)


def value_of(field: Field, names: Mapping[str, object], *, where: str = "") -> Value | None:
    """What a field is worth, evaluated once; None where ``names`` has not what it starts from.

    Raises:
        ExpressionError: it raised; the cause is chained.
    """
    if not field.is_known(names):
        return None
    return Value(evaluate_field(field, names, where=where), field, names, where)


_CONVERSIONS: dict[str, Callable[[object], str]] = {"": str, "s": str, "r": repr, "a": ascii}


def formatted(
    field: Field, value: object, names: Mapping[str, object] | None = None, *, where: str = ""
) -> str:
    """The text of ``value`` after the field's conversion and format spec.

    Raises:
        ExpressionError: the value does not take that spec, or its own ``__str__`` raised.
    """
    convert = _CONVERSIONS[field.conversion]
    try:
        if not field.spec:
            return convert(value)
        spec = _SPEC_NAME.sub(lambda found: str((names or {})[found[1]]), field.spec)
        return format(convert(value) if field.conversion else value, spec)
    except Exception as exc:
        raise _failure(field.source, {}, exc, where) from exc


def _failure(source: str, names: Mapping[str, object], exc: Exception, where: str) -> ExpressionError:
    shown = shorten(source, 80)
    cause = shorten(f"{type(exc).__name__}: {exc}", 120)
    wrong, near = _misspelt(source, names, exc)
    have = ", ".join(part for part in (where, f"near names: {', '.join(near)}" if near else "") if part)
    corrected = re.sub(rf"\b{re.escape(wrong)}\b", lambda _: near[0], source) if near else source
    return ExpressionError(
        f"{{{shown}}} raised {cause}",
        have=have,
        hint=corrected if corrected != source else f"{shown} in a cell of its own shows the whole traceback",
        expression=source,
    )


def _misspelt(source: str, names: Mapping[str, object], exc: Exception) -> tuple[str, list[str]]:
    """The name, attribute or key that was not there, and those of its place that look like it."""
    known: Iterable[object] = ()
    wrong: object = getattr(exc, "name", "")
    try:
        if isinstance(exc, NameError):
            known = names
        elif isinstance(exc, AttributeError):
            known = dir(exc.obj)
        elif isinstance(exc, KeyError) and (root := re.match(r"\w+", source)):
            wrong = exc.args[0]
            known = names[root[0]].keys()  # type: ignore[attr-defined]
        if not isinstance(wrong, str) or not re.search(rf"\b{re.escape(wrong)}\b", source):
            return "", []  # it went wrong deeper than what stands in the prompt
        return wrong, near_names(wrong, (name for name in known if isinstance(name, str)))
    except Exception:  # the person's own object, which may do anything when it is asked for its names
        return "", []


@lru_cache(maxsize=8)
def written_items(expression: str) -> Mapping[object, str]:
    """What stands at each place of a list that is written out: ``{0: "red", 1: "blue"}`` of ``[red, blue]``.

    {} for anything else, also where another list is spread into it.
    """
    try:
        body = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError):
        return {}
    items = body.elts if isinstance(body, (ast.List, ast.Tuple)) else []
    if any(isinstance(item, ast.Starred) for item in items):
        return {}
    return {place: shorten(ast.unparse(item), 80) for place, item in enumerate(items)}


def field_names(field: Field) -> frozenset[str]:
    """Every name that the expression reads."""
    return field.inner | {field.root}
