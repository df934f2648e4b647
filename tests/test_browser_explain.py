"""Why an answer came, in a real JupyterLab: the button at an answer, and what might have come instead."""

from __future__ import annotations

from typing import Any

import pytest
from lab import (
    Lab,
    asked,
    browser_page,
    check_accessible,
    run_all,
    save,
    shoot,
    shows,
    write_notebook,
)

pytestmark = pytest.mark.browser

SETUP = """%load_ext vlm_magic
import time, vlm_magic
from vlm_magic.starter.making.world.scenes import draw_scene
scene = draw_scene([("red", "circle", 0.25, 0.3, 0.3), ("blue", "square", 0.7, 0.65, 0.35)])
%vlm_load"""
# The starter takes milliseconds: slowed down, a person has time to stop it.
SLOWLY = """model = vlm_magic.engine().loaded.model
slow = model.register_forward_pre_hook(lambda *_: time.sleep(0.4));"""
TURNS = """for turn in vlm_magic.session('main').conversation:
    others = [str(other.text) for other in turn.alternatives]
    print(turn.reply.text, turn.reply.finish_reason, others, sep=' | ')"""


def test_the_button_at_an_answer_explains_it_stops_and_takes_it_away(lab: Lab, browser: Any) -> None:
    """By the keyboard; nothing of it enters the conversation or the saved output."""
    write_notebook(lab.folder / "why.ipynb", SETUP, "%%vlm\nWhat colour is the square in {scene}?", "")
    with browser_page(lab, "why.ipynb", browser=browser, height_px=1300) as page:
        run_all(page)
        panel = page.locator(".vlm-chat")
        why = panel.get_by_role("button", name="Explain this answer")
        why.focus()
        page.keyboard.press("Enter")
        shows(panel, "Needed")
        shows(panel, "Words")
        shows(panel, "There is no square.")
        assert panel.locator(".vlm-foot img").count() >= 1, "the picture with the part framed"
        assert panel.locator("script, [onclick]").count() == 0
        shoot(page, "explain-button")
        check_accessible(page, ".vlm-chat")
        assert asked(page, 2, TURNS) == "blue | stop | []"
        panel.get_by_role("button", name="Hide the explanation").click()
        why.wait_for()
        assert panel.locator(".vlm-explain").count() == 0
        asked(page, 2, SLOWLY)
        why.focus()
        page.keyboard.press("Enter")
        stop = panel.get_by_role("button", name="Stop looking")
        shows(panel, "Looking at needed")
        stop.click()
        why.wait_for()
        assert panel.locator(".vlm-explain, .vlm-notice:visible").count() == 0
        assert asked(page, 2, f"slow.remove()\n{TURNS}") == "blue | stop | []"
        assert page.problems == []


def test_a_word_that_might_have_come_is_pressed_and_the_model_goes_on_from_it(lab: Lab, browser: Any) -> None:
    """In the panel of a cell by the keyboard, in that of the conversation by a click that is stopped."""
    write_notebook(lab.folder / "other.ipynb", SETUP, "%%vlm\n{scene} Describe the picture.", "%vlm_chat", "")
    with browser_page(lab, "other.ipynb", browser=browser, height_px=1300) as page:
        run_all(page)
        cell, chat = (page.locator(".jp-Cell").nth(n).locator(".vlm-chat") for n in (1, 2))
        first = cell.locator(".vlm-blocks").inner_text().strip()
        cell.get_by_role("button", name="Explain this answer").click()
        cell.locator("details summary", has_text="press one").click()
        word = cell.locator("details tr").nth(2).locator("button.vlm-other").first
        said = word.inner_text().partition("’")[0].strip("‘ ")
        assert f"Say “{said}” here instead" in word.get_attribute("title")
        shoot(page, "explain-words")
        check_accessible(page, ".jp-Cell:nth-child(2) .vlm-chat")
        word.focus()
        page.keyboard.press("Enter")
        shows(cell.locator(".vlm-pager"), "2/2")
        other = cell.locator(".vlm-blocks").inner_text().strip()
        assert other.split()[:2] == [first.split()[0], said]
        shows(cell, "the model went on from there")
        assert page.evaluate("document.activeElement.closest('.vlm-chat') !== null"), "the focus stays here"
        assert asked(page, 3, TURNS) == f"{other} | stop | ['{first}']"
        # The conversation's panel shows it as well, and what is stopped there is kept.
        shows(chat.locator(".vlm-pager"), "2/2")
        chat.get_by_role("button", name="Explain this answer").click()
        chat.locator("details summary", has_text="press one").click()
        asked(page, 3, SLOWLY)
        chat.locator("button.vlm-other").first.click()
        shows(chat.locator(".vlm-streaming"), "token")
        chat.locator(".vlm-stop").click()
        shows(chat.locator(".vlm-pager"), "3/3")
        shows(chat, "stopped")
        shoot(page, "explain-words-stopped")
        turn = asked(page, 3, f"slow.remove()\n{TURNS}")
        assert "| interrupted |" in turn
        assert turn.endswith(f"['{first}', '{other}']")
        assert page.problems == []


def test_what_a_cell_explains_below_its_panel_can_be_pressed_while_it_is_true(lab: Lab, browser: Any) -> None:
    """The saved output has no buttons; those of an answer that no longer counts do nothing."""
    cell = "%%vlm --explain words\nWhat colour is the square in {scene}?"
    write_notebook(lab.folder / "below.ipynb", SETUP, cell, "")
    with browser_page(lab, "below.ipynb", browser=browser) as page:
        run_all(page)
        area = page.locator(".jp-Cell").nth(1)
        area.locator(".vlm-explain details summary", has_text="press one").click()
        word = area.locator(".vlm-explain button.vlm-other").first
        check_accessible(page, ".vlm-explain")
        word.focus()
        page.keyboard.press("Enter")
        shows(area.locator(".vlm-chat .vlm-pager"), "2/2")
        shows(area.locator(".vlm-chat"), "in place of ‘blue’")
        assert word.is_disabled()
        assert asked(page, 2, TURNS).endswith("['blue']")
        save(page)
        assert page.problems == []
    saved = (lab.folder / "below.ipynb").read_text(encoding="utf-8")
    assert "vlm-other" in saved
    assert "<button" not in saved
