"""The two ends that every call of a magic has: a bundle that is shown, and an interrupt that is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Interrupted", "show_bundle"]


class Interrupted(KeyboardInterrupt):
    """The kernel's interrupt, shown as one line; like any KeyboardInterrupt it ends a Run All."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


def show_bundle(bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> None:
    """Show a mimebundle in a notebook, with metadata for the file, or its plain text in a terminal."""
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    if getattr(get_ipython(), "kernel", None) is None:
        print(bundle["text/plain"])
    else:
        display(dict(bundle), raw=True, metadata=dict(metadata or {}))
