"""What the engine adds to a request and to a token, and how much faster a map is than a loop of questions.

    python tests/benchmarks/bench_remote.py            # against bare requests, on the same scripted server
    python tests/benchmarks/bench_remote.py map URL [MODEL]    # 200 pictures; its key in BENCH_KEY

The loop asks the same engine one picture after the other. Loop and map get pictures of their own, so that no
server answers from a cache, and take turns; the median ratio is that of one run.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from weather_server import WeatherServer, words

import vlm_magic
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.remote.connect import connect_to
from vlm_magic.starter.making.world.scenes import draw_scene

ASK = (Turn("user", (Text("What is it?"),)),)


def bare(url: str, session: requests.Session) -> float:
    """Seconds of one streamed answer, read and thrown away."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What is it?"}], "stream": True}
    began = time.perf_counter()
    with session.post(f"{url}/chat/completions", json=body, stream=True, timeout=60) as response:
        for _ in response.iter_content(None):
            pass
    return time.perf_counter() - began


def scenes(first: int, n: int) -> list[Picture]:
    """Drawn scenes, no two alike."""
    colours, shapes = ("red", "blue", "green", "yellow"), ("circle", "square", "star")
    made = []
    for i in range(first, first + n):
        one = (colours[i % 4], shapes[i % 3], 0.3, 0.3, 0.2 + 0.0001 * i)
        image = draw_scene([one, (colours[(i + 1) % 4], shapes[(i + 1) % 3], 0.7, 0.7, 0.25)])
        made.append(Picture(None, f"scene {i}", image, f"scene {i}"))
    return made


def bench_map(url: str, model: str | None = None, n: int = 200, n_rounds: int = 3) -> None:
    """Rows a second of a loop and of a map with 8 in flight."""
    engine = connect_to(url, model, key_env="BENCH_KEY" if os.environ.get("BENCH_KEY") else None, at_once=8)
    how, ratios = Settings(max_tokens=16), []
    for picture in scenes(0, 4):  # warm, as is all that a first map imports
        engine.start([Turn("user", (picture, Text("What is it?")))], how).wait(120)
    warm = [picture.rgb for picture in scenes(4, 16)]
    vlm_magic.map_pictures(engine, "What is it?", warm, max_tokens=16, progress=False, resume=False)
    for k in range(n_rounds):
        pictures = scenes(100 + 2 * k * n, n)
        began = time.perf_counter()
        for picture in pictures:
            engine.start([Turn("user", (picture, Text("What is it?")))], how).wait(120)
        loop_s = time.perf_counter() - began
        pictures = [picture.rgb for picture in scenes(100 + (2 * k + 1) * n, n)]
        began, cpu = time.perf_counter(), time.process_time()
        frame = vlm_magic.map_pictures(
            engine, "What is it?", pictures, max_tokens=16, progress=False, resume=False
        )
        map_s, cpu = time.perf_counter() - began, time.process_time() - cpu
        assert frame.error.isna().all()
        ratios.append(loop_s / map_s)
        print(
            f"loop {n / loop_s:.0f} rows/s, map {n / map_s:.0f} rows/s: {ratios[-1]:.1f} times; "
            f"{1000 * cpu / n:.1f} ms of this process's CPU a row; load {os.getloadavg()[0]:.1f}"
        )
    print(f"median {statistics.median(ratios):.1f} times")


def main() -> None:
    """Print medians of both, and their difference."""
    if sys.argv[1:2] == ["map"]:
        bench_map(*sys.argv[2:4])
        return
    with WeatherServer() as server:
        engine, session = connect_to(server.url), requests.Session()
        for n_tokens, n_runs in ((1, 100), (2000, 8)):
            answer = words(*["word "] * n_tokens)
            server.weather(*[answer] * (2 * n_runs))
            mine, plain, first = [], [], []
            for _ in range(n_runs):
                plain.append(bare(server.url, session))
                began = time.perf_counter()
                generating = iter(engine.start(ASK, Settings(max_tokens=4000)))
                next(generating)
                first.append(time.perf_counter() - began)
                for _ in generating:
                    pass
                mine.append(time.perf_counter() - began)
            added_ms = 1000 * (statistics.median(mine) - statistics.median(plain))
            print(
                f"{n_tokens} tokens: bare {1000 * statistics.median(plain):.2f} ms, engine "
                f"{1000 * statistics.median(mine):.2f} ms, adds {added_ms:.2f} ms, "
                f"{added_ms / n_tokens:.4f} ms a token; first words after "
                f"{1000 * statistics.median(first):.1f} ms"
            )


if __name__ == "__main__":
    main()
