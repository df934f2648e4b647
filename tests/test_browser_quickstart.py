"""The quick-start as a new user meets it: real JupyterLab, real Chromium, the real starter.

With VLM_MAGIC_SCREENSHOTS=FOLDER it keeps pictures of what it saw, the README's one among them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lab import (
    SHOTS,
    Lab,
    browser_page,
    command,
    output_text,
    run_all,
    run_cell,
    running_browser,
    save,
    set_cell,
    shoot,
    wait_idle,
)

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
PATIENCE_MS = 180_000  # loading torch on two busy cores

# Two lines at the end of the loading cell, so that streaming can be seen: the starter takes milliseconds.
SLOWLY = """
import time, vlm_magic
vlm_magic.engine().loaded.model.register_forward_pre_hook(lambda *_: time.sleep(0.1));"""
TURNS = (
    "for e in vlm_magic.session('main').conversation:\n"
    "    print(e.key[0], e.reply.text, 'stale' if e.is_stale else 'current', sep=' | ')"
)


def copy_of_the_quick_start(lab: Lab) -> tuple[Path, list[str]]:
    """The notebook without outputs, slowed down, with a last cell that prints the turns; its sources."""
    notebook = json.loads((ROOT / "notebooks" / "00_quickstart.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    notebook["cells"][1]["source"] += SLOWLY
    last = {"cell_type": "code", "id": "turns", "metadata": {}, "source": TURNS}
    notebook["cells"].append({**last, "outputs": [], "execution_count": None})
    path = lab.folder / "quickstart.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path, [cell["source"] for cell in notebook["cells"]]


def saved_answers() -> list[str]:
    """What the shipped notebook says, in order, the history at its end aside."""
    notebook = json.loads((ROOT / "notebooks" / "00_quickstart.ipynb").read_text(encoding="utf-8"))
    asking = [c for c in notebook["cells"] if is_question("".join(c["source"]))]
    texts = ["".join(c["outputs"][-1]["data"]["text/plain"]) for c in asking]
    return [re.search(r"\n[\w. -]+: (.*?)\n\[", text, re.DOTALL)[1] for text in texts]  # type: ignore[index]


def is_question(source: str) -> bool:
    return source.startswith(("%%vlm", "%vlm "))


def look_at(page: Any, index: int) -> str:
    """Scroll to a cell and read what is below it; JupyterLab draws only what can be seen."""
    page.locator(".jp-Cell").nth(index).scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    return output_text(page, index)


def turns(page: Any, index: int) -> list[list[str]]:
    """The conversation as the last cell prints it: cell, answer, stale or current."""
    return [line.split(" | ") for line in look_at(page, index).strip().splitlines()]


def take_the_readmes_picture(page: Any, question: int, spare: int) -> None:
    """The last question's cell with its panel, at full speed, for `.github/panel.png`."""
    if SHOTS.is_dir():
        page.set_viewport_size({"width": 1250, "height": 1500})
        set_cell(page, spare, "vlm_magic.engine().loaded.model._forward_pre_hooks.clear()")
        run_cell(page, spare)
        run_cell(page, question)
        look_at(page, question)
        shoot(page, "panel", f".jp-Cell >> nth={question}")


def test_a_new_user_goes_through_the_quick_start(lab: Lab) -> None:
    """Run all, run all again, change the middle, save, come back without a kernel, publish."""
    path, sources = copy_of_the_quick_start(lab)
    questions = [n for n, source in enumerate(sources) if is_question(source)]
    end = len(sources) - 1
    with running_browser() as browser:
        with browser_page(lab, path.name, browser=browser) as page:
            # Words come one by one, with the thumbnail above them.
            run_all(page, wait=False)
            page.wait_for_selector(".vlm-chat .vlm-streaming", timeout=PATIENCE_MS)
            page.wait_for_selector(".vlm-chat .vlm-pic img")
            wait_idle(page, PATIENCE_MS)
            assert page.locator(".vlm-chat").count() == len(questions)
            for n, answer in zip(questions, saved_answers(), strict=True):
                assert answer in look_at(page, n)
                shoot(page, f"quickstart-{n:02d}")
            widths = page.evaluate("[...document.querySelectorAll('.vlm-chat img')].map(i => i.naturalWidth)")
            assert len(widths) >= 3
            assert all(widths)
            first = turns(page, end)
            assert [turn[2] for turn in first] == ["current"] * len(first)

            # Again: each turn once, the same answers.
            run_all(page)
            wait_idle(page, PATIENCE_MS)
            assert turns(page, end) == first

            # The middle cell asks something else: its turn changes, the later one is marked.
            set_cell(page, questions[1], "%%vlm\nWhat colour is the triangle?")
            run_cell(page, questions[1])
            run_cell(page, end)
            now = turns(page, end)
            assert [turn[0] for turn in now] == [turn[0] for turn in first]
            assert [turn[2] for turn in now] == ["current", "current", "stale"]
            assert now[0] == first[0]
            assert now[1][1] != first[1][1]
            assert now[2][1] == first[2][1]
            save(page)
            take_the_readmes_picture(page, questions[-2], end)
            command(page, "kernelmenu:shutdown")
            assert page.problems == []

        # Tomorrow: another browser, a kernel that knows of nothing.
        with browser_page(lab, path.name, browser=browser) as page:
            page.wait_for_selector(".vlm-transcript >> nth=0", state="visible")
            shown = [e.inner_text() for e in page.locator(".vlm-transcript").all() if e.is_visible()]
            assert len(shown) == len(questions) + 1  # and the history
            for text, turn in zip(shown, now, strict=False):
                assert turn[1] in text
            shoot(page, "quickstart-reopened")

    page_file = path.with_suffix(".html")
    subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", path.name],
        cwd=lab.folder,
        env=lab.environment,
        capture_output=True,
        check=True,
    )
    html = page_file.read_text(encoding="utf-8")
    assert len(re.findall(r'class="vlm [\w ]*\bvlm-transcript\b', html)) == len(questions) + 1
    assert html.count("data:image/") >= 3
