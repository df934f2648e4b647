"""Dask as a cluster: a local one that is started and ended here, or a scheduler that exists.

Knows `dask.distributed` alone; nothing of rows or models. Neighbour: `protocol` says what must be done.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from vlm_magic.errors import ClusterError, OptionError
from vlm_magic.tasks.map.cluster.protocol import Outcome
from vlm_magic.uninterrupted import import_whole
from vlm_magic.wording import count_words, shorten

__all__ = ["DaskCluster"]

_CONNECT_S = 15.0
_FIRST_WORKER_S = 60.0  # a local worker imports this package; a machine that is busy takes its time
_ALIVE_EVERY_S = 1.0  # asking the scheduler costs a message
_RESULT_S = 30.0  # for a value to come over
_GUARD = "put the call under: if __name__ == '__main__':"
_DEFAULT_WORKERS = 4  # at most, for each of them holds a model
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WRITTEN = (*_THREADS, "MALLOC_TRIM_THRESHOLD_", "PYTHONHASHSEED", "__DASK_PARENT_PID")
"""What Dask writes into the environment of the process that starts a worker."""


class DaskCluster:
    """Workers of a Dask scheduler.

    Args:
        client: a `dask.distributed.Client`.
        local: the cluster that was started for it and ends with it; None for one that is somebody else's.

    Attributes:
        name: how people call it.
        dashboard: the address of its own page, or "".
        n_tries: workers that a task has cost when it is lost.
    """

    def __init__(self, client: Any, local: Any = None) -> None:
        self._client = client
        self._local = local
        self._is_own_client = local is not None
        self._environment: Mapping[str, str | None] = {}  # as it was before workers were started
        self._futures: dict[int, Any] = {}
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._n_tasks = 0
        self._alive = (0.0, 0)
        where = _address(client)
        self.n_tries = 1 if local is not None else _allowed_failures() + 1
        n = count_words(self.n_workers(), "worker")
        self.name = f"a local Dask cluster of {n}" if local is not None else f"Dask at {where} with {n}"
        self.dashboard = str(client.dashboard_link or "") if find_spec("bokeh") else ""

    @classmethod
    def started(cls, n_workers: int | None = None) -> DaskCluster:
        """Start a cluster on this machine; it listens on 127.0.0.1 alone and ends with `close`.

        Args:
            n_workers: processes with a model each; one a core, but at most four, if not given.

        Raises:
            OptionError: Dask is not installed. ClusterError: it does not start.
        """
        distributed = _distributed()
        import dask

        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ClusterError(
                "a worker of a cluster starts a cluster",
                have="a script that does so as it is read, and each worker begins by reading it",
                hint=_GUARD,
            )
        n = n_workers or min(_DEFAULT_WORKERS, os.cpu_count() or 1)
        environment = {name: os.environ.get(name) for name in _WRITTEN}
        try:
            with dask.config.set(_settings(n)):
                local = _whole_or_undone(
                    lambda: distributed.LocalCluster(
                        n_workers=n,
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address="127.0.0.1:0",  # None would take port 8787
                        memory_limit=0,  # a model is no leak
                        silence_logs=50,
                    )
                )
            try:
                cluster = cls(distributed.Client(local, set_as_default=False), local)
                cluster._environment = environment
                cluster._wait_for_workers(n)
            except BaseException:
                local.close(timeout=5)
                raise
        finally:
            _restore(environment)
        return cluster

    @classmethod
    def connected(cls, address: str) -> DaskCluster:
        """Use the scheduler at this address.

        Raises:
            OptionError: Dask is not installed. ClusterError: nobody answers there.
        """
        distributed = _distributed()
        try:
            client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterError(
                f"no Dask scheduler at {shorten(address, 80)}",
                have=shorten(f"{type(error).__name__}: {error}", 120),
                hint="--on tcp://host:8786, the address that dask-scheduler prints",
                address=address,
            ) from error
        cluster = cls(client)
        cluster._is_own_client = True
        cluster._wait_for_workers(1)
        return cluster

    def submit(self, work: Callable[..., object], *arguments: object) -> int:
        """Send a function off; the number of its task."""
        return self._sent(work, arguments, {})

    def _sent(
        self, work: Callable[..., object], arguments: tuple[object, ...], options: dict[str, Any]
    ) -> int:
        self._n_tasks += 1
        task = self._n_tasks
        self._check()
        future = self._client.submit(work, *arguments, pure=False, **options)
        self._futures[task] = future
        future.add_done_callback(lambda _: self._ended.put(task))
        return task

    def completed(self, timeout_s: float) -> list[Outcome]:
        """What has ended since the last call; waits for the first one, but not longer than that."""
        found = []
        with suppress(queue.Empty):
            found.append(self._ended.get(timeout=timeout_s))
            while True:
                found.append(self._ended.get_nowait())
        if not found:
            self._check()
        return [self._outcome(task) for task in found if task in self._futures]

    def _outcome(self, task: int) -> Outcome:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        future = self._futures.pop(task)
        try:
            return Outcome(task, future.result(timeout=_RESULT_S))
        except (KilledWorker, FutureCancelledError, TimeoutError) as error:
            self._check()  # cancelled because the scheduler went
            return Outcome(task, error=error, is_lost=True)
        except Exception as error:  # what the function raised
            return Outcome(task, error=error)

    def on_each(self, work: Callable[..., object], *arguments: object) -> Mapping[str, Any]:
        """Run a function once on every worker that is there; results by the worker's address."""
        self._check()
        workers = list(self._client.nthreads())
        futures = {
            worker: self._client.submit(
                work, *arguments, pure=False, workers=[worker], allow_other_workers=False
            )
            for worker in workers
        }
        if not futures:
            raise _no_workers(self.name)
        found = {}
        for worker, future in futures.items():
            while not future.done():
                time.sleep(0.02)
                self._check()
            found[worker] = future.result(timeout=_RESULT_S)
        return found

    def tell(self, work: Callable[..., object], *arguments: object) -> None:
        """Have every worker run a short function now, even one that is busy."""
        with suppress(Exception):  # whoever is gone needs not be told
            self._client.run(work, *arguments, wait=True, on_error="return")

    def n_workers(self) -> int:
        """Workers that are alive; asked anew once a second."""
        asked_at, n = self._alive
        if time.monotonic() - asked_at > _ALIVE_EVERY_S:
            self._check()
            n = len(self._client.nthreads())
            self._alive = time.monotonic(), n
        return n

    def cancel(self) -> None:
        """Forget all tasks that are out."""
        futures, self._futures = list(self._futures.values()), {}
        with suppress(Exception):
            self._client.cancel(futures, force=True)

    def close(self) -> None:
        """Let go of the client, and end the cluster that was started for it."""
        self.cancel()
        for closing in (self._client if self._is_own_client else None, self._local):
            if closing is not None:
                with suppress(Exception):
                    closing.close(timeout=5)
        _restore(self._environment)  # a worker that came back wrote into it again

    def _check(self) -> None:
        """Raise where the scheduler is gone."""
        if self._client.status != "running" or getattr(self._client.scheduler, "status", "") == "closed":
            raise ClusterError(
                "the Dask scheduler is gone",
                have=f"{_address(self._client)}; rows that were answered are kept",
                hint="run it again with the same journal: only what is missing is asked",
            )

    def _wait_for_workers(self, n: int) -> None:
        try:
            self._client.wait_for_workers(n, timeout=_FIRST_WORKER_S)
        except TimeoutError:
            if not self._client.nthreads():
                self.close()
                raise _no_workers(self.name) from None
        self._alive = (0.0, 0)
        if self._local is not None:
            self.name = f"a local Dask cluster of {count_words(self.n_workers(), 'worker')}"


def _settings(n_workers: int) -> dict[str, object]:
    """Dask's configuration for a cluster on this machine whose workers hold models."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    n_threads = max(1, n_cores // n_workers)
    return {
        # A task is lost with its first worker: the map itself knows which row to suspect.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.profile.enabled": False,  # looks at every thread a hundred times a second
        "distributed.admin.tick.interval": "500ms",  # of 20: an idle worker took 1 % of a core, not 0.3
        "distributed.admin.system-monitor.interval": "2s",
        # Dask's own threshold of 64 kB has memory handed back to the system after every operation of a
        # model, and fetched again for the next: 12 ms CPU a row of the starter instead of 7.
        "distributed.nanny.pre-spawn-environ": {
            "MALLOC_TRIM_THRESHOLD_": None,
            **dict.fromkeys(_THREADS, n_threads),
        },
    }


def _restore(environment: Mapping[str, str | None]) -> None:
    """Give this process's environment back: threads are counted by it when torch is imported here."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _whole_or_undone(start: Callable[[], Any]) -> Any:
    """Start something beside the person's thread: an interrupt waits until it is there, and closes it.

    Raises:
        ClusterError: it does not start.
    """
    with ThreadPoolExecutor(1, "vlm_magic cluster") as pool:
        started = pool.submit(start)
        try:
            return started.result()
        except KeyboardInterrupt:
            with suppress(Exception):
                started.result().close(timeout=5)
            raise
        except (OSError, RuntimeError, TimeoutError) as error:
            raise ClusterError(
                "a local Dask cluster does not start",
                have=shorten(f"{type(error).__name__}: {error}", 150),
                hint=_GUARD
                if hasattr(sys.modules.get("__main__"), "__file__")
                else "--workers 1, or --on tcp://scheduler:8786",
            ) from error


def _distributed() -> Any:
    try:
        import_whole("distributed")
        import distributed
    except ImportError:
        raise OptionError(
            "--on dask needs dask.distributed, and it is not installed",
            have="a map on this machine works without it",
            hint='pip install "vlm_magic[dask]"',
        ) from None
    return distributed


def _allowed_failures() -> int:
    import dask

    return int(dask.config.get("distributed.scheduler.allowed-failures", 3))


def _address(client: Any) -> str:
    return str(getattr(client.scheduler, "address", "") or "a scheduler")


def _no_workers(name: str) -> ClusterError:
    return ClusterError(
        f"{name} has no workers", have="nobody to answer", hint="dask-worker tcp://scheduler:8786"
    )
