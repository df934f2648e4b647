"""The engines of a kernel by name: loading, lending and unloading them.

Knows what was loaded from where; nothing of conversations, which listen to it. Neighbours:
`vlm_magic.models` loads, `vlm_magic.models.lending` hands models out for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import ModelNotFoundError, OptionError, near_names
from vlm_magic.messages import Engine
from vlm_magic.uninterrupted import import_whole

if TYPE_CHECKING:
    from vlm_magic.models.engine import LocalEngine
    from vlm_magic.models.lending import Lending
    from vlm_magic.models.load_options import LoadOptions
    from vlm_magic.remote.engine import RemoteEngine

__all__ = ["Residents"]


@dataclass(frozen=True)
class _Load:
    """An engine that was loaded into this process, and what was asked for."""

    engine: LocalEngine
    source: str
    options: LoadOptions

    @property
    def wanted(self) -> tuple[str, LoadOptions]:
        return self.source, self.options


class Residents:
    """Engines by name, in the order of loading; the newest is the default.

    Attributes:
        engines: by name.
        listeners: called with (the engine that answers from now on, the one that went or None).
    """

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.listeners: list[Callable[[Engine | None, Engine | None], object]] = []
        self._loads: dict[str, _Load] = {}
        self._default: str | None = None
        self._lock = threading.RLock()

    @property
    def default_name(self) -> str | None:
        """The name of the engine that the magics use."""
        return self._default

    @property
    def default(self) -> Engine | None:
        """The engine that the magics use."""
        return None if self._default is None else self.engines[self._default]

    def engine(self, name: str | None = None) -> Engine:
        """The engine of this name; without a name, the default.

        Raises:
            ModelNotFoundError: nothing is loaded, or nothing of that name.
        """
        key = name or self._default
        if key is None:
            raise ModelNotFoundError("no model is loaded", hint="%vlm_load, or vlm_magic.load()")
        if key not in self.engines:
            raise ModelNotFoundError(
                f"no loaded model is called {key!r}",
                have=", ".join(near_names(key, self.engines) or self.engines) or "none is loaded",
                hint=f"%vlm_load {key}",
                name=key,
            )
        return self.engines[key]

    def answering_as(self, name: str) -> Engine | None:
        """The engine whose replies bear this name, if it is still here."""
        known = self.engines.get(name)
        if known is not None:
            return known
        return next((e for e in reversed(self.engines.values()) if e.name == name), None)

    def load(
        self,
        model: str | Path = "starter",
        *,
        name: str | None = None,
        replace: bool = False,
        on_progress: Callable[[str, int, int], None] | None = None,
        is_stopped: Callable[[], bool] | None = None,
        **options: Any,
    ) -> LocalEngine:
        """Load a model and make it the default; loading the same thing again costs nothing.

        Args:
            model: "starter", a folder, or an id on the hub.
            name: how to call it; the model's own name if not given.
            replace: unload the default model too, so that two never share the memory by accident; it goes
                when the new one is there, and where there is no room for both, it comes back if that fails.
            on_progress: called with (what, done, total) while loading.
            is_stopped: asked after every tensor; True ends the load.
            **options: see `vlm_magic.models.load_options.LoadOptions`.

        Raises:
            OptionError: no such option, or a model on a server has that name.
            ModelError: the model does not load, or it was stopped; what was resident still is.
        """
        import_whole("vlm_magic.models.engine")
        from vlm_magic.models.checkpoints.loading import load_model
        from vlm_magic.models.engine import LocalEngine
        from vlm_magic.models.load_options import LoadOptions

        source, wanted = str(model), LoadOptions.from_values(options)
        with self._lock:
            key = name or source
            known = self._loads.get(key)
            if known is not None and not known.engine.is_closed:
                if known.wanted == (source, wanted):
                    self._use(key)
                    return known.engine
                leaving: str | None = key
            else:
                self._refuse_servers_name(key)
                is_here = self._default in self._loads  # a server shares no memory with it, and stays
                leaving = self._default if replace and name is None and is_here else None
            with self._making_room(leaving, source, wanted):
                loaded = load_model(model, wanted, on_progress=on_progress, is_stopped=is_stopped)
            if leaving is not None:
                self.unload(leaving)
            engine = LocalEngine(loaded, key)
            self.add(key, engine)
            self._loads[key] = _Load(engine, source, wanted)
            return engine

    def connect(
        self, url: str | Sequence[str], model: str | None = None, *, name: str | None = None, **options: Any
    ) -> RemoteEngine:
        """Make a model on a server resident and the default; see `vlm_magic.remote.connect.connect_to`.

        Raises:
            OptionError: another engine has that name, or an option that does not do.
            ModelError: nobody answers, the key is refused, or there is no such model.
        """
        from vlm_magic.remote.connect import connect_to

        engine = connect_to(url, model, name=name, **options)
        with self._lock:
            known = self.engines.get(engine.name)
            if known is not None and known.identity != engine.identity:
                engine.close()
                raise OptionError(
                    f"another model is called {engine.name} already",
                    have=known.about.line,
                    hint=f"--as another name, or %vlm_unload {engine.name}",
                    name=engine.name,
                )
            if known is not None:
                self.unload(engine.name)
            self.add(engine.name, engine)
        return engine

    def _refuse_servers_name(self, name: str) -> None:
        """Raise where a model on a server has this name."""
        known = self.engines.get(name)
        if known is not None and known.host:
            raise OptionError(
                f"another model is called {name} already",
                have=known.about.line,
                hint=f"--as another name, or %vlm_unload {name}",
                name=name,
            )

    def ensure_one(
        self,
        on_progress: Callable[[str, int, int], None] | None = None,
        is_stopped: Callable[[], bool] | None = None,
    ) -> str:
        """Load the starter where nothing is loaded; what to tell the person, "" for nothing."""
        if self.engines:
            return ""
        loaded = self.load(on_progress=on_progress, is_stopped=is_stopped)
        return f"No model was loaded, so this is the starter: {loaded.about.line}"

    def use(self, name: str) -> Engine:
        """Let a resident engine be the default again: it answers later questions.

        Raises:
            ModelNotFoundError: nothing of that name is loaded.
        """
        with self._lock:
            engine = self.engine(name)
            self._use(name)
        return engine

    def add(self, name: str, engine: Engine) -> None:
        """Make any engine resident and the default."""
        with self._lock:
            self.engines.pop(name, None)
            self._loads.pop(name, None)
            self.engines[name] = engine
            self._use(name)

    def unload(self, name: str | None = None) -> int:
        """Unload one model (without a name, the default one); the bytes that came back.

        Raises:
            ModelNotFoundError: there is none of that name.
        """
        with self._lock:
            engine = self.engine(name)
            key = name or self._default
            assert key is not None
            del self.engines[key]
            self._loads.pop(key, None)
            self._default = next(reversed(self.engines), None)
            self._tell(self.default, engine)
            return engine.close()

    def lending(self) -> Lending:
        """Hands out models for a while, those that are loaded and others; use it as a context."""
        from vlm_magic.models.lending import Lending

        with self._lock:
            loaded_with = {name: load.wanted for name, load in self._loads.items()}
            return Lending(dict(self.engines), loaded_with, self._default)

    @contextmanager
    def _making_room(self, name: str | None, source: str, options: LoadOptions) -> Iterator[None]:
        """Put a model that will be replaced away where there is no room beside it; back when that fails."""
        from vlm_magic.models.checkpoints.estimate import estimate

        leaving = None if name is None else self._loads.get(name)
        if leaving is None or source == "starter" or estimate(source, options).fits:
            yield  # `estimate` raises where it could not be loaded anyway
            return
        engine = leaving.engine
        engine.forget()
        if engine.is_as_loaded and not estimate(source, options).fits:  # trained weights could not come back
            engine.put_away()
        try:
            yield
        except BaseException:
            engine.bring_back()
            raise

    def _use(self, name: str) -> None:
        self._default = name
        self._tell(self.engines[name], None)

    def _tell(self, engine: Engine | None, instead_of: Engine | None) -> None:
        for listener in self.listeners:
            listener(engine, instead_of)
