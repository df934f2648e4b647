"""Building the kernel: beside answers, kept for the next process, without harm where it cannot be built."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
from PIL import Image

from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding.step import figures, handover
from vlm_magic.models.decoding.step.kernel import compiler
from vlm_magic.models.decoding.step.kernel.compiler import KernelBuild
from vlm_magic.models.engine import LocalEngine

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="there is no C++ compiler here"
)
ASK = [Turn("user", (Picture(None, "grey", Image.new("RGB", (40, 40), "grey")), Text("what is it? ")))]
SHORT = Settings(max_tokens=8)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; what is built goes into "kernels" in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VLM_MAGIC_COMPILE", raising=False)
    monkeypatch.setattr(compiler, "_niced", list)  # a busy machine would take minutes
    return tmp_path / "vlm_magic" / "kernels"


@pytest.fixture
def own_build(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelBuild]:
    """This process's kernel, not built yet."""
    build = KernelBuild()
    monkeypatch.setattr(compiler, "_KERNEL", build)
    yield build
    build.stop()
    if build._thread is not None:
        build._thread.join(60)


def engine_with(compile_: str) -> LocalEngine:
    """A model of its own name whose steps are compiled so."""
    loaded = load_model(tiny_models.folder_of("smolvlm"))  # nothing of other tests hangs on it
    return LocalEngine(replace(loaded, options=replace(loaded.options, compile=compile_)))


def test_a_kernel_is_built_once_and_found_by_the_next_process(cache: Path) -> None:
    first, second = KernelBuild(), KernelBuild()
    assert first.library("yes") is not None
    assert first.remark == ""
    assert first.seconds > 0
    (made,) = cache.iterdir()
    before = made.stat().st_mtime_ns
    assert second.library("yes") is not None
    assert second.seconds == 0
    assert made.stat().st_mtime_ns == before
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_two_that_build_at_once_do_each_other_no_harm(cache: Path) -> None:
    builds = [KernelBuild() for _ in range(3)]
    threads = [threading.Thread(target=build.library, args=("yes",)) for build in builds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(build.library("yes") is not None for build in builds)
    assert len(list(cache.iterdir())) == 1


def test_answers_come_from_torch_while_it_is_built_and_from_the_kernel_after(own_build: KernelBuild) -> None:
    """It changes between two answers, never within one; the status says what runs."""
    engine = engine_with("auto")
    engine.generate(ASK, SHORT)
    assert handover.record_of(engine.model).way == "eager"
    said = engine.generate(ASK, SHORT).token_ids
    own_build.library("yes")  # waits for it
    assert engine.generate(ASK, SHORT).token_ids == said
    assert handover.record_of(engine.model).way == "native"
    assert figures.way_words(engine.model) == "tokens by the kernel built here"
    assert "tokens/s" in " ".join(engine.about.figures)


def test_the_status_says_how_much_of_the_memory_s_speed_is_used_unless_it_is_next_to_nothing() -> None:
    """An answer of two tokens measures nothing, and "0 %" beside it would say that something is wrong."""
    model = engine_with("no").model
    whole = figures.bandwidth_share(model, 1.0, "cpu")  # measured once, so the same from here on
    assert whole
    speed = 1 / whole
    assert figures.speed_words(model, 0.5 * speed, "cpu").endswith(" % of the memory's bandwidth)")
    assert "faster than the memory" in figures.speed_words(model, 4 * speed, "cpu")
    assert figures.speed_words(model, 0.001 * speed, "cpu") == f"last {0.001 * speed:.0f} tokens/s"


def test_without_a_compiler_answers_go_on_with_one_remark(
    own_build: KernelBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    engine = engine_with("yes")
    assert engine.generate(ASK, SHORT).n_new_tokens
    assert handover.record_of(engine.model).way == "eager"
    assert own_build.remark == "no C++ compiler here (g++ or clang++)"
    assert own_build.remark in " ".join(engine.about.details)


def test_a_compiler_that_fails_is_remarked_on_and_not_asked_again(
    own_build: KernelBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert own_build.library("yes") is None
    assert own_build.remark == "g++ could not build the kernel"
    thread = own_build._thread
    assert own_build.library("yes") is None
    assert own_build._thread is thread


@pytest.mark.parametrize("harm", ["is a file", "belongs to all"])
def test_a_folder_that_cannot_be_trusted_or_written_keeps_nothing(cache: Path, harm: str) -> None:
    """The kernel is built for this process alone."""
    cache.parent.mkdir(parents=True)
    if harm == "is a file":
        cache.write_text("")
    else:
        cache.mkdir()
        cache.chmod(0o777)
    build = KernelBuild()
    assert build.library("yes") is not None
    assert build.remark == ""
    assert cache.is_file() or not list(cache.iterdir())


def test_a_kernel_that_a_full_disk_cut_short_is_built_again(cache: Path) -> None:
    """Loading a part of one would end the process."""
    assert KernelBuild().library("yes") is not None
    (made,) = cache.iterdir()
    whole = made.read_bytes()
    made.unlink()
    made.write_bytes(whole[: len(whole) // 2])
    again = KernelBuild()
    assert again.library("yes") is not None
    assert again.seconds > 0
    assert [kernel.stat().st_size for kernel in cache.iterdir()] == [len(whole)]


def test_an_unload_and_an_end_of_the_process_during_a_build_leave_nothing_behind(cache: Path) -> None:
    """The answer comes, the model goes, the process ends at once, and so does what it started."""
    program = (
        "import sys, time; sys.path[:0] = sys.argv[1:]\n"
        "import tiny_models\n"
        "from dataclasses import replace\n"
        "from vlm_magic.messages import Settings, Text, Turn\n"
        "from vlm_magic.models.engine import LocalEngine\n"
        "from vlm_magic.models.decoding.step.kernel.compiler import kernel\n"
        "engine = LocalEngine(tiny_models.tiny('smolvlm'))\n"
        "reply = engine.generate([Turn('user', (Text('hello'),))], Settings(max_tokens=5))\n"
        "assert reply.n_new_tokens and kernel()._thread is not None\n"
        "engine.close()\n"
        "print(kernel()._process.pid if kernel()._process else 0)\n"
    )
    slow = cache.parent.parent / "slow" / "g++"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    support = Path(tiny_models.__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(support)],
        env={**os.environ, "CXX": str(slow)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout.split()[-1])
    deadline = time.monotonic() + 20  # a third of its sleep; init may be slow to see its end
    while pid and Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pid == 0 or not Path(f"/proc/{pid}").exists()
