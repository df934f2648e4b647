"""A typed answer as a tree that can be read: static HTML, Markdown and plain text, without scripts.

Takes any value that an answer can have: models, dataclasses, mappings, sequences, enums and plain values,
nested. Everything a model wrote is escaped, and characters that would not show are spelt out. Knows nothing
of types and schemas; the name of the type is handed in.

Neighbours: `markdown_parser` says which characters show; the shell is the caller.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator, Mapping, Set
from html import escape

from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.outputs.markdown.safe_markdown import literal
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import count_words

__all__ = ["typed_bundle"]

_MOST_CHILDREN = 200  # of one value; the rest is counted
_MOST_NODES = 2_000  # of one tree
_MOST_LEVELS = 20
_LONG_TEXT = 4_000  # characters of one text


@dataclasses.dataclass(frozen=True)
class _Node:
    """One value: its key in the parent, its kind in words, its text or what is in it."""

    key: str
    kind: str
    text: str = ""
    style: str = "word"
    children: tuple[_Node, ...] = ()


def typed_bundle(value: object, type_name: str = "", name: str = "") -> dict[str, str]:
    """A value as a mimebundle.

    Args:
        value: what the answer says.
        type_name: how people call its type; the value's own class if not given.
        name: the variable that holds it, shown in front.

    Returns:
        ``text/html``, ``text/markdown`` and ``text/plain``; the same value gives the same bundle.
    """
    node = _node(name, value, _Budget(), 0)
    node = dataclasses.replace(node, kind=type_name or node.kind)
    return {
        "text/html": framed(_html(node), "typed", sheet="typed"),
        "text/markdown": "\n".join(_markdown(node, 0)) + "\n",
        "text/plain": "\n".join(_plain(node)),
    }


class _Budget:
    """How many nodes a tree may still have."""

    def __init__(self) -> None:
        self.left = _MOST_NODES


def _node(key: str, value: object, budget: _Budget, level: int) -> _Node:
    budget.left -= 1
    inside = _inside(value)
    kind = type(value).__name__
    if inside is None:
        return _Node(key, kind, *_leaf(value))
    if not _has_fields(value):
        kind += f", {count_words(len(inside), 'entry', 'entries')}" if inside else ", empty"
    if level >= _MOST_LEVELS:
        return _Node(key, kind)
    children = []
    for label, child in inside[:_MOST_CHILDREN]:
        if budget.left <= 0:
            break
        children.append(_node(label, child, budget, level + 1))
    n_hidden = len(inside) - len(children)
    if n_hidden:
        children.append(_Node("", "", f"… {n_hidden} more"))
    return _Node(key, kind, children=tuple(children))


def _inside(value: object) -> list[tuple[str, object]] | None:
    """What a value is made of, with labels; None for one that is whole in itself."""
    names = _field_names(value)
    if names is not None:
        return [(name, getattr(value, name, None)) for name in names]
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, (list, tuple, Set)):
        return [(f"[{n}]" if not isinstance(value, Set) else "", item) for n, item in enumerate(value)]
    return None


def _has_fields(value: object) -> bool:
    return _field_names(value) is not None


def _field_names(value: object) -> Iterable[str] | None:
    """Fields of a dataclass, a Pydantic model or a named tuple, without knowing their libraries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value)]
    fields = getattr(type(value), "model_fields", None)
    if isinstance(fields, Mapping):
        return list(fields)
    named = getattr(type(value), "_fields", None)
    return list(named) if isinstance(value, tuple) and isinstance(named, tuple) else None


def _leaf(value: object) -> tuple[str, str]:
    """Text and style of a plain value."""
    if isinstance(value, enum.Enum):
        return _visible(f"{type(value).__name__}.{value.name} = {value.value!r}"), "word"
    if isinstance(value, str):
        return _words(value), "str"
    if isinstance(value, (int, float, complex)) and not isinstance(value, bool):
        return repr(value), "num"
    return _visible(repr(value)), "word"


def _words(text: str) -> str:
    """A text in quotes, its line breaks kept, with characters that do not show spelt out."""
    n_more = len(text) - _LONG_TEXT
    if n_more > 0:
        text = f"{text[:_LONG_TEXT]}… {count_words(n_more, 'more character')}"
    lines = [repr(line)[1:-1].replace("\\'", "'") for line in text.split("\n")]
    return "'" + "\n".join(lines) + "'"


def _visible(text: str) -> str:
    return clean_text(text if len(text) <= _LONG_TEXT else text[:_LONG_TEXT] + "…")


# ---- the three forms -----------------------------------------------------------------------------


def _html(node: _Node) -> str:
    head = _head_html(node)
    if not node.children:
        return head
    items = "".join(f"<li>{_html(child)}</li>" for child in node.children)
    return f"<details open><summary>{head}</summary><ul>{items}</ul></details>"


def _head_html(node: _Node) -> str:
    pieces = []
    if node.key:
        pieces.append(f'<span class="vlm-key">{escape(_label(node.key))}</span>')
    if node.kind:
        pieces.append(f'<span class="vlm-kind">{escape(clean_text(node.kind))}</span>')
    if node.text:
        pieces.append(f'<span class="vlm-{node.style}">{escape(node.text)}</span>')
    return " ".join(pieces)


def _label(key: str) -> str:
    """A key on one line; keys of mappings are the model's words too."""
    return repr(key)[1:-1] if len(key) <= 200 else repr(key[:200])[1:-1] + "…"


def _markdown(node: _Node, level: int) -> Iterator[str]:
    words = [f"**{literal(_label(node.key))}**"] if node.key else []
    words += [f"*{literal(node.kind)}*"] if node.kind else []
    words += [" ".join(literal(node.text).split("\n"))] if node.text else []
    yield "  " * level + "- " + " ".join(words)
    for child in node.children:
        yield from _markdown(child, level + 1)


def _plain(node: _Node, before: str = "", below: str = "") -> Iterator[str]:
    head = f"{_label(node.key)}: " if node.key else ""
    lines = f"{head}{node.text or clean_text(node.kind)}".rstrip().split("\n")
    yield before + lines[0]
    yield from (below + line for line in lines[1:])
    for n, child in enumerate(node.children, start=1):
        is_last = n == len(node.children)
        yield from _plain(child, below + ("└─ " if is_last else "├─ "), below + ("   " if is_last else "│  "))
