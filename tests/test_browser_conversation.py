"""What a person does with a conversation in JupyterLab: ask about parts of pictures, go on, choose, wait."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab import (
    Lab,
    asked,
    browser_page,
    check_accessible,
    run_all,
    run_cell,
    save,
    shoot,
    shows,
    write_notebook,
)

from vlm_magic.outputs.records import exchanges_in

pytestmark = pytest.mark.browser

SETUP = "%load_ext vlm_magic\nfrom panel_setup import *"


PARTS = """import numpy as np
whole, part = last_pictures(engine)
top, bottom, left, right = map(int, part.name[6:-1].replace(", ", ":").split(":"))
print(part.name, np.array_equal(part.rgb, np.asarray(scene)[top:bottom, left:right]), whole.size_px)"""


def test_a_part_of_a_picture_is_marked_and_asked_about(lab: Lab, browser: Any) -> None:
    """The model gets the pixels of the original, not those of the copy that the page shows."""
    draw = "scene = noise(3000, 2000)\nengine = script('A wide picture.', 'A corner.', 'Grass.', 'Sky.')"
    write_notebook(lab.folder / "part.ipynb", f"{SETUP}\n{draw}", "%vlm What is in {scene}?", "")
    with browser_page(lab, "part.ipynb", browser=browser) as page:
        run_all(page)
        page.locator(".vlm-pic[role=button]").first.click()
        image = page.locator("dialog.vlm-dialog img")
        page.get_by_role("button", name="Ask about a part").wait_for()
        frame = image.bounding_box()
        # Dragged, from the middle to the right and down, in a cell's panel that has no box yet.
        page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] * 0.8, frame["y"] + frame["height"] * 0.9, steps=4)
        page.mouse.up()
        name = page.locator(".vlm-slices").inner_text()
        shoot(page, "region-dialog")
        page.get_by_role("button", name="Ask about this part").click()
        box = page.locator(".vlm-whole .vlm-input")
        box.wait_for()
        page.wait_for_function("document.activeElement.classList.contains('vlm-input')")
        assert page.locator(".vlm-chip").count() == 2, "the whole and the part"
        shows(page.locator(".vlm-chips"), name)
        page.keyboard.type("What is here?")
        shoot(page, "region-box")
        page.keyboard.press("Enter")
        shows(page.locator(".vlm-whole"), "A corner.")
        said = asked(page, 2, PARTS)
        assert said == f"{name} True (3000, 2000)"
        top, bottom, left, right = map(int, name[6:-1].replace(", ", ":").split(":"))
        assert all(
            abs(n - m) < 12 for n, m in zip((top, bottom, left, right), (1000, 1800, 1500, 2400), strict=True)
        )
        shoot(page, "region-answer")


def test_a_part_is_marked_with_keys_alone(lab: Lab, browser: Any) -> None:
    draw = "scene = noise(600, 400)\nengine = script('A picture.', 'A part.', 'A part of it.')"
    write_notebook(lab.folder / "keys.ipynb", f"{SETUP}\n{draw}", "%vlm What is in {scene}?", "%vlm_chat", "")
    with browser_page(lab, "keys.ipynb", browser=browser) as page:
        run_all(page)
        chat = page.locator(".jp-Cell").nth(2)
        chat.locator(".vlm-pic[role=button]").first.focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Ask about a part").focus()
        page.keyboard.press("Enter")
        said = page.locator(".vlm-slices")
        assert said.inner_text() == "scene[100:300, 150:450]", "the middle"
        for key in ("ArrowLeft", "ArrowUp", "Shift+ArrowRight", "Control+ArrowDown"):
            page.keyboard.press(key)
        assert said.inner_text() == "scene[93:293, 138:450]"
        check_accessible(page, ".vlm-dialog")
        page.get_by_label("Rows, to").fill("200")
        page.keyboard.press("Enter")
        assert said.inner_text() == "scene[93:200, 138:450]"
        page.get_by_role("button", name="Ask about this part").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("document.activeElement.classList.contains('vlm-input')")
        page.keyboard.type("What is here?")
        page.keyboard.press("Enter")
        shows(chat.locator(".vlm-whole"), "A part.")
        assert asked(page, 3, PARTS) == "scene[93:200, 138:450] True (600, 400)"
        # A part of a part is called by its place in the whole.
        chat.locator(".vlm-pic[role=button]").last.click()
        page.get_by_role("button", name="Ask about a part").click()
        assert said.inner_text() == "scene[120:173, 216:372]"
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="detached")


def test_who_writes_while_the_panel_is_built_anew_writes_on(lab: Lab, browser: Any) -> None:
    """The kernel may rename a conversation, change settings or offer something at any moment."""
    engine = "engine = script('First.', 'Second.')"
    find = "import gc\nfrom vlm_magic.outputs.panel.widget import ChatPanel"
    find += "\npanel_now = lambda: next(one for one in gc.get_objects() if isinstance(one, ChatPanel))"
    write_notebook(lab.folder / "anew.ipynb", f"{SETUP}\n{engine}\n{find}", "%vlm_chat")
    rename = """(name) => jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({
        code: `panel_now().title = "${name}"`, silent: true,
      }).done.then((reply) => reply.content.status)"""
    with browser_page(lab, "anew.ipynb", browser=browser) as page:
        run_all(page)
        box = page.locator(".vlm-whole .vlm-input")
        box.click()
        page.keyboard.type("What here?")
        for _ in "here?":
            page.keyboard.press("ArrowLeft")
        assert page.evaluate(rename, "drawings") == "ok"
        page.locator(".vlm-whole[aria-label=drawings]").wait_for()
        page.keyboard.type("is ")
        assert box.input_value() == "What is here?"
        page.keyboard.press("Enter")
        shows(page.locator(".vlm-list"), "First.")
        assert page.problems == []


def test_an_answer_that_was_cut_off_goes_on(lab: Lab, browser: Any) -> None:
    """In the panel of a cell and in that of the conversation; what is saved follows."""
    engine = "engine = script('one two three four five six seven eight', seconds_per_token=0.02)"
    write_notebook(
        lab.folder / "more.ipynb", f"{SETUP}\n{engine}", "%%vlm --max-tokens 3\nCount.", "%vlm_chat"
    )
    with browser_page(lab, "more.ipynb", browser=browser) as page:
        run_all(page)
        cell, chat = (page.locator(".jp-Cell").nth(n) for n in (1, 2))
        cell.get_by_role("button", name="Continue").wait_for()
        shows(cell.locator(".vlm-chat"), "cut off at the token limit")
        chat.get_by_role("button", name="Continue").wait_for()
        more = cell.get_by_role("button", name="Continue")
        shoot(page, "continue")
        more.focus()
        page.keyboard.press("Enter")
        shows(cell.locator(".vlm-chat .vlm-blocks"), "one two three four five six")
        shows(chat.locator(".vlm-chat .vlm-blocks"), "one two three four five six")
        chat.get_by_role("button", name="Continue").click()
        shows(cell.locator(".vlm-chat .vlm-blocks"), "seven eight")
        page.wait_for_timeout(300)
        assert page.get_by_role("button", name="Continue").count() == 0, "it has come to its end"
        assert page.locator(".vlm-pager").count() == 0, "it is one answer"
        save(page)
        check_accessible(page, ".vlm-whole")
    outputs = (lab.folder / "more.ipynb").read_text()
    assert outputs.count("one two three four five six seven eight") >= 4, "in both outputs, and their records"


def test_first_questions_are_about_the_pictures_of_the_notebook(lab: Lab, browser: Any) -> None:
    draw = "before, after = noise(200, 100), noise(100, 100)\nengine = script('They differ.')"
    write_notebook(lab.folder / "first.ipynb", f"{SETUP}\n{draw}", "%vlm_chat")
    with browser_page(lab, "first.ipynb", browser=browser) as page:
        run_all(page)
        offered = page.get_by_role("group", name="Questions to begin with").get_by_role("button")
        offered.first.wait_for()
        assert offered.all_inner_texts() == [
            "What is in {after}?",
            "What changed between {before} and {after}?",
            "Describe {after} in one sentence.",
        ]
        shoot(page, "first-questions")
        check_accessible(page, ".vlm-whole")
        offered.nth(1).focus()
        page.keyboard.press("Enter")
        box = page.locator(".vlm-whole .vlm-input")
        assert box.input_value() == "What changed between {before} and {after}?"
        assert page.locator(".vlm-exchange").count() == 0, "it is put there, not sent"
        page.keyboard.press("Enter")
        shows(page.locator(".vlm-whole"), "They differ.")
        assert offered.count() == 0


def test_conversations_and_models_are_chosen_in_the_head(lab: Lab, browser: Any) -> None:
    """By keyboard; what is saved holds the conversation that was left as well."""
    models = (
        "other = script('Another model speaks.', name='other')\nengine = script('One.', 'Two.', name='first')"
    )
    write_notebook(lab.folder / "menus.ipynb", f"{SETUP}\n{models}", "%vlm_chat", "%vlm From a cell", "")
    with browser_page(lab, "menus.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1)
        panel = page.locator(".vlm-whole")
        box = panel.locator(".vlm-input")
        box.fill("Asked in main")
        page.keyboard.press("Enter")
        shows(panel, "One.")
        menu = page.get_by_role("menu", name="Conversation")
        panel.locator(".vlm-pick").first.focus()
        page.keyboard.press("ArrowDown")
        menu.wait_for()
        assert menu.get_by_role("menuitemradio").all_inner_texts() == ["main\n1 turn"]
        shoot(page, "menu-conversations")
        check_accessible(page, ".vlm-whole")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")  # a new conversation
        shows(panel.locator(".vlm-pick").first, "chat 1")
        shows(panel, "No turns yet")
        # It is renamed, and another model answers in it.
        panel.locator(".vlm-pick").first.click()
        menu.get_by_role("menuitem", name="Rename").click()
        page.keyboard.type("cats")
        shoot(page, "menu-rename")
        page.keyboard.press("Enter")
        shows(panel.locator(".vlm-pick").first, "cats")
        panel.locator(".vlm-pick").last.click()
        page.get_by_role("menu", name="Model").get_by_role("menuitemradio", name="other").wait_for()
        shoot(page, "menu-models")
        page.get_by_role("menu", name="Model").get_by_role("menuitemradio", name="other").click()
        shows(panel.locator(".vlm-pick").last, "other")
        box.fill("Asked of cats")
        box.press("Enter")
        shows(panel, "Another model speaks.")
        run_cell(page, 2)  # a cell goes on with its own conversation, and the model that was chosen
        assert "From a cell" in asked(page, 3, "print([t.text for t in other.history[-1][0]], '%vlm_status')")
        shows(panel, "Another model speaks.")
        panel.locator(".vlm-pick").first.click()
        menu.get_by_role("menuitem", name="Export as Markdown").click()
        shows(panel.locator(".vlm-notice"), "conversation 'cats' is in cats.md")
        assert "Asked of cats" in (lab.folder / "cats.md").read_text()
        panel.locator(".vlm-pick").first.click()
        menu.get_by_role("menuitemradio", name="main").click()
        shows(panel, "Asked in main")
        save(page)
    kept = json.loads((lab.folder / "menus.ipynb").read_text())
    found = list(exchanges_in(kept))
    assert sorted((name, turn.parts[0].text) for name, turn in found) == [
        ("cats", "Asked of cats"),
        ("main", "Asked in main"),
        ("main", "From a cell"),
    ]


def test_questions_that_wait_are_listed_and_each_can_be_taken_back(lab: Lab, browser: Any) -> None:
    code = "engine = script('slow ' * 400, 'second', 'third', seconds_per_token=0.8)"
    write_notebook(lab.folder / "queue.ipynb", f"{SETUP}\n{code}", "%vlm_chat")
    with browser_page(lab, "queue.ipynb", browser=browser) as page:
        run_all(page)
        box = page.locator(".vlm-whole .vlm-input")
        for words in ("The first question", "The second one", "The third one", "The last one"):
            box.fill(words)
            box.press("Enter")
        waiting = page.get_by_role("list", name="Waiting questions").get_by_role("listitem")
        waiting.nth(2).wait_for()
        assert [t.strip() for t in waiting.all_inner_texts()] == [
            "The second one",
            "The third one",
            "The last one",
        ]
        shows(page.locator(".vlm-queue"), "3 questions wait")
        assert page.locator(".vlm-exchange:visible").count() == 1, "what waits is no turn yet"
        shoot(page, "queue")
        check_accessible(page, ".vlm-whole")
        page.get_by_role("button", name="Cancel: The second one").focus()
        page.keyboard.press("Enter")
        shows(page.locator(".vlm-queue"), "2 questions wait")
        page.wait_for_function("document.activeElement.title === 'Cancel: The third one'")
        page.get_by_role("button", name="Cancel: The last one").click()
        page.locator(".vlm-composer").get_by_role("button", name="Stop").click()
        shows(page.locator(".vlm-whole"), "second")  # which the model was lined up to say next
        turns = page.locator(".vlm-whole .vlm-user .vlm-body").all_inner_texts()
        assert turns == ["The first question", "The third one"]
        assert not page.locator(".vlm-queue").is_visible()


def test_a_long_conversation_is_all_there_and_works_in_a_view_of_its_own(lab: Lab, browser: Any) -> None:
    """JupyterLab's "Create New View for Output"; earlier turns are built while the page is idle."""
    code = "engine = script('The next one.', seconds_per_token=0.02)\nlong_conversation(60)"
    write_notebook(lab.folder / "long.ipynb", f"{SETUP}\n{code}", "%vlm_chat")
    with browser_page(lab, "long.ipynb", browser=browser) as page:
        run_all(page)
        page.wait_for_function("document.querySelectorAll('.vlm-whole .vlm-exchange').length === 60")
        questions = page.locator(".vlm-whole .vlm-user .vlm-body").all_text_contents()
        assert [f"Question {n}:" in words for n, words in enumerate(questions)] == [True] * 60
        # Each was laid out once meanwhile: the scrollbar knows all heights, and scrolling need not do it.
        turns = '[...document.querySelectorAll(".jp-Notebook .vlm-list > *")]'
        heights = f"() => {turns}.map((e) => e.offsetHeight)"
        page.wait_for_function(f"({heights})().every((height) => height && height !== 180)")
        page.wait_for_function("!document.querySelector('.vlm-laid')")
        known = page.evaluate(heights)
        page.add_style_tag(content=".vlm-list > .vlm-exchange { content-visibility: visible !important }")
        assert page.evaluate(heights) == known
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.vlm-turn')).containerType") == "normal"
        )
        page.evaluate("document.head.lastChild.remove()")
        page.evaluate(
            """() => {
              jupyterapp.shell.currentWidget.content.activeCellIndex = 1;
              return jupyterapp.commands.execute("notebook:create-output-view").then(() => null);
            }"""
        )
        view = page.locator(".jp-LinkedOutputView .vlm-whole")
        view.locator(".vlm-exchange").nth(59).wait_for(state="attached")
        view.locator(".vlm-input").fill("One more?")
        view.locator(".vlm-input").press("Enter")
        for panel in (view, page.locator(".jp-Notebook .vlm-whole")):
            shows(panel.locator(".vlm-exchange").last, "The next one.")
        # Further up a button leads back to the latest.
        view.locator(".vlm-list").evaluate("e => { e.scrollTop = 0 }")
        view.get_by_role("button", name="Jump to the latest").click()
        left = "e => e.scrollHeight - e.scrollTop - e.clientHeight < 3"
        page.wait_for_function(f"({left})(document.querySelector('.jp-LinkedOutputView .vlm-list'))")
        shoot(page, "view-long")
        assert page.problems == []
