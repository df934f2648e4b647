"""``%vlm_chat``: a panel over one conversation, and what happens when a person uses it.

Cells and panels share the conversation. What is typed in a panel is asked in the background, in the
order in which it was sent; names in it are looked up without calls; a stop ends the answer it was
meant for and no other. Opened in a restarted kernel, the panel brings the saved notebook's turns back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from vlm_magic.conversation import Conversation
from vlm_magic.errors import ConversationError
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Engine, Exchange, Part, Settings
from vlm_magic.outputs.chat import ChatView
from vlm_magic.outputs.panel.composer import Typed
from vlm_magic.outputs.records import SavedNotebook, read_notebook
from vlm_magic.session import Answer, Session, to_parts
from vlm_magic.shell.completion import picture_names_first
from vlm_magic.shell.notebook import notebook_path
from vlm_magic.shell.panels.explaining import Explaining
from vlm_magic.shell.panels.menu import PanelMenu
from vlm_magic.shell.panels.under_way import Questions, Start
from vlm_magic.wording import count_words
from vlm_magic.workspace import Workspace, restore

__all__ = ["ChatController", "engine_of"]

_FORM = ("temperature", "max_tokens", "system")  # the settings that the panel's form shows


class ChatController:
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
        self._menu = PanelMenu(workspace, shell.user_ns, save_thumbnails)
        self._saved: SavedNotebook | None = None  # what is offered to be brought back
        self._explaining = Explaining(lambda: self.view.panel)
        self._deleted: list[Exchange] = []  # the turns as they were before a deletion that can be undone
        self._actions: dict[str, Callable[[dict[str, Any]], object]] = {
            "stop": lambda action: self.questions.stop(action["exchange"]),
            "cancel": lambda action: self.questions.cancel(action["exchange"]),
            "send": self._send,
            "edit": self._send,
            "regenerate": self._another,
            "continue": lambda action: self._continue(action["exchange"]),
            "continue_with": lambda action: self._continue_with(**action),
            "explain": lambda action: self._explain(action["exchange"]),
            "refresh": lambda action: self._again(action["exchange"]),
            "restore": lambda action: self._restore(),
            "delete": lambda action: self._delete(action["exchange"]),
            "hide": lambda action: self._turns.hide(action["exchange"], action["hidden"]),
            "choose": lambda action: self._turns.choose(action["exchange"], action["alternative"]),
            "clear": lambda action: self._delete(),
            "settings": lambda action: self._set(action["values"]),
            "enter": lambda action: self._enter(workspace.conversations.known_session(action["value"])),
            "new": lambda action: self._enter(workspace.conversations.begin(action.get("value") or None)),
            "rename": lambda action: self._rename(action["value"]),
            "export": lambda action: self.view.remark(self._menu.export(self._session, action["value"])),
            "use": lambda action: self._menu.use(action["value"]),
        }
        self.view = ChatView(
            session.conversation.name,
            thumbnail=thumbnail_data_uri,
            save_thumbnails=save_thumbnails,
            model=workspace.models.default_name or "",
            on_action=self._act,
            actions=tuple(self._actions),
            completer=lambda begun: picture_names_first(shell.user_ns, begun),
            settings=self._form(),
            pictures_key=workspace.conversations.pictures.shown_key,
            panel=panel,
        )
        self.questions = Questions(workspace, self.view, lambda: self._session, self._redraw)

    @property
    def _turns(self) -> Conversation:
        return self._session.conversation

    def _form(self) -> dict[str, Any]:
        """What the settings form shows."""
        return {name: getattr(self._session.settings, name) for name in _FORM}

    def open(self) -> None:
        """Show the conversation in the running cell's output and follow it from then on."""
        if self.view.panel is not None:
            self._look_into_notebook()
            self.view.offer_menu(self._menu.state(self._session))
        self.view.show(self._turns.exchanges)
        if self.view.panel is not None:
            self._turns.listeners.append(self._redraw)
            self._workspace.models.listeners.append(self._follow_models)

    def _follow_models(self, *_: object) -> None:
        """Another model answers from now on, or one is gone."""
        self.view.offer_menu(self._menu.state(self._session))

    def _enter(self, session: Session) -> None:
        """Show another conversation: later questions go to it, and what is asked already is answered."""
        if session is self._session:
            return
        with self.questions.lock:
            left = self._turns
            if self._redraw in left.listeners:
                left.listeners[left.listeners.index(self._redraw)] = self._save
            self._session, self._deleted, self._saved = session, [], None
            self.view.offer("")
            self.view.enter(session.conversation.name, self._form(), left)
            if self._save in self._turns.listeners:
                self._turns.listeners.remove(self._save)
            self._turns.listeners.append(self._redraw)
            self._redraw()
            self.questions.show_so_far(session)
        self._look_into_notebook()

    def _rename(self, name: str) -> None:
        """Call the conversation something else, here and in what is saved from now on."""
        self._menu.rename(self._session, name)
        self.view.enter(self._turns.name, self._form())
        self._redraw()

    def _save(self) -> None:
        """One of the conversations that were left has changed: what is saved has it too."""
        self.view.save(self._turns.exchanges)

    def _look_into_notebook(self) -> None:
        """Bring back the turns of the saved notebook, or offer to where there are newer ones already."""
        conversation = self._turns
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
            self.view.offer(f"{count_words(len(missing), 'turn')} of the saved notebook can be brought back.")

    def _restore(self) -> None:
        """Bring back what was offered, and say what came and what is lost."""
        if self._deleted:
            before, self._deleted = self._deleted, []
            self._turns.put_back(before)
            self.view.offer("")
            return
        saved, self._saved = self._saved, None
        if saved is not None:
            restored = restore(self._workspace.conversations, saved, self._turns.name)
            self.view.offer("")
            self.view.remark(str(restored))

    def close(self) -> None:
        """Follow the conversations no longer, and leave the panel to others."""
        self.view.leave()
        models = self._workspace.models.listeners
        if self._follow_models in models:
            models.remove(self._follow_models)
        for session in self._workspace.conversations.sessions.values():
            listeners = session.conversation.listeners
            listeners[:] = [each for each in listeners if each not in (self._redraw, self._save)]

    def _act(self, action: dict[str, Any]) -> None:
        """What the person did; an error is shown in the panel, and a message that failed is given back."""
        if self._deleted and action["kind"] in (
            "send",
            "edit",
            "regenerate",
            "continue",
            "refresh",
            "choose",
            "hide",
        ):
            self._deleted = []
            self.view.offer("")
        if action["kind"] in self._actions:  # the rest is for the cell that the panel belongs to
            self._actions[action["kind"]](action)

    def _delete(self, exchange_id: str = "") -> None:
        """Delete a turn, or all, and offer to undo that until something else is done."""
        conversation = self._turns
        before = [replace(turn, alternatives=list(turn.alternatives)) for turn in conversation.exchanges]
        if exchange_id:
            conversation.remove(exchange_id)
        else:
            conversation.clear()
        self._deleted, self._saved = before, None
        if before:
            gone = count_words(len(before) - len(conversation), "turn")
            self.view.offer(f"{gone} deleted.")

    def _send(self, action: dict[str, Any]) -> None:
        """A new message, or an edited one: what was typed is looked up, without calls."""
        parts: list[Part] = []
        for part in action["parts"]:
            if isinstance(part, Typed):
                marks = parse_prompt(part.text, calls=False)
                parts.extend(resolve_parts(marks, self._shell.user_ns, options=self._pictures))
            else:
                parts.append(part)
        self._ask(parts, replaces=action.get("exchange", ""))

    def _another(self, action: dict[str, Any]) -> None:
        """The same question once more, with the form's settings, or with the temperature that was offered."""
        offered = {name: action[name] for name in ("temperature",) if name in action}
        self._again(action["exchange"], **{**self._chosen(), **offered})

    def _ask(self, parts: Sequence[Part], replaces: str = "") -> None:
        asked, form = to_parts(parts), self._form_of(replaces)
        draft = self._turns.draft(tuple(asked), self._session.settings, replaces=replaces)
        start = self._session.start
        self._start(lambda **options: start(asked, replaces=replaces, **form, **options), draft)

    def _start(self, start: Start, draft: Exchange) -> None:
        self.questions.start(start, draft, self._session)

    def _form_of(self, exchange_id: str) -> dict[str, Any]:
        """What an edited question keeps of the one before: its choices and its examples."""
        if not exchange_id:
            return {}
        exchange = self._turns.find(exchange_id)
        how = exchange.settings
        form: dict[str, Any] = {"choices": how.choices, "normalize": how.normalize, "temperature": None}
        return {**(form if how.choices else {}), "examples": exchange.examples}

    def _again(self, exchange_id: str, **settings: Any) -> None:
        """Ask a turn again as it was asked, by the model that answered it while that is loaded."""
        exchange = self._turns.find(exchange_id)
        engine = engine_of(self._workspace, exchange)
        if exchange.settings.choices:  # they are compared, not drawn
            settings.pop("temperature", None)
        draft = self._turns.draft(exchange.parts, exchange.settings, replaces=exchange_id)
        again = self._session.again
        self._start(lambda **options: again(exchange_id, engine=engine, **settings, **options), draft)

    def _continue(self, exchange_id: str) -> None:
        """Go on with an answer that was cut off, by the model that began it while that is loaded."""
        self._go_on(self._turns.find(exchange_id), self._session.continue_answer)

    def _continue_with(self, exchange: str, place: int, word: str, **_: object) -> None:
        """Let the model go on from another word of an answer: another answer of the turn."""
        turn = self._turns.find(exchange)
        self._go_on(turn, self._explaining.another(self._session, turn, place, word))

    def _go_on(self, exchange: Exchange, go_on: Callable[..., Answer]) -> None:
        """Go on with what was said so far, as ``go_on`` has it, with the model that said it."""
        engine = engine_of(self._workspace, exchange)
        draft = self._turns.draft(exchange.parts, exchange.settings, replaces=exchange.id)
        self._start(lambda **options: go_on(exchange.id, engine=engine, **options), draft)

    def _explain(self, exchange_id: str) -> None:
        """Look at why an answer is what it is, with the model that gave it while that is loaded."""
        engine = engine_of(self._workspace, self._turns.find(exchange_id))
        self._explaining.press(self._session, exchange_id, engine)

    def _chosen(self) -> dict[str, Any]:
        """The values of the settings form that a person has changed."""
        default, own = Settings(), self._session.settings
        return {name: getattr(own, name) for name in _FORM if getattr(own, name) != getattr(default, name)}

    def _set(self, values: dict[str, Any]) -> None:
        own = {name: values[name] for name in _FORM if name in values}
        default = Settings()
        filled = {k: getattr(default, k) if v in (None, "") else v for k, v in own.items()}
        self._session.settings = self._session.settings.updated(filled)

    def _redraw(self) -> None:
        """The conversation as it is, questions under way at the places they will take."""
        waiting = self.questions.of(self._session)
        shown: list[Exchange] = []
        for exchange in self._turns.exchanges:
            stand_in = next((w for w in waiting if w.replaces == exchange.id), exchange)
            shown.append(stand_in)
        ids = {exchange.id for exchange in shown}
        shown += [exchange for exchange in waiting if exchange.id not in ids]
        self.view.update(shown)
        self.view.offer_menu(self._menu.state(self._session))


def engine_of(workspace: Workspace, exchange: Exchange) -> Engine | None:
    """The model that answered, while it is loaded; None is the conversation's own."""
    name = "" if exchange.reply is None else exchange.reply.model
    return workspace.models.answering_as(name)
