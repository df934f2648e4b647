"""Sizes, counts, shortened lines and short lists, the same everywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vlm_magic
from vlm_magic.wording import count_words, list_words, shorten, size_words


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        (0, "0.0 MB"),
        (5_000_000, "5.0 MB"),
        (9_999_999, "10.0 MB"),
        (48_400_000, "48 MB"),
        (1_300_000_000, "1.3 GB"),
    ],
)
def test_sizes_are_decimal(n_bytes: int, words: str) -> None:
    assert size_words(n_bytes) == words


def test_one_is_singular_and_thousands_have_their_comma() -> None:
    assert [count_words(n, "turn") for n in (0, 1, 2, 1204)] == [
        "0 turns",
        "1 turn",
        "2 turns",
        "1,204 turns",
    ]
    assert [count_words(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 60, 190])
def test_a_long_text_keeps_its_two_ends_within_the_limit(limit: int) -> None:
    text = "the beginning " + "x" * 500 + "\nthe end"
    short = shorten(text, limit)
    assert len(short) == limit
    assert "\n" not in short
    assert short.count("…") == 1
    assert text.startswith(short.partition("…")[0])
    assert " ".join(text.split()).endswith(short.partition("…")[2])


def test_a_short_text_stays_but_for_its_line_breaks() -> None:
    assert shorten("two\n  lines", 60) == "two lines"
    assert shorten("x" * 60, 60) == "x" * 60


def test_a_list_names_the_first_and_says_that_there_are_more() -> None:
    assert list_words([]) == ""
    assert list_words("abc", 3) == "a, b, c"
    assert list_words((str(n) for n in range(9)), 3) == "0, 1, 2, …"


def test_no_other_module_makes_plurals_or_sizes_by_hand() -> None:
    found = []
    for path in Path(vlm_magic.__file__).parent.rglob("*.py"):
        if path.name == "wording.py" or "making" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            by_hand = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
            if by_hand and isinstance(node.left, ast.Constant) and node.left.value == "s":  # type: ignore[attr-defined]
                found.append(f"{path.name}:{node.lineno}")  # type: ignore[attr-defined]
            elif isinstance(node, ast.FunctionDef) and node.name.strip("_") in ("size", "plural", "n_words"):
                found.append(f"{path.name}:{node.lineno}")
    assert found == []
