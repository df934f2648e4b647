"""Imports and loads that an interrupt hits are whole afterwards, in a cold process above all."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vlm_magic.uninterrupted import import_whole, run_apart

_SLOW = """
import pathlib, time
runs = pathlib.Path(__file__).with_suffix(".runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
time.sleep({seconds})
value = 5
"""


def press_after(delay_s: float) -> threading.Timer:
    """Ctrl-C, in a while."""
    timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_an_interrupted_import_ends_by_itself_and_is_there_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt is let go on at once; the module's code runs once."""
    (tmp_path / "slow_to_import.py").write_text(_SLOW.format(seconds=0.6))
    monkeypatch.syspath_prepend(tmp_path)
    timer = press_after(0.2)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        import_whole("slow_to_import")
    assert time.monotonic() - began < 0.55
    import_whole("slow_to_import")
    assert importlib.import_module("slow_to_import").value == 5
    assert (tmp_path / "slow_to_import.runs").read_text() == "x"
    timer.join()
    del sys.modules["slow_to_import"]


def test_what_is_not_installed_is_an_import_error_where_it_was_asked_for() -> None:
    with pytest.raises(ImportError, match="no_such_library"):
        import_whole("no_such_library")


def test_news_of_the_work_are_told_in_the_callers_thread_one_by_one() -> None:
    told: list[tuple[int, str]] = []

    def work(tell: object) -> str:
        for n in range(3):
            tell(n)  # type: ignore[operator]
            assert len(told) == n + 1
        return "done"

    assert run_apart(work, lambda n: told.append((n, threading.current_thread().name))) == "done"
    assert told == [(n, threading.main_thread().name) for n in range(3)]


def test_an_interrupt_asks_the_work_to_stop_and_waits_for_it() -> None:
    stopped, ended = threading.Event(), threading.Event()

    def work(tell: object) -> None:
        stopped.wait(20)
        time.sleep(0.1)
        ended.set()

    timer = press_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        run_apart(work, stop=stopped.set, patience_s=10)
    assert ended.is_set()
    timer.join()


_COLD = """
import sys, threading, os, signal, time
import vlm_magic
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    engine = vlm_magic.load()
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted", engine_is_there := "engine" in globals(), file=sys.stderr)
reply = vlm_magic.load().generate([vlm_magic.Turn("user", (vlm_magic.Text("hello"),))])
print(reply.finish_reason, reply.text)
"""


@pytest.mark.parametrize("delay_s", [0.1, 0.9])
def test_an_interrupt_in_the_first_load_of_a_process_spoils_nothing(delay_s: float) -> None:
    """Its imports take seconds; one that is cut in two once left a lock that made the next load hang."""
    done = subprocess.run(
        [sys.executable, "-c", _COLD, str(delay_s)], capture_output=True, text=True, timeout=200, check=False
    )
    assert "interrupted" in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("stop "), done.stderr
