"""What the panel costs: bytes on the wire, kernel CPU, first words, Stop; in a real JupyterLab and Chromium.

    python tests/benchmarks/bench_panel.py [--rounds 3] [--stops 20]

Scripted tokens, so that only the panel is measured. Prints a table with the goals beside the figures.
"""

from __future__ import annotations

import argparse
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
from vlm_magic.outputs.panel import ChatPanel
from vlm_magic.outputs.views import PanelView, PlainView

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
    """Counts what the page receives over its websockets."""

    def __init__(self, page: Any) -> None:
        self.bytes, self.frames = 0, 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, payload: str | bytes) -> None:
        self.bytes += len(payload)
        self.frames += 1


def measure(page: Any, wire: Wire, cell: int) -> dict[str, float]:
    """Run one cell; its own figures and those of the wire."""
    wire.bytes = wire.frames = 0
    run_cell(page, cell, wait=False)
    page.wait_for_timeout(100)
    wait_idle(page, PATIENCE_MS)
    page.wait_for_timeout(300)
    lines = [line for line in output_text(page, cell).splitlines() if line.startswith("{")]
    return {**json.loads(lines[-1]), "bytes": wire.bytes, "frames": wire.frames}


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
    "stream(2000, 1e9)",
    "stream(8000, 1e9)",
    "stream(2000, 500)",
    "compare(15)",
    "stream(100, 200)",
    """view, exchange = PanelView(thumbnail=thumbnail), question(1, Text("Go"))
view.begin(exchange); time.sleep(1.5)
at = time.time(); view.push(Chunk("first", 1)); time.sleep(0.5)
exchange.reply = reply("first"); view.finish(exchange); print(at)""",
    "ask('word ' * 2000, 1, tokens_per_s=50, parts=(Text('Go'),)); print(time.time())",
]


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
    yield "2,000 tokens at 200/s, bytes received", f"{median(m['bytes'] for m in paced):,.0f}", "≤ 250,000"
    yield "2,000 tokens at 200/s, kernel CPU s", f"{median(m['cpu'] for m in paced):.2f}", "≤ 0.40"
    lengths = [(measure(page, wire, 2), measure(page, wire, 3)) for _ in range(rounds)]
    for of, goal in (("bytes", "≤ 4.5x"), ("cpu", "≤ 5x")):
        short, long = (median(m[of] for m in column) for column in zip(*lengths, strict=True))
        yield f"8,000 against 2,000 tokens, {of}", f"{long / short:.1f}x", goal
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
    options = parser.parse_args()
    began = time.perf_counter()
    print(f"{'what':<42} {'measured':<20} goal")
    for what, figure, goal in run(options.rounds, options.stops):
        print(f"{what:<42} {figure:<20} {goal}", flush=True)
    print(f"({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
