"""Real kernels: cells by their ids, running again, interrupting, and errors, as a front-end sees them.

Requests carry the cell's id in their metadata, as JupyterLab sends it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 120


@dataclass
class Ran:
    """What came of one request."""

    status: str = ""
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    error_name: str = ""
    bundles: list[dict[str, Any]] = field(default_factory=list)


class Kernel:
    """One kernel with a client that names its cells."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "socket"))
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))
        self.manager.start_kernel(cwd=str(folder), env={**os.environ, "PYTHONPATH": paths})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=TIMEOUT_S)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def send(self, source: str, cell_id: str | None = None) -> str:
        """Ask for a cell to be run; the request's id."""
        content = {
            "code": source,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": cell_id is not None,
            "stop_on_error": True,
        }
        message = self.client.session.msg("execute_request", content)
        if cell_id is not None:
            message["metadata"]["cellId"] = cell_id
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def messages(self, request: str) -> Iterator[dict[str, Any]]:
        """What the kernel publishes for a request, until it is idle again."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            yield message
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
        raise TimeoutError("the kernel did not become idle")

    def interrupt_after_first_words(self, request: str) -> None:
        """Interrupt the kernel as soon as the panel was sent words of the answer."""
        for message in self.messages(request):
            content = message["content"].get("data", {}).get("content", {})
            if message["msg_type"] == "comm_msg" and content.get("type") == "delta":
                self.manager.interrupt_kernel()
                return
        raise AssertionError("the answer ended without words")

    def collect(self, request: str) -> Ran:
        """Wait for a request's end."""
        ran = Ran()
        for message in self.messages(request):
            content = message["content"]
            if message["msg_type"] == "stream" and content["name"] == "stdout":
                ran.stdout += content["text"]
            elif message["msg_type"] == "stream":
                ran.stderr += content["text"]
            elif message["msg_type"] in ("display_data", "execute_result"):
                ran.bundles.append(content["data"])
            elif message["msg_type"] == "error":
                ran.error, ran.error_name = "\n".join(content["traceback"]), content["ename"]
        while True:
            reply = self.client.get_shell_msg(timeout=TIMEOUT_S)
            if reply["parent_header"].get("msg_id") == request:
                ran.status = reply["content"]["status"]
                return ran

    def run(self, source: str, cell_id: str | None = None) -> Ran:
        """Run a cell to its end."""
        return self.collect(self.send(source, cell_id))

    def value(self, expression: str) -> str:
        """The text of a value in the kernel."""
        ran = self.run(f"print({expression}, end='')")
        assert ran.status == "ok", ran.error
        return ran.stdout

    def turns(self, conversation: str = "main") -> list[tuple[str, bool]]:
        """Each turn's answer, and whether it is stale."""
        shown = self.value(
            "[(e.reply.text, e.is_stale) for e in "
            f"vlm_magic.workspace.current().conversations.sessions[{conversation!r}].conversation.exchanges]"
        )
        return eval(shown)  # a list of tuples that we printed ourselves


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel with the extension; one for all tests here, each starts with a fresh workspace."""
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    try:
        yield kernel
    finally:
        kernel.close()


_FRESH = """
import vlm_magic
from vlm_magic import workspace
from vlm_magic.testing import ScriptedEngine
%reload_ext vlm_magic
vlm_magic.workspace._current.__init__()
from PIL import Image
cat = Image.new("RGB", (32, 24), "red")
"""


@pytest.fixture
def fresh(kernel: Kernel) -> Kernel:
    assert kernel.run(_FRESH).error == ""
    return kernel


def use_fake(kernel: Kernel, *replies: str, seconds_per_token: float = 0.0) -> None:
    ran = kernel.run(
        f"engine = ScriptedEngine(*{replies!r}, seconds_per_token={seconds_per_token})\n"
        "vlm_magic.workspace.current().models.add('fake', engine)"
    )
    assert ran.error == ""


CELLS = {
    "one": "%%vlm -o a\nWhat is in {cat}?",
    "two": "%vlm -o b And what else?",
    "three": "%%vlm -o c\nAnd why?",
}


def run_all(kernel: Kernel) -> list[Ran]:
    return [kernel.run(source, cell_id) for cell_id, source in CELLS.items()]


def test_running_all_twice_gives_each_turn_once_and_the_same_answers(fresh: Kernel) -> None:
    """With no reply scripted the engine says what it was shown, so that answers depend on the words."""
    use_fake(fresh)
    run_all(fresh)
    first, first_values = fresh.turns(), fresh.value("(a, b, c)")
    run_all(fresh)
    assert fresh.turns() == first
    assert fresh.value("(a, b, c)") == first_values
    assert len(first) == 3
    assert not any(stale for _, stale in first)


def test_running_the_middle_cell_again_changes_only_its_turn_and_marks_the_later_ones(fresh: Kernel) -> None:
    use_fake(fresh, "1", "2", "3", "2 again")
    run_all(fresh)
    fresh.run(CELLS["two"], "two")
    assert fresh.turns() == [("1", False), ("2 again", False), ("3", True)]
    shown = fresh.value("[len(turns) for turns, _ in engine.history]")
    assert shown == "[1, 3, 5, 3]"  # the middle cell sees what it saw at first
    use_fake(fresh, "3 again")
    fresh.run(CELLS["three"], "three")
    assert fresh.turns() == [("1", False), ("2 again", False), ("3 again", False)]


def test_a_cell_of_several_calls_owns_them_all(fresh: Kernel) -> None:
    """A shorter loop drops the turns that it no longer makes."""
    use_fake(fresh)
    fresh.run("for n in range(3):\n    %vlm number {n}", "loop")
    assert [text for text, _ in fresh.turns()] == ["number 0", "number 1", "number 2"]
    fresh.run("for n in range(2):\n    %vlm number {n}", "loop")
    assert [text for text, _ in fresh.turns()] == ["number 0", "number 1"]


def test_without_a_cell_id_turns_are_appended(fresh: Kernel) -> None:
    """A program that runs the notebook sends none."""
    use_fake(fresh)
    for _ in range(2):
        assert fresh.run("%vlm the same").error == ""
    assert [text for text, _ in fresh.turns()] == ["the same", "the same"]


def test_interrupting_keeps_the_partial_answer_ten_times_of_ten(fresh: Kernel) -> None:
    """An error of one line that ends a Run All, the words so far in the conversation, the next cell fine."""
    words = " ".join(f"w{n}" for n in range(600))
    for n in range(10):
        use_fake(fresh, words, "fine", seconds_per_token=0.02)
        request = fresh.send("%%vlm\nTell me a long story about {cat}.", f"long-{n}")
        queued = fresh.send("ran_on = True", f"queued-{n}")
        fresh.interrupt_after_first_words(request)
        ran = fresh.collect(request)
        assert (ran.status, ran.error_name) == ("error", "Interrupted")
        assert ran.error.count("\n") == 0
        assert fresh.collect(queued).status == "aborted"
        text, _ = fresh.turns()[-1]
        assert text == "" or words.startswith(text)
        assert 0 < len(text.split()) < 600
        assert fresh.run("%vlm And now?", f"next-{n}").error == ""
        assert fresh.turns()[-1] == ("fine", False)
        assert fresh.value("engine.history[-1][0][-2].text") == text  # the model is shown the partial answer
        assert (
            fresh.value("vlm_magic.session().conversation.exchanges[-2].reply.finish_reason") == "interrupted"
        )


def test_interrupting_the_starter_keeps_its_words_and_the_model(fresh: Kernel) -> None:
    """The real model, slowed down to a person's pace, so that an interrupt can come in the middle."""
    slow = (
        "import time\n"
        "%vlm_load\n"
        "model = vlm_magic.engine().loaded.model\n"
        "hook = model.register_forward_pre_hook(lambda *_: time.sleep(0.3))\n"
        "from vlm_magic.starter.making.world.scenes import draw_scene\n"
        "scene = draw_scene([('red', 'circle', 0.2, 0.3, 0.3), ('blue', 'square', 0.7, 0.7, 0.3)])"
    )
    loaded = fresh.run(slow)
    assert loaded.error == loaded.stderr == ""
    assert loaded.stdout.count("\n") == 1, "one line says what was loaded"
    request = fresh.send("%%vlm\nDescribe {scene}.", "starter")
    fresh.interrupt_after_first_words(request)
    assert fresh.collect(request).error_name == "Interrupted"
    reply = "vlm_magic.session().conversation.exchanges[-1].reply"
    assert fresh.value(f"{reply}.finish_reason") == "interrupted"
    assert int(fresh.value(f"{reply}.n_new_tokens")) >= 1
    assert fresh.run("hook.remove()").error == ""
    assert fresh.run("%vlm --new -o answer Is there a star in {scene}?", "after").error == ""
    assert fresh.value("vlm_magic.engine().name") == "starter"
    assert fresh.value("answer") != ""


class _NothingHere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """An HTTP server of this machine that has nothing."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _NothingHere)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def _text_only_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    return folder


ERRORS = {
    "unknown variable": ("%%vlm\nWhat is in {catt}?", "PictureNotFoundError", "cat"),
    "missing file": (
        "%%vlm\nWhat is in ![it](no/such/file.png)?",
        "PictureNotFoundError",
        "no/such/file.png",
    ),
    "no such model": ("%vlm_load nobody/no-such-model", "ModelNotFoundError", "nobody/no-such-model"),
    "text-only model": ("%vlm_load {text_only}", "ModelKindError", "gpt2"),
    "404": ("%%vlm\nWhat is in ![it]({url}/cat.png)?", "FetchStatusError", "404"),
    "bad option": ("%%vlm --max-token 3\nWhat is in {cat}?", "OptionError", "--max-tokens"),
    "bad value": ("%%vlm --temperature hot\nWhat is in {cat}?", "OptionError", "hot"),
}


@pytest.mark.parametrize("kind", list(ERRORS))
def test_an_error_is_three_lines_and_leaves_the_conversation_as_it_was(
    kind: str, fresh: Kernel, server: str, tmp_path: Path
) -> None:
    source, name, word = ERRORS[kind]
    use_fake(fresh, "A red cat.", "Still here.")
    assert fresh.run(CELLS["one"], "one").error == ""
    source = source.replace("{url}", server).replace(
        "{text_only}", str(_text_only_model(tmp_path / "text-only"))
    )
    fresh.run("%config VLMMagics.allow_hosts = ['127.0.0.1']")  # a local server, in place of one far away
    ran = fresh.run(source, "failing")
    assert (ran.status, ran.error_name) == ("error", name), ran.error
    lines = ran.error.splitlines()
    assert len(lines) <= 3
    assert lines[0].startswith(f"{name}: ")
    assert all(line.startswith(("  have: ", "  try:  ")) for line in lines[1:])
    assert word in ran.error
    assert fresh.turns() == [("A red cat.", False)]
    assert fresh.run("%vlm -m fake Are you there?", "next").error == ""
    assert fresh.turns() == [("A red cat.", False), ("Still here.", False)]
