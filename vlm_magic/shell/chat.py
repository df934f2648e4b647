"""``%vlm_chat``: a panel over one conversation, and what happens when a person uses it.

Cells and panels share the conversation. What is typed in a panel is asked in the background, in the
order in which it was sent; names in it are looked up without calls; a stop ends the answer it was
meant for and no other. Opened in a restarted kernel, the panel brings the saved notebook's turns back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from vlm_magic.conversation import CellKey
from vlm_magic.errors import ConversationError, VLMError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Engine, Exchange, Part, Picture, Progress, Settings
from vlm_magic.outputs.chat import ChatView
from vlm_magic.outputs.saved import SavedNotebook, read_notebook
from vlm_magic.outputs.views import AnswerView
from vlm_magic.session import Answer, Session, to_parts
from vlm_magic.shell.completion import picture_names_first
from vlm_magic.shell.notebook import notebook_path
from vlm_magic.workspace import Workspace

__all__ = ["CellPanel", "ChatDesk"]

_FORM = ("temperature", "max_tokens", "system")  # the settings that the panel's form shows


class ChatDesk:
    """Serves one panel: actions in, answers out.

    Args:
        shell: the IPython shell, for the notebook's names.
        workspace: for the model and for moving turns.
        session: the conversation.
        pictures: limits of pictures and downloads.
        save_thumbnails: whether the saved transcript carries pictures.
        panel: a cell's panel that becomes the whole conversation; a new one if not given.
    """

    def __init__(
        self,
        shell: Any,
        workspace: Workspace,
        session: Session,
        *,
        pictures: PictureOptions | None = None,
        save_thumbnails: bool = True,
        panel: Any = None,
    ) -> None:
        self._shell = shell
        self._workspace = workspace
        self._session = session
        self._pictures = pictures or PictureOptions()
        self._under_way: dict[str, Answer] = {}
        self._lock = threading.RLock()
        self._saved: SavedNotebook | None = None  # what is offered to be brought back
        self._actions: dict[str, Callable[[dict[str, Any]], object]] = {
            "stop": self._stop,
            "send": self._send,
            "edit": lambda action: self._ask(action["parts"], replaces=action["exchange"]),
            "regenerate": lambda action: self._again(action["exchange"], **self._chosen()),
            "refresh": lambda action: self._again(action["exchange"]),
            "restore": lambda action: self._restore(),
            "delete": lambda action: session.conversation.remove(action["exchange"]),
            "hide": lambda action: session.conversation.hide(action["exchange"], action["hidden"]),
            "choose": lambda action: session.conversation.choose(action["exchange"], action["alternative"]),
            "clear": lambda action: session.conversation.clear(),
            "settings": lambda action: self._set(action["values"]),
        }
        self.view = ChatView(
            session.conversation.name,
            thumbnail=thumbnail_data_uri,
            save_thumbnails=save_thumbnails,
            model=workspace.default_engine or "",
            on_action=self._act,
            actions=tuple(self._actions),
            completer=lambda begun: picture_names_first(shell.user_ns, begun),
            settings={name: getattr(session.settings, name) for name in _FORM},
            pictures_key=workspace.pictures.shown_key,
            panel=panel,
        )

    def open(self) -> None:
        """Show the conversation in the running cell's output and follow it from then on."""
        conversation = self._session.conversation
        if self.view.panel is not None:
            self._look_into_notebook()
        self.view.show(conversation.exchanges)
        if self.view.panel is not None:
            conversation.listeners.append(self._redraw)

    def _look_into_notebook(self) -> None:
        """Bring back the turns of the saved notebook, or offer to where there are newer ones already."""
        conversation = self._session.conversation
        path = notebook_path(self._shell)
        if conversation.is_settled or path is None:
            return
        try:
            self._saved = read_notebook(path)
        except ConversationError:
            return  # not saved yet, or renamed: nobody asked for it, so nobody is told
        missing = conversation.missing(self._saved.conversations.get(conversation.name, ()))
        if missing and not len(conversation):
            self._restore()
        elif missing:
            turns = "1 turn" if len(missing) == 1 else f"{len(missing)} turns"
            self.view.offer(f"{turns} of the saved notebook can be brought back.")

    def _restore(self) -> None:
        """Bring back what was offered, and say what came and what is lost."""
        saved, self._saved = self._saved, None
        if saved is not None:
            restored = self._workspace.restore(saved, self._session.conversation.name)
            self.view.offer("")
            self.view.remark(str(restored))

    def close(self) -> None:
        """Follow the conversation no longer."""
        if self._redraw in self._session.conversation.listeners:
            self._session.conversation.listeners.remove(self._redraw)

    def _act(self, action: dict[str, Any]) -> None:
        """What the person did; an error is shown in the panel, and a message that failed is given back."""
        self._actions[action["kind"]](action)

    def _send(self, action: dict[str, Any]) -> None:
        parts: list[Part] = []
        for part in action["parts"]:
            if isinstance(part, Picture):
                parts.append(part)
            else:
                marks = parse_prompt(part.text, calls=False)
                parts.extend(resolve_parts(marks, self._shell.user_ns, options=self._pictures))
        self._ask(parts)

    def _ask(self, parts: Sequence[Part], replaces: str = "") -> None:
        asked, form = to_parts(parts), self._form_of(replaces)
        self._start(lambda **options: self._session.start(asked, replaces=replaces, **form, **options))

    def _form_of(self, exchange_id: str) -> dict[str, Any]:
        """What an edited question keeps of the one before: its choices and its examples."""
        if not exchange_id:
            return {}
        exchange = self._session.conversation.find(exchange_id)
        how = exchange.settings
        form: dict[str, Any] = {"choices": how.choices, "normalize": how.normalize, "temperature": None}
        return {**(form if how.choices else {}), "examples": exchange.examples}

    def _again(self, exchange_id: str, **settings: Any) -> None:
        """Ask a turn again as it was asked, by the model that answered it while that is loaded."""
        exchange = self._session.conversation.find(exchange_id)
        engine = _engine_of(self._workspace, exchange)
        if exchange.settings.choices:  # they are compared, not drawn
            settings.pop("temperature", None)
        self._start(lambda **options: self._session.again(exchange_id, engine=engine, **settings, **options))

    def _chosen(self) -> dict[str, Any]:
        """The values of the settings form that a person has changed."""
        default, own = Settings(), self._session.settings
        return {name: getattr(own, name) for name in _FORM if getattr(own, name) != getattr(default, name)}

    def _start(self, start: Callable[..., Answer]) -> None:
        """Queue an answer and show it as it comes."""
        remark = self._workspace.ensure_engine()
        if remark:
            self.view.remark(remark)
        started: list[Answer] = []

        def progress(what: Progress) -> None:
            if started:
                self.view.progress(started[0].exchange, what)

        with self._lock:
            started.append(start(on_progress=progress))
            self._follow(started[0])

    def _follow(self, answer: Answer) -> None:
        """Show the answer as it comes, in a thread of its own: the kernel stays free for cells."""
        self._under_way[answer.exchange.id] = answer
        self._redraw()
        threading.Thread(target=self._show, args=(answer,), name="vlm_magic chat", daemon=True).start()

    def _show(self, answer: Answer) -> None:
        asked = answer.exchange
        try:
            for chunk in answer:
                self.view.push(asked, chunk)
        except VLMError as error:
            self.view.fail(asked, str(error))
            return
        finally:
            with self._lock:
                self._under_way.pop(asked.id, None)
        self.view.finish(answer.exchange)
        self._redraw()

    def _stop(self, action: dict[str, Any]) -> None:
        answer = self._under_way.get(action["exchange"])
        if answer is not None:
            answer.stop()

    def _set(self, values: dict[str, Any]) -> None:
        own = {name: values[name] for name in _FORM if name in values}
        default = Settings()
        filled = {k: getattr(default, k) if v in (None, "") else v for k, v in own.items()}
        self._session.settings = self._session.settings.updated(filled)

    def _redraw(self) -> None:
        """The conversation as it is, questions under way at the places they will take."""
        with self._lock:
            waiting = [answer.exchange for answer in self._under_way.values()]
        shown: list[Exchange] = []
        for exchange in self._session.conversation.exchanges:
            stand_in = next((w for w in waiting if w.replaces == exchange.id), exchange)
            shown.append(stand_in)
        ids = {exchange.id for exchange in shown}
        shown += [exchange for exchange in waiting if exchange.id not in ids]
        self.view.update(shown)


class CellPanel:
    """What a person can do in the panel of one cell: stop its answer, bring it up to date, open everything.

    It follows the conversation, for the cell's turn becomes stale, or gets another answer elsewhere.
    The cell's saved output stays as the cell wrote it.

    Args:
        workspace: for the model that answered.
        session: the conversation.
        make_desk: makes the desk that serves the panel once it shows the whole conversation.
    """

    actions = ("stop", "open", "refresh")

    def __init__(self, workspace: Workspace, session: Session, make_desk: Callable[[Any], ChatDesk]) -> None:
        self._workspace = workspace
        self._session = session
        self._make_desk = make_desk
        self._answer: Answer | None = None
        self._view: AnswerView | None = None
        self._desk: ChatDesk | None = None
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

    def close(self) -> None:
        """The cell has run again and its output is gone: follow no longer, let the panel's memory go."""
        listeners = self._session.conversation.listeners
        if self._follow in listeners:
            listeners.remove(self._follow)
        if self._desk is not None:
            self._desk.close()
        if self._panel is not None:
            self._panel.close()

    @property
    def _panel(self) -> Any:
        """The live panel; None where the answer is shown without one, or not yet."""
        return getattr(self._view, "panel", None)

    def act(self, action: dict[str, Any]) -> None:
        """Called by the panel, from any thread; once the conversation is open, its desk acts."""
        if self._desk is not None or self._answer is None:
            return
        if action["kind"] == "stop" and action["exchange"] == self._answer.exchange.id:
            self._answer.stop()
        elif action["kind"] == "refresh":
            self._refresh()
        elif action["kind"] == "open" and self._panel is not None:
            self._desk = self._make_desk(self._panel)
            self._desk.open()

    def _follow(self) -> None:
        """The conversation has changed: show the cell's turn as it is now."""
        turn = self._turn()
        with self._lock:
            if self._desk is not None or self._panel is None or turn is None or self._is_waiting():
                return
            shows = (turn.id, turn.reply, turn.is_stale, turn.is_hidden, len(turn.alternatives))
            if shows != self._shown:
                self._shown = shows
                self._panel.set_conversation([turn])

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

    def _refresh(self) -> None:
        """Ask the turn again in the background: its stored parts, nothing evaluated, no variable bound."""
        turn, panel = self._turn(), self._panel
        if turn is None or panel is None or self._is_waiting():
            return
        started: list[Answer] = []

        def progress(what: Progress) -> None:
            if started:
                panel.progress(started[0].exchange.id, what)

        engine = _engine_of(self._workspace, turn)
        with self._lock:
            answer = self._session.again(turn.id, engine=engine, on_progress=progress)
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
        self._panel.notify(_NOT_SAVED_HERE, is_error=False)


_NOT_SAVED_HERE = "The saved notebook keeps the earlier answer here; %vlm_chat saves this one as well."

_panels: dict[CellKey, CellPanel] = {}
"""The panel that each call of a cell has on the page now."""


def _engine_of(workspace: Workspace, exchange: Exchange) -> Engine | None:
    """The model that answered, while it is loaded; None is the conversation's own."""
    name = "" if exchange.reply is None else exchange.reply.model
    return next((engine for engine in workspace.engines.values() if engine.name == name), None)
