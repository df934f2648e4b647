"""A line is options first, then the rest as it stands."""

from __future__ import annotations

import pytest

from vlm_magic.errors import OptionError
from vlm_magic.shell.calls.call import Call
from vlm_magic.shell.line import parse_around, parse_line, parse_options_only
from vlm_magic.shell.options import ASK_OPTIONS, LOAD_OPTIONS, MAGICS, help_text, magic


@pytest.mark.parametrize("word", ["class", "None", "lambda"])
def test_an_answer_is_put_under_no_word_of_python(word: str) -> None:
    """``class`` is letters alone, and no cell could ever read it."""
    with pytest.raises(OptionError, match=f"{word} does not fit") as caught:
        parse_line(f"-o {word} what?", ASK_OPTIONS)
    assert "Python" in caught.value.have


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
        ("--map [before, after] --new", ({"map": "[before, after]", "new": True}, "")),
        ("--map (red, blue) --new", ({"map": "(red, blue)", "new": True}, "")),
        ("--map df[df.year > 2000].photo", ({"map": "df[df.year > 2000].photo"}, "")),
        ("--map df['the photo'] --new", ({"map": "df['the photo']", "new": True}, "")),
        ("--map 'my photos/*.jpg' --new", ({"map": "my photos/*.jpg", "new": True}, "")),
        ("--map photos/[ab]*.jpg x", ({"map": "photos/[ab]*.jpg"}, "x")),
        ("--map img[1.jpg x", ({"map": "img[1.jpg"}, "x")),
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("talk.md -c plants", ({"conversation": "plants"}, "talk.md")),
        ("-c plants talk.md", ({"conversation": "plants"}, "talk.md")),
        ("-c plants my talk.md", ({"conversation": "plants"}, "my talk.md")),
        ("'my -c talk.md' -c plants", ({"conversation": "plants"}, "my -c talk.md")),
        ("plan-b 2 - 3.md", ({}, "plan-b 2 - 3.md")),
        ("", ({}, "")),
    ],
)
def test_options_stand_on_either_side_of_a_single_argument(
    line: str, expected: tuple[dict[str, object], str]
) -> None:
    """``%vlm_export talk.md -c plants`` must not write a file of that whole name."""
    assert parse_around(line, magic("%vlm_export").options, "%vlm_export") == expected


@pytest.mark.parametrize("line", ["talk.md --verbose", "talk.md -c plants more", "talk.md --conversatio x"])
def test_what_stands_behind_a_single_argument_and_is_no_option_is_refused(line: str) -> None:
    """It is neither a part of the file's name nor passed over."""
    with pytest.raises(OptionError, match=r"does not know|no option"):
        parse_around(line, magic("%vlm_export").options, "%vlm_export")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("--max-tokens five", "a whole number"),
        ("--temperature hot", "a number"),
        ("--think maybe", "on, off"),
    ],
)
def test_a_value_of_another_kind_is_told_what_is_wanted_in_our_words(line: str, wanted: str) -> None:
    """Python's ``invalid literal for int() with base 10`` says little to a person."""
    with pytest.raises(OptionError) as caught:
        parse_line(line, ASK_OPTIONS)
    assert caught.value.have.startswith(wanted)


def test_a_word_where_only_options_stand_is_taken_for_the_name_of_a_conversation() -> None:
    """``%vlm_reset plants``: what was meant is one option away."""
    with pytest.raises(OptionError, match="does not know 'plants'") as caught:
        parse_options_only("plants", magic("%vlm_reset").options, "%vlm_reset")
    assert caught.value.hint == "%vlm_reset -c plants"


@pytest.mark.parametrize(
    ("settings", "what", "hint"),
    [
        ({"max_tokens": -3}, "--max-tokens is -3", "--max-tokens 1"),
        ({"top_p": 1.5}, "--top-p is 1.5", "--top-p 1"),
        ({"time_limit_s": -1.0}, "--time-limit is -1.0", "--time-limit 0"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_the_name_it_has_on_the_line(
    settings: dict[str, object], what: str, hint: str
) -> None:
    """With the nearest value that is allowed, whatever Python calls the setting."""
    with pytest.raises(OptionError) as caught:
        Call.of(settings, "hi")
    assert (caught.value.what, caught.value.hint) == (what, hint)
    assert len(str(caught.value).splitlines()) == 3
