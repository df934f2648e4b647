"""Measures maps on a local Dask cluster: 500 pictures with the starter, and what a row costs the driver.

    python tests/benchmarks/bench_cluster.py [starter | driver] [ROWS …]

Four ways take turns on the same pictures, with empty stores and warm models: one process, which encodes the
next pictures on a second processor if there is one; the same on one processor alone; two processes that
know nothing of each other, with half of the pictures each and the same beginning, which is what the machine
itself allows; and two workers of Dask. Ratios are medians of those of the rounds. CPU is that of all
processes of a way, the driver's included; start-up is shown apart, and answers are compared with those of one
process.

For the driver an engine answers at once, rows are paths of a few files, and CPU seconds, resident memory and
journal bytes are shown for each number of rows.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from operator import eq
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from worker_engines import sizes

import vlm_magic
from vlm_magic.inputs.pixels import decoded_cache
from vlm_magic.messages import Engine
from vlm_magic.models.engine import LocalEngine
from vlm_magic.starter.making.world.scenes import plan_scene
from vlm_magic.tasks.map.cluster import worker
from vlm_magic.tasks.map.cluster.choose import model_spec
from vlm_magic.tasks.map.cluster.dask import DaskCluster
from vlm_magic.tasks.map.cluster.engine import ClusterEngine
from vlm_magic.tasks.map.mapping import PictureMap

QUESTION = "What colour is the shape?"
N_ROUNDS = 5
HEAD_START_S = 0.3  # between the word to begin and the beginning, so that it is the same for all


@dataclass(frozen=True)
class Took:
    """What one way took in one round: seconds, CPU seconds of its processes, answers in order."""

    seconds: float
    cpu_s: float
    answers: list[object]


def scene_files(folder: Path, n: int) -> list[Path]:
    paths = []
    for i in range(n):
        path = folder / f"{i:04d}.png"
        plan_scene(Random(i), n_objects=1).picture.resize((96, 96)).save(path)
        paths.append(path)
    return paths


def empty_stores(engine: Engine) -> None:
    """Nothing that was computed or decoded before is found again; models stay loaded."""
    assert isinstance(engine, LocalEngine)
    engine.reuse.clear()
    decoded_cache.forget()


def empty_workers_stores() -> float:
    """Likewise on a worker; its CPU seconds so far."""
    for engine in worker._engines.values():
        empty_stores(engine)
    return time.process_time()


def answers_of(engine: Engine, paths: Sequence[Path]) -> list[object]:
    rows = sorted(PictureMap(engine, QUESTION, paths, resume=False), key=lambda row: row.position)
    return [row.answer for row in rows]


def plain_process(line: Connection) -> None:
    """A process with a model, that maps what it is told, when it is told; None ends it."""
    engine = vlm_magic.load()
    line.send("ready")
    while (told := line.recv()) is not None:
        paths, begins_at, n_processors = told
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(allowed)[:n_processors])
        empty_stores(engine)
        time.sleep(max(0.0, begins_at - time.monotonic()))
        began, cpu = time.monotonic(), time.process_time()
        answers = answers_of(engine, paths)
        os.sched_setaffinity(0, allowed)
        line.send(Took(time.monotonic() - began, time.process_time() - cpu, answers))
    engine.close()


@contextmanager
def plain_processes(n: int) -> Iterator[list[Connection]]:
    """Lines to processes that are ready."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(n)]
    processes = [context.Process(target=plain_process, args=(theirs,), daemon=True) for _, theirs in pairs]
    for process in processes:
        process.start()
    lines = [ours for ours, _ in pairs]
    try:
        for line in lines:
            line.recv()
        yield lines
    finally:
        for line in lines:
            line.send(None)
        for process in processes:
            process.join(timeout=20)


def take_plain(lines: Sequence[Connection], paths: Sequence[Path], n_processors: int | None = None) -> Took:
    """The pictures shared out, in runs of neighbours, among processes that begin at one moment."""
    n_each = -(-len(paths) // len(lines))
    begins_at = time.monotonic() + HEAD_START_S
    for number, line in enumerate(lines):
        line.send((paths[number * n_each : (number + 1) * n_each], begins_at, n_processors))
    took: list[Took] = [line.recv() for line in lines]
    return Took(
        max(one.seconds for one in took),
        sum(one.cpu_s for one in took),
        [answer for one in took for answer in one.answers],
    )


def take_dask(engine: ClusterEngine, paths: Sequence[Path]) -> Took:
    before = engine.cluster.on_each(empty_workers_stores)
    began, cpu = time.monotonic(), time.process_time()
    answers = answers_of(engine, paths)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    after = engine.cluster.on_each(time.process_time)
    return Took(seconds, cpu + sum(after[name] - before[name] for name in before), answers)


def bench_starter(folder: Path, n: int = 500, n_rounds: int = N_ROUNDS) -> None:
    paths = scene_files(folder, n)
    began = time.perf_counter()
    with plain_processes(2) as lines, closing(DaskCluster.started(2)) as cluster:
        print(f"two plain processes and Dask with 2 workers: ready in {time.perf_counter() - began:.1f} s")
        there = ClusterEngine(cluster, model_spec(None))
        print(f"model loaded on both workers: {there.start_up_s:.1f} s")
        ways = {
            "one process": lambda: take_plain(lines[:1], paths),
            "one process on one processor": lambda: take_plain(lines[:1], paths, 1),
            "two plain processes": lambda: take_plain(lines, paths),
            "Dask, 2 workers": lambda: take_dask(there, paths),
        }
        rounds: list[dict[str, Took]] = []
        for number in range(-1, n_rounds):
            names = list(ways)
            took = {name: ways[name]() for name in names[number % 4 :] + names[: number % 4]}
            what = f"round {number + 1}" if number >= 0 else "cold"
            print(f"{what}: " + ", ".join(f"{name} {took[name].seconds:.1f} s" for name in ways), flush=True)
            if number >= 0:
                rounds.append(took)
        for name in ways:
            mine = [took[name] for took in rounds]
            seconds = statistics.median(one.seconds for one in mine)
            cpu_s = statistics.median(one.cpu_s for one in mine)
            n_equal = min(sum(map(eq, took[name].answers, took["one process"].answers)) for took in rounds)
            print(
                f"{name}: {n / seconds:.0f} rows/s, {1000 * cpu_s / n:.1f} ms CPU a row on "
                f"{cpu_s / seconds:.2f} CPUs, {n_equal} of {n} answers equal"
            )
        one, alone, two, dask = ways
        for upper, lower in ((two, alone), (dask, alone), (two, one), (dask, one), (dask, two)):
            found = sorted(round_[lower].seconds / round_[upper].seconds for round_ in rounds)
            print(
                f"{upper} / {lower}: {statistics.median(found):.2f} times as fast "
                f"({found[0]:.2f} to {found[-1]:.2f})"
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
