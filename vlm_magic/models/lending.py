"""Lend models for a while, without losing those that are resident.

`Lending` hands out engines: a resident one where it was loaded in the wanted way, else a guest, which is
loaded on demand and unloaded after use. A guest that does not fit beside the residents first costs them their
caches; if that is not enough, residents are put away, the largest first, and brought back at the end. Only
residents whose weights are as they were read may move: trained weights could not be read again. A guest that
would not fit even then is refused before any resident moves.

Knows engines and estimates, not conversations or cells. Neighbours: `engine` puts itself away, `estimate`
says what a guest needs; `vlm_magic.workspace` knows what is resident, `vlm_magic.tasks.compare` borrows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from vlm_magic.errors import ModelLoadError, OptionError, VLMError
from vlm_magic.messages import Engine
from vlm_magic.models import memory
from vlm_magic.models.checkpoints.estimate import estimate
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.load_options import LoadOptions

__all__ = ["Lending"]

OnProgress = Callable[[str, int, int], None]


class Lending:
    """Lends models. As a context, it brings back residents that were put away, whatever happened within.

    Leaving it raises a ModelLoadError where one does not come back.

    Args:
        engines: the resident ones by name.
        loaded_with: source and options of those that were loaded from somewhere, by name.
        default: the name of the one in use, if any.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        loaded_with: Mapping[str, tuple[str, LoadOptions]],
        default: str | None = None,
    ) -> None:
        self._engines = engines
        self._loaded_with = loaded_with
        self._default = default
        self._leave = ExitStack()

    def __enter__(self) -> Lending:
        return self

    def __exit__(self, *failure: object) -> None:
        self._leave.close()

    def is_resident(self, name: str | None, changes: Mapping[str, object]) -> bool:
        """Whether this model is there already, loaded in this way."""
        return self._resident(name, changes) is not None

    def wanted(self, name: str | None, changes: Mapping[str, object]) -> tuple[str, LoadOptions | None]:
        """What a name and changed load options mean: a source and its options.

        A loaded model's name means how it was loaded, with the changes. No options are those of an engine
        that was not loaded from anywhere.

        Raises:
            OptionError: options that do not exist or fit, or changes to such an engine.
        """
        key = name or self._default or "starter"
        changed = LoadOptions.from_values(dict(changes))
        if key not in self._engines:
            return key, changed
        if key in self._loaded_with:
            source, options = self._loaded_with[key]
            return source, replace(options, **{name: getattr(changed, name) for name in changes})
        if changes:
            raise OptionError(
                f"{key} was not loaded from a checkpoint, so it cannot be loaded in another way",
                have=", ".join(changes),
                hint=f"models={key} without them",
            )
        return key, None

    @contextmanager
    def lend(
        self,
        name: str | None,
        changes: Mapping[str, object],
        *,
        on_progress: OnProgress | None = None,
    ) -> Iterator[Engine]:
        """An engine for the length of the block.

        Args:
            name: of a loaded model, "starter", a folder or a hub id; None for the model in use.
            changes: load options that differ from how it is, or would be, loaded.
            on_progress: called with (stage, done, total) while a guest is loaded.

        Raises:
            OutOfMemoryError: a guest does not fit, also without the residents that could make room.
            ModelError, OptionError: as for a load.
        """
        resident = self._resident(name, changes)
        if resident is not None:
            yield resident
            return
        source, options = self.wanted(name, changes)
        assert options is not None  # it would be resident
        if source != "starter":  # which fits wherever torch does
            self._make_room(source, options)
        engine = LocalEngine(load_model(source, options, on_progress=on_progress))
        try:
            yield engine
        finally:
            engine.close()

    def _resident(self, name: str | None, changes: Mapping[str, object]) -> Engine | None:
        wanted = self.wanted(name, changes)
        return next((engine for key, engine in self._engines.items() if self.wanted(key, {}) == wanted), None)

    def _make_room(self, source: str, options: LoadOptions) -> None:
        made = estimate(source, options)
        if made.fits or options.force:
            return
        residents = [e for e in self._engines.values() if isinstance(e, LocalEngine) and not e.is_closed]
        for resident in residents:
            resident.forget()
        device = made.plan.device
        memory.give_back(device)
        sizes = [(resident, _bytes_on(resident, device)) for resident in residents]
        movable = sorted((pair for pair in sizes if pair[1]), key=lambda pair: -pair[1])
        if memory.free_bytes(device) + sum(size for _, size in movable) < made.needed_bytes:
            return  # the load says so
        for resident, _ in movable:
            if memory.free_bytes(device) >= made.needed_bytes:
                return
            self._leave.callback(_bring_back, resident, device)
            resident.put_away()


def _bring_back(resident: LocalEngine, device: str) -> None:
    memory.give_back(device)
    try:
        resident.bring_back()
    except VLMError as error:  # somebody took the room meanwhile, or the checkpoint is gone
        raise ModelLoadError(
            f"{resident.name} made room for another model and cannot be loaded again",
            have=error.what,
            hint=f"%vlm_load {resident.name}",
        ) from error


def _bytes_on(resident: LocalEngine, device: str) -> int:
    """What a resident would give back on a device; 0 where it must stay."""
    loaded = resident.loaded
    if loaded is None or not resident.is_as_loaded:
        return 0
    kinds = {loaded.device.partition(":")[0], device.partition(":")[0]}
    return memory.real_bytes(loaded.model) if len(kinds) == 1 or "offload" in kinds else 0
