"""From what a person says to a cluster with its model: ``dask``, an address, a client that exists.

The one place that knows which kinds of cluster there are. Neighbours: `dask` and `ray` are clusters,
`engine` checks their workers.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vlm_magic.errors import OptionError, near_names
from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Engine, is_here
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.tasks.map.cluster.engine import ClusterEngine
from vlm_magic.tasks.map.cluster.protocol import Cluster
from vlm_magic.tasks.map.cluster.travel import ModelSpec
from vlm_magic.wording import shorten

__all__ = ["cluster_engine", "cluster_of", "model_spec"]


@contextmanager
def cluster_engine(
    on: object, model: Engine | ModelSpec | str | None = None, n_workers: int | None = None
) -> Iterator[ClusterEngine]:
    """A cluster with its model, for the length of a block; what was started for it ends with it.

    Args:
        on: "dask", "ray", an address, or a `dask.distributed.Client`.
        model: an engine of this process, of which workers load the same; a name; the starter if not given.
        n_workers: of a cluster that is started here.

    Raises:
        OptionError: no such kind of cluster. ClusterError: it cannot be used.
    """
    spec = model_spec(model)
    identity = None if model is None or isinstance(model, (str, ModelSpec)) else model.identity
    began = time.perf_counter()
    cluster = cluster_of(on, n_workers)
    try:
        yield ClusterEngine(cluster, spec, identity, began)
    finally:
        cluster.close()


def cluster_of(on: object, n_workers: int | None = None) -> Cluster:
    """The cluster that a person names.

    Raises:
        OptionError: no such kind of cluster, or its package is not installed. ClusterError: nobody answers.
    """
    from vlm_magic.tasks.map.cluster.dask import DaskCluster

    if n_workers is not None and (isinstance(n_workers, bool) or n_workers < 1):
        raise OptionError(f"{n_workers} workers", have="a whole number, at least 1", hint="--workers 2")
    if sniff.has_type(on, "distributed.Client", "distributed.client.Client"):
        return DaskCluster(on)
    if on == "dask":
        return DaskCluster.started(n_workers)
    if not isinstance(on, str):
        raise _unknown(f"a {type(on).__name__}")
    if on == "ray" or on.startswith("ray://"):
        from vlm_magic.tasks.map.cluster.ray import RayCluster

        return RayCluster.started(n_workers) if on == "ray" else RayCluster.connected(on, n_workers)
    if n_workers is not None:
        raise OptionError(
            f"--workers is for a cluster that is started here, and {shorten(on, 60)} is running already",
            have="its own number of workers",
            hint=f"--on {shorten(on, 60)}",
        )
    scheme = on.partition("://")[0]
    if scheme in ("tcp", "tls", "ucx", "ws", "wss") and "://" in on:
        return DaskCluster.connected(on)
    raise _unknown(on)


def model_spec(model: Engine | ModelSpec | str | None) -> ModelSpec:
    """How workers get the model of an engine, or the one of a name.

    Raises:
        OptionError: an engine that workers cannot make for themselves.
    """
    if isinstance(model, ModelSpec):
        return model
    if model is None or isinstance(model, str):
        return _local(model or "starter", LoadOptions())
    if not is_here(model):
        from vlm_magic.remote.engine import RemoteEngine

        if isinstance(model, RemoteEngine) and model.connect is not None:
            return ModelSpec(model.name, repr(model.connect), model.connect)
        raise OptionError(
            f"{model.name} cannot be loaded again on a worker",
            have="models that are loaded here or on a server, in the same way there",
            hint="the name of a checkpoint that workers can see",
        )
    return _local(model.loaded.name, model.loaded.options)


def _local(name: str, options: LoadOptions) -> ModelSpec:
    return ModelSpec(name, f"{name} {options}", functools.partial(_load, name, options))


def _load(name: str, options: LoadOptions) -> Engine:
    """Load a checkpoint on a worker."""
    from vlm_magic.models.checkpoints.loading import load_model
    from vlm_magic.models.engine import LocalEngine

    return LocalEngine(load_model(name, options))


_KINDS: Mapping[str, str] = {
    "dask": "a local cluster",
    "tcp://host:8786": "a Dask scheduler",
    "ray": "a local cluster",
    "ray://head:10001": "a Ray head",
}


def _unknown(on: str) -> OptionError:
    near = near_names(on, _KINDS)
    return OptionError(
        f"--on {shorten(on, 60)} is not a cluster",
        have=", ".join(f"{kind} ({what})" for kind, what in _KINDS.items()),
        hint=f"--on {near[0]}" if near else "--on dask",
        on=on,
    )
