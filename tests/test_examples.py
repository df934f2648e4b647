"""Few-shot examples: read from what people have, laid out as the guides do, counted, never dropped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
import tiny_models
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from vlm_magic import workspace
from vlm_magic.conversation import Conversation
from vlm_magic.errors import ContextLengthError, PromptError, VLMError
from vlm_magic.messages import Bill, Exchange, Part, Picture, Reply, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine
from vlm_magic.outputs.fragments import examples_html, examples_text
from vlm_magic.outputs.records import from_record, to_record
from vlm_magic.outputs.transcript import exchange_bundle
from vlm_magic.session import Session
from vlm_magic.starter.making.world.scenes import plan_scene
from vlm_magic.tasks.examples import example_turns, fit_examples
from vlm_magic.testing import ScriptedEngine

RED, BLUE, GREEN = (Image.new("RGB", (32, 24), colour) for colour in ("red", "blue", "green"))


def described(turns: tuple[Turn, ...]) -> list[tuple[str, list[str]]]:
    """Roles, and words and colours in their order."""

    def one(part: Part) -> str:
        return part.text if isinstance(part, Text) else "#" + part.rgb.crop((0, 0, 1, 1)).tobytes().hex()

    return [(turn.role, [one(part) for part in turn.parts]) for turn in turns]


TWO = [
    ("user", ["#ff0000", "Colour?"]),
    ("assistant", ["red"]),
    ("user", ["#0000ff", "Colour?"]),
    ("assistant", ["blue"]),
]

FRAME = pd.DataFrame({"picture": [RED, BLUE], "answer": ["red", "blue"]})
MESSAGES = [
    {"role": "user", "content": [{"type": "image", "image": RED}, {"type": "text", "text": "Colour?"}]},
    {"role": "assistant", "content": "red"},
    {"role": "user", "content": [{"type": "image", "image": BLUE}, {"type": "text", "text": "Colour?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "blue"}]},
]


# ---- reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(FRAME, id="a frame"),
        pytest.param(FRAME.rename(columns={"picture": "Image", "answer": "Caption"}), id="other names"),
        pytest.param(FRAME.assign(other=1), id="more columns"),
        pytest.param({"picture": [RED, BLUE], "answer": ["red", "blue"]}, id="columns"),
        pytest.param(FRAME.to_dict("records"), id="rows"),
        pytest.param([(RED, "red"), (BLUE, "blue")], id="pairs"),
        pytest.param([(RED, "Colour?", "red"), [BLUE, "Colour?", "blue"]], id="triples"),
        pytest.param(((p, a) for p, a in ((RED, "red"), (BLUE, "blue"))), id="a generator"),
        pytest.param(FRAME.assign(question=["Colour?", None]), id="questions, where it has them"),
        pytest.param(MESSAGES, id="messages"),
    ],
)
def test_examples_are_read_from_whatever_holds_them(given: object) -> None:
    assert described(example_turns(given, prompt="Colour?")) == TWO


def test_turns_and_a_conversation_are_examples_as_they_are() -> None:
    turns = example_turns(FRAME, prompt="Colour?")
    assert example_turns(turns) == turns
    conversation = Conversation()
    for asked, answer in zip(turns[::2], turns[1::2], strict=True):
        conversation.commit(conversation.draft(asked.parts, Settings()), Reply(answer.text))
    assert example_turns(conversation) == turns


def test_the_picture_goes_where_the_question_has_its_own() -> None:
    """As text with a mark, or as the parts of a question; all pictures of an example in one place."""
    marked = example_turns([(RED, "red")], prompt="Look at {picture}: colour?")
    assert described(marked)[0] == ("user", ["Look at ", "#ff0000", ": colour?"])
    asked = (Text("Look at "), Picture(None, "g", GREEN), Text(": colour?"))
    assert described(example_turns([(RED, "red")], prompt=asked)) == described(marked)
    several = example_turns([([RED, BLUE], "two")], prompt=asked)
    assert described(several)[0] == ("user", ["Look at ", "#ff0000", "#0000ff", ": colour?"])
    pair = (Picture(None, "g", GREEN), Text(" or "), Picture(None, "g", GREEN), Text("?"))
    both = example_turns([([RED, BLUE], "red")], prompt=pair)
    assert described(both)[0] == ("user", ["#ff0000", " or ", "#0000ff", "?"])
    assert described(example_turns([(RED, "red")]))[0] == ("user", ["#ff0000"])
    own = example_turns([(RED, "What is {picture}?", "red")], prompt=asked)
    assert described(own)[0] == ("user", ["What is ", "#ff0000", "?"])


def test_paths_in_the_picture_column_are_opened(tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    for path in (tmp_path / "red.png", str(tmp_path / "red.png")):
        assert described(example_turns([(path, "red")]))[0] == ("user", ["#ff0000"])


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ([], "no examples"),
        (FRAME.iloc[:0], "no examples"),
        (pd.DataFrame({"photos": [RED]}), "'photos'"),
        ({"picture": [RED], "answer": ["a", "b"]}, "different lengths"),
        ("frame.csv", "str"),
        (3, "int"),
        (RED, "Image"),
        ([RED], "example 1"),
        ([(RED, "red"), (None, "x")], "example 2 has no picture"),
        ([(RED, None)], "example 1 has no answer"),
        ([(RED, math.nan)], "example 1 has no answer"),
        ([(RED, "  ")], "example 1 has no answer"),
        ([("/no/such.png", "x")], "example 1"),
        ([(3.5, "x")], "example 1"),
        ([{"picture": RED}], "no answer"),
        ((1 // 0 for _ in "x"), "ZeroDivisionError"),
        ([Turn("user", (Text("q"),))], "questions with their answers"),
        ([Turn("assistant", (Text("a"),)), Turn("user", (Text("q"),))], "questions with their answers"),
        ([Turn("system", (Text("s"),))], "system"),
        ([Turn("user", ()), Turn("assistant", (Text("a"),))], "empty"),
        ([{"role": "user", "content": [{"type": "video"}]}], "block"),
        ([{"role": "judge", "content": "x"}], "'judge'"),
    ],
)
def test_examples_that_are_none_are_a_short_error(given: object, part: str) -> None:
    with pytest.raises(VLMError) as caught:
        example_turns(given, prompt="Colour?")
    assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


# ---- what the model is shown -----------------------------------------------------------------------------

GUIDE = (Text("User:"), Picture(None, "b", BLUE), Text("Describe this image.\nAssistant:"))
TOWER = "An image of the Eiffel Tower at night. Fun fact: it is as high as an 81-storey building."


@pytest.mark.parametrize(("name", "token"), [("idefics", "<image>"), ("idefics2-base", "<image>")])
def test_a_base_checkpoint_sees_the_prompt_of_the_guide(name: str, token: str) -> None:
    """Picture, question and answer of the example on lines of their own, then the question."""
    engine = LocalEngine(tiny_models.tiny(name))
    examples = example_turns([(RED, TOWER)], prompt=GUIDE)
    rendered = engine.bill([*examples, Turn("user", GUIDE)]).rendered
    line = f"User:{token}Describe this image.\nAssistant:"
    assert rendered == f"{line} {TOWER}\n{line}"


def test_a_chat_checkpoint_sees_turns_of_its_template() -> None:
    """The same text as transformers' own rendering of the messages."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    examples = example_turns(FRAME, prompt="Colour?")
    question = Turn("user", (Picture(None, "g", GREEN), Text("Colour?")))
    messages = [*MESSAGES, {**MESSAGES[0], "content": MESSAGES[0]["content"]}]
    messages[1] = {"role": "assistant", "content": [{"type": "text", "text": "red"}]}
    expected = engine.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert engine.bill([*examples, question]).rendered == expected


SEVERAL = sorted(name for name, build in tiny_models.TINY.items() if build.max_pictures is None)


@pytest.mark.parametrize("name", SEVERAL)
def test_every_family_answers_after_examples_and_finds_them_again(name: str) -> None:
    """With what was computed for them, or without where a family keeps nothing: the same answer."""
    torch.set_num_threads(1)
    engine = LocalEngine(tiny_models.tiny(name))
    examples = example_turns(FRAME, prompt="Colour?")

    def question(image: Image.Image) -> list[Turn]:
        return [*examples, Turn("user", (Picture(None, "g", image), Text("Colour?")))]

    fresh = engine.generate(question(GREEN), Settings(max_tokens=6))
    engine.reuse.clear()
    engine.generate(question(BLUE), Settings(max_tokens=6))
    again = engine.generate(question(GREEN), Settings(max_tokens=6))
    assert again.token_ids == fresh.token_ids
    if engine.reuse.is_able:
        n_examples = engine.bill(question(GREEN)).n_tokens - engine.bill(question(GREEN)[-1:]).n_tokens
        assert again.n_reused_tokens >= n_examples, "the examples were computed once"
    chosen = engine.generate(question(GREEN), Settings(choices=("red", "green")))
    assert len(chosen.choices) == 2


# ---- how many fit ----------------------------------------------------------------------------------------


def test_it_is_said_how_many_such_examples_fit() -> None:
    """And that many do, while twice as many do not."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    question = [Turn("user", (Picture(None, "g", GREEN), Text("Colour?")))]
    two = example_turns(FRAME, prompt="Colour?")
    fit = fit_examples(engine, two, question)
    assert fit.n_examples == 2
    assert fit.n_tokens == engine.bill([*two, *question]).n_tokens - engine.bill(question).n_tokens
    assert fit.n_room is not None
    assert str(fit.n_room) in str(fit)
    limit = engine.bill(question).context_tokens
    assert limit is not None
    many = example_turns([(RED, "red")] * fit.n_room, prompt="Colour?")
    assert engine.bill([*many, *question]).n_tokens < limit


def test_examples_that_do_not_fit_are_an_error_that_says_how_many_do() -> None:
    """That many fit, one more does not; none is dropped."""
    engine = ScriptedEngine()  # a token a word and a picture, 4096 in all
    pairs = [(RED, "word " * 100)] * 60
    question = [Turn("user", (Text("Colour?"),))]
    with pytest.raises(ContextLengthError, match="60 examples") as caught:
        fit_examples(engine, example_turns(pairs, prompt="Colour?"), question, name="frame")
    n: int = caught.value.n_fitting  # type: ignore[attr-defined]
    assert f"--examples frame[:{n}]" in str(caught.value)
    assert fit_examples(engine, example_turns(pairs[:n], prompt="Colour?"), question).n_examples == n
    with pytest.raises(ContextLengthError):
        fit_examples(engine, example_turns(pairs[: n + 1], prompt="Colour?"), question)


# ---- as part of a turn -----------------------------------------------------------------------------------


def test_examples_stand_before_the_whole_conversation_and_belong_to_their_question() -> None:
    engine = ScriptedEngine("one", "two", "three", "four")
    session = Session(engine)
    session.ask("first")
    examples = example_turns(FRAME, prompt="Colour?")
    session.start(["second"], key=("b", 0), examples=examples, remarks=["two of them"]).wait()
    assert [turn.text for turn in engine.history[-1][0]] == [
        "Colour?", "red", "Colour?", "blue", "first", "one", "second",
    ]  # fmt: skip
    session.ask("third")
    assert [turn.text for turn in engine.history[-1][0]] == ["first", "one", "second", "two", "third"]
    second = session.conversation.exchanges[1]
    assert second.reply is not None
    assert second.reply.notes == ("two of them",)
    session.again(second.id).wait()
    assert [turn.text for turn in engine.history[-1][0]][:2] == ["Colour?", "red"], "asked as it was asked"


def test_what_is_shown_names_the_examples_and_stays_inert() -> None:
    turns = example_turns([(RED, "<b>red</b>")] * 9, prompt="Colour?")
    exchange = Exchange("main-1", (Text("Colour?"),), reply=Reply("blue"), examples=turns)

    def thumbnail(picture: Picture) -> str:
        return "data:image/png;base64,AAAA"

    html = examples_html(turns, thumbnail)
    assert html.count("<img") == 6
    assert "After 9 examples" in html
    assert "and 3 more" in html
    assert "<b>" not in html
    assert "after 9 examples" in examples_text(turns)
    bundle = exchange_bundle(exchange, thumbnail=thumbnail)
    assert all("9 examples" in shown for shown in bundle.values())
    assert "<b>red" not in bundle["text/markdown"]
    assert examples_html(()) == examples_text(()) == ""


def test_a_record_keeps_the_examples() -> None:
    """Pictures by their digests, as everywhere; a forged one is left out."""
    turns = example_turns(FRAME, prompt="Colour?")
    record = json.loads(
        json.dumps(to_record(Exchange("m-1", (Text("q"),), reply=Reply("a"), examples=turns)))
    )
    back = from_record(record)
    assert back is not None
    assert [turn.text for turn in back.examples] == [turn.text for turn in turns]
    assert [p.digest for t in back.examples for p in t.pictures] == [
        p.digest for t in turns for p in t.pictures
    ]
    for forged in ("x", [{"role": "system", "parts": [{"text": "s"}]}], [{"role": "user", "parts": [3]}]):
        record["examples"] = forged
        back = from_record(record)
        assert back is not None
        assert back.examples == ()


# ---- in a notebook, with the starter ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def starter() -> Iterator[LocalEngine]:
    from vlm_magic.models.checkpoints.loading import load_model

    engine = LocalEngine(load_model("starter"))
    yield engine
    engine.close()


@pytest.fixture
def shell(starter: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    fresh.models.add("starter", starter)
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    scenes = [plan_scene(Random(f"few {n}"), n_objects=1) for n in range(3)]
    shell.user_ns.update(
        photo=plan_scene(Random(1), n_objects=1).picture,
        frame=pd.DataFrame(
            {
                "picture": [s.picture for s in scenes],
                "answer": [f"It is {s.objects[0].colour}." for s in scenes],
            }
        ),
        pairs=[(RED, "word " * 900)] * 12,
    )
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def run(shell: Any, source: str) -> Any:
    result = shell.run_cell(source, store_history=True)
    return result.error_in_exec or result.error_before_exec


def test_a_cell_with_examples_says_how_many_fit_and_keeps_them_with_its_turn(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shell, "%%vlm --examples frame -o said\n{photo} What colour is it?") is None
    out = capsys.readouterr().out
    assert "after 3 examples" in out
    assert "such would fit" in out
    (exchange,) = workspace.current().conversations.session().conversation.exchanges
    assert len(exchange.examples) == 6
    assert exchange.examples[0].text == " What colour is it?"
    assert exchange.reply is not None
    assert exchange.reply.text == shell.user_ns["said"]
    assert run(shell, "%%vlm --examples frame[:2] --choices yes,no --new\n{photo} Is it red?") is None
    assert run(shell, "%%vlm --examples frame --dry-run --new\n{photo} What colour is it?") is None
    assert "4 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--examples fram", "frame"),
        ("--examples photo", "Image"),
        ("--examples 3", "no variable"),
        ("--examples pairs", "fit"),
    ],
)
def test_a_slip_is_three_lines_and_costs_nothing(
    shell: Any, line: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = run(shell, f"%%vlm {line}\n{{photo}} What colour is it?")
    assert isinstance(error, VLMError)
    assert part in str(error)
    assert len((capsys.readouterr().out).strip().splitlines()) <= 3
    assert len(workspace.current().conversations.session().conversation) == 0
    assert run(shell, "%%vlm\n{photo} What colour is it?") is None


def test_three_examples_fix_the_form_of_the_starters_answers(
    starter: LocalEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fresh scenes; without examples it never answers in this form."""
    shown = [plan_scene(Random(f"form {n}"), n_objects=1) for n in range(13)]
    pairs = [(scene.picture, f"It is {scene.objects[0].colour}.") for scene in shown[:3]]
    examples = example_turns(pairs, prompt="{picture}What colour is it?")
    n_form = n_right = n_without = 0
    for scene in shown[3:]:
        turn = example_turns([(scene.picture, "?")], prompt="{picture}What colour is it?")[0]
        said = starter.generate([*examples, turn], Settings(max_tokens=12)).text
        n_form += said.startswith("It is ")
        n_right += said == f"It is {scene.objects[0].colour}."
        n_without += starter.generate([turn], Settings(max_tokens=12)).text.startswith("It is ")
    with capsys.disabled():
        print(f"\nfew-shot: {n_form} of 10 in the form of the examples, {n_right} right; {n_without} without")
    assert n_without == 0
    assert n_form >= 8
    assert n_right >= 7


def test_two_columns_of_one_name_are_said_with_a_hint_that_works() -> None:
    frame = pd.DataFrame([[RED, RED, "a"]], columns=["picture", "picture", "answer"])
    with pytest.raises(PromptError, match="'picture' 2 times") as caught:
        example_turns(frame)
    assert len(example_turns(eval(caught.value.hint, {"frame": frame}))) == 2


def test_a_tenth_of_the_context_is_left_for_the_answer() -> None:
    """Or as much as the answer may have, where that is less: what just fits leaves nothing to say."""

    class Small(ScriptedEngine):
        def bill(self, turns: Sequence[Turn], settings: Settings | None = None) -> Bill:
            n_tokens = sum(len(turn.text.split()) for turn in turns)
            return Bill(n_tokens, (), 100, "")

    question = [Turn("user", (Text("one two"),))]
    shots = [Turn("user", (Text("word " * 46),)), Turn("assistant", (Text("word " * 46),))]
    with pytest.raises(ContextLengthError, match="94 tokens") as caught:
        fit_examples(Small(), shots, question)
    assert "10 tokens left for the answer" in caught.value.have
    assert fit_examples(Small(), shots, question, Settings(max_tokens=6)).n_tokens == 92
