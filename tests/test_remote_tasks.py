"""What one does with an engine, done with one on a server: maps, magics, programs, comparisons."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from weather_server import WeatherServer, status, words

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import EngineGoneError, KeyRefusedError, OptionError
from vlm_magic.remote.connect import connect_to
from vlm_magic.tasks.code.program import program_of
from vlm_magic.tasks.map.journal import forget_maps
from vlm_magic.testing import ScriptedEngine

KEY = "sk-very-secret-0123456789"


def pictures(n: int) -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), (i % 256, i // 256, 7)) for i in range(n)]


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Rows that an earlier test answered are asked again."""
    forget_maps()


@pytest.fixture
def server() -> Iterator[WeatherServer]:
    with WeatherServer("vllm") as made:
        yield made


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    monkeypatch.chdir(tmp_path)
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "vlm_magic")
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")
    InteractiveShell.clear_instance()


# ---- maps -----------------------------------------------------------------------------------------


def test_a_slow_row_holds_up_nobody(server: WeatherServer) -> None:
    """A window of rows, no batches: the one asked first is answered after sixty others, of a hundred.

    Eight are sent at once, so any of the first eight may come first.
    """
    count, many_asked = itertools.count(1), threading.Event()

    def wait(body: object) -> float:
        n = next(count)
        if n == 1:
            many_asked.wait(60)
        elif n == 61:
            many_asked.set()
        return 0.0

    server.pause_s = wait
    frame = vlm_magic.map_pictures(connect_to(server.url, at_once=8), "What?", pictures(100), progress=False)
    assert many_asked.is_set()
    assert list(frame.answer) == ["one two three"] * 100
    assert list(frame.index) == list(range(100))
    assert 2 <= server.most_unanswered <= 8
    assert frame.seconds.idxmax() < 8, "each row has its own seconds"
    assert frame.seconds.max() > 3 * frame.seconds.median(), "sixty rows went by, seven at a time"


def test_a_server_that_is_gone_ends_the_map_and_the_journal_goes_on(
    server: WeatherServer, tmp_path: Path
) -> None:
    """What was answered is kept; on another server only what is missing is asked, each picture once."""
    engine = connect_to(server.url, at_once=4)
    server.pause_s = 0.02
    journal = tmp_path / "rows.jsonl"
    threading.Timer(0.6, server.die).start()
    began = time.perf_counter()
    with pytest.raises(EngineGoneError, match=r"nothing answers|broke"):
        vlm_magic.map_pictures(engine, "What?", pictures(200), journal=journal, progress=False)
    assert time.perf_counter() - began < 60, "each of the other rows would try for eight seconds"
    n_kept = sum('"text"' in line for line in journal.read_text().splitlines())
    assert 0 < n_kept < 200
    with WeatherServer("vllm") as second:
        again = connect_to(second.url)
        frame = vlm_magic.map_pictures(again, "What?", pictures(200), journal=journal, progress=False)
        assert list(frame.answer) == ["one two three"] * 200
        assert len(second.asked) == 200 - n_kept


def test_two_servers_share_the_rows_and_one_that_dies_costs_none() -> None:
    with WeatherServer("vllm", pause_s=0.02) as first, WeatherServer("vllm", pause_s=0.02) as second:
        engine = connect_to([first.url, second.url], at_once=6)
        threading.Timer(0.5, first.die).start()
        frame = vlm_magic.map_pictures(engine, "What?", pictures(150), progress=False)
        assert list(frame.answer) == ["one two three"] * 150
        assert list(frame.error) == [None] * 150
        assert first.asked
        assert second.asked


def test_busy_servers_and_single_failures_cost_no_other_row(server: WeatherServer) -> None:
    engine = connect_to(server.url, at_once=3)
    server.weather(status(429, retry_after="0"), status(400, '{"error": {"message": "this picture"}}'))
    frame = vlm_magic.map_pictures(engine, "What?", pictures(20), progress=False)
    assert sum(frame.error.notna()) == 1
    assert "this picture" in frame.error.dropna().iloc[0]


def test_each_row_is_handed_on_once_while_the_server_is_at_the_next(server: WeatherServer) -> None:
    """With one row at a time, whoever takes his time over a row finds the next one asked meanwhile."""
    from vlm_magic.tasks.map.mapping import PictureMap

    run = PictureMap(connect_to(server.url, at_once=1), "What?", [*pictures(5), "no picture", *pictures(2)])
    seen = []
    for row in run:
        seen.append(row.position)
        deadline = time.monotonic() + 5
        n_asked = min(len(seen) + 1, 7) if row.answer else 0
        while len(server.asked) < n_asked:
            assert time.monotonic() < deadline, (seen, len(server.asked))
            time.sleep(0.005)
    assert sorted(seen) == list(range(8))
    assert seen == [row.position for row in run.rows]
    assert [row.position for row in run.rows if row.error] == [5]


def test_leaving_a_map_stops_what_is_under_way(server: WeatherServer) -> None:
    from vlm_magic.tasks.map.mapping import PictureMap

    server.weather(words("fast"), *[words(*["slow "] * 1000, pause_s=0.01)] * 8)
    began = time.perf_counter()
    for _ in PictureMap(connect_to(server.url, at_once=3), "What?", pictures(9)):
        break
    assert time.perf_counter() - began < 5
    deadline = time.monotonic() + 5
    while server.n_running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.n_running == 0


# ---- magics ---------------------------------------------------------------------------------------


def test_the_same_cells_answer_from_a_server(
    shell: Any, server: WeatherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Load, ask with a picture, dry run, status, unload."""
    shell.run_line_magic("vlm_load", server.url)
    assert f"tiny · vllm · 127.0.0.1:{server.port}" in capsys.readouterr().out
    shell.user_ns["red"] = Image.new("RGB", (20, 10), "red")
    shell.run_cell_magic("vlm", "-o answer", "What is in {red}?")
    assert shell.user_ns["answer"] == "one two three"
    assert f"answered at 127.0.0.1:{server.port}" in capsys.readouterr().out
    shell.run_cell_magic("vlm", "--dry-run", "What is in {red}?")
    assert "tokens" in capsys.readouterr().out
    shell.run_cell_magic("vlm", "--choices yes,no -o picked", "Is {red} red?")
    assert shell.user_ns["picked"].best == "no"
    shell.run_line_magic("vlm_status", "")
    assert "* tiny · vllm" in capsys.readouterr().out
    shell.run_line_magic("vlm_unload", "")
    assert capsys.readouterr().out == "tiny disconnected\n"


def test_a_map_and_its_dry_run_on_a_server_that_does_not_count(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with WeatherServer("openai") as server:
        shell.run_line_magic("vlm_load", f"{server.url} tiny --as far --at-once 2 --timeout 20")
        shell.user_ns["many"] = pictures(3)
        shell.run_cell_magic("vlm", "--map many --dry-run", "What?")
        assert "tokens unknown" in capsys.readouterr().out
        shell.run_cell_magic("vlm", "--dry-run", "What is in {many}?")
        assert "tokens unknown" in capsys.readouterr().out
        shell.run_cell_magic("vlm", "--map many -o table", "What?")
        assert list(shell.user_ns["table"].answer) == ["one two three"] * 3
        shell.user_ns["shots"] = [(pictures(1)[0], "b"), (pictures(2)[1], "d")]
        shell.run_cell_magic("vlm", "--examples shots", "What?")
        assert "2 examples before it" in capsys.readouterr().out


def test_two_models_of_one_name_are_an_error_and_the_same_again_is_not(
    shell: Any, server: WeatherServer, capsys: pytest.CaptureFixture[str]
) -> None:
    models = workspace.current().models
    models.add("tiny", ScriptedEngine(name="tiny"))
    with pytest.raises(OptionError, match="another model is called tiny already"):
        shell.run_line_magic("vlm_load", server.url)
    shell.run_line_magic("vlm_load", f"{server.url} --as far")
    shell.run_line_magic("vlm_load", f"{server.url} --as far")
    assert list(models.engines) == ["tiny", "far"]
    capsys.readouterr()
    shell.run_cell_magic("vlm", "--compare models=far,tiny", "hello")
    assert "one two three" in (out := capsys.readouterr().out)
    assert "hello" in out


@pytest.mark.parametrize(
    ("kind", "field"), [("vllm", "cache_salt"), ("llamacpp", "cache_prompt"), ("openai", "")]
)
def test_compared_answers_are_computed_anew_and_what_was_not_is_said(
    kind: str, field: str, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a field where the kind has one; the cached tokens are the server's own figure."""
    with WeatherServer(kind) as server:
        shell.run_line_magic("vlm_load", server.url)
        shell.run_cell_magic("vlm", "--compare temperature=0,0.5 -o grid", "What?")
        asked = server.asked[-2:]
        if field:
            values = [body[field] for body in asked]
            assert values == [False, False] if field == "cache_prompt" else len(set(values)) == 2
        else:
            assert not {"cache_salt", "cache_prompt"} & {name for body in asked for name in body}
        assert list(shell.user_ns["grid"].to_frame().n_reused_tokens) == [4, 4]
        assert "7 tokens, 4 reused" in capsys.readouterr().out
        shell.run_cell_magic("vlm", "", "And now?")
        assert field not in server.asked[-1]


def test_a_model_here_and_one_on_a_server_stand_side_by_side(shell: Any, server: WeatherServer) -> None:
    """Loading one does not end the other; a name belongs to one of them."""
    models = workspace.current().models
    shell.run_line_magic("vlm_load", server.url)
    shell.run_line_magic("vlm_load", "starter")
    assert list(models.engines) == ["tiny", "starter"]
    shell.run_cell_magic("vlm", "-m tiny -o there", "hello")
    shell.run_cell_magic("vlm", "-m starter -o here --max-tokens 5", "hello")
    assert shell.user_ns["there"] == "one two three" != shell.user_ns["here"]
    with pytest.raises(OptionError, match="another model is called tiny already"):
        shell.run_line_magic("vlm_load", "starter --as tiny")
    assert not models.engines["tiny"].is_closed
    models.unload("starter")


def test_the_program_asks_the_server_the_same_again(
    shell: Any, server: WeatherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run by itself, with the picture as it was sent and the key from the environment."""
    server.key = KEY
    monkeypatch.setenv("TINY_KEY", KEY)
    shell.run_line_magic("vlm_load", f"{server.url} --key-env TINY_KEY")
    shell.user_ns["red"] = Image.new("RGB", (20, 10), "red")
    shell.run_cell_magic("vlm", "--max-tokens 9", "What is in {red}?")
    shell.run_line_magic("vlm_code", "again.py")
    code = (tmp_path / "again.py").read_text(encoding="utf-8")
    assert KEY not in code
    first = server.asked[-1]
    done = subprocess.run(
        [sys.executable, "again.py"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "Hi\n", "what the scripted server says to one that does not stream"
    assert first["messages"] == json.loads(json.dumps(server.whole[-1]["messages"]))
    assert server.whole[-1]["max_tokens"] == 9


def test_the_program_takes_an_answer_out_of_the_object_that_it_comes_in(tmp_path: Path) -> None:
    with WeatherServer("openai") as server:
        engine = connect_to(server.url)
        session = vlm_magic.Session(engine)
        server.weather(words('{"answer": "red"}'))
        assert vlm_magic.typed(session, Literal["red", "blue"], "Which?") == "red"
        code = program_of(session, engine=engine)
        assert 'print(json.loads(said)["answer"])' in code.replace("'", '"')
        compile(code, "again.py", "exec")


def test_typed_answers_come_from_a_server_that_keeps_to_forms(server: WeatherServer) -> None:
    server.weather(words('"re', 'd"'), words("red"), words("7"))
    session = vlm_magic.Session(connect_to(server.url))
    for _ in range(2):
        try:
            assert vlm_magic.typed(session, Literal["red", "blue"], "Which?") == "red"
        except vlm_magic.VLMError:
            continue
    assert vlm_magic.typed(session, int, "How many?") == 7
    assert all("structured_outputs" in body for body in server.asked)


def test_a_key_stands_in_nothing_that_is_kept(
    shell: Any, server: WeatherServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Not in outputs, journals, exports, programs or errors."""
    server.key = KEY
    monkeypatch.setenv("TINY_KEY", KEY)
    shell.run_line_magic("vlm_load", f"{server.url} --key-env TINY_KEY")
    shell.user_ns["many"] = pictures(4)
    shell.run_cell_magic("vlm", "--map many --journal rows.jsonl", "What?")
    shell.run_cell_magic("vlm", "", "hello")
    for name in ("a.md", "a.html", "a.json", "a.ipynb"):
        shell.run_line_magic("vlm_export", name)
    shell.run_line_magic("vlm_code", "again.py")
    shell.run_line_magic("vlm_status", "")
    server.key = "another"
    with pytest.raises(KeyRefusedError) as refused:
        shell.run_cell_magic("vlm", "", "hello")
    assert KEY not in "".join(traceback.format_exception(refused.value))
    out = capsys.readouterr()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) >= 6
    assert KEY not in out.out + out.err
    assert not [path.name for path in kept if KEY.encode() in path.read_bytes()]
