"""``%vlm_chat``: a panel over one conversation, and what happens when a person uses it.

Cells and panels share the conversation. What is typed in a panel is asked in the background, in the
order in which it was sent; names in it are looked up without calls; a stop ends the answer it was
meant for and no other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from vlm_magic.errors import VLMError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Exchange, Part, Picture, Progress, Settings
from vlm_magic.outputs.chat import ChatView
from vlm_magic.outputs.views import AnswerView
from vlm_magic.session import Answer, Session, to_parts
from vlm_magic.shell.completion import picture_names_first
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
        self._actions: dict[str, Callable[[dict[str, Any]], object]] = {
            "stop": self._stop,
            "send": self._send,
            "edit": lambda action: self._ask(action["parts"], replaces=action["exchange"]),
            "regenerate": lambda action: self._again(action["exchange"]),
            "refresh": lambda action: self._again(action["exchange"]),
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
            panel=panel,
        )

    def open(self) -> None:
        """Show the conversation in the running cell's output and follow it from then on."""
        self.view.show(self._session.conversation.exchanges)
        if self.view.panel is not None:
            self._session.conversation.listeners.append(self._redraw)

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
        remark = self._workspace.ensure_engine()
        if remark and self.view.panel is not None:
            self.view.panel.notify(remark)
        with self._lock:
            self._follow(self._start(to_parts(parts), replaces))

    def _start(self, parts: Sequence[Part], replaces: str) -> Answer:
        started: list[Answer] = []

        def progress(what: Progress) -> None:
            if started:
                self.view.progress(started[0].exchange, what)

        started.append(self._session.start(parts, replaces=replaces, on_progress=progress))
        return started[0]

    def _again(self, exchange_id: str) -> None:
        exchange = self._session.conversation.find(exchange_id)
        self._ask(exchange.parts, replaces=exchange_id)

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
    """What a person can do in the panel of one cell: stop its answer, open the whole conversation.

    Args:
        make_desk: makes the desk that serves the panel once it shows the whole conversation.
    """

    actions = ("stop", "open")

    def __init__(self, make_desk: Callable[[Any], ChatDesk]) -> None:
        self._make_desk = make_desk
        self._answer: Answer | None = None
        self._view: AnswerView | None = None
        self._desk: ChatDesk | None = None

    def serve(self, answer: Answer, view: AnswerView) -> None:
        """Say which answer the panel shows."""
        self._answer = answer
        self._view = view

    def act(self, action: dict[str, Any]) -> None:
        """Called by the panel, from any thread; once the conversation is open, its desk acts."""
        if self._desk is not None or self._answer is None:
            return
        if action["kind"] == "stop":
            self._answer.stop()
        elif action["kind"] == "open" and getattr(self._view, "panel", None) is not None:
            self._desk = self._make_desk(self._view.panel)  # type: ignore[union-attr]
            self._desk.open()
