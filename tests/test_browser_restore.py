"""Cells and panels over the real magics in JupyterLab: after a restart, and when turns became stale."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from lab import (
    Lab,
    browser_page,
    lacks,
    output_area,
    reads,
    run_cell,
    running_lab,
    save,
    set_cell,
    shoot,
    shows,
    wait_idle,
    write_notebook,
)

pytestmark = pytest.mark.browser

PATIENCE_MS = 180_000  # loading torch on two busy cores


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("restore") / "notebooks"
    folder.mkdir()
    cache = {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    with running_lab(folder, environment=cache) as running:
        yield running


def restart(page: Any) -> None:
    page.evaluate(
        "jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart().then(() => null)"
    )
    wait_idle(page, PATIENCE_MS)


def test_the_conversation_goes_on_after_a_restart_of_the_kernel(lab: Lab, browser: Any) -> None:
    """The picture's variable is gone; the starter sees the picture all the same, and is right about it."""
    draw = (
        "from vlm_magic.starter.making.world.scenes import draw_scene\n"
        "scene = draw_scene([('red', 'circle', 0.25, 0.3, 0.35), ('blue', 'square', 0.7, 0.7, 0.35)])"
    )
    write_notebook(
        lab.folder / "tomorrow.ipynb",
        f"%load_ext vlm_magic\n{draw}",
        "%%vlm\nWhat colour is the circle in {scene}?",
        "%load_ext vlm_magic\nprint('scene' in globals())",
        "%vlm_chat",
    )
    with browser_page(lab, "tomorrow.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1, wait=False)
        wait_idle(page, PATIENCE_MS)
        shows(output_area(page, 1), "red")
        save(page)
        restart(page)
        run_cell(page, 2)
        reads(output_area(page, 2), "False")
        run_cell(page, 3)
        panel = page.locator(".vlm-whole")
        panel.wait_for()
        notice = page.locator(".vlm-whole .vlm-notice")
        shows(notice, "restored from tomorrow.ipynb")
        lacks(notice, "no longer")
        shows(panel, "What colour is the circle")
        assert panel.locator(".vlm-pic img").evaluate("image => image.naturalWidth") > 0
        panel.locator(".vlm-composer .vlm-input").fill("What colour is the square?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-whole .vlm-exchange >> nth=1 >> .vlm-proof", timeout=PATIENCE_MS)
        turns = page.locator(".vlm-whole .vlm-exchange")
        shows(turns.nth(1).locator(".vlm-blocks"), "blue")
        page.set_viewport_size({"width": 1250, "height": 1100})
        panel.scroll_into_view_if_needed()
        shoot(page, "chat", ".jp-Cell >> nth=3")  # the README's second picture
        save(page)
        assert page.problems == []
        restart(page)

    # Once more, and what was typed in the panel is there as well.
    with browser_page(lab, "tomorrow.ipynb", browser=browser) as page:
        run_cell(page, 2)
        run_cell(page, 3)
        page.wait_for_selector(".vlm-whole .vlm-exchange >> nth=1")
        shows(page.locator(".vlm-whole"), "What colour is the square?")


FAKE = """%load_ext vlm_magic
import vlm_magic
from vlm_magic.testing import ScriptedEngine
engine = ScriptedEngine("one", "two", "one again", "two again", "three", "four", seconds_per_token=0.2)
vlm_magic.workspace.current().models.add("fake", engine)
ticks = []
def tick():
    ticks.append(1)
    return len(ticks)
"""


def test_a_click_brings_a_stale_cell_up_to_date_and_another_opens_everything(lab: Lab, browser: Any) -> None:
    write_notebook(
        lab.folder / "stale.ipynb",
        FAKE,
        "%%vlm\nfirst",
        "%%vlm -o second\nAsked {tick()} times",
        "print(len(ticks), second, [turn.text for turn in engine.history[-1][0]])",
    )
    with browser_page(lab, "stale.ipynb", browser=browser) as page:
        for index in (0, 1, 2):
            run_cell(page, index)
        cells = page.locator(".jp-Cell")
        second = cells.nth(2).locator(".vlm-chat")
        lacks(second, "stale")
        set_cell(page, 1, "%%vlm\nfirst, in other words")
        run_cell(page, 1)
        update = second.get_by_role("button", name="Update")
        update.wait_for()
        shows(second, "stale")
        shoot(page, "stale", ".jp-Cell >> nth=2")
        update.click()
        second.get_by_text("two again").wait_for()
        update.wait_for(state="detached")
        lacks(second, "stale")
        shows(second, "2/2")  # the earlier answer is still there
        save(page)  # what is seen is what is saved
        outputs = json.loads((lab.folder / "stale.ipynb").read_text())["cells"][2]["outputs"]
        assert "two again" in "".join(outputs[-1]["data"]["text/plain"])
        assert "stale" not in "".join(outputs[-1]["data"]["text/plain"])
        run_cell(page, 3)
        # Its stored words were asked; nothing was evaluated, no variable bound anew.
        reads(output_area(page, 3), "1 two ['first, in other words', 'one again', 'Asked 1 times']")

        first = cells.nth(1).locator(".vlm-chat")
        first.get_by_role("button", name="Show the whole conversation").click()
        first.locator(".vlm-exchange").nth(1).wait_for()
        shows(first, "Asked 1 times")
        first.locator(".vlm-composer .vlm-input").fill("And a third?")
        page.keyboard.press("Enter")
        first.get_by_text("three", exact=True).wait_for()
        shoot(page, "opened", ".jp-Cell >> nth=1")

        first.get_by_role("button", name="Show this cell's turn alone").click()
        first.locator(".vlm-composer").wait_for(state="detached")
        assert first.locator(".vlm-exchange").count() == 1
        shows(first, "one again")
        lacks(first, "Conversation main")
        set_cell(page, 3, "%%vlm -c other\nElsewhere")
        run_cell(page, 3)
        other = cells.nth(3).locator(".vlm-chat")
        for shown, name in ((first, "main"), (second, "main"), (other, "other")):
            shows(shown.locator(".vlm-of"), f"Conversation {name}")
        shoot(page, "named", ".jp-Cell >> nth=3")
        first.get_by_role("button", name="Show the whole conversation").click()
        first.get_by_text("three", exact=True).wait_for()
        first.locator(".vlm-composer").wait_for()
        assert page.problems == []
