"""What a person does in the panel, without a browser: the desk, a real conversation, a scripted engine."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import FakeEngine
from PIL import Image

from vlm_magic.errors import ExpressionError, PictureNotFoundError, VLMError
from vlm_magic.messages import Picture, Text
from vlm_magic.shell.chat import CellPanel, ChatDesk
from vlm_magic.workspace import Workspace


class Panel:
    """A person at a desk."""

    def __init__(self, **names: Any) -> None:
        self.engine = FakeEngine()
        self.workspace = Workspace()
        self.workspace.add_engine("fake", self.engine)
        self.session = self.workspace.session("main")
        self.desk = ChatDesk(SimpleNamespace(user_ns=names), self.workspace, self.session)
        self.desk.open()

    def act(self, kind: str, **more: Any) -> None:
        self.desk._act({"kind": kind, **more})

    def send(self, *parts: Any) -> None:
        self.act("send", parts=tuple(Text(p) if isinstance(p, str) else p for p in parts))

    @property
    def answers(self) -> list[str]:
        return [e.reply.text for e in self.session.conversation if e.reply]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.005)

    def ask(self, *parts: Any) -> str:
        """Send and wait; the new turn's id."""
        n = len(self.answers)
        self.send(*parts)
        self.until(lambda: len(self.answers) > n)
        return self.session.conversation.exchanges[-1].id


@pytest.fixture
def panel() -> Panel:
    return Panel(cat=Image.new("RGB", (8, 6)), box={"cat": Image.new("RGB", (4, 4))}, secret=lambda: 1 / 0)


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 5), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_typed_names_and_pasted_pictures_reach_the_model_in_order(panel: Panel) -> None:
    """Names are looked up, bytes are decoded."""
    panel.ask("compare {cat} and {box['cat']} with ", Picture(png(), name="pasted.png"), " please")
    parts = panel.engine.history[-1][0][-1].parts
    assert [p.name if isinstance(p, Picture) else p.text for p in parts] == [
        "compare ", "cat", " and ", "box['cat']", " with ", "pasted.png", " please",
    ]  # fmt: skip


def test_typed_text_never_calls_anything(panel: Panel) -> None:
    """It stays words: only cells run code."""
    panel.ask("what is {secret()}?")
    assert panel.engine.history[-1][0][-1].text == "what is {secret()}?"


@pytest.mark.parametrize("text", ["{catt}", "{box['dog']}", "![](no/such.png)"])
def test_a_message_that_cannot_be_read_is_an_error_and_no_turn(panel: Panel, text: str) -> None:
    """The panel gives the draft back."""
    with pytest.raises(VLMError) as caught:
        panel.send(text)
    assert isinstance(caught.value, (PictureNotFoundError, ExpressionError))
    assert panel.answers == []


def test_messages_wait_in_line_and_see_what_was_said_before_them(panel: Panel) -> None:
    """Their context is that of the time when they start."""
    panel.engine.seconds_per_token = 0.01
    panel.engine.enqueue("the first answer", "the second answer")
    panel.send("one")
    panel.send("two")
    panel.until(lambda: len(panel.answers) == 2)
    assert [turn.text for turn in panel.engine.history[1][0]] == ["one", "the first answer", "two"]


def test_a_stop_ends_the_answer_it_was_meant_for_and_no_other(panel: Panel) -> None:
    """One that comes late does nothing."""
    panel.engine.seconds_per_token = 0.01
    panel.engine.enqueue("word " * 500, "next")
    panel.send("one")
    panel.until(panel.engine.started.is_set)
    (first,) = panel.desk._under_way
    panel.act("stop", exchange=first)
    panel.until(lambda: len(panel.answers) == 1)
    assert panel.session.conversation.exchanges[0].reply.finish_reason == "interrupted"  # type: ignore[union-attr]
    panel.act("stop", exchange=first)
    panel.ask("two")
    assert panel.answers[1] == "next"


def test_edit_regenerate_and_refresh_take_the_turns_place(panel: Panel) -> None:
    """Later turns become stale until they are asked again."""
    first, _ = panel.ask("one"), panel.ask("two")
    panel.engine.enqueue("other", "edited answer", "fresh")
    panel.act("regenerate", exchange=first)
    panel.until(lambda: panel.answers[0] == "other")
    first, second = (e.id for e in panel.session.conversation)
    assert [e.is_stale for e in panel.session.conversation] == [False, True]
    panel.act("edit", exchange=first, parts=(Text("{cat} stays words in an edit"),))
    panel.until(lambda: panel.answers[0] == "edited answer")
    assert panel.session.conversation.exchanges[0].parts == (Text("{cat} stays words in an edit"),)
    panel.act("refresh", exchange=second)
    panel.until(lambda: panel.answers[1] == "fresh")
    assert not any(e.is_stale for e in panel.session.conversation)


def test_hide_choose_delete_and_clear_change_the_one_conversation(panel: Panel) -> None:
    """Cells see the change as well."""
    first = panel.ask("one")
    panel.ask("two")
    panel.act("hide", exchange=first, hidden=True)
    panel.ask("three")
    assert [turn.text for turn in panel.engine.history[-1][0]] == ["two", "two", "three"]
    panel.act("delete", exchange=first)
    assert panel.answers == ["two", "three"]
    panel.act("clear")
    assert len(panel.session.conversation) == 0


def test_settings_hold_for_the_next_messages(panel: Panel) -> None:
    """An empty field goes back to the default."""
    panel.act("settings", values={"temperature": 0.5, "max_tokens": 9, "system": "Be brief."})
    panel.ask("one")
    settings = panel.engine.history[-1][1]
    assert (settings.temperature, settings.max_tokens, settings.system) == (0.5, 9, "Be brief.")
    panel.act("settings", values={"temperature": None, "max_tokens": None, "system": ""})
    panel.ask("two")
    assert panel.engine.history[-1][1].max_tokens == 512


def test_the_panel_of_a_cell_stops_its_answer_and_opens_the_whole_conversation(panel: Panel) -> None:
    """Opened, it is the conversation's panel: the cell's own handler acts no more."""
    from vlm_magic.outputs.panel import ChatPanel

    widget = ChatPanel("cell")
    desks: list[ChatDesk] = []

    def make_desk(shown: Any) -> ChatDesk:
        shell = SimpleNamespace(user_ns={})
        desks.append(ChatDesk(shell, panel.workspace, panel.session, panel=shown))
        return desks[-1]

    panel.engine.seconds_per_token = 0.01
    panel.engine.enqueue("word " * 500)
    cell = CellPanel(panel.workspace, panel.session, make_desk)
    answer = panel.session.start(["one"])
    cell.serve(answer, SimpleNamespace(panel=widget))  # type: ignore[arg-type]
    cell.act({"kind": "stop", "exchange": answer.exchange.id})
    reply = answer.wait(10)
    assert reply is not None
    assert reply.finish_reason == "interrupted"
    cell.act({"kind": "open", "exchange": answer.exchange.id})
    assert [desk.view.panel for desk in desks] == [widget]
    assert widget.kind == "chat"
    cell.act({"kind": "open", "exchange": answer.exchange.id})
    assert len(desks) == 1
