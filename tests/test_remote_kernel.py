"""A model on a server in a real kernel: interrupts and the panel's Stop reach the server; keys stay out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook_kernel import Notebook, running_notebook
from weather_server import WeatherServer, words

KEY = "sk-very-secret-0123456789"
N = 20


@pytest.fixture(scope="module")
def server() -> Iterator[WeatherServer]:
    with WeatherServer("vllm", key=KEY) as made:
        yield made


@pytest.fixture(scope="module")
def notebook(server: WeatherServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("remote")
    with running_notebook(folder, "remote.ipynb", {"FAR_KEY": KEY}) as made:
        made.run("import vlm_magic\n%load_ext vlm_magic", "load")
        said = made.run(f"%vlm_load {server.url} --key-env FAR_KEY", "connect")
        assert "tiny · vllm" in said
        made.run("from PIL import Image\nphotos = [Image.new('RGB', (9, 9 + n)) for n in range(6)]", "photos")
        yield made


@pytest.mark.parametrize("how", ["interrupt", "click"])
def test_a_remote_answer_is_stopped_twenty_times_of_twenty(
    how: str, server: WeatherServer, notebook: Notebook
) -> None:
    """The words so far are kept, the server sees each reader hang up, and the next answer is whole."""
    before = server.n_aborted
    for n in range(N):
        server.weather(words(*[f"w{k} " for k in range(3000)], pause_s=0.005))
        source, cell = "%%vlm\nTell me a long story about {photos[0]}.", f"{how}-{n}"
        request = notebook.start(source, cell)
        comm, exchange = notebook.first_words(request)
        time.sleep(0.01 * n)
        began = time.monotonic()
        if how == "interrupt":
            notebook.interrupt()
        else:
            notebook.click_stop(comm, exchange)
        notebook.collect(source, cell, request)
        assert time.monotonic() - began < 10, "the whole answer takes longer"
        state = notebook.run(
            "reply = vlm_magic.session().conversation.exchanges[-1].reply\n"
            "print(reply.finish_reason, 0 < len(reply.text.split()) < 3000)",
            "look",
        )
        assert "interrupted True" in state
    deadline = time.monotonic() + 20
    while server.n_aborted - before < N and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.n_aborted - before == N
    assert "one two three" in notebook.run("%vlm And now?", "after")


def test_a_key_is_in_no_file_of_a_notebook(server: WeatherServer, notebook: Notebook) -> None:
    """The saved notebook with its outputs and errors, journal, exports, programs: every file there is."""
    notebook.run("%%vlm --map photos --journal rows.jsonl\nWhat?", "map")
    notebook.run("%vlm --choices yes,no Is it red?", "choices")
    notebook.run("%%vlm\nWhat is in {photos[1]}?", "question")
    notebook.run("%vlm_status", "status")
    for name in ("a.md", "a.html", "a.json", "a.ipynb"):
        notebook.run(f"%vlm_export {name}", name)
    notebook.run("%vlm_code again.py", "code")
    notebook.run("vlm_magic.engine()", "repr")
    server.key = "another"  # the server repeats the key that it refuses
    try:
        assert "refuses the request" in notebook.run("%vlm What now?", "refused")
        assert "refuses" in notebook.run(f"%vlm_load {server.url} --as again --key-env FAR_KEY", "again")
        notebook.run("import traceback; traceback.print_last()", "traceback")
    finally:
        server.key = KEY
    notebook.save()
    folder = notebook.path.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"remote.ipynb", "rows.jsonl", "a.html", "again.py"} <= {path.name for path in files}
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []
    cache = Path(os.environ["XDG_CACHE_HOME"])
    assert [path for path in cache.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    assert KEY not in "".join(notebook.errors)
