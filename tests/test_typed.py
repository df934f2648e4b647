"""Typed answers: forms of types, models of every family held to them, values, trees and the magic."""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pydantic
import pytest
import tiny_models
import torch
from IPython.core.interactiveshell import InteractiveShell
from leaning import leaning
from PIL import Image

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import GenerationError, ModelKindError, OptionError, TypedAnswerError, VLMError
from vlm_magic.messages import Picture, Reply, Settings, Text, Turn
from vlm_magic.models.decoding import grammar
from vlm_magic.models.engine import LocalEngine
from vlm_magic.outputs.results.typed import typed_bundle
from vlm_magic.shell.calls.typed import find_type
from vlm_magic.starter.making.world.scenes import make_scene
from vlm_magic.tasks.schemas import schema_of, type_name
from vlm_magic.tasks.typed import constraint_for, typed
from vlm_magic.testing import ScriptedEngine


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Shape(pydantic.BaseModel):
    colour: Colour
    form: Literal["circle", "square"]


class Scene(pydantic.BaseModel):
    shapes: list[Shape] = pydantic.Field(min_length=1, max_length=2)
    count: Annotated[int, pydantic.Field(ge=0, le=9)]
    is_dark: bool | None = None


@dataclasses.dataclass
class Spot:
    x: Annotated[int, pydantic.Field(ge=0, le=99)]
    name: Literal["left", "right"] = "left"


class Record(typing.TypedDict):
    size: Literal["big", "small"]
    note: typing.NotRequired[Annotated[str, pydantic.Field(max_length=5)]]


class Pair(NamedTuple):
    first: bool
    second: Literal[1, 2]


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "n": {"type": "integer", "minimum": 1, "maximum": 3}},
    "required": ["kind", "n"],
    "additionalProperties": False,
}
CODE = re.compile(r"^(?:AB|CD)-\d{2}$")
TYPES: dict[str, tuple[object, Any]] = {
    "model": (Scene, lambda v: isinstance(v, Scene)),
    "dataclass": (Spot, lambda v: isinstance(v, Spot)),
    "typed dict": (Record, lambda v: isinstance(v, dict) and v["size"] in ("big", "small")),
    "named tuple": (Pair, lambda v: isinstance(v, Pair)),
    "enum": (Colour, lambda v: isinstance(v, Colour)),
    "literal": (Literal["dark red", "blue", 3], lambda v: v in ("dark red", "blue", 3)),
    "bool": (bool, lambda v: isinstance(v, bool)),
    "int": (int, lambda v: type(v) is int),
    "float": (float, lambda v: isinstance(v, float)),
    "list": (
        Annotated[list[Literal["a", "b"]], pydantic.Field(max_length=3)],
        lambda v: isinstance(v, list) and set(v) <= {"a", "b"},
    ),
    "optional": (Literal["x y"] | None, lambda v: v in ("x y", None)),
    "json schema": (SCHEMA, lambda v: v["kind"] in ("cat", "dog") and v["n"] in (1, 2, 3)),
    "pattern": (CODE, lambda v: CODE.fullmatch(v) is not None),
}


def question(text: str = "What is it?") -> list[Turn]:
    image = Image.effect_noise((64, 48), 80).convert("RGB")
    return [Turn("user", (Picture(None, "p", image), Text(text)))]


def local(name: str) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(tiny_models.tiny(name))


@pytest.fixture(scope="module")
def starter() -> LocalEngine:
    return vlm_magic.load()


# ---- forms of types and values of texts ----------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (bool, "Yes", True),
        (bool, "no", False),
        (bool, "False", False),
        (int, "-12", -12),
        (float, "2.50", 2.5),
        (str, "any words", "any words"),
        (Colour, "Blue", Colour.BLUE),
        (Literal["a b", 3, True], "3", 3),
        (Literal["a b", 3, True], "yes", True),
        (Literal["the", "The"], "The", "The"),
        (list[int], "[1, 2]", [1, 2]),
        (Record, '{"size": "big"}', {"size": "big"}),
        (list[Record], '[{"size": "small", "note": "x"}]', [{"size": "small", "note": "x"}]),
        (Spot, '{"x": 3}', Spot(3)),
        (Pair, "[true, 2]", Pair(True, 2)),
        (set[int], "[1, 1]", {1}),
        (int | None, "null", None),
        (SCHEMA, '{"kind": "cat", "n": 1}', {"kind": "cat", "n": 1}),
        (CODE, "AB-07", "AB-07"),
        (re.compile("red|blue", re.IGNORECASE), "RED", "RED"),
    ],
)
def test_a_text_becomes_a_value_of_the_type(type_: object, text: str, value: object) -> None:
    """Also with a capital, as sentences begin."""
    found = schema_of(type_).parse(text)
    assert found == value
    assert type(found) is type(value)


def test_words_that_differ_in_their_capital_alone_stay_apart(starter: LocalEngine) -> None:
    """The exact word comes first; what is said is said so."""
    constraint = constraint_for(starter, Literal["polish", "Polish"])
    assert [constraint.parse(text) for text in ("polish", "Polish")] == ["polish", "Polish"]


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (5, "cannot be the type of an answer"),
        (Image.Image, "Image cannot be the type"),
        (typing.Callable, "cannot be the type of an answer"),
        (re.compile(b"red"), "pattern of bytes"),
        (re.compile("^a$", re.MULTILINE), "MULTILINE"),
        ({"enum": [{1, 2}]}, "not a valid JSON schema"),
        (enum.Enum("Nothing", []), "no members"),
        (list["Unknown"], "cannot be the type of an answer"),  # type: ignore[name-defined]  # noqa: F821
    ],
)
def test_what_is_no_type_is_said_in_three_lines(type_: object, words: str) -> None:
    with pytest.raises(OptionError, match=words) as error:
        schema_of(type_)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        ({"type": "integer", "minimum": 5, "maximum": 3}, "greater than maximum"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "unsatisfiable"),
        ({"enum": []}, "Unsatisfiable"),
        ({"not": {"type": "string"}}, "Unimplemented"),
        ({"$ref": "#/$defs/nowhere"}, "does not exist"),
        ({"type": "colour"}, "Invalid type"),
        (re.compile(r"[^\s\S]"), "no text fits"),
        (re.compile(r"a[^\s\S]"), "no text fits"),
        (re.compile(r"(?=a)a"), "look-ahead"),
        (re.compile(r"(a)\1"), "backreferences"),
    ],
)
def test_a_form_that_nothing_satisfies_is_said_before_anything_is_asked(
    type_: object, words: str, starter: LocalEngine
) -> None:
    """Three lines, without the library's drawings; the conversation stays as it was."""
    session = vlm_magic.Session(starter)
    with pytest.raises(OptionError, match=words) as error:
        typed(session, type_, "What is it?")
    assert len(str(error.value).splitlines()) == 3
    assert "<state>" not in str(error.value)
    assert len(session.conversation) == 0


@pytest.mark.parametrize(
    ("pattern", "text", "other"),
    [
        (re.compile(r"^red$|^blue$"), "blue", "green"),
        (re.compile(r"\A\d{2}\Z"), "07", "7"),
        (re.compile(r"a b # a remark", re.VERBOSE), "ab", "a b"),
        (re.compile(r"[$^|]\$"), "^$", "^"),
        (re.compile(r"\w+/\w", re.ASCII), "ab/c", "é/c"),
        (re.compile(r"[\d-]{3}", re.ASCII), "1-2", "1+2"),
        (re.compile(r"(?P<a>x|y){2}?"), "xy", "x"),
        (re.compile("a.c", re.DOTALL), "a\nc", "ac"),
    ],
)
def test_patterns_mean_to_the_grammar_what_they_mean_to_python(
    pattern: re.Pattern[str], text: str, other: str, starter: LocalEngine
) -> None:
    """The whole answer matches, so anchors around alternatives are nothing."""
    constraint = constraint_for(starter, pattern)
    assert starter.loaded is not None
    for said in (text, other):
        ids = starter.loaded.tokenizer(said, add_special_tokens=False)["input_ids"]
        matcher = grammar._compile(starter.loaded, constraint.grammar)
        accepted = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
        assert accepted == (pattern.fullmatch(said) is not None) == (said == text)


def test_names_of_types_are_short() -> None:
    assert type_name(list[int]) == "list[int]"
    assert type_name(Literal["a"] | None) == "Optional[Literal['a']]"
    assert type_name(Scene) == "Scene"
    assert type_name({"title": "Pet"}) == "Pet"


# ---- every family held to every form -------------------------------------------------------------


@pytest.fixture(scope="module", params=sorted(tiny_models.TINY))
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    return local(request.param)


def check(engine: LocalEngine, name: str, how: Settings) -> None:
    type_, is_right = TYPES[name]
    constraint = constraint_for(engine, type_)
    chunks = list(engine.stream(question(), how.updated({"grammar": constraint.grammar})))
    reply = chunks[-1].reply
    assert reply is not None
    assert "".join(chunk.text for chunk in chunks) == reply.text
    assert is_right(constraint.read(reply)), reply.text


def test_a_random_model_of_every_family_gives_valid_answers(engine: LocalEngine) -> None:
    """Its words mean nothing, but their form is that of the type; the stream adds up to them."""
    for name in ("literal", "bool", "int", "pattern", "dataclass"):
        check(engine, name, Settings(max_tokens=60))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("build", ["idefics2-chatty", "qwen2-vl", "paligemma"])
def test_every_type_holds_with_every_kind_of_tokenizer(build: str, name: str) -> None:
    """Bytes, pieces with a space before the first word, pieces without; drawn at random."""
    check(local(build), name, Settings(max_tokens=200, temperature=1.5, seed=3))


def test_a_batch_and_beams_are_held_like_single_answers(engine: LocalEngine) -> None:
    """Rows of different length; greedy answers of a batch are those of one by one."""
    constraint = constraint_for(engine, Spot)
    how = Settings(max_tokens=60, grammar=constraint.grammar)
    asked = [question("What is it?"), question("How many are there in the picture?")]
    together = engine.generate_batch(asked, how)
    assert [reply.text for reply in together] == [engine.generate(turns, how).text for turns in asked]
    best = engine.generate(asked[0], how.updated({"beams": 2}))
    drawn = engine.generate_several(asked[0], 2, how.updated({"temperature": 1.5, "seed": 1}))
    assert all(isinstance(constraint.read(reply), Spot) for reply in (*together, best, *drawn))


@pytest.mark.parametrize("name", ["idefics2-chatty", "qwen2-vl", "paligemma"])
def test_texts_hold_no_raw_control_characters(name: str) -> None:
    """Drawn at random from a random model, where JSON's own rules are easiest to break."""
    engine = local(name)
    constraint = constraint_for(engine, Annotated[str, pydantic.Field(max_length=12)])
    how = Settings(max_tokens=120, temperature=2.0, grammar=constraint.grammar)
    values = set()
    for seed in range(10):
        reply = engine.generate(question(), how.updated({"seed": seed}))
        values.add(constraint.read(reply))
        assert not re.search("[\x00-\x1f]", reply.text)
        assert isinstance(json.loads(reply.text), str)
    assert len(values) > 8


def test_a_stop_in_the_middle_keeps_the_text_and_says_so() -> None:
    engine = local("qwen2-vl")
    constraint = constraint_for(engine, Annotated[list[Literal["word"]], pydantic.Field(min_length=400)])
    generation = engine.start(question(), Settings(max_tokens=2000, grammar=constraint.grammar))
    for n, _ in enumerate(generation):
        if n == 5:
            generation.stop()
    reply = generation.reply
    assert reply is not None
    assert reply.finish_reason == "interrupted"
    assert reply.text.startswith('["word"')
    with pytest.raises(TypedAnswerError, match="stopped") as error:
        constraint.read(reply)
    assert error.value.text == reply.text  # type: ignore[attr-defined]


def test_beams_and_forbidden_words_leave_something_to_say_or_an_error() -> None:
    """What the type allows may be forbidden in another way; that is said, not answered with rubbish."""
    engine = local("idefics3")
    constraint = constraint_for(engine, Literal["cat"])
    how = Settings(max_tokens=9, grammar=constraint.grammar)
    assert constraint.read(engine.generate(question(), how.updated({"beams": 4}))) == "cat"
    with pytest.raises(OptionError, match="nothing is left to say"):
        engine.generate(question(), how.updated({"bad_words": (*"cat", "ca", "cat", "Cat", "C")}))


def test_scores_beyond_the_tokenizer_are_padding_and_stay_forbidden() -> None:
    """Checkpoints round their vocabulary up; others leave their last tokens out."""
    loaded = tiny_models.tiny("qwen2-vl")
    held = constraint_for(local("qwen2-vl"), Literal["cat"])
    n = len(loaded.tokenizer)
    prompt = torch.zeros((2, 3), dtype=torch.int64)
    for n_scores in (n + 64, n - 2):
        processor = held.processors()[0]
        scores = processor(prompt, torch.zeros((2, n_scores)))
        assert scores.shape == (2, n_scores)
        allowed = torch.isfinite(scores[0]).nonzero().ravel().tolist()
        assert allowed
        assert max(allowed) < n
        assert {loaded.tokenizer.decode([token]).strip()[:1] for token in allowed} <= {"c", "C", ""}


def test_a_processor_serves_transformers_own_generate() -> None:
    """The plain middle: for people who call ``generate`` themselves."""
    engine = local("llava")
    constraint = constraint_for(engine, Literal["dark red", "light blue"])
    from vlm_magic.models.prompts.prepare import prepare

    inputs = prepare(tiny_models.tiny("llava"), question(), Settings()).inputs
    with torch.inference_mode():
        ids = engine.model.generate(
            **inputs, logits_processor=constraint.processors(), do_sample=False, max_new_tokens=30
        )
    text = engine.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert constraint.parse(text) in ("dark red", "light blue")


def test_a_tokenizer_that_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word pieces do not say where spaces are."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordPiece({"[UNK]": 0, "[SEP]": 1, "cat": 2, "##s": 3}, unk_token="[UNK]"))
    pieces = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", eos_token="[SEP]")
    engine = local("llava")
    loaded = dataclasses.replace(tiny_models.tiny("llava"), processor=type("P", (), {"tokenizer": pieces})())
    monkeypatch.setattr(engine, "loaded", loaded)
    with pytest.raises(ModelKindError, match="cannot be held to a type") as error:
        constraint_for(engine, bool)
    assert len(str(error.value).splitlines()) == 3


def test_a_form_that_becomes_too_much_is_an_error_not_rubbish() -> None:
    matcher = grammar._compile(tiny_models.tiny("qwen2-vl"), schema_of(int).grammar)
    assert not matcher.consume_token(0) or matcher.is_error()
    processor = grammar.GrammarProcessor(matcher, [1], 430)
    with pytest.raises(GenerationError, match="too complex to follow"):
        processor(torch.zeros((1, 2), dtype=torch.int64), torch.zeros((1, 430)))


# ---- turns of a conversation ---------------------------------------------------------------------


def test_a_typed_answer_is_a_turn_with_its_text(starter: LocalEngine) -> None:
    session = vlm_magic.Session(starter)
    scene = make_scene(3, n_objects=2)
    n = vlm_magic.typed(session, int, "How many objects are there in ", scene.picture, "?")
    assert n == 2
    reply = session.conversation.exchanges[-1].reply
    assert reply is not None
    assert reply.text == "2"
    again = session.again(session.conversation.exchanges[-1].id)
    for _ in again:
        pass
    assert again.exchange.reply.text == "2"  # type: ignore[union-attr]


def test_a_cut_answer_keeps_its_text_and_its_turn(starter: LocalEngine) -> None:
    session = vlm_magic.Session(starter)
    with pytest.raises(TypedAnswerError, match="token limit cut it short after 4 tokens") as error:
        typed(session, Scene, "What is there?", max_tokens=4)
    text = session.conversation.exchanges[-1].reply.text  # type: ignore[union-attr]
    assert text
    assert error.value.text == text  # type: ignore[attr-defined]
    assert len(str(error.value).splitlines()) == 3


def test_an_answer_that_ends_at_the_limit_is_whole(starter: LocalEngine) -> None:
    """Nothing could follow but the end: the limit took nothing away."""
    constraint = constraint_for(starter, Literal["red"])
    reply = starter.generate(question(), Settings(max_tokens=1, grammar=constraint.grammar))
    assert (reply.finish_reason, constraint.read(reply)) == ("length", "red")
    number = constraint_for(starter, int)
    cut = starter.generate(question(), Settings(max_tokens=1, grammar=number.grammar))
    with pytest.raises(TypedAnswerError, match="cut it short"):
        number.read(cut)


def test_a_validator_has_the_last_word(starter: LocalEngine) -> None:
    """What no grammar can say is an error with the text, not a value."""

    class Never(pydantic.BaseModel):
        colour: Literal["red", "blue"]

        @pydantic.field_validator("colour")
        @classmethod
        def refuse(cls, value: str) -> str:
            raise ValueError("no colour is right")

    with pytest.raises(TypedAnswerError, match="no colour is right") as error:
        typed(starter, Never, "Which colour?")
    assert error.value.text.startswith('{"colour": ')  # type: ignore[attr-defined]


COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")


def test_the_starter_gives_right_typed_answers_on_its_scenes(starter: LocalEngine) -> None:
    """Colours, counts and yes or no on fresh scenes; as right as its free answers, printed beside."""
    n, right, free = 20, {"colour": 0, "count": 0, "bool": 0}, {"colour": 0, "count": 0, "bool": 0}
    for seed in range(n):
        one, several = make_scene(90_000 + seed, n_objects=1), make_scene(91_000 + seed)
        thing = one.objects[0]
        other = next(c for c in COLOURS if c != thing.colour)
        asked = thing.colour if seed % 2 else other
        for skill, type_, truth, words, picture in (
            ("colour", Literal[COLOURS], thing.colour, f"What colour is the {thing.shape}?", one.picture),
            ("count", int, len(several.objects), "How many objects are there?", several.picture),
            ("bool", bool, asked == thing.colour, f"Is there a {asked} {thing.shape}?", one.picture),
        ):
            right[skill] += typed(starter, type_, picture, words) == truth
            said = vlm_magic.Session(starter).ask(picture, words).text.rstrip(".").lower()
            free[skill] += said == {True: "yes", False: "no"}.get(truth, str(truth))  # type: ignore[call-overload]
    print(f"typed, of {n}: {right}; free: {free}")
    assert all(right[skill] >= free[skill] for skill in right)
    assert all(value >= 0.85 * n for value in right.values()), right


# ---- the magic -----------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    engine = ScriptedEngine()
    fresh.models.add("fake", engine)
    return engine


@pytest.fixture
def shell(fake: ScriptedEngine) -> Iterator[Any]:
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.user_ns.update(Scene=Scene, Colour=Colour, CODE=CODE, SCHEMA=SCHEMA, words=["red", "blue"])
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def run(shell: Any, source: str) -> Any:
    result = shell.run_cell(source, store_history=True)
    return result.error_in_exec or result.error_before_exec


def test_the_value_lands_in_the_variable_and_shows_as_a_tree(
    shell: Any, fake: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    said = '{"shapes": [{"colour": "red", "form": "circle"}], "count": 1}'
    fake.enqueue(said)
    assert run(shell, "%%vlm --type Scene -o scene\nWhat is there?") is None
    assert shell.user_ns["scene"] == Scene(shapes=[Shape(colour=Colour.RED, form="circle")], count=1)
    assert fake.history[-1][1].grammar == schema_of(Scene).grammar
    out = capsys.readouterr().out
    assert "scene: Scene" in out
    assert "└─ is_dark: None" in out
    assert "Colour.RED = 'red'" in out
    fake.enqueue("fine")
    assert run(shell, "%%vlm\nAnd?") is None
    assert [turn.text for turn in fake.history[-1][0]] == ["What is there?", said, "And?"]


@pytest.mark.parametrize(
    ("line", "said", "value"),
    [
        ("--type int", "3", 3),
        ("--type list[int]", "[1, 2]", [1, 2]),
        ('--type Literal["dark red", "blue"]', "dark red", "dark red"),
        ("--type Literal[*words]", "blue", "blue"),
        ("--type Optional[Literal['x y']]", "null", None),
        ('--type "int | None"', "null", None),
        ("--type CODE", "AB-12", "AB-12"),
        ("--type SCHEMA", '{"kind": "dog", "n": 2}', {"kind": "dog", "n": 2}),
        ("--type Colour", "Red", Colour.RED),
    ],
)
def test_types_are_written_on_the_line_as_in_python(
    shell: Any, fake: ScriptedEngine, line: str, said: str, value: object
) -> None:
    """Brackets may hold spaces; what `typing` calls so needs no import."""
    fake.enqueue(said)
    assert run(shell, f"%vlm {line} -o got What is it?") is None
    assert shell.user_ns["got"] == value
    assert fake.history[-1][0][-1].text == "What is it?"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--type Scen", "no type 'Scen'"),
        ("--type words", "is a value"),
        ("--type print(words)", "not the name of a type"),
        ("--type list[int", "does not know"),
        ("--type Scene.nothing", "not a type"),
        ("--type Scene --stop x", "do not go together"),
        ("--type Scene --choices a,b", "do not go together"),
    ],
)
def test_a_wrong_type_costs_nothing(shell: Any, fake: ScriptedEngine, line: str, words: str) -> None:
    """Said in three lines before the model is asked; the conversation and the variable stay."""
    shell.user_ns["got"] = "before"
    error = run(shell, f"%%vlm {line} -o got\nWhat is it?")
    assert isinstance(error, VLMError)
    assert words in str(error)
    assert len(str(error).splitlines()) <= 3
    assert fake.history == []
    assert shell.user_ns["got"] == "before"


def test_an_answer_cut_short_leaves_the_variable_alone(shell: Any, fake: ScriptedEngine) -> None:
    """The turn is kept with its text."""
    fake.enqueue('{"shapes": [{"colour": "red", "form": "circle"}], "count": 1}')
    error = run(shell, "%%vlm --type Scene --max-tokens 3 -o got\nWhat is there?")
    assert isinstance(error, TypedAnswerError)
    assert "token limit" in str(error)
    assert "got" not in shell.user_ns
    kept = vlm_magic.session().conversation.exchanges
    assert [exchange.reply.text for exchange in kept] == ['{"shapes": [{"colour": "red",']


def test_nothing_on_the_line_is_called(shell: Any) -> None:
    for written in ("f()", "[x for x in y]", "lambda: 1", "a if b else c", "f'{x}'", "(x := 1)"):
        with pytest.raises(OptionError):
            find_type(written, {"f": print, "y": [1], "a": int, "b": 1, "c": int, "x": 1})


# ---- the tree ------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script><img src=x onerror=1>\x1b[31m\u202e[x](javascript:1)"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        assert all(name in ("class", "open") for name, _ in attrs)


def test_a_tree_is_inert_whatever_the_model_wrote() -> None:
    """Texts and keys alike; characters that do not show are spelt out."""
    bundle = typed_bundle({HOSTILE: HOSTILE, "list": [HOSTILE]}, HOSTILE, "answer")
    parser = _Tags()
    parser.feed(bundle["text/html"])
    assert parser.tags <= {"style", "div", "details", "summary", "ul", "li", "span"}
    for text in bundle.values():
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script" not in bundle["text/markdown"]
    assert "](javascript" not in bundle["text/markdown"].replace("\\]", "")
    assert r"\x1b[31m\u202e" in bundle["text/plain"]


def test_a_tree_shows_every_kind_of_value() -> None:
    value = Scene(shapes=[Shape(colour=Colour.RED, form="circle")], count=3)
    assert typed_bundle(value, "Scene", "s")["text/plain"].splitlines() == [
        "s: Scene",
        "├─ shapes: list, 1 entry",
        "│  └─ [0]: Shape",
        "│     ├─ colour: Colour.RED = 'red'",
        "│     └─ form: 'circle'",
        "├─ count: 3",
        "└─ is_dark: None",
    ]
    assert typed_bundle(Pair(True, 2))["text/plain"] == "Pair\n├─ first: True\n└─ second: 2"
    assert typed_bundle([])["text/plain"] == "list, empty"
    assert typed_bundle({"a": {1}})["text/markdown"].splitlines()[0].startswith("- *dict, 1 entry*")


def test_a_huge_value_stays_a_small_tree() -> None:
    """What is left out is counted."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    assert len(typed_bundle(deep)["text/html"]) < 20_000
    wide = typed_bundle([[n] * 50 for n in range(5_000)])
    assert "… 4800 more" in wide["text/plain"] or "… 49" in wide["text/plain"]
    assert len(wide["text/html"]) < 400_000
    assert "more characters" in typed_bundle("x" * 100_000)["text/plain"]


def test_a_reply_of_another_engine_is_read_by_its_text() -> None:
    """Where the tokens are unknown, an answer that was cut off is not whole."""
    constraint = constraint_for(ScriptedEngine(), Literal["red"])
    assert constraint.read(Reply("red")) == "red"
    with pytest.raises(TypedAnswerError):
        constraint.read(Reply("red", finish_reason="length"))
    with pytest.raises(OptionError, match="does not run here"):
        constraint.processors()


# ---- in JupyterLab -------------------------------------------------------------------------------

CELLS = (
    "%load_ext vlm_magic\n%vlm_load\nfrom typing import Annotated, Literal\nimport pydantic\n"
    "from vlm_magic.starter.making.world.scenes import make_scene\n"
    "picture = make_scene(14, n_objects=1).picture\n"
    "Words = Annotated[list[Literal['word']], pydantic.Field(min_length=900)]\n"
    "Colour = Literal['red', 'green', 'blue', 'pink', 'yellow', 'orange', 'black', 'white']",
    "class Thing(pydantic.BaseModel):\n    colour: Colour\n    form: Literal['circle', 'square', 'star']\n\n"
    "class Scene(pydantic.BaseModel):\n    things: list[Thing] = pydantic.Field(min_length=1, max_length=2)\n"
    "    count: Annotated[int, pydantic.Field(ge=0, le=9)]\n"
    "    title: Annotated[str, pydantic.Field(max_length=20)]",
    "%%vlm --type Scene -o scene\nWhat is in {picture}?",
    "scene.things[0].form, type(scene.count).__name__",
    "%vlm --new --type int -o n How many objects are there in {picture}?",
    "%vlm_code",
    "%vlm --type Words -o words --max-tokens 3000 Say it.",
    "'words' in globals()",
)


@pytest.mark.browser
def test_a_typed_answer_in_jupyterlab_is_a_tree_live_and_saved(tmp_path: Path) -> None:
    """It folds and unfolds without a kernel; an interrupt keeps the text and binds nothing."""
    import lab as jupyter

    folder = tmp_path / "notebooks"
    folder.mkdir()
    jupyter.write_notebook(folder / "typed.ipynb", *CELLS)
    shots = jupyter.SHOTS

    def output_of(page: Any, index: int) -> str:
        return " ".join(jupyter.output_text(page, index).split())

    with (
        jupyter.running_lab(folder) as lab,
        jupyter.running_browser() as browser,
        jupyter.browser_page(lab, "typed.ipynb", browser=browser) as page,
    ):
        for index in range(6):
            jupyter.run_cell(page, index)
        assert "scene Scene things list, " in output_of(page, 2)
        jupyter.shows(jupyter.output_area(page, 3), "'int')")
        tree = page.locator(".jp-Cell").nth(2).locator(".vlm-typed")
        assert output_of(page, 4).endswith("n int 1")
        assert tree.locator("details").first.get_attribute("open") is not None
        jupyter.shows(jupyter.output_area(page, 5), "from transformers import")
        if shots.is_dir():
            tree.scroll_into_view_if_needed()
            jupyter.screenshot(page, shots / "typed.png")
            page.locator(".jp-Cell").nth(5).scroll_into_view_if_needed()
            jupyter.screenshot(page, shots / "code.png")
        jupyter.run_cell(page, 6, wait=False)
        page.locator(".jp-Cell").nth(6).get_by_text("word").last.wait_for()
        page.wait_for_timeout(1000)
        jupyter.command(page, "notebook:interrupt-kernel")
        jupyter.wait_idle(page)
        jupyter.run_cell(page, 7)
        jupyter.shows(jupyter.output_area(page, 6), "Interrupted: the answer so far is kept")
        jupyter.shows(jupyter.output_area(page, 7), "False")
        jupyter.save(page)
        assert page.problems == []
    saved = json.loads((folder / "typed.ipynb").read_text(encoding="utf-8"))
    data = saved["cells"][2]["outputs"][-1]["data"]
    assert set(data) == {"text/html", "text/markdown", "text/plain"}
    assert "".join(data["text/plain"]).startswith("scene: Scene\n├─ things: list")
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "typed.ipynb"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with jupyter.running_browser() as browser:
        page = browser.new_page()
        page.goto((folder / "typed.html").as_uri())
        tree = page.locator(".vlm-typed").first
        assert "scene Scene" in " ".join(tree.inner_text().split())
        tree.locator("summary").first.click()
        assert tree.locator("details").first.get_attribute("open") is None
        tree.locator("summary").first.click()
        if shots.is_dir():
            tree.scroll_into_view_if_needed()
            page.screenshot(path=shots / "typed-saved.png")


@dataclasses.dataclass
class Blob:
    """A dataclass with a field that no text says."""

    name: str
    data: list[bytes]


@pytest.mark.parametrize(
    "type_", [complex, bytes, bytearray, memoryview, list[bytes], dict[str, complex], Blob], ids=str
)
def test_values_that_no_text_says_are_refused(type_: object) -> None:
    """Pydantic takes bytes and complex numbers for strings of any kind."""
    with pytest.raises(OptionError, match="cannot be the type of an answer") as caught:
        schema_of(type_)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["idefics3", "qwen2-vl"])
def test_a_space_is_no_way_out_for_a_model_that_would_rather_say_something_else(name: str) -> None:
    """A type allows one before an answer, as templates teach it; the answer itself never begins with it."""
    loaded = tiny_models.tiny(name)
    tokenizer = loaded.tokenizer
    blanks = [n for n in range(len(tokenizer)) if tokenizer.decode([n]) == " "]
    with leaning(loaded.model, blanks, 1e4):
        turns = [Turn("user", (Picture(None, "p", Image.new("RGB", (48, 48))), Text("Is it?")))]
        reply = LocalEngine(loaded).generate(turns, Settings(max_tokens=8, grammar=schema_of(bool).grammar))
    assert blanks
    assert reply.text in ("yes", "no", "true", "false", "Yes", "No", "True", "False")
    assert reply.token_ids[0] not in blanks
