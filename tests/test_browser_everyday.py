"""What a demanding person does all day in a panel: scrolling, keys, edits, drops, kernels that end."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from lab import (
    Lab,
    browser_page,
    open_notebook,
    output_area,
    reads,
    run_all,
    run_cell,
    running_lab,
    save,
    shoot,
    shows,
    wait_idle,
    write_notebook,
)
from panel_scenes import picture
from programs import run_module

pytestmark = pytest.mark.browser

SETUP = "from panel_scenes import *"
CHAT = """from dataclasses import replace
def turn(n, text, *alternatives, parts=()):
    one = question(n, *parts)
    one.reply, one.alternatives = reply(text), list(alternatives)
    return one
"""
MANY = CHAT + "chat = Chat('word ' * 300, exchanges=tuple(turn(n, RICH) for n in range(12)), tokens_per_s=60)"
FEW = CHAT + (
    "earlier = replace(reply('An earlier answer.'), asked=(Text('An earlier question'),))\n"
    "chat = Chat('First.', 'Second.', exchanges=(turn(1, RICH, earlier), turn(2, 'The circle is.',"
    " parts=(Text('Which one?'),))), tokens_per_s=40)"
)


SCROLLS = """() => {
  const panel = document.querySelector(".vlm-whole");
  const scrolls = (e) => /auto|scroll/.test(getComputedStyle(e).overflowY);
  const inside = [...panel.querySelectorAll("*")].filter((e) => scrolls(e)
    && e.scrollHeight > e.clientHeight + 1
    && !e.closest("dialog, pre, .vlm-table, textarea"));
  const around = [];
  const stop = panel.closest(".jp-Cell");
  for (let e = panel; e && e !== stop; e = e.parentElement)
    if (e.scrollHeight > e.clientHeight + 2) around.push(e.className);
  return {inside: inside.map((e) => e.className), around};
}"""


def one_scrollbar(page: Any, below: int = 20) -> None:
    """The list scrolls, nothing else in or around the panel does, and the box is in sight with its button."""
    panel = page.locator(".vlm-whole")
    panel.evaluate("e => e.scrollIntoView({block: 'end'})")
    page.wait_for_timeout(300)
    assert page.evaluate(SCROLLS) == {"inside": ["vlm-list"], "around": []}
    frame = page.evaluate(
        """() => {
          const at = (where) => document.querySelector(where).getBoundingClientRect();
          const panel = at(".vlm-whole"), send = at(".vlm-whole .vlm-primary:not([hidden])");
          return [panel.top, send.bottom, innerHeight, innerWidth - send.right];
        }"""
    )
    assert frame[0] > 0, "the head is in sight together with the box"
    assert frame[1] < frame[2] - below, "Send is above the status bar"
    assert frame[3] > 0


@pytest.mark.parametrize(("width", "height"), [(1100, 900), (733, 600), (600, 900)])
def test_one_scrollbar_and_the_box_in_sight(lab: Lab, browser: Any, width: int, height: int) -> None:
    """At 100 %, at 150 %, and in a narrow window."""
    write_notebook(lab.folder / "scroll.ipynb", SETUP, MANY)
    with browser_page(lab, "scroll.ipynb", browser=browser, width_px=width, height_px=height) as page:
        page.evaluate("jupyterapp.shell.collapseLeft()")
        run_all(page)
        page.wait_for_selector(".vlm-whole .vlm-exchange >> nth=11")
        one_scrollbar(page)
        # Wheeling over the box moves no panel into emptiness.
        page.locator(".vlm-composer .vlm-input").hover()
        page.mouse.wheel(0, 3000)
        page.wait_for_timeout(300)
        assert page.locator(".vlm-whole").evaluate("e => e.scrollTop") == 0
        # Reading further up, a button leads back to the latest.
        page.locator(".vlm-list").evaluate("e => { e.scrollTop = 100 }")
        page.get_by_role("button", name="Jump to the latest").click()
        left = page.locator(".vlm-list").evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight")
        assert left < 2
        shoot(page, f"scroll-{width}")


def test_notebook_7_shows_the_whole_panel_too(tmp_path: Path, browser: Any) -> None:
    pytest.importorskip("notebook")
    (tmp_path / "books").mkdir()
    write_notebook(tmp_path / "books" / "scroll.ipynb", SETUP, MANY)
    with (
        running_lab(tmp_path / "books", app="notebook") as other,
        browser_page(other, "scroll.ipynb", browser=browser) as page,
    ):
        run_all(page)
        page.wait_for_selector(".vlm-whole .vlm-exchange >> nth=11")
        page.wait_for_timeout(500)
        assert page.locator(".jp-mod-outputsScrolled").count() == 0, "the output is not folded"
        one_scrollbar(page, below=0)
        shoot(page, "notebook7")


def test_a_conversation_in_a_view_of_its_own_fills_it(lab: Lab, browser: Any) -> None:
    """JupyterLab's "Create New View for Output"."""
    write_notebook(lab.folder / "view.ipynb", SETUP, MANY)
    with browser_page(lab, "view.ipynb", browser=browser, height_px=800) as page:
        run_all(page)
        page.wait_for_selector(".vlm-whole .vlm-exchange >> nth=11")
        page.evaluate(
            """() => {
              const notebook = jupyterapp.shell.currentWidget.content;
              notebook.activeCellIndex = 1;
              return jupyterapp.commands.execute("notebook:create-output-view").then(() => null);
            }"""
        )
        view = page.locator(".jp-LinkedOutputView .vlm-whole")
        view.wait_for()
        page.wait_for_timeout(500)
        sizes = view.evaluate(
            """e => [e.clientHeight, e.closest('.jp-LinkedOutputView').clientHeight,
                     e.getBoundingClientRect().bottom]"""
        )
        assert sizes[0] > 0.6 * sizes[1]
        assert sizes[2] < 800
        shoot(page, "view")


def test_dollars_in_saved_answers_stay_dollars(lab: Lab, browser: Any) -> None:
    """Front-ends typeset what stands between dollars in saved HTML; our own formulas stay formulas."""
    words = "It costs $5 and $10, or $a_b$ by the formula $x^2$."
    path = write_notebook(
        lab.folder / "dollars.ipynb",
        f"{SETUP}\nask({words!r}, use_panel=False, tokens_per_s=0, parts=(Text('Is it $1 or $2?'),))",
        "from IPython.display import HTML\nHTML('<p>typeset $y_1$ here</p>')",
    )
    with browser_page(lab, "dollars.ipynb", browser=browser) as page:
        run_all(page)
        save(page)
    with browser_page(lab, "dollars.ipynb", browser=browser) as page:
        page.wait_for_selector(".jp-Cell >> nth=1 >> mjx-container", state="attached")  # MathJax is at work
        page.wait_for_timeout(500)
        assert page.locator(".vlm mjx-container").count() == 0
        shows(output_area(page, 0), "It costs $5 and $10")
        shows(output_area(page, 0), "Is it $1 or $2?")
        assert page.locator(".vlm math msup").count() == 1
    done = run_module(
        "jupyter", "nbconvert", "--to", "html", path.name, folder=lab.folder, environment=lab.environment
    )
    assert done.returncode == 0, done.stderr
    html = path.with_suffix(".html").read_text()
    assert 'class="vlm mathjax_ignore tex2jax_ignore' in html


def test_chords_reach_the_notebook_and_escape_leaves_the_box(lab: Lab, browser: Any) -> None:
    path = write_notebook(lab.folder / "keys.ipynb", SETUP, FEW)
    with browser_page(lab, "keys.ipynb", browser=browser) as page:
        run_all(page)
        box = page.locator(".vlm-composer .vlm-input")
        box.click()
        page.keyboard.type("words @€{ and more")
        before = path.stat().st_mtime_ns
        page.keyboard.press("Control+s")
        page.wait_for_function("!jupyterapp.shell.currentWidget.context.model.dirty")
        assert path.stat().st_mtime_ns > before, "Ctrl+S saved"
        page.keyboard.press("Control+a")
        page.keyboard.press("Control+c")
        page.keyboard.press("End")
        page.keyboard.press("Control+v")
        assert box.input_value() == "words @€{ and more" * 2, "and the box has its own"
        page.keyboard.press("Shift+Enter")
        assert box.input_value().endswith("\n")
        page.keyboard.press("Escape")
        page.wait_for_function(
            "document.activeElement?.closest('.jp-Cell') && !document.activeElement.closest('.vlm')"
        )
        text = box.input_value()
        page.keyboard.press("b")  # command mode: a new cell below
        page.wait_for_function("document.querySelectorAll('.jp-Cell').length === 3")
        assert box.input_value() == text
        assert page.problems == []


def test_an_edit_has_all_that_a_new_message_has(lab: Lab, browser: Any) -> None:
    data = io.BytesIO()
    picture("p", "orange", (300, 200)).rgb.save(data, "PNG")
    write_notebook(
        lab.folder / "edit.ipynb",
        SETUP,
        FEW,
        "print([(type(p).__name__, getattr(p, 'text', '') or p.name) for p in chat.actions[-1]['parts']])",
    )
    with browser_page(lab, "edit.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1)
        turns = page.locator(".vlm-exchange")
        # The question of each answer stands above it.
        turns.nth(0).hover()
        page.click("button[aria-label='Earlier answer']")
        shows(turns.nth(0).locator(".vlm-user"), "An earlier question")
        page.click("button[aria-label='Later answer']")
        shows(turns.nth(0).locator(".vlm-user"), "What changed between")
        # Only where there are later turns are they said to go stale.
        turns.nth(1).get_by_role("button", name="Edit this message").click()
        assert "stale" not in turns.nth(1).inner_text()
        page.keyboard.press("Escape")
        turns.nth(0).get_by_role("button", name="Edit this message").click()
        shows(turns.nth(0), "Later turns are marked stale.")
        assert turns.nth(0).locator(".vlm-chip img").count() == 2, "its pictures as thumbnails"
        shoot(page, "edit")
        edit = turns.nth(0).locator("textarea")
        page.keyboard.press("End")
        page.keyboard.type(" Or {be")
        page.wait_for_selector(".vlm-names li >> nth=1")
        page.keyboard.press("Tab")
        file = {"name": "beach.png", "mimeType": "image/png", "buffer": data.getvalue()}
        turns.nth(0).locator("input[type=file]").set_input_files(file)
        page.wait_for_selector(".vlm-chip >> nth=2")
        assert edit.input_value().endswith("? Or {before} «picture 3» ")
        page.click("button[aria-label='Remove before']")
        page.keyboard.press("Enter")
        shows(turns.nth(0).locator(".vlm-blocks"), "First.")
        run_cell(page, 2)
        shows(output_area(page, 2), "('Picture', 'after')")
        shows(output_area(page, 2), "Or {before}")
        shows(output_area(page, 2), "('Picture', 'beach.png')")
        assert page.problems == []


def test_pictures_are_dropped_anywhere_and_other_files_are_named(lab: Lab, browser: Any) -> None:
    write_notebook(lab.folder / "drop.ipynb", SETUP, FEW)
    drop = """([selector, name, type]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(9)], name, {type}));
      for (const kind of ["dragenter", "dragover", "drop"]) document.querySelector(selector).dispatchEvent(
        new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    with browser_page(lab, "drop.ipynb", browser=browser) as page:
        run_all(page)
        page.wait_for_selector(".vlm-exchange")
        page.evaluate(drop, [".vlm-exchange .vlm-blocks", "sea.png", "image/png"])
        page.wait_for_selector(".vlm-composer .vlm-chip >> text=sea.png")
        page.evaluate(drop, [".vlm-bar", "notes.pdf", "application/pdf"])
        shows(page.locator(".vlm-notice"), "notes.pdf is not a picture")
        assert page.locator(".vlm-drop").count() == 0, "the frame is as before"


def test_each_block_has_its_own_direction_and_wide_tables_scroll(lab: Lab, browser: Any) -> None:
    wide = "| " + " | ".join(f"heading{n}" for n in range(12)) + " |\n|" + "---|" * 12
    wide += "\n| " + " | ".join(f"{n}2345678.90" for n in range(12)) + " |"
    answer = f"שלום, world!\n\nHello, עולם!\n\n{wide}"
    write_notebook(
        lab.folder / "blocks.ipynb",
        SETUP,
        f"ask({answer!r}, parts=(Text('מה? (two)\\nand this?'),), tokens_per_s=0)",
    )
    with browser_page(lab, "blocks.ipynb", browser=browser, width_px=600) as page:
        page.evaluate("jupyterapp.shell.collapseLeft()")
        run_all(page)
        save(page)
        for panel in (".vlm-chat", ".vlm-transcript"):
            if panel == ".vlm-transcript":
                open_notebook(page, lab, "blocks.ipynb")
                page.evaluate("jupyterapp.shell.collapseLeft()")
                page.add_style_tag(
                    content=".vlm-chat {display: none !important}"
                    " .jp-OutputArea-child:has(.vlm-transcript) {display: flex !important}"
                )
            page.wait_for_selector(f"{panel} .vlm-table td")
            sides = page.locator(f"{panel} .vlm-model p[dir]:not(.vlm-open)").evaluate_all(
                "all => all.map((e) => getComputedStyle(e).direction)"
            )
            assert sides == ["rtl", "ltr"]
            table = page.locator(f"{panel} .vlm-table").evaluate(
                "e => [e.scrollWidth > e.clientWidth + 50, e.clientWidth < innerWidth,"
                " [...e.querySelectorAll('td')].every((c) => c.clientHeight < 40)]"
            )
            assert table == [True, True, True], "it scrolls; no number is broken into two lines"
            shoot(page, f"blocks-{panel[5:]}")


def test_the_same_answer_again_is_said_to_be_the_same(lab: Lab, browser: Any) -> None:
    write_notebook(lab.folder / "greedy.ipynb", SETUP, FEW, "print(chat.actions)")
    with browser_page(lab, "greedy.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1)
        turn = page.locator(".vlm-exchange").nth(1)
        turn.get_by_role("button", name="Another answer").click()
        shows(turn, "the answer would be the same again")
        shoot(page, "greedy")
        run_cell(page, 2)
        reads(output_area(page, 2), "[]")
        turn.get_by_role("button", name="Ask with temperature 0.7").click()
        shows(turn.locator(".vlm-blocks"), "First.")
        run_cell(page, 2)
        reads(output_area(page, 2), "[{'kind': 'regenerate', 'exchange': 'x2', 'temperature': 0.7}]")


def test_stop_stands_where_send_was(lab: Lab, browser: Any) -> None:
    write_notebook(lab.folder / "stop.ipynb", SETUP, MANY.replace("tokens_per_s=60", "tokens_per_s=5"))
    with browser_page(lab, "stop.ipynb", browser=browser) as page:
        run_all(page)
        page.locator(".vlm-composer .vlm-input").fill("A story")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-whole .vlm-streaming")
        stop = page.locator(".vlm-composer").get_by_role("button", name="Stop")
        send = page.locator(".vlm-composer").get_by_role("button", name="Send")
        assert not send.is_visible()
        shoot(page, "stop")
        page.keyboard.type("More")
        assert send.is_visible(), "a second message can be sent meanwhile"
        page.keyboard.press("Control+a")
        page.keyboard.press("Delete")
        stop.click()
        page.wait_for_selector(".vlm-whole .vlm-streaming", state="detached")
        shows(page.locator(".vlm-exchange").last, "stopped")
        assert send.is_visible()
        assert page.evaluate("document.activeElement.className") == "vlm-input"


THINKS = CHAT + (
    "chat = Chat('It is **red**.', tokens_per_s=25,"
    " thought='Is it red? <img src=x onerror=alert(1)> **no** ' + 'It may be. ' * 30)"
)


def test_a_thought_can_be_read_while_it_grows(lab: Lab, browser: Any) -> None:
    write_notebook(lab.folder / "thought.ipynb", SETUP, THINKS)
    with browser_page(lab, "thought.ipynb", browser=browser) as page:
        run_all(page)
        page.locator(".vlm-composer .vlm-input").fill("Which colour?")
        page.keyboard.press("Enter")
        turn = page.locator(".vlm-exchange").last
        thought = turn.locator("details.vlm-thought")
        shows(turn, "Thinking…")
        reads(turn.locator(".vlm-status"), re.compile(r"Thinking, \d+ tokens so far"))
        assert not thought.locator("p").is_visible(), "folded until the person opens it"
        thought.locator("summary").focus()
        page.keyboard.press("Enter")
        reads(thought, re.compile(r"Is it red\? <img src=x onerror=alert\(1\)> \*\*no\*\*"))
        shoot(page, "thought")
        before = len(thought.inner_text())
        page.wait_for_timeout(600)
        assert len(thought.inner_text()) > before, "it grows while it is open"
        assert page.locator(".vlm-thought img").count() == 0
        reads(turn.locator(".vlm-blocks"), "It is red.")
        page.wait_for_selector(".vlm-whole .vlm-streaming", state="detached")
        assert thought.count() == 1
        assert thought.locator("strong").is_visible(), "the whole thought stays open, written as Markdown"
        shows(thought, "Thought before it answered (")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


REAL = """%load_ext vlm_magic
from vlm_magic.testing import ScriptedEngine
from vlm_magic.workspace import current
current().models.add("fake", ScriptedEngine("One.", "Two."))"""


def test_a_panel_whose_kernel_is_gone_says_so_and_comes_back(lab: Lab, browser: Any) -> None:
    write_notebook(lab.folder / "gone.ipynb", REAL, "%vlm_chat")
    with browser_page(lab, "gone.ipynb", browser=browser) as page:
        run_all(page)
        page.locator(".vlm-composer .vlm-input").fill("Hello")
        page.keyboard.press("Enter")
        shows(page.locator(".vlm-whole .vlm-blocks"), "One.")
        save(page)
        session = "jupyterapp.shell.currentWidget.context.sessionContext"
        page.evaluate(f"{session}.shutdown().then(() => null)")
        shows(page.locator(".vlm-gone"), "The kernel that held this conversation has ended.")
        assert page.locator(".vlm-composer").count() == 0, "nothing is left that would not work"
        page.wait_for_selector(".vlm-transcript", state="visible")  # what was said is still there
        shoot(page, "gone")
        page.evaluate(f"{session}.startKernel().then(() => null)")
        wait_idle(page)
        page.get_by_role("button", name="Bring it back").click()
        page.wait_for_selector(".vlm-whole .vlm-exchange")
        shows(page.locator(".vlm-whole .vlm-notice"), "restored from gone.ipynb")
        shows(page.locator(".vlm-whole .vlm-blocks"), "One.")
        assert page.locator(".vlm-gone").count() == 0


def test_the_first_question_stands_there_while_the_starter_loads(lab: Lab, browser: Any) -> None:
    write_notebook(lab.folder / "first.ipynb", "%load_ext vlm_magic", "%vlm_chat")
    with browser_page(lab, "first.ipynb", browser=browser) as page:
        run_all(page)
        page.locator(".vlm-composer .vlm-input").fill("What are you?")
        page.evaluate(  # what is shown on the way is short: every change is noted
            """() => {
              window.seen = [];
              const list = document.querySelector(".vlm-list");
              new MutationObserver(() => window.seen.push(list.innerText)).observe(
                list, {childList: true, subtree: true, characterData: true});
            }"""
        )
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-exchange .vlm-proof")
        seen = page.evaluate("window.seen")
        loading = [text for text in seen if "Loading the starter" in text]
        assert loading
        assert all("What are you?" in text for text in loading)


def test_nothing_is_clipped_in_a_narrow_window_and_saved_is_as_wide_as_live(lab: Lab, browser: Any) -> None:
    choices = (
        "tuple(Choice(w, p, -12.34, 3, -12.34) for w, p in (('a long choice of words', 0.7), ('no', 0.3)))"
    )
    cell = (
        "from vlm_magic.messages import Choice\none = question(1, Text('Which?'))\n"
        f"one.reply = reply('no', choices={choices})\n"
        "view = choose_view(thumbnail=thumbnail)\nview.begin(one)\nview.finish(one)"
    )
    write_notebook(lab.folder / "narrow.ipynb", SETUP, cell)
    with browser_page(lab, "narrow.ipynb", browser=browser, width_px=600) as page:
        page.evaluate("jupyterapp.shell.collapseLeft()")
        run_all(page)
        page.wait_for_selector(".vlm-chat .vlm-choice-log")
        page.add_style_tag(content=".jp-OutputArea-child:has(.vlm-transcript) {display: flex !important}")
        sides = page.locator(".vlm-choice-log").evaluate_all(
            "all => all.map((e) => e.closest('.vlm').getBoundingClientRect().right"
            " - e.getBoundingClientRect().right)"
        )
        assert len(sides) == 4
        assert min(sides) >= 0, "the log-probabilities are all there"
        widths = page.locator(".vlm").evaluate_all("all => all.map((e) => Math.round(e.offsetWidth))")
        assert len(set(widths)) == 1
        shoot(page, "narrow-choices")
