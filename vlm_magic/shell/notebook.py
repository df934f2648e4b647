"""Which notebook file this kernel belongs to, as far as its surroundings tell.

Jupyter's server puts the path into the kernel's environment when it starts it, VS Code into the
notebook's names. A notebook that was renamed since still has its old path there; then the person
names the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

__all__ = ["notebook_path"]


def notebook_path(shell: Any) -> Path | None:
    """The path of the notebook, whether or not the file is there; None where nobody says.

    Source: ``JPY_SESSION_NAME`` is set by jupyter_server (services/sessions/sessionmanager.py, 2.0 and
    later), ``__vsc_ipynb_file__`` by VS Code's Jupyter extension.
    """
    named = shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME", "")
    if not isinstance(named, str) or not named.endswith(".ipynb"):
        return None  # a console, or a session that has another name
    return Path(named).absolute()
