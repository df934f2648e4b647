"""The live chat panel: an anywidget that shows turns as they happen and says what a person clicked.

Python keeps the truth: turns as plain dictionaries of inert HTML. The page gets them once, then
small messages: a turn that changed, words of an answer under way, a progress line. A page that
opens late, or misses a message, asks for a snapshot. The page's own code is in ``static/`` and is
written by hand, without a build step.

The only module that imports anywidget; imported at the first panel, not before. It knows nothing of
engines or conversations: actions of the person go to callbacks.
Neighbours: `cards` and `markdown` make the HTML, `stream` the updates, `views` uses this for a cell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any, TypeAlias

import anywidget
import traitlets

from vlm_magic.messages import Chunk, Exchange, Picture, Progress, Reply
from vlm_magic.outputs.cards import (
    Thumbnailer,
    badges,
    ending,
    examples_html,
    examples_text,
    question_html,
    question_text,
    speaker,
    waiting_text,
)
from vlm_magic.outputs.drafts import marked_text, parts_of_draft, split_marks
from vlm_magic.outputs.markdown import clean_text, to_html
from vlm_magic.outputs.page import page_code, page_style
from vlm_magic.outputs.stream import AnswerStream
from vlm_magic.outputs.transcript import proof_html

__all__ = ["Action", "ChatPanel"]

Action: TypeAlias = dict[str, Any]
"""What a person did: ``{"kind": "stop", "exchange": id}``; more kinds in `ChatPanel.on_action`."""

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

_MAX_FULL_PX = 2048  # longest side of the picture that a click shows


class ChatPanel(anywidget.AnyWidget):
    """Turns on a page, live.

    Args:
        kind: "cell" for the turn of one cell, "chat" for a whole conversation with an input box.
        thumbnail: makes the data URI of a picture; None shows captions alone.
        title: what stands above a chat.
        exchanges: what it shows from the start; a page then has them with its first message.
        model: name of the model where a reply does not say.

    Attributes:
        abilities: kinds of action that the caller handles; the page offers no others.
        blocking: whether a running cell waits for the answer, so that an interrupt ends it.
        settings: values that the settings form shows: temperature, max_tokens, system.
        offer: what can be brought back, in words; "" for nothing. The action is "restore".
        completer: gives the names of variables that begin with a prefix, for ``{na…`` in the box.
        alive: set when a page shows this panel.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    kind = traitlets.Unicode("cell").tag(sync=True)
    abilities = traitlets.List(["stop"]).tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    stop_by = traitlets.Unicode("message").tag(sync=True)
    blocking = traitlets.Bool(False).tag(sync=True)
    offer = traitlets.Unicode("").tag(sync=True)
    turns = traitlets.List().tag(sync=True)  # filled in by get_state; never assigned

    def __init__(
        self,
        kind: str = "cell",
        *,
        thumbnail: Thumbnailer | None = None,
        title: str = "",
        exchanges: Iterable[Exchange] = (),
        model: str = "",
        **options: Any,
    ) -> None:
        self._lock = threading.RLock()
        self._turns: dict[str, dict[str, Any]] = {}
        self._pictures: dict[str, tuple[Picture, ...]] = {}
        self._streams: dict[str, AnswerStream] = {}
        self._notice: dict[str, Any] = {}
        self._thumbnail = thumbnail
        self._callbacks: list[Callable[[Action], object]] = []
        self.completer: Callable[[str], Iterable[str]] | None = None
        self.alive = threading.Event()
        for exchange in exchanges:
            self._turns[exchange.id] = self._turn(exchange, model)
            self._pictures[exchange.id] = exchange.pictures
        super().__init__(
            _esm=page_code(), _css=page_style(), kind=kind, title=title, stop_by=_stop_way(), **options
        )
        _answer_while_busy(self.comm)
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return "vlm chat panel"

    def view_bundle(self) -> dict[str, Any]:
        """The output that shows this panel: the widget alone, so that other sites show nothing here."""
        return {WIDGET_MIME: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state of the model, with the turns as they are now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        if "turns" in state:
            state["turns"] = self.snapshot()
        return state

    def snapshot(self) -> list[dict[str, Any]]:
        """All turns as they are now, answers under way included."""
        with self._lock:
            return [self._with_stream(turn) for turn in self._turns.values()]

    # What the shell tells the panel

    def show_exchange(self, exchange: Exchange, *, model: str = "") -> None:
        """Show a question, with its answer where there is one.

        Args:
            exchange: what to show; one with the same id is replaced.
            model: name of the model where the reply does not say.
        """
        self.send({"type": "turn", "turn": self._keep(exchange, model)})

    def _keep(self, exchange: Exchange, model: str) -> dict[str, Any]:
        turn = self._turn(exchange, model)
        with self._lock:
            self._turns[exchange.id] = turn
            self._pictures[exchange.id] = exchange.pictures
        return turn

    def set_conversation(self, exchanges: Iterable[Exchange], *, model: str = "") -> None:
        """Show these exchanges and no others; answers under way go on. Only what changed is sent."""
        with self._lock:
            before, self._turns = self._turns, {}
            for exchange in exchanges:
                known = before.get(exchange.id)
                is_going_on = known is not None and exchange.id in self._streams
                self._turns[exchange.id] = known if known and is_going_on else self._turn(exchange, model)
                self._pictures[exchange.id] = exchange.pictures
            self._pictures = {key: self._pictures[key] for key in self._turns}
            changed = [turn for key, turn in self._turns.items() if turn != before.get(key)]
            order = list(self._turns)
        self.send({"type": "sync", "order": order, "turns": changed})

    def remove(self, exchange_id: str) -> None:
        """Take a turn off the page."""
        with self._lock:
            self._turns.pop(exchange_id, None)
            self._pictures.pop(exchange_id, None)
            order = list(self._turns)
        self.send({"type": "sync", "order": order, "turns": []})

    def push(self, exchange_id: str, chunk: Chunk) -> None:
        """Add words to an answer; returns at once, from any thread."""
        stream = self._stream(exchange_id)
        if stream is not None:
            stream.push(chunk.text, chunk.n_new_tokens)

    def progress(self, exchange_id: str, progress: Progress) -> None:
        """Say what an answer is waiting for."""
        with self._lock:
            turn = self._turns.get(exchange_id)
            text = waiting_text(progress)
            if turn is None or turn["state"] != "waiting" or turn["waiting"] == text:
                return
            turn["waiting"] = text
        self.send({"type": "progress", "id": exchange_id, "text": text})

    def finish(self, exchange_id: str, exchange: Exchange, *, model: str = "") -> None:
        """Show the finished answer; after this the turn does not change by itself."""
        stream = self._end_stream(exchange_id)
        turn = self._keep(exchange, model)
        rest = None if stream is None or "answer" not in turn else stream.rest_of(turn["answer"])
        if stream is None or rest is None:
            self.send({"type": "turn", "turn": turn})
        else:  # the page has the beginning; on a page that lost an update it asks for everything
            self.send({"type": "turn", "turn": {**turn, "answer": None}, "seq": stream.seq, "rest": rest})

    def fail(self, exchange_id: str, message: str = "No answer: an error ended it.") -> None:
        """Mark a turn whose answer failed; the error itself is raised by the caller."""
        self._end_stream(exchange_id)
        with self._lock:
            turn = self._turns.get(exchange_id)
            if turn is None:
                return
            turn.update(state="failed", waiting=clean_text(message))
        self.send({"type": "turn", "turn": turn})

    def on_action(self, callback: Callable[[Action], object], kinds: Iterable[str] = ("stop",)) -> None:
        """Call ``callback`` with each thing a person does, possibly on another thread than a running cell's.

        Every action has ``kind``; all but "send", "settings" and "clear" have ``exchange``, an id:

        - stop: end this answer and no other.
        - send: ``parts``, words as typed (``{name}`` not looked up yet) and pictures of raw bytes, in order.
        - edit: ``parts``, words to be taken literally and the question's own pictures, in order.
        - regenerate, refresh (a stale turn, as it was asked), delete, open (the whole conversation).
        - restore: what was offered. Nothing else.
        - hide: ``hidden``. choose: ``alternative``, an index into the exchange's alternatives.
        - settings: ``values``. clear: nothing else.

        An exception out of the callback is shown in the panel; that of a "send" gives the draft back.

        Args:
            callback: called with each action.
            kinds: what the callback handles; the page offers only that.
        """
        self._callbacks.append(callback)
        self.abilities = sorted({*self.abilities, *kinds})

    def notify(self, text: str, *, is_error: bool = True) -> None:
        """Show a remark above the input box, or below a cell's turn; "" takes it away."""
        self._notice = {"text": clean_text(text), "is_error": is_error}
        self.send({"type": "notice", **self._notice})

    # What the page tells the panel

    def _receive(self, _widget: object, content: Mapping[str, Any], buffers: list[Any]) -> None:
        exchange_id = str(content.get("id", ""))
        match content.get("type"):
            case "ready":
                self.alive.set()
                self._send_if_other(content.get("known", []))
                if self._notice:  # what is sent before a page has the model is lost
                    self.send({"type": "notice", **self._notice})
            case "resync":
                self.send({"type": "turns", "turns": self.snapshot()})
            case "picture":
                self._send_picture(exchange_id, int(content.get("index", -1)))
            case "stop":
                self.send({"type": "ack", "id": exchange_id})
                self._act({"kind": "stop", "exchange": exchange_id})
            case "complete":
                self._complete(str(content.get("prefix", "")), content.get("ticket"))
            case "act":
                self._receive_action(content, buffers)

    def _send_if_other(self, known: object) -> None:
        """A page says which turns it has, and their state: send all of them where that is not so."""
        with self._lock:
            mine = [[turn["id"], turn["state"]] for turn in self._turns.values()]
        if known != mine:
            self.send({"type": "turns", "turns": self.snapshot()})

    def _receive_action(self, content: Mapping[str, Any], buffers: list[Any]) -> None:
        """Make an action of a message of the page and hand it on; what goes wrong is shown there."""
        kind, exchange_id = str(content.get("kind")), str(content.get("id", ""))
        if kind not in self.abilities:
            return
        self._notice = {}  # it was about what the person did before
        action: Action = {"kind": kind}
        if exchange_id:
            action["exchange"] = exchange_id
        action.update(
            {name: content[name] for name in ("hidden", "alternative", "values") if name in content}
        )
        if kind == "send":
            action["parts"] = parts_of_draft(
                str(content.get("text", "")), content.get("pictures", ()), buffers
            )
        elif kind == "edit":
            pictures = dict(enumerate(self._pictures.get(exchange_id, ()), start=1))
            action["parts"] = split_marks(str(content.get("text", "")), pictures)
        try:
            self._act(action)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if kind == "send":
                self.send({"type": "refused", "draft": content.get("draft"), "text": clean_text(text)})
            else:
                self.notify(text)

    def _act(self, action: Action) -> None:
        for callback in list(self._callbacks):
            callback(action)

    def _complete(self, prefix: str, ticket: object) -> None:
        names = [] if self.completer is None else [str(name) for name in self.completer(prefix)][:50]
        self.send({"type": "completions", "ticket": ticket, "names": names})

    def _send_picture(self, exchange_id: str, index: int) -> None:
        """Send a full picture, bounded in size, for a click on its thumbnail."""
        pictures = self._pictures.get(exchange_id, ())
        if not 0 <= index < len(pictures) or pictures[index].image is None:
            return
        image = pictures[index].rgb
        if max(image.size) > _MAX_FULL_PX:
            image = image.copy()
            image.thumbnail((_MAX_FULL_PX, _MAX_FULL_PX))
        buffer = BytesIO()
        image.save(buffer, "PNG")
        self.send({"type": "picture", "id": exchange_id, "index": index}, buffers=[buffer.getvalue()])

    # Turns as the page knows them

    def _turn(self, exchange: Exchange, model: str) -> dict[str, Any]:
        reply = exchange.reply
        turn: dict[str, Any] = {
            "id": exchange.id,
            "question": examples_html(exchange.examples, self._thumbnail)
            + question_html(exchange.parts, self._thumbnail, exchange.picture_tokens),
            "question_text": examples_text(exchange.examples)
            + question_text(exchange.parts, exchange.picture_tokens),
            "source": marked_text(exchange.parts),
            "state": "waiting" if reply is None else "done",
            "waiting": waiting_text(None),
            "stale": exchange.is_stale,
            "badges": badges(exchange),
            "speaker": clean_text(model) or "Model",
            "hidden": exchange.is_hidden,
            "alternatives": [_answer(earlier, model) for earlier in exchange.alternatives],
        }
        if reply is not None:
            turn.update(_answer(reply, model), badges=badges(exchange))
        return turn

    def _with_stream(self, turn: dict[str, Any]) -> dict[str, Any]:
        stream = self._streams.get(turn["id"])
        return turn if stream is None else {**turn, "stream": stream.snapshot()}

    def _stream(self, exchange_id: str) -> AnswerStream | None:
        with self._lock:
            turn = self._turns.get(exchange_id)
            if turn is None or turn["state"] not in ("waiting", "streaming"):
                return None
            if exchange_id not in self._streams:
                turn["state"] = "streaming"

                def send(update: dict[str, Any]) -> None:
                    self.send({"type": "delta", "id": exchange_id, **update})

                self._streams[exchange_id] = AnswerStream(send)
            return self._streams[exchange_id]

    def _end_stream(self, exchange_id: str) -> AnswerStream | None:
        with self._lock:
            stream = self._streams.get(exchange_id)
        if stream is not None:
            stream.close()
            with self._lock:
                self._streams.pop(exchange_id, None)
        return stream


def _answer(reply: Reply, model: str) -> dict[str, Any]:
    """The part of a turn that its answer fills."""
    return {
        "speaker": speaker(reply, model),
        "answer": to_html(reply.text),
        "text": clean_text(reply.text),
        "proof": proof_html(reply),
        "badges": [ending(reply)] if ending(reply) else [],
    }


def _stop_way() -> str:
    """How Stop reaches a running cell: "message" where the kernel has subshells, else "interrupt"."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return "message" if getattr(kernel, "_supports_kernel_subshells", False) else "interrupt"


def _answer_while_busy(comm: Any) -> None:
    """Let messages of this panel run on the front-end's subshell while a cell blocks the main one.

    ipykernel 7.4 sends a front-end's message to the shell that last wrote on the comm; while a cell
    runs that is the main one, so a Stop would wait for the end of the cell it should stop.
    Source: ipykernel 7.4.0, comm/comm.py and kernelbase.shell_channel_thread_main.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default
