"""Where a growing Markdown text may be cut: finished blocks leave, the open one stays.

A streamed answer is rendered block by block, each block once, so that the cost of showing it stays
linear. A cut is only made where the Markdown of both sides means the same apart as together, but
for link definitions (`[name]: url`) and the numbering of lists that are not lists yet; the final
rendering of the whole text puts these right. Pure text work: this module knows nothing of HTML.
Neighbours: `markdown.html` renders what leaves here, `stream` feeds it.
"""

from __future__ import annotations

import re

__all__ = ["BlockSplitter", "split_blocks"]

_MARKER = r"(?:[-*+]|\d{1,9}[.)])"
_LIST_ITEM = re.compile(rf"{_MARKER}(?:\s|$)")
_FENCE = re.compile(rf"\s*(?:>\s?)*\s*(?:{_MARKER}\s+)?(`{{3,}}|~{{3,}})([^\n]*)")
_HEADING = re.compile(r"#{1,6}(?:\s|$)")


class BlockSplitter:
    """Takes text piece by piece and gives back the blocks that are finished.

    Attributes:
        open: the text that has not left yet.
    """

    def __init__(self) -> None:
        self.open = ""
        self._n_scanned = 0  # characters of `open` that were looked at, up to a line end
        self._fence = ""  # the marker of the code fence we are in
        self._after_blank = False
        self._in_list = False

    def feed(self, piece: str) -> list[str]:
        """Add text; return the blocks that it finished, in order (joined with `open` they are the text)."""
        self.open += piece
        blocks: list[str] = []
        while (end := self.open.find("\n", self._n_scanned)) >= 0:
            start, stop = self._n_scanned, end + 1
            cut = self._cut_for(self.open[start:stop], start, stop)
            self._n_scanned = stop
            if cut:
                blocks.append(self.open[:cut])
                self.open = self.open[cut:]
                self._n_scanned -= cut
        if self._n_scanned and self._begins_block(self.open[self._n_scanned : self._n_scanned + 1]):
            blocks.append(self.open[: self._n_scanned])
            self.open = self.open[self._n_scanned :]
            self._n_scanned, self._after_blank = 0, False
        return blocks

    def _begins_block(self, first: str) -> bool:
        """Whether a line of which only the beginning is here starts a new block in any case."""
        if not self._after_blank or self._fence or not first or first.isspace():
            return False
        return not (self._in_list and first in "-*+0123456789")

    def _cut_for(self, line: str, start: int, stop: int) -> int:
        """Look at one whole line; the place to cut at (its start or its end), or 0."""
        if self._fence:
            return self._inside_fence(line, stop)
        if not line.strip():
            self._after_blank = True
            return 0
        at_margin = not line[0].isspace()
        is_item = at_margin and _LIST_ITEM.match(line) is not None
        opens_fence = at_margin and line.startswith(("```", "~~~"))
        new_block = at_margin and (
            (self._after_blank and not (self._in_list and is_item)) or (opens_fence and not self._in_list)
        )
        cut = start if new_block else 0
        if new_block or start == 0:
            self._in_list = is_item
        self._after_blank = False
        fence = _FENCE.match(line)
        if fence and not (fence[1][0] == "`" and "`" in fence[2]):
            self._fence = fence[1]
            return cut
        if not cut and at_margin and _HEADING.match(line) and not self._in_list:
            return stop
        return cut

    def _inside_fence(self, line: str, stop: int) -> int:
        """A line of code, or the end of the fence; a fence at the margin is a block of its own."""
        bare = line.strip().lstrip("> ")
        if not bare or len(bare) < len(self._fence) or bare.strip(self._fence[0]):
            return 0
        self._fence = ""
        return 0 if self._in_list or line[0].isspace() or line[0] == ">" else stop


def split_blocks(text: str, at_least: int = 1) -> list[str]:
    """Cut a whole text into pieces of whole blocks; joined they are the text again.

    Args:
        text: Markdown.
        at_least: characters that a piece has before the next one is begun.
    """
    splitter = BlockSplitter()
    pieces: list[str] = []
    waiting: list[str] = []
    n_waiting = 0
    for block in [*splitter.feed(text), splitter.open]:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= at_least:
            pieces.append("".join(waiting))
            waiting, n_waiting = [], 0
    if n_waiting:
        pieces.append("".join(waiting))
    return pieces
