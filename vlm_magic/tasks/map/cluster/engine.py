"""A model on the workers of a cluster: checked to be the same everywhere before any row is sent.

Knows what a cluster can do and what its workers say; nothing of rows. Neighbours: `run` sends rows to it,
`vlm_magic.tasks.map.mapping` takes it for an engine.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence

from vlm_magic.errors import ClusterError, OptionError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import (
    About,
    Bill,
    Generating,
    Progress,
    Reply,
    Settings,
    Turn,
    Turns,
    check_abilities,
)
from vlm_magic.tasks.map.cluster import worker
from vlm_magic.tasks.map.cluster.protocol import Cluster
from vlm_magic.tasks.map.cluster.travel import MapTask, ModelSpec, packed_turns
from vlm_magic.wording import count_words

__all__ = ["ClusterEngine"]

_WAIT_S = 0.25


class ClusterEngine:
    """A cluster as what answers a map.

    Args:
        cluster: where.
        model: what each worker loads.
        identity: of the same model here, which workers must have; what the first worker says if not given.
        began: when the cluster began to start, by `time.perf_counter`; now if not given.

    Attributes:
        name: of the model.
        identity: what must be equal for the same prompt to get the same answer.
        start_up_s: seconds until the cluster was there and every worker had its model.

    Raises:
        ClusterError: a worker has other versions or another model than expected.
        VLMError: the model does not load on a worker.
    """

    def __init__(
        self,
        cluster: Cluster,
        model: ModelSpec,
        identity: Mapping[str, str] | None = None,
        began: float | None = None,
    ) -> None:
        began = time.perf_counter() if began is None else began
        self.cluster = cluster
        self.model = model
        here = worker.versions()
        found = cluster.on_each(worker.facts, model)
        for address, facts in found.items():
            for package, version in here.items():
                if facts.versions[package] != version:
                    raise _differs(address, package, facts.versions[package], version)
        first = next(iter(found.values()))
        self.name = model.name or first.name
        self.abilities = frozenset(first.abilities) - {"here", "remembers", "batches"}
        self.identity = dict(identity or first.identity)
        for address, facts in found.items():
            self.check_identity(facts.identity, address)
        self.start_up_s = time.perf_counter() - began

    @property
    def host(self) -> str:
        """Where it answers."""
        return self.cluster.name

    @property
    def is_closed(self) -> bool:
        """Whether nobody is left to answer."""
        return self.cluster.n_workers() == 0

    @property
    def about(self) -> About:
        """What it says of itself."""
        return About(f"{self.name} on {self.cluster.name}", self.name)

    def check(self, settings: Settings) -> None:
        """Raise where its workers' models cannot keep these settings.

        Raises:
            OptionError: a setting that they lack.
        """
        check_abilities(self, settings)

    def is_whole(self, reply: Reply, settings: Settings) -> bool:
        """Whether a reply that was cut off was whole: its worker has said so already, by how it ended."""
        return reply.finish_reason == "stop"

    def start(
        self,
        turns: Turns,
        settings: Settings,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generating:
        """A cluster answers the rows of maps, no single questions.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            f"{self.cluster.name} answers maps", have="one question", hint="a model loaded here: %vlm_load"
        )

    def close(self) -> int:
        """Let go of the cluster; no memory of this process comes back."""
        self.cluster.close()
        return 0

    def check_identity(self, identity: Mapping[str, str], who: str) -> None:
        """Raise where a worker's model is not the one that the map began with.

        Raises:
            ClusterError: says both.
        """
        for name in {*self.identity, *identity}:
            there, here = identity.get(name, "none"), self.identity.get(name, "none")
            if there != here and name != "name":
                raise _differs(who, f"model's {name}", there, here)

    def bill(self, turns: Sequence[Turn], settings: Settings) -> Bill:
        """What a prompt would cost, as the first free worker says."""
        fixed: dict[str, bytes] = {}
        packed = packed_turns(turns, fixed)
        asked = tuple((turn.role, parts) for turn, parts in zip(turns, packed, strict=True))
        task = MapTask(uuid.uuid4().hex, self.model, settings, PictureOptions(), asked, fixed)
        self.cluster.submit(worker.bill, task)
        while not (ended := self.cluster.completed(_WAIT_S)):
            pass
        if ended[0].error is not None:
            raise ended[0].error
        found: Bill = ended[0].value
        return found

    @property
    def figures(self) -> list[str]:
        """What a person sees beside the rows' own figures."""
        return [count_words(self.cluster.n_workers(), "worker")]

    @property
    def last_figures(self) -> list[str]:
        """Likewise, at the end: the time before the first row apart from that of the rows."""
        return [f"on {self.cluster.name}", f"{self.start_up_s:.1f} s to start"]


def _differs(who: str, what: str, there: str, here: str) -> ClusterError:
    return ClusterError(
        f"worker {who} has another {what}",
        have=f"there {there}, here {here}",
        hint="the same versions and the same checkpoint on every worker as here",
    )
