"""The panel of one cell: what a person can do in it, and how it follows the conversation.

Begins with the answer of its cell; "open" makes it the whole conversation, which `chat` then serves,
and "leave" the cell's turn again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from vlm_magic.conversation import CellKey
from vlm_magic.errors import ConversationError, VLMError
from vlm_magic.messages import Engine, Exchange, Progress, can_continue
from vlm_magic.outputs.answer_views import AnswerView
from vlm_magic.session import Answer, Session
from vlm_magic.shell.chat import ChatController, engine_of
from vlm_magic.shell.panels.explaining import Explaining
from vlm_magic.workspace import Workspace

__all__ = ["CellPanel"]


class CellPanel:
    """What a person can do in a cell's panel: stop its answer, go on with it, bring it up to date, open all.

    It follows the conversation, for the cell's turn becomes stale, or gets another answer elsewhere.
    The cell's saved output follows, too.

    Args:
        workspace: for the model that answered.
        session: the conversation.
        make_controller: makes what serves the panel once it shows the whole conversation.
    """

    actions = ("stop", "open", "leave", "refresh", "explain")

    def actions_with(self, engine: Engine) -> tuple[str, ...]:
        """What a person can do with an answer of this model."""
        return (*self.actions, "continue", "continue_with") if can_continue(engine) else self.actions

    def __init__(
        self, workspace: Workspace, session: Session, make_controller: Callable[[Any], ChatController]
    ) -> None:
        self._workspace = workspace
        self._session = session
        self._make_controller = make_controller
        self._answer: Answer | None = None
        self._view: AnswerView | None = None
        self._controller: ChatController | None = None
        self._explaining = Explaining(lambda: self._panel)
        self._shown: tuple[object, ...] = ()
        self._lock = threading.RLock()

    def serve(self, answer: Answer, view: AnswerView) -> None:
        """Say which answer the panel shows; that of an earlier run of the same call closes."""
        self._answer = answer
        self._view = view
        key = answer.exchange.key
        if key is not None:
            earlier, _panels[key] = _panels.get(key), self
            if earlier is not None:
                earlier.close()
        self._session.conversation.listeners.append(self._follow)
        for shown in list(_panels.values()):  # this may be the first turn of a second conversation
            shown._show_title()

    @property
    def title(self) -> str:
        """Which conversation the turn belongs to; "" where there is but one."""
        has_others = len(self._workspace.conversations.sessions) > 1
        return f"Conversation {self._session.conversation.name}" if has_others else ""

    def _show_title(self) -> None:
        if self._panel is not None and self._controller is None:
            self._panel.title = self.title

    def close(self) -> None:
        """The cell has run again and its output is gone: follow no longer, let the panel's memory go."""
        listeners = self._session.conversation.listeners
        if self._follow in listeners:
            listeners.remove(self._follow)
        if self._controller is not None:
            self._controller.close()
        if self._panel is not None:
            self._panel.close()

    @property
    def _panel(self) -> Any:
        """The live panel; None where the answer is shown without one, or not yet."""
        return getattr(self._view, "panel", None)

    def act(self, action: dict[str, Any]) -> None:
        """Called by the panel, from any thread; once the conversation is open, its controller acts."""
        if self._answer is None:
            return
        if self._controller is not None:
            if action["kind"] == "leave":
                self._leave()
            return
        if action["kind"] == "stop" and action["exchange"] == self._answer.exchange.id:
            self._answer.stop()
        elif action["kind"] == "refresh":
            self._refresh(self._session.again)
        elif action["kind"] == "continue":
            self._refresh(self._session.continue_answer)
        elif action["kind"] == "continue_with" and (turn := self._turn()) is not None:
            self._refresh(self._explaining.another(self._session, turn, action["place"], action["word"]))
        elif action["kind"] == "explain" and (turn := self._turn()) is not None:
            self._explaining.press(self._session, turn.id, engine_of(self._workspace, turn))
        elif action["kind"] == "open" and self._panel is not None:
            self._controller = self._make_controller(self._panel)
            self._controller.open()

    def _leave(self) -> None:
        """Show the cell's turn alone again; what the panel asked meanwhile is answered all the same."""
        assert self._answer is not None
        turn = self._answer.exchange if self._is_waiting() else self._turn()
        if turn is None:
            raise ConversationError(
                "the turn of this cell was deleted",
                have="the rest of the conversation",
                hint="run the cell again",
            )
        with self._lock:
            controller, self._controller = self._controller, None
            if controller is not None:
                controller.close()
            panel, self._shown = self._panel, ()
            engine = None if turn.reply is None else engine_of(self._workspace, turn)
            panel.serve_only(self.act, self.actions if engine is None else self.actions_with(engine))
            panel.offer, panel.title, panel.kind = "", self.title, "cell"
            panel.set_conversation([turn])
            if self._is_waiting():
                self._say_if_failed()

    def _say_if_failed(self) -> None:
        """A question whose answer failed waits for nothing."""
        assert self._answer is not None
        try:
            self._answer.wait(0)
        except VLMError:
            self._panel.fail(self._answer.exchange.id)

    def _follow(self) -> None:
        """The conversation has changed: show the cell's turn as it is now."""
        turn = self._turn()
        with self._lock:
            if self._controller is not None or self._panel is None or turn is None or self._is_waiting():
                return
            shows = (turn.id, turn.reply, turn.is_stale, turn.is_hidden, len(turn.alternatives))
            if shows != self._shown:
                self._shown = shows
                self._panel.set_conversation([turn])
                self._save(turn)

    def _is_waiting(self) -> bool:
        """Whether the panel shows an answer that is still under way."""
        assert self._answer is not None
        return self._answer.exchange.reply is None

    def _turn(self) -> Exchange | None:
        """The cell's turn, which another panel may have asked again; None where it was deleted."""
        assert self._answer is not None
        mine = self._answer.exchange
        for turn in self._session.conversation.exchanges:
            if turn.id in (mine.id, mine.replaces) or (mine.key is not None and turn.key == mine.key):
                return turn
        return None

    def _refresh(self, start: Callable[..., Answer]) -> None:
        """Ask the turn again in the background, or go on with its answer: its stored parts, nothing bound."""
        turn, panel = self._turn(), self._panel
        if turn is None or panel is None or self._is_waiting():
            return
        started: list[Answer] = []

        def progress(what: Progress) -> None:
            if started:
                panel.progress(started[0].exchange.id, what)

        engine = engine_of(self._workspace, turn)
        with self._lock:
            answer = start(turn.id, engine=engine, on_progress=progress)
            started.append(answer)
            self._answer = answer
            panel.set_conversation([answer.exchange])
        threading.Thread(target=self._show, args=(answer, turn), name="vlm_magic cell", daemon=True).start()

    def _show(self, answer: Answer, before: Exchange) -> None:
        """Show the words as they come; after an error the answer before it stands."""
        asked = answer.exchange
        try:
            for chunk in answer:
                self._panel.push(asked.id, chunk)
        except VLMError as error:
            answer.exchange = before
            self._panel.fail(asked.id)
            self._panel.set_conversation([before])
            self._panel.notify(f"{type(error).__name__}: {error}")
            return
        self._panel.finish(asked.id, answer.exchange)
        self._save(answer.exchange)

    def _save(self, turn: Exchange) -> None:
        """Let the cell's saved output say what its panel says."""
        save = getattr(self._view, "save", None)
        if save is not None:
            save(turn)


_panels: dict[CellKey, CellPanel] = {}
"""The panel that each call of a cell has on the page now."""
