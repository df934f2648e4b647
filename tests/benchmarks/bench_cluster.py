"""Measures maps on a local Dask cluster: 500 pictures with the starter, and what a row costs the driver.

    python tests/benchmarks/bench_cluster.py [starter | driver] [ROWS …]

Answers on two warm workers are compared with those of one process; start-up is shown apart. For the driver an
engine answers at once, rows are paths of a few files, and CPU seconds, resident memory and journal bytes are
shown for each number of rows.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from worker_engines import sizes

import vlm_magic
from vlm_magic.starter.making.world.scenes import plan_scene
from vlm_magic.tasks.map.cluster.choose import model_spec
from vlm_magic.tasks.map.cluster.dask import DaskCluster
from vlm_magic.tasks.map.cluster.engine import ClusterEngine
from vlm_magic.tasks.map.mapping import PictureMap

QUESTION = "What colour is the shape?"


def scene_files(folder: Path, n: int) -> list[Path]:
    paths = []
    for i in range(n):
        path = folder / f"{i:04d}.png"
        plan_scene(Random(i), n_objects=1).picture.resize((96, 96)).save(path)
        paths.append(path)
    return paths


def bench_starter(folder: Path, n: int = 500) -> None:
    paths = scene_files(folder, n)
    engine = vlm_magic.load()
    run = {"resume": False, "progress": False}
    vlm_magic.map_pictures(engine, QUESTION, paths[:16], **run)  # warm
    began = time.perf_counter()
    here = vlm_magic.map_pictures(engine, QUESTION, paths, **run)
    here_s = time.perf_counter() - began
    print(f"one process: {n} rows in {here_s:.1f} s, {n / here_s:.0f} rows/s")
    began = time.perf_counter()
    with closing(DaskCluster.started(2)) as cluster:
        print(f"Dask, 2 workers: ready in {time.perf_counter() - began:.1f} s")
        spec = model_spec(None)
        there = ClusterEngine(cluster, spec)
        print(f"model loaded on both: {there.start_up_s:.1f} s")
        for how in ("cold", "warm", "warm"):
            began = time.perf_counter()
            away = PictureMap(there, QUESTION, paths, resume=False)
            answers = {row.position: row.answer for row in away}
            there_s = time.perf_counter() - began
            n_equal = sum(answers[i] == answer for i, answer in enumerate(here.answer))
            print(
                f"  {how}: {there_s:.1f} s, {n / there_s:.0f} rows/s, {here_s / there_s:.2f} times one "
                f"process, {n_equal} of {n} answers equal"
            )


def bench_driver(folder: Path, counts: list[int]) -> None:
    paths = scene_files(folder, 20)
    print("rows     seconds  rows/s  driver CPU ms/row  peak RSS MB  journal bytes/row")
    with closing(DaskCluster.started(2)) as cluster:
        engine = ClusterEngine(cluster, sizes())
        for n in counts:
            rows = [paths[i % 20] for i in range(n)]
            journal = folder / f"{n}.jsonl"
            began, cpu = time.perf_counter(), time.process_time()
            away = PictureMap(engine, QUESTION, rows, journal=journal)
            n_done = sum(not row.error for row in away)
            frame = away.to_frame()
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            assert n_done == len(frame) == n
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{n:<8} {seconds:7.1f} {n / seconds:7.0f} {1000 * cpu / n:18.2f} {rss:12.0f} "
                f"{journal.stat().st_size / n:18.0f}"
            )


def main() -> None:
    what, *numbers = sys.argv[1:] or ["starter"]
    with tempfile.TemporaryDirectory() as folder:
        if what == "driver":
            bench_driver(Path(folder), [int(n) for n in numbers] or [1_000, 10_000, 100_000])
        else:
            bench_starter(Path(folder), *map(int, numbers))


if __name__ == "__main__":
    main()
