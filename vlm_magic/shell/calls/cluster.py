"""``%%vlm --map … --on``: who answers a map, this kernel or the workers of a cluster.

Neighbours: `map` asks; `vlm_magic.tasks.map.cluster` starts, checks and ends clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlm_magic.inputs.pixels import sniff
from vlm_magic.messages import Engine
from vlm_magic.shell.calls.call import Call, Context
from vlm_magic.shell.calls.chat import engine_for
from vlm_magic.shell.interrupted import Interrupted
from vlm_magic.tasks.map.cluster.ray import OPEN_PORTS

__all__ = ["answering"]


@contextmanager
def answering(context: Context, call: Call) -> Iterator[Engine]:
    """The engine of a map; a cluster that was started for it ends with the block."""
    if call.on is None:
        yield engine_for(context, call)
        return
    from vlm_magic.tasks.map.cluster.choose import cluster_engine

    named = context.names.get(call.on)
    on = named if sniff.has_type(named, "distributed.client.Client") else call.on
    if call.on == "dask":
        print("Starting a local Dask cluster; each worker loads the model.")
    elif call.on == "ray":
        print(f"Starting a local Ray cluster, which takes 10 to 40 s. {OPEN_PORTS}.")
    is_up = False
    try:
        with cluster_engine(on, _model(context, call), call.workers) as engine:
            is_up = True
            if engine.cluster.dashboard:
                print(f"Dashboard: {engine.cluster.dashboard}")
            yield engine
    except KeyboardInterrupt as error:
        if is_up:
            raise
        raise Interrupted("the cluster was not up yet, and is gone.") from error


def _model(context: Context, call: Call) -> Engine | str:
    """What workers load: a model of this kernel by its name, any other name, or the starter; none here."""
    models = context.workspace.models
    name = call.model or models.default_name or "starter"
    return models.engines.get(name, name)
