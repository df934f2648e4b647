"""Words of a prompt that the server's model reads as control tokens.

A model here is shown text literally; no server keeps that. Where the server tokenizes, it is asked about each
word that looks like a control token; elsewhere the usual ones are named. Knows how such words look.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

from vlm_magic.errors import VLMError
from vlm_magic.messages import Text, Turn
from vlm_magic.remote.probe import Found
from vlm_magic.remote.transport.wire import Wire

__all__ = ["control_word_notes"]

_LOOKS_SO = re.compile(r"<[|a-zA-Z/_][^<>\s]{0,40}>|\[/?[A-Z_]{2,20}\]")
_USUAL = re.compile(
    r"<\|[a-z_0-9]+\|>|</?s>|<image>|<image_soft_token>|<end_of_utterance>|<(start|end)_of_turn>|<bos>|<eos>"
    r"|</?think>|\[/?(INST|IMG|SYSTEM_PROMPT)\]"
)
_MOST = 20  # words that a server is asked about, for one question


def control_word_notes(
    wire: Wire, found: Found, turns: Sequence[Turn], known: dict[str, bool]
) -> tuple[str, ...]:
    """A warning for words of the turns that become control tokens; () without any.

    Args:
        wire: the server.
        found: what it is.
        turns: the prompt.
        known: words that were looked up before; new ones are added.
    """
    texts = [part.text for turn in turns for part in turn.parts if isinstance(part, Text)]
    looking_so = list(dict.fromkeys(word for text in texts for word in _LOOKS_SO.findall(text)))[:_MOST]
    for word in looking_so:
        if word not in known:
            known[word] = _is_control(wire, found.model, found.dialect.kind, word)
    control = [word for word in looking_so if known[word]]
    if not control:
        return ()
    words = ", ".join(repr(word) for word in control[:3])
    return (
        f"{words} in the text {'is a control token' if len(control) == 1 else 'are control tokens'} there",
    )


def _is_control(wire: Wire, model: str, kind: str, word: str) -> bool:
    with contextlib.suppress(VLMError, KeyError, TypeError):
        path = f"{wire.address.root}/tokenize"
        if kind == "vllm":
            body = {"model": model, "prompt": word, "add_special_tokens": False}
            return int(wire.post(path, body)["count"]) == 1
        if kind == "llamacpp":
            ways = [{"content": word, "parse_special": special} for special in (True, False)]
            special, plain = (wire.post(path, body)["tokens"] for body in ways)
            return bool(special != plain)
    return bool(_USUAL.fullmatch(word))
