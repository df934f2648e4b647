"""Below a cell: the answer first, Stop in sight, quiet tools, keys alone, what a screen reader is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lab import (
    REPOSITORY,
    SHOTS,
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
    set_cell,
    shoot,
    shows,
    wait_idle,
    write_notebook,
)
from panel_page import panel_page
from panel_scenes import RICH, picture, question, reply, thumbnail
from programs import run_module

from vlm_magic.messages import Text
from vlm_magic.outputs.chat import ALL_ACTIONS
from vlm_magic.outputs.markdown.html import to_html
from vlm_magic.outputs.panel.stop_bar import StopBar
from vlm_magic.outputs.panel.widget import ChatPanel
from vlm_magic.outputs.results.cards import Card
from vlm_magic.outputs.results.map import Sheet, sheet_bundle
from vlm_magic.outputs.styles import framed
from vlm_magic.outputs.transcript import exchange_bundle

pytestmark = pytest.mark.browser

SETUP = "from panel_scenes import *"
FAKE = """%load_ext vlm_magic
import vlm_magic
from PIL import Image
from vlm_magic.testing import ScriptedEngine
from vlm_magic.workspace import current
one, two = Image.new("RGB", (90, 60), "red"), Image.new("RGB", (60, 90), "blue")
current().models.add("fake", ScriptedEngine(*ANSWERS, seconds_per_token=SLOW))"""


def fake(*answers: str, seconds_per_token: float = 0.0) -> str:
    """The first cell: two pictures, and a model that gives these answers."""
    return FAKE.replace("ANSWERS", repr(answers)).replace("SLOW", str(seconds_per_token))


# Elements with a scrollbar of their own, tables, code and formulas that are wide aside.
SCROLLERS = """() => [...document.querySelectorAll("body *")].filter((e) => e.clientHeight
  && /auto|scroll/.test(getComputedStyle(e).overflowY) && e.scrollHeight > e.clientHeight + 1
  && !e.closest("pre, .vlm-table, .vlm-display, .cm-editor, .CodeMirror")).map((e) => e.className)"""


def test_the_answer_comes_first_and_saved_equals_seen(lab: Lab, browser: Any) -> None:
    """Words alone are not repeated below their cell; pictures stand in a row below words that number them."""
    path = write_notebook(
        lab.folder / "hero.ipynb",
        fake("Blue.", "The **first**.", RICH),
        "%%vlm\nWhat colour is the sea?",
        "%%vlm\nWhich is larger, {one} or {two}?",
        "%vlm And what is {one.width}?",
        "%vlm_chat",
    )
    with browser_page(lab, "hero.ipynb", browser=browser) as page:
        run_all(page)
        panels = page.locator(".vlm-chat:not(.vlm-whole)")
        shows(panels.nth(0), "Blue.")
        lacks(panels.nth(0), "What colour is the sea?")
        assert panels.nth(0).locator("article").get_attribute("aria-label") == (
            "Answer to: What colour is the sea?"
        )
        shows(panels.nth(1), "Which is larger, (picture 1) or (picture 2)?")
        shows(panels.nth(2), "And what is 90?")  # no cell says so
        whole = page.locator(".vlm-whole")
        shows(whole, "What colour is the sea?")
        shoot(page, "hero")
        # The whole conversation, opened in the cell's panel, has the question again.
        panels.nth(0).hover()
        panels.nth(0).get_by_role("button", name="Show the whole conversation").click()
        shows(output_area(page, 1), "What colour is the sea?")
        save(page)

        saved = page.locator(".vlm-transcript")
        assert "sea" not in saved.nth(0).inner_text(timeout=5000)
        for part in (".vlm-words", ".vlm-shots", ".vlm-model > .vlm-body"):
            seen, kept = (
                [re.sub(r"[()\s]+", " ", text).strip() for text in place.locator(part).all_text_contents()]
                for place in (panels.nth(0), saved.nth(1))  # of the cells that still show one turn
            )
            assert seen == kept, part
    outputs = [cell["outputs"] for cell in json.loads(path.read_text())["cells"]]
    html, markdown, plain = (
        "".join(outputs[1][-1]["data"][kind]) for kind in ("text/html", "text/markdown", "text/plain")
    )
    assert "the sea" not in html + markdown
    assert "the sea" in plain

    done = run_module(
        "jupyter", "nbconvert", "--to", "html", path.name, folder=lab.folder, environment=lab.environment
    )
    assert done.returncode == 0, done.stderr
    for width, scale in ((1100, 1), (733, 1.5), (600, 1)):
        size = {"width": width, "height": 700}
        context = browser.new_context(viewport=size, device_scale_factor=scale, java_script_enabled=True)
        page = context.new_page()
        page.goto(path.with_suffix(".html").as_uri(), wait_until="domcontentloaded")
        page.wait_for_selector(".vlm-transcript >> nth=3")
        assert page.evaluate(SCROLLERS) == [], "the page scrolls, nothing in it does"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".vlm-shots img").first.evaluate("e => e.naturalWidth") == 90
        page.locator("details.vlm-proof summary").first.click()
        shows(page.locator("details.vlm-proof").first, "prompt")
        context.close()


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_stop_stays_in_sight_while_a_long_answer_streams(tmp_path: Path, browser: Any, app: str) -> None:
    """In Notebook 7, too, there is one scrollbar, at 100 and 150 % and in a narrow window."""
    if app == "notebook":
        pytest.importorskip("notebook")
    (tmp_path / "books").mkdir()
    long = "'\\n\\n'.join(['A paragraph of words. ' * 9] * 400)"
    asked = f"ask({long}, 1, tokens_per_s=100, parts=(Text('Go'),))"
    write_notebook(tmp_path / "books" / "long.ipynb", SETUP, asked, "print('next', 'cell')")
    with (
        running_lab(tmp_path / "books", app=app) as other,
        browser_page(other, "long.ipynb", browser=browser, height_px=600) as page,
    ):
        run_cell(page, 0)
        run_cell(page, 1, wait=False)
        page.wait_for_selector(".vlm-streaming")
        page.wait_for_function("document.querySelectorAll('.vlm-blocks p').length > 12")
        for width, height in ((1100, 600), (733, 400), (600, 600)):
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_function(  # Stop stands above what is read, also where the window moved meanwhile
                """() => {
                  const words = document.querySelectorAll(".vlm-blocks p")[9];
                  words.scrollIntoView({block: "center"});
                  const stop = document.querySelector(".vlm-stop").getBoundingClientRect();
                  const { top } = words.getBoundingClientRect();
                  return 0 < stop.top && stop.bottom < top && top < innerHeight;
                }""",
                polling=300,
                timeout=20_000,
            )
            scrollers = page.evaluate(SCROLLERS)
            assert [name for name in scrollers if "jp-WindowedPanel" not in name] == []
            assert len(scrollers) == 1
        shoot(page, f"sticky-{app}")
        page.locator(".vlm-stop").click()
        wait_idle(page)
        run_cell(page, 2)
        shows(output_area(page, 2), "next cell")


OPACITY = "(all) => all.map((e) => getComputedStyle(e).opacity)"


def conversation(n_turns: int = 1) -> ChatPanel:
    """A whole conversation, with all that a person can do in it."""
    turns = [question(n) for n in range(1, n_turns + 1)]
    for turn in turns:
        turn.reply = reply(RICH)
    panel = ChatPanel("chat", exchanges=turns, thumbnail=thumbnail, title="Conversation main")
    panel.on_action(lambda _: None, ALL_ACTIONS)
    return panel


def test_tools_are_quiet_until_needed_and_always_there_for_touch_and_keyboard(browser: Any) -> None:
    tools = ".vlm-exchange .vlm-tools > .vlm-quiet, .vlm-code > .vlm-quiet"
    page = panel_page(browser, conversation(2))
    page.mouse.move(990, 5)
    page.wait_for_timeout(300)
    assert set(page.locator(tools).evaluate_all(OPACITY)) == {"0"}
    page.locator(".vlm-exchange").nth(1).locator(".vlm-model .vlm-role").hover()
    page.wait_for_timeout(300)
    assert page.get_by_role("button", name="Copy answer").evaluate_all(OPACITY) == ["0", "1"]
    page.mouse.move(990, 5)
    page.locator(".vlm-composer .vlm-input").focus()
    where = "document.activeElement.outerHTML.slice(0, 200)"
    passed = [page.evaluate(where)]
    while not page.evaluate("!!document.activeElement.closest('.vlm-list')"):
        page.keyboard.press("Shift+Tab")  # into the list: who goes by keyboard sees what is there
        passed.append(page.evaluate(where))
        assert len(passed) < 9, passed
    page.wait_for_timeout(300)
    assert set(page.locator(tools).evaluate_all(OPACITY)) == {"1"}
    page.context.close()
    page = panel_page(browser, conversation(2), has_touch=True, is_mobile=True)
    assert page.evaluate("matchMedia('(hover: none)').matches")
    assert set(page.locator(tools).evaluate_all(OPACITY)) == {"1"}
    page.context.close()


# Where the last character of one piece of text touches the first of the next one, both letters or digits.
TOUCHING = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const pieces = [];
  while (walker.nextNode()) if (walker.currentNode.data.trim()) pieces.push(walker.currentNode);
  const box = (node, at) => {
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    return range.getBoundingClientRect();
  };
  const found = [];
  pieces.slice(1).forEach((piece, n) => {
    const before = pieces[n];
    if (!/[\p{L}\p{N}]$/u.test(before.data) || !/^[\p{L}\p{N}]/u.test(piece.data)) return;
    if (before.parentNode.closest("pre, code") && piece.parentNode.closest("pre, code")) return;
    const [a, b] = [box(before, before.length - 1), box(piece, 0)];
    if (a.width && b.width && Math.abs(a.top - b.top) < 8 && Math.abs(b.left - a.right) < 1.5)
      found.push(before.data.slice(-20) + "|" + piece.data.slice(0, 20));
  });
  return found;
}"""


def test_without_styles_nothing_runs_together(browser: Any) -> None:
    """Every saved output of the notebooks, with all style sheets, classes and style attributes taken off."""
    import nh3

    bundles = [
        "".join(output["data"]["text/html"])
        for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    kinds = {kind for html in bundles for kind in re.findall(r"tex2jax_ignore (vlm-\w+)", html)}
    assert {"vlm-transcript", "vlm-map", "vlm-typed", "vlm-compare"} <= kinds
    sizes = {"img": {"src", "alt", "width", "height"}}
    bare = [
        nh3.clean(html, attributes=sizes, clean_content_tags={"style", "script"}, url_schemes={"data"})
        for html in bundles
    ]
    page = browser.new_context(viewport={"width": 1000, "height": 800}).new_page()
    page.set_content("<hr>".join(bare))
    assert page.evaluate("document.styleSheets.length") == 0
    assert page.evaluate(TOUCHING) == []
    page.set_content("<b>one</b><i>two</i> <b>three</b> <i>four</i>")
    assert page.evaluate(TOUCHING) == ["one|two"], "it would be seen"
    page.context.close()


def test_a_map_is_stopped_by_its_button_and_the_next_cell_runs(lab: Lab, browser: Any) -> None:
    path = write_notebook(
        lab.folder / "map.ipynb",
        fake(*["a word " * 6] * 200, seconds_per_token=0.1),
        "many = [one] * 200",
        "%%vlm --map many -o table --batch-size 1\nWhat is in {picture}?",
        "print('rows', len(table) < 200, len(table) > 0)",
    )
    with browser_page(lab, "map.ipynb", browser=browser) as page:
        run_all(page, wait=False)
        bar = page.locator(".vlm-stopbar")
        page.wait_for_selector(".vlm-map .vlm-map-card")
        shoot(page, "map-stop")
        bar.get_by_role("button", name="Stop").click()
        wait_idle(page)
        shows(output_area(page, 2), "rows are kept; running the cell again asks only the others.")
        reads(output_area(page, 3), "rows True True")
        assert not bar.is_visible(), "it takes no room when the map is over"
        save(page)
    with browser_page(lab, "map.ipynb", browser=browser) as page:  # nor in the notebook that is opened again
        page.wait_for_selector(".vlm-map", state="visible")
        page.wait_for_timeout(1000)
        lacks(output_area(page, 2), "Loading widget")
        assert re.match(r"\s*\d+ of 200 pictures", output_text(page, 2))
    assert "stopped:" in path.read_text()


def test_a_map_on_two_workers_is_watched_and_stopped_by_its_button(lab: Lab, browser: Any) -> None:
    """Thumbnails, rate, time left and workers while it runs; afterwards every row that is kept is counted."""
    write_notebook(
        lab.folder / "cluster.ipynb",
        "%load_ext vlm_magic\nfrom PIL import Image\nImage.new('RGB', (90, 60), 'red').save('red.png')\n"
        "many = ['red.png'] * 5000",
        "%%vlm --map many --on dask --workers 2 -o table\nWhat colour is it?",
        "print(len(table), set(table.answer))",
    )
    with browser_page(lab, "cluster.ipynb", browser=browser) as page:
        run_all(page, wait=False)
        page.wait_for_selector(".vlm-map .vlm-map-card img")
        said = page.locator(".vlm-map-head").inner_text()
        assert re.search(r"of 5,000 pictures.* tokens.*picture.* left.*2 workers", said, re.DOTALL), said
        shoot(page, "cluster-stop")
        page.locator(".vlm-stopbar").get_by_role("button", name="Stop").click()
        wait_idle(page)
        shows(output_area(page, 1), "rows are kept; running the cell again asks only the others.")
        ended = output_text(page, 1)
        counts = re.findall(r"([\d,]+) of 5,000 pictures|stopped: ([\d,]+) rows", ended)
        n = counts[0][0].replace(",", "")
        assert [count[1].replace(",", "") for count in counts[1:]] == [n], ended
        output_area(page, 2).scroll_into_view_if_needed()
        reads(output_area(page, 2), f"{n} {{'red'}}")


def test_a_saved_output_that_a_front_end_does_not_rewrite_is_said_to_be_old(lab: Lab, browser: Any) -> None:
    """A front-end that takes no updates from a click is stood in for by a kernel that sends none."""
    deaf = (
        "from vlm_magic.outputs.live_output import LiveOutput\nshow = LiveOutput.show\n"
        "LiveOutput.show = lambda self, *more: None if self.is_shown else show(self, *more)"
    )
    for name, first in (("follows", "pass"), ("deaf", deaf)):
        write_notebook(
            lab.folder / f"{name}.ipynb",
            fake("one", "two", "one again", "two again"),
            first,
            "%%vlm\nfirst",
            "%%vlm\nsecond",
        )
        with browser_page(lab, f"{name}.ipynb", browser=browser) as page:
            run_all(page)
            set_cell(page, 2, "%%vlm\nfirst, in other words")
            run_cell(page, 2)
            second = page.locator(".vlm-chat").nth(1)
            second.get_by_role("button", name="Update").click()
            shows(second, "two again")
            if name == "deaf":
                shows(second, "was not rewritten here: it still has the earlier answer")
                shoot(page, "not-rewritten")
            else:
                page.wait_for_function(
                    "[...document.querySelectorAll('.vlm-transcript')].some("
                    "(e) => e.textContent.includes('two again'))"
                )
                page.wait_for_timeout(1000)
                lacks(second, "not rewritten")


def test_stretched_brackets_are_as_tall_as_what_they_hold(browser: Any) -> None:
    """Also where no font of the machine has the parts that stretched brackets are made of."""
    formulas = (
        r"\left(\frac{a}{b}\right)",
        r"\left[\frac{1}{1+\frac{1}{x}}\right]",
        r"\left\{\begin{matrix} 1 \\ 2 \\ 3 \\ 4 \end{matrix}\right.",
        r"\begin{bmatrix} a & b \\ c & d \\ e & f \end{bmatrix}",
    )
    html = to_html("\n\n".join(f"$${tex}$$" for tex in formulas) + "\n\nbut $\\left(a + b\\right)$ as it is")
    page = browser.new_context().new_page()
    page.set_content(framed(f'<div class="vlm-body">{html}</div>'))
    boxes = page.locator(".vlm-display [class^=vlm-tall]").evaluate_all(
        """(all) => all.map((e) => {
          const beside = [e.nextElementSibling, e.previousElementSibling];
          const held = beside.find((o) => o && o.tagName !== "mo");
          const boxes = [e, held].map((o) => o.getBoundingClientRect());
          return boxes.flatMap((b) => [b.height, b.top + b.height / 2]);
        })"""
    )
    assert len(boxes) == 7
    for bracket, middle, held, its_middle in boxes:
        assert 0.85 * held < bracket < 1.5 * held
        assert abs(middle - its_middle) < 0.2 * held
    assert page.locator(".vlm-math:not(.vlm-display) [class^=vlm-tall]").count() == 0
    page.context.close()


def tree(page: Any, role: str, name: str) -> list[str]:
    """What Chromium tells a screen reader below a named element: roles, names, live regions, states."""
    session = page.context.new_cdp_session(page)
    nodes = {node["nodeId"]: node for node in session.send("Accessibility.getFullAXTree")["nodes"]}

    def value(node: dict[str, Any], key: str) -> str:
        return str(node.get(key, {}).get("value", ""))

    told = ("live", "busy", "expanded", "checked", "pressed", "selected", "disabled", "modal", "hasPopup")
    lines: list[str] = []

    def walk(node: dict[str, Any], depth: int) -> None:
        kind = value(node, "role")
        states = {p["name"]: p["value"].get("value") for p in node.get("properties", [])}
        has_words = kind not in ("none", "generic", "InlineTextBox") or states.get("live") not in (
            None,
            "off",
        )
        if not node.get("ignored") and has_words:
            marks = "".join(
                f" {k}={states[k]}" for k in told if states.get(k) not in (None, False, "off", "false")
            )
            marks += " collapsed" if states.get("expanded") is False else ""
            lines.append(f"{'  ' * depth}{kind} {value(node, 'name')!r}{marks}")
            depth += 1
        for child in node.get("childIds", []):
            if child in nodes:
                walk(nodes[child], depth)

    starts = [n for n in nodes.values() if value(n, "role") == role and value(n, "name") == name]
    assert starts, f"no {role} {name!r}"
    walk(starts[0], 0)
    return lines


def test_a_screen_reader_is_told_what_there_is_and_what_changes(browser: Any) -> None:
    """Read from Chromium's accessibility tree: roles, names, live regions, states."""
    exchange = question(1, Text("Go"))
    cell = ChatPanel("cell", exchanges=[exchange], prompt_above="Go")
    cell.on_action(lambda _: None)
    page = panel_page(browser, cell)
    words = {"type": "delta", "id": "x1", "seq": 1, "html": "<p>First.</p>", "text": "Seco", "n": 3}
    page.evaluate("message => hear(message)", words)
    under_way = tree(page, "region", "Answer of the model")
    assert "  article 'Answer to: Go' busy=1" in under_way
    assert "    button 'Stop'" in under_way
    spoken = under_way.index(
        "    generic '' live=polite"
    )  # the finished blocks, and nothing else, are read out
    assert under_way[spoken + 1 : spoken + 3] == ["      paragraph ''", "        StaticText 'First.'"]
    assert under_way[spoken + 3 :] == [
        "    paragraph ''",
        "      StaticText 'Seco'",
        "    StaticText '3 tokens'",
    ]
    exchange.reply = reply("First.\n\nSecond.", "interrupted")
    cell.show_exchange(exchange)
    page.evaluate("turn => hear({type: 'turn', turn})", cell.snapshot()[0])
    done = tree(page, "region", "Answer of the model")
    assert "  article 'Answer to: Go'" in done
    assert "    button 'Copy answer'" in done
    assert "    StaticText 'stopped'" in done
    said = done.index("    status '' live=polite")
    assert done[said + 1] == "      StaticText 'Answer complete.'"
    assert "      DisclosureTriangle '2 tokens · 2.4 s' collapsed" in done
    assert [line for line in done if "live=" in line] == [done[said]], "nothing is read out twice"
    page.context.close()

    page = panel_page(browser, conversation())
    whole = [line.strip() for line in tree(page, "region", "Conversation main")]
    for line in ("log 'Turns'", "button 'Send'", "button 'Attach pictures'", "button 'Settings' collapsed"):
        assert line in whole
    assert "textbox 'Message to the model' hasPopup=listbox" in whole
    assert "button 'Show picture 1: before, 640×480 px in full'" in whole
    told = "".join(line[len("StaticText '") : -1] for line in whole if line.startswith("StaticText"))
    assert "What changed between (picture 1) and (picture 2)?" in told
    if SHOTS.is_dir():
        (SHOTS / "told.txt").write_text("\n".join([*under_way, "", *done, "", *whole]))
    page.context.close()


DARK = """:root { --jp-layout-color1: #212121; --jp-layout-color2: #424242; --jp-border-color2: #616161;
  --jp-content-font-color1: #fff; --jp-brand-color1: #64b5f6; --jp-warn-color0: #ffb74d; }"""


def test_axe_finds_nothing_in_what_folds_and_stops(browser: Any) -> None:
    axe = need_part("VLM_MAGIC_AXE", "axe.min.js of axe-core")
    log = "\n".join(f"line {n} of a log" for n in range(40))
    exchange = question(1, Text(log), *(picture(f"p{n}") for n in range(5)), Text("What is wrong?"))
    exchange.reply = reply("Done.")
    stop = StopBar("The map is running", lambda: None)
    cards = [
        Card(f"{n}", f"photo {n}", "a cat", 0.7, 3, 0.2, thumbnail=thumbnail(picture())) for n in range(3)
    ]
    sheet = Sheet(
        cards=cards, rows=cards, n_done=3, n_total=9, figures=["9 tokens", "1.0 s"], is_running=True
    )
    saved = exchange_bundle(exchange, thumbnail=thumbnail)["text/html"] + sheet_bundle(sheet)["text/html"]
    for dark in (False, True):
        for panel in (ChatPanel("cell", exchanges=[exchange], thumbnail=thumbnail), stop):
            page = panel_page(browser, panel)
            page.evaluate(
                "html => document.querySelector('main').insertAdjacentHTML('beforeend', html)", saved
            )
            if dark:
                page.add_style_tag(content=f"{DARK} body {{ background: #111; }}")
            page.add_script_tag(path=axe)
            for summary in page.locator("summary").all():
                summary.click()
            ours = {"include": [[".vlm"]]}
            found = page.evaluate("ours => axe.run(ours, {resultTypes: ['violations']})", ours)["violations"]
            assert [f"{v['id']}: {n['html'][:100]}" for v in found for n in v["nodes"]] == []
            page.context.close()


def test_the_keyboard_alone_goes_everywhere(browser: Any) -> None:
    """As the README writes it: through the head, the turns and the box; into pictures and folds, and back."""
    page = panel_page(browser, conversation())
    at = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"

    def go(key: str, name: str) -> list[str]:
        """Press a key until something of this name has the focus; what was passed."""
        passed: list[str] = []
        while not (passed and passed[-1].startswith(name)):
            page.keyboard.press(key)
            passed.append(str(page.evaluate(at)))
            assert len(passed) < 40, f"{key} does not lead to {name}: {passed}"
        return passed

    passed = go("Tab", "Message to the model")
    wanted = [
        "Settings",
        "Turns",
        "Edit this message",
        "Show picture 1: before",
        "Another answer",
        "86 tokens",
    ]
    found = [name for step in passed for name in wanted if step.startswith(name)]
    assert found == wanted, passed
    page.keyboard.type("Is it round?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Say why.")
    page.keyboard.press("Enter")
    (sent,) = page.evaluate("sent.filter((message) => message.kind === 'send')")
    assert sent["text"] == "Is it round?\nSay why."
    go("Shift+Tab", "86 tokens")
    page.keyboard.press("Enter")
    shows(page.locator("details.vlm-proof"), "31 tokens/s")
    go("Shift+Tab", "Show picture 1: before")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog.vlm-dialog")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.vlm-dialog", state="detached")
    assert page.evaluate(at).startswith("Show picture 1: before")
    go("Shift+Tab", "Edit this message")
    page.keyboard.press("Enter")
    assert (
        page.evaluate("document.activeElement.value") == "What changed between «picture 1» and «picture 2»?"
    )
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON", "back where the edit began"
    page.context.close()


def test_a_deletion_is_undone_and_an_exported_notebook_runs_again(lab: Lab, browser: Any) -> None:
    """Its pictures are attached and made into variables again; names with brackets and spaces are safe."""
    write_notebook(
        lab.folder / "days.ipynb",
        fake("The **first**.", "No."),
        "%%vlm\nWhich is larger, {one} or {two}?",
        "x = %vlm -c other Really?\nprint('[' + x.text + ']')",
        "%vlm_status",
        '%vlm_export -c main "a day [of mine].ipynb"',
        "%vlm_chat -c main",
    )
    with browser_page(lab, "days.ipynb", browser=browser) as page:
        run_all(page)
        shows(output_area(page, 2), "[No.]")
        status = output_text(page, 3)
        assert "main" in status
        assert "other" in status
        turns = page.locator(".vlm-whole .vlm-exchange")
        turns.first.hover()
        turns.first.get_by_role("button", name="Delete this turn").click()
        shows(page.locator(".vlm-whole"), "No turns yet.")
        page.get_by_role("button", name="Bring back").click()
        shows(turns.first.locator(".vlm-blocks"), "The first.")

        again = lab.folder / "a day [of mine].ipynb"
        notebook = json.loads(again.read_text())
        lines = fake("The same again.").splitlines()
        setup = "\n".join(line for line in lines if not line.startswith("one, two"))
        first = next(cell for cell in notebook["cells"] if "load_ext" in "".join(cell["source"]))
        first["source"] = setup
        again.write_text(json.dumps(notebook))
        open_notebook(page, lab, "a%20day%20[of%20mine].ipynb")
        page.wait_for_function(  # shown by their attachments, before anything runs
            """() => [...document.querySelectorAll(".jp-MarkdownOutput img")].map((e) => e.naturalWidth)
              .sort().join() === "60,90" """
        )
        run_all(page)
        shows(page.locator(".vlm-chat"), "The same again.")
        shows(page.locator(".vlm-chat"), "Which is larger, (picture 1) or (picture 2)?")
        assert page.problems == []


def test_tab_offers_what_fits_after_an_option(lab: Lab, browser: Any) -> None:
    """Pictures after ``--map`` and in braces, names of conversations after ``-c``, each with its kind."""
    write_notebook(
        lab.folder / "tab.ipynb",
        fake("Yes.") + '\npictures, numbers = [one, two], [1, 2]\nodd = "words"',
        "%vlm -c other Really?",
        "",
    )
    with browser_page(lab, "tab.ipynb", browser=browser) as page:
        run_cell(page, 0)
        run_cell(page, 1)
        cell = page.locator(".jp-Cell").nth(2)
        cell.locator(".cm-content").click()
        for typed, wanted, kind in (
            ("%vlm -c o", "other", "conversation"),
            ("%vlm --map p", "pictures", "picture"),
            ("%vlm Of {o", "one", "picture"),
        ):
            page.keyboard.press("Control+a")
            page.keyboard.type(typed)
            page.keyboard.press("Tab")
            item = page.locator(".jp-Completer .jp-Completer-item", has_text=wanted)
            item.first.wait_for()
            shows(item.first, kind)
            page.keyboard.press("Escape")
            cell.locator(".cm-content").click()
