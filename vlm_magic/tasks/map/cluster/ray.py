"""Ray as a cluster: a local one that is started and ended here, a head that exists, or this kernel's session.

Each worker is an actor, a process of its own with a few threads, so that a busy one can be told to stop; one
that dies is replaced. Knows ``ray`` alone; nothing of rows or models. Neighbour: `protocol` says what must
be done, `dask` does it on Dask.

A local cluster has the address 127.0.0.1, but some of Ray's processes listen on every address of the machine
all the same: `OPEN_PORTS` says so.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from vlm_magic.errors import ClusterError, OptionError, VLMError
from vlm_magic.tasks.map.cluster.protocol import Outcome
from vlm_magic.uninterrupted import import_whole
from vlm_magic.wording import count_words, shorten

__all__ = ["OPEN_PORTS", "RayCluster"]

OPEN_PORTS = (
    "Ray listens on ports beyond 127.0.0.1 while it runs; on a shared network, close them by a firewall that "
    "lets in loopback alone"
)
"""What a person is told when a local cluster is started."""

_FIRST_WORKER_S = 180.0  # Ray's own start takes 10 to 40 s
_STEP_S = 0.25  # between looks at what was sent, so that an interrupt is seen
_DEFAULT_WORKERS = 4  # at most, for each of them holds a model
_THREADS = 4  # of a worker: one for a slice, others for what it is told meanwhile
_QUIET = {  # before Ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": "200000",  # a busy machine: its own 30 s are too few
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class _Worker:
    """What runs on a worker: any function that it is sent."""

    def where(self) -> str:
        """Who it is, for people."""
        return f"{platform.node()}, process {os.getpid()}"

    def run(self, work: Callable[..., object], *arguments: object) -> object:
        """Do it and give what comes of it."""
        return work(*arguments)


@dataclass
class _Hand:
    """A worker as the driver holds it."""

    actor: Any
    ready: Any  # the answer to `_Worker.where`, once it is there
    out: set[Any] = field(default_factory=set)  # what it was sent, and has not answered yet
    who: str = ""


_kept: dict[str, list[_Hand]] = {}
"""Workers of sessions that a person has begun, by the session's job: a next map finds their models loaded."""


class RayCluster:
    """Workers of a Ray session.

    Args:
        n_workers: how many; by `_default_workers` if not given.
        is_own: whether the session was begun here, and ends with `close`.
        name: how people call it, without its workers.

    Attributes:
        name: how people call it.
        dashboard: the address of its own page, or "".
        n_tries: workers that a task has cost when it is lost.
    """

    def __init__(self, n_workers: int | None, *, is_own: bool, name: str) -> None:
        self._ray = _ray()
        self._is_own = is_own
        self._out: dict[Any, tuple[int, _Hand]] = {}
        self._n_tasks = 0
        self._gpus = 1 if self._ray.cluster_resources().get("GPU", 0) >= 1 else 0
        n = n_workers or self._default_workers()
        job = str(self._ray.get_runtime_context().get_job_id())
        self._hands = [] if is_own else _kept.setdefault(job, [])
        while len(self._hands) < n:
            self._hands.append(self._new_hand())
        self.n_tries = 1
        self._wait_for_workers()
        self.name = f"{name} with {count_words(len(self._hands), 'worker')}"
        self.dashboard = _dashboard(self._ray)

    @classmethod
    def started(cls, n_workers: int | None = None) -> RayCluster:
        """The session that this process has, or a new one on this machine that ends with `close`.

        Args:
            n_workers: processes with a model each; one a core, but at most four, if not given.

        Raises:
            OptionError: Ray is not installed. ClusterError: it does not start.
        """
        ray = _ray()
        if ray.is_initialized():
            return cls(n_workers, is_own=False, name="this kernel's Ray")
        n = n_workers or min(_DEFAULT_WORKERS, os.cpu_count() or 1)
        local = {"_node_ip_address": "127.0.0.1", "include_dashboard": False, "num_cpus": n}
        return cls._begun("local", n, "a local Ray", local)

    @classmethod
    def connected(cls, address: str, n_workers: int | None = None) -> RayCluster:
        """Use the head at ``ray://host:10001``.

        Args:
            address: of Ray's client server there.
            n_workers: processes with a model each; one for each GPU, or for each machine, if not given.

        Raises:
            OptionError: Ray is not installed. ClusterError: nobody answers there.
        """
        if _ray().is_initialized():
            raise ClusterError(
                "this kernel has a Ray session already",
                have="a process can be in one at a time",
                hint="--on ray, for that one; or ray.shutdown() first",
                address=address,
            )
        return cls._begun(address, n_workers, f"Ray at {shorten(address, 60)}", {})

    @classmethod
    def _begun(cls, address: str, n_workers: int | None, name: str, options: Mapping[str, Any]) -> RayCluster:
        ray = _ray()
        try:
            with _same_path():
                ray.init(
                    address=address, log_to_driver=False, logging_level=logging.ERROR, **options
                )  # else a notebook fills with lines of workers
        except Exception as error:  # Ray raises bare ones, too
            with suppress(Exception):
                ray.shutdown()
            raise ClusterError(
                f"no Ray at {shorten(address, 80)}"
                if address != "local"
                else "a local Ray cluster does not start",
                have=shorten(f"{type(error).__name__}: {error}", 150),
                hint="--on ray://host:10001, the client server of ray start --head; RAY_AUTH_MODE as there",
                address=address,
            ) from error
        except BaseException:  # an interrupt
            ray.shutdown()
            raise
        try:
            return cls(n_workers, is_own=True, name=name)
        except BaseException:
            ray.shutdown()
            raise

    def submit(self, work: Callable[..., object], *arguments: object) -> int:
        """Send a function off; the number of its task."""
        self._check()
        self._n_tasks += 1
        hand = min(self._hands, key=lambda each: (not self._is_there(each), len(each.out)))
        reference = hand.actor.run.remote(work, *arguments)
        self._out[reference] = (self._n_tasks, hand)
        hand.out.add(reference)
        return self._n_tasks

    def completed(self, timeout_s: float) -> list[Outcome]:
        """What has ended since the last call; waits for the first one, but not longer than that."""
        if not self._out:
            time.sleep(min(timeout_s, 0.01))
            return []
        self._check()
        done, rest = self._ray.wait(list(self._out), timeout=timeout_s)
        if done and rest:
            done += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return [self._outcome(reference) for reference in done]

    def _outcome(self, reference: Any) -> Outcome:
        from ray import exceptions

        task, hand = self._out.pop(reference)
        hand.out.discard(reference)
        try:
            return Outcome(task, self._ray.get(reference))
        except (exceptions.RayActorError, exceptions.WorkerCrashedError) as error:
            self._replace(hand)
            return Outcome(task, error=error, is_lost=True)
        except exceptions.RayTaskError as error:  # what the function raised
            return Outcome(task, error=error.cause if isinstance(error.cause, BaseException) else error)
        except exceptions.RayError as error:  # its answer was lost with a machine
            return Outcome(task, error=error, is_lost=True)

    def on_each(self, work: Callable[..., object], *arguments: object) -> Mapping[str, Any]:
        """Run a function once on every worker that is there; results by who it is."""
        from ray import exceptions

        there = [hand for hand in self._hands if self._is_there(hand)]
        if not there:
            raise _no_workers(self.name)
        sent = {hand.actor.run.remote(work, *arguments): hand for hand in there}
        waiting = list(sent)
        while waiting:
            self._check()
            _, waiting = self._ray.wait(waiting, num_returns=len(waiting), timeout=_STEP_S)
        found = {}
        for reference, hand in sent.items():
            try:
                found[hand.who] = self._ray.get(reference)
            except exceptions.RayTaskError as error:
                raise _as_ours(error) from error
            except exceptions.RayActorError:
                self._replace(hand)
        return found

    def tell(self, work: Callable[..., object], *arguments: object) -> None:
        """Have every worker run a short function now, even one that is busy."""
        with suppress(Exception):  # whoever is gone needs not be told
            sent = [hand.actor.run.remote(work, *arguments) for hand in self._hands if self._is_there(hand)]
            self._ray.wait(sent, num_returns=len(sent), timeout=5)

    def n_workers(self) -> int:
        """Workers that are alive."""
        self._check()
        return sum(map(self._is_there, self._hands))

    def cancel(self) -> None:
        """Forget all tasks that are out."""
        out, self._out = self._out, {}
        for reference, (_, hand) in out.items():
            hand.out.discard(reference)
            with suppress(Exception):
                self._ray.cancel(reference)

    def close(self) -> None:
        """End the session that was begun for it; a person's own keeps its workers, with their models."""
        self.cancel()
        if self._is_own:
            with suppress(Exception):
                self._ray.shutdown()

    def _default_workers(self) -> int:
        """One for each GPU; without any, one for each machine."""
        resources = self._ray.cluster_resources()
        n_nodes = sum(name.startswith("node:") and "__" not in name for name in resources)
        return int(resources.get("GPU", 0)) or max(1, n_nodes)

    def _new_hand(self) -> _Hand:
        make = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_concurrency=_THREADS)(
            _Worker
        )
        actor = make.remote()
        return _Hand(actor, actor.where.remote())

    def _replace(self, hand: _Hand) -> None:
        """Another worker for one that died; on which machine is Ray's business."""
        if hand in self._hands:
            self._hands[self._hands.index(hand)] = self._new_hand()

    def _is_there(self, hand: _Hand) -> bool:
        if not hand.who:
            done, _ = self._ray.wait([hand.ready], timeout=0)
            with suppress(Exception):
                hand.who = self._ray.get(hand.ready) if done else ""
        return bool(hand.who)

    def _wait_for_workers(self) -> None:
        deadline = time.monotonic() + _FIRST_WORKER_S
        while not all(map(self._is_there, self._hands)):
            if time.monotonic() > deadline:
                if any(map(self._is_there, self._hands)):
                    return
                raise _no_workers("Ray")
            time.sleep(0.05)

    def _check(self) -> None:
        """Raise where the session is gone."""
        if not self._ray.is_initialized():
            raise ClusterError(
                "the Ray session is gone",
                have="rows that were answered are kept",
                hint="run it again with the same journal: only what is missing is asked",
            )


@contextmanager
def _same_path() -> Iterator[None]:
    """Processes that are started within find what this one does: Ray's workers inherit the environment."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _as_ours(error: Any) -> VLMError:
    """What a worker raised, in three lines whatever it was."""
    if isinstance(error.cause, VLMError):
        return error.cause
    said = error.cause if isinstance(error.cause, BaseException) else error
    return ClusterError(
        f"a worker failed: {type(said).__name__}",
        have=shorten(said, 200),
        hint="the same packages on workers as here",
    )


def _ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import_whole("ray")
        import ray
    except ImportError:
        raise OptionError(
            "--on ray needs Ray, and it is not installed",
            have="a map on this machine works without it",
            hint='pip install "vlm_magic[ray]"',
        ) from None
    return ray


def _dashboard(ray: Any) -> str:
    with suppress(Exception):
        url = ray.get_runtime_context().dashboard_url or ""
        return f"http://{url}" if url and "://" not in url else url
    return ""


def _no_workers(name: str) -> ClusterError:
    return ClusterError(f"{name} has no workers", have="nobody to answer", hint="ray status, on its head")
