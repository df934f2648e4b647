"""What a cluster must do for a map, and no more: run functions somewhere, and say what became of them.

A third kind of cluster is one more module with this protocol. Knows nothing of rows, models or pictures.
Neighbours: `dask` and `ray` are clusters, `run` uses one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Cluster", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a function that was sent off.

    Attributes:
        task: the number that `Cluster.submit` gave.
        value: what it returned.
        error: what it raised; None for a value.
        is_lost: its worker died under it, as often as the cluster tries by itself.
    """

    task: int
    value: Any = None
    error: BaseException | None = None
    is_lost: bool = False


class Cluster(Protocol):
    """Workers somewhere.

    Attributes:
        name: how people call it: "a local Dask cluster of 2 workers".
        dashboard: the address of its own page, or "".
        n_tries: how many workers a task has cost when it is lost.
    """

    name: str
    dashboard: str
    n_tries: int

    def submit(self, work: Callable[..., object], *arguments: object) -> int:
        """Send a function off; the number of its task."""

    def completed(self, timeout_s: float) -> list[Outcome]:
        """What has ended since the last call; waits for the first one, but not longer than that.

        Raises:
            ClusterError: the cluster itself is gone.
        """

    def on_each(self, work: Callable[..., object], *arguments: object) -> Mapping[str, Any]:
        """Run a function once on every worker that is there, beside what they do; results by worker.

        Raises:
            ClusterError: there is no worker, or the cluster is gone. Else what the function raised.
        """

    def tell(self, work: Callable[..., object], *arguments: object) -> None:
        """Have every worker run a short function now, even one that is busy; failures are not said."""

    def n_workers(self) -> int:
        """Workers that are alive."""

    def cancel(self) -> None:
        """Forget all tasks that are out."""

    def close(self) -> None:
        """Let go of the cluster; one that was started for this map ends."""
