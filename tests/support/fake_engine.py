"""A scripted engine that passes the same contract as the real one: speed and faults are the point here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from vlm_magic.messages import Bill, Chunk, Picture, Progress, Reply, Settings, Text, Turn, Turns, turns_now
from vlm_magic.models.generation import Generation, WorkQueue


class FakeEngine:
    """Answers with queued replies, word by word, and remembers what it was shown.

    Args:
        *replies: what to say, in order; an exception is raised in the worker. When the list is
            used up it echoes the last text it was shown.
        seconds_per_token: pause before each word.
        name: name of the "model".
    """

    def __init__(
        self, *replies: str | BaseException, seconds_per_token: float = 0.0, name: str = "fake"
    ) -> None:
        self.name = name
        self.replies: list[str | BaseException] = list(replies)
        self.seconds_per_token = seconds_per_token
        self.history: list[tuple[tuple[Turn, ...], Settings]] = []
        self.started = threading.Event()
        self._queue = WorkQueue(name)

    def enqueue(self, *replies: str | BaseException) -> None:
        """Script further replies."""
        self.replies.extend(replies)

    def start(
        self,
        turns: Turns,
        settings: Settings,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue the next scripted answer."""

        def work(generation: Generation) -> Reply:
            shown = turns_now(turns)
            self.history.append((shown, settings))
            self.started.set()
            scripted = self.replies.pop(0) if self.replies else shown[-1].text
            if isinstance(scripted, BaseException):
                raise scripted
            began = time.perf_counter()
            words = scripted.split(" ")
            said, reason = "", "stop"
            for n, word in enumerate(words, start=1):
                if self.seconds_per_token:
                    time.sleep(self.seconds_per_token)
                if generation.is_stopped:
                    reason = "interrupted"
                    break
                if n > settings.max_tokens:
                    reason = "length"
                    break
                piece = word if n == 1 else f" {word}"
                said += piece
                generation.push(Chunk(piece, n))
            n_pictures = sum(len(turn.pictures) for turn in shown)
            seconds = time.perf_counter() - began
            return Reply(
                said,
                finish_reason=reason,  # type: ignore[arg-type]
                n_prompt_tokens=sum(len(t.text.split()) for t in shown) + n_pictures,
                n_picture_tokens=n_pictures,
                n_new_tokens=len(said.split()),
                total_s=seconds,
                tokens_per_s=len(words) / seconds if seconds else 0.0,
                model=self.name,
            )

        return self._queue.submit(work, on_end=on_end, on_progress=on_progress)

    def bill(self, turns: Sequence[Turn], settings: Settings) -> Bill:
        """One token a word and a picture."""
        pictures = [part for turn in turns for part in turn.parts if isinstance(part, Picture)]
        texts = [part.text for turn in turns for part in turn.parts if isinstance(part, Text)]
        n_words = sum(len(text.split()) for text in texts)
        return Bill(n_words + len(pictures), (1,) * len(pictures), 4096, "\n".join(texts))

    def close(self) -> int:
        """Nothing to give back."""
        self._queue.close()
        return 0
