"""The turns of one conversation, by cell, and what the model is shown for a given one.

Pure data with one lock. The notebook is the conversation: a cell owns its turns (key: cell id and
the number of the call within that run), running it again replaces them in place, and it sees the
turns before it, in the order in which they were first run. Nothing changes before an answer is
there: `draft` only says what would be, `commit` does it, so a failed call leaves all as it was.
Knows nothing of models, cells' text or IPython.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from vlm_magic.errors import ConversationError
from vlm_magic.messages import Exchange, Part, Reply, Settings, Turn

__all__ = ["CellKey", "Conversation"]

CellKey = tuple[str, int]


class Conversation:
    """The exchanges of one conversation in their order.

    Args:
        name: how people call it.

    Attributes:
        lock: guards every change; cells and panels share one conversation.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.lock = threading.RLock()
        self._exchanges: list[Exchange] = []
        self._ids = itertools.count(1)

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self.exchanges)

    def __repr__(self) -> str:
        return f"<Conversation {self.name!r}: {len(self)} turns>"

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """All exchanges, first to last."""
        with self.lock:
            return tuple(self._exchanges)

    def find(self, exchange_id: str) -> Exchange:
        """The exchange with this id.

        Raises:
            ConversationError: there is none.
        """
        with self.lock:
            for exchange in self._exchanges:
                if exchange.id == exchange_id:
                    return exchange
        raise ConversationError(
            f"no turn {exchange_id!r} in conversation {self.name!r}",
            have=", ".join(e.id for e in self._exchanges) or "no turns yet",
            hint="%vlm_history shows the turns",
        )

    def has(self, key: CellKey | None) -> bool:
        """Whether this cell's call has its turn here."""
        return key is not None and self._position(key) is not None

    def draft(self, parts: tuple[Part, ...], settings: Settings, key: CellKey | None = None) -> Exchange:
        """A new exchange that is not part of the conversation yet; its id is new on every run."""
        with self.lock:
            return Exchange(f"{self.name}-{next(self._ids)}", parts, settings, key=key)

    def turns_for(self, exchange: Exchange, *, fresh: bool = False) -> tuple[Turn, ...]:
        """What the model is shown for this exchange: the answered turns before its place, and itself.

        A question whose answer was stopped before its first word is left out with it: templates
        want the roles to alternate. ``fresh`` shows the question alone, as the first of a new start.
        """
        with self.lock:
            position = 0 if fresh else self._position(exchange.key)
            before = self._exchanges[: len(self._exchanges) if position is None else position]
        shown = [turn for earlier in before if earlier.reply and earlier.reply.text for turn in earlier.turns]
        return (*shown, Turn("user", exchange.parts))

    def commit(self, exchange: Exchange, reply: Reply, *, fresh: bool = False) -> Exchange:
        """Put the answered exchange at its place: over the cell's earlier one, or at the end.

        The earlier answer is kept as an alternative; the turns after it are marked stale. ``fresh``
        starts the conversation over with this exchange.
        """
        with self.lock:
            position = self._position(exchange.key)
            done = replace(exchange, reply=reply, is_stale=False)
            if position is not None:
                earlier = self._exchanges[position]
                done.alternatives = [*earlier.alternatives, *([earlier.reply] if earlier.reply else [])]
            if fresh:
                self._exchanges = [done]
            elif position is None:
                self._exchanges.append(done)
            else:
                self._exchanges[position] = done
                self._mark_stale_from(position + 1)
            return done

    def drop_where(self, condition: Callable[[Exchange], bool]) -> int:
        """Remove exchanges; those that came after a removed one become stale. Returns how many went."""
        with self.lock:
            gone = [i for i, exchange in enumerate(self._exchanges) if condition(exchange)]
            if gone:
                self._mark_stale_from(gone[0])
                self._exchanges = [e for i, e in enumerate(self._exchanges) if i not in gone]
            return len(gone)

    def drop_key(self, key: CellKey) -> int:
        """Remove the turn of this cell's call, for it has moved elsewhere."""
        return self.drop_where(lambda exchange: exchange.key == key)

    def drop_calls(self, cell_id: str, n_calls: int) -> int:
        """Remove the turns that a shorter run of a cell no longer made."""
        return self.drop_where(
            lambda exchange: (
                exchange.key is not None and exchange.key[0] == cell_id and exchange.key[1] >= n_calls
            )
        )

    def clear(self) -> int:
        """Forget all turns; returns how many there were."""
        with self.lock:
            n = len(self._exchanges)
            self._exchanges = []
            return n

    def _position(self, key: CellKey | None) -> int | None:
        if key is None:
            return None
        return next((i for i, exchange in enumerate(self._exchanges) if exchange.key == key), None)

    def _mark_stale_from(self, position: int) -> None:
        for exchange in self._exchanges[position:]:
            exchange.is_stale = True
