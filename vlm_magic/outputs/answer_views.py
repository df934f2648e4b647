"""How one answer is shown where the person is: live panel, plain output, saved output, terminal.

`choose_view` looks at the shell once; the caller then drives whatever it got:
``begin`` → ``progress``/``push`` … → ``finish`` (or ``fail``, and raises the error itself).
A notebook cell writes at most two outputs, the panel and the transcript, and updates neither later.
Neighbours: `panel`, `transcript`, `terminal` do the showing; the shell is the caller.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from vlm_magic.messages import Chunk, Exchange, Progress
from vlm_magic.outputs.fragments import Thumbnailer
from vlm_magic.outputs.live_output import LiveOutput
from vlm_magic.outputs.records import metadata_for
from vlm_magic.outputs.surroundings import surroundings
from vlm_magic.outputs.terminal import TerminalView
from vlm_magic.outputs.transcript import exchange_bundle, growing_bundle
from vlm_magic.uninterrupted import import_whole

if TYPE_CHECKING:
    from vlm_magic.outputs.panel.widget import Action, ChatPanel

__all__ = ["AnswerView", "PanelView", "PlainView", "TerminalView", "choose_view"]

HANDSHAKE_S = 3.0  # without a sign of life from the page until then, the answer streams as plain output
_PLAIN_INTERVAL_S = 0.25  # each update carries the whole text, so these are rare


class AnswerView(Protocol):
    """Shows one answer from its question to its figures."""

    def begin(self, exchange: Exchange) -> None:
        """Show the question."""

    def push(self, chunk: Chunk) -> None:
        """Show more words."""

    def progress(self, progress: Progress) -> None:
        """Show what the answer waits for; may come from another thread."""

    def finish(self, exchange: Exchange) -> None:
        """Show the whole answer with its figures, and leave it in the notebook."""

    def fail(self) -> None:
        """The answer failed; the caller raises the error."""


class PlainView:
    """The saved output alone, without a widget.

    Args:
        thumbnail: makes the data URI of a picture; None keeps pictures out of the file.
        model: name of the model where the reply does not say.
        conversation: name of the conversation, for the record that the saved output keeps.
        pictures_key: where its full pictures are kept, for the record; "" for nowhere.
        prompt_above: the prompt that stands right above; a question of these words alone is not repeated.
        live: whether somebody is looking: words are then shown as they come, in the output that
            the transcript takes over at the end.
        output: where it is shown; one of its own if not given.
    """

    def __init__(
        self,
        *,
        thumbnail: Thumbnailer | None = None,
        model: str = "",
        conversation: str = "main",
        pictures_key: str = "",
        prompt_above: str | None = None,
        live: bool = False,
        output: LiveOutput | None = None,
    ) -> None:
        self._how: dict[str, Any] = {"thumbnail": thumbnail, "model": model, "prompt_above": prompt_above}
        self._conversation = conversation
        self._pictures_key = pictures_key
        self._live = live
        self._output = output or LiveOutput("person" if live else "program")
        self._exchange: Exchange | None = None
        self._words: list[str] = []
        self._shown_at = 0.0

    def begin(self, exchange: Exchange) -> None:
        """Show the question where somebody is looking."""
        self._exchange = exchange
        if self._live:
            self._show_growing()

    def push(self, chunk: Chunk) -> None:
        """Keep the words; show them a few times a second."""
        self._words.append(chunk.text)
        if self._live and time.monotonic() - self._shown_at > self._pause_s():
            self._show_growing()

    def progress(self, progress: Progress) -> None:
        """Nothing: saved outputs show no waiting."""

    def finish(self, exchange: Exchange) -> None:
        """Publish the transcript, once."""
        bundle = exchange_bundle(exchange, **self._how)
        metadata = metadata_for([exchange], self._conversation, pictures=self._pictures_key)
        self._output.show(bundle, metadata)

    def fail(self) -> None:
        """Leave the question; the error stands below it."""

    @property
    def is_shown(self) -> bool:
        """Whether its output is there and can be updated."""
        return self._output.is_shown

    def go_live(self) -> None:
        """Somebody is looking after all: show what there is, and words as they come."""
        if not self._live:
            self._live = True
            self._show_growing()

    def _pause_s(self) -> float:
        """Longer texts are sent less often, so that the bytes sent stay in proportion."""
        return _PLAIN_INTERVAL_S * (1 + sum(map(len, self._words[-1:])) // 4000 + len(self._words) // 500)

    def _show_growing(self) -> None:
        self._shown_at = time.monotonic()
        if self._exchange is not None:
            text = "".join(self._words)
            self._output.show(growing_bundle(self._exchange, text, **self._how))


class PanelView:
    """The live panel, and at the end the transcript that stands in for it in the saved notebook.

    Where no page shows the panel within `HANDSHAKE_S`, the answer streams as plain output, in the
    place of the transcript; should the panel come alive later, it hides that.

    Args:
        thumbnail: makes the data URI of a picture for the panel.
        save_thumbnails: whether the transcript carries pictures too.
        model: name of the model where the reply does not say.
        conversation: name of the conversation, for the record that the saved output keeps.
        pictures_key: where its full pictures are kept, for the record; "" for nowhere.
        prompt_above: the prompt that stands right above; a question of these words alone is not repeated.
        title: what stands above the turn in the panel, such as which conversation it belongs to.
        on_action: called with what the person does in the panel; see `ChatPanel.on_action`.
        actions: the kinds that it handles.
        blocking: whether the cell waits for the answer.
    """

    def __init__(
        self,
        *,
        thumbnail: Thumbnailer | None = None,
        save_thumbnails: bool = True,
        model: str = "",
        conversation: str = "main",
        pictures_key: str = "",
        prompt_above: str | None = None,
        title: str = "",
        on_action: Callable[[Action], object] | None = None,
        actions: Sequence[str] = ("stop",),
        blocking: bool = True,
    ) -> None:
        self.panel: ChatPanel | None = None
        self._thumbnail = thumbnail
        self._on_action = on_action
        self._actions = actions
        self._plain = PlainView(
            thumbnail=thumbnail if save_thumbnails else None,
            model=model,
            conversation=conversation,
            pictures_key=pictures_key,
            prompt_above=prompt_above,
            output=LiveOutput("person"),
        )
        self._model = model
        self._title, self._prompt_above = title, prompt_above
        self._blocking = blocking
        self._id = ""
        self._progress: Progress | None = None
        self._began_at = 0.0

    def begin(self, exchange: Exchange) -> None:
        """Put the panel on the page."""
        import_whole("anywidget")
        from vlm_magic.outputs.panel.widget import ChatPanel

        self._id = exchange.id
        self._began_at = time.monotonic()
        panel = ChatPanel(
            "cell",
            thumbnail=self._thumbnail,
            title=self._title,
            exchanges=[exchange],
            model=self._model,
            prompt_above=self._prompt_above,
            blocking=self._blocking,
        )
        if self._on_action is not None:
            panel.on_action(self._on_action, self._actions)
        if self._progress is not None:
            panel.progress(self._id, self._progress)
        self.panel = panel
        self._plain.begin(exchange)
        panel.show()

    def push(self, chunk: Chunk) -> None:
        """Hand words to the panel, and to the plain output where no page answered."""
        self._plain.push(chunk)
        if self.panel is None:
            return
        self.panel.push(self._id, chunk)
        if not self.panel.alive.is_set() and time.monotonic() - self._began_at > HANDSHAKE_S:
            self._plain.go_live()

    def progress(self, progress: Progress) -> None:
        """Hand it to the panel; what comes before `begin` is kept for it."""
        self._progress = progress
        if self.panel is not None:
            self.panel.progress(self._id, progress)

    def finish(self, exchange: Exchange) -> None:
        """Settle the panel, then publish the transcript as the cell's second output."""
        if self.panel is not None:
            self.panel.finish(self._id, exchange, model=self._model)
            self.panel.blocking = False  # what is asked in it from now on blocks no cell
        self._plain.finish(exchange)

    def save(self, exchange: Exchange) -> None:
        """The turn has another answer now: the saved output says so too, where it is there already."""
        if self._plain.is_shown:
            self._plain.finish(exchange)

    def fail(self) -> None:
        """Mark the panel; the error stands below it."""
        if self.panel is not None:
            self.panel.fail(self._id)
            self.panel.blocking = False


def choose_view(
    *,
    use_panel: bool = True,
    thumbnail: Thumbnailer | None = None,
    save_thumbnails: bool = True,
    model: str = "",
    conversation: str = "main",
    pictures_key: str = "",
    prompt_above: str | None = None,
    title: str = "",
    on_action: Callable[[Action], object] | None = None,
    actions: Sequence[str] = ("stop",),
    blocking: bool = True,
    out: TextIO | None = None,
) -> AnswerView:
    """The view that fits where the code runs.

    A terminal gets plain words; a notebook that a person runs gets the panel (or plain output with
    ``use_panel=False``); a notebook that a program runs (nbclient, papermill, nbval, nbconvert)
    gets the transcript alone, published once.
    """
    where = surroundings()
    if where == "terminal":
        return TerminalView(out or sys.stdout)
    if where == "program" or not use_panel:
        return PlainView(
            thumbnail=thumbnail if save_thumbnails else None,
            model=model,
            conversation=conversation,
            pictures_key=pictures_key,
            prompt_above=prompt_above,
            live=where == "person",
        )
    return PanelView(
        thumbnail=thumbnail,
        save_thumbnails=save_thumbnails,
        model=model,
        conversation=conversation,
        pictures_key=pictures_key,
        prompt_above=prompt_above,
        title=title,
        on_action=on_action,
        actions=actions,
        blocking=blocking,
    )
