"""Which cell runs: IPython's events, told to the workspace.

A cell's id is the notebook's own; where the front-end sends none (a terminal, nbclient) turns are
appended. Cells run inside cells (``%%capture``, ``%run``) belong to the outermost one.
"""

from __future__ import annotations

from typing import Any

from vlm_magic.workspace import Workspace

__all__ = ["CellWatch", "running_cell_id"]


def running_cell_id(shell: Any) -> str | None:
    """The id of the cell that runs now, from the request of the front-end; None without one."""
    try:
        header = shell.parent_header
    except AttributeError:
        return None  # a terminal has no requests
    cell_id = (header or {}).get("metadata", {}).get("cellId")
    return str(cell_id) if cell_id else None


class CellWatch:
    """Tells the workspace when cells begin and end.

    Args:
        shell: the IPython shell whose events to follow.
        workspace: whom to tell.
    """

    def __init__(self, shell: Any, workspace: Workspace) -> None:
        self._shell = shell
        self._workspace = workspace
        self._depth = 0

    def start(self) -> None:
        """Follow the shell; the cell that is running now (the one with ``%load_ext``) counts too."""
        self._shell.events.register("pre_run_cell", self._before)
        self._shell.events.register("post_run_cell", self._after)
        self._depth = 1
        self._workspace.begin_cell(running_cell_id(self._shell))

    def stop(self) -> None:
        """Follow no longer."""
        for event, callback in (("pre_run_cell", self._before), ("post_run_cell", self._after)):
            if callback in self._shell.events.callbacks[event]:
                self._shell.events.unregister(event, callback)

    def _before(self, info: Any) -> None:
        self._depth += 1
        if self._depth == 1:
            cell_id = getattr(info, "cell_id", None) or running_cell_id(self._shell)
            self._workspace.begin_cell(cell_id)

    def _after(self, result: Any) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth == 0:
            self._workspace.end_cell(succeeded=bool(result.success))
