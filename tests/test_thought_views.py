"""A thought is shown folded, apart from the answer, in the saved notebook and in the panel."""

from __future__ import annotations

import io
import re
import time
from typing import Any

from vlm_magic.messages import Chunk, Exchange, Reply, Text
from vlm_magic.outputs.answer_views import PanelView
from vlm_magic.outputs.panel.widget import ChatPanel
from vlm_magic.outputs.terminal import TerminalView
from vlm_magic.outputs.transcript import exchange_bundle

REPLY = Reply(
    "Red.", thinking="Is it **red**? <script>alert(1)</script>", n_thinking_tokens=9, n_new_tokens=12
)
EXCHANGE = Exchange("a", (Text("What?"),), reply=REPLY)


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_saved_answer_folds_its_thought_and_counts_it() -> None:
    bundle = exchange_bundle(EXCHANGE)
    html = bundle["text/html"]
    answer, _, thought = html.partition("<details")
    assert "Red." in answer
    assert "Is it" not in answer
    assert "Is it <strong>red</strong>?" in thought
    assert "<script" not in html
    assert "9 tokens" in thought
    assert "12 tokens (9 thinking)" in bundle["text/plain"]
    assert "Is it" not in bundle["text/plain"]


def test_an_answer_without_a_thought_folds_nothing() -> None:
    assert (
        "<details" not in exchange_bundle(Exchange("a", (Text("What?"),), reply=Reply("Red.")))["text/html"]
    )


def test_the_panel_streams_a_thought_folded_and_shows_it_whole_at_the_end() -> None:
    panel = ChatPanel()
    sent: list[dict[str, Any]] = []
    panel.send = lambda message, buffers=None: sent.append(message)
    panel.set_conversation([Exchange("a", (Text("What?"),))])
    begun = time.monotonic()
    words = [f"word{n}\x1b[2J\u202e " for n in range(200)]
    for n, word in enumerate(words, start=1):
        panel.push("a", Chunk("", n, thinking=word))
        time.sleep(0.002)
    (turn,) = panel.snapshot()
    assert "word0" in turn["stream"]["thought"], "a page that opens late has what was thought before"
    panel.push("a", Chunk("Red.", 201))
    panel.finish("a", EXCHANGE)
    took_s = time.monotonic() - begun
    updates = [m for m in sent if m["type"] == "delta"]
    assert 2 <= len(updates) <= took_s * 15 + 3, "at most 15 updates a second"
    assert [m["seq"] for m in updates] == list(range(1, len(updates) + 1))
    thought = "".join(m.get("thought", "") for m in updates)
    assert re.findall(r"word\d+", thought) == [f"word{n}" for n in range(200)]
    assert not set(thought) & {"\x1b", "\u202e"}
    assert "".join(m["text"] for m in updates) == "Red.", "the thought is no part of the answer"
    (turn,) = [m["turn"] for m in sent if m["type"] == "turn" and m["turn"]["state"] == "done"]
    assert "<details" in turn["proof"]
    assert "Is it" not in turn["text"]


def test_an_engine_that_thinks_is_followed_by_the_view_of_a_cell() -> None:
    view = PanelView()
    view.begin(Exchange("a", (Text("What?"),)))
    assert view.panel is not None
    view.push(Chunk("", 1, thinking="Is it"))
    (turn,) = view.panel.snapshot()
    assert turn["state"] == "streaming"
    view.fail()
    assert view.panel.snapshot()[0]["state"] == "failed"


def test_a_terminal_says_that_the_model_thinks_and_lets_no_codes_through() -> None:
    for is_tty in (True, False):
        out = Tty() if is_tty else io.StringIO()
        view = TerminalView(out)
        for n in range(1, 11):
            view.push(Chunk("", n, thinking="\x1b]0;title\x07 I think"))
        assert ("Thinking, 9 tokens so far…" if is_tty else "[Thinking…]\n") in out.getvalue()
        view.push(Chunk("Red.", 11))
        view.finish(EXCHANGE)
        shown = out.getvalue()
        assert "I think" not in shown
        assert "\x07" not in shown
        assert "\x1b]" not in shown
        assert shown.count("[Thinking…]") == (not is_tty)
        assert "\x1b[2KRed.\n" in shown if is_tty else "[Thinking…]\nRed.\n" in shown
