"""One streamed answer: events become pieces of text, and at the end a reply with the server's own figures.

What says that an answer is whole is its finish reason, not the end of the stream. Stop strings that the
server was not told are cut off here, and white space that runs for ever. Knows events of the chat API.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vlm_magic.errors import EngineGoneError, GenerationError
from vlm_magic.messages import FinishReason, Likely, Reply, SaidToken, Settings
from vlm_magic.remote.forms import is_whole, unwrapped
from vlm_magic.remote.transport.address import Address
from vlm_magic.remote.transport.complaints import complaint_in_stream
from vlm_magic.remote.transport.wire import CutOff, Line

__all__ = ["Answer", "cut_short", "is_other_model", "parted", "read_answer"]

_FASTEST = 5000  # tokens/s; above it, pieces arrived together
_MOST_BLANKS = 64  # in a row, of an answer that has a form: it would never end


class Answer:
    """What has come of an answer so far.

    Args:
        settings: how it was asked.
        on_text: gets words, thought, and the number of pieces so far.
        is_wrapped: whether it comes inside an object; its words are then known at its end.
        begun: what was said before, and is gone on with.
    """

    def __init__(
        self,
        settings: Settings,
        on_text: Callable[[str, str, int], None],
        *,
        is_wrapped: bool = False,
        begun: str = "",
    ) -> None:
        self._settings = settings
        self._is_wrapped = is_wrapped
        self._on_text = on_text
        said, self._held = parted(begun, settings.stop)  # what is held back may begin a stop string
        self._parts = [said] if begun else []
        self._thinking: list[str] = []
        self._began = time.perf_counter()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._usage: Mapping[str, Any] = {}
        self._own_speed = 0.0  # tokens/s, as the server says
        self._n_events = 0
        self.log_probabilities: list[float] = []
        self._top: list[SaidToken] = []
        self.finish: str | None = None
        self.is_cut = False  # on this side: a stop string, or nothing but white space
        self.model = ""

    @property
    def text(self) -> str:
        """The words so far, without what is held back."""
        return "".join(self._parts)

    @property
    def is_begun(self) -> bool:
        """Whether any words or thoughts have come."""
        return self._n_events > 0

    def take(self, event: Mapping[str, Any]) -> None:
        """One event of the stream."""
        self.model = str(event.get("model") or self.model)
        timings = event.get("timings")  # of llama.cpp
        if isinstance(timings, Mapping):
            self._own_speed = float(timings.get("predicted_per_second") or 0.0)
        if isinstance(event.get("usage"), Mapping):
            self._usage = event["usage"]
        for choice in event.get("choices") or ():
            if choice.get("index") in (None, 0):
                self._take_choice(choice)

    def end(self) -> None:
        """Nothing more comes: what was held back was no stop string."""
        if self._held and not self.is_cut:
            self._say(self._held)
        self._held = ""
        if self._is_wrapped and self._parts:
            self._is_wrapped = False
            whole, self._parts = unwrapped(self.text), []
            self._say(whole)

    def reply(self, reason: FinishReason, *, model: str, notes: tuple[str, ...]) -> Reply:
        """The answer with its figures; those of the server where it gives them."""
        n_new = int(self._usage.get("completion_tokens") or self._n_events)
        details = self._usage.get("prompt_tokens_details") or {}
        pictures = (self._usage.get("multimodal_tokens") or details.get("multimodal_tokens") or {}).get(
            "image"
        )
        first_s = self._first_s if self._first_s is not None else self._now
        decode_s = self._last_s - first_s
        is_burst = decode_s < n_new / _FASTEST  # it came in one piece: when it was made nobody saw
        return Reply(
            self.text,
            finish_reason=reason,
            n_prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            n_picture_tokens=int(pictures or 0),
            n_reused_tokens=int(details.get("cached_tokens") or 0),
            n_new_tokens=n_new,
            ttft_s=first_s,
            tokens_per_s=self._own_speed or (0.0 if n_new < 2 or is_burst else (n_new - 1) / decode_s),
            total_s=self._now,
            model=model,
            notes=notes,
            log_probabilities=tuple(self.log_probabilities) if self._settings.log_probabilities else (),
            top_log_probabilities=self._told_tokens(reason) if self._settings.top_log_probabilities else (),
            thinking="".join(self._thinking),
        )

    def _told_tokens(self, reason: FinishReason) -> tuple[SaidToken, ...]:
        """The tokens; the last one ends the answer where the text is whole without it."""
        *before, last = self._top or [SaidToken("", -1, 0.0)]
        is_whole_before = "".join(token.text for token in before).strip() == self.text.strip()
        if reason != "stop" or not before or not is_whole_before:
            return tuple(self._top)
        return (*before, replace(last, text="", is_end=True))

    @property
    def _now(self) -> float:
        return time.perf_counter() - self._began

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta") or choice.get("message") or {}
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            self.log_probabilities.append(float(entry["logprob"]))
            self._top.append(_said_token(entry, self._settings.top_log_probabilities))
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        words = delta.get("content") or ""
        if thought or words:
            self._n_events += 1
            self._last_s = self._now
            if self._first_s is None:
                self._first_s = self._last_s
        if thought:
            self._thinking.append(thought)
            self._on_text("", thought, self._n_events)
        if words and not self.is_cut:
            self._take_words(words if self._parts or self._held else words.lstrip(" "))

    def _take_words(self, words: str) -> None:
        """Say what cannot be part of a stop string; the template's own leading space is gone already."""
        self._held += words
        stops = self._settings.stop
        found = [at for stop in stops if (at := self._held.find(stop)) >= 0]
        if found:
            self._say(self._held[: min(found)])
            self.is_cut = True
            return
        said, self._held = parted(self._held, stops)
        self._say(said)
        if self._settings.grammar and len(self.text) - len(self.text.rstrip()) > _MOST_BLANKS:
            self.is_cut = True

    def _say(self, words: str) -> None:
        if words:
            self._parts.append(words)
            if not self._is_wrapped:
                self._on_text(words, "", self._n_events)


def _said_token(entry: Mapping[str, Any], n_likeliest: int) -> SaidToken:
    """A token as a server tells of it: no entropy, as only the top of the distribution is known."""
    likeliest = [
        Likely(str(other.get("token", "")), float(other["logprob"]), int(other.get("id", -1)))
        for other in entry.get("top_logprobs") or ()
    ]
    text, token_id = str(entry.get("token", "")), int(entry.get("id", -1))
    return SaidToken(text, token_id, float(entry["logprob"]), tuple(likeliest[:n_likeliest]))


def parted(text: str, stops: Iterable[str]) -> tuple[str, str]:
    """(what can be said, what may begin one of the stop strings and is held back)."""
    at = len(text) - max((_n_begun(text, stop) for stop in stops), default=0)
    return text[:at], text[at:]


def _n_begun(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` may begin ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def read_answer(
    events: Iterable[str], answer: Answer, line: Line, address: Address, settings: Settings
) -> FinishReason:
    """Read a stream to its end, whichever it is; how the answer ended.

    Args:
        events: the data of each event.
        answer: takes them.
        line: cut when nothing more is wanted.
        address: whose stream it is, for errors.
        settings: how it was asked.

    Raises:
        GenerationError: the server said that it failed, or the stream ended before the answer did; carries
            ``text``, what was said until then.
    """
    try:
        for data in events:
            if data.strip() == "[DONE]":
                line.expect_the_end()
                with suppress(EngineGoneError, CutOff):
                    for _ in events:  # so that the connection can be used again
                        pass
                break
            try:
                event = json.loads(data)
            except ValueError:
                continue  # no event of ours
            if isinstance(event, Mapping) and event.get("error"):
                raise complaint_in_stream(address, event["error"])
            if isinstance(event, Mapping):
                answer.take(event)
            if answer.is_cut:
                line.cut("stop")
                break
    except CutOff:
        answer.end()
        return line.cut_by if line.cut_by in ("interrupted", "time") else "stop"
    answer.end()
    if answer.is_cut:
        is_end = not settings.grammar or is_whole(settings.grammar, answer.text)
        return "stop" if is_end else "length"  # white space ran for ever, within a value or behind it
    if line.cut_by in ("interrupted", "time"):
        return line.cut_by
    if answer.finish is None:
        raise cut_short(address, answer.text)
    return "length" if answer.finish == "length" else "stop"


def cut_short(address: Address, text: str) -> GenerationError:
    """The error for a stream that ended before its answer did."""
    return GenerationError(
        f"the stream of {address.host} ended before the answer did",
        have=f"{len(text)} characters of it had come",
        hint="ask again; the conversation is as before",
        text=text,
    )


def is_other_model(answered: str, asked: str) -> bool:
    """Whether another model answered: a dated or longer name of the same one is not another."""
    one, other = (name.rstrip("/").rpartition("/")[2].partition("@")[0].lower() for name in (answered, asked))
    return not (one.startswith(other) or other.startswith(one))
