"""The turns of one conversation, by cell, and what the model is shown for a given one.

Pure data with one lock. The notebook is the conversation: a cell owns its turns (key: cell id and number of
the call within that run), running it again replaces them in place, and it sees the turns before it, in the
order in which they were first run. Nothing changes until an answer is there: `draft` only says what would
be, `commit` does it, so a call that fails leaves everything as it was. Knows nothing of models, the text of
cells or IPython.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from vlm_magic.errors import ConversationError
from vlm_magic.messages import Exchange, Part, Picture, Reply, Settings, Text, Turn
from vlm_magic.wording import count_words

__all__ = ["CellKey", "Conversation"]

CellKey = tuple[str, int]


class Conversation:
    """The exchanges of one conversation in their order.

    Args:
        name: how people call it.

    Attributes:
        lock: guards every change; cells and panels share one conversation.
        listeners: called without arguments after every change, by the thread that made it.
        is_settled: a person cleared it, deleted a turn or restored it: nobody is asked again whether the
            turns of a saved notebook shall come back.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.lock = threading.RLock()
        self.listeners: list[Callable[[], object]] = []
        self.is_settled = False
        self._exchanges: list[Exchange] = []
        self._ids = itertools.count(1)

    def __getstate__(self) -> dict[str, object]:
        """What a copy and a pickle hold: the turns. Who listens, a panel of this page, stays here."""
        with self.lock:
            self._ids = itertools.count(next_id := next(self._ids))
            exchanges = [replace(e, alternatives=list(e.alternatives)) for e in self._exchanges]
            return {
                "name": self.name,
                "is_settled": self.is_settled,
                "exchanges": exchanges,
                "next_id": next_id,
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["name"])  # type: ignore[misc]
        self.is_settled = state["is_settled"]
        self._exchanges = state["exchanges"]
        self._ids = itertools.count(state["next_id"])

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self.exchanges)

    def __repr__(self) -> str:
        return f"<Conversation {self.name!r}: {count_words(len(self), 'turn')}>"

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
        return key is not None and any(exchange.key == key for exchange in self.exchanges)

    def draft(
        self,
        parts: tuple[Part, ...],
        settings: Settings,
        key: CellKey | None = None,
        replaces: str = "",
        examples: tuple[Turn, ...] = (),
    ) -> Exchange:
        """A new exchange that is not part of the conversation yet; its id is new on every run.

        Raises:
            ConversationError: there is no exchange with the id ``replaces``.
        """
        with self.lock:
            if replaces:
                key = self.find(replaces).key
            name = f"{self.name}-{next(self._ids)}"
            return Exchange(name, parts, settings, key=key, replaces=replaces, examples=examples)

    def turns_for(self, exchange: Exchange, *, fresh: bool = False) -> tuple[Turn, ...]:
        """What the model is shown for this exchange: the answered turns before its place, and itself.

        A question whose answer was stopped before its first word is left out with it: templates
        want the roles to alternate. Hidden turns are left out as well. For a picture that a restored
        turn has lost, words stand in. ``fresh`` shows the question alone, as the first of its conversation.
        The question's own examples come first, so that all questions with the same ones begin alike.
        """
        with self.lock:
            position = 0 if fresh else self._position(exchange)
            before = self._exchanges[: len(self._exchanges) if position is None else position]
        shown = [_without_lost(turn) for earlier in before if _is_shown(earlier) for turn in earlier.turns]
        return (*exchange.examples, *shown, Turn("user", exchange.parts))

    def commit(
        self, exchange: Exchange, reply: Reply, *, fresh: bool = False, joins: bool = False
    ) -> Exchange:
        """Put the answered exchange at its place: over the cell's earlier one, or at the end.

        The earlier answer is kept as an alternative; the turns after it are marked stale. ``fresh`` starts
        the conversation over with this exchange, unless it begins with that very turn: then later turns
        stay, as for any other. ``joins`` says that the answer is the earlier one, gone on with, so that
        this is no alternative.
        """
        with self.lock:
            position = self._position(exchange)
            done = replace(exchange, reply=reply, is_stale=False, answered_at=time.time())
            done.place = self._next_place() if position is None else self._exchanges[position].place
            if position is not None:
                earlier = self._exchanges[position]
                done.alternatives = earlier.alternatives if joins else _alternatives(earlier, done)
            if fresh and position != 0:
                self._exchanges = [done]
            elif position is None:
                self._exchanges.append(done)
            else:
                self._exchanges[position] = done
                self._mark_stale_from(position + 1)
        self._tell()
        return done

    def choose(self, exchange_id: str, alternative: int) -> Exchange:
        """Make an alternative the answer; the answer so far becomes an alternative. Later turns become stale.

        Raises:
            ConversationError: no such exchange or alternative.
        """
        with self.lock:
            exchange = self.find(exchange_id)
            if not 0 <= alternative < len(exchange.alternatives):
                raise ConversationError(
                    f"turn {exchange_id!r} has no alternative {alternative}",
                    have=f"{len(exchange.alternatives)} alternatives",
                )
            chosen = exchange.alternatives[alternative]
            if exchange.reply is not None:
                exchange.alternatives[alternative] = exchange.reply
            exchange.reply = chosen
            if chosen.asked:  # a question and its answers stay together
                before, exchange.parts = exchange.parts, chosen.asked
                exchange.reply = replace(chosen, asked=())
                exchange.alternatives = [
                    _beside(exchange.parts, reply, before) for reply in exchange.alternatives
                ]
            self._mark_stale_from(self._exchanges.index(exchange) + 1)
        self._tell()
        return exchange

    def hide(self, exchange_id: str, hidden: bool = True) -> Exchange:
        """Keep a turn from the model, or show it again; people see it all the time. Later turns become stale.

        Raises:
            ConversationError: no such exchange.
        """
        with self.lock:
            exchange = self.find(exchange_id)
            if exchange.is_hidden != hidden:
                exchange.is_hidden = hidden
                self._mark_stale_from(self._exchanges.index(exchange) + 1)
        self._tell()
        return exchange

    def remove(self, exchange_id: str) -> None:
        """Delete a turn; later ones become stale.

        Raises:
            ConversationError: no such exchange.
        """
        self.find(exchange_id)
        self.is_settled = True
        self.drop_where(lambda exchange: exchange.id == exchange_id)

    def drop_where(self, condition: Callable[[Exchange], bool]) -> int:
        """Remove exchanges; those that came after a removed one become stale. Returns how many went."""
        with self.lock:
            gone = [i for i, exchange in enumerate(self._exchanges) if condition(exchange)]
            if gone:
                self._mark_stale_from(gone[0])
                self._exchanges = [e for i, e in enumerate(self._exchanges) if i not in gone]
        if gone:
            self._tell()
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

    def rename(self, name: str) -> None:
        """Call it something else; ids of turns stay."""
        with self.lock:
            self.name = name
        self._tell()

    def clear(self) -> int:
        """Forget all turns; returns how many there were."""
        with self.lock:
            n = len(self._exchanges)
            self._exchanges = []
            self.is_settled = True
        self._tell()
        return n

    def put_back(self, before: Sequence[Exchange]) -> None:
        """Undo a deletion: the turns as they were before it, then those that came since."""
        with self.lock:
            ids, keys = {e.id for e in before}, {e.key for e in before if e.key is not None}
            newer = [e for e in self._exchanges if e.id not in ids and e.key not in keys]
            self._exchanges = [*before, *newer]
            for place, exchange in enumerate(self._exchanges, start=1):
                exchange.place = place
        self._tell()

    def missing(self, earlier: Iterable[Exchange]) -> list[Exchange]:
        """Those turns of an earlier kernel that `restore` would bring back: their cells have none here."""
        return [exchange for exchange in earlier if not self.has(exchange.key)]

    def restore(self, earlier: Iterable[Exchange]) -> int:
        """Bring back the turns of an earlier kernel, in their order, before those that are here.

        A turn whose cell has run again since keeps its new answer and takes its earlier place. Turns that
        were answered without seeing what now stands before them are stale. Returns how many came back.
        """
        with self.lock:
            here = list(self._exchanges)
            merged: list[Exchange] = []
            n, is_other = 0, False  # turns that came back; whether one of the earlier turns has changed
            for exchange in earlier:
                newer = next((e for e in here if e.key is not None and e.key == exchange.key), None)
                if newer is None:
                    new_id = f"{self.name}-{next(self._ids)}"
                    merged.append(replace(exchange, id=new_id, is_stale=exchange.is_stale or is_other))
                    n += 1
                    continue
                here.remove(newer)
                newer.place, newer.is_stale = exchange.place, newer.is_stale or n > 0
                newer.alternatives = _alternatives(exchange, newer) + newer.alternatives
                merged.append(newer)
                is_other = True
            for place, exchange in enumerate(here, start=max((e.place for e in merged), default=0) + 1):
                exchange.place, exchange.is_stale = place, exchange.is_stale or n > 0
            self._exchanges = [*merged, *here]
            self.is_settled = True
        self._tell()
        return n

    def _next_place(self) -> int:
        return max((exchange.place for exchange in self._exchanges), default=0) + 1

    def _position(self, draft: Exchange) -> int | None:
        """The place that a draft takes over: that of the turn it replaces, or of its cell's call."""
        for i, exchange in enumerate(self._exchanges):
            if (draft.replaces and exchange.id == draft.replaces) or (
                draft.key is not None and exchange.key == draft.key
            ):
                return i
        return None

    def _tell(self) -> None:
        for listener in list(self.listeners):
            listener()

    def _mark_stale_from(self, position: int) -> None:
        for exchange in self._exchanges[position:]:
            exchange.is_stale = True


def _without_lost(turn: Turn) -> Turn:
    """The turn with words in the place of pictures that are no longer there."""
    if not any(picture.is_lost for picture in turn.pictures):
        return turn
    parts = (
        Text(f"[picture {part.name}: no longer available]")
        if isinstance(part, Picture) and part.is_lost
        else part
        for part in turn.parts
    )
    return replace(turn, parts=tuple(parts))


def _is_shown(exchange: Exchange) -> bool:
    """Whether the model sees it: answered with words, and not hidden."""
    return not exchange.is_hidden and exchange.reply is not None and bool(exchange.reply.text)


def _alternatives(earlier: Exchange, now: Exchange) -> list[Reply]:
    """The answers so far that differ from the new one, each with its question where that was another."""
    replies = [*earlier.alternatives, *([earlier.reply] if earlier.reply is not None else [])]
    new_text = "" if now.reply is None else now.reply.text
    kept = [_beside(now.parts, reply, earlier.parts) for reply in replies if reply.text]
    return [reply for reply in kept if reply.asked or reply.text != new_text]


def _beside(parts: tuple[Part, ...], reply: Reply, asked: tuple[Part, ...]) -> Reply:
    """An answer to ``asked``, or to what it says itself, as an alternative in an exchange of ``parts``."""
    asked = reply.asked or asked
    if _content(asked) == _content(parts):
        asked = ()
    return reply if reply.asked == asked else replace(reply, asked=asked)


def _content(parts: tuple[Part, ...]) -> list[str]:
    """What tells questions apart: words, and the pixels of pictures."""
    return [part.text if isinstance(part, Text) else part.digest or part.name for part in parts]
