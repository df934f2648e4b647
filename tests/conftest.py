"""Every test runs with its own home and caches, offline, and may talk to this machine alone."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from published import Published

if TYPE_CHECKING:
    from lab import Lab

# A run that a script put into the background is deaf to interrupts, and so would be all its children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before anything imports transformers, matplotlib or jupyter: they read these once.
_HOME = Path(tempfile.mkdtemp(prefix="vlm_magic-tests-"))
os.environ.update(
    HOME=str(_HOME),
    HF_HOME=str(_HOME / "hf"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    IPYTHONDIR=str(_HOME / "ipython"),
    JUPYTER_PLATFORM_DIRS="1",
    MPLBACKEND="agg",
    MPLCONFIGDIR=str(_HOME / "matplotlib"),
    TOKENIZERS_PARALLELISM="false",
    VLM_MAGIC_COMPILE=os.environ.get("VLM_MAGIC_COMPILE", "no"),  # the tests of the kernel ask for it
    XDG_CACHE_HOME=str(_HOME / "cache"),
    XDG_CONFIG_HOME=str(_HOME / "config"),
    XDG_DATA_HOME=str(_HOME / "data"),
)


_closing_lines: list[str] = []


@pytest.fixture(scope="session")
def closing_lines() -> list[str]:
    """What tests have to show, as tables: printed at the end of the run."""
    return _closing_lines


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes hands its lines on."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["closing_lines"] = _closing_lines


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the lines of such a process (pytest-xdist calls this)."""
    _closing_lines.extend(getattr(node, "workeroutput", {}).get("closing_lines", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print them."""
    for line in _closing_lines:
        terminalreporter.write_line(line)


class OutsideConnectionError(RuntimeError):
    """A test tried to reach another machine."""


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a Unix socket
    host = str(address[0])
    return host in ("localhost", "::1", "0.0.0.0", "") or host.startswith("127.")


@pytest.fixture(autouse=True)
def no_socket_leaves_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections and datagrams to other addresses, whoever opens them in this process."""
    real_connect, real_connect_ex = socket.socket.connect, socket.socket.connect_ex
    real_sendto = socket.socket.sendto

    def check(address: object) -> None:
        if not _is_local(address):
            raise OutsideConnectionError(f"a test tried to reach {address!r}")

    def connect(self: socket.socket, address: object) -> None:
        check(address)
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: object) -> int:
        check(address)
        return real_connect_ex(self, address)

    def sendto(self: socket.socket, *args: object) -> int:
        check(args[-1])
        return real_sendto(self, *args)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)
    monkeypatch.setattr(socket.socket, "sendto", sendto)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab for the tests of a file."""
    from lab import running_lab

    folder = tmp_path_factory.mktemp("lab") / "notebooks"
    folder.mkdir()
    with running_lab(folder) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for the tests of a file."""
    from lab import running_browser

    with running_browser() as running:
        yield running


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    """What is displayed from now on, in place of the kernel's display."""
    fake = Published()
    monkeypatch.setattr("IPython.display.display", fake)
    return fake
