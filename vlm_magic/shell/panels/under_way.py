"""The questions of one panel that are under way: waiting for a model, waiting in line, being answered.

They are asked in the background, in the order in which they came; each belongs to its conversation, whatever
the panel shows meanwhile. Neighbour: `vlm_magic.shell.chat` says what is asked, and draws.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vlm_magic.errors import VLMError
from vlm_magic.messages import Chunk, Exchange, Progress
from vlm_magic.outputs.chat import ChatView
from vlm_magic.session import Answer, Session
from vlm_magic.workspace import Workspace

__all__ = ["Questions", "Start"]

Start = Callable[..., Answer]
"""Asks a question; takes ``on_progress``."""


@dataclass(frozen=True)
class _Asked:
    """An answer under way: its handle, its conversation, and what has come of it."""

    answer: Answer
    session: Session
    said: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True)
class _Waiting:
    """A question that waits for a model: what stands for it, how it is asked, its conversation."""

    draft: Exchange
    start: Start
    session: Session


class Questions:
    """Asks questions and shows their answers as they come.

    Args:
        workspace: where models come from.
        view: what shows them.
        shown: gives the conversation that the view shows now.
        redraw: called when a question has come or gone.

    Attributes:
        lock: held while words are shown, so that a view may change what it shows in between.
    """

    def __init__(
        self,
        workspace: Workspace,
        view: ChatView,
        shown: Callable[[], Session],
        redraw: Callable[[], object],
    ) -> None:
        self.lock = threading.RLock()
        self._workspace = workspace
        self._view = view
        self._shown = shown
        self._redraw = redraw
        self._asked: dict[str, _Asked] = {}
        self._waiting: list[_Waiting] = []

    def of(self, session: Session) -> list[Exchange]:
        """Those of a conversation, in the order in which they are answered."""
        with self.lock:
            asked = [one.answer.exchange for one in self._asked.values() if one.session is session]
            return [*asked, *(one.draft for one in self._waiting if one.session is session)]

    def show_so_far(self, session: Session) -> None:
        """Bring the words that came while the view showed something else."""
        with self.lock:
            for one in self._asked.values():
                if one.session is session and one.said:
                    self._view.push(one.answer.exchange, _as_one(one.said))

    def start(self, start: Start, draft: Exchange, session: Session) -> None:
        """Queue an answer and show it as it comes; where no model is loaded, first load the starter.

        Args:
            start: asks the question.
            draft: stands for it until then, so that a person sees at once what was asked.
            session: its conversation.
        """
        with self.lock:
            if self._workspace.models.engines and not self._waiting:
                self._begin(start, session)
                return
            self._waiting.append(_Waiting(draft, start, session))
            is_first = len(self._waiting) == 1
        self._redraw()
        self._view.progress(draft, Progress("load"))
        if is_first:
            threading.Thread(target=self._load, name="vlm_magic load", daemon=True).start()

    def stop(self, exchange_id: str) -> None:
        """End an answer; its words are kept. A question that waits for a model is not asked."""
        asked = self._asked.get(exchange_id)
        if asked is not None:
            asked.answer.stop()
        else:
            self._leave(exchange_id)

    def cancel(self, exchange_id: str) -> None:
        """Take a question back that waits: no turn comes of it. One whose answer has begun is stopped."""
        with self.lock:
            asked = self._asked.get(exchange_id)
            if asked is not None:
                asked.answer.cancel()
                if not asked.said:
                    del self._asked[exchange_id]
        self._leave(exchange_id)

    def _leave(self, exchange_id: str) -> None:
        with self.lock:
            self._waiting = [one for one in self._waiting if one.draft.id != exchange_id]
        self._redraw()

    def _load(self) -> None:
        """Load the starter, say how far it is, then ask what was asked meanwhile.

        The load ends when every question that waits for it was stopped; one that comes later loads anew.
        """
        was_left = False

        def is_left() -> bool:
            nonlocal was_left
            with self.lock:
                was_left = was_left or not self._waiting
            return was_left

        def progress(_what: str, done: int, total: int) -> None:
            for one in list(self._waiting):
                self._view.progress(one.draft, Progress("load", done, total))

        try:
            remark = self._workspace.models.ensure_one(progress, is_left)
        except VLMError as error:
            if not was_left:
                self._fail_waiting(str(error))
            return
        except Exception as error:  # a bug; whoever waits is told all the same, and the next one loads anew
            self._fail_waiting(f"{type(error).__name__}: {error}")
            raise
        with self.lock:
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                try:
                    self._begin(one.start, one.session)
                except VLMError as error:
                    self._view.fail(one.draft, str(error))
        if remark:
            self._view.remark(remark)

    def _fail_waiting(self, why: str) -> None:
        with self.lock:
            waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._view.fail(one.draft, why)

    def _begin(self, start: Start, session: Session) -> None:
        """Ask, and show the answer in a thread of its own: the kernel stays free for cells."""
        started: list[Answer] = []
        before: list[Progress] = []  # said while it was put in line: how many are ahead

        def progress(what: Progress) -> None:
            if started:
                self._view.progress(started[0].exchange, what)
            else:
                before.append(what)

        answer = start(on_progress=progress)
        asked = _Asked(answer, session)
        self._asked[answer.exchange.id] = asked
        self._redraw()
        for what in before:
            self._view.progress(answer.exchange, what)
        started.append(answer)
        threading.Thread(target=self._show, args=(asked,), name="vlm_magic chat", daemon=True).start()

    def _show(self, asked: _Asked) -> None:
        answer, question = asked.answer, asked.answer.exchange
        try:
            for chunk in answer:
                with self.lock:
                    asked.said.append(chunk)
                    if asked.session is self._shown():
                        self._view.push(question, chunk)
        except VLMError as error:
            self._view.fail(question, str(error))
            return
        except Exception as error:  # a bug; its turn says so instead of waiting for ever
            self._view.fail(question, f"{type(error).__name__}: {error}")
            raise
        finally:
            with self.lock:
                self._asked.pop(question.id, None)
        with self.lock:
            if asked.session is self._shown() and answer.exchange.reply is not None:
                self._view.finish(answer.exchange)
        self._redraw()


def _as_one(said: Sequence[Chunk]) -> Chunk:
    """All that came of an answer so far as one piece."""
    words, thoughts = ("".join(getattr(chunk, name) for chunk in said) for name in ("text", "thinking"))
    return Chunk(words, said[-1].n_new_tokens, thinking=thoughts)
