"""The plain-Python front door: five lines, any order of parts, nothing lost on a failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vlm_magic
from vlm_magic.errors import GenerationError, OptionError, PictureNotFoundError, PictureTypeError, PromptError
from vlm_magic.messages import Picture, Text, Turn
from vlm_magic.testing import ScriptedEngine


@pytest.fixture
def red() -> Image.Image:
    return Image.new("RGB", (8, 6), "red")


def test_parts_reach_the_model_in_their_order(red: Image.Image, tmp_path: Path) -> None:
    """Strings are text, a path is a Path or a Picture, arrays are pictures."""
    red.save(tmp_path / "red.png")
    engine = ScriptedEngine("fine")
    session = vlm_magic.Session(engine)
    path = tmp_path / "red.png"
    session.ask("a ", "b ", red, "c", path, np.zeros((4, 4, 3), np.uint8), Picture(str(path)), "d")
    (turns, _), *_ = engine.history
    kinds = ["p" if isinstance(part, Picture) else part.text for part in turns[0].parts]
    assert kinds == ["a b ", "p", "c", "p", "p", "p", "d"]
    first, second = turns[0].pictures[:2]
    assert first.digest == second.digest != ""
    assert first.size_px == (8, 6)


def test_a_string_is_always_text(tmp_path: Path, red: Image.Image) -> None:
    """Even when it looks like a path, a URL or an expression."""
    red.save(tmp_path / "red.png")
    engine = ScriptedEngine("fine")
    texts = [str(tmp_path / "red.png"), "https://example.org/cat.png", "{x} ![](cat.png) <image>"]
    vlm_magic.Session(engine).ask(*texts)
    assert engine.history[0][0][0].parts == (Text("".join(texts)),)


def test_asking_and_streaming_say_the_same(red: Image.Image) -> None:
    """The last chunk carries the reply."""
    engine = ScriptedEngine("a red picture", "a red picture")
    reply = vlm_magic.Session(engine).ask("What?", red)
    chunks = list(vlm_magic.Session(engine).stream("What?", red))
    assert str(reply) == reply.text == "".join(chunk.text for chunk in chunks) == "a red picture"
    assert chunks[-1].reply is not None
    assert reply.n_picture_tokens == 1


def test_a_follow_up_is_shown_what_was_said_with_the_picture_at_its_turn(red: Image.Image) -> None:
    """Pictures stay with their own turn for ever."""
    engine = ScriptedEngine("red", "yes")
    session = vlm_magic.Session(engine, system="Be brief.")
    session.ask("What colour?", red)
    session.ask("Sure?")
    turns, settings = engine.history[1]
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert [len(turn.pictures) for turn in turns] == [1, 0, 0]
    assert settings.system == "Be brief."


@pytest.mark.parametrize(
    ("parts", "settings", "error"),
    [
        (("hi", 3.5), {}, PictureTypeError),
        (("hi", {"a": 1}), {}, PictureTypeError),
        (("hi", Path("no/such.png")), {}, PictureNotFoundError),
        (("  ",), {}, PromptError),
        ((), {}, PromptError),
        (("hi",), {"max_token": 3}, OptionError),
        (("hi",), {"max_tokens": 0}, OptionError),
    ],
)
def test_bad_input_is_one_of_our_errors_and_changes_nothing(
    parts: tuple[object, ...], settings: dict[str, object], error: type[Exception]
) -> None:
    """The conversation is as before, and the next question works."""
    session = vlm_magic.Session(ScriptedEngine("one", "two"))
    session.ask("first")
    with pytest.raises(error):
        session.ask(*parts, **settings)
    assert len(session.conversation) == 1
    assert session.ask("next").text == "two"


def test_a_model_that_fails_leaves_the_conversation_as_it_was() -> None:
    """The error reaches the caller of ask and of stream."""
    session = vlm_magic.Session(
        ScriptedEngine("one", GenerationError("broke"), GenerationError("again"), "two")
    )
    session.ask("first")
    with pytest.raises(GenerationError, match="broke"):
        session.ask("second")
    with pytest.raises(GenerationError, match="again"):
        list(session.stream("second"))
    assert [e.reply.text for e in session.conversation if e.reply] == ["one"]
    assert session.ask("third").text == "two"


def test_closing_the_stream_early_keeps_the_partial_answer() -> None:
    """As a stop does."""
    session = vlm_magic.Session(ScriptedEngine("word " * 1000, seconds_per_token=0.002))
    stream = session.stream("go")
    next(stream)
    stream.close()
    (exchange,) = session.conversation.exchanges
    assert exchange.reply is not None
    assert exchange.reply.finish_reason == "interrupted"
    assert exchange.reply.text.startswith("word")


def test_a_session_without_an_engine_says_how_to_get_one() -> None:
    """Three lines, with the call to make."""
    with pytest.raises(PromptError, match=r"vlm_magic\.load"):
        vlm_magic.Session().ask("hi")


def test_the_bill_costs_nothing_and_is_no_turn(red: Image.Image) -> None:
    """It generates nothing."""
    engine = ScriptedEngine()
    session = vlm_magic.Session(engine)
    bill, pictures = session.bill("what is ", red)
    assert bill.picture_tokens == (1,)
    assert [picture.size_px for picture in pictures] == [(8, 6)]
    assert len(session.conversation) == 0
    assert engine.history == []


def test_asking_again_takes_the_stored_question_and_its_settings(red: Image.Image) -> None:
    """Nothing is looked up anew; the earlier answer is kept."""
    engine = ScriptedEngine("one", "two", "better", "and then")
    session = vlm_magic.Session(engine)
    session.ask("What? ", red, max_tokens=7)
    session.ask("And then?")
    first, second = session.conversation.exchanges
    session.again(first.id).wait(10)
    assert engine.history[2][0][-1].parts == first.parts
    assert engine.history[2][1].max_tokens == 7
    assert [e.is_stale for e in session.conversation] == [False, True]
    assert session.refresh() == 1
    assert [e.reply.text for e in session.conversation if e.reply] == ["better", "and then"]
    assert [r.text for r in session.conversation.exchanges[1].alternatives] == ["two"]
    assert not any(e.is_stale for e in session.conversation)
    assert second.parts == session.conversation.exchanges[1].parts


def test_a_turn_is_asked_again_as_it_was_asked(red: Image.Image) -> None:
    """With its pictures, its examples and its settings; by name and by `refresh` alike."""
    engine = ScriptedEngine()
    session = vlm_magic.Session(engine)
    shots = (Turn("user", (Text("ripe?"),)), Turn("assistant", (Text("yes"),)))
    session.start(["good? ", red], examples=shots, max_tokens=9, system="Be brief.").wait(10)
    session.again(session.conversation.exchanges[0].id).wait(10)
    session.conversation.exchanges[0].is_stale = True
    assert session.refresh() == 1
    first, *others = engine.history
    assert [turn.text for turn in first[0]] == ["ripe?", "yes", "good? "]
    assert others == [first, first]
    assert len(session.conversation) == 1
