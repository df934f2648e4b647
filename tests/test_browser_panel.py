"""What a person sees of the panel: real JupyterLab, real Chromium, scripted answers."""

from __future__ import annotations

import io
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from lab import (
    Lab,
    browser_page,
    lacks,
    need_part,
    open_notebook,
    output_area,
    output_text,
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
from script_vectors import VECTOR_LIST

from vlm_magic.outputs.records import exchanges_in

pytestmark = pytest.mark.browser

SETUP = "from panel_scenes import *"
LONG = "ask('word ' * 4000, 1, tokens_per_s=20, parts=(Text('Tell me a story.'),));"
CHAT = """first = question(1)
first.reply, first.alternatives = reply(RICH), [reply("An **earlier** answer.")]
second = question(2, Text("And which one is larger?"))
second.reply, second.is_stale = reply("The circle is.", "length"), True
answers = "A first answer. " * 200, "A second one.", "A third."
chat = Chat(*answers, exchanges=(first, second), tokens_per_s=40)"""


def shown(page: Any, selector: str) -> list[str]:
    """Text of all elements that a person can see."""
    return [e.inner_text() for e in page.locator(selector).all() if e.is_visible()]


def outputs_of(path: Path, index: int) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = json.loads(path.read_text())["cells"][index]["outputs"]
    return outputs


def run_beside(lab: Lab, *command: str) -> subprocess.CompletedProcess[str]:
    """``python -m …`` beside the notebooks."""
    return run_module(*command, folder=lab.folder, environment=lab.environment)


def test_an_answer_streams_is_stopped_and_is_there_tomorrow(lab: Lab, browser: Any) -> None:
    path = write_notebook(
        lab.folder / "day.ipynb", SETUP, "ask(tokens_per_s=40);", LONG, "print('still', 'alive')"
    )
    with browser_page(lab, "day.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1, wait=False)
        page.wait_for_function(  # finished blocks are there while the answer is still under way
            """() => document.querySelector(".vlm-chat .vlm-streaming")
              && document.querySelector(".vlm-chat .vlm-blocks ol")
              && !document.querySelector(".vlm-chat .vlm-proof")"""
        )
        wait_idle(page)
        panel = page.locator(".vlm-chat").first
        for words in ("What changed between (picture 1) and", "before, 640×480 px", "86 tokens", "starter"):
            shows(panel, words)
        lacks(panel, "31 tokens/s")
        panel.locator("details.vlm-proof summary").click()
        shows(panel, "31 tokens/s · prompt 214 tokens (128 for pictures, 64 reused)")
        assert panel.locator("table td").count() == 6
        assert panel.locator("math msup").count() == 1
        assert panel.locator("pre .kn").count() == 2, "highlighted"
        sizes = page.evaluate("[...document.querySelectorAll('.vlm-chat img')].map(i => i.naturalWidth)")
        assert sizes == [160, 160]
        assert not page.locator(".vlm-transcript").first.is_visible(), "hidden while the panel lives"
        shoot(page, "light")

        # Stop reaches a cell that blocks the kernel, and ends that answer alone.
        run_cell(page, 2, wait=False)
        page.wait_for_selector(".vlm-streaming")
        page.wait_for_timeout(500)
        began = time.monotonic()
        page.click(".vlm-stop")
        wait_idle(page)
        assert time.monotonic() - began < 20.0, "the answer would take 200 s"
        shows(output_area(page, 2), "stopped")
        run_cell(page, 3)
        shows(output_area(page, 3), "still alive")

        # The picture in full, closed by the keyboard, focus back where it was.
        page.locator(".vlm-chat .vlm-pic").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_function("document.querySelector('dialog.vlm-dialog img')?.naturalWidth === 640")
        shoot(page, "dialog")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog.vlm-dialog", state="detached")
        assert page.evaluate("document.activeElement.className") == "vlm-pic"

        save(page)
        assert [list(o["data"]) for o in outputs_of(path, 1)] == [
            ["application/vnd.jupyter.widget-view+json"],
            ["text/html", "text/markdown", "text/plain"],
        ]
        kept = dict(exchanges_in(json.loads(path.read_text())))
        assert "word word" in kept["main"].reply.text, "enough is in the file to go on from it"
        page.evaluate(
            "jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart().then(() => null)"
        )
        page.wait_for_selector(".vlm-transcript >> nth=0", state="visible")
        assert shown(page, ".vlm-chat") == [], "the panel is gone with its kernel, the transcript is there"
        assert page.problems == []

    # Tomorrow: another browser, no kernel that knows of it.
    with browser_page(lab, "day.ipynb", browser=browser) as page:
        page.wait_for_selector(".vlm-transcript >> nth=0", state="visible")
        page.wait_for_timeout(1000)
        assert len(shown(page, ".vlm-transcript")) == 2
        lacks(output_area(page, 1), "model not found")
        lacks(output_area(page, 1), "Loading widget")
        sizes = page.evaluate(
            "[...document.querySelectorAll('.vlm-transcript img')].map(i => i.naturalWidth)"
        )
        assert sizes == [160, 160]
        shoot(page, "reopened")


def test_a_page_that_is_loaded_again_goes_on_with_the_answer(lab: Lab, browser: Any) -> None:
    write_notebook(
        lab.folder / "reload.ipynb",
        SETUP,
        "chat = Chat('word ' * 4000, tokens_per_s=20)",
        "print(len(chat.exchanges[0].reply.text.split()))",
    )
    with browser_page(lab, "reload.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1)
        page.locator(".vlm-composer .vlm-input").fill("A story, please")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-streaming")
        save(page)
        open_notebook(page, lab, "reload.ipynb")
        page.wait_for_selector(".vlm-whole .vlm-streaming")
        page.wait_for_timeout(1000)
        page.click(".vlm-whole .vlm-stop")
        page.wait_for_selector(".vlm-proof >> nth=0")
        words = page.locator(".vlm-whole .vlm-blocks").last.inner_text().split()
        run_cell(page, 2)
        assert set(words) == {"word"}
        assert len(words) == int(output_text(page, 2)), "nothing lost, nothing twice"


def test_a_person_talks_in_the_panel(lab: Lab, browser: Any) -> None:
    path = write_notebook(lab.folder / "chat.ipynb", SETUP, CHAT, "print([a['kind'] for a in chat.actions])")
    data = io.BytesIO()
    picture("p", "orange", (300, 200)).rgb.save(data, "PNG")
    with browser_page(lab, "chat.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1)
        page.wait_for_selector(".vlm-whole")
        box = page.locator(".vlm-composer .vlm-input")

        # An earlier answer is a click away, and can be taken back.
        page.click("button[aria-label='Earlier answer']")
        shows(page.locator(".vlm-blocks").first, "An earlier answer.")
        assert page.get_by_role("button", name="Use this answer").is_visible()
        page.click("button[aria-label='Later answer']")

        # Names of variables are completed, files attached, pictures pasted; marks keep their place.
        box.click()
        page.keyboard.type("Is {be")
        page.wait_for_selector(".vlm-names li")
        shoot(page, "names")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        page.keyboard.type(" like ")
        file = {"name": "beach.png", "mimeType": "image/png", "buffer": data.getvalue()}
        page.set_input_files(".vlm-composer input[type=file]", file)
        page.wait_for_selector(".vlm-chip")
        page.evaluate(
            """async () => {
              const canvas = document.createElement("canvas");
              const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
              await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
            }"""
        )
        page.keyboard.type("or ")
        page.keyboard.press("Control+V")
        page.wait_for_selector(".vlm-chip >> nth=1")
        page.keyboard.type("?")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("Say why.")
        assert box.input_value() == "Is {beach} like «picture 1» or «picture 2» ?\nSay why."
        # A picture dragged out of the notebook itself; a remote one is only words.
        drop = """([html, uri]) => {
          const data = new DataTransfer();
          if (html) data.setData("text/html", html);
          data.setData("text/plain", uri);
          document.querySelector(".vlm-composer").dispatchEvent(
            new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
        }"""
        own = page.locator(".vlm-pic img").first.get_attribute("src")
        page.evaluate(drop, [f'<img src="{own}" alt="dragged">', ""])
        page.wait_for_selector(".vlm-chip >> text=dragged")
        page.click("button[aria-label='Remove dragged']")
        page.click("button[aria-label='Remove picture 2']")
        assert "«picture 2»" not in box.input_value()
        shoot(page, "draft")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-exchange >> nth=2")
        assert box.input_value() == ""

        # A second message waits in line, visibly; Stop ends the first one only.
        page.keyboard.type("Next")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-queue >> text=1 question waits")
        shoot(page, "queued")
        page.locator(".vlm-exchange").nth(2).locator(".vlm-stop").click()
        page.wait_for_selector(".vlm-whole .vlm-stop", state="detached")
        turns = page.locator(".vlm-exchange")
        shows(turns.nth(2), "stopped")
        shows(turns.nth(3), "A second one.")
        shows(turns.nth(2), "300×200 px")

        # What cannot be taken comes back with the reason.
        box.fill("see {missing}")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-notice:not([hidden])")
        shows(page.locator(".vlm-notice"), "no variable 'missing'")
        assert box.input_value() == "see {missing}"
        box.fill("")

        # An earlier message is edited: later turns go stale.
        turns.nth(0).get_by_role("button", name="Edit this message").click()
        edit = turns.nth(0).locator("textarea")
        assert edit.input_value() == "What changed between «picture 1» and «picture 2»?"
        edit.fill("Only «picture 2», please")
        page.keyboard.press("Enter")
        page.wait_for_selector(".vlm-whole >> text=A third.")
        page.wait_for_selector(".vlm-whole .vlm-stop", state="detached")
        assert turns.nth(0).locator("img").count() == 1
        shows(turns.nth(0), "3/3")
        shows(turns.nth(3), "stale")
        page.click("button[aria-label='Settings']")
        page.fill("input[name=temperature]", "0.7")
        page.keyboard.press("Tab")
        shoot(page, "chat")

        page.locator(".vlm-exchange").nth(3).get_by_role("button", name="Delete this turn").click()
        page.wait_for_function("document.querySelectorAll('.vlm-exchange').length === 3")
        run_cell(page, 2)
        kinds = ["send", "send", "stop", "send", "edit", "settings", "delete"]
        reads(output_area(page, 2), str(kinds))
        save(page)
        saved = "".join(outputs_of(path, 1)[1]["data"]["text/plain"])
        assert "You: Only [picture: after, 640×480 px], please" in saved
        assert "A second one." not in saved
        assert page.problems == []


def test_what_a_model_writes_neither_runs_nor_fetches(lab: Lab, browser: Any) -> None:
    write_notebook(
        lab.folder / "inert.ipynb",
        f"{SETUP}\nfrom script_vectors import VECTOR_LIST",
        "ask('\\n\\n'.join(VECTOR_LIST), 1, tokens_per_s=0, parts=(Text('\\n'.join(VECTOR_LIST)),));",
        *(
            f"for n in range({start}, min({start} + 20, len(VECTOR_LIST))):\n"
            "    ask(VECTOR_LIST[n], n + 2, tokens_per_s=0, parts=(Text('x'),))"
            for start in range(0, len(VECTOR_LIST), 20)  # JupyterLab shows 50 outputs of a cell
        ),
        "from IPython.display import Markdown, display\n"
        "from vlm_magic.outputs.markdown.html import to_safe_markdown\n"
        "for vector in ['\\n\\n'.join(VECTOR_LIST), *VECTOR_LIST[:40]]:\n"
        "    display(Markdown(to_safe_markdown(vector)))\n",
        "for vector in VECTOR_LIST[40:]: display(Markdown(to_safe_markdown(vector)))",
    )
    for again in (False, True):
        with browser_page(lab, "inert.ipynb", browser=browser) as page:
            if not again:
                run_all(page)
                save(page)
            page.wait_for_timeout(1500)
            assert page.evaluate("window.PWNED") is None
            assert [url for url in page.requests if not url.startswith((lab.url, "data:", "blob:"))] == []
            live = page.evaluate(
                """() => {
                  const live = "script, iframe, object, form, meta, base, link, [onerror], [onload]";
                  const areas = [...document.querySelectorAll(".jp-OutputArea-output")];
                  return areas.flatMap((area) => [...area.querySelectorAll(live)]).length;
                }"""
            )
            assert live == 0
            assert page.locator(".vlm-transcript").count() == len(VECTOR_LIST) + 1


def test_dark_and_narrow_and_without_a_panel(lab: Lab, browser: Any) -> None:
    write_notebook(
        lab.folder / "dark.ipynb", SETUP, CHAT, "ask();", "ask('plain **words** ' * 20, 2, use_panel=False);"
    )
    with browser_page(lab, "dark.ipynb", browser=browser, dark=True) as page:
        for index in (0, 1, 2):
            run_cell(page, index)
        page.locator(".vlm-composer").scroll_into_view_if_needed()
        shoot(page, "dark")
        run_cell(page, 3, wait=False)
        page.wait_for_selector(".jp-Cell >> nth=3 >> .vlm-transcript")
        wait_idle(page)
        assert output_text(page, 3).count("plain words") >= 20
        assert page.locator(".jp-Cell").nth(3).locator(".vlm-chat").count() == 0
        page.set_viewport_size({"width": 420, "height": 800})
        page.evaluate("jupyterapp.shell.collapseLeft()")
        page.wait_for_timeout(500)
        wide = page.evaluate(
            """() => [...document.querySelectorAll('.vlm')].filter((v) => v.checkVisibility())
              .flatMap((v) => [...v.querySelectorAll('*')].filter((e) =>
                e.checkVisibility() && !e.closest('pre, .vlm-table, math, .vlm-unseen')
                && e.getBoundingClientRect().right > v.getBoundingClientRect().right + 1))
              .map((e) => e.outerHTML.slice(0, 200))"""
        )
        assert wide == [], "nothing sticks out of a narrow column"
        page.locator(".jp-Cell").nth(2).scroll_into_view_if_needed()
        shoot(page, "narrow")


def test_without_the_widget_extension_the_answer_streams_all_the_same(lab: Lab, browser: Any) -> None:
    write_notebook(lab.folder / "bare.ipynb", SETUP, "ask('word ' * 160, tokens_per_s=8)", "print(1)")
    with browser_page(lab, "bare.ipynb", browser=browser, block="**/extensions/anywidget/**") as page:
        run_cell(page, 0)
        run_cell(page, 1, wait=False)
        page.wait_for_selector(".vlm-transcript pre:has-text('word word')")
        assert page.locator(".vlm-proof").count() == 0, "while it is under way"
        wait_idle(page)
        assert output_text(page, 1).count("word") == 160
        assert output_text(page, 1).count("What changed between") == 1
        shoot(page, "bare")


def test_kernels_without_a_person_show_the_transcript_alone(lab: Lab) -> None:
    path = write_notebook(
        lab.folder / "headless.ipynb", SETUP, "ask(tokens_per_s=0);", "ask('b', 2, tokens_per_s=0);"
    )
    done = run_beside(lab, "jupyter", "execute", "--inplace", path.name)
    assert done.returncode == 0, done.stderr
    notebook = json.loads(path.read_text())
    assert "widgets" not in notebook["metadata"], "no widget state, no second copy of the page's code"
    for index in (1, 2):
        assert [set(o["data"]) for o in outputs_of(path, index)] == [
            {"text/html", "text/markdown", "text/plain"}
        ]
    done = run_beside(lab, "jupyter", "nbconvert", "--to", "html", path.name)
    assert done.returncode == 0, done.stderr
    html = path.with_suffix(".html").read_text()
    assert html.count("vlm-transcript") >= 2
    assert "vlm chat panel" not in html
    done = run_beside(lab, "pytest", "--nbval", "-p", "no:cacheprovider", path.name)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_notebook_saved_by_a_person_converts_and_reruns_strictly(lab: Lab, browser: Any) -> None:
    """Runs after the first test, on what it saved."""
    saved = lab.folder / "day.ipynb"
    if not saved.exists():
        pytest.skip("the notebook of the first test is not there")
    notebook = json.loads(saved.read_text())
    notebook["cells"] = notebook["cells"][:2]
    path = lab.folder / "again.ipynb"
    path.write_text(json.dumps(notebook))
    done = run_beside(lab, "jupyter", "nbconvert", "--to", "html", path.name)
    assert done.returncode == 0, done.stderr[-3000:]
    done = run_beside(lab, "pytest", "--nbval", "-p", "no:cacheprovider", path.name)
    assert done.returncode == 0, done.stdout[-3000:]
    html = path.with_suffix(".html")
    body = re.sub(r"(?s)<(style|script).*?</\1>", "", html.read_text())
    assert body.count("What changed between") == 1, "the conversation stands there once"
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    page.goto(html.as_uri())
    assert page.locator(".vlm-transcript img").count() == 2
    shoot(page, "nbconvert")
    context.close()


@pytest.mark.parametrize(
    ("app", "kernel", "way"),
    [
        ("notebook", "python3", "Stop this answer"),
        ("lab", "old", "interrupting the kernel"),
        ("notebook", "old", "interrupting the kernel"),
    ],
)
def test_stop_reaches_a_blocking_cell_everywhere(
    tmp_path: Path, browser: Any, app: str, kernel: str, way: str
) -> None:
    if app == "notebook":
        pytest.importorskip("notebook")
    (tmp_path / "books").mkdir()
    write_notebook(tmp_path / "books" / "stop.ipynb", SETUP, LONG, "print('next', 'cell')", kernel=kernel)
    old = kernel == "old"
    kernels = {"old": need_part("VLM_MAGIC_OLD_KERNEL", "folder with ipykernel 6.30")} if old else {}
    with (
        running_lab(tmp_path / "books", app=app, kernels=kernels) as other,
        browser_page(other, "stop.ipynb", browser=browser) as page,
    ):
        run_cell(page, 0)
        run_cell(page, 1, wait=False)
        page.wait_for_selector(".vlm-streaming")
        stop = page.locator(".vlm-stop")
        assert way in str(stop.get_attribute("title")), "it says what else it ends"
        began = time.monotonic()
        stop.click()
        wait_idle(page)
        assert time.monotonic() - began < 20.0, "the answer would take 200 s"
        shows(page.locator(".vlm-chat"), "stopped")
        run_cell(page, 2)
        shows(output_area(page, 2), "next cell")


def test_the_panel_is_accessible(lab: Lab, browser: Any) -> None:
    axe = need_part("VLM_MAGIC_AXE", "axe.min.js of axe-core")
    slow = CHAT.replace("tokens_per_s=40", "tokens_per_s=10")
    write_notebook(lab.folder / "axe.ipynb", SETUP, "ask(tokens_per_s=0)", slow, "ask(use_panel=False)")
    for dark in (False, True):
        with browser_page(lab, "axe.ipynb", browser=browser, dark=dark) as page:
            run_all(page)
            page.add_script_tag(path=axe)

            def violations(where: str, page: Any = page) -> list[str]:
                run = "where => axe.run({include: [[where]]}, {resultTypes: ['violations']})"
                found = page.evaluate(run, where)["violations"]
                return [f"{v['id']}: {n['html'][:100]}" for v in found for n in v["nodes"]]

            page.click("button[aria-label='Settings']")
            page.locator(".vlm-composer .vlm-input").click()
            page.keyboard.type("Go")
            page.keyboard.press("Enter")
            page.wait_for_selector(".vlm-whole .vlm-streaming")
            page.keyboard.type("see {be")
            page.wait_for_selector(".vlm-names li")
            assert violations(".vlm-whole") == []
            assert violations(".vlm-transcript") == []
            page.locator(".vlm-whole button[aria-label='Edit this message']").first.click()
            assert violations(".vlm-whole") == []
            page.keyboard.press("Escape")
            page.locator(".vlm-pic[role=button]").first.click()
            page.wait_for_selector("dialog.vlm-dialog")
            assert violations("dialog") == []
