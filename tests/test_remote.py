"""A model on a server: the same questions and answers, whatever the weather, and nothing that leaks."""

from __future__ import annotations

import io
import json
import pickle
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image
from weather_server import WeatherServer, chunk, raw_stream, status, words

import vlm_magic
from vlm_magic.errors import (
    ContextLengthError,
    EngineGoneError,
    GenerationError,
    KeyRefusedError,
    ModelError,
    ModelNotFoundError,
    OptionError,
    TypedAnswerError,
    VLMError,
)
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.remote.connect import connect_to
from vlm_magic.remote.engine import RemoteEngine
from vlm_magic.remote.forms import enumerated, gbnf_of, pattern_for_xgrammar
from vlm_magic.remote.transport.sse import events_of

ASK = (Turn("user", (Text("What is it?"),)),)
BASIC = ("elsewhere", "parallel")
KEY = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[WeatherServer]:
    with WeatherServer() as made:
        yield made


def reply_of(engine: RemoteEngine, **settings: object) -> vlm_magic.Reply:
    reply = engine.start(ASK, Settings().updated(settings)).wait(30)
    assert reply is not None
    return reply


# ---- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000])
def test_events_are_read_wherever_their_bytes_are_cut(n: int) -> None:
    """Characters, line ends and events; comments and other fields are passed over."""
    data = ': ping\r\n\r\nevent: x\ndata: {"a": "é😀"}\n\ndata: one\ndata: two\r\n\r\ndata: cut'.encode()
    pieces = [data[i : i + n] for i in range(0, len(data), n)]
    assert list(events_of(pieces)) == ['{"a": "é😀"}', "one\ntwo"]


def test_a_line_end_that_is_cut_in_two_is_one() -> None:
    """Else an event of two lines would be two events."""
    whole = b"data: one\r\ndata: two\r\n\r\ndata: three\r\n\r\n"
    for at in range(len(whole)):
        assert list(events_of([whole[:at], whole[at:]])) == ["one\ntwo", "three"]


def test_an_answer_streams_with_the_servers_own_figures(server: WeatherServer) -> None:
    engine = connect_to(server.url)
    server.weather(words(" a ", "red ", "cat"))
    chunks = list(engine.start(ASK, Settings()))
    assert [c.text for c in chunks if c.text] == ["a ", "red ", "cat"], "the template's own space is gone"
    reply = chunks[-1].reply
    assert reply is not None
    assert (reply.text, reply.finish_reason, reply.model) == ("a red cat", "stop", "tiny")
    assert (reply.n_prompt_tokens, reply.n_new_tokens, reply.n_reused_tokens) == (7, 3, 4)
    assert f"answered at 127.0.0.1:{server.port}" in reply.notes


def test_the_speed_is_the_servers_own_or_seen_and_else_unknown(server: WeatherServer) -> None:
    """Not that of a whole answer which came in one piece."""
    engine = connect_to(server.url)
    whole = "".join(chunk("word ") for _ in range(50)) + chunk(None, finish_reason="stop")
    timed = whole + 'data: {"choices": [], "timings": {"predicted_per_second": 321.5}}\n\n'
    server.weather(
        raw_stream([whole.encode()]), raw_stream([timed.encode()]), words(*["w "] * 3, pause_s=0.05)
    )
    assert reply_of(engine).tokens_per_s == 0.0
    assert reply_of(engine).tokens_per_s == 321.5
    assert 5 < reply_of(engine).tokens_per_s < 40


def test_pictures_go_at_their_place_as_bare_pixels(server: WeatherServer) -> None:
    """Without metadata, and never as a path or a URL; large ones are scaled as the person says."""
    image = Image.new("RGB", (300, 150), "red")
    image.info["comment"] = b"secret"
    turns = [
        Turn("user", (Text("a "), Picture("/home/me/cat.png", "cat", image, "d1"), Text(" b"))),
        Turn("assistant", (Text("yes"),)),
        Turn("user", (Picture(None, "two", image.copy(), "d2"), Text("why?"))),
    ]
    engine = connect_to(server.url, picture_px=100)
    reply = engine.start(turns, Settings(system="Be brief.")).wait(10)
    assert reply is not None
    messages = server.asked[-1]["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert [p["type"] for p in messages[1]["content"]] == ["text", "image_url", "text"]
    url = messages[1]["content"][1]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    import base64

    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert (sent.size, sent.mode, sent.info) == ((100, 50), "RGB", {})
    assert "two was sent scaled to 100 × 50" in reply.notes
    assert "/home/me" not in json.dumps(server.asked)


def test_settings_go_by_the_servers_own_names() -> None:
    with WeatherServer("llamacpp") as server:
        engine = connect_to(server.url)
        reply_of(
            engine, max_tokens=9, temperature=0.5, top_k=3, seed=4, repetition_penalty=1.1, stop=("x", "y")
        )
        body = server.asked[-1]
        assert body["repeat_penalty"] == 1.1
        assert (body["max_tokens"], body["temperature"], body["top_k"], body["seed"]) == (9, 0.5, 3, 4)
        reply_of(engine)
        assert server.asked[-1]["temperature"] == 0, "greedy unless asked for"
        reply_of(engine, sampling=True)
        assert "temperature" not in server.asked[-1]


@pytest.mark.parametrize(
    "settings",
    [{"beams": 3}, {"bad_words": ("x",)}, {"continuation": True}, {"top_k": 5}, {"repetition_penalty": 2}],
)
def test_a_setting_that_the_server_lacks_is_refused_before_anything_is_sent(
    server: WeatherServer, settings: dict[str, object]
) -> None:
    engine = connect_to(server.url)
    with pytest.raises(OptionError, match=next(iter(settings))) as caught:
        reply_of(engine, **settings)
    assert len(str(caught.value).splitlines()) == 3
    assert server.asked == []


def test_stop_strings_beyond_the_servers_own_are_cut_off_here(server: WeatherServer) -> None:
    """Also where one begins in one piece and ends in the next."""
    engine = connect_to(server.url)
    server.weather(words("a b", "c EN", "D d", " e", pause_s=0.02), words("a EN", "X b"))
    stops = ("1", "2", "3", "4", "END")
    cut = reply_of(engine, stop=stops)
    assert (cut.text, cut.finish_reason) == ("a bc ", "stop")
    assert server.asked[-1]["stop"] == list(stops[:4])
    assert reply_of(engine, stop=stops).text == "a ENX b"


def test_a_connection_is_used_again_and_overhead_stays_small(server: WeatherServer) -> None:
    """One connection for question after question, also where the server keeps it open behind [DONE]."""
    engine = connect_to(server.url)
    ports = server.ports
    ports.clear()
    for _ in range(5):
        assert reply_of(engine).text == "one two three"
    assert len(set(ports)) == 1


def test_white_space_that_runs_for_ever_is_stopped() -> None:
    """Behind a whole value it is the end; within one the answer is cut short, as by a limit."""
    with WeatherServer("vllm") as server:
        engine = connect_to(server.url)
        form = '{"json_schema": {"type": "object"}}'
        server.weather(
            words('{"a": 1}', *["\n"] * 3000, pause_s=0.001), words('{"a":', *["\n"] * 3000, pause_s=0.001)
        )
        whole = reply_of(engine, grammar=form)
        assert (json.loads(whole.text), whole.finish_reason) == ({"a": 1}, "stop")
        assert reply_of(engine, grammar=form).finish_reason == "length"


def test_a_large_picture_goes_as_jpeg_and_says_so(server: WeatherServer) -> None:
    picture = Picture(None, "large", Image.new("RGB", (1400, 1000), "red"), "large")
    engine = connect_to(server.url)
    reply = engine.start((Turn("user", (picture, Text("?"))),), Settings()).wait(20)
    assert reply is not None
    assert server.asked[-1]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;")
    assert "large was sent as JPEG" in reply.notes


# ---- stopping ------------------------------------------------------------------------------------


def test_a_stop_keeps_the_partial_answer_and_the_server_sees_it() -> None:
    """Twenty of twenty, at any moment; the next answer is whole."""
    with WeatherServer() as server:
        engine = connect_to(server.url)
        for n in range(20):
            server.weather(words(*["word "] * 2000, pause_s=0.002))
            generating = engine.start(ASK, Settings())
            threading.Timer(0.01 + 0.01 * n, generating.stop).start()
            began = time.perf_counter()
            reply = generating.wait(20)
            assert reply is not None
            assert reply.finish_reason == "interrupted"
            assert time.perf_counter() - began < 2
        deadline = time.monotonic() + 10
        while server.n_aborted < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert server.n_aborted == 20
        assert reply_of(engine).text == "one two three"


def test_a_stop_ends_a_silence_at_once(server: WeatherServer) -> None:
    """Before the first byte as well as in the middle; also a time limit does."""
    engine = connect_to(server.url)
    for pause_s, said in ((3.0, ""), (0.0, "a")):
        server.pause_s = pause_s
        server.weather(raw_stream([chunk("a").encode(), b""], pause_s=3))
        generating = engine.start(ASK, Settings())
        time.sleep(0.3)
        began = time.perf_counter()
        generating.stop()
        reply = generating.wait(5)
        assert reply is not None
        assert (reply.text, reply.finish_reason) == (said, "interrupted")
        assert time.perf_counter() - began < 1
    server.weather(raw_stream([chunk("a").encode(), b""], pause_s=3))
    began = time.perf_counter()
    assert reply_of(engine, time_limit_s=0.4).finish_reason == "time"
    assert time.perf_counter() - began < 2


# ---- weather -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        status(429, retry_after="0"),
        status(429),
        status(503, "<html><body><h1>Busy</h1></body></html>"),
        status(502),
    ],
)
def test_a_busy_server_is_asked_again(server: WeatherServer, first: object) -> None:
    engine = connect_to(server.url)
    server.weather(first, words("here"))  # type: ignore[arg-type]
    assert reply_of(engine).text == "here"


@pytest.mark.parametrize(
    ("weather", "error", "says"),
    [
        (status(500, "it broke"), GenerationError, "it broke"),
        (status(400, '{"error": {"message": "no such thing"}}'), GenerationError, "no such thing"),
        (status(422, '{"detail": [{"msg": "bad field"}]}'), GenerationError, "bad field"),
        (status(413, "too big"), GenerationError, "too large"),
        (status(403, '{"error": "Unauthorized"}'), KeyRefusedError, "Unauthorized"),
        (status(404, '{"error": {"message": "no model"}}'), ModelNotFoundError, "no model"),
        (
            status(400, '{"error": {"message": "This model\'s maximum context length is 4096 tokens. '
                        'However, you requested 5000 tokens"}}'),
            ContextLengthError,
            "5000 tokens, the model takes 4096",
        ),
        (
            status(400, '{"error": {"type": "exceed_context_size_error", "message": "the request exceeds "'
                        ', "n_prompt_tokens": 5000, "n_ctx": 4096}}'),
            ContextLengthError,
            "5000 tokens, the model takes 4096",
        ),
        (status(302, location="http://elsewhere.example/v1?k=1"), EngineGoneError, "elsewhere.example"),
        (raw_stream([chunk("a").encode(), b'data: {"error": "oops"}\n\n']), GenerationError, "oops"),
        (words("a ", "b", finish=None), GenerationError, "ended before the answer did"),
        (raw_stream([chunk("a").encode()], dies=True), GenerationError, "ended before the answer did"),
        (raw_stream([], dies=True), EngineGoneError, "closed in the middle of an answer"),
        (raw_stream([]), GenerationError, "ended before the answer did"),
    ],
)  # fmt: skip
def test_bad_weather_is_three_lines_and_costs_neither_conversation_nor_engine(
    server: WeatherServer, weather: object, error: type[VLMError], says: str
) -> None:
    """The host is named, no secret is."""
    session = vlm_magic.Session(connect_to(server.url))
    session.ask("before")
    server.weather(weather)  # type: ignore[arg-type]
    with pytest.raises(error) as caught:
        session.ask("now")
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3
    assert "k=1" not in str(caught.value)
    assert len(session.conversation) == 1
    assert session.ask("after").text == "one two three"


def test_odd_but_whole_streams_are_right(server: WeatherServer) -> None:
    """Without [DONE], with comments, bytes that come one by one, the half of a character at a time."""
    engine = connect_to(server.url)
    whole = (chunk("é😀 ") + ": ping\n\n" + chunk("ok") + chunk(None, finish_reason="length")).encode()
    server.weather(
        raw_stream([whole]),
        raw_stream([whole[i : i + 1] for i in range(len(whole))]),
        words("fine", done=False),
        words("other", model="quite-another"),
    )
    assert [(r.text, r.finish_reason) for r in (reply_of(engine), reply_of(engine))] == [
        ("é😀 ok", "length")
    ] * 2
    assert reply_of(engine).text == "fine"
    assert "the server says that quite-another answered" in reply_of(engine).notes


def test_a_silence_longer_than_the_timeout_is_an_error(server: WeatherServer) -> None:
    engine = connect_to(server.url, timeout_s=0.4)
    server.pause_s = 3
    began = time.perf_counter()
    with pytest.raises(EngineGoneError, match="silent for too long"):
        reply_of(engine)
    assert time.perf_counter() - began < 2.5


def test_an_address_where_nobody_answers_is_an_error_at_once() -> None:
    """Refused, no such name, no TLS there."""
    with WeatherServer() as server:
        port = server.port
        with pytest.raises(EngineGoneError, match=r"certificate|TLS"):
            connect_to(f"https://127.0.0.1:{port}/v1")
    began = time.perf_counter()
    with pytest.raises(EngineGoneError, match=f"nothing answers at 127.0.0.1:{port}"):
        connect_to(f"http://127.0.0.1:{port}")
    assert time.perf_counter() - began < 2
    with pytest.raises(EngineGoneError, match="does not resolve"):
        connect_to("http://no-such-host.invalid/v1")


def test_half_a_character_at_the_end_of_a_dying_stream_is_neither_shown_nor_a_crash(
    server: WeatherServer,
) -> None:
    """What came whole before it is kept in the error; in an event of its own it is a replacement mark."""
    engine = connect_to(server.url)
    half = json.dumps({"choices": [{"index": 0, "delta": {"content": "b☂"}}]}, ensure_ascii=False).encode()
    cut = b"data: " + half[: half.index("☂".encode()) + 2]
    server.weather(raw_stream([chunk("é").encode(), cut], dies=True))
    with pytest.raises(GenerationError) as caught:
        reply_of(engine)
    assert caught.value.text == "é"
    whole = b"data: " + half.replace("☂".encode(), "☂".encode()[:2]) + b"\n\n"
    server.weather(raw_stream([whole, chunk(None, finish_reason="stop").encode()]))
    assert reply_of(engine).text == "b\ufffd"


# ---- connecting ----------------------------------------------------------------------------------


def test_one_model_needs_no_name_and_several_are_listed() -> None:
    with WeatherServer(models=("alpha-7b", "beta-2b")) as server:
        with pytest.raises(ModelNotFoundError, match="alpha-7b, beta-2b"):
            connect_to(server.url)
        with pytest.raises(ModelNotFoundError, match="have: alpha-7b\n"):
            connect_to(server.url, "alpha-7")
        assert connect_to(server.url, "beta-2b", name="b").name == "b"


@pytest.mark.parametrize(
    ("kind", "abilities"),
    [
        ("vllm", {*BASIC, "scores", "constrains", "counts", "remembers", "continues"}),
        ("llamacpp", {*BASIC, "scores", "constrains", "counts", "remembers", "continues"}),
        ("openai", {*BASIC, "constrains"}),
        ("transformers", {*BASIC, "counts"}),
    ],
)
def test_what_a_server_can_do_is_found_out_when_it_is_connected(kind: str, abilities: set[str]) -> None:
    with WeatherServer(kind) as server:
        engine = connect_to(server.url, "tiny")
        assert engine.abilities == abilities
        assert engine.about.line == f"tiny · {kind} · 127.0.0.1:{server.port}"
        assert engine.identity == {"name": "tiny", "server": kind}


def test_a_server_that_ignores_what_it_was_asked_is_seen_to() -> None:
    """Forms, log-probabilities and further pictures, each taken without a word."""
    with WeatherServer("vllm", ignores=("forms", "logprobs", "second picture", "begun")) as server:
        engine = connect_to(server.url)
        assert engine.abilities == {"elsewhere", "parallel", "counts", "remembers"}
        assert "of several pictures it looks at the first alone" in engine.about.remarks
        with pytest.raises(OptionError, match="held to a type"):
            reply_of(engine, grammar='{"regex": "a"}')
        with pytest.raises(OptionError, match="log_probabilities"):
            reply_of(engine, log_probabilities=True)
        with pytest.raises(OptionError, match="how likely"):
            reply_of(engine, choices=("a", "b"))
        assert server.asked == []


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_choices_are_compared_by_whole_replies_with_their_end(kind: str) -> None:
    with WeatherServer(kind) as server:
        engine = connect_to(server.url)
        reply = reply_of(engine, choices=("red", "light blue"))
        by_name = {choice.text: choice for choice in reply.choices}
        expected = {"vllm": (-3.25, -9.25), "llamacpp": (-1.25, -2.25)}[kind]
        assert (by_name["red"].log_probability, by_name["light blue"].log_probability) == expected
        assert [choice.n_tokens for choice in reply.choices] == [2, 3]
        assert reply.text == "red"
        with_length = reply_of(engine, choices=("red", "light blue"), normalize="length")
        assert sum(choice.probability for choice in with_length.choices) == pytest.approx(1)


def test_a_bill_is_exact_where_the_server_counts_and_unknown_elsewhere() -> None:
    red = Picture(None, "red", Image.new("RGB", (8, 8), "red"), "r")
    turns = (Turn("user", (Text("a b "), red)),)
    counted = {}
    for kind in ("vllm", "llamacpp", "transformers", "openai"):
        with WeatherServer(kind) as server:
            bill = connect_to(server.url, "tiny").bill(turns, Settings())
            counted[kind] = (bill.n_tokens, bill.picture_tokens, bill.context_tokens)
    assert counted == {
        "vllm": (14, (), 4096),
        "llamacpp": (14, (), 4096),
        "transformers": (14, (), None),
        "openai": (None, (), None),
    }


def test_words_that_become_control_tokens_are_named() -> None:
    """A model here is shown them literally; no server keeps that."""
    with WeatherServer("vllm") as server:
        session = vlm_magic.Session(connect_to(server.url))
        assert "'<end>' in the text is a control token there" in session.ask("say <end> and <b>").notes
        assert not any("control" in note for note in vlm_magic.Session(session.engine).ask("a < b").notes)


def test_what_is_no_object_comes_in_one_from_servers_of_schemas_alone() -> None:
    """Patterns of a few strings as these, others as a schema's pattern; the answer is taken out of it."""
    with WeatherServer("openai") as server:
        session = vlm_magic.Session(connect_to(server.url))
        server.weather(words('{"ans', 'wer": "light', ' blue"}'), words('{"answer": "AB-12"}'))
        server.weather(words('{"answer":', " [1, 2]}"))
        assert vlm_magic.typed(session, Literal["red", "light blue"], "Which?") == "light blue"
        assert vlm_magic.typed(session, re.compile("[A-Z]{2}-[0-9]+"), "Which?") == "AB-12"
        assert vlm_magic.typed(session, list[int], "Which?") == [1, 2]
        told = [body["response_format"]["json_schema"]["schema"] for body in server.asked]
        assert [schema["type"] for schema in told] == ["object"] * 3
        inner = [schema["properties"]["answer"] for schema in told]
        assert inner[0] == {"type": "string", "enum": ["red", "light blue", "Red", "Light blue"]}
        assert re.fullmatch(inner[1]["pattern"], "XY-7")
        assert inner[2]["type"] == "array"
        assert [e.reply.text for e in session.conversation if e.reply] == ["light blue", "AB-12", "[1, 2]"]


def test_a_pattern_that_the_server_ignores_is_refused_and_a_few_strings_are_not() -> None:
    with WeatherServer("openai", ignores=("patterns",)) as server:
        session = vlm_magic.Session(connect_to(server.url))
        with pytest.raises(OptionError, match="does not keep to a pattern"):
            vlm_magic.typed(session, re.compile("[a-z]+"), "Which?")
        server.weather(words('{"answer": "yes"}'))
        assert vlm_magic.typed(session, Literal["yes", "no"], "Really?") == "yes"
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("kind", "said", "value"),
    [("vllm", "blue", "blue"), ("openai", '{"answer": "blue', "blue"), ("vllm", "blu", None)],
)
def test_an_answer_that_the_limit_cut_is_whole_where_its_form_says_so(
    kind: str, said: str, value: str | None
) -> None:
    with WeatherServer(kind) as server:
        session = vlm_magic.Session(connect_to(server.url))
        server.weather(words(said, finish="length"))
        if value is None:
            with pytest.raises(TypedAnswerError, match="token limit"):
                vlm_magic.typed(session, Literal["red", "blue"], "Which?")
        else:
            assert vlm_magic.typed(session, Literal["red", "blue"], "Which?") == value


@pytest.mark.parametrize(
    ("pattern", "strings"),
    [
        ("re|rose|(?:a|b)c", ["re", "rose", "ac", "bc"]),
        (r"light\x{20}blue", ["light blue"]),
        ("[0-9]", None),
        ("a*", None),
        ("(?i:yes)", None),
        ("(", None),
    ],
)
def test_a_pattern_of_a_few_strings_is_known_as_such(pattern: str, strings: list[str] | None) -> None:
    assert enumerated(pattern) == strings


PATTERNS = {
    "(yes|no)": (["yes", "no"], ["maybe", "yesno", ""]),
    r"[A-Z]{2}-\d{3,}": (["AB-123", "AB-12345"], ["A-123", "AB-12"]),
    r"-?(0|[1-9][0-9]{0,14})": (["0", "-7", "42"], ["007", "--1"]),
    r"(?s:.)x[^a\s]?": (["\nx", "axb"], ["ax ", "xx  "]),
    r"\x{20}?caf\u00e9\.": ([" café.", "café."], ["cafe."]),
    r'"(\\u[0-9a-f]{4}|[^"\\])*"': (['"a b"', '""'], ['"a', "a"]),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_say_the_same_in_each_servers_words(pattern: str) -> None:
    """Xgrammar's words are still a pattern of Python's."""
    right, wrong = PATTERNS[pattern]
    told = pattern_for_xgrammar(pattern)
    assert all(re.fullmatch(told, text) for text in right)
    assert not any(re.fullmatch(told, text) for text in wrong)
    assert "\\x" not in told
    assert gbnf_of(pattern).startswith("root ::= ")


@pytest.mark.parametrize("pattern", [r"(a)\1", r"a(?=b)", r"(?i:yes)", "("])
def test_a_pattern_that_cannot_be_told_is_refused(pattern: str) -> None:
    with pytest.raises(OptionError):
        gbnf_of(pattern)


# ---- keys ----------------------------------------------------------------------------------------


def test_a_key_goes_to_its_host_and_stands_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not in errors that repeat it, a repr, a pickle of the conversation or a traceback."""
    import traceback

    monkeypatch.setenv("TINY_KEY", KEY)
    with WeatherServer(key=KEY) as server:
        engine = connect_to(server.url, key_env="TINY_KEY")
        session = vlm_magic.Session(engine)
        session.ask("hi")
        assert {h.get("Authorization") for h in server.headers} == {f"Bearer {KEY}"}
        assert "Cookie" not in {name for h in server.headers for name in h}
        server.key = "another"
        with pytest.raises(KeyRefusedError, match="TINY_KEY") as caught:
            session.ask("again")
        shown = "".join(traceback.format_exception(caught.value))
        kept = pickle.dumps(session.conversation)
        assert KEY not in shown + repr(engine) + repr(engine.about) + repr(vars(caught.value))
        assert KEY.encode() not in kept


def test_no_cookie_is_sent_back(server: WeatherServer) -> None:
    """Every stream of the server brings one."""
    engine = connect_to(server.url)
    for _ in range(3):
        reply_of(engine)
    assert len(server.headers) >= 3
    assert "cookie" not in {name.lower() for headers in server.headers for name in headers}


def test_a_key_is_not_sent_in_the_open_and_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINY_KEY", KEY)
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("93.184.216.34", 80))])
    with pytest.raises(OptionError, match="without TLS") as caught:
        connect_to("http://api.example.com/v1", key_env="TINY_KEY")
    assert "--allow-plain-key" in str(caught.value)
    monkeypatch.delenv("TINY_KEY")
    with pytest.raises(OptionError, match="TINY_KEY is not set"):
        connect_to("https://api.example.com/v1", key_env="TINY_KEY")
    with pytest.raises(OptionError, match="password") as hidden:
        connect_to(f"https://me:{KEY}@api.example.com/v1")
    assert KEY not in str(hidden.value)
    monkeypatch.setenv("TINY_KEY", KEY)
    with pytest.raises(OptionError, match="several hosts"):
        connect_to(["https://a.example/v1", "https://b.example/v1"], key_env="TINY_KEY")


def test_each_of_several_hosts_gets_the_key_that_is_named_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other; one variable for all is named for each."""
    monkeypatch.setenv("ONE_KEY", "key-one")
    monkeypatch.setenv("TWO_KEY", "key-two")
    with WeatherServer(key="key-one") as one, WeatherServer(key="key-two") as two:
        urls = [one.url, two.url.replace("127.0.0.1", "localhost")]
        for key_env in (["ONE_KEY", "TWO_KEY"], "ONE_KEY,TWO_KEY"):
            engine = connect_to(urls, key_env=key_env)
            assert [reply_of(engine).text for _ in range(3)] == ["one two three"] * 3
            one.die()
            assert reply_of(engine).text == "one two three"
            break
        assert {h.get("Authorization") for h in one.headers} == {"Bearer key-one"}
        assert {h.get("Authorization") for h in two.headers} == {"Bearer key-two"}
        with pytest.raises(OptionError, match="several hosts") as caught:
            connect_to(urls, key_env="ONE_KEY")
        assert "--key-env ONE_KEY,ONE_KEY" in str(caught.value)
        with pytest.raises(OptionError, match="3 keys for 2 servers"):
            connect_to(urls, key_env="A,B,C")


def test_rows_at_once_are_those_that_the_server_answers_side_by_side() -> None:
    """Twice as many, so that the next one waits there; eight where it does not say."""
    with WeatherServer("llamacpp") as server, WeatherServer("llamacpp") as second:
        assert connect_to(server.url).at_once == 6
        assert connect_to([server.url, second.url]).at_once == 12
        assert connect_to(server.url, at_once=3).at_once == 3
    with WeatherServer("vllm") as server:
        assert connect_to(server.url).at_once == 8


# ---- several servers -----------------------------------------------------------------------------


def test_another_server_takes_over_from_one_that_dies(server: WeatherServer) -> None:
    with WeatherServer() as second:
        engine = connect_to([server.url, second.url])
        assert reply_of(engine).text == "one two three"
        server.die()
        assert [reply_of(engine).text for _ in range(3)] == ["one two three"] * 3
        assert f"gone: 127.0.0.1:{server.port}" in engine.about.figures


def test_connecting_imports_neither_torch_nor_transformers() -> None:
    import subprocess
    import sys

    with WeatherServer() as server:
        script = (
            "import sys, vlm_magic\n"
            f"engine = vlm_magic.connect({server.url!r})\n"
            "assert vlm_magic.Session(engine).ask('hi').text == 'one two three'\n"
            "assert not {'torch', 'transformers', 'openai'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True)


def test_closed_it_is_disconnected(server: WeatherServer) -> None:
    engine = connect_to(server.url)
    assert engine.close() == 0
    with pytest.raises(ModelError, match="disconnected"):
        engine.start(ASK, Settings())


# ---- going on with an answer ---------------------------------------------------------------------

CUT = vlm_magic.Reply("a red", "length", n_new_tokens=2, n_prompt_tokens=7, ttft_s=0.5, total_s=1.0)


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_an_answer_that_was_cut_off_is_gone_on_with(kind: str) -> None:
    """The begun answer stands last, as that kind of server wants it; chunks and figures are of the whole."""
    with WeatherServer(kind) as server:
        engine = connect_to(server.url)
        server.weather(words(" cat", " sits", finish="length"))
        chunks = list(engine.continue_from(CUT, ASK, Settings(max_tokens=9, system="Be brief.")))
        body, reply = server.asked[-1], chunks[-1].reply
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant"]
    assert body["messages"][-1]["content"] == "a red"
    assert body["max_tokens"] == 7, "what was said counts"
    told = (body.get("continue_final_message"), body.get("add_generation_prompt"))
    assert told == ((True, False) if kind == "vllm" else (None, None))
    assert [chunk.text for chunk in chunks if chunk.text] == ["a red", " cat", " sits"]
    assert [chunk.n_new_tokens for chunk in chunks][:3] == [2, 3, 4]
    assert reply is not None
    assert (reply.text, reply.finish_reason) == ("a red cat sits", "length")
    assert (reply.n_prompt_tokens, reply.n_new_tokens, reply.ttft_s) == (7, 5, 0.5)
    assert reply.total_s > 1.0


def test_llama_cpp_gets_the_blank_that_its_template_leaves_to_the_model() -> None:
    """Else the words would be other tokens than those that were said."""
    with WeatherServer("llamacpp") as server:
        engine = connect_to(server.url)
        engine._found.opening = " "
        engine.continue_from(CUT, ASK).wait(10)
        assert server.asked[-1]["messages"][-1]["content"] == " a red"


def test_in_a_session_the_turn_goes_on_and_stays_one() -> None:
    with WeatherServer("vllm") as server:
        session = vlm_magic.Session(connect_to(server.url))
        server.weather(words(" a", " red", finish="length"), words(" cat"))
        session.ask("What is it?", max_tokens=2)
        for _ in session.continue_answer():
            pass
        (turn,) = session.conversation.exchanges
        assert turn.reply is not None
        assert (str(turn.reply), turn.reply.finish_reason) == ("a red cat", "stop")


def test_a_stop_string_may_begin_in_what_was_said() -> None:
    with WeatherServer("vllm") as server:
        engine = connect_to(server.url)
        server.weather(words("t and more"))
        chunks = list(engine.continue_from(CUT, ASK, Settings(stop=("redt",))))
        assert chunks[-1].reply is not None
        assert chunks[-1].reply.text == "a " == "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("kind", ["vllm", "llamacpp"])
def test_a_server_that_closes_a_begun_answer_is_not_asked_to_go_on(kind: str) -> None:
    """Whether it does shows in its prompt, not in what it takes."""
    with WeatherServer(kind, ignores=("begun",)) as server:
        refused = connect_to(server.url)
        assert "continues" not in refused.abilities
        with pytest.raises(OptionError, match="cannot go on with an answer"):
            refused.continue_from(CUT, ASK)
        assert server.asked == []


def test_other_kinds_say_so_before_anything_is_sent(server: WeatherServer) -> None:
    engine = connect_to(server.url)
    session = vlm_magic.Session(engine)
    server.weather(words("a", finish="length"))
    session.ask("What is it?", max_tokens=1)
    with pytest.raises(OptionError, match=f"127.0.0.1:{server.port} answers from the beginning"):
        session.continue_answer()
    assert len(server.asked) == 1


def test_what_is_no_plain_text_is_not_gone_on_with() -> None:
    with WeatherServer("vllm") as server:
        engine = connect_to(server.url)
        thought = vlm_magic.Reply("a", "length", thinking="hm")
        form = json.dumps({"regex": "a+"})
        for reply, how in ((CUT, Settings(grammar=form)), (thought, Settings())):
            with pytest.raises(OptionError, match="plain words alone"):
                engine.continue_from(reply, ASK, how)
        assert server.asked == []


def test_a_server_that_dies_before_more_words_came_leaves_the_answer_to_another() -> None:
    with WeatherServer("vllm") as first, WeatherServer("vllm") as second:
        engine = connect_to([first.url, second.url])
        first.weather(raw_stream([], dies=True))
        second.weather(words(" cat"))
        chunks = list(engine.continue_from(CUT, ASK))
        assert "".join(chunk.text for chunk in chunks) == "a red cat"


def test_a_stop_before_more_was_said_keeps_what_was() -> None:
    with WeatherServer("vllm", pause_s=5) as server:
        engine = connect_to(server.url)
        going = engine.continue_from(CUT, ASK)
        while not server.asked:
            time.sleep(0.01)
        going.stop()
        reply = going.wait(4)
        assert reply is not None
        assert reply.text == "a red"
