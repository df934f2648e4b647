"""Stops, interrupts and time limits at random times, each followed by the same question: is the answer right?

    python tests/support/stop_campaign.py --n 500 --seed 1

A trial takes a model (the packaged one, or a tiny build of some kind), a way of asking (an answer, choices, a
map, a comparison, a load), cold or warm stores, and cuts the work short at a random moment of it. Then the
same question is asked again, and the answer is compared with that of a model that was never stopped. What a
stop could leave behind on the model is looked at as well: hooks, its generation's configuration, a second
worker, a queue that is not empty.

Interrupts are real ones: SIGINT, once, twice or three times in a row, to the process whose main thread waits.
Neighbour: `test_stop_campaign` runs a short one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

import tiny_models
from PIL import Image, ImageDraw

import vlm_magic
from vlm_magic.errors import GenerationError, VLMError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine

__all__ = ["BUILDS", "Trial", "run_campaign"]

# Of each kind: features reused, sliding window, M-RoPE, pictures beside the text, cross-attention,
# encoder-decoder, recurrent. (Builds that a checkout lacks are left out.)
BUILDS = (
    "starter",
    "llava",
    "gemma3",
    "qwen2-vl",
    "smolvlm",
    "idefics-instruct",
    "mllama",
    "instructblip-t5",
    "qwen3.5",
    "lfm2-vl",
)
WAYS = ("chat", "choices", "score", "batch", "map", "compare", "load")
CUTS = ("stop", "time", "interrupt", "double", "triple")
PRESSES = {"interrupt": 1, "double": 2, "triple": 3}
PAUSE_S = (0.0005, 0.03)  # between two presses of an impatient person, and a test's
CHOICES = ("a red circle", "blue", "two squares and a star", "none of these")
SHORT = Settings(max_tokens=12)


@dataclass(frozen=True)
class Trial:
    """What was done and how it ended.

    Attributes:
        build: the model.
        way: what was asked of it.
        cut: how it was cut short.
        is_cold: whether its stores were empty.
        delay_s: when the cut came, seconds after the work began.
        was_cut: whether it came before the end.
        problem: "" where the answer after it is right and nothing was left behind.
    """

    build: str
    way: str
    cut: str
    is_cold: bool
    delay_s: float
    was_cut: bool = False
    problem: str = ""

    def __str__(self) -> str:
        warmth = "cold" if self.is_cold else "warm"
        return f"{self.build} {self.way} {self.cut} {warmth} at {self.delay_s * 1000:.1f} ms: {self.problem}"


def picture(n: int) -> Picture:
    """A small picture that no other number has."""
    image = Image.new("RGB", (64, 48), (40 * n % 256, 90, 255 - 30 * n % 256))
    ImageDraw.Draw(image).ellipse((5 + n, 5, 35 + n, 35), fill=(255, 25 * n % 256, 0))
    return Picture(None, f"picture {n}", image, f"campaign {n}")


def question(build: str, n: int) -> tuple[Turn, ...]:
    """The ``n``-th question for a build: one picture or three, a short prompt or a long one."""
    one_only = (tiny_models.TINY[build].max_pictures or 9) == 1 if build in tiny_models.TINY else False
    if one_only:
        return (Turn("user", (picture(n), Text(f"Question {n}: what is it?"))),)
    words = Text(
        f"Question {n}. " + "Look at all of it, from left to right and from top to bottom. " * (n % 3)
    )
    many = tuple(picture(n + k) for k in range(1 + 2 * (n % 2)))
    before = (Turn("user", (picture(0), Text("What is this?"))), Turn("assistant", (Text("A circle."),)))
    return (*(before if n % 2 else ()), Turn("user", (*many, words)))


class Cutter:
    """Cuts what the main thread waits for: presses Ctrl-C, or calls a stop, after a while."""

    def __init__(self) -> None:
        self._is_armed = False
        self.n_presses = 0
        self._before = signal.signal(signal.SIGINT, self._press)

    def close(self) -> None:
        """Give the signal back."""
        signal.signal(signal.SIGINT, self._before)

    def _press(self, *_: object) -> None:
        self.n_presses += 1
        if self._is_armed:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def pressing(self, n: int, delay_s: float, pauses: Sequence[float]) -> Iterator[None]:
        """Press ``n`` times while the block runs, the first time after ``delay_s``."""
        is_over = threading.Event()

        def press() -> None:
            for pause in (delay_s, *pauses[: n - 1]):
                if is_over.wait(pause):
                    return
                os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=press, name="presses")
        hook, sys.unraisablehook = (
            sys.unraisablehook,
            lambda _: None,
        )  # a press within a callback of Python's own
        try:
            self._is_armed = True
            thread.start()
            yield
        finally:
            self._is_armed = False
            is_over.set()
            thread.join()
            sys.unraisablehook = hook


class Campaign:
    """Trials of one seed, and the models that they need."""

    def __init__(
        self, builds: Sequence[str], seed: int, *, ways: Sequence[str] = WAYS, n_questions: int = 5
    ) -> None:
        self.rng = random.Random(seed)
        self.builds = [b for b in builds if b == "starter" or b in tiny_models.TINY]
        self.ways = ways
        self.n_questions = n_questions
        self.cutter = Cutter()
        self._engines: dict[str, LocalEngine] = {}
        self._right: dict[tuple[str, str, int], object] = {}
        self._times: dict[tuple[str, str, int], float] = {}

    def close(self) -> None:
        """Unload all, and give the signal back."""
        self.cutter.close()
        for build in list(self._engines):
            vlm_magic.workspace.current().models.unload(build)  # type: ignore[attr-defined]
        self._engines.clear()

    def engine(self, build: str) -> LocalEngine:
        """The engine that is stopped; resident under its build's name."""
        if build not in self._engines:
            self._engines[build] = vlm_magic.load(_source(build), name=build)
        return self._engines[build]

    def ask(self, engine: LocalEngine, build: str, way: str, n: int, settings: Settings = SHORT) -> object:
        """Ask in one way, to the end: something that is equal for equal answers."""
        turns = question(build, n)
        if way == "choices":
            reply = engine.generate(turns, replace(settings, choices=CHOICES))
            return tuple((c.text, round(c.log_probability, 2)) for c in reply.choices)
        if way == "score":
            return tuple(round(s.log_probability, 2) for s in engine.score(turns, CHOICES, settings))
        if way == "batch":
            several = [question(build, n), question(build, n + 2), question(build, n)]
            generation = engine.start_batch(several, settings)
            rows = {c.row: c.reply.token_ids for c in generation if c.row >= 0 and c.reply is not None}
            return tuple(rows.get(k) for k in range(3))
        if way == "map":
            pictures = [picture(n + k).rgb for k in range(4)]
            how = {name: getattr(settings, name) for name in ("max_tokens", "time_limit_s")}
            frame = vlm_magic.map_pictures(
                engine, f"Picture of {n}: {{picture}} What?", pictures, resume=False, progress=False, **how
            )
            return tuple(frame["answer"])
        if way == "compare":
            how = {name: getattr(settings, name) for name in ("max_tokens", "time_limit_s")}
            compared = vlm_magic.compare(*turns[-1].parts, model=[build], beams=[1, 2], **how)
            return tuple(row.reply.text if row.reply else str(row.error) for row in compared)
        return engine.generate(turns, settings).token_ids

    def right(self, build: str, way: str, n: int) -> object:
        """The answer of a model that was never stopped, its stores empty."""
        key = (build, way, n)
        if key not in self._right:
            engine = self.engine(build)
            engine.reuse.clear()
            self.ask(engine, build, way, n)  # what is slow the first time
            engine.reuse.clear()
            began = time.perf_counter()
            self._right[key] = self.ask(engine, build, way, n)
            self._times[key] = time.perf_counter() - began
        return self._right[key]

    def trial(self) -> Trial:
        """One trial, as the dice want it."""
        rng = self.rng
        build, way, n = rng.choice(self.builds), rng.choice(self.ways), rng.randint(1, self.n_questions)
        cut, is_cold = rng.choice(CUTS), rng.random() < 0.6
        if way == "load":
            return self._load_trial(build, n, rng.choice(tuple(PRESSES)))
        if way in ("map", "compare") and cut == "stop":
            cut = "interrupt"  # neither has a stop of its own but the kernel's
        if way == "score" and cut == "time":
            cut = "stop"
        right = self.right(build, way, n)
        engine = self.engine(build)
        if is_cold:
            engine.reuse.clear()
        trial = Trial(build, way, cut, is_cold, rng.random() * 1.1 * self._times[build, way, n])
        return self._judged(trial, engine, n, right)

    def _judged(self, trial: Trial, engine: LocalEngine, n: int, right: object) -> Trial:
        before = _traces_of(engine)
        first: object = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                first = self._cut(trial, engine, n)
            except KeyboardInterrupt:
                first = KeyboardInterrupt
            except VLMError as error:
                if not (trial.way == "score" and isinstance(error, GenerationError)):  # it has no half answer
                    return replace(trial, problem=f"the cut work failed: {error}")
                first = error
            except BaseException as error:
                return replace(trial, problem=f"the cut work raised {type(error).__name__}")
            trial = replace(trial, was_cut=first != right)
            problems = []
            for again in (trial.way, "chat", trial.way):
                try:
                    said = self.ask(engine, trial.build, again, n)
                except Exception as error:
                    problems.append(f"{again} fails: {type(error).__name__}: {error}")
                    continue
                wanted = self._right[trial.build, again, n] if again == trial.way else None
                wanted = self._right.get((trial.build, again, n), wanted)
                if wanted is not None and said != wanted:
                    problems.append(f"{again} says {said} instead of {wanted}")
        after = _traces_of(engine)
        if after != before:
            problems.append(f"left behind: {after} instead of {before}")
        return replace(trial, problem="; ".join(problems))

    def _cut(self, trial: Trial, engine: LocalEngine, n: int) -> object:
        if trial.cut == "time":
            return self.ask(engine, trial.build, trial.way, n, replace(SHORT, time_limit_s=trial.delay_s))
        if trial.cut == "stop":
            return self._stopped(trial, engine, n)
        n_presses = PRESSES[trial.cut]
        pauses = [self.rng.uniform(*PAUSE_S) for _ in range(n_presses)]
        with self.cutter.pressing(n_presses, trial.delay_s, pauses):
            return self.ask(engine, trial.build, trial.way, n)

    def _stopped(self, trial: Trial, engine: LocalEngine, n: int) -> object:
        """The way's work with a stop from another thread: the panel's Stop."""
        started: list[Any] = []
        submit = engine._queue.submit
        engine._queue.submit = lambda *a, **k: started.append(submit(*a, **k)) or started[-1]  # type: ignore[method-assign,func-returns-value]
        timer = threading.Timer(trial.delay_s, lambda: [generation.stop() for generation in started])
        try:
            timer.start()
            return self.ask(engine, trial.build, trial.way, n)
        finally:
            del engine._queue.submit
            timer.cancel()
            timer.join()

    def _load_trial(self, build: str, n: int, cut: str) -> Trial:
        """Load once more beside the resident model, interrupted; then load and ask."""
        right = self.right(build, "chat", n)
        models = vlm_magic.workspace.current().models  # type: ignore[attr-defined]
        loaded = self.engine(build).loaded
        assert loaded is not None
        trial = Trial(build, "load", cut, True, self.rng.random() * 1.2 * max(loaded.load_s, 0.02))
        pauses = [self.rng.uniform(*PAUSE_S) for _ in range(3)]
        problems = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with self.cutter.pressing(PRESSES[cut], trial.delay_s, pauses):
                    vlm_magic.load(_source(build), name="guest")
            except KeyboardInterrupt:
                trial = replace(trial, was_cut=True)
            try:
                engine = vlm_magic.load(_source(build), name="guest")
                said = self.ask(engine, build, "chat", n)
                resident = self.ask(self.engine(build), build, "chat", n)
                problems = [f"says {a} instead of {right}" for a in (said, resident) if a != right]
            except Exception as error:
                problems.append(f"{type(error).__name__}: {error}")
            finally:
                if "guest" in models.engines:
                    models.unload("guest")
        return replace(trial, problem="; ".join(problems))


def _source(build: str) -> str:
    return build if build == "starter" else str(tiny_models.folder_of(build))


def _traces_of(engine: LocalEngine) -> tuple[object, ...]:
    """What a stop could leave behind: hooks, a configuration, workers, work that waits."""
    model = engine.model
    n_hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    deadline = time.monotonic() + 2
    while engine._queue._line.waiting and time.monotonic() < deadline:
        time.sleep(0.001)  # the worker takes itself off the list after it has told the end
    n_workers = sum(thread.name == f"vlm_magic {engine.name}" for thread in threading.enumerate())
    config = getattr(model, "generation_config", None)
    return n_hooks, id(config), n_workers, len(engine._queue._line.waiting)


def run_campaign(
    n: int,
    seed: int,
    *,
    builds: Sequence[str] = BUILDS,
    ways: Sequence[str] = WAYS,
    n_questions: int = 5,
    limit_s: float = float("inf"),
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """``n`` trials of one seed, or as many as there is time for."""
    began = time.monotonic()
    campaign = Campaign(builds, seed, ways=ways, n_questions=n_questions)
    trials: list[Trial] = []
    try:
        while len(trials) < n and time.monotonic() - began < limit_s:
            trials.append(campaign.trial())
            on_trial(trials[-1])
    finally:
        campaign.close()
    return trials


def main() -> None:
    """Run a campaign and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--builds", default=",".join(BUILDS))
    parser.add_argument("--ways", default=",".join(WAYS))
    asked = parser.parse_args()

    told: list[Trial] = []

    def tell(trial: Trial) -> None:
        told.append(trial)
        if trial.problem or len(told) % 50 == 0:
            print(len(told), trial.problem and trial, flush=True)

    began = time.perf_counter()
    trials = run_campaign(
        asked.n,
        asked.seed,
        builds=asked.builds.split(","),
        ways=asked.ways.split(","),
        limit_s=asked.minutes * 60,
        on_trial=tell,
    )
    took_s = time.perf_counter() - began
    for field in ("build", "way", "cut"):
        alls, wrong = (
            Counter(getattr(t, field) for t in trials if is_wrong in (None, bool(t.problem)))
            for is_wrong in (None, True)
        )
        print(", ".join(f"{name} {wrong[name]}/{count}" for name, count in sorted(alls.items())))
    n_cut = sum(trial.was_cut for trial in trials)
    n_wrong = sum(bool(trial.problem) for trial in trials)
    print(f"{n_wrong} wrong of {len(trials)}; {n_cut} were cut before their end; {took_s:.0f} s")


if __name__ == "__main__":
    main()
