"""The panel's kernel side: what it sends, what it accepts, what it keeps; without a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from panel_scenes import RICH, picture, question, reply, thumbnail
from PIL import Image
from published import Published

from vlm_magic.inputs.pictures import to_picture
from vlm_magic.messages import Chunk, Exchange, Picture, Progress, Text
from vlm_magic.outputs.answer_views import AnswerView, PanelView, PlainView, TerminalView, choose_view
from vlm_magic.outputs.chat import ChatView
from vlm_magic.outputs.markdown.html import to_html
from vlm_magic.outputs.panel.composer import Typed, marked_text, parts_of_draft, split_marks
from vlm_magic.outputs.panel.page import packed_page, page_code, page_style
from vlm_magic.outputs.panel.shown_pictures import part_of
from vlm_magic.outputs.panel.stream import AnswerStream
from vlm_magic.outputs.panel.widget import ChatPanel


class Heard(ChatPanel):
    """A panel whose messages to the page are kept."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        super().__init__(*args, **options)

    def send(self, content: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self.sent.append({**content, "buffers": buffers})

    def hear(self, content: dict[str, Any], *buffers: bytes) -> None:
        """As if the page had sent this."""
        self._handle_custom_msg(content, list(buffers))

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["type"] == kind]


def replayed(messages: list[dict[str, Any]]) -> str:
    """The text that a page would hold after these updates, finished blocks as HTML."""
    html, text = "", ""
    for n, message in enumerate(messages, start=1):
        assert message["seq"] == n
        if "html" in message:
            html, text = html + message["html"], message["text"]
        else:
            text += message["text"]
    return html + text


def test_its_text_is_a_constant_and_its_output_is_the_widget_alone(published: Published) -> None:
    panel = ChatPanel()
    panel.show()
    assert repr(panel) == "vlm chat panel"
    assert list(published.outputs[0][0]) == ["application/vnd.jupyter.widget-view+json"]


def test_the_page_is_one_module_that_asks_nobody_for_anything() -> None:
    code, style = page_code(), page_style()
    assert "import " not in "".join(
        line for line in code.splitlines() if not line.strip().startswith(("//", "*"))
    )
    assert code.count("export ") == 1
    for text in (code, style):
        assert "https://" not in text
        assert "http://www.w3.org/2000/svg" in text or "http://" not in text
    assert "url(" not in style


def test_a_panel_carries_its_page_deflated() -> None:
    """What is packed is the page's code and style, and a third of their size."""
    packed = packed_page()
    [words] = re.findall(r'PACKED = "([^"]+)"', packed)
    assert json.loads(zlib.decompress(base64.b64decode(words))) == {
        "code": page_code(),
        "style": page_style(),
    }
    assert len(packed) < 0.45 * len(page_code() + page_style())
    assert ChatPanel().get_state("_esm") == {"_esm": packed}
    assert "https://" not in packed


def test_the_page_assumes_nothing_that_a_front_end_may_lack() -> None:
    """VS Code and Colab have no Jupyter application, no kernel on the widget manager, other colours."""
    code, style = page_code(), page_style()
    lacking = r"\bwindow\.|jupyterapp|jupyterlab|requirejs|require\(|localStorage|fetch\(|import\(|eval\("
    assert re.findall(lacking, code) == []
    managers = re.findall(r"widget_manager(.{2})", code)
    assert managers
    assert set(managers) == {"?."}, "it may be missing"
    assert set(re.findall(r"from \"([^\"]*)\"", code)) == set()
    bare = re.findall(r"(?<!, )(?<!\bin )var\(--(?:jp|vscode)[\w-]*\)", style)
    assert bare == [], "each colour of a front-end has one to fall back on"
    assert style.count("animation:") - 1 == style.count("animation: vlm-pulse"), "and one rule that ends it"
    assert "prefers-reduced-motion: reduce" in style


def test_an_answer_arrives_whole_in_few_updates() -> None:
    panel = Heard()
    exchange = question()
    panel.show_exchange(exchange)
    for n, word in enumerate(RICH.split(" ")):
        panel.push(exchange.id, Chunk(word if n == 0 else f" {word}", n + 1))
    exchange.reply = reply(RICH)
    panel.finish(exchange.id, exchange)
    deltas = panel.of_type("delta")
    assert 1 <= len(deltas) <= 5, "words that come at once leave together"
    assert "<table>" in replayed(deltas)
    last = panel.of_type("turn")[-1]
    streamed = "".join(delta.get("html", "") for delta in deltas)
    assert last["turn"]["state"] == "done"
    assert streamed + last["rest"] == to_html(RICH), "only what the page does not have yet is sent"
    assert panel.snapshot()[0]["answer"] == to_html(RICH)


def test_an_answer_that_reads_otherwise_as_a_whole_is_sent_whole() -> None:
    panel, exchange = Heard(), question()
    text = "See [the docs][d].\n\nMore.\n\n[d]: https://example.org/x"
    panel.show_exchange(exchange)
    panel.push(exchange.id, Chunk(text, 9))
    exchange.reply = reply(text)
    panel.finish(exchange.id, exchange)
    last = panel.of_type("turn")[-1]
    assert "rest" not in last
    assert "https://example.org/x" in last["turn"]["answer"]


def test_words_leave_at_most_fifteen_times_a_second_and_none_is_lost() -> None:
    updates: list[tuple[float, dict[str, Any]]] = []
    stream = AnswerStream(lambda update: updates.append((time.monotonic(), update)))
    began = time.monotonic()
    for n in range(200):
        stream.push(f"w{n} ", n)
        time.sleep(0.002)
    stream.close()
    took = time.monotonic() - began
    assert replayed([update for _, update in updates]) == "".join(f"w{n} " for n in range(200))
    assert len(updates) <= took * 15 + 2
    assert updates[0][0] - began < 0.1, "the first words leave at once"


def test_showing_costs_in_proportion_to_the_text() -> None:
    def cost(n_blocks: int) -> tuple[int, float]:
        sizes: list[int] = []
        stream = AnswerStream(lambda update: sizes.append(sum(len(str(v)) for v in update.values())), 0.0)
        began = time.process_time()
        for n in range(n_blocks * 20):
            stream.push("word " if n % 20 else "\n\nword ")
            if n % 10 == 0:
                stream._flush()
        stream.close()
        return sum(sizes), time.process_time() - began

    cost(10)
    (bytes_1, cpu_1), (bytes_4, cpu_4) = cost(100), cost(400)
    assert bytes_4 < bytes_1 * 5
    assert cpu_4 < cpu_1 * 8 + 0.1


def test_many_threads_may_push() -> None:
    got: list[dict[str, Any]] = []
    stream = AnswerStream(got.append, 0.001)
    threads = [
        threading.Thread(target=lambda name=name: [stream.push(name) for _ in range(500)]) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream.close()
    assert sorted(replayed(got)) == sorted("abcd" * 500)


def test_a_late_page_gets_everything_so_far() -> None:
    panel = Heard()
    exchange = question()
    panel.show_exchange(exchange)
    panel.push(exchange.id, Chunk("First block.\n\nSecond", 4))
    time.sleep(0.2)
    panel.hear({"type": "ready", "known": []})
    assert panel.alive.is_set()
    (turns,) = panel.of_type("turns")
    stream = turns["turns"][0]["stream"]
    assert (stream["html"], stream["text"]) == ("<p>First block.</p>\n", "Second")
    assert panel.get_state()["turns"][0]["stream"]["seq"] == stream["seq"]


def test_a_page_that_is_up_to_date_gets_nothing_again() -> None:
    panel = Heard(exchanges=[question()])
    panel.hear({"type": "ready", "known": [["x1", "waiting"]]})
    assert panel.sent == []
    assert panel.get_state()["turns"][0]["question"].startswith(
        '<div class="vlm-words" dir="auto">What changed'
    )


def test_a_remark_waits_for_the_page() -> None:
    """What is said before the page has the model is said again when it is ready; an action ends it."""
    panel = Heard("chat")
    panel.on_action(lambda _: None, ("clear",))
    panel.notify("3 turns are back", is_error=False)
    panel.hear({"type": "ready", "known": []})
    assert panel.of_type("notice")[1:] == [
        {"type": "notice", "text": "3 turns are back", "is_error": False, "buffers": None}
    ]
    panel.hear({"type": "act", "kind": "clear"})
    panel.hear({"type": "ready", "known": []})
    assert len(panel.of_type("notice")) == 2


def test_stop_names_its_answer_and_is_acknowledged() -> None:
    panel, actions = Heard(), []
    panel.on_action(actions.append)
    panel.hear({"type": "stop", "id": "x7"})
    assert actions == [{"kind": "stop", "exchange": "x7"}]
    assert panel.of_type("ack")[0]["id"] == "x7"


def test_waiting_is_said_once_per_change_and_not_after_words_came() -> None:
    panel, exchange = Heard(), question()
    panel.show_exchange(exchange)
    for _ in range(3):
        panel.progress(exchange.id, Progress("queued", 2))
    panel.progress(exchange.id, Progress("prefill", 1, 4))
    panel.push(exchange.id, Chunk("x", 1))
    panel.progress(exchange.id, Progress("prefill", 4, 4))
    words = [message["text"] for message in panel.of_type("progress")]
    assert words == ["Waiting for 2 answers before this one", "Reading the prompt (25 %)"]
    panel.fail(exchange.id)
    assert panel.snapshot()[0]["state"] == "failed"


def test_words_for_unknown_or_finished_answers_are_dropped() -> None:
    panel, exchange = Heard(), question()
    panel.push("nobody", Chunk("x"))
    exchange.reply = reply("done")
    panel.show_exchange(exchange)
    panel.push(exchange.id, Chunk("x"))
    time.sleep(0.1)
    assert panel.of_type("delta") == []


def test_a_click_on_a_thumbnail_brings_the_full_picture() -> None:
    panel = Heard(exchanges=[question(1, picture(size=(4000, 1000)))], thumbnail=thumbnail)
    panel.hear({"type": "picture", "id": "x1", "index": 0})
    (message,) = panel.of_type("picture")
    sent = Image.open(io.BytesIO(message["buffers"][0]))
    assert (sent.format, sent.size) == ("PNG", (2048, 512)), "no larger than a screen shows"
    for index in (-1, 1, 99):
        panel.hear({"type": "picture", "id": "x1", "index": index})
    assert len(panel.of_type("picture")) == 1


def test_a_marked_part_is_cut_out_of_the_full_picture() -> None:
    """Its name says where it lies, rows first; where no pixel lies in it there is no picture."""
    exchange = question(1, picture("scene", size=(4000, 1000)))
    panel, actions = Heard("chat", exchanges=[exchange]), []
    panel.on_action(actions.append, ("send",))
    marks = [
        {"n": 1, "of": ["x1", 0]},
        {"n": 2, "of": ["x1", 0], "region": [3900, 10, 500, 20.4]},
        {"n": 3, "of": ["x1", 0], "region": [4000, 10, 5, 5]},
        {"n": 4, "of": ["nobody", 0]},
        {"n": 5, "of": ["x1", 0], "region": ["a", None, 5, 5]},
    ]
    text = "".join(f"«picture {n}»" for n in range(1, 6))
    panel.hear({"type": "act", "kind": "send", "text": text, "pictures": marks})
    whole, part, *rest = actions[0]["parts"]
    assert whole is exchange.pictures[0]
    assert rest == [Typed("«picture 3»«picture 4»«picture 5»")]
    cut = to_picture(part)
    assert cut.name == "scene[10:30, 3900:4000]"
    box = (3900, 10, 4000, 30)
    assert cut.rgb.tobytes() == exchange.pictures[0].rgb.crop(box).tobytes()
    again = part_of(cut, [1, 2, 3, 4])
    assert again is not None
    assert again.name == "scene[12:16, 3901:3904]"


def test_a_caption_says_what_its_picture_cost() -> None:
    """As soon as the answer tells: the pictures of the question are the last of its prompt."""
    exchange = question()

    def caption(turn: dict[str, Any]) -> str:
        return re.sub(r"<[^>]*>", "", turn["question"])

    assert "(picture 1: before, 640×480 px)" in caption(
        ChatPanel(exchanges=[exchange], thumbnail=thumbnail).snapshot()[0]
    )
    exchange.reply = reply("They differ.", picture_tokens=(7, 64, 81))
    turn = ChatPanel(exchanges=[exchange], thumbnail=thumbnail).snapshot()[0]
    assert "(picture 1: before, 640×480 px, 64 tokens)" in caption(turn)
    assert "(picture 2: after, 640×480 px, 81 tokens)" in caption(turn)
    assert turn["question_text"].startswith("What changed between [picture: before, 640×480 px, 64 tokens]")
    exchange.reply = reply("They differ.", picture_tokens=(7,))
    assert exchange.picture_tokens == (), "figures of another prompt are nobody's"


def test_a_sent_message_has_its_pictures_in_their_place() -> None:
    panel, actions = Heard("chat"), []
    panel.on_action(actions.append, ("send",))
    message = {"type": "act", "kind": "send", "draft": 3, "text": "Is «picture 2» like {cat}?"}
    panel.hear({**message, "pictures": [{"n": 2, "name": "dog.png"}]}, b"PNGDATA")
    before, shown, after = actions[0]["parts"]
    assert (before.text, after.text) == ("Is ", " like {cat}?")
    assert (shown.source, shown.name) == (b"PNGDATA", "dog.png")


def test_a_message_that_cannot_be_taken_goes_back_with_the_reason() -> None:
    panel = Heard("chat")

    def refuse(_: object) -> None:
        raise LookupError("no variable 'catt'")

    panel.on_action(refuse, ("send", "edit"))
    panel.hear({"type": "act", "kind": "send", "draft": 3, "text": "{catt}", "pictures": []})
    (message,) = panel.of_type("refused")
    assert (message["draft"], message["text"]) == (3, "LookupError: no variable 'catt'")
    panel.hear({"type": "act", "kind": "edit", "id": "x1", "text": "y"})
    assert len(panel.of_type("refused")) == 2


def test_actions_that_nobody_handles_are_not_passed_on() -> None:
    panel, actions = Heard("chat"), []
    panel.on_action(actions.append, ("send",))
    panel.hear({"type": "act", "kind": "clear"})
    assert actions == []
    assert panel.abilities == ["send", "stop"]


def test_an_edit_keeps_the_pictures_and_words_that_stood_there_and_looks_up_what_was_typed() -> None:
    exchange = question(1, Text("Say {braces} of "), picture(), Text(" and "), picture("after"), Text("?"))
    panel, actions = Heard("chat", exchanges=[exchange]), []
    panel.on_action(actions.append, ("edit",))
    assert panel.snapshot()[0]["source"] == "Say {braces} of «picture 1» and «picture 2»?"
    kept = [{"n": 1, "name": "before", "kept": 0}, {"n": 2, "kept": 1}, {"n": 3, "name": "new"}]
    asked = {"type": "act", "kind": "edit", "id": "x1", "pictures": kept}
    panel._handle_custom_msg(
        {**asked, "text": "Say {braces} of {cat} «picture 2», «picture 3» «picture 9»?"}, [b"x"]
    )
    *words, last = actions[0]["parts"]
    assert words[:2] == [Text("Say {braces} of "), Typed("{cat} ")]
    assert words[2] is exchange.pictures[1]
    assert words[3] == Typed(", ")
    assert (words[4].name, words[4].source) == ("new", b"x")
    assert (words[5], last) == (Typed(" «picture 9»"), Text("?"))


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("ab «picture 1» cd", ""),
        ("ab «picture 1» X cd", "X "),
        ("«picture 1» cd", ""),
        ("ab cd", ""),
        ("ab «picture 2» cd", "«picture 2»"),
        ("ab «picture 1» «picture 1» cd", ""),
        ("other", "other"),
    ],
)
def test_what_an_edit_changed_is_typed_and_no_mark_is_cut_in_two(text: str, typed: str) -> None:
    marks = [{"n": 1, "kept": 0}]
    parts = parts_of_draft(text, marks, [], [picture()], before="ab «picture 1» cd")
    assert "".join(part.text for part in parts if isinstance(part, Typed)).strip() == typed.strip()
    shown = "".join("«picture 1»" if isinstance(part, Picture) else part.text for part in parts)
    assert shown == text


def test_names_of_variables_are_offered_in_bounds() -> None:
    panel = Heard("chat")
    panel.hear({"type": "complete", "prefix": "c", "ticket": 1})
    panel.completer = lambda prefix: (f"{prefix}{n}" for n in range(1000))
    panel.hear({"type": "complete", "prefix": "c", "ticket": 2})
    first, second = panel.of_type("completions")
    assert first["names"] == []
    assert (second["ticket"], len(second["names"])) == (2, 50)


def test_earlier_answers_come_along_with_how_they_ended() -> None:
    exchange = question()
    exchange.alternatives = [reply("older", "interrupted")]
    exchange.reply = reply("newer")
    turn = ChatPanel(exchanges=[exchange]).snapshot()[0]
    assert turn["alternatives"][0]["badges"] == ["stopped"]
    assert turn["badges"] == []


def test_a_conversation_replaces_what_was_shown_and_keeps_answers_under_way() -> None:
    panel, exchange = Heard(), question()
    panel.show_exchange(exchange)
    panel.push(exchange.id, Chunk("words", 1))
    other = Exchange("y", (Text("before"),), reply=reply("done"))
    panel.set_conversation([other, exchange])
    assert [turn["state"] for turn in panel.snapshot()] == ["done", "streaming"]
    panel.set_conversation([other])
    assert [turn["id"] for turn in panel.snapshot()] == ["y"]
    panel.finish(exchange.id, exchange)


def test_a_change_of_one_turn_sends_one_turn() -> None:
    turns = [Exchange(f"e{n}", (Text(f"q{n}"),), reply=reply(f"a{n}")) for n in range(50)]
    panel = Heard("chat")
    panel.set_conversation(turns)
    turns[7].is_stale = True
    panel.set_conversation(turns)
    panel.set_conversation([turn for turn in turns if turn.id != "e3"])
    first, second, third = panel.of_type("sync")
    assert (len(first["turns"]), [turn["id"] for turn in second["turns"]], third["turns"]) == (50, ["e7"], [])
    assert "e3" not in third["order"]


def test_a_cells_panel_can_become_the_whole_conversation() -> None:
    cell = Heard("cell", exchanges=[question()], blocking=True)
    view = ChatView("main", panel=cell, on_action=lambda _: None)
    view.show([question(1), question(2)])
    assert (cell.kind, cell.title, cell.blocking) == ("chat", "Conversation main", False)
    assert "send" in cell.abilities
    assert [turn["id"] for turn in cell.snapshot()] == ["x1", "x2"]


@pytest.mark.parametrize("text", ["", "only text", "«picture 1»", "a «picture 1» b «picture 1» «picture 0»"])
def test_marks_and_parts_are_two_forms_of_the_same(text: str) -> None:
    shown = Picture("p", name="p")
    parts = split_marks(text, {1: shown})
    assert sum(part is shown for part in parts) == text.count("«picture 1»")
    assert (
        "".join(p.text for p in parts if isinstance(p, Text)).strip()
        == text.replace("«picture 1»", "").strip()
    )
    assert marked_text(split_marks("x «picture 1» y", {1: shown})) == "x «picture 1» y"
    assert parts_of_draft("", [], []) == ()


def test_the_pages_own_logic() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    tests = sorted(map(str, Path(__file__).parent.glob("*.test.mjs")))
    done = subprocess.run([node, "--test", *tests], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def play(view: AnswerView, words: str = "A red circle.", pause_s: float = 0.0) -> Exchange:
    exchange = question()
    view.progress(Progress("queued", 1))
    view.begin(exchange)
    for n, word in enumerate(words.split(" "), start=1):
        view.push(Chunk(word if n == 1 else f" {word}", n))
        time.sleep(pause_s)
    exchange.reply = reply(words)
    view.finish(exchange)
    return exchange


def test_a_cell_publishes_panel_and_transcript_once_each(published: Published) -> None:
    view = PanelView(thumbnail=thumbnail)
    play(view)
    panel, transcript = published.outputs
    assert [list(state) for state in panel] == [["application/vnd.jupyter.widget-view+json"]]
    assert [set(state) for state in transcript] == [{"text/html", "text/markdown", "text/plain"}]
    assert view.panel is not None
    assert view.panel.snapshot()[0]["state"] == "done"


def test_without_a_page_the_answer_streams_as_plain_output(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_magic.outputs.answer_views.HANDSHAKE_S", 0.05)
    play(PanelView(thumbnail=thumbnail), "words " * 60, pause_s=0.01)
    _, plain = published.outputs
    assert len(plain) >= 3, "it grew before it was whole"
    assert "31 tokens/s" in plain[-1]["text/plain"], "and the transcript took its place"


def test_a_page_that_answers_gets_no_plain_output(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_magic.outputs.answer_views.HANDSHAKE_S", 0.0)
    view = PanelView()
    exchange = question()
    view.begin(exchange)
    assert view.panel is not None
    view.panel._handle_custom_msg({"type": "ready", "known": [["x1", "waiting"]]}, [])
    view.push(Chunk("words", 1))
    assert len(published.outputs) == 1


def test_a_failed_answer_leaves_no_transcript(published: Published) -> None:
    view = PanelView()
    view.begin(question())
    view.fail()
    assert len(published.outputs) == 1
    assert view.panel is not None
    assert view.panel.snapshot()[0]["state"] == "failed"


def test_a_program_gets_the_transcript_and_a_person_without_panel_sees_it_grow(published: Published) -> None:
    play(PlainView())
    play(PlainView(live=True), "words " * 60, pause_s=0.01)
    silent, growing = published.outputs
    assert len(silent) == 1
    assert len(growing) >= 3
    assert growing[-1] == silent[-1] | growing[-1]


@pytest.mark.parametrize(
    ("request_", "use_panel", "kind"),
    [
        ({"metadata": {"cellId": "a"}, "content": {}}, True, PanelView),
        ({"metadata": {}, "content": {"allow_stdin": True}}, True, PanelView),
        ({"metadata": {"cellId": "a"}, "content": {}}, False, PlainView),
        ({"metadata": {}, "content": {"allow_stdin": False}}, True, PlainView),
        ({}, True, PlainView),
    ],
)
def test_the_view_fits_where_the_code_runs(
    monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any], use_panel: bool, kind: type
) -> None:
    shell = SimpleNamespace(kernel=object(), parent_header=request_)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert type(choose_view(use_panel=use_panel)) is kind
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    assert type(choose_view(use_panel=use_panel)) is TerminalView


def test_the_outputs_are_imported_without_their_libraries() -> None:
    code = (
        "import sys; import vlm_magic.outputs.answer_views, vlm_magic.outputs.chat, vlm_magic.outputs.export;"
        "heavy = {'anywidget', 'ipywidgets', 'nh3', 'markdown_it', 'pygments', 'torch'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
