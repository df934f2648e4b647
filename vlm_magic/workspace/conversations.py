"""The conversations of a kernel, and which of them a cell's call belongs to.

Knows sessions and keys of cells; nothing of how models are loaded. Neighbour: `residents`, whose default
engine answers in every session.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Mapping, Sequence

from vlm_magic.conversation import CellKey, Conversation
from vlm_magic.errors import ConversationError, near_names
from vlm_magic.inputs.picture_store import PictureStore
from vlm_magic.messages import Engine, Exchange
from vlm_magic.session import Session
from vlm_magic.workspace.residents import Residents

__all__ = ["MAIN", "Conversations"]

MAIN = "main"
_MOST_NAME_CHARS = 60


class Conversations:
    """Sessions by the name of their conversation.

    Args:
        models: whose default engine answers.

    Attributes:
        sessions: by name.
        pictures: where full pictures of conversations are kept on disk; at first nothing is.
    """

    def __init__(self, models: Residents) -> None:
        self.sessions: dict[str, Session] = {}
        self.pictures = PictureStore(limit_bytes=0)
        self._models = models
        self._lock = threading.RLock()
        self._unnamed = [MAIN]  # conversations that cells without -c belong to: main, and one per --new
        self._current = MAIN
        self._started_by: dict[CellKey, str] = {}  # call -> the conversation that its --new started
        self._made_new: tuple[str, str] | None = None  # the newest that --new made, and the one before it
        models.listeners.append(self._follow)

    def session(self, name: str | None = None) -> Session:
        """The session of this conversation, made when it is new; without a name, the current one."""
        key = name or self._current
        with self._lock:
            if key not in self.sessions:
                self.sessions[key] = Session(self._models.default, self._new_conversation(key))
            return self.sessions[key]

    def known_session(self, name: str | None = None) -> Session:
        """The session of this conversation; without a name, of the one that was answered in last.

        This is what the magics mean that show, export, program or reset a conversation.

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
        return self.session(name or self.latest)

    @property
    def latest(self) -> str:
        """The name of the conversation that was answered in last; the current one before any answer."""
        answered = {
            name: max(turn.answered_at for turn in session.conversation)
            for name, session in self.sessions.items()
            if len(session.conversation)
        }
        return max(answered, key=lambda name: answered[name]) if answered else self._current

    def session_for(self, key: CellKey | None, name: str | None = None, new: bool = False) -> Session:
        """Which conversation a call belongs to.

        With a name, that one. Without, the one that holds the cell's turn already, if it is one of
        those without a chosen name; otherwise the one used last among them. ``new`` takes another,
        or the one that the same cell started before; `Session.start` with ``fresh`` begins it.
        """
        with self._lock:
            if new:
                return self.session(self._start_new(key, name))
            if name:
                return self.session(name)
            held = (n for n in self._unnamed if n in self.sessions and self.sessions[n].conversation.has(key))
            self._current = next(held, self._current)
            return self.session(self._current)

    def begin(self, name: str | None = None) -> Session:
        """A new, empty conversation beside the others; cells go on with theirs.

        Args:
            name: how to call it; made up, if not given.

        Raises:
            ConversationError: there is one of that name.
        """
        with self._lock:
            fresh = (n for i in itertools.count(1) if (n := f"chat {i}") not in self.sessions)
            return self.session(self._free_name(name) if name else next(fresh))

    def rename(self, name: str, to: str) -> Session:
        """Call a conversation something else. Not one with turns of cells, for those say where they belong.

        Raises:
            ConversationError: no such conversation, a name that is taken, or turns of cells.
        """
        with self._lock:
            session = self.known_session(name)
            if to.strip() == name:
                return session
            new, conversation = self._free_name(to), session.conversation
            n = sum(turn.key is not None for turn in conversation)
            if n:
                raise ConversationError(
                    f"conversation {name!r} has turns of cells, which name it: it keeps its name",
                    have=f"{n} of its {len(conversation)} turns belong to cells",
                    hint="a new conversation in the panel can be called anything",
                    name=name,
                )
            self.sessions = {new if known == name else known: s for known, s in self.sessions.items()}
            conversation.rename(new)
        return session

    def _free_name(self, name: str) -> str:
        """A name as a person typed it, where it can be one.

        Raises:
            ConversationError: it is empty, taken, or one that cells' conversations get by themselves.
        """
        words = " ".join(name.split())
        is_cells = bool(re.fullmatch(rf"{MAIN}( \d+)?", words))
        if not words or words in self.sessions or is_cells:
            why = (
                "is taken"
                if words in self.sessions
                else "is for cells without -c"
                if is_cells
                else "is empty"
            )
            raise ConversationError(
                f"the name {words!r} {why}" if words else "a conversation needs a name",
                have=", ".join(self.sessions),
                hint="another name",
                name=words,
            )
        return words[:_MOST_NAME_CHARS]

    def abandon(self, session: Session) -> None:
        """The call for which `session_for` gave this session has failed: what ``--new`` made for it goes."""
        with self._lock:
            if self._made_new is None or self._made_new[0] != session.conversation.name:
                return
            name, before = self._made_new
            if not len(session.conversation):
                self.sessions.pop(name, None)
                self._unnamed = [known for known in self._unnamed if known != name] or [MAIN]
                self._started_by = {key: n for key, n in self._started_by.items() if n != name}
                self._current = before
            self._made_new = None

    @property
    def current(self) -> str:
        """The name of the conversation that cells without -c go on with."""
        return self._current

    def settle(self, session: Session, exchange: Exchange) -> None:
        """A call's turn has its place in ``session``: take it out of every other conversation."""
        if exchange.key is None:
            return
        for other in list(self.sessions.values()):
            if other is not session:
                other.conversation.drop_key(exchange.key)

    def drop_calls(self, cell_id: str, n_calls: int) -> None:
        """Drop the turns of a cell beyond its first ``n_calls`` calls, wherever they are."""
        for session in list(self.sessions.values()):
            session.conversation.drop_calls(cell_id, n_calls)

    def take_up(self, restored: Mapping[str, Sequence[Exchange]]) -> None:
        """Cells without -c belong to the restored conversations again, new ones to the one used last."""
        unnamed = {n: turns for n, turns in restored.items() if re.fullmatch(rf"{MAIN}( \d+)?", n)}
        with self._lock:
            for name, turns in unnamed.items():
                if name not in self._unnamed:
                    self._unnamed.append(name)
                if name != MAIN and turns[0].key is not None:
                    self._started_by.setdefault(turns[0].key, name)
            if unnamed:
                self._current = max(unnamed, key=lambda name: max(e.answered_at for e in unnamed[name]))

    def _follow(self, engine: Engine | None, instead_of: Engine | None) -> None:
        """Let ``engine`` answer in the sessions that had the other one; without one, in all."""
        for session in list(self.sessions.values()):
            if instead_of is None or session.engine is instead_of:
                session.engine = engine

    def _new_conversation(self, name: str) -> Conversation:
        conversation = Conversation(name)
        conversation.listeners.append(
            lambda: self.pictures.keep(picture for turn in conversation for picture in turn.pictures)
        )
        return conversation

    def _start_new(self, key: CellKey | None, name: str | None) -> str:
        """The name of the conversation that ``--new`` takes."""
        started = self._started_by.get(key) if key is not None else None
        chosen = name or started or self._fresh_name()
        self._made_new = None if chosen in self.sessions else (chosen, self._current)
        if name is None:
            if chosen not in self._unnamed:
                self._unnamed.append(chosen)
            self._current = chosen
        if key is not None:
            self._started_by[key] = chosen
        return chosen

    def _fresh_name(self) -> str:
        return next(n for i in itertools.count(2) if (n := f"{MAIN} {i}") not in self.sessions)
