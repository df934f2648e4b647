"""Maps on a local cluster of two workers: the same answers as here, and the faults of clusters.

On Dask, and on Ray where it is installed: its start takes 10 to 40 s, and its processes listen beyond
127.0.0.1, so that it is no part of what the tests draw. By hand, on a machine that nobody reaches:

    pip install 'ray[client]' && python -m pytest tests/test_cluster.py -k ray
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any, Literal

import pandas as pd
import pytest
import worker_engines
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from weather_server import WeatherServer
from worker_engines import KILLS, SLOW, UNLUCKY, sizes

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import ClusterError, ModelNotFoundError, OptionError, VLMError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Settings
from vlm_magic.outputs.results.cards import Card
from vlm_magic.outputs.results.map_view import MapView
from vlm_magic.remote.connect import connect_to
from vlm_magic.tasks.map.cluster import worker
from vlm_magic.tasks.map.cluster.choose import cluster_engine, cluster_of, model_spec
from vlm_magic.tasks.map.cluster.dask import DaskCluster
from vlm_magic.tasks.map.cluster.engine import ClusterEngine
from vlm_magic.tasks.map.cluster.protocol import Outcome
from vlm_magic.tasks.map.cluster.ray import RayCluster, _kept
from vlm_magic.tasks.map.cluster.travel import MapTask, RowPlace, RowTask
from vlm_magic.tasks.map.mapping import PictureMap

pytest.importorskip("distributed", reason="dask.distributed is not installed")

# Dask leaves sockets of workers that were killed to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

KINDS = ["dask", *(["ray"] if importlib.util.find_spec("ray") else [])]
if "ray" in KINDS:  # it leaves log files and its own processes to the garbage collector
    pytestmark += [
        pytest.mark.filterwarnings("ignore::ResourceWarning"),
        pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
        pytest.mark.filterwarnings("ignore::FutureWarning"),
    ]

QUESTION = "What colour is the shape?"


@pytest.fixture(scope="module", params=KINDS)
def clusters(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    if request.param == "ray":
        with ray_session() as session:
            yield [session]
        return
    started = [DaskCluster.started(2)]
    yield started
    started[-1].close()


@contextmanager
def ray_session() -> Iterator[RayCluster]:
    """A session as a person begins it, with two workers."""
    cluster = RayCluster.started(2)
    cluster._is_own = False  # so that every map finds it, and none ends it
    _kept[str(cluster._ray.get_runtime_context().get_job_id())] = cluster._hands
    yield cluster
    cluster._ray.shutdown()
    _kept.clear()


@pytest.fixture
def client(clusters: list[Any]) -> Any:
    """As a person has it, with both workers alive; a busy machine may be too slow to bring one back."""
    if isinstance(clusters[-1], RayCluster):
        clusters[-1]._wait_for_workers()
        return "ray"
    try:
        clusters[-1]._client.wait_for_workers(2, timeout=20)
    except TimeoutError:
        clusters[-1].close()
        clusters.append(DaskCluster.started(2))
    return clusters[-1]._client


def files_of(folder: Path, widths: list[int]) -> list[Path]:
    """Pictures of these widths, each of another height."""
    paths = []
    for n, width in enumerate(widths):
        path = folder / f"{n:04d}.png"
        Image.new("RGB", (width, 20 + n), (n % 256, 0, 0)).save(path)
        paths.append(path)
    return paths


def sizes_of(paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        with Image.open(path) as image:
            found.append(f"{image.width}x{image.height}")
    return found


def a_workers_pid(client: Any) -> int:
    if client == "ray":
        (hands,) = _kept.values()
        return int(hands[0].who.rpartition(" ")[2])
    return int(client.submit(os.getpid, pure=False, priority=10).result())


def run(pictures: object, on: Any, model: Any = None, **more: Any) -> pd.DataFrame:
    return vlm_magic.map_pictures(
        model if model is not None else sizes(), QUESTION, pictures, on=on, progress=False, **more
    )


# ---- the same map ----------------------------------------------------------------------------------------


def scene_files(folder: Path, n: int) -> list[Path]:
    from vlm_magic.starter.making.world.scenes import plan_scene

    paths = []
    for i in range(n):
        path = folder / f"scene {i:02d}.png"
        plan_scene(Random(f"cluster {i}"), n_objects=1).picture.save(path)
        paths.append(path)
    return paths


def test_answers_order_choices_types_and_journals_are_those_of_one_machine(
    client: Any, tmp_path: Path
) -> None:
    """Begun here and finished there, and the other way round, without one question asked twice."""
    paths = scene_files(tmp_path, 24)
    engine = vlm_magic.load()
    forms: list[dict[str, Any]] = [
        {},
        {"choices": ["red", "blue", "green", "yellow"]},
        {"type": Literal["red", "blue", "green", "yellow"], "examples": [(paths[0], "red")]},
    ]
    for number, form in enumerate(forms):
        question = "What colour is the shape in {picture}, called {row.name}?"
        table = [{"name": path.stem} for path in paths]
        common: dict[str, Any] = {"table": table, "progress": False, **form}
        here = vlm_magic.map_pictures(engine, question, paths, resume=False, **common)
        one, two = tmp_path / f"one {number}.jsonl", tmp_path / f"two {number}.jsonl"
        there = vlm_magic.map_pictures(engine, question, paths, on=client, journal=one, **common)
        assert list(there.answer) == list(here.answer)
        assert list(there.picture) == [path.name for path in paths]
        if "choices" in form:
            assert list(there.probability) == pytest.approx(list(here.probability), abs=1e-4)
        kept = vlm_magic.map_pictures(engine, question, paths, journal=one, **common)
        assert list(kept.answer) == list(here.answer)
        assert len(one.read_text().splitlines()) == 25
        half = {**common, "table": table[:12]}
        vlm_magic.map_pictures(engine, question, paths[:12], journal=two, **half)
        whole = vlm_magic.map_pictures(None, question, paths, on=client, journal=two, **common)
        assert list(whole.answer) == list(here.answer)
        assert len(two.read_text().splitlines()) == 25


def test_every_kind_of_source_travels(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths as they are and relative, bytes, dataset cells, lists, and pictures of this process."""
    paths = files_of(tmp_path, [30, 31, 32])
    monkeypatch.chdir(tmp_path)
    data = paths[1].read_bytes()
    image = Image.new("RGB", (32, 22))
    sources = [
        paths[0],
        paths[0].name,
        str(paths[0]),
        data,
        {"bytes": data, "path": None},
        image,
        [paths[0], data],
    ]
    found = run(sources, client)
    assert list(found.answer) == ["30x20", "30x20", "30x20", "31x21", "31x21", "32x22", "31x21"]
    assert list(run(str(tmp_path / "*.png"), client).answer) == ["30x20", "31x21", "32x22"]


def test_the_driver_opens_no_picture_that_workers_can_open(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files_of(tmp_path, [30, 31])
    monkeypatch.setattr("vlm_magic.tasks.map.cluster.run.open_pictures", lambda *_: 1 / 0)
    assert list(run(paths, client).answer) == ["30x20", "31x21"]
    with pytest.raises(ZeroDivisionError):
        run([Image.new("RGB", (30, 20))], client)


def test_paths_of_a_store_are_opened_by_the_workers(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And found again by the store's own mark: nothing is asked twice."""
    from fsspec.registry import _registry

    monkeypatch.setattr("vlm_magic.tasks.map.cluster.run.open_pictures", lambda *_: 1 / 0)
    (tmp_path / "bucket").mkdir()
    files_of(tmp_path / "bucket", [30, 31, 32])
    worker_engines.register_store(str(tmp_path))
    model = worker_engines.sizes_with_store(str(tmp_path))
    journal = tmp_path / "rows.jsonl"
    try:
        for _ in range(2):
            found = run("s3://bucket/*.png", client, model, journal=journal)
            assert list(found.answer) == ["30x20", "31x21", "32x22"]
        assert len(journal.read_text().splitlines()) == 4
    finally:
        _registry.pop("s3", None)


def test_a_worker_whose_model_changed_meanwhile_ends_the_map(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slice says which model answered; what came before is kept."""
    paths = files_of(tmp_path, [40] * 30)
    journal = tmp_path / "rows.jsonl"
    with cluster_engine(client, sizes()) as engine:
        away = iter(PictureMap(engine, QUESTION, paths, journal=journal, batch_size=1))
        rows = [next(away) for _ in range(5)]
        engine.identity["weights"] = "another checkpoint"
        with pytest.raises(ClusterError, match="another model's weights") as caught:
            rows.extend(away)  # keeps those that come before the error
    assert caught.value.have == "there same, here another checkpoint"
    assert len(journal.read_text().splitlines()) == 1 + len(rows) < 31


def test_words_about_the_picture_itself_are_put_together_here(client: Any, tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    vlm_magic.map_pictures(
        sizes(traces=str(tmp_path / "traces")),
        "{picture} is {picture.size_px[0]} wide",
        files_of(tmp_path, [44]),
        on=client,
        progress=False,
    )
    assert [path.read_text() for path in (tmp_path / "traces").iterdir()] == [" is 44 wide"]


def test_what_cannot_be_read_is_a_row_with_the_same_error_as_here(client: Any, tmp_path: Path) -> None:
    paths: list[Any] = [*files_of(tmp_path, [30]), tmp_path / "gone.png", None]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture at all")
    there = run([*paths, broken], client)
    here = vlm_magic.map_pictures(
        worker_engines.SizeEngine(), QUESTION, [*paths, broken], resume=False, progress=False
    )
    assert list(there.error.dropna()) == list(here.error.dropna())
    assert list(there.error.notna()) == [False, True, True, True]


# ---- who may answer --------------------------------------------------------------------------------------


def test_a_model_that_does_not_load_is_the_workers_own_error(client: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        run(files_of(tmp_path, [30]), client, worker_engines.missing())
    assert str(caught.value).splitlines()[1:] == ["  have: nothing there", "  try:  %vlm_load starter"]


def test_other_versions_or_another_model_are_refused_with_both(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files_of(tmp_path, [30])
    cluster = cluster_of(client)
    with pytest.raises(ClusterError, match="another model's weights") as caught:
        ClusterEngine(cluster, sizes(), {"name": "sizes", "weights": "mine"})
    assert caught.value.have == "there same, here mine"
    real = worker.versions()
    monkeypatch.setattr(worker, "versions", lambda: {**real, "torch": "1.0"})
    with pytest.raises(ClusterError, match="another torch") as caught:
        run(paths, client)
    assert caught.value.have == f"there {real['torch']}, here 1.0"


@pytest.mark.parametrize(
    ("on", "n_workers", "error"),
    [
        ("dsk", None, OptionError),
        ("tcp://127.0.0.1:9", None, ClusterError),
        ("tcp://127.0.0.1:9", 2, OptionError),
        ("dask", 0, OptionError),
        (object(), None, OptionError),
    ],
)
def test_what_is_no_cluster_is_said_in_three_lines(
    on: object, n_workers: int | None, error: type[VLMError], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_magic.tasks.map.cluster.dask._CONNECT_S", 1.0)
    with pytest.raises(error) as caught:
        cluster_of(on, n_workers)
    assert caught.value.have
    assert caught.value.hint


def test_a_local_cluster_listens_here_alone_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses are those of the operating system, not of Dask; the environment stays our own."""
    import psutil

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = dict(os.environ)
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}
    with cluster_engine("dask", sizes(), 1) as engine:
        mine = [child for child in me.children(recursive=True) if child.pid not in before]
        listening = {
            connection.laddr.ip
            for process in (me, *mine)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert engine.start_up_s > 0
        assert dict(os.environ) == environment
        # Else a model's memory is given back after every operation, and a row costs half as much again.
        assert set(engine.cluster.on_each(os.getenv, "MALLOC_TRIM_THRESHOLD_").values()) == {None}
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        assert set(engine.cluster.on_each(os.getenv, "OMP_NUM_THREADS").values()) == {str(n_cores)}
    assert dict(os.environ) == environment
    assert listening == {"127.0.0.1"}
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert [process for process in alive if "resource_tracker" not in " ".join(process.cmdline())] == []


# ---- faults ----------------------------------------------------------------------------------------------


def answered(folder: Path) -> Counter[str]:
    """How often each row was answered, by the traces that engines left."""
    return Counter(path.name.split("-")[0] for path in folder.iterdir() if "x" in path.name)


def test_a_killed_worker_costs_no_row_and_no_answer_twice(client: Any, tmp_path: Path) -> None:
    paths = files_of(tmp_path, [40] * 80)
    journal = tmp_path / "rows.jsonl"
    n_seen = 0

    def kill_once(row: Any) -> None:
        nonlocal n_seen
        n_seen += 1
        if n_seen == 12:
            os.kill(a_workers_pid(client), signal.SIGKILL)

    found = run(paths, client, sizes(seconds=0.02), journal=journal, on_row=kill_once)
    assert list(found.answer) == sizes_of(paths)
    lines = journal.read_text().splitlines()
    assert len(lines) == 81
    assert len({line.split('"key": "')[1].split('"')[0] for line in lines[1:]}) == 80


def test_a_row_that_kills_its_worker_is_an_error_after_three_tries(client: Any, tmp_path: Path) -> None:
    paths = files_of(tmp_path, [40, 41, KILLS, 42, 43, 44])
    found = run(paths, client)
    rest = [n for n in range(6) if n != 2]
    assert list(found.answer[rest]) == [sizes_of(paths)[n] for n in rest]
    assert "worker died" in found.error[2]
    assert pd.isna(found.answer[2])


def test_a_row_whose_worker_died_once_is_answered(client: Any, tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    paths = files_of(tmp_path, [40, UNLUCKY, 41])
    found = run(paths, client, sizes(traces=str(tmp_path / "traces")))
    assert list(found.answer) == sizes_of(paths)
    assert (tmp_path / "traces" / "unlucky").exists()


def test_memory_that_runs_out_on_a_worker_halves_its_batches(client: Any, tmp_path: Path) -> None:
    paths = files_of(tmp_path, [40] * 20)
    with cluster_engine(client, sizes(most_rows=3)) as engine:
        away = PictureMap(engine, QUESTION, paths, settings=Settings(), batch_size=8, resume=False)
        assert {row.text for row in away} == set(sizes_of(paths))
        assert any("halved" in note for note in away.notes)


def test_slow_rows_hold_nobody_up(client: Any, tmp_path: Path) -> None:
    """One worker is at the slow row; the rest is there long before it."""
    paths = files_of(tmp_path, [SLOW, *[40] * 30])
    with cluster_engine(client, sizes()) as engine:
        away = iter(PictureMap(engine, QUESTION, paths, batch_size=1, resume=False))
        began = time.monotonic()
        first = [next(away) for _ in range(30)]
        assert time.monotonic() - began < 20
        assert all(row.position for row in first)
        away.close()  # type: ignore[attr-defined]


class HereCluster:
    """A cluster of this process: each function is called as soon as it is sent off."""

    dashboard = ""
    n_tries = 1

    def __init__(self, n_workers: int) -> None:
        self.name = f"{n_workers} workers here"
        self.n_rows: list[int] = []
        self._n_workers = n_workers
        self._ended: list[Outcome] = []

    def submit(self, work: Any, *arguments: Any) -> int:
        self.n_rows.append(len(arguments[1]))
        self._ended.append(Outcome(len(self.n_rows), work(*arguments)))
        return len(self.n_rows)

    def completed(self, timeout_s: float) -> list[Outcome]:
        ended, self._ended = self._ended, []
        return ended

    def on_each(self, work: Any, *arguments: Any) -> dict[str, Any]:
        return {"here": work(*arguments)}

    def tell(self, work: Any, *arguments: Any) -> None:
        work(*arguments)

    def n_workers(self) -> int:
        return self._n_workers

    def cancel(self) -> None:
        self._ended.clear()

    def close(self) -> None:
        worker.forget()


def test_slices_grow_and_the_last_rows_are_shared_out(tmp_path: Path) -> None:
    """No worker is left with a long slice when the others have nothing to do."""
    cluster = HereCluster(2)
    with closing(cluster):
        away = PictureMap(ClusterEngine(cluster, sizes()), QUESTION, files_of(tmp_path, [9] * 400))
        assert [row.position for row in away] == list(range(400))
    assert cluster.n_rows[:2] == [4, 4]
    assert max(cluster.n_rows) > 50
    n_left = 400
    for n in cluster.n_rows:
        assert n <= max(16, n_left // 4)
        n_left -= n
    assert n_left == 0


def test_a_worker_has_its_next_rows_before_the_last_ones_are_shown(tmp_path: Path) -> None:
    """And what came but was not shown is kept when the loop is left."""
    cluster = HereCluster(1)
    journal = tmp_path / "rows.jsonl"
    with closing(cluster):
        away = PictureMap(
            ClusterEngine(cluster, sizes()), QUESTION, files_of(tmp_path, [9] * 50), journal=journal
        )
        rows = iter(away)
        next(rows)
        assert len(cluster.n_rows) == 2
        rows.close()  # type: ignore[attr-defined]
    assert len(journal.read_text().splitlines()) - 1 == cluster.n_rows[0] == len(away.to_frame())
    assert [row.position for row in away.unseen] == list(range(1, cluster.n_rows[0]))


def test_a_stop_that_comes_before_its_slice_ends_it_all_the_same(tmp_path: Path) -> None:
    """Else a worker answers on for nobody, and the next map waits for it."""
    worker.stop("early")
    paths = files_of(tmp_path, [SLOW])
    rows = tuple(RowTask(n, path.name, path, (RowPlace(),)) for n, path in enumerate(paths))
    task = MapTask("early", sizes(), Settings(), PictureOptions())
    try:
        assert worker.answer_slice(task, rows).rows == ()
    finally:
        worker.forget()


def test_an_interrupt_in_the_middle_of_sending_stops_what_was_sent(tmp_path: Path) -> None:
    """The slice went off, and the driver does not know its number yet."""
    cluster = HereCluster(1)
    told: list[str] = []

    def submit(work: Any, *arguments: Any) -> int:
        raise KeyboardInterrupt

    cluster.submit = submit  # type: ignore[method-assign]
    cluster.tell = lambda work, task_id: told.append(task_id)  # type: ignore[method-assign]
    with closing(cluster), pytest.raises(KeyboardInterrupt):
        list(PictureMap(ClusterEngine(cluster, sizes()), QUESTION, files_of(tmp_path, [9])))
    assert len(told) == 1


def test_two_maps_at_once_get_their_own_rows(client: Any, tmp_path: Path) -> None:
    found: dict[int, pd.DataFrame] = {}
    folders = [tmp_path / "a", tmp_path / "b"]
    paths = []
    for n, folder in enumerate(folders):
        folder.mkdir()
        paths.append(files_of(folder, [50 + n] * 30))

    def ask(n: int) -> None:
        found[n] = run(paths[n], client)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        assert list(found[n].answer) == sizes_of(paths[n])


def test_a_scheduler_that_goes_is_an_error_and_the_journal_is_whole(tmp_path: Path) -> None:
    paths = files_of(tmp_path, [40] * 60)
    journal = tmp_path / "rows.jsonl"
    local = DaskCluster.started(1)
    rows: list[Any] = []

    def end_it(row: Any) -> None:
        rows.append(row)
        if len(rows) == 10:
            local._local.close(timeout=5)

    with pytest.raises(ClusterError, match="gone") as caught:
        run(paths, local._client, sizes(seconds=0.05), journal=journal, on_row=end_it)
    local.close()
    assert "journal" in caught.value.hint
    lines = journal.read_text().splitlines()
    assert 10 <= len(lines) - 1 < 60
    assert all(line.startswith('{"key"') and line.endswith("}") for line in lines[1:])


DRIVER = """
import sys
from worker_engines import sizes
import vlm_magic
if __name__ == "__main__":
    def say(row):
        print(row.position, flush=True)
    vlm_magic.map_pictures(
        sizes(seconds=0.05, traces=sys.argv[2]), "What colour is the shape?", sys.argv[1], on=sys.argv[4],
        n_workers=1, journal=sys.argv[3], progress=False, on_row=say,
    )
"""


def driver(folder: Path, kind: str) -> subprocess.Popen[str]:
    script = folder.parent / "driver.py"
    script.write_text(DRIVER)
    traces = folder.parent / "traces"
    traces.mkdir(exist_ok=True)
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parent / "support"), *sys.path]))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(traces), str(folder.parent / "rows.jsonl"), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def test_a_script_without_its_guard_is_told_what_it_needs(tmp_path: Path) -> None:
    """Each worker begins by reading the script."""
    script = tmp_path / "unguarded.py"
    script.write_text("from vlm_magic.tasks.map.cluster.dask import DaskCluster\nDaskCluster.started(1)\n")
    said = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert said.returncode == 1
    assert "a worker of a cluster starts a cluster" in said.stderr  # from the worker, then from the script
    assert said.stderr.rstrip().endswith("try:  put the call under: if __name__ == '__main__':")


INTERRUPTED_IMPORT = """
import os, signal, sys, time
from vlm_magic.tasks.map.cluster import {kind}

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "yaml.nodes":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

sys.meta_path.insert(0, Interrupts())
try:
    {kind}.{get}()
except KeyboardInterrupt:
    print("interrupted")
print({kind}.{get}().__name__)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_while_a_clusters_package_is_imported_leaves_it_whole(kind: str) -> None:
    """Where the first cell of a kernel was a slip; half of yaml is an AttributeError ever after."""
    script = INTERRUPTED_IMPORT.format(kind=kind, get="_distributed" if kind == "dask" else "_ray")
    said = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert said.stdout.split() == ["interrupted", "distributed" if kind == "dask" else "ray"], said.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_ends_in_the_middle_loses_no_row_and_leaves_no_process(
    how: signal.Signals, kind: str, tmp_path: Path
) -> None:
    """Killed or interrupted; the next run asks only what is missing."""
    import psutil

    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = files_of(folder, [40] * 40)
    first = driver(folder, kind)
    assert first.stdout is not None
    for _ in range(8):
        assert first.stdout.readline(), first.stderr and first.stderr.read()
    children = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(how)
    first.wait(timeout=30)
    first.communicate()
    _, alive = psutil.wait_procs(children, timeout=15 if kind == "dask" else 60)
    agents = [process for process in alive if kind == "ray" and "Agent" in process.name()]
    for process in agents:  # Ray's own, which outlive a driver that is killed; no worker does
        process.kill()
    assert [process for process in alive if process not in agents] == []
    n_kept = len((tmp_path / "rows.jsonl").read_text().splitlines()) - 1
    assert n_kept >= 8
    for trace in (tmp_path / "traces").iterdir():
        trace.unlink()
    second = driver(folder, kind)
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert sorted(map(int, out.split())) == list(range(40))
    assert sum(answered(tmp_path / "traces").values()) == 40 - n_kept
    assert set(answered(tmp_path / "traces").values()) <= {1}
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 41
    assert len(paths) == 40


@pytest.mark.parametrize("n_before", [0, 5, 19])
def test_an_interrupt_cancels_what_is_out_and_keeps_what_was_answered(
    client: Any, n_before: int, tmp_path: Path
) -> None:
    """At the start, in the middle and in the last row; the workers are free at once."""
    paths = files_of(tmp_path, [SLOW] + [40] * 19)
    journal = tmp_path / "rows.jsonl"
    rows: list[Any] = []

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    def seen(row: Any) -> None:
        rows.append(row)
        if len(rows) == n_before:
            threading.Timer(0.3, interrupt).start()

    if n_before == 0:
        threading.Timer(0.01, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(paths, client, sizes(seconds=0.01), journal=journal, on_row=seen, batch_size=1)
    if n_before:  # a row that came as it was interrupted is kept, though nobody saw it
        assert 0 <= len(journal.read_text().splitlines()) - 1 - len(rows) <= 2
    began = time.monotonic()
    assert list(run(paths[1:5], client).answer) == sizes_of(paths[1:5])
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_an_interrupt_while_a_cluster_starts_leaves_no_process(seconds: float, kind: str) -> None:
    import psutil

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), cluster_engine(kind, sizes(), 2):
        time.sleep(5)  # where it was up before
    mine = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    _, alive = psutil.wait_procs(mine, timeout=10)
    assert [process for process in alive if "resource_tracker" not in " ".join(process.cmdline())] == []


# ---- in a notebook ---------------------------------------------------------------------------------------


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(workspace, "_current", workspace.Workspace())
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def test_a_cell_maps_on_a_client_without_a_model_of_its_own(
    shell: Any, client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = scene_files(tmp_path, 6)
    shell.user_ns.update(photos=paths, client=client)
    on = "ray" if client == "ray" else "client"
    cell = f"%%vlm --map photos --on {on} --choices red,blue,green -o colours\nWhat colour is it?"
    assert shell.run_cell(cell).error_in_exec is None
    assert list(shell.user_ns["colours"].picture) == [path.name for path in paths]
    out = capsys.readouterr().out
    assert "2 workers" in out
    assert "s to start" in out
    assert workspace.current().models.engines == {}
    assert shell.run_cell(cell.replace("-o colours", "--dry-run")).error_in_exec is None
    assert "39 of them for 1 picture" in capsys.readouterr().out


def test_a_sheet_that_fills_shows_the_newest_rows_that_have_a_picture() -> None:
    """Workers send one with a row of many; failures are shown without, and all rows where none has one."""
    for every, newest in ((16, 992), (10_000, 999)):
        view = MapView(1000, "", lambda *_: "data:,")
        for n in range(1000):
            thumbnail = "data:image/webp;base64,AA" if every < 1000 and n % every == 0 else ""
            error = "ModelError: it failed" if n == 985 else ""
            view.push(n, Card(str(n), str(n), "red", error=error, thumbnail=thumbnail))
        cards = view._growing().cards
        view.finish()
        assert len(cards) == 12
        assert cards[-1].label == str(newest)
        assert [card.label for card in cards if card.error or not card.thumbnail] == (
            ["985"] if every == 16 else [str(n) for n in range(988, 1000)]
        )


def test_a_map_that_is_interrupted_shows_and_judges_every_row_that_is_kept(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of a slice that had come are in the table; the words above it count them, too."""
    monkeypatch.setattr("vlm_magic.tasks.map.cluster.choose.cluster_of", lambda *_: HereCluster(1))
    monkeypatch.setattr("vlm_magic.tasks.map.cluster.choose.model_spec", lambda _: sizes())
    real, n_pushed = MapView.push, 0

    def push(view: MapView, position: int, *arguments: Any, **more: Any) -> None:
        nonlocal n_pushed
        real(view, position, *arguments, **more)
        n_pushed += 1
        if n_pushed == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(MapView, "push", push)
    shell.user_ns.update(photos=files_of(tmp_path, [9] * 50), truth=["9x20", *["9x9"] * 49])
    shell.run_cell("%%vlm --map photos --on dask --truth truth -o found\nWhat?")
    found = shell.user_ns["found"]
    assert list(found.right) == [True, False, False, False]
    assert "4 of 50 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--on dask", "needs --map"),
        ("--workers 2", "needs --map"),
        ("--map photos --workers 2", "needs --on"),
        ("--map photos --on dusk", "not a cluster"),
        ("--map photos --on dask --workers 0", "0 workers"),
    ],
)
def test_a_slip_about_clusters_is_three_lines(shell: Any, line: str, part: str) -> None:
    shell.user_ns["photos"] = []
    error = shell.run_cell(f"%%vlm {line}\nWhat?").error_in_exec
    assert isinstance(error, OptionError)
    assert part in str(error)
    assert len(str(error).splitlines()) == 3


def test_workers_connect_to_the_server_that_is_connected_here(client: Any, tmp_path: Path) -> None:
    """Without a GPU of their own; rows come back in their order, answered by the server."""
    with WeatherServer("vllm") as server:
        engine = connect_to(server.url)
        found = run(files_of(tmp_path, [30, 31, 32]), client, engine)
        engine.close()
    assert list(found.answer) == ["one two three"] * 3


def test_a_model_of_this_process_is_made_anew_by_its_name_and_options() -> None:
    engine = vlm_magic.load()
    spec = model_spec(engine)
    assert spec.name == "starter"
    assert spec.key == model_spec("starter").key
    with pytest.raises(OptionError, match="cannot be loaded again"):
        model_spec(worker_engines.SizeEngine())
