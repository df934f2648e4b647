"""A notebook on disk with a real kernel, as JupyterLab runs it: cells with ids, outputs with metadata.

with running_notebook(folder, "day.ipynb") as notebook:
    notebook.run("%load_ext vlm_magic", "cell-0")
    notebook.restart()
"""

from __future__ import annotations

import json
import os
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

_REPOSITORY = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 120


class Notebook:
    """Cells by their ids, each with the outputs of its last run; `save` writes the file.

    Args:
        folder: where the notebook and the kernel's sockets are.
        name: the notebook's file.
        environment: further variables for the kernel.
    """

    def __init__(self, folder: Path, name: str, environment: dict[str, str] | None = None) -> None:
        self.path = folder / name
        self.cells: dict[str, dict[str, Any]] = {}
        self.errors: list[str] = []
        self._manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "socket"))
        paths = os.pathsep.join(map(str, (_REPOSITORY, _REPOSITORY / "tests" / "support")))
        self._environment = {**os.environ, "PYTHONPATH": paths, "JPY_SESSION_NAME": str(self.path)}
        self._environment |= environment or {}
        self._manager.start_kernel(cwd=str(folder), env=self._environment)
        self._subshell = ""
        self._connect()

    def _connect(self) -> None:
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=_TIMEOUT_S)
        self._subshell = ""

    def restart(self) -> None:
        """Another process; the file stays as it was saved."""
        self._client.stop_channels()
        self._manager.restart_kernel()
        self._connect()

    def close(self) -> None:
        """End the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel()
        self._manager.cleanup_resources()

    def run(self, source: str, cell_id: str) -> str:
        """Run a cell, its words in plain text; an error's text is in them too, and in ``errors``."""
        return self.collect(source, cell_id, self.start(source, cell_id))

    def start(self, source: str, cell_id: str) -> str:
        """Ask for a cell to be run; the request's id."""
        content = {
            "code": source, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": True, "stop_on_error": True,
        }  # fmt: skip
        message = self._client.session.msg("execute_request", content)
        message["metadata"]["cellId"] = cell_id
        self._client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def collect(self, source: str, cell_id: str, request: str) -> str:
        """Wait for the end of a cell that was started; as `run`."""
        outputs, words = [], ""
        for heard in self.messages(request):
            content = heard["content"]
            if heard["msg_type"] == "display_data":
                outputs.append(
                    {"output_type": "display_data", "data": content["data"], "metadata": content["metadata"]}
                )
                words += content["data"].get("text/plain", "")
            elif heard["msg_type"] == "stream":
                words += content["text"]
            elif heard["msg_type"] == "error":
                self.errors.append("\n".join(content["traceback"]))
                words += self.errors[-1]
        cell = {"cell_type": "code", "id": cell_id, "metadata": {}, "execution_count": None}
        self.cells[cell_id] = {**cell, "source": source, "outputs": outputs}
        return words

    def first_words(self, request: str) -> tuple[str, str]:
        """Wait until the cell's panel was sent words: the panel's comm and the answer's id."""
        for message in self.messages(request):
            told = message["content"].get("data", {}).get("content", {})
            if message["msg_type"] == "comm_msg" and told.get("type") == "delta":
                return str(message["content"]["comm_id"]), str(told["id"])
        raise AssertionError("the answer ended without words")

    def interrupt(self) -> None:
        """What the front-end's stop button for kernels does."""
        self._manager.interrupt_kernel()

    def click_stop(self, comm_id: str, exchange_id: str) -> None:
        """What a click on the panel's Stop does in JupyterLab: a message to a subshell of the kernel."""
        if not self._subshell:
            request = self._client.session.msg("create_subshell_request", {})
            self._client.control_channel.send(request)
            reply = self._client.get_control_msg(timeout=_TIMEOUT_S)
            self._subshell = str(reply["content"]["subshell_id"])
        stop = {"method": "custom", "content": {"type": "stop", "id": exchange_id}}
        message = self._client.session.msg("comm_msg", {"comm_id": comm_id, "data": stop})
        message["header"]["subshell_id"] = self._subshell
        self._client.shell_channel.send(message)

    def messages(self, request: str) -> Iterator[dict[str, Any]]:
        """What the kernel publishes for a request, until it is idle again."""
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                message = self._client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            yield message
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
        raise TimeoutError("the kernel did not become idle")

    def save(self) -> None:
        """Write the file."""
        book = {"cells": list(self.cells.values()), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        self.path.write_text(json.dumps(book))


@contextmanager
def running_notebook(
    folder: Path, name: str, environment: dict[str, str] | None = None
) -> Iterator[Notebook]:
    """A notebook with a kernel of its own, which ends with the block."""
    notebook = Notebook(folder, name, environment)
    try:
        yield notebook
    finally:
        notebook.close()
