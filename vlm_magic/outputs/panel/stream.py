"""An answer on its way to the screen: words come in at any speed, at most 15 updates a second leave.

Finished blocks leave as HTML, once; the open block leaves as what was added to it. So the cost of
showing an answer is linear in its length. What the model thinks before it answers leaves as plain
words, with the same updates. Safe to feed from any thread.
Neighbours: `panel` sends what leaves here; `blocks` and `markdown` do the work.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

from vlm_magic.outputs.markdown.blocks import BlockSplitter
from vlm_magic.outputs.markdown.html import clean_text, to_html

__all__ = ["AnswerStream"]

FLUSH_INTERVAL_S = 1 / 15  # each update costs about 700 bytes beside its words


class AnswerStream:
    """Collects the words of one answer and hands out updates from a thread of its own.

    Args:
        send: called with each update, from the stream's thread or from `close`: ``{"seq", "text"}``
            adds to the open block; with ``"html"`` in it, finished blocks come first and ``"text"``
            is the whole of the open block after them; ``"thought"`` adds to what the model thinks.
        interval_s: the least time between two updates.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], interval_s: float = FLUSH_INTERVAL_S) -> None:
        self._send = send
        self._interval_s = interval_s
        self._splitter = BlockSplitter()
        self._waiting: list[str] = []
        self._thoughts_waiting: list[str] = []
        self._thought: list[str] = []
        self._html: list[str] = []
        self._seq = 0
        self._n_tokens = 0
        self._lock = threading.Lock()  # guards what is waiting
        self._flushing = threading.Lock()  # one update at a time, in order
        self._poked = threading.Event()
        self._closed = threading.Event()
        context = contextvars.copy_context()  # a kernel finds the parent of a message in its context
        self._thread = threading.Thread(target=lambda: context.run(self._run), name="vlm-answer", daemon=True)
        self._thread.start()

    def push(self, text: str, n_tokens: int = 0, *, thought: str = "") -> None:
        """Add words of the answer, or of the thought before it; returns at once."""
        with self._lock:
            if text:
                self._waiting.append(text)
            if thought:
                self._thoughts_waiting.append(thought)
            self._n_tokens = max(self._n_tokens, n_tokens)
        if not self._poked.is_set():  # where it is, the thread has yet to take what waits; setting costs more
            self._poked.set()

    def close(self) -> None:
        """Send what is waiting and end the thread."""
        self._closed.set()
        self._poked.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        self._flush()

    def rest_of(self, answer: str) -> str | None:
        """What is missing of the answer's HTML after the blocks that left; None where they do not begin it.

        Call it after `close`.
        """
        sent = "".join(self._html)
        return answer[len(sent) :] if answer.startswith(sent) else None

    @property
    def seq(self) -> int:
        """The number of the last update."""
        return self._seq

    def snapshot(self) -> dict[str, Any]:
        """Everything so far, for a view that opens late."""
        with self._flushing:
            return {
                "seq": self._seq,
                "html": "".join(self._html),
                "text": self._splitter.open,
                "thought": "".join(self._thought),
                "n": self._n_tokens,
            }

    def _run(self) -> None:
        while not self._closed.is_set():
            self._poked.wait()
            self._poked.clear()
            self._flush()
            self._closed.wait(self._interval_s)

    def _flush(self) -> None:
        with self._flushing:
            with self._lock:
                text, self._waiting = "".join(self._waiting), []
                thought, self._thoughts_waiting = "".join(self._thoughts_waiting), []
                n_tokens = self._n_tokens
            if not text and not thought:
                return
            text, thought = clean_text(text), clean_text(thought)
            blocks = self._splitter.feed(text)
            self._seq += 1
            update: dict[str, Any] = {"seq": self._seq, "text": text, "n": n_tokens}
            if thought:
                self._thought.append(thought)
                update["thought"] = thought
            if blocks:
                html = to_html("".join(blocks))
                self._html.append(html)
                update.update(html=html, text=self._splitter.open)
            self._send(update)
