"""New token ids to new text, a token at a time, such that the pieces add up to the whole.

Three things make this more than ``decode(id)``: a character may span several byte-level tokens,
sentencepiece puts the space of a word into the word's first token, and a stop string may begin in
one token and end in the next. Knows nothing of models.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Detokenizer"]

_REPLACEMENT = "�"  # what decoding half a character gives


class Detokenizer:
    """Turns a growing list of token ids into pieces of text.

    Args:
        tokenizer: anything with ``decode(ids, skip_special_tokens=…)``.
        stop: strings that end the text; they are not part of it.
        strip: leave out white space at the very beginning and end, as a chat answer wants it.

    Attributes:
        ids: all ids so far.
        text: all text handed out so far.
        is_stopped: a stop string was met; nothing more comes.
    """

    def __init__(self, tokenizer: Any, *, stop: tuple[str, ...] = (), strip: bool = True) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s)
        self._strip = strip
        self._window = 0  # ids before this one are no longer needed as context
        self._read = 0  # ids before this one are in the text already
        self._held = ""  # text that may turn out to be white space at the end or a stop string
        self.ids: list[int] = []
        self.text = ""
        self.is_stopped = False

    def add(self, token_id: int) -> str:
        """The text that this token completes, possibly none."""
        self.ids.append(token_id)
        if self.is_stopped:
            return ""
        before = self._decode(self._window, self._read)
        after = self._decode(self._window, len(self.ids))
        if after.endswith(_REPLACEMENT) or len(after) <= len(before):
            return ""
        self._window, self._read = self._read, len(self.ids)
        return self._hand_out(self._held + after[len(before) :])

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        if self.is_stopped:
            return ""
        before = self._decode(self._window, self._read)
        rest = self._held + self._decode(self._window, len(self.ids))[len(before) :]
        self._held = ""
        if self._strip:
            rest = rest.rstrip() if self.text else rest.strip()
        self.text += rest
        return rest

    def _decode(self, start: int, end: int) -> str:
        decoded: str = self._tokenizer.decode(
            self.ids[start:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded

    def _hand_out(self, text: str) -> str:
        """Cut at a stop string, keep back what may become one, and strip."""
        if self._strip and not self.text:
            text = text.lstrip()
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.is_stopped = True
            piece, self._held = text[: min(found)], ""
            if self._strip:
                piece = piece.rstrip()
        else:
            n_kept = max((_overlap(text, stop) for stop in self._stop), default=0)
            if self._strip:
                body = text[: len(text) - n_kept]
                n_kept += len(body) - len(body.rstrip())
            piece, self._held = text[: len(text) - n_kept], text[len(text) - n_kept :]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that is a beginning of ``stop``."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
