"""A line is options first, then the rest as it stands."""

from __future__ import annotations

import pytest

from vlm_magic.errors import OptionError
from vlm_magic.shell.options import (
    ASK_OPTIONS,
    LOAD_OPTIONS,
    MAGICS,
    help_text,
    parse_line,
    parse_options_only,
)


def test_options_end_at_the_first_word_that_is_none_and_the_rest_stays_as_it_is() -> None:
    """Quotes, dashes and spaces of the prompt are the person's."""
    values, rest = parse_line("""-o x --max-tokens=5  what is "in"  {cat}, -o or --new?""", ASK_OPTIONS)
    assert values == {"out": "x", "max_tokens": 5}
    assert rest == """what is "in"  {cat}, -o or --new?"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--system 'be brief' hi", ({"system": "be brief"}, "hi")),
        ('--system="say \\"hi\\"" hi', ({"system": 'say "hi"'}, "hi")),
        ("-c plants --new", ({"conversation": "plants", "new": True}, "")),
        ("--time-limit 2.5s hi", ({"time_limit_s": 2.5}, "hi")),
        ("-- --new is a word", ({}, "--new is a word")),
        ("-5 degrees, is that cold?", ({}, "-5 degrees, is that cold?")),
        ("", ({}, "")),
    ],
)
def test_a_line_parses(line: str, expected: tuple[dict[str, object], str]) -> None:
    """Values may be quoted or joined by an equals sign."""
    assert parse_line(line, ASK_OPTIONS) == expected


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--max-token 5", "--max-tokens"),
        ("--max-tokens", "needs a value"),
        ("--max-tokens five", "does not fit"),
        ("--new=yes", "takes no value"),
        ("-o 2x hi", "does not fit"),
    ],
)
def test_a_bad_option_is_an_error_that_says_what_to_write(line: str, part: str) -> None:
    """A misspelt option never becomes part of the prompt."""
    with pytest.raises(OptionError, match=part) as caught:
        parse_line(line, ASK_OPTIONS)
    assert 2 <= len(str(caught.value).splitlines()) <= 3


def test_words_on_the_line_of_a_cell_are_refused_with_the_place_to_put_them() -> None:
    """They would be lost silently."""
    with pytest.raises(OptionError, match="below the line"):
        parse_options_only("--new what is this?", ASK_OPTIONS, "%%vlm")


@pytest.mark.parametrize("row", MAGICS, ids=lambda row: row.name)
def test_the_help_names_every_option(row: object) -> None:
    """``%%vlm?`` is useful."""
    text = help_text(row.name)  # type: ignore[attr-defined]
    for option in row.options:  # type: ignore[attr-defined]
        assert option.usage in text
        assert option.help in text


@pytest.mark.parametrize("options", [ASK_OPTIONS, LOAD_OPTIONS])
def test_no_flag_is_taken_twice(options: tuple[object, ...]) -> None:
    """The table has one row per flag."""
    flags = [flag for option in options for flag in option.flags]  # type: ignore[attr-defined]
    assert len(flags) == len(set(flags))
