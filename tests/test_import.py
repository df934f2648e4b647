"""Importing the package and loading the extension is instant: the heavy libraries come with a model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "accelerate",
    "anywidget",
    "bitsandbytes",
    "huggingface_hub",
    "ipywidgets",
    "matplotlib",
    "pandas",
    "torch",
    "transformers",
}

# Prints which heavy modules came, and the seconds on top of IPython itself.
SCRIPT = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
began = time.perf_counter()
{step}
seconds = time.perf_counter() - began
came = set(sys.modules) - before
print(json.dumps([seconds, sorted(came), "vlm" in shell.magics_manager.magics["cell"]]))
"""

STEPS = {
    "import": "import vlm_magic",
    "load_ext": "shell.run_line_magic('load_ext', 'vlm_magic')",
}


def _run(step: str) -> tuple[float, set[str], bool]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(step=STEPS[step])], capture_output=True, text=True, check=True
    )
    seconds, came, has_magic = json.loads(done.stdout.splitlines()[-1])
    return seconds, {name.split(".")[0] for name in came}, has_magic


@pytest.mark.parametrize("step", sorted(STEPS))
def test_no_heavy_library_comes_along(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The seconds are printed; the guard is far above them, for busy machines."""
    runs = [_run(step) for _ in range(3)]
    seconds = min(run[0] for run in runs)
    with capsys.disabled():
        print(f"\n{step}: {seconds:.3f} s on top of IPython", end=" ")
    assert runs[0][1] & HEAVY == set()
    assert runs[0][2] is (step == "load_ext")
    assert seconds < 3
