"""A whole conversation in one output: the panel with its input box, and its transcript beside it.

The one output that is updated after it was written: the transcript follows the conversation, so
that the saved notebook shows what was said in the panel. Neighbours: `panel` and `transcript` do
the showing, `answer_views` shows single answers, the shell handles the actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vlm_magic.messages import Chunk, Exchange, Progress
from vlm_magic.outputs.fragments import Thumbnailer
from vlm_magic.outputs.live_output import LiveOutput
from vlm_magic.outputs.records import metadata_for, metadata_of_several
from vlm_magic.outputs.surroundings import surroundings
from vlm_magic.outputs.transcript import conversation_bundle
from vlm_magic.uninterrupted import import_whole

if TYPE_CHECKING:
    from vlm_magic.outputs.panel.widget import Action, ChatPanel

__all__ = ["ALL_ACTIONS", "ChatView"]

ALL_ACTIONS = (
    "stop", "cancel", "send", "regenerate", "continue", "edit", "delete", "hide", "choose", "refresh",
    "restore", "clear", "settings", "enter", "new", "rename", "export", "use",
)  # fmt: skip


class Conversational(Protocol):
    """A conversation, as far as a view knows one: a name, and its exchanges as they are now."""

    @property
    def name(self) -> str: ...

    def __iter__(self) -> Iterator[Exchange]: ...


class ChatView:
    """Shows a conversation and lets a person go on with it.

    Where nobody looks (a program runs the notebook, or a terminal), there is no panel: `show`
    publishes the transcript, the other methods do nothing.

    Args:
        name: what the conversation is called.
        thumbnail: makes the data URI of a picture.
        save_thumbnails: whether the transcript carries pictures too.
        model: name of the model where a reply does not say.
        on_action: called with what the person does; see `ChatPanel.on_action`.
        actions: the kinds that it handles.
        completer: gives the names of variables that begin with a prefix.
        settings: what the settings form shows at first.
        pictures_key: where the full pictures are kept, for the record of the saved output; "" for nowhere.
        panel: a panel that is on a page already, such as that of a cell: it becomes this chat.
    """

    def __init__(
        self,
        name: str = "main",
        *,
        thumbnail: Thumbnailer | None = None,
        save_thumbnails: bool = True,
        model: str = "",
        on_action: Callable[[Action], object] | None = None,
        actions: Sequence[str] = ALL_ACTIONS,
        completer: Callable[[str], Iterable[str]] | None = None,
        settings: dict[str, Any] | None = None,
        pictures_key: str = "",
        panel: ChatPanel | None = None,
    ) -> None:
        self.name = name
        self._left: list[Conversational] = []
        self._saved_state: object = None  # of what the transcript shows
        self._pictures_key = pictures_key
        self.panel: ChatPanel | None = None
        self._model = model
        self._saved = thumbnail if save_thumbnails else None
        self._transcript = LiveOutput()
        self._is_on_page = panel is not None
        if panel is None and surroundings() != "person":
            return
        import_whole("anywidget")
        from vlm_magic.outputs.panel.widget import ChatPanel

        self.panel = panel or ChatPanel(thumbnail=thumbnail)
        self.panel.title, self.panel.settings = self.title, settings or {}
        self.panel.blocking, self.panel.kind = False, "chat"
        self.panel.completer = completer
        if on_action is not None:
            self.panel.on_action(on_action, actions)

    @property
    def title(self) -> str:
        """What stands above the conversation."""
        return f"Conversation {self.name}"

    def enter(self, name: str, settings: dict[str, Any], left: Conversational | None = None) -> None:
        """Show another conversation from the next `update` on, or the same by another name.

        Args:
            name: what it is called.
            settings: what the settings form shows.
            left: the one that was shown before: the transcript keeps it, as it is at the time.
        """
        self.name = name
        if left is not None:
            self._left.append(left)
        self._left = [one for one in self._left if one.name != name]
        if (panel := self.panel) is not None:
            panel.title, panel.settings = self.title, settings

    def offer_menu(self, menu: dict[str, Any]) -> None:
        """Let the head offer what there is to choose from.

        Args:
            menu: ``conversation`` and ``model``, the names of those in use; ``conversations`` and ``models``,
                each a list of ``{"name", "note"}``; ``examples``, questions for an empty conversation;
                ``can_continue``, whether the model goes on with an answer that was cut off.
        """
        if (panel := self.panel) is not None:
            panel.menu = menu

    def show(self, exchanges: Iterable[Exchange]) -> None:
        """Put the conversation into the output of the running cell."""
        shown = list(exchanges)
        if self.panel is not None:
            self.panel.set_conversation(shown, model=self._model)
            if self._is_on_page:
                return
            self._is_on_page = True
            self.panel.show()
        self._has_changed(shown)
        self._transcript.show(self._bundle(shown), self._metadata(shown))

    def _has_changed(self, exchanges: list[Exchange]) -> bool:
        """Whether the transcript would show something else than it did: long ones are dear to send."""
        state = [
            (name, [(turn.id, turn.state) for turn in turns if turn.reply is not None])
            for name, turns in self._all(exchanges)
        ]
        before, self._saved_state = self._saved_state, state
        return before != state

    def update(self, exchanges: Iterable[Exchange]) -> None:
        """The conversation has changed: show it so, and keep the transcript in step."""
        shown = list(exchanges)
        if (panel := self.panel) is not None:
            panel.set_conversation(shown, model=self._model)
        self.save(shown)

    def save(self, exchanges: Iterable[Exchange]) -> None:
        """Bring the transcript up to date; answers under way are not in it yet."""
        shown = list(exchanges)
        if self._transcript.is_shown and self._has_changed(shown):
            self._transcript.show(self._bundle(shown), self._metadata(shown))

    def push(self, exchange: Exchange, chunk: Chunk) -> None:
        """Words of its answer."""
        if (panel := self.panel) is not None:
            panel.push(exchange.id, chunk)

    def progress(self, exchange: Exchange, progress: Progress) -> None:
        """What its answer waits for."""
        if (panel := self.panel) is not None:
            panel.progress(exchange.id, progress)

    def finish(self, exchange: Exchange) -> None:
        """Its whole answer."""
        if (panel := self.panel) is not None:
            panel.finish(exchange.id, exchange, model=self._model)

    def fail(self, exchange: Exchange, message: str) -> None:
        """Its answer failed; nobody else will say so, since no cell runs."""
        if (panel := self.panel) is not None:
            panel.fail(exchange.id, message)

    def remark(self, text: str) -> None:
        """Tell the person something that is no error."""
        if (panel := self.panel) is not None:
            panel.notify(text, is_error=False)

    def offer(self, text: str) -> None:
        """Offer to bring something back; "" takes the offer away."""
        if (panel := self.panel) is not None:
            panel.offer = text

    def leave(self) -> None:
        """The panel shows something else from now on."""
        self.panel = None

    def _all(self, exchanges: list[Exchange]) -> list[tuple[str, list[Exchange]]]:
        """What the transcript shows: the conversation, then those that were left and have turns."""
        left = [(one.name, list(one)) for one in self._left]
        return [(self.name, exchanges), *(pair for pair in left if pair[1])]

    def _metadata(self, exchanges: list[Exchange]) -> dict[str, Any]:
        return metadata_of_several(
            metadata_for(turns, name, pictures=self._pictures_key, is_whole=True)
            for name, turns in self._all(exchanges)
        )

    def _bundle(self, exchanges: list[Exchange]) -> dict[str, str]:
        bundles = [
            conversation_bundle(
                [turn for turn in turns if turn.reply is not None],
                f"Conversation {name}",
                thumbnail=self._saved,
                model=self._model,
            )
            for name, turns in self._all(exchanges)
        ]
        between = {"text/html": ""}
        return {kind: between.get(kind, "\n\n").join(each[kind] for each in bundles) for kind in bundles[0]}
