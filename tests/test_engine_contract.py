"""One contract for everything that answers: what holds for a model holds for the scripted engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from tiny_models import folder_of

from vlm_magic.errors import ModelError, OptionError, VLMError
from vlm_magic.messages import (
    Engine,
    Picture,
    Reply,
    Settings,
    Text,
    Turn,
    can_batch,
    can_constrain,
    can_continue,
    can_count,
    can_score,
    remembers,
)
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.remote.connect import connect_to
from vlm_magic.testing import ScriptedEngine

Made = Callable[[], Any]

RED = Picture(None, "red", Image.new("RGB", (48, 32), "red"), "red-48-32")
QUESTION = (Turn("user", (Text("What is in "), RED, Text("?"))),)
SHORT = Settings(max_tokens=5)

LONG = " ".join(f"w{n}" for n in range(400))

WORDS = [f"w{n} " for n in range(400)]


@contextmanager
def on_a_server(kind: str) -> Iterator[Engine]:
    """An engine on a scripted server that keeps to ``max_tokens``."""
    from weather_server import WeatherServer, words

    def answer(handler: Any, body: dict[str, Any]) -> None:
        last = body["messages"][-1]
        n_said = len(last["content"].split()) if last["role"] == "assistant" else 0  # to be gone on with
        n = min(body["max_tokens"], 400 - n_said)
        finish = "length" if n_said + n < 400 else "stop"
        used = {"prompt_tokens": len(handler._tokens(body)), "completion_tokens": n}
        words(*WORDS[n_said : n_said + n], finish=finish, pause_s=0.002, usage=used)(handler, body)

    with WeatherServer(kind) as server:
        server.weather(*[answer] * 20)
        yield connect_to(server.url)


MAKERS: dict[str, Made] = {
    "scripted": lambda: ScriptedEngine(
        *[LONG] * 12,
        seconds_per_token=0.002,
        log_probabilities={"yes": -1.0, "no": -2.0},
        rows_at_once=3,
    ),
    "tiny build": lambda: LocalEngine(load_model(folder_of("idefics3"))),
}


@pytest.fixture(params=[*sorted(MAKERS), "vllm", "llamacpp", "openai"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param not in MAKERS:
        with on_a_server(request.param) as made:
            yield made
            made.close()
        return
    made = MAKERS[request.param]()
    yield made
    made.close()


class TestEveryEngine:
    """What sessions, tasks and the shell rely on."""

    def test_one_that_continues_answers_as_with_a_larger_limit(self, engine: Engine) -> None:
        if not can_continue(engine):
            pytest.skip(f"{engine.name} answers from the beginning")
        whole, cut = (engine.start(QUESTION, replace(SHORT, max_tokens=n)).wait() for n in (9, 4))
        assert cut is not None
        reply = engine.continue_from(cut, QUESTION, replace(SHORT, max_tokens=9)).wait()
        assert reply is not None
        assert whole is not None
        assert (reply.text, reply.n_new_tokens) == (whole.text, 9)

    def test_chunks_add_up_to_the_reply_which_the_last_one_carries(self, engine: Engine) -> None:
        chunks = list(engine.start(QUESTION, SHORT))
        assert [chunk.reply is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        reply = chunks[-1].reply
        assert reply is not None
        assert "".join(chunk.text for chunk in chunks) == reply.text
        assert reply.model == engine.name

    def test_the_token_limit_holds_and_is_said(self, engine: Engine) -> None:
        reply = engine.start(QUESTION, SHORT).wait(60)
        assert reply is not None
        assert reply.n_new_tokens <= SHORT.max_tokens
        assert (reply.finish_reason == "length") == (reply.n_new_tokens == SHORT.max_tokens)

    def test_the_caller_is_told_before_the_end(self, engine: Engine) -> None:
        """With the very reply that is handed out."""
        told: list[Reply] = []
        reply = engine.start(QUESTION, SHORT, on_end=told.append).wait(60)
        assert told == [reply]

    def test_turns_are_looked_up_when_their_time_has_come(self, engine: Engine) -> None:
        seen = threading.Event()

        def turns() -> tuple[Turn, ...]:
            seen.set()
            return QUESTION

        assert engine.start(turns, SHORT).wait(60) is not None
        assert seen.is_set()

    def test_a_stop_keeps_what_was_said_and_the_next_answer_is_whole(self, engine: Engine) -> None:
        generating = engine.start(QUESTION, replace(SHORT, max_tokens=300))
        chunks = []
        for chunk in generating:
            chunks.append(chunk)
            generating.stop()
        reply = chunks[-1].reply
        assert reply is not None
        assert reply.is_partial or reply.n_new_tokens < 300  # a tiny build may end before the stop
        again = engine.start(QUESTION, SHORT).wait(60)
        assert again is not None
        assert not again.is_partial

    def test_leaving_the_loop_ends_the_answer(self, engine: Engine) -> None:
        for _ in engine.start(QUESTION, replace(SHORT, max_tokens=300)):
            break
        assert engine.start(QUESTION, SHORT).wait(60) is not None

    def test_it_says_what_it_is_in_words(self, engine: Engine) -> None:
        about = engine.about
        assert about.line.startswith(about.model)
        assert "\n" not in about.line
        assert engine.identity
        assert all(isinstance(text, str) for pair in engine.identity.items() for text in pair)
        assert engine.identity == engine.identity
        assert not engine.host or "://" not in engine.host

    def test_a_prompt_is_counted_where_it_says_so(self, engine: Engine) -> None:
        bill = engine.bill(QUESTION, SHORT)
        reply = engine.start(QUESTION, SHORT).wait(60)
        assert reply is not None
        if can_count(engine):
            assert bill.n_tokens == reply.n_prompt_tokens > 0
            assert len(bill.picture_tokens) == (not engine.host), "no server tells them one by one"
        else:
            assert bill.n_tokens is None

    def test_choices_are_compared_or_refused_before_anything_is_asked(self, engine: Engine) -> None:
        how = Settings(choices=("yes", "no"))
        if can_score(engine):
            engine.check(how)
            reply = engine.start(QUESTION, how).wait(60)
            assert reply is not None
            assert [choice.text for choice in reply.choices] == ["yes", "no"]
            assert sum(choice.probability for choice in reply.choices) == pytest.approx(1)
            scores = engine.score(QUESTION, ["yes", "no"], Settings())
            best = max(scores, key=lambda score: score.log_probability)
            assert reply.text == best.choice
        else:
            with pytest.raises(OptionError, match="how likely"):
                engine.check(how)

    def test_a_form_is_held_to_or_refused(self, engine: Engine) -> None:
        how = Settings(grammar='{"json_schema": {"enum": ["yes", "no"]}}', max_tokens=20)
        if can_constrain(engine):
            engine.check(how)
            reply = Reply("ye", finish_reason="length")
            assert not engine.is_whole(reply, how)
        else:
            with pytest.raises(OptionError, match="type"):
                engine.check(how)

    def test_a_batch_gives_each_row_its_reply(self, engine: Engine) -> None:
        if not can_batch(engine):
            pytest.skip(f"{engine.name} answers one at a time")
        assert engine.rows_at_once(QUESTION, SHORT) >= 1
        engine.look_ahead([RED])
        chunks = list(engine.start_batch([QUESTION] * 3, SHORT))
        rows = {chunk.row: chunk.reply for chunk in chunks if chunk.row >= 0}
        assert set(rows) == {0, 1, 2}
        assert all(reply is not None and reply.model == engine.name for reply in rows.values())

    def test_what_it_remembers_it_can_do_without(self, engine: Engine) -> None:
        if not remembers(engine):
            pytest.skip(f"{engine.name} remembers nothing")
        first = engine.start(QUESTION, SHORT).wait(60)
        with engine.from_nothing():
            anew = engine.start(QUESTION, SHORT).wait(60)
        assert first is not None
        assert anew is not None
        assert (anew.text, anew.n_reused_tokens) == (first.text, 0)
        assert (engine.forget() > 0) == (not engine.host), "what a server keeps is its own"
        assert engine.forget() == 0

    def test_closed_it_can_do_nothing_and_says_so(self, engine: Engine) -> None:
        """In our own words, twice as well as once."""
        assert not engine.is_closed
        assert engine.close() >= 0
        assert engine.close() == 0
        assert engine.is_closed
        assert engine.abilities == frozenset()
        with pytest.raises(ModelError):
            engine.check(SHORT)
        with pytest.raises(VLMError):
            engine.start(QUESTION, SHORT).wait(60)


def test_what_an_engine_lacks_is_asked_of_its_state_not_of_its_class() -> None:
    """The same class with and without log-probabilities."""
    assert can_score(ScriptedEngine(log_probabilities={"a": -1.0}))
    assert not can_score(ScriptedEngine())
    assert hasattr(ScriptedEngine(), "score")


def test_no_task_session_or_shell_probes_an_engine() -> None:
    """They ask what it says it can do."""
    import re
    from pathlib import Path

    import vlm_magic

    package = Path(vlm_magic.__file__).parent
    rooms = [package / "session.py", *(package / "shell").rglob("*.py"), *(package / "tasks").rglob("*.py")]
    rooms += [*(package / "workspace").rglob("*.py")]
    probe = re.compile(r"(hasattr|getattr)\((self\.)?_?engine\b|isinstance\(.*LocalEngine|engine\._")
    wrong = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in rooms
        for line in path.read_text(encoding="utf-8").splitlines()
        if probe.search(line)
    ]
    assert wrong == []
