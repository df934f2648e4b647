"""An engine whose model answers on one server, or on several that hold the same one.

Answers to cells wait in line, as with a model here; rows of a map run side by side (`start_beside`). A server
that dies is left out, and what it was asked goes to another. Neighbours: `wire` sends, `payload` writes,
`answer` reads, `probe` has found out what the server can do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from vlm_magic.choice_scores import HOW, compare, content_free
from vlm_magic.errors import EngineGoneError, ModelError
from vlm_magic.messages import (
    Ability,
    About,
    Bill,
    Chunk,
    FinishReason,
    Progress,
    Reply,
    Request,
    Score,
    Settings,
    Turn,
    Turns,
    check_abilities,
    turns_now,
)
from vlm_magic.messages import check_can_continue as check_engine_continues
from vlm_magic.remote.answer import Answer, cut_short, is_other_model, parted, read_answer
from vlm_magic.remote.continuing import begun_fields, begun_message, check_can_continue, joined, rest_of
from vlm_magic.remote.control_words import control_word_notes
from vlm_magic.remote.forms import WRAPPED, is_whole, is_wrapped
from vlm_magic.remote.payload import anew_fields, body_of, check_settings, messages_of
from vlm_magic.remote.pictures_sent import PictureEncoder
from vlm_magic.remote.probe import Found
from vlm_magic.remote.scoring import (
    count_by_asking,
    count_messages,
    score_by_grammar,
    score_by_prompt,
    without_end,
)
from vlm_magic.remote.transport.servers import Servers
from vlm_magic.remote.transport.sse import events_of
from vlm_magic.remote.transport.wire import CutOff, Line, Wire
from vlm_magic.work_queue import Generation, WorkQueue

__all__ = ["RemoteEngine"]

_ABLE = {"scores": "scores", "forms": "constrains", "counts": "counts", "continues": "continues"}


class RemoteEngine:
    """A model behind one or more servers.

    Args:
        wires: to the servers.
        found: what was found out about the first; the others hold the same model.
        name: how people call it.
        at_once: rows of a map that are under way at a time.
        picture_px: longer pictures are scaled down to this longest side.
        connect: connects to the same model again, from another process too.
    """

    def __init__(
        self,
        wires: Sequence[Wire],
        found: Found,
        *,
        name: str,
        at_once: int,
        picture_px: int,
        connect: Callable[[], RemoteEngine] | None = None,
    ) -> None:
        self.name = name
        self.connect = connect
        self.at_once = at_once
        self._found = found
        self._servers = Servers(wires)
        self._encoder = PictureEncoder(picture_px)
        self._queue = WorkQueue(name)
        self._beside: set[Generation] = set()
        self._is_closed = False
        self._n_from_nothing = 0
        self._last: Reply | None = None
        self._is_control: dict[str, bool] = {}  # words that were looked up

    def __repr__(self) -> str:
        return f"<RemoteEngine {self.name!r}: {self._found.model} at {self.host}>"

    @property
    def abilities(self) -> frozenset[Ability]:
        """What its server was found to be able to do; nothing once it was closed."""
        if self._is_closed:
            return frozenset()
        able = self._found.abilities
        found = {"parallel", "elsewhere"} | {ours for name, ours in _ABLE.items() if able.get(name)}
        found |= {"remembers"} if self._found.dialect.anew_by else set()
        return frozenset(found)  # type: ignore[arg-type]

    @property
    def host(self) -> str:
        """The servers, as people know them."""
        return self._servers.hosts

    @property
    def is_closed(self) -> bool:
        """Whether it was disconnected."""
        return self._is_closed

    @property
    def identity(self) -> dict[str, str]:
        """The model and the kind of server, not where it is: the same model elsewhere answers the same."""
        return {"name": self._own_name, "server": self._found.dialect.kind}

    @property
    def _own_name(self) -> str:
        """The model's name there; of a folder on that machine, its last part."""
        name = self._found.model.rstrip("/")
        return name.rpartition("/")[2] if name.startswith(("/", ".", "~")) else name

    @property
    def about(self) -> About:
        """Which model, on what kind of server, where."""
        found = self._found
        details = [f"context {found.context_tokens} tokens"] if found.context_tokens else []
        figures = [f"last {self._last.tokens_per_s:.0f} tokens/s"] if self._last else []
        figures += [f"gone: {self._servers.gone}"] if self._servers.gone else []
        line = f"{self._own_name} · {found.dialect.kind} · {self.host}"
        return About(line, self._own_name, tuple(details), found.remarks, tuple(figures))

    def check(self, settings: Settings) -> None:
        """Raise for what the server does not take, before anything is sent.

        Raises:
            ModelError: it was disconnected. OptionError: a setting that it lacks.
        """
        if self._is_closed:
            raise ModelError(f"{self.name} was disconnected", hint="%vlm_load URL")
        check_abilities(self, settings)
        check_settings(self.name, settings, self._found.dialect, self._found.abilities)

    def request_for(self, turns: Sequence[Turn], settings: Settings | None = None) -> Request:
        """What the server would be sent for this question."""
        how = settings or Settings()
        self.check(how)
        address = self._servers.first.address
        found, messages = self._found, messages_of(turns, how, self._encoder)
        body = body_of(found.model, messages, how, found.dialect, found.opening)
        inside = WRAPPED if is_wrapped(how.grammar, found.dialect) else ""
        return Request(f"{address.base}/chat/completions", address.key_env, body, inside)

    def start(
        self,
        turns: Turns,
        settings: Settings | None = None,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue an answer and return at once; see `vlm_magic.messages.Engine`."""
        how = settings or Settings()
        self.check(how)
        return self._queue.submit(
            lambda generation: self._answer(generation, turns_now(turns), how),
            on_end=on_end,
            on_progress=on_progress,
        )

    def continue_from(
        self,
        reply: Reply,
        turns: Turns,
        settings: Settings | None = None,
        *,
        on_end: Callable[[Reply], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Generation:
        """Queue the rest of an answer that was cut off; see `vlm_magic.messages.Continues`.

        Raises:
            OptionError: the server answers from the beginning, or it is no answer in plain words.
        """
        how = settings or Settings()
        self.check(how)
        check_engine_continues(self)
        check_can_continue(self.name, reply, how)
        return self._queue.submit(
            lambda generation: self._answer(generation, turns_now(turns), how, before=reply),
            on_end=on_end,
            on_progress=on_progress,
        )

    def start_beside(self, turns: Sequence[Turn], settings: Settings | None = None) -> Generation:
        """Answer beside whatever else is under way; the caller keeps to `at_once`."""
        how = settings or Settings()
        self.check(how)
        generation = Generation(lambda own: self._answer(own, tuple(turns), how, is_shown=False))

        def run() -> None:
            try:
                generation.run()
            finally:
                self._beside.discard(generation)

        self._beside.add(generation)
        threading.Thread(target=run, name=f"vlm_magic {self.name}", daemon=True).start()
        return generation

    def score(
        self,
        turns: Turns,
        choices: Sequence[str],
        settings: Settings | None = None,
        *,
        with_end: bool = True,
    ) -> tuple[Score, ...]:
        """How likely each choice is as the next reply, for the prompt that the server makes.

        Raises:
            OptionError: the server cannot tell.
        """
        how = settings or Settings()
        self.check(how.updated({"choices": tuple(choices)}) if len(choices) > 1 else how)
        scores = self._servers.do(lambda wire: self._scores(wire, turns_now(turns), choices, how, Line())[0])
        return scores if with_end else without_end(scores)

    def is_whole(self, reply: Reply, settings: Settings) -> bool:
        """Whether a reply that was cut off had said everything that its form wants."""
        return not settings.grammar or is_whole(settings.grammar, str(reply.text))

    @contextmanager
    def from_nothing(self) -> Iterator[None]:
        """Answers within are computed from the beginning by the server, whatever it keeps."""
        self._n_from_nothing += 1
        try:
            yield
        finally:
            self._n_from_nothing -= 1

    def forget(self) -> int:
        """What a server keeps is its own: nothing is emptied here."""
        return 0

    def bill(self, turns: Sequence[Turn], settings: Settings | None = None) -> Bill:
        """What the prompt costs, where the server counts; the prompt after its template nobody sees."""
        how = settings or Settings()
        self.check(how)
        n_tokens = self._servers.do(lambda wire: self._count(wire, turns, how))
        said = "\n".join(f"{turn.role}: {turn.text}" for turn in turns)
        notes = self._picture_notes(turns)
        return Bill(n_tokens, (), self._found.context_tokens, said, notes)

    def close(self) -> int:
        """Stop what runs and close the connections; there is no memory to give back."""
        if not self._is_closed:
            self._is_closed = True
            for generation in list(self._beside):
                generation.stop()
            self._queue.close()
            self._servers.close()
        return 0

    # One answer; runs in a worker

    def _answer(
        self,
        generation: Generation,
        turns: tuple[Turn, ...],
        settings: Settings,
        *,
        is_shown: bool = True,
        before: Reply | None = None,
    ) -> Reply:
        line = Line()
        before = (
            before if before and before.text else None
        )  # nothing was said: there is nothing to go on with
        if before:
            generation.push(Chunk(parted(before.text, settings.stop)[0], before.n_new_tokens))
        generation.call_at_stop(lambda: line.cut("interrupted"))
        generation.report(Progress("pictures"))
        with line.ends_after(settings.time_limit_s):
            try:
                reply = self._servers.do(
                    lambda wire: self._asked(
                        wire, generation, turns, settings, line, is_shown=is_shown, before=before
                    )
                )
            except CutOff:  # before the first word
                reason: FinishReason = "time" if line.cut_by == "time" else "interrupted"
                reply = before or Reply("", finish_reason=reason, model=self.name)
        self._last = reply
        return reply

    def _asked(
        self,
        wire: Wire,
        generation: Generation,
        turns: tuple[Turn, ...],
        settings: Settings,
        line: Line,
        *,
        is_shown: bool,
        before: Reply | None,
    ) -> Reply:
        notes = (
            f"answered at {wire.address.host}",
            *self._picture_notes(turns),
            *control_word_notes(wire, self._found, turns, self._is_control),
        )
        if settings.choices:
            return self._chosen(wire, generation, turns, settings, line, notes)

        n_before = before.n_new_tokens if before else 0

        def told(words: str, thought: str, n: int) -> None:
            if is_shown:
                generation.push(Chunk(words, n_before + n, thinking=thought))

        generation.report(Progress("prefill"))
        answer, body = self._question(turns, settings, told, before)
        with closing(wire.stream("/chat/completions", body, line)) as stream:
            try:
                reason = read_answer(events_of(stream), answer, line, wire.address, settings)
            except EngineGoneError as error:
                if answer.is_begun and is_shown:  # nobody is shown the same words twice
                    raise cut_short(wire.address, answer.text) from error
                raise
        if answer.model and is_other_model(answer.model, self._found.model):
            notes = (*notes, f"the server says that {answer.model} answered")
        reply = answer.reply(reason, model=self.name, notes=notes)
        return joined(before, reply) if before else reply

    def _question(
        self,
        turns: tuple[Turn, ...],
        settings: Settings,
        told: Callable[[str, str, int], None],
        before: Reply | None,
    ) -> tuple[Answer, dict[str, Any]]:
        """What takes the answer, and what is sent for it."""
        dialect, messages = self._found.dialect, messages_of(turns, settings, self._encoder)
        begun, fields = "", anew_fields(dialect) if self._n_from_nothing else {}
        if before:
            begun, settings = before.text, rest_of(settings, before)
            messages.append(begun_message(begun, dialect, self._found.opening))
            fields |= begun_fields(dialect)
        body = body_of(self._found.model, messages, settings, dialect, self._found.opening)
        answer = Answer(settings, told, is_wrapped=is_wrapped(settings.grammar, dialect), begun=begun)
        return answer, body | fields

    def _chosen(
        self,
        wire: Wire,
        generation: Generation,
        turns: tuple[Turn, ...],
        settings: Settings,
        line: Line,
        notes: tuple[str, ...],
    ) -> Reply:
        answer = Answer(settings, lambda *_: None)
        scores, n_prompt = self._scores(wire, turns, settings.choices, settings, line)
        priors: tuple[Score, ...] = ()
        if settings.normalize == "prior":
            priors, _ = self._scores(wire, content_free(turns), settings.choices, settings, line)
        choices = compare(scores, settings, priors)
        best = max(choices, key=lambda choice: choice.score)
        generation.push(Chunk(best.text))
        said = (*notes, *filter(None, [HOW[settings.normalize]]))
        blank = answer.reply("stop", model=self.name, notes=said)
        return replace(blank, text=best.text, n_prompt_tokens=n_prompt, ttft_s=blank.total_s, choices=choices)

    def _scores(
        self, wire: Wire, turns: Sequence[Turn], choices: Sequence[str], settings: Settings, line: Line
    ) -> tuple[tuple[Score, ...], int]:
        messages = messages_of(turns, settings, self._encoder)
        if self._found.dialect.scores == "prompt_logprobs":
            return score_by_prompt(wire, self._found.model, messages, choices, line)
        opening = self._found.opening
        return score_by_grammar(wire, self._found.model, messages, choices, line, opening=opening)

    def _count(self, wire: Wire, turns: Sequence[Turn], settings: Settings) -> int | None:
        if not self._found.abilities.get("counts"):
            return None
        messages = messages_of(turns, settings, self._encoder)
        if self._found.dialect.counts == "tokenize":
            return count_messages(wire, self._found.model, messages, Line())
        return count_by_asking(wire, self._found.model, messages, self._found.dialect)

    def _picture_notes(self, turns: Sequence[Turn]) -> tuple[str, ...]:
        """What was done to the pictures of the question on their way."""
        notes = [self._encoder.encode(picture).note for picture in turns[-1].pictures]
        return tuple(dict.fromkeys(filter(None, notes)))
