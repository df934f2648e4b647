"""Real servers with the starter: what each was found to be able to do, and the same answers as here."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from real_servers import RealServer, llama_server, transformers_server, vllm_server
from server_table import LOCAL, TABLE, abilities_of, as_markdown

import vlm_magic
from vlm_magic.errors import ContextLengthError, EngineGoneError, GenerationError, OptionError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine
from vlm_magic.remote.connect import connect_to
from vlm_magic.remote.engine import RemoteEngine
from vlm_magic.starter.making.world.scenes import draw_scene
from vlm_magic.tasks.map.journal import forget_maps

QUESTIONS = (
    "What is in this picture?",
    "How many shapes are there?",
    "What colour is the circle?",
    "Is there a star?",
    "Where is the blue square?",
)


def scenes(n: int) -> list[Picture]:
    """Drawn scenes, all different."""
    colours, shapes = ("red", "blue", "green", "yellow"), ("circle", "square", "star")
    made = []
    for i in range(n):
        one = (colours[i % 4], shapes[i % 3], 0.3, 0.3, 0.25 + 0.001 * i)
        image = draw_scene([one, (colours[(i + 1) % 4], shapes[(i + 1) % 3], 0.7, 0.7, 0.25)])
        made.append(Picture(None, f"scene {i}", image, f"scene {i}"))
    return made


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    forget_maps()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with transformers_server(tmp_path_factory.mktemp("serving")) as server:
        yield server


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with llama_server(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    with vllm_server(tmp_path_factory.mktemp("vllm")) as server:
        yield server


@pytest.fixture(scope="module")
def starter() -> Iterator[LocalEngine]:
    from vlm_magic.models.checkpoints.loading import load_model

    engine = LocalEngine(load_model("starter"))
    yield engine
    engine.close()


def connected(server: RealServer, monkeypatch: pytest.MonkeyPatch, **options: object) -> RemoteEngine:
    monkeypatch.setenv("REAL_KEY", server.key or "none")
    key_env = "REAL_KEY" if server.key else None
    return connect_to(server.url, server.model, name="far", key_env=key_env, **options)  # type: ignore[arg-type]


def test_the_table_of_servers_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The README shows it; the rows are measured by the tests below, or by hand where they say so."""
    with capsys.disabled():
        print("\n" + as_markdown())
    readme = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
    assert as_markdown() in readme
    assert set(LOCAL) == {name for row in TABLE.values() for name in row}


def test_transformers_serve_gives_the_same_answers(
    serving: RealServer, starter: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streamed, with pictures in their order and over several turns, in the same precision."""
    far = connected(serving, monkeypatch)
    assert abilities_of(far) == TABLE["transformers serve 5.23"]
    here, there = vlm_magic.Session(starter), vlm_magic.Session(far)
    n_same = 0
    for picture in scenes(4):
        for question in QUESTIONS:
            turns = [Turn("user", (picture, Text(question)))]
            mine = starter.generate(turns, Settings(max_tokens=40))
            reply = far.start(turns, Settings(max_tokens=40)).wait(120)
            assert reply is not None
            n_same += mine.text.strip() == reply.text.strip()
    assert n_same >= 19  # of 20: its arithmetic has another order
    one, two = scenes(2)
    for session in (here, there):
        session.ask("What is in ", one, "?", max_tokens=40)
        session.ask("And in ", two, "?", max_tokens=40)
    assert [e.reply.text.strip() for e in there.conversation if e.reply] == [
        e.reply.text.strip() for e in here.conversation if e.reply
    ]
    assert far.bill([Turn("user", (Text("hi"),))], Settings()).n_tokens
    with pytest.raises(OptionError):
        there.ask("x", choices=("a", "b"))


def test_transformers_serve_is_stopped_and_fails_in_words(
    serving: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = connected(serving, monkeypatch)
    for n in range(5):
        generating = far.start([Turn("user", (Text("Tell me a story."),))], Settings(max_tokens=800))
        threading.Timer(0.05 * n, generating.stop).start()
        reply = generating.wait(60)
        assert reply is not None
        assert reply.finish_reason in ("interrupted", "stop", "length")
    with pytest.raises(GenerationError, match=r"127\.0\.0\.1"):
        vlm_magic.Session(far).ask("<image>")


def test_llama_cpp_does_all_that_its_row_says(
    llama: RealServer, starter: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choices with their log-probabilities, types, counts, log-probabilities, control tokens."""
    far = connected(llama, monkeypatch)
    assert abilities_of(far) == TABLE["llama.cpp 0.7"]
    picture = scenes(1)[0]
    session = vlm_magic.Session(far)
    reply = session.ask("What colour is the circle in ", picture, "?", choices=("red", "blue", "light blue"))
    assert reply.text == "red"
    assert [choice.log_probability for choice in reply.choices] == sorted(
        (choice.log_probability for choice in reply.choices), reverse=True
    )
    assert reply.choices[0].log_probability > -0.1
    assert (
        vlm_magic.typed(session, Literal["red", "blue"], "What colour is the circle in ", picture, "?")
        == "red"
    )
    assert vlm_magic.typed(far, int, "How many shapes are in ", picture, "?") == 2
    turns = [Turn("user", (picture, Text("What is it?")))]
    asked = far.start(turns, Settings(max_tokens=3, log_probabilities=True)).wait(60)
    assert asked is not None
    assert far.bill(turns, Settings()).n_tokens == asked.n_prompt_tokens
    assert 1 <= len(asked.log_probabilities) <= asked.n_new_tokens, "not that of the end, in a stream"
    assert any("control token" in note for note in session.ask("say <image>", max_tokens=3).notes)
    with pytest.raises(vlm_magic.VLMError, match=r"takes 4096|does not fit|4096"):
        session.ask("word " * 6000)
    goes_on_as_if_it_had_not_been_cut(far)


def goes_on_as_if_it_had_not_been_cut(engine: RemoteEngine) -> None:
    """Wherever it is cut between two words, without and with a picture and turns before it.

    Marks that follow each other may be read as one token when they are given back, so it asks for words.
    """
    can = Turn("user", (Text("What can you do?"),))
    told = engine.start([can], Settings(max_tokens=60)).wait(300)
    assert told is not None
    seen = Turn("user", (scenes(1)[0], Text("What is in this picture?")))
    for asked in ([can], [can, Turn("assistant", (Text(told.text),)), seen]):
        whole = engine.start(asked, Settings(max_tokens=60)).wait(300)
        assert whole is not None
        assert whole.n_new_tokens > 4, whole.text
        for n in (1, 2, 4):
            cut = engine.start(asked, Settings(max_tokens=n)).wait(300)
            assert cut is not None
            chunks = list(engine.continue_from(cut, asked, Settings(max_tokens=60)))
            reply = chunks[-1].reply
            assert reply is not None
            assert "".join(chunk.text for chunk in chunks) == reply.text == whole.text
            figures = (reply.finish_reason, reply.n_prompt_tokens, reply.n_new_tokens)
            assert figures == (whole.finish_reason, whole.n_prompt_tokens, whole.n_new_tokens)


def stopped_twenty_times(server: RealServer, engine: RemoteEngine, settings: Settings, word: str) -> None:
    """Each answer is interrupted, and the server's own log says so of each."""

    def n_said() -> int:
        return server.log.read_text("utf-8", "replace").count(word)

    before = n_said()
    for n in range(20):
        generating = engine.start([Turn("user", (Text("go on"),))], settings)
        threading.Timer(0.03 + 0.01 * n, generating.stop).start()
        reply = generating.wait(60)
        assert reply is not None
        assert reply.finish_reason == "interrupted"
    deadline = time.monotonic() + 30
    while n_said() - before < 20:
        assert time.monotonic() < deadline, server.log.read_text("utf-8", "replace")[-1500:]
        time.sleep(0.1)


def test_a_stop_reaches_llama_cpp_twenty_times_of_twenty(
    llama: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = connected(llama, monkeypatch)
    endless = Settings(max_tokens=3000, grammar=json.dumps({"regex": "[ab]{300}" * 6}))
    stopped_twenty_times(llama, far, endless, "cancel")


def test_vllm_gives_the_same_answers_and_probabilities(
    vllm: RealServer, starter: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred answers, choices to three digits in each normalisation, types, counts, nothing reused."""
    far = connected(vllm, monkeypatch)
    assert abilities_of(far) == TABLE["vLLM 0.32"]
    n_same = 0
    pictures = scenes(20)
    for picture in pictures:
        for question in QUESTIONS:
            turns = [Turn("user", (picture, Text(question)))]
            reply = far.start(turns, Settings(max_tokens=40)).wait(300)
            assert reply is not None
            n_same += starter.generate(turns, Settings(max_tokens=40)).text.strip() == reply.text.strip()
    assert n_same == 100
    turns = [Turn("user", (Text("What colour is the circle in "), pictures[0], Text("?")))]
    for normalize in ("none", "length", "prior"):
        how = Settings(choices=("red", "blue", "light blue"), normalize=normalize)  # type: ignore[arg-type]
        here, there = (engine.start(turns, how).wait(300) for engine in (starter, far))
        assert here is not None
        assert there is not None
        expected = {choice.text: (choice.log_probability, choice.probability) for choice in here.choices}
        for choice in there.choices:
            found = (choice.log_probability, choice.probability)
            assert found == pytest.approx(expected[choice.text], abs=1e-3)
    session = vlm_magic.Session(far)
    question = ("What colour is the circle in ", pictures[0], "?")
    assert vlm_magic.typed(session, Literal["red", "blue"], *question) == "red"
    assert vlm_magic.typed(session, int, "How many shapes are in ", pictures[0], "?") == 2
    assert far.bill(turns, Settings()).n_tokens == starter.bill(turns, Settings()).n_tokens
    with pytest.raises(ContextLengthError, match="takes 4096"):
        session.ask("word " * 6000)
    with far.from_nothing():
        anew = far.start(turns, Settings(max_tokens=3)).wait(60)
    assert anew is not None
    assert anew.n_reused_tokens == 0
    goes_on_as_if_it_had_not_been_cut(far)


def test_an_answer_of_vllm_is_explained_as_the_model_here_explains_it(
    vllm: RealServer, starter: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same part, the same words without it, the same probabilities; and how likely each word was."""
    scene = scenes(1)[0]
    found = []
    for engine in (starter, connected(vllm, monkeypatch)):
        session = vlm_magic.Session(engine)
        session.ask(scene, "What colour is the square?", top_log_probabilities=5)
        found.append(session.explain("needed", "without", "words", others=scenes(2)[1:]))
    here, there = found
    assert here.needed
    assert [(part.box_px, part.says) for part in there.needed] == [
        (part.box_px, part.says) for part in here.needed
    ]
    assert [part.probability for part in there.needed] == pytest.approx(
        [part.probability for part in here.needed], abs=1e-3
    )
    assert [(row.shown, row.says) for row in there.without] == [(row.shown, row.says) for row in here.without]
    assert [row.probability for row in there.without] == pytest.approx(
        [row.probability for row in here.without], abs=1e-3
    )
    assert there.words[0].text.strip() == here.words[0].text.strip()
    assert there.words[0].log_probability == pytest.approx(here.words[0].log_probability, abs=1e-3)
    assert [other.text.strip() for other in there.words[0].likeliest[:2]] == [
        other.text.strip() for other in here.words[0].likeliest[:2]
    ]


def test_a_stop_reaches_vllm_twenty_times_of_twenty(
    vllm: RealServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = connected(vllm, monkeypatch)
    endless = Settings(max_tokens=3000, grammar=json.dumps({"regex": "[ab]{300}" * 6}))
    stopped_twenty_times(vllm, far, endless, "aborted")


def test_two_llama_servers_one_killed_in_the_middle_of_a_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 rows without an error; with one server alone the journal is finished on the next."""
    pictures = [picture.rgb for picture in scenes(500)]
    with llama_server(tmp_path, "one") as one, llama_server(tmp_path, "two") as two:
        monkeypatch.setenv("REAL_KEY", one.key)
        engine = connect_to([one.url, two.url], key_env="REAL_KEY", at_once=8)
        threading.Timer(1.5, one.kill).start()
        frame = vlm_magic.map_pictures(engine, "What is it?", pictures, max_tokens=12, progress=False)
        assert len(frame) == 500
        assert frame.error.notna().sum() == 0
        assert engine.about.figures[-1] == f"gone: {one.url.split('/')[2]}"
        forget_maps()
        alone = connect_to(two.url, key_env="REAL_KEY")
        journal = tmp_path / "rows.jsonl"
        threading.Timer(1.0, two.kill).start()
        with pytest.raises(EngineGoneError):
            vlm_magic.map_pictures(
                alone, "What is it?", pictures[:300], max_tokens=12, journal=journal, progress=False
            )
    with llama_server(tmp_path, "three") as three:
        monkeypatch.setenv("REAL_KEY", three.key)
        forget_maps()
        again = connect_to(three.url, key_env="REAL_KEY")
        kept = vlm_magic.map_pictures(
            again, "What is it?", pictures[:300], max_tokens=12, journal=journal, progress=False
        )
        assert kept.error.notna().sum() == 0
        assert sum('"text"' in line for line in journal.read_text("utf-8").splitlines()) == 300
