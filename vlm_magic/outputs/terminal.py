"""An answer in a plain terminal: words as they come, figures at the end, no control codes let through.

Knows nothing of notebooks. Neighbours: `answer_views` chooses it, `fragments` writes the words.
"""

from __future__ import annotations

import os
from typing import TextIO

from vlm_magic.messages import Chunk, Exchange, Progress
from vlm_magic.outputs.fragments import badges, examples_text, picture_label, proof_items, waiting_text
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.outputs.results.choices import choices_plain
from vlm_magic.wording import count_words

__all__ = ["TerminalView"]

_DIM, _PLAIN, _CLEAR_LINE = "\x1b[2m", "\x1b[0m", "\r\x1b[2K"
_THOUGHT_STEP = 8  # tokens of a thought between two words about it


class TerminalView:
    """Streams one answer to a text stream; dim figures and progress only where that is a terminal.

    A dumb terminal gets no control codes, and NO_COLOR in the environment leaves the dimming out.

    Args:
        out: where to write.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_tty = bool(getattr(out, "isatty", lambda: False)()) and os.environ.get("TERM") != "dumb"
        self._dim, self._plain = ("", "") if os.environ.get("NO_COLOR") else (_DIM, _PLAIN)
        self._shows_progress = False
        self._has_thought = False
        self._at_line_start = True

    def begin(self, exchange: Exchange) -> None:
        """Name the pictures that were found: the person sees what the model will see."""
        if exchange.examples:
            self._line(examples_text(exchange.examples).strip())
        for picture in exchange.pictures:
            self._line(f"[{picture_label(picture)}]")

    def push(self, chunk: Chunk) -> None:
        """Write words at once."""
        if chunk.thinking and not chunk.text:
            self._think(chunk.n_new_tokens)
        if not chunk.text:
            return
        self._end_progress()
        text = clean_text(chunk.text)
        self._out.write(text)
        self._out.flush()
        self._at_line_start = text.endswith("\n")

    def progress(self, progress: Progress) -> None:
        """Say what the answer waits for, on a line that goes away."""
        if progress.stage != "decode":
            self._wait(waiting_text(progress))

    def _think(self, n_tokens: int) -> None:
        """Say how far a thought is; where no line can go away, say once that there is one."""
        if self._is_tty and n_tokens % _THOUGHT_STEP == 1:
            self._wait(f"Thinking, {count_words(n_tokens, 'token')} so far")
        elif not self._is_tty and not self._has_thought:
            self._line("[Thinking…]")
        self._has_thought = True

    def _wait(self, text: str) -> None:
        if not self._is_tty or not self._at_line_start:
            return
        self._out.write(f"{_CLEAR_LINE}{self._dim}{text}…{self._plain}")
        self._out.flush()
        self._shows_progress = True

    def finish(self, exchange: Exchange) -> None:
        """Write the figures."""
        self._end_progress()
        self._end_line()
        if exchange.reply is not None:
            if exchange.reply.choices:
                self._out.write(f"{choices_plain(exchange.reply.choices)}\n")
            self._line(f"[{' · '.join([*proof_items(exchange.reply), *badges(exchange)])}]")
            for note in exchange.reply.notes:
                self._line(f"[{clean_text(note)}]")

    def fail(self) -> None:
        """End the line; the error itself is raised by the caller."""
        self._end_progress()
        self._end_line()

    def _end_line(self) -> None:
        if not self._at_line_start:
            self._out.write("\n")
            self._at_line_start = True

    def _end_progress(self) -> None:
        if self._shows_progress:
            self._out.write(_CLEAR_LINE)
            self._shows_progress = False

    def _line(self, text: str) -> None:
        self._out.write(f"{self._dim}{text}{self._plain}\n" if self._is_tty else f"{text}\n")
        self._out.flush()
