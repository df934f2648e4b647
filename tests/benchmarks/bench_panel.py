"""What the panel costs: bytes on the wire, kernel CPU, first words, Stop; in a real JupyterLab and Chromium.

    python tests/benchmarks/bench_panel.py [--rounds 3] [--stops 20] [--turns 500]

Scripted tokens, so that only the panel is measured. Prints a table with the goals beside the figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [
    str(Path(__file__).resolve().parents[1] / "support"),
    str(Path(__file__).resolve().parents[2]),
]

from lab import (  # noqa: E402  # the path comes first
    browser_page,
    output_text,
    run_cell,
    running_browser,
    running_lab,
    wait_idle,
    write_notebook,
)

SETUP = """import json, queue, statistics, threading, time
import numpy as np
from panel_scenes import *
from vlm_magic.outputs.panel.widget import ChatPanel
from vlm_magic.outputs.answer_views import PanelView, PlainView

weights = np.random.rand(500, 500).astype("float32")
WORDS = ["token"] + [" token"] * 10 + [" end.\\n\\n"]  # a paragraph of twelve tokens

def stream(n_tokens, tokens_per_s, view=None):
    exchange = question(1, Text("Go"))
    view = view or PanelView(thumbnail=thumbnail, model="fake")
    view.begin(exchange)
    time.sleep(1.5)  # the page is there before the first token
    cpu, began, said = time.process_time(), time.perf_counter(), []
    for n in range(n_tokens):
        piece = WORDS[n % 12]
        said.append(piece)
        view.push(Chunk(piece, n + 1))
        wait = began + (n + 1) / tokens_per_s - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
    exchange.reply = reply("".join(said))
    took = time.perf_counter() - began
    view.finish(exchange)
    time.sleep(0.3)
    print(json.dumps({"cpu": time.process_time() - cpu, "rate": n_tokens / took, "took": took}))

class Nothing(PlainView):
    def begin(self, exchange): pass
    def push(self, chunk): pass
    def finish(self, exchange): pass

def work(n_tokens, view):
    '''A model that keeps one core busy, a few milliseconds for each token, in a thread of its own.'''
    made, exchange = queue.Queue(), question(1, Text("Go"))
    view.begin(exchange)
    time.sleep(0.5)
    def generate():
        began = time.perf_counter()
        for n in range(n_tokens):
            np.tanh(weights @ weights)
            made.put(WORDS[n % 12])
        made.put(n_tokens / (time.perf_counter() - began))
    threading.Thread(target=generate).start()
    said = []
    while isinstance(piece := made.get(), str):
        said.append(piece)
        view.push(Chunk(piece, len(said)))
    exchange.reply = reply("".join(said))
    view.finish(exchange)
    time.sleep(0.6)  # the page is done with it
    return piece

def compare(n_rounds):
    rates = []
    for n in range(n_rounds):
        kinds = [Nothing, lambda: PanelView(thumbnail=thumbnail)]
        pair = {kind: work(600, kind()) for kind in (kinds if n % 2 else kinds[::-1])}  # of 1.5 s each
        rates.append([pair[kind] for kind in kinds])
    without, with_panel = (statistics.median(column) for column in zip(*rates))
    print(json.dumps({"rate": with_panel / without, "cpu": 0, "at": without}))
"""


PATIENCE_MS = 600_000  # of one measurement, should the machine be busy


class Wire:
    """Counts what the page receives over its websockets; ``words`` are what panels send while they live.

    The rest is paid once for a cell, however long its answer: the panel's code and style (34 kB), and the
    saved output (62 kB for 2,000 tokens: html with its style, Markdown, plain text, the record).
    """

    def __init__(self, page: Any) -> None:
        self.bytes, self.words, self.frames = 0, 0, 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, payload: str | bytes) -> None:
        self.bytes += len(payload)
        sent = payload.encode() if isinstance(payload, str) else payload
        self.words += len(payload) if b'"method": "custom"' in sent or b'"method":"custom"' in sent else 0
        self.frames += 1


def measure(page: Any, wire: Wire, cell: int) -> dict[str, float]:
    """Run one cell; its own figures and those of the wire."""
    wire.bytes = wire.words = wire.frames = 0
    run_cell(page, cell, wait=False)
    page.wait_for_timeout(100)
    wait_idle(page, PATIENCE_MS)
    page.wait_for_timeout(300)
    lines = [line for line in output_text(page, cell).splitlines() if line.startswith("{")]
    return {**json.loads(lines[-1]), "bytes": wire.bytes, "words": wire.words, "frames": wire.frames}


def first_words_ms(page: Any, cell: int) -> float:
    """From the push of the first token to words in the page, by the two clocks of one machine."""
    page.evaluate(
        """() => {
          window.firstWords = null;
          new MutationObserver((_, watcher) => {
            const words = [...document.querySelectorAll(".vlm-streaming")];
            if (words.length) { window.firstWords = Date.now() / 1000; watcher.disconnect(); }
          }).observe(document.body, {subtree: true, childList: true, attributes: true});
        }"""
    )
    run_cell(page, cell)
    pushed = float(output_text(page, cell).strip().splitlines()[-1])
    return (page.evaluate("window.firstWords") - pushed) * 1000


def stop_ms(page: Any, cell: int) -> float:
    """From a click on Stop to the end of the generation, by the kernel's clock for both."""
    run_cell(page, cell, wait=False)
    page.locator(".jp-Cell").nth(cell).locator(".vlm-streaming").wait_for()
    page.wait_for_timeout(400)
    stop = page.locator(".jp-Cell").nth(cell).locator(".vlm-stop")
    clicked = stop.evaluate("button => { const now = Date.now() / 1000; button.click(); return now; }")
    wait_idle(page)
    ended = float(output_text(page, cell).strip().splitlines()[-1])
    return (ended - clicked) * 1000


ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
CELLS = [
    SETUP,
    "stream(2000, 200)",
    "stream(8000, 1e9)",  # 2,000 take 4 ms: less than a thread's turn, so that their time says nothing
    "stream(32000, 1e9)",
    "stream(2000, 500)",
    "compare(15)",
    "stream(100, 200)",
    """view, exchange = PanelView(thumbnail=thumbnail), question(1, Text("Go"))
view.begin(exchange); time.sleep(1.5)
at = time.time(); view.push(Chunk("first", 1)); time.sleep(0.5)
exchange.reply = reply("first"); view.finish(exchange); print(at)""",
    "ask('word ' * 2000, 1, tokens_per_s=50, parts=(Text('Go'),)); print(time.time())",
]


LONG = """%load_ext vlm_magic
import time
from panel_setup import *
from vlm_magic.workspace import current
engine = script(*['An answer of some words.'] * 99)
def fill(n):
    current().conversations.sessions.clear()
    long_conversation(n)
"""
TYPE = """() => {
  const box = document.querySelector(".vlm-whole .vlm-composer .vlm-input");
  window.keys = [];
  box.addEventListener("keydown", ({timeStamp}) => requestAnimationFrame(() => {
    const channel = new MessageChannel();  // after the frame is drawn
    channel.port1.onmessage = () => window.keys.push(performance.now() - timeStamp);
    channel.port2.postMessage(0);
  }));
  box.focus();
}"""
SCROLL = """({selector, seconds, speed}) => new Promise((done) => {
  const list = document.querySelector(selector);
  list.scrollTop = list.scrollHeight;
  const began = performance.now(), at = [];
  const step = (now) => {
    at.push(now);
    const gone = (performance.now() - began) / 1000, end = list.scrollHeight - list.clientHeight;
    if (gone >= seconds) return done({frames: at.length / seconds,
      worst: Math.max(...at.slice(1).map((time, n) => time - at[n])), n: at.length});
    // To the top and back, or as far as a steady hand comes in the time.
    const back = Math.min(gone, seconds - gone);
    list.scrollTop = end - (speed || (2 * end) / seconds) * back;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
# What this browser on this machine can do at best at the moment: plain rows of the same height.
PLAIN_ROWS = """() => {
  const list = document.querySelector(".vlm-whole .vlm-list"), plain = document.createElement("div");
  plain.id = "plain";
  plain.style.cssText = `height:${list.clientHeight}px;overflow-y:auto;background:#fff`;
  for (let at = 0; at < list.scrollHeight; at += 180) {
    const row = document.createElement("div");
    row.style.height = "180px";
    row.textContent = `Row ${at}`;
    plain.append(row);
  }
  list.closest(".vlm-whole").before(plain);
}"""
LAID_OUT = """() => new Promise((done) => {
  const list = document.querySelector(".vlm-whole .vlm-list");
  let [height, times] = [0, 0];
  const look = () => {
    times = list.scrollHeight === height ? times + 1 : 0;
    height = list.scrollHeight;
    if (times > 4) done();
    else setTimeout(look, 500);
  };
  look();
})"""
N_KEYS = 40


def long_ones(turns: int) -> Iterator[tuple[str, str, str]]:
    """A short conversation and a long one, with a picture in each turn: open, type, scroll, ask."""
    with tempfile.TemporaryDirectory() as folder:
        notebooks = Path(folder) / "notebooks"
        notebooks.mkdir()
        with running_lab(notebooks, environment=ONE_THREAD) as lab, running_browser() as browser:
            for n in (5, turns):
                name = f"long-{n}.ipynb"
                cells = (
                    LONG,
                    f"fill({n})",
                    "%vlm_chat",
                    "before = time.process_time()",
                    "print(time.process_time() - before)",
                )
                write_notebook(notebooks / name, *cells)
                with browser_page(lab, name, browser=browser) as page:
                    wire = Wire(page)
                    page.reload()
                    page.wait_for_selector(".jp-Notebook .jp-Cell")
                    wait_idle(page)
                    run_cell(page, 0)
                    run_cell(page, 1)
                    yield from _long_rows(page, wire, n)


class Busy:
    """CPU time of the page's main thread, which a busy machine makes no longer."""

    def __init__(self, page: Any) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.last_ms = self._read()

    def _read(self) -> float:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(float(m["value"]) for m in metrics if m["name"] == "TaskDuration")

    def since_ms(self) -> float:
        """Milliseconds since this was asked before."""
        before, self.last_ms = self.last_ms, self._read()
        return self.last_ms - before


def _long_rows(page: Any, wire: Wire, n: int) -> Iterator[tuple[str, str, str]]:
    busy = Busy(page)
    began = time.perf_counter()
    run_cell(page, 2, wait=False)
    page.wait_for_selector(".vlm-whole .vlm-exchange >> nth=4", state="attached")
    yield f"{n} turns: the latest are on the page, s", f"{time.perf_counter() - began:.1f}", ""
    yield f"{n} turns: until then, main thread CPU s", f"{busy.since_ms() / 1000:.1f}", ""
    page.wait_for_function(f"document.querySelectorAll('.vlm-whole .vlm-exchange').length === {n}")
    wait_idle(page)
    page.evaluate(LAID_OUT)
    yield f"{n} turns: all of them laid out, main thread CPU s", f"{busy.since_ms() / 1000:.1f}", ""
    page.evaluate(TYPE)
    for key in "abcdefgh " * (N_KEYS // 9 + 1):
        page.keyboard.press("Space" if key == " " else key)
    keys = sorted(page.evaluate("window.keys"))
    yield f"{n} turns: a key, main thread CPU ms", f"{busy.since_ms() / len(keys):.1f}", ""
    yield (
        f"{n} turns: a key until it is drawn, ms",
        f"{statistics.median(keys):.0f} (9 of 10 within {keys[len(keys) * 9 // 10]:.0f})",
        "< 50",
    )
    yield from _scroll_rows(page, n)
    run_cell(page, 3)
    page.locator(".vlm-composer .vlm-input").fill("One more?")
    wire.bytes = wire.frames = 0
    began = time.perf_counter()
    page.keyboard.press("Enter")
    page.wait_for_selector(
        f".vlm-whole .vlm-exchange >> nth={n} >> .vlm-foot >> text=token", state="attached"
    )
    took = time.perf_counter() - began
    page.wait_for_timeout(1500)
    run_cell(page, 4)
    cpu = float(output_text(page, 4).strip().splitlines()[-1])
    yield f"{n} turns: one more question, s", f"{took:.2f}", ""
    yield f"{n} turns: one more question, kernel CPU s", f"{cpu:.2f}", ""
    yield f"{n} turns: one more question, bytes received", f"{wire.bytes:,.0f}", ""


def _scroll_rows(page: Any, n: int) -> Iterator[tuple[str, str, str]]:
    """Scrolling as people do, and as the scrollbar goes; each beside plain rows of the same height."""
    ours, seconds = {}, 6
    for selector in (".vlm-whole .vlm-list", "#plain"):
        if selector == "#plain":
            page.evaluate(PLAIN_ROWS)
        for speed, how in ((3000, "3,000 px/s"), (0, "all in 3 s")):
            page.wait_for_timeout(500)
            busy = Busy(page)
            scrolled = page.evaluate(SCROLL, {"selector": selector, "seconds": seconds, "speed": speed})
            cpu_ms, frames = busy.since_ms() / scrolled["n"], scrolled["frames"]
            if selector != "#plain":
                ours[how] = frames
                yield f"{n} turns, {how}: a frame, main thread CPU ms", f"{cpu_ms:.1f}", "< 33"
                worst = f"{frames:.0f} (worst {scrolled['worst']:.0f} ms)"
                yield f"{n} turns, {how}: frames a second", worst, "≥ 30"
            else:
                share = f"{frames:.0f}: {ours[how] / frames:.2f}x ({cpu_ms:.1f} ms)"
                yield f"{n} turns, {how}: frames of plain rows, ours", share, ""
    page.evaluate("document.querySelector('#plain').remove()")


def run(rounds: int, n_stops: int) -> Iterator[tuple[str, str, str]]:
    """All measurements, each as soon as it is there: what, figure, goal."""
    with tempfile.TemporaryDirectory() as folder:
        notebooks = Path(folder) / "notebooks"
        notebooks.mkdir()
        write_notebook(notebooks / "bench.ipynb", *CELLS)
        with (
            running_lab(notebooks, environment=ONE_THREAD) as lab,
            running_browser() as browser,
            browser_page(lab, "bench.ipynb", browser=browser) as page,
        ):
            wire = Wire(page)
            page.reload()
            page.wait_for_selector(".jp-Notebook .jp-Cell")
            wait_idle(page)
            run_cell(page, 0)
            run_cell(page, 6)  # warm: imports, the first widget of the page
            yield from _rows(page, wire, rounds, n_stops)


def _rows(page: Any, wire: Wire, rounds: int, n_stops: int) -> Iterator[tuple[str, str, str]]:
    median = statistics.median
    paced = [measure(page, wire, 1) for _ in range(rounds)]
    whole, words = (median(m[of] for m in paced) for of in ("bytes", "words"))
    yield "2,000 tokens at 200/s, bytes of the answer under way", f"{words:,.0f}", "≤ 250,000"
    yield "2,000 tokens at 200/s, all bytes (panel, saved output)", f"{whole:,.0f}", "≤ 250,000"
    yield "2,000 tokens at 200/s, kernel CPU s", f"{median(m['cpu'] for m in paced):.2f}", "≤ 0.40"
    lengths = [(measure(page, wire, 2), measure(page, wire, 3)) for _ in range(rounds)]
    for of, goal in (("bytes", "≤ 4.5x"), ("cpu", "≤ 5x")):
        short, long = (median(m[of] for m in column) for column in zip(*lengths, strict=True))
        yield f"32,000 against 8,000 tokens, {of}", f"{long / short:.1f}x", goal
    fast = measure(page, wire, 4)
    shown = page.locator(".jp-Cell").nth(4).locator(".vlm-chat .vlm-blocks").inner_text()
    yield "tokens shown of 2,000 at 500/s", f"{sum(shown.count(word) for word in ('token', 'end.'))}", "2000"
    yield "rate kept at 500/s", f"{fast['rate']:.0f}/s", "≥ 475"
    firsts = [first_words_ms(page, 7) for _ in range(rounds)]
    yield "first words on the screen, ms", f"{median(firsts):.0f} (max {max(firsts):.0f})", "≤ 100"
    stops = [stop_ms(page, 8) for _ in range(n_stops)]
    yield (
        f"Stop in a blocking cell, ms, {n_stops} of {n_stops}",
        f"{median(stops):.0f} (max {max(stops):.0f})",
        "< 300",
    )
    kept = measure(page, wire, 5)["rate"]
    yield "rate with the panel against without", f"{kept:.3f}", "≥ 0.95"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stops", type=int, default=3, help="clicks on Stop")
    parser.add_argument("--turns", type=int, default=500, help="of the long conversation")
    parser.add_argument("--long-only", action="store_true", help="measure long conversations alone")
    options = parser.parse_args()
    began = time.perf_counter()
    print(f"{'what':<54} {'measured':<26} goal")
    streams = iter(()) if options.long_only else run(options.rounds, options.stops)
    for what, figure, goal in itertools.chain(streams, long_ones(options.turns)):
        print(f"{what:<54} {figure:<26} {goal}", flush=True)
    print(f"({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
