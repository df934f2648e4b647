"""A plain terminal: words as they come, no widget noise, no control codes from the model."""

from __future__ import annotations

import io
import sys

from panel_scenes import question, reply

from vlm_magic.messages import Chunk, Progress
from vlm_magic.outputs.answer_views import choose_view
from vlm_magic.outputs.terminal import TerminalView


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_words_come_at_once_and_figures_at_the_end() -> None:
    out = io.StringIO()
    view, exchange = TerminalView(out), question()
    view.begin(exchange)
    view.progress(Progress("prefill", 1, 2))
    view.push(Chunk("A red", 2))
    assert out.getvalue().endswith("A red")
    view.push(Chunk(" circle.", 4))
    exchange.reply = reply("A red circle.", notes=("a remark",))
    view.finish(exchange)
    assert out.getvalue() == (
        "[before, 640×480 px]\n[after, 640×480 px]\nA red circle.\n"
        "[3 tokens · 2.4 s · 31 tokens/s · prompt 214 tokens (128 for pictures, 64 reused)]\n[a remark]\n"
    )


def test_a_model_cannot_send_control_codes() -> None:
    out = io.StringIO()
    view = TerminalView(out)
    view.push(Chunk("\x1b]0;title\x07\x1b[2Jhello\r\x9b31m"))
    assert not set(out.getvalue()) & {"\x1b", "\x07", "\r", "\x9b"}


def test_waiting_is_shown_on_a_line_that_goes_away() -> None:
    out = Tty()
    view = TerminalView(out)
    view.progress(Progress("queued", 2))
    assert "Waiting for 2 answers before this one…" in out.getvalue()
    view.push(Chunk("Hi"))
    assert out.getvalue().endswith("\r\x1b[2KHi")


def test_an_answer_that_fails_leaves_the_cursor_on_a_new_line() -> None:
    out = io.StringIO()
    view = TerminalView(out)
    view.push(Chunk("half"))
    view.fail()
    assert out.getvalue() == "half\n"


def test_outside_a_kernel_the_terminal_is_chosen_and_no_widget_is_imported() -> None:
    before = set(sys.modules)
    assert isinstance(choose_view(), TerminalView)
    assert not {"anywidget", "ipywidgets"} & (set(sys.modules) - before)
