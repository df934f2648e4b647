"""The vocabulary: settings are checked where they are made, pictures know whether they are decoded."""

from __future__ import annotations

import pytest
from PIL import Image

from vlm_magic.errors import OptionError, PictureTypeError
from vlm_magic.messages import Exchange, Picture, Reply, Settings, Text, Turn


def test_answers_are_greedy_unless_sampling_is_asked_for() -> None:
    """A temperature of zero is greedy as well."""
    assert not Settings().is_sampling
    assert not Settings(temperature=0.0).is_sampling
    for asked in ({"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"sampling": True}):
        assert Settings().updated(asked).is_sampling


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 1.5},
        {"beams": "two"},
        {"beams": True},
        {"beams": 3, "temperature": 0.5},
        {"time_limit_s": -1},
    ],
    ids=str,
)
def test_a_value_out_of_its_range_is_an_option_error(values: dict[str, object]) -> None:
    """Bad values are found before a model works."""
    with pytest.raises(OptionError):
        Settings().updated(values)


def test_a_misspelt_setting_names_the_near_one() -> None:
    """The hint is what the person meant."""
    with pytest.raises(OptionError, match="max_tokens") as caught:
        Settings().updated({"max_token": 5})
    assert caught.value.hint == "max_tokens=…"


def test_a_picture_that_is_not_decoded_says_so() -> None:
    """Its pixels are asked for by name, not by luck."""
    with pytest.raises(PictureTypeError, match=r"cat\.png"):
        _ = Picture("cat.png").rgb
    assert Picture(None, "cat", Image.new("RGB", (3, 2))).size_px == (3, 2)


def test_an_exchange_reads_as_turns() -> None:
    """A question without an answer is one turn."""
    picture = Picture(None, "cat", Image.new("RGB", (3, 2)))
    exchange = Exchange("1", (Text("What is "), picture, Text("?")))
    assert [turn.role for turn in exchange.turns] == ["user"]
    exchange.reply = Reply("A cat.")
    assert exchange.turns[1] == Turn("assistant", (Text("A cat."),))
    assert exchange.turns[0].text == "What is ?"
    assert exchange.pictures == (picture,)
