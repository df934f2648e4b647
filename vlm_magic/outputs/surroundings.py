"""Where the code runs: a terminal, a notebook that somebody looks at, or one that a program runs.

The one place that asks IPython. Neighbours: every view chooses by it what it shows.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

__all__ = ["Surroundings", "stop_way", "surroundings"]

Surroundings: TypeAlias = Literal["terminal", "person", "program"]


def surroundings() -> Surroundings:
    """Where this runs: "terminal", "person" (a front-end that somebody looks at) or "program".

    A person's front-end names the cell, or at least lets the kernel ask for input; programs that
    run notebooks (nbclient, papermill, nbval, nbconvert) do neither.
    """
    shell = _shell()
    if getattr(shell, "kernel", None) is None:
        return "terminal"
    request = getattr(shell, "parent_header", None) or {}
    has_cell = bool((request.get("metadata") or {}).get("cellId"))
    may_ask = bool((request.get("content") or {}).get("allow_stdin"))
    return "person" if has_cell or may_ask else "program"


def stop_way() -> Literal["message", "interrupt"]:
    """How Stop reaches a running cell: by a message where the kernel has subshells, else by an interrupt."""
    kernel = getattr(_shell(), "kernel", None)
    return "message" if getattr(kernel, "_supports_kernel_subshells", False) else "interrupt"


def _shell() -> Any:
    from IPython import get_ipython

    return get_ipython()
