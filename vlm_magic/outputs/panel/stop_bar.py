"""A Stop button above work that fills a cell's output by itself, such as the sheet of a map.

It stands on the page while the work goes on, and takes no room afterwards, nor in a saved notebook.
Knows nothing of the work, which its callback ends. Neighbours: `widget` is the panel with a button of its
own; ``static/stop.mjs`` is this one's page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anywidget
import traitlets

from vlm_magic.outputs.panel.page import packed_page
from vlm_magic.outputs.surroundings import stop_way

__all__ = ["WIDGET_MIME", "StopBar", "answer_while_busy"]

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


class StopBar(anywidget.AnyWidget):
    """One line with a button.

    Args:
        words: what is under way.
        on_stop: called once, possibly from another thread than the running cell's. Where the kernel hears
            nothing while a cell runs, the page interrupts it instead.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    words = traitlets.Unicode("").tag(sync=True)
    stop_by = traitlets.Unicode("message").tag(sync=True)
    is_over = traitlets.Bool(False).tag(sync=True)

    def __init__(self, words: str, on_stop: Callable[[], object]) -> None:
        self._on_stop = on_stop
        super().__init__(
            _esm=packed_page("state.mjs", "parts.mjs", "stop.mjs"),
            words=words,
            stop_by=stop_way(),
        )
        answer_while_busy(self.comm)
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return "vlm stop button"

    def show(self) -> None:
        """Put it into the running cell's output: the widget alone, so that other sites show nothing here."""
        from IPython.display import display

        display({WIDGET_MIME: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}, raw=True)

    def end(self) -> None:
        """The work is over: the button goes."""
        self.is_over = True

    def _receive(self, _widget: object, content: Mapping[str, Any], _buffers: list[Any]) -> None:
        if content.get("type") == "stop" and not self.is_over:
            self.send({"type": "ack"})
            self._on_stop()


def answer_while_busy(comm: Any) -> None:
    """Let a widget's messages run on the front-end's subshell while a cell blocks the main one.

    ipykernel 7.4 sends a front-end's message to the shell that last wrote on the comm; while a cell
    runs that is the main one, so a Stop would wait for the end of the cell it should stop.
    Source: ipykernel 7.4.0, comm/comm.py and kernelbase.shell_channel_thread_main.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default
