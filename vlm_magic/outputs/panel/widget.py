"""The live chat panel: an anywidget that shows turns as they happen and says what a person clicked.

Python keeps the truth: turns as plain dictionaries of inert HTML. The page gets them once, then
small messages: a turn that changed, words of an answer under way, a progress line. A page that
opens late, or misses a message, asks for a snapshot. The page's own code is in ``static/`` and is
written by hand, without a build step.

With `stop_bar` the only module that imports anywidget; imported at the first panel, not before. It
knows nothing of engines or conversations: actions of the person go to callbacks.
Neighbours: `fragments` and `markdown` make the HTML, `stream` the updates; `answer_views` and
`chat` show this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import anywidget
import traitlets

from vlm_magic.messages import Chunk, Exchange, Picture, Progress, Reply
from vlm_magic.outputs.fragments import (
    Thumbnailer,
    badges,
    ending,
    examples_html,
    examples_text,
    question_html,
    question_text,
    speaker,
    stands_above,
    waiting_text,
)
from vlm_magic.outputs.markdown.html import clean_text, to_html
from vlm_magic.outputs.panel.composer import marked_text, parts_of_draft
from vlm_magic.outputs.panel.page import packed_page
from vlm_magic.outputs.panel.shown_pictures import screen_png
from vlm_magic.outputs.panel.stop_bar import WIDGET_MIME, answer_while_busy
from vlm_magic.outputs.panel.stream import AnswerStream
from vlm_magic.outputs.surroundings import stop_way
from vlm_magic.outputs.transcript import proof_html
from vlm_magic.wording import shorten

__all__ = ["Action", "ChatPanel"]

Action: TypeAlias = dict[str, Any]
"""What a person did: ``{"kind": "stop", "exchange": id}``; more kinds in `ChatPanel.on_action`."""

# What an action may bring.
_VALUES = ("hidden", "alternative", "values", "temperature", "value", "place", "word")


class ChatPanel(anywidget.AnyWidget):
    """Turns on a page, live.

    Args:
        kind: "cell" for the turn of one cell, "chat" for a whole conversation with an input box.
        thumbnail: makes the data URI of a picture; None shows captions alone.
        title: what stands above a chat, and above a cell's turn where it is not empty.
        exchanges: what it shows from the start; a page then has them with its first message.
        model: name of the model where a reply does not say.
        prompt_above: the prompt that stands right above; a question of these words is not repeated.

    Attributes:
        abilities: kinds of action that the caller handles; the page offers no others.
        blocking: whether a running cell waits for the answer, so that an interrupt ends it.
        settings: values that the settings form shows: temperature, max_tokens, system.
        offer: what can be brought back, in words; "" for nothing. The action is "restore".
        menu: what a chat's head offers, see `vlm_magic.outputs.chat.ChatView.offer_menu`; {} for nothing.
        completer: gives the names of variables that begin with a prefix, for ``{na…`` in the box.
        alive: set when a page shows this panel.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    kind = traitlets.Unicode("cell").tag(sync=True)
    abilities = traitlets.List(["stop"]).tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    stop_by = traitlets.Unicode("message").tag(sync=True)
    blocking = traitlets.Bool(False).tag(sync=True)
    offer = traitlets.Unicode("").tag(sync=True)
    menu = traitlets.Dict().tag(sync=True)
    turns = traitlets.List().tag(sync=True)  # filled in by get_state; never assigned

    def __init__(
        self,
        kind: str = "cell",
        *,
        thumbnail: Thumbnailer | None = None,
        title: str = "",
        exchanges: Iterable[Exchange] = (),
        model: str = "",
        prompt_above: str | None = None,
        **options: Any,
    ) -> None:
        self._lock = threading.RLock()
        self._turns: dict[str, dict[str, Any]] = {}
        self._states: dict[str, tuple[object, ...]] = {}  # what each turn was made of
        self._pictures: dict[str, tuple[Picture, ...]] = {}
        self._streams: dict[str, AnswerStream] = {}
        self._notice: dict[str, Any] = {}
        self._thumbnail, self._prompt_above = thumbnail, prompt_above
        self._callbacks: list[Callable[[Action], object]] = []
        self.completer: Callable[[str], Iterable[str]] | None = None
        self.alive = threading.Event()
        for exchange in exchanges:
            self._turns[exchange.id] = self._turn(exchange, model)
            self._pictures[exchange.id] = exchange.pictures
        super().__init__(_esm=packed_page(), kind=kind, title=title, stop_by=stop_way(), **options)
        answer_while_busy(self.comm)
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return "vlm chat panel"

    def show(self) -> None:
        """Put it into the running cell's output: the widget alone, so that other sites show nothing here."""
        from IPython.display import display

        display({WIDGET_MIME: {"version_major": 2, "version_minor": 0, "model_id": self.model_id}}, raw=True)

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
        shown = list(exchanges)
        for exchange_id in set(self._streams) - {exchange.id for exchange in shown}:
            self._end_stream(exchange_id)
        with self._lock:
            before, self._turns = self._turns, {}
            for exchange in shown:
                known, state = before.get(exchange.id), (exchange.state, model)
                is_same = exchange.id in self._streams or self._states.get(exchange.id) == state
                self._turns[exchange.id] = known if known and is_same else self._turn(exchange, model)
                self._states[exchange.id] = state
                self._pictures[exchange.id] = exchange.pictures
            self._pictures = {key: self._pictures[key] for key in self._turns}
            self._states = {key: self._states[key] for key in self._turns}
            changed = [t for key, t in self._turns.items() if t is not before.get(key) != t]
            order = list(self._turns)
        self.send({"type": "sync", "order": order, "turns": changed})

    def push(self, exchange_id: str, chunk: Chunk) -> None:
        """Add words to an answer, or to the thought before it; returns at once, from any thread."""
        stream = self._stream(exchange_id)
        if stream is not None:
            stream.push(chunk.text, chunk.n_new_tokens, thought=chunk.thinking)

    def progress(self, exchange_id: str, progress: Progress) -> None:
        """Say what an answer is waiting for, and for how many others."""
        text, n_ahead = waiting_text(progress), progress.done if progress.stage == "queued" else 0
        with self._lock:
            turn = self._turns.get(exchange_id)
            if turn is None or turn["state"] != "waiting" or turn["waiting"] == text:
                return
            turn.update(waiting=text, ahead=n_ahead)
        self.send({"type": "progress", "id": exchange_id, "text": text, "ahead": n_ahead})

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

    def explain(self, exchange_id: str, html: str, *, is_under_way: bool = False) -> None:
        """Show below an answer why it is what it is; "" takes that away. It goes when the answer changes."""
        with self._lock:
            turn = self._turns.get(exchange_id)
            if turn is None or turn["state"] != "done":
                return
            turn = self._turns[exchange_id] = {**turn, "why": html, "is_explaining": is_under_way}
        self.send({"type": "turn", "turn": turn})

    def why(self, exchange_id: str) -> str:
        """What is shown below an answer as its explanation; "" for nothing."""
        return str(self._turns.get(exchange_id, {}).get("why", ""))

    def on_action(self, callback: Callable[[Action], object], kinds: Iterable[str] = ("stop",)) -> None:
        """Call ``callback`` with each thing a person does, possibly on another thread than a running cell's.

        Every action has ``kind``; all but "send", "settings" and "clear" have ``exchange``, an id:

        - stop: end this answer and no other. cancel: take a question back that waits.
        - send, edit: ``parts`` in order: words as `Typed` (``{name}`` not looked up yet), or as `Text`, to be
          taken literally, where they stood in the edited question already; pictures of raw bytes, the
          question's own, those of other turns, or parts of these that are still to be cut out.
        - regenerate, with ``temperature`` where another than the form's was offered.
        - continue: go on with an answer that was cut off. continue_with: ``word`` at ``place``, from 1.
        - explain: look at why an answer is what it is, stop looking, or take away what was found.
        - refresh (a stale turn, as it was asked), delete, open (the whole conversation).
        - leave (the whole conversation, for the cell's turn). Nothing else.
        - restore: what was offered. Nothing else.
        - hide: ``hidden``. choose: ``alternative``, an index into the exchange's alternatives.
        - settings: ``values``. clear: nothing else.
        - of the menu, each with ``value``: enter (a conversation), new ("" for any name), rename, export (the
          file's ending), use (a model).

        An exception out of the callback is shown in the panel; that of a "send" gives the draft back.

        Args:
            callback: called with each action.
            kinds: what the callback handles; the page offers only that.
        """
        self._callbacks.append(callback)
        self.abilities = sorted({*self.abilities, *kinds})

    def serve_only(self, callback: Callable[[Action], object], kinds: Iterable[str]) -> None:
        """From now on this callback alone handles what a person does; see `on_action`."""
        self._callbacks = [callback]
        self.abilities = sorted(kinds)

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
        action.update({name: content[name] for name in _VALUES if name in content})
        if kind in ("send", "edit"):
            text, marks = str(content.get("text", "")), content.get("pictures", ())
            with self._lock:
                before = str(self._turns.get(exchange_id, {}).get("source", ""))
            kept = self._pictures.get(exchange_id, ())
            action["parts"] = parts_of_draft(text, marks, buffers, kept, before, self._picture)
        try:
            self._act(action)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if kind in ("send", "edit"):
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
        picture = self._picture(exchange_id, index)
        if picture is not None:
            about = {"type": "picture", "id": exchange_id, "index": index, "size": picture.size_px}
            self.send(about, buffers=[screen_png(picture)])

    def _picture(self, exchange_id: str, index: int) -> Picture | None:
        """A picture that the page shows; None where it knows none of that number, or its pixels are gone."""
        pictures = self._pictures.get(exchange_id, ())
        return pictures[index] if 0 <= index < len(pictures) and pictures[index].image is not None else None

    # Turns as the page knows them

    def _turn(self, exchange: Exchange, model: str) -> dict[str, Any]:
        reply = exchange.reply
        turn: dict[str, Any] = {
            "id": exchange.id,
            "question": examples_html(exchange.examples, self._thumbnail)
            + question_html(exchange.parts, self._thumbnail, exchange.picture_tokens),
            "question_text": examples_text(exchange.examples)
            + question_text(exchange.parts, exchange.picture_tokens),
            "is_above": stands_above(exchange, self._prompt_above),
            "source": marked_text(exchange.parts),
            "names": [shorten(clean_text(p.name), 60) or "picture" for p in exchange.pictures],
            "state": "waiting" if reply is None else "done",
            "waiting": waiting_text(None),
            "stale": exchange.is_stale,
            "badges": badges(exchange),
            "speaker": clean_text(model) or "Model",
            "hidden": exchange.is_hidden,
            "is_greedy": not exchange.settings.is_sampling and not exchange.settings.choices,
            "alternatives": [self._alternative(earlier, model) for earlier in exchange.alternatives],
        }
        if reply is not None:
            goes_on = reply.finish_reason != "stop" and not exchange.settings.grammar
            turn.update(_answer(reply, model), badges=badges(exchange), is_cut_off=goes_on)
        return turn

    def _alternative(self, reply: Reply, model: str) -> dict[str, Any]:
        """Another answer, with the question that it answered where that was changed since."""
        if not reply.asked:
            return _answer(reply, model)
        n = sum(isinstance(part, Picture) for part in reply.asked)
        tokens = reply.picture_tokens[-n:] if n else ()
        asked = question_html(reply.asked, self._thumbnail, tokens)
        return {**_answer(reply, model), "question": asked}

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
