"""Which cell runs: IPython's events, told to the workspace.

A cell's id is the notebook's own; where the front-end sends none (a terminal, nbclient) turns are
appended. Cells run inside cells (``%%capture``, ``%run``) belong to the outermost one.
"""

from __future__ import annotations

import re
from typing import Any

from vlm_magic.workspace import Workspace

__all__ = ["CellWatch", "prompt_above", "running_cell_id"]

_CALL = re.compile(r"^.*%vlm\b(?!_)", re.MULTILINE)


def running_cell_id(shell: Any) -> str | None:
    """The id of the cell that runs now, from the request of the front-end; None without one."""
    try:
        header = shell.parent_header
    except AttributeError:
        return None  # a terminal has no requests
    cell_id = (header or {}).get("metadata", {}).get("cellId")
    return str(cell_id) if cell_id else None


def prompt_above(workspace: Workspace, prompt: str) -> str | None:
    """The prompt, where a person reads it right above the output: the cell's only call, at its end."""
    source = workspace.cell.source.rstrip()
    is_last = source.endswith(prompt.strip())
    return prompt if is_last and len(_CALL.findall(source)) == 1 else None


class CellWatch:
    """Tells the workspace when cells begin and end.

    Args:
        shell: the IPython shell whose events to follow.
        workspace: whom to tell.
    """

    def __init__(self, shell: Any, workspace: Workspace) -> None:
        self._shell = shell
        self._workspace = workspace
        self._outermost: Any = None  # what IPython tells of the cell that runs; None between cells

    def start(self) -> None:
        """Follow the shell; the cell that is running now (the one with ``%load_ext``) counts too."""
        self._shell.events.register("pre_run_cell", self._before)
        self._shell.events.register("post_run_cell", self._after)
        self._workspace.cell.begin(running_cell_id(self._shell))

    def stop(self) -> None:
        """Follow no longer."""
        for event, callback in (("pre_run_cell", self._before), ("post_run_cell", self._after)):
            if callback in self._shell.events.callbacks[event]:
                self._shell.events.unregister(event, callback)

    def _before(self, info: Any) -> None:
        if self._outermost is None:
            self._outermost = info
            cell_id = getattr(info, "cell_id", None) or running_cell_id(self._shell)
            self._workspace.cell.begin(cell_id, str(getattr(info, "raw_cell", None) or ""))

    def _after(self, result: Any) -> None:
        if self._outermost in (
            None,
            getattr(result, "info", None),
        ):  # None: the cell that loaded the extension
            self._outermost = None
            self._workspace.end_cell(succeeded=bool(result.success))
