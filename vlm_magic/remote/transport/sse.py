"""Server-sent events: bytes as they come, cut anywhere, become the data of one event after another.

Comments and fields other than ``data`` are passed over. Knows nothing of HTTP or JSON.
Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

__all__ = ["events_of"]


def events_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each event; one that the end of the stream cuts off is dropped, as the standard says.

    Args:
        chunks: the bytes of the body, in pieces of any size: a character or a line end may be cut in two.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pending, data = "", list[str]()
    for chunk in chunks:
        pending += decoder.decode(chunk)
        *lines, pending = _split(pending)
        for line in lines:
            if line:
                name, _, value = line.partition(":")
                if name == "data":
                    data.append(value.removeprefix(" "))
            elif data:
                yield "\n".join(data)
                data = []


def _split(text: str) -> list[str]:
    r"""Lines that ended in ``\n``, ``\r\n`` or ``\r``, and what has no end yet.

    A ``\r`` at the end waits: a ``\n`` may follow.
    """
    held = "\r" if text.endswith("\r") else ""
    body = text.removesuffix("\r") if held else text
    lines = body.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines[-1] += held
    return lines
