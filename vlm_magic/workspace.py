"""What is resident in this kernel: models by name, conversations by name, and the cell that runs.

One `Workspace` stands behind the magics and behind `vlm_magic.load`, `vlm_magic.engine` and
`vlm_magic.session`, so that cells and plain Python share models and conversations. It decides which
conversation a cell's call belongs to. Knows nothing of IPython: the shell tells it when cells begin
and end.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.conversation import CellKey, Conversation
from vlm_magic.errors import ConversationError, ModelNotFoundError, near_names
from vlm_magic.inputs.kept import PictureStore
from vlm_magic.messages import Engine, Exchange, Part, Picture
from vlm_magic.outputs.saved import SavedNotebook, read_notebook
from vlm_magic.session import Session

if TYPE_CHECKING:
    from vlm_magic.models.engine import LocalEngine
    from vlm_magic.models.guests import Lending
    from vlm_magic.models.options import LoadOptions

__all__ = ["MAIN", "Restored", "Workspace", "current"]

MAIN = "main"


@dataclass(frozen=True)
class Restored:
    """What `Workspace.restore` brought back.

    Attributes:
        notebook: the file that it came from.
        n_turns: turns that came back, by conversation.
        n_pictures: pictures in them.
        lost: names of those whose pixels are no longer on this machine.
    """

    notebook: SavedNotebook
    n_turns: dict[str, int]
    n_pictures: int = 0
    lost: tuple[str, ...] = ()

    def __str__(self) -> str:
        saved_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.notebook.saved_at))
        turns = ", ".join(f"{_turns(n)} of conversation {name!r}" for name, n in self.n_turns.items() if n)
        lines = [f"restored from {self.notebook.path.name}, saved {saved_at}: {turns or 'nothing new'}"]
        if self.lost:
            names = ", ".join(self.lost[:5]) + ("…" if len(self.lost) > 5 else "")
            lines.append(
                f"{len(self.lost)} of {self.n_pictures} pictures no longer on this machine: {names}; "
                "their turns are shown to the model in words"
            )
        return "\n".join(lines)


class Workspace:
    """The models and conversations of one kernel.

    Attributes:
        engines: by name, in the order of loading; the newest is the default.
        sessions: by name of their conversation.
        pictures: where full pictures of conversations are kept on disk; at first nothing is.
    """

    def __init__(self) -> None:
        self.pictures = PictureStore(limit_bytes=0)
        self.engines: dict[str, Engine] = {}
        self.sessions: dict[str, Session] = {}
        self._loaded_with: dict[str, tuple[str, LoadOptions]] = {}
        self._default: str | None = None
        self._lock = threading.RLock()
        self._is_load_stopped = threading.Event()
        self._unnamed = [MAIN]  # conversations that cells without -c belong to: main, and one per --new
        self._current = MAIN
        self._started_by: dict[CellKey, str] = {}  # call -> the conversation that its --new started
        self._cell: str | None = None
        self._n_calls = 0
        self._n_anonymous = itertools.count(2)

    # Models

    def load(
        self,
        model: str | Path = "starter",
        *,
        name: str | None = None,
        replace: bool = False,
        on_progress: Callable[[str, int, int], None] | None = None,
        **options: Any,
    ) -> LocalEngine:
        """Load a model and make it the default; loading the same thing again costs nothing.

        Args:
            model: "starter", a folder, or an id on the hub.
            name: how to call it; the model's own name if not given.
            replace: unload the default model too, so that two never share the memory by accident; it goes
                when the new one is there, and where there is no room for both, it comes back if that fails.
            on_progress: called with (what, done, total) while loading.
            **options: see `vlm_magic.models.loading.LoadOptions`.

        Raises:
            OptionError: no such option. ModelError and its kin: the model does not load, or `stop_load` was
                called; what was resident still is.
        """
        from vlm_magic.models.engine import LocalEngine
        from vlm_magic.models.loading import load_model
        from vlm_magic.models.options import LoadOptions

        wanted = (str(model), LoadOptions.from_values(options))
        with self._lock:
            key = name or str(model)
            resident = self.engines.get(key)
            if isinstance(resident, LocalEngine) and not resident.is_closed:
                if self._loaded_with.get(key) == wanted:
                    self._use(key)
                    return resident
                leaving: str | None = key
            else:
                leaving = self._default if replace and name is None else None
            self._is_load_stopped.clear()
            with self._making_room(leaving, wanted):
                loaded = load_model(
                    model, wanted[1], on_progress=on_progress, is_stopped=self._is_load_stopped.is_set
                )
            if leaving is not None:
                self.unload(leaving)
            engine = LocalEngine(loaded)
            self.add_engine(key, engine)
            self._loaded_with[key] = wanted
            return engine

    def stop_load(self) -> None:
        """End a load that is under way, within a tensor; from any thread, harmless when there is none."""
        self._is_load_stopped.set()

    @contextmanager
    def _making_room(self, name: str | None, wanted: tuple[str, LoadOptions]) -> Iterator[None]:
        """Put a model that will be replaced away where there is no room beside it; back when that fails."""
        from vlm_magic.models.engine import LocalEngine
        from vlm_magic.models.estimate import estimate

        engine = None if name is None else self.engines[name]
        is_large = isinstance(engine, LocalEngine) and wanted[0] != "starter"
        if not is_large or estimate(*wanted).fits:  # which raises where it could not be loaded anyway
            yield
            return
        assert isinstance(engine, LocalEngine)
        engine.reuse.clear()
        if engine.is_as_loaded and not estimate(*wanted).fits:  # trained weights could not come back
            engine.put_away()
        try:
            yield
        except BaseException:
            engine.bring_back()
            raise

    def add_engine(self, name: str, engine: Engine) -> None:
        """Make any engine resident and the default."""
        with self._lock:
            self.engines.pop(name, None)
            self.engines[name] = engine
            self._use(name)

    def engine(self, name: str | None = None) -> Engine:
        """The engine of this name; without a name, the one that the magics use.

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

    def ensure_engine(self) -> str:
        """Load the starter where nothing is loaded; what to tell the person, "" for nothing."""
        if self.engines:
            return ""
        from vlm_magic.models.loading import describe

        engine = self.load()
        assert engine.loaded is not None
        return f"No model was loaded, so this is the starter: {describe(engine.loaded)}"

    def lending(self) -> Lending:
        """Hands out models for a while, those that are loaded and others; use it as a context."""
        from vlm_magic.models.guests import Lending

        with self._lock:
            return Lending(dict(self.engines), dict(self._loaded_with), self._default)

    @property
    def default_engine(self) -> str | None:
        """The name of the model that the magics use."""
        return self._default

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
            self._loaded_with.pop(key, None)
            self._default = next(reversed(self.engines), None)
            for session in self.sessions.values():
                if session.engine is engine:
                    session.engine = None if self._default is None else self.engines[self._default]
            return engine.close()

    def _use(self, name: str) -> None:
        self._default = name
        for session in self.sessions.values():
            session.engine = self.engines[name]

    # Conversations

    def session(self, name: str | None = None) -> Session:
        """The session of this conversation, made when it is new; without a name, the current one."""
        key = name or self._current
        with self._lock:
            if key not in self.sessions:
                engine = self.engines[self._default] if self._default else None
                self.sessions[key] = Session(engine, self._new_conversation(key))
            return self.sessions[key]

    def _new_conversation(self, name: str) -> Conversation:
        conversation = Conversation(name)
        conversation.listeners.append(
            lambda: self.pictures.keep(picture for turn in conversation for picture in turn.pictures)
        )
        return conversation

    def session_for(self, key: CellKey | None, name: str | None = None, new: bool = False) -> Session:
        """Which conversation a call belongs to.

        With a name, that one. Without, the one that holds the cell's turn already, if it is one of
        those without a chosen name; otherwise the one used last among them. ``new`` takes another,
        or the one that the same cell took before; to start it over, pass ``fresh`` to
        `Session.start`.
        """
        with self._lock:
            if new:
                return self.session(self._start_new(key, name))
            if name:
                return self.session(name)
            held = (n for n in self._unnamed if n in self.sessions and self.sessions[n].conversation.has(key))
            self._current = next(held, self._current)
            return self.session(self._current)

    def _start_new(self, key: CellKey | None, name: str | None) -> str:
        """The name of the conversation that ``--new`` takes."""
        started = self._started_by.get(key) if key is not None else None
        chosen = name or started or self._fresh_name()
        if name is None:
            if chosen not in self._unnamed:
                self._unnamed.append(chosen)
            self._current = chosen
        if key is not None:
            self._started_by[key] = chosen
        return chosen

    def _fresh_name(self) -> str:
        return next(n for i in self._n_anonymous if (n := f"{MAIN} {i}") not in self.sessions)

    def settle(self, session: Session, exchange: Exchange) -> None:
        """A call's turn has its place in ``session``: take it out of every other conversation."""
        if exchange.key is None:
            return
        for other in list(self.sessions.values()):
            if other is not session:
                other.conversation.drop_key(exchange.key)

    def known_session(self, name: str | None = None) -> Session:
        """The session of this conversation; without a name, the current one.

        Raises:
            ConversationError: no conversation of that name.
        """
        if name is not None and name not in self.sessions:
            raise ConversationError(
                f"no conversation {name!r}",
                have=", ".join(near_names(name, self.sessions) or self.sessions) or "none yet",
                hint="%vlm_status lists them",
                name=name,
            )
        return self.session(name)

    # Conversations of an earlier kernel

    def restore(self, notebook: str | Path | SavedNotebook, name: str | None = None) -> Restored:
        """Bring conversations back from a saved notebook, to go on with them; see `Conversation.restore`.

        Args:
            notebook: the file, or what `read_notebook` made of it.
            name: only the conversation of this name; None is all of them.

        Raises:
            ConversationError: no such file, or nothing of a conversation in it.
        """
        saved = notebook if isinstance(notebook, SavedNotebook) else read_notebook(Path(notebook))
        found = {n: turns for n, turns in saved.conversations.items() if name in (None, n)}
        if not found:
            what = "a conversation" if name is None else f"conversation {name!r}"
            raise ConversationError(
                f"nothing of {what} in {saved.path.name}",
                have=", ".join(saved.conversations) or "outputs without turns; was the notebook saved?",
                hint="save the notebook before the kernel is restarted",
                path=saved.path,
            )
        n_turns: dict[str, int] = {}
        pictures: list[Picture] = []
        for each, turns in found.items():
            conversation = self.session(each).conversation
            missing = conversation.missing(turns)
            for turn in missing:
                turn.parts = tuple(self._with_pixels(turn.parts, saved.picture_keys))
                pictures += turn.pictures
            n_turns[each] = conversation.restore(turns)
        self._take_up(found)
        lost = tuple(picture.name or "picture" for picture in pictures if picture.is_lost)
        return Restored(saved, n_turns, len(pictures), lost)

    def _with_pixels(self, parts: Iterable[Part], keys: Iterable[str]) -> Iterable[Part]:
        """The parts, with the pictures that this machine has kept."""
        for part in parts:
            if isinstance(part, Picture):
                found = (self.pictures.find(key, part.digest) for key in (self.pictures.key, *keys))
                image = next((image for image in found if image is not None), None)
                yield replace(part, image=image)
            else:
                yield part

    def _take_up(self, found: dict[str, list[Exchange]]) -> None:
        """Cells without -c belong to the restored conversations again, new ones to the one used last."""
        unnamed = {name: turns for name, turns in found.items() if re.fullmatch(rf"{MAIN}( \d+)?", name)}
        with self._lock:
            for name, turns in unnamed.items():
                if name not in self._unnamed:
                    self._unnamed.append(name)
                if name != MAIN and turns[0].key is not None:
                    self._started_by.setdefault(turns[0].key, name)
            if unnamed:
                self._current = max(unnamed, key=lambda name: max(e.answered_at for e in unnamed[name]))

    # Cells

    def begin_cell(self, cell_id: str | None) -> None:
        """A cell begins to run; None where the front-end tells no id."""
        self._cell, self._n_calls = cell_id, 0

    def end_cell(self, *, succeeded: bool) -> None:
        """The cell has ended; turns of calls that it no longer makes are dropped.

        Not after a failure or an interrupt: the calls that were not reached are not gone.
        """
        if self._cell is not None and succeeded:
            for session in list(self.sessions.values()):
                session.conversation.drop_calls(self._cell, self._n_calls)
        self._cell = None

    def next_key(self) -> CellKey | None:
        """The key of the running cell's next call; None outside a cell with an id."""
        if self._cell is None:
            return None
        self._n_calls += 1
        return (self._cell, self._n_calls - 1)

    def peek_key(self) -> CellKey | None:
        """The key that the next call would have, without counting it."""
        return None if self._cell is None else (self._cell, self._n_calls)


def _turns(n: int) -> str:
    return f"{n} turn{'s' * (n != 1)}"


_current = Workspace()


def current() -> Workspace:
    """The workspace of this kernel."""
    return _current
