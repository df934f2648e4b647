"""Jupyter's programs as a person starts them in a terminal: jupyter execute, nbconvert, nbval, papermill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_TIMEOUT_S = 600
_ATTEMPTS = 3
# Jupyter chooses a kernel's ports, closes them, and starts the kernel, which opens them again: where another
# process took one in between, the kernel ends before its first word. JupyterLab then starts it once more by
# itself; these programs give up, and a person starts them again.
_PORT_TAKEN = "Kernel died before replying to kernel_info"


def run_module(
    *command: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """``python -m …`` in ``folder``, started again where its kernel did not get the ports chosen for it."""
    for _ in range(_ATTEMPTS):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if _PORT_TAKEN not in done.stdout + done.stderr:
            break
    return done
