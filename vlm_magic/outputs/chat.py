"""A whole conversation in one output: the panel with its input box, and its transcript beside it.

The one output that is updated after it was written: the transcript follows the conversation, so
that the saved notebook shows what was said in the panel. Neighbours: `panel` and `transcript` do
the showing, `views` shows single answers, the shell handles the actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Chunk, Exchange, Progress
from vlm_magic.outputs.cards import Thumbnailer
from vlm_magic.outputs.saved import metadata_for
from vlm_magic.outputs.transcript import conversation_bundle
from vlm_magic.outputs.views import surroundings

if TYPE_CHECKING:
    from vlm_magic.outputs.panel import Action, ChatPanel

__all__ = ["ALL_ACTIONS", "ChatView"]

ALL_ACTIONS = (
    "stop", "send", "regenerate", "edit", "delete", "hide", "choose", "refresh", "restore", "clear",
    "settings",
)  # fmt: skip


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
        self.name, self.title = name, f"Conversation {name}"
        self._pictures_key = pictures_key
        self.panel: ChatPanel | None = None
        self._model = model
        self._saved = thumbnail if save_thumbnails else None
        self._transcript: Any = None
        self._is_on_page = panel is not None
        if panel is None and surroundings() != "person":
            return
        from vlm_magic.outputs.panel import ChatPanel

        self.panel = panel or ChatPanel(thumbnail=thumbnail)
        self.panel.title, self.panel.settings = self.title, settings or {}
        self.panel.blocking, self.panel.kind = False, "chat"
        self.panel.completer = completer
        if on_action is not None:
            self.panel.on_action(on_action, actions)

    def show(self, exchanges: Iterable[Exchange]) -> None:
        """Put the conversation into the output of the running cell."""
        from IPython.display import display

        shown = list(exchanges)
        if self.panel is None:
            if surroundings() == "terminal":
                print(self._bundle(shown)["text/plain"])
            else:
                display(self._bundle(shown), raw=True, metadata=self._metadata(shown))
            return
        self.panel.set_conversation(shown, model=self._model)
        if self._is_on_page:
            return
        self._is_on_page = True
        display(self.panel.view_bundle(), raw=True)
        metadata = self._metadata(shown)
        self._transcript = display(self._bundle(shown), raw=True, metadata=metadata, display_id=True)

    def update(self, exchanges: Iterable[Exchange]) -> None:
        """The conversation has changed: show it so, and keep the transcript in step."""
        shown = list(exchanges)
        if self.panel is not None:
            self.panel.set_conversation(shown, model=self._model)
        self.save(shown)

    def save(self, exchanges: Iterable[Exchange]) -> None:
        """Bring the transcript up to date; answers under way are not in it yet."""
        if self._transcript is not None:
            shown = list(exchanges)
            self._transcript.update(self._bundle(shown), raw=True, metadata=self._metadata(shown))

    def begin(self, exchange: Exchange) -> None:
        """A new question, or an old one asked again."""
        if self.panel is not None:
            self.panel.show_exchange(exchange, model=self._model)

    def push(self, exchange: Exchange, chunk: Chunk) -> None:
        """Words of its answer."""
        if self.panel is not None:
            self.panel.push(exchange.id, chunk)

    def progress(self, exchange: Exchange, progress: Progress) -> None:
        """What its answer waits for."""
        if self.panel is not None:
            self.panel.progress(exchange.id, progress)

    def finish(self, exchange: Exchange) -> None:
        """Its whole answer."""
        if self.panel is not None:
            self.panel.finish(exchange.id, exchange, model=self._model)

    def fail(self, exchange: Exchange, message: str) -> None:
        """Its answer failed; nobody else will say so, since no cell runs."""
        if self.panel is not None:
            self.panel.fail(exchange.id, message)

    def remark(self, text: str) -> None:
        """Tell the person something that is no error."""
        if self.panel is not None:
            self.panel.notify(text, is_error=False)

    def offer(self, text: str) -> None:
        """Offer to bring something back; "" takes the offer away."""
        if self.panel is not None:
            self.panel.offer = text

    def _metadata(self, exchanges: list[Exchange]) -> dict[str, Any]:
        return metadata_for(exchanges, self.name, pictures=self._pictures_key, is_whole=True)

    def _bundle(self, exchanges: list[Exchange]) -> dict[str, str]:
        answered = [exchange for exchange in exchanges if exchange.reply is not None]
        return conversation_bundle(answered, self.title, thumbnail=self._saved, model=self._model)
