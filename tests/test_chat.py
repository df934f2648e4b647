"""What a person does in the panel, without a browser: the desk, a real conversation, a scripted engine."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from vlm_magic.errors import (
    ConversationError,
    ExpressionError,
    GenerationError,
    PictureNotFoundError,
    VLMError,
)
from vlm_magic.messages import Picture, Text, Turn
from vlm_magic.outputs.panel.composer import Typed
from vlm_magic.shell.cell_panel import CellPanel
from vlm_magic.shell.chat import ChatController
from vlm_magic.shell.panels.menu import first_questions
from vlm_magic.testing import ScriptedEngine
from vlm_magic.workspace import Workspace


class Panel:
    """A person at a desk."""

    def __init__(self, **names: Any) -> None:
        self.engine = ScriptedEngine()
        self.workspace = Workspace()
        self.workspace.models.add("fake", self.engine)
        self.session = self.workspace.conversations.session("main")
        self.desk = ChatController(SimpleNamespace(user_ns=names), self.workspace, self.session)
        self.desk.open()

    def act(self, kind: str, **more: Any) -> None:
        self.desk._act({"kind": kind, **more})

    def send(self, *parts: Any) -> None:
        self.act("send", parts=tuple(Typed(p) if isinstance(p, str) else p for p in parts))

    @property
    def answers(self) -> list[str]:
        return [e.reply.text for e in self.session.conversation if e.reply]

    def until(self, condition: Callable[[], bool], timeout_s: float = 10) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not come to that"
            time.sleep(0.005)

    def ask(self, *parts: Any, within_s: float = 10) -> str:
        """Send and wait; the new turn's id."""
        n = len(self.answers)
        self.send(*parts)
        self.until(lambda: len(self.answers) > n, within_s)
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
    (first,) = panel.desk.questions._asked
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


def test_an_edit_looks_up_what_was_typed_and_its_answers_keep_their_questions(panel: Panel) -> None:
    """An earlier answer that is used again brings the question that it answered."""
    first = panel.ask("one")
    panel.engine.enqueue("edited answer", "a third")
    panel.act("edit", exchange=first, parts=(Text("{cat} as a word, and "), Typed("{cat}")))
    panel.until(lambda: panel.answers[0] == "edited answer")
    (turn,) = panel.session.conversation.exchanges
    assert [p.name if isinstance(p, Picture) else p.text for p in turn.parts] == [
        "{cat} as a word, and ",
        "cat",
    ]
    assert [reply.asked for reply in turn.alternatives] == [(Text("one"),)]
    panel.act("regenerate", exchange=turn.id, temperature=0.7)
    panel.until(lambda: panel.answers[0] == "a third")
    assert panel.engine.history[-1][1].temperature == 0.7, "what was offered"
    (turn,) = panel.session.conversation.exchanges
    edited = turn.parts
    assert [reply.asked for reply in turn.alternatives] == [(Text("one"),), ()]
    panel.act("choose", exchange=turn.id, alternative=0)
    assert (turn.parts, turn.reply and turn.reply.asked) == ((Text("one"),), ())
    assert [reply.asked for reply in turn.alternatives] == [edited, edited]
    panel.act("choose", exchange=turn.id, alternative=1)
    assert turn.parts == edited
    assert [reply.asked for reply in turn.alternatives] == [(), (Text("one"),)]


def test_an_answer_that_was_cut_off_is_gone_on_with_in_its_place(panel: Panel) -> None:
    """In the panel of the whole conversation; the settings of the form do not matter to it."""
    panel.engine.enqueue("one two three four five six", "later")
    panel.act("settings", values={"max_tokens": 2})
    first = panel.ask("count")
    panel.act("settings", values={"max_tokens": 512})
    panel.ask("and?")
    shown = panel.desk.view.panel
    panel.act("continue", exchange=first)
    panel.until(lambda: panel.answers[0] == "one two three four")
    turns = panel.session.conversation.exchanges
    assert [turn.is_stale for turn in turns] == [False, True]
    assert turns[0].alternatives == []
    with pytest.raises(ConversationError, match="end by itself"):
        panel.act("continue", exchange=turns[1].id)
    assert shown is None, "this person has no page"


def test_a_question_before_any_model_is_shown_at_once_while_the_starter_loads(panel: Panel) -> None:
    """The real starter; a second question waits with it, and one that is stopped meanwhile is not asked."""
    panel.workspace.models.unload("fake")
    shown: list[list[tuple[str, str]]] = []
    view = panel.desk.view

    def remember(exchange: Any, progress: Any) -> None:
        shown.append([(exchange.parts[0].text, progress.stage)])

    view.progress = remember  # type: ignore[method-assign]
    panel.act("send", parts=(Typed("first"),))
    assert shown[0] == [("first", "load")]
    panel.act("send", parts=(Typed("second"),))
    panel.act("send", parts=(Typed("third"),))
    waiting = panel.desk.questions.of(panel.session)
    if waiting:  # else the starter was there already
        panel.act("stop", exchange=waiting[-1].id)
    panel.until(lambda: len(panel.answers) >= 2, 60)
    asked = [turn.parts[0].text for turn in panel.session.conversation]  # type: ignore[union-attr]
    assert asked[:2] == ["first", "second"]
    assert not waiting or len(asked) == 2


def test_a_load_that_nobody_waits_for_any_more_ends(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only question is stopped: the starter does not come unasked, and the next one brings it."""
    models = panel.workspace.models
    models.unload("fake")
    ended: list[BaseException] = []
    load = models.load

    def load_after_the_stop(*args: Any, **options: Any) -> Any:
        (draft,) = panel.desk.questions.of(panel.session)
        if not ended:
            panel.act("stop", exchange=draft.id)
        try:
            return load(*args, **options)
        except BaseException as error:
            ended.append(error)
            raise

    monkeypatch.setattr(models, "load", load_after_the_stop)
    panel.act("send", parts=(Typed("first"),))
    panel.until(lambda: bool(ended), 60)
    assert "was stopped" in str(ended[0])
    assert list(models.engines) == []
    panel.act("send", parts=(Typed("second"),))
    panel.until(lambda: len(panel.answers) == 1, 60)
    assert list(models.engines) == ["starter"]


@pytest.fixture
def died(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What ended threads, as Python tells it at the end of one."""
    ends: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda end: ends.append(end.exc_value))
    return ends


def test_a_bug_in_an_answer_is_said_in_its_turn_and_the_next_question_is_answered(
    panel: Panel, died: list[BaseException | None]
) -> None:
    """A turn must not wait for ever because a thread has died; the traceback is Python's to show."""
    failed: list[str] = []
    panel.desk.view.fail = lambda exchange, words: failed.append(words)  # type: ignore[method-assign]
    panel.engine.enqueue(RuntimeError("shapes differ"), "fine")
    panel.send("one")
    panel.until(lambda: bool(died))
    assert failed == ["RuntimeError: shapes differ"]
    assert panel.desk.questions.of(panel.session) == []
    panel.ask("two")
    assert panel.answers == ["fine"]


def test_a_bug_in_a_load_is_said_to_all_who_wait_and_the_next_question_loads_anew(
    panel: Panel, died: list[BaseException | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    panel.workspace.models.unload("fake")
    failed: list[str] = []
    panel.desk.view.fail = lambda exchange, words: failed.append(words)  # type: ignore[method-assign]
    with monkeypatch.context() as patch:
        patch.setattr(panel.workspace.models, "load", lambda *_args, **_options: 1 // 0)
        panel.send("one")
        panel.until(lambda: bool(died))
    assert failed == ["ZeroDivisionError: integer division or modulo by zero"]
    panel.ask("two", within_s=60)
    assert len(panel.answers) == 1


def test_an_edit_keeps_the_form_of_the_question(panel: Panel) -> None:
    """What it chooses among and how, and the examples before it; the settings form does not draw them."""
    engine = ScriptedEngine(log_probabilities={"yes": -1.0, "no": -2.0})
    panel.workspace.models.add("chooses", engine)
    shots = (Turn("user", (Text("ripe?"),)), Turn("assistant", (Text("yes"),)))
    asked = {"choices": ("yes", "no"), "normalize": "length"}
    panel.session.start(["good?"], examples=shots, **asked).wait(10)
    (turn,) = panel.session.conversation.exchanges
    panel.act("settings", values={"temperature": 0.7})
    panel.act("edit", exchange=turn.id, parts=(Text("bad?"),))
    panel.until(lambda: panel.session.conversation.exchanges[0].parts == (Text("bad?"),))
    shown, settings = engine.history[-1]
    assert [t.text for t in shown] == ["ripe?", "yes", "bad?"]
    assert (settings.choices, settings.normalize, settings.temperature) == (("yes", "no"), "length", None)
    panel.act("edit", exchange=panel.ask("free"), parts=(Text("freer"),))
    panel.until(lambda: panel.answers[-1] == "freer")
    assert engine.history[-1][1].temperature == 0.7, "a question without choices is drawn as the form says"


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
    from vlm_magic.outputs.panel.widget import ChatPanel

    widget = ChatPanel("cell")
    desks: list[ChatController] = []

    def make_desk(shown: Any) -> ChatController:
        shell = SimpleNamespace(user_ns={})
        desks.append(ChatController(shell, panel.workspace, panel.session, panel=shown))
        return desks[-1]

    panel.engine.seconds_per_token = 0.01
    panel.engine.enqueue("word " * 500)
    cell = CellPanel(panel.workspace, panel.session, make_desk)
    answer = panel.session.start(["one"])
    cell.serve(answer, SimpleNamespace(panel=widget))  # type: ignore[arg-type]
    cell.act({"kind": "stop", "exchange": "main-0"})
    assert answer.wait(0.1) is None, "a click that was meant for another answer ends nothing"
    cell.act({"kind": "stop", "exchange": answer.exchange.id})
    reply = answer.wait(10)
    assert reply is not None
    assert reply.finish_reason == "interrupted"
    cell.act({"kind": "open", "exchange": answer.exchange.id})
    assert [desk.view.panel for desk in desks] == [widget]
    assert widget.kind == "chat"
    cell.act({"kind": "open", "exchange": answer.exchange.id})
    assert len(desks) == 1


def test_the_whole_conversation_can_be_left_again(panel: Panel) -> None:
    """The panel shows its cell's turn alone; an answer under way comes to the conversation, not to it."""
    from vlm_magic.outputs.panel.widget import ChatPanel

    desks: list[ChatController] = []

    def make_desk(shown: Any) -> ChatController:
        desks.append(ChatController(SimpleNamespace(user_ns={}), panel.workspace, panel.session, panel=shown))
        return desks[-1]

    cell = CellPanel(panel.workspace, panel.session, make_desk)
    widget = ChatPanel("cell")
    widget.on_action(cell.act, CellPanel.actions)
    answer = panel.session.start(["one"])
    cell.serve(answer, SimpleNamespace(panel=widget))  # type: ignore[arg-type]
    answer.wait(10)
    panel.ask("two")
    for n in (1, 2):  # as often as one likes
        widget._act({"kind": "open", "exchange": answer.exchange.id})
        assert (widget.kind, len(widget.snapshot())) == ("chat", 1 + n)
        panel.engine.seconds_per_token = 0.05
        panel.engine.enqueue("a b c d e f")
        n_before = len(panel.session.conversation)
        widget._act({"kind": "send", "parts": (Typed("three"),)})
        widget._act({"kind": "leave"})
        assert widget.kind == "cell"
        assert widget.abilities == sorted(cell.actions_with(panel.engine))
        panel.until(lambda n=n_before: len(panel.session.conversation) > n)  # type: ignore[misc]
        panel.until(lambda: not desks[-1].questions.of(panel.session))
        assert [turn["id"] for turn in widget.snapshot()] == [answer.exchange.id]
    assert len(desks) == 2
    widget._act({"kind": "open", "exchange": answer.exchange.id})
    panel.session.conversation.remove(answer.exchange.id)
    with pytest.raises(ConversationError, match="deleted"):
        widget._act({"kind": "leave"})
    assert widget.kind == "chat"


def test_a_question_that_failed_is_still_marked_when_the_conversation_is_left(panel: Panel) -> None:
    from vlm_magic.outputs.panel.widget import ChatPanel

    panel.engine.enqueue(GenerationError("the model is ill"))
    widget = ChatPanel("cell")
    cell = CellPanel(
        panel.workspace,
        panel.session,
        lambda shown: ChatController(
            SimpleNamespace(user_ns={}), panel.workspace, panel.session, panel=shown
        ),
    )
    widget.on_action(cell.act, CellPanel.actions)
    answer = panel.session.start(["one"])
    cell.serve(answer, SimpleNamespace(panel=widget))  # type: ignore[arg-type]
    with pytest.raises(GenerationError):
        answer.wait(10)
    widget._act({"kind": "open", "exchange": answer.exchange.id})
    widget._act({"kind": "leave"})
    assert [(turn["id"], turn["state"]) for turn in widget.snapshot()] == [(answer.exchange.id, "failed")]


def test_a_cells_panel_names_its_conversation_where_there_are_several(panel: Panel) -> None:
    """Those that stand there already, too."""
    from vlm_magic.outputs.panel.widget import ChatPanel

    widgets = []
    for name in ("main", "other"):
        session = panel.workspace.conversations.session(name)
        cell = CellPanel(panel.workspace, session, lambda _: None)  # type: ignore[arg-type, return-value]
        widgets.append(ChatPanel("cell", title=cell.title))
        answer = session.start(["one"], key=(f"several-{name}", 0))
        cell.serve(answer, SimpleNamespace(panel=widgets[-1]))  # type: ignore[arg-type]
        answer.wait(10)
        assert [w.title for w in widgets] == (
            [""] if name == "main" else ["Conversation main", "Conversation other"]
        )


def test_deleting_a_turn_or_all_can_be_undone_until_something_else_is_done(panel: Panel) -> None:
    """Turns, their marks and their order are as before; a question that came since stays."""
    first, _ = panel.ask("one"), panel.ask("two")
    offers: list[str] = []
    panel.desk.view.offer = offers.append  # type: ignore[method-assign]
    panel.act("delete", exchange=first)
    assert (panel.answers, offers) == (["two"], ["1 turn deleted."])
    assert panel.session.conversation.exchanges[0].is_stale
    panel.act("restore")
    assert (panel.answers, offers[-1]) == (["one", "two"], "")
    assert not panel.session.conversation.exchanges[1].is_stale
    panel.act("clear")
    assert (panel.answers, offers[-1]) == ([], "2 turns deleted.")
    panel.session.start(["of a cell"]).wait(10)
    panel.act("restore")
    assert panel.answers == ["one", "two", "of a cell"]
    assert [turn.place for turn in panel.session.conversation] == [1, 2, 3]
    panel.act("clear")
    panel.ask("new")
    panel.act("restore")
    assert panel.answers == ["new"], "too late"


def test_conversations_are_entered_begun_and_renamed_in_the_panel(panel: Panel) -> None:
    """Answers under way are answered where they were asked; cells keep their conversation."""
    conversations, menu = panel.workspace.conversations, panel.desk._menu
    panel.engine.seconds_per_token = 0.01
    panel.engine.enqueue("word " * 30, "in the new one")
    panel.send("in main")
    panel.until(panel.engine.started.is_set)
    panel.act("new")
    panel.send("in chat")
    chat = conversations.known_session("chat 1").conversation
    panel.until(lambda: len(chat) == 1)
    assert panel.answers == ["word " * 30], "it went on where it was asked"
    assert [turn.text for turn in panel.engine.history[-1][0]] == ["in chat"], "a conversation of its own"
    panel.act("rename", value="  my   cats ")
    assert list(conversations.sessions) == ["main", "my cats"]
    assert menu.state(conversations.session("my cats"))["conversations"] == [
        {"name": "main", "note": "1 turn"},
        {"name": "my cats", "note": "1 turn"},
    ]
    assert conversations.session_for(("cell", 0)).conversation.name == "main"
    panel.act("enter", value="main")
    panel.ask("again in main")
    assert [turn.text for turn in panel.engine.history[-1][0]][::2] == ["in main", "again in main"]
    for taken in ("my cats", "main 2", " "):
        with pytest.raises(ConversationError):
            panel.act("rename", value=taken)
    panel.session.conversation.exchanges[0].key = ("cell", 0)
    with pytest.raises(ConversationError, match="turns of cells"):
        panel.act("rename", value="dogs")


def test_a_resident_model_is_chosen_for_later_questions(panel: Panel) -> None:
    """In the panel and in cells alike; exports go to a file that is not there yet."""
    panel.workspace.models.add("other", ScriptedEngine("from the other"))
    panel.act("use", value="fake")
    panel.ask("one")
    panel.act("use", value="other")
    panel.ask("two")
    assert panel.answers == ["one", "from the other"]
    assert panel.desk._menu.state(panel.session)["model"] == "other"
    with pytest.raises(VLMError):
        panel.act("use", value="nobody")


def test_an_export_from_the_panel_writes_over_nothing(
    panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    panel.ask("one {cat}")
    said: list[str] = []
    panel.desk.view.remark = said.append  # type: ignore[method-assign]
    for ending in (".md", ".md", ".html", ".ipynb"):
        panel.act("export", value=ending)
    assert said[:2] == ["conversation 'main' is in main.md", "conversation 'main' is in main 2.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "main 2.md",
        "main.html",
        "main.ipynb",
        "main.md",
    ]


def test_a_question_that_waits_is_taken_back_without_a_trace(panel: Panel) -> None:
    """One that is being answered is stopped, its words kept."""
    panel.engine.seconds_per_token = 0.01
    panel.engine.enqueue("word " * 500, "third")
    for words in ("one", "two", "three"):
        panel.send(words)
    panel.until(panel.engine.started.is_set)
    first, second, _ = (exchange.id for exchange in panel.desk.questions.of(panel.session))
    panel.act("cancel", exchange=second)
    assert [e.parts[0].text for e in panel.desk.questions.of(panel.session)] == ["one", "three"]  # type: ignore[union-attr]
    panel.until(lambda: bool(panel.desk.questions._asked[first].said))
    panel.act("cancel", exchange=first)
    panel.until(lambda: len(panel.answers) == 2)
    turns = panel.session.conversation.exchanges
    assert [turn.parts[0].text for turn in turns] == ["one", "three"]  # type: ignore[union-attr]
    assert [turn.reply.finish_reason for turn in turns] == ["interrupted", "stop"]  # type: ignore[union-attr]


def test_a_figure_and_its_axes_are_one_picture_to_ask_about() -> None:
    """``fig, ax = plt.subplots()``: nothing changed between these two."""
    figure = Figure()
    names = {"fig": figure, "ax": figure.subplots()}
    assert first_questions(names) == ["What is in {fig}?", "Describe {fig} in one sentence."]
    assert first_questions({"ax": names["ax"]})[0] == "What is in {ax}?"


@pytest.mark.parametrize(
    ("names", "questions"),
    [
        ({"x": 3, "photos": [Image.new("RGB", (4, 4))] * 2}, ["What is in this picture?"]),
        ({"cat": Image.new("RGB", (4, 4)), "x": 1}, ["What is in {cat}?", "Describe {cat} in one sentence."]),
        (
            {"a": Image.new("RGB", (4, 4)), "b": Image.new("RGB", (4, 4)), "_c": Image.new("RGB", (4, 4))},
            ["What is in {b}?", "What changed between {a} and {b}?"],
        ),
    ],
)
def test_first_questions_fit_what_the_notebook_holds(names: dict[str, Any], questions: list[str]) -> None:
    found = first_questions(names)
    assert found[: len(questions)] == questions
    assert len(found) in (2, 3)
