"""A stop, an interrupt or a time limit at any moment never changes what is answered after it.

First the place where it once did, layer by layer: the first prefill. Then a short campaign of cuts at random
moments; `python tests/support/stop_campaign.py` runs a long one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import stop_campaign
from stop_campaign import CHOICES, SHORT, question
from tiny_models import folder_of

from vlm_magic.errors import GenerationError, ModelError, VLMError
from vlm_magic.messages import Reply, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding import stopping
from vlm_magic.models.decoding.stopping import hooks_on_layers
from vlm_magic.models.engine import LocalEngine

BUILDS = ("starter", "llava", "gemma3", "qwen2-vl", "idefics-instruct", "mllama", "instructblip-t5")


@pytest.fixture(scope="module", params=BUILDS)
def build(request: pytest.FixtureRequest) -> Iterator[tuple[str, LocalEngine]]:
    name = str(request.param)
    engine = LocalEngine(load_model(name if name == "starter" else folder_of(name)))
    yield name, engine
    engine.close()


def text_layers(engine: LocalEngine) -> list[Any]:
    """The layers of the language model, a decoder's where it has one of its own."""
    named = [
        (name, list(module))
        for name, module in engine.model.named_modules()
        if name.endswith(("layers", "block"))
        and not any(w in name for w in ("vision", "perceiver", "qformer"))
    ]
    return named[-1][1]


@contextmanager
def when_reached(layer: Any, act: Any) -> Iterator[None]:
    """Do something once, when the model reaches a layer, before anybody looks whether to stop there."""
    done = threading.Event()

    def once(*_: Any) -> None:
        if not done.is_set():
            done.set()
            act()

    handle = layer.register_forward_pre_hook(once)
    try:
        yield
    finally:
        handle.remove()
    assert done.is_set(), "the layer was never reached"


def ask(engine: LocalEngine, way: str, turns: tuple[Turn, ...]) -> Any:
    """What is equal for equal answers."""
    if way == "choices":
        reply = engine.generate(turns, replace(SHORT, choices=CHOICES))
        return [(c.text, round(c.log_probability, 3)) for c in reply.choices]
    if way == "batch":
        return [reply.token_ids for reply in engine.generate_batch([turns, turns[:-1] + turns[-1:]], SHORT)]
    return engine.generate(turns, SHORT).token_ids


class Clock:
    """The time, as stops look at it; a test moves it on."""

    ahead_s = 0.0

    def perf_counter(self) -> float:
        return time.perf_counter() + self.ahead_s

    def move_on(self) -> None:
        self.ahead_s += 1000


@pytest.mark.parametrize("way", ["answer", "choices", "batch"])
@pytest.mark.parametrize("cut", ["stop", "time"])
def test_a_first_prefill_that_is_cut_in_any_layer_spoils_nothing(
    build: tuple[str, LocalEngine], way: str, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that were not reached are missing in the cache, which once was kept as if it were whole."""
    name, engine = build
    clock = Clock()
    monkeypatch.setattr(stopping, "time", clock)
    turns = question(name, 1)
    engine.reuse.clear()
    right = ask(engine, way, turns)
    how = replace(SHORT, choices=CHOICES if way == "choices" else (), time_limit_s=900)
    for layer in text_layers(engine):
        engine.reuse.clear()
        clock.ahead_s = 0.0
        act = clock.move_on if cut == "time" else lambda: stop_what_runs(engine)
        with when_reached(layer, act):
            generation = (
                engine.start_batch([turns, turns], how) if way == "batch" else engine.start(turns, how)
            )
            reply = generation.wait()
        assert reply is not None
        if way != "batch" or engine.reuse.is_able:  # else one after the other, each with its own time
            assert reply.finish_reason == ("interrupted" if cut == "stop" else "time")
        assert ask(engine, way, turns) == right


def stop_what_runs(engine: LocalEngine) -> None:
    """Ask the answer under way to end."""
    engine._queue._line.waiting[0].stop()


def test_what_was_computed_before_a_cut_is_still_of_use(build: tuple[str, LocalEngine]) -> None:
    """A second question that is cut leaves the beginning that it shares with the first one."""
    name, engine = build
    engine.reuse.clear()
    first = question(name, 1)
    reply = engine.generate(first, SHORT)
    if not engine.reuse.is_able:
        assert reply.n_reused_tokens == 0
        return
    with when_reached(text_layers(engine)[-1], lambda: stop_what_runs(engine)):
        assert engine.generate(first, SHORT).finish_reason == "interrupted"
    again = engine.generate(first, SHORT)
    assert again.token_ids == reply.token_ids
    assert again.n_reused_tokens == reply.n_prompt_tokens - 1


def test_a_stop_is_no_business_of_another_threads_forward() -> None:
    """A map has coming pictures encoded in another thread while an answer uses the same layers."""
    engine = LocalEngine(load_model(folder_of("llava")))
    layer = text_layers(engine)[0]
    called: list[str] = []

    def leave(*_: Any) -> None:
        called.append(threading.current_thread().name)

    def call_hooks() -> None:
        for hook in list(layer._forward_pre_hooks.values()):
            hook(layer, ())

    with hooks_on_layers(engine.model, leave):
        beside = threading.Thread(target=call_hooks, name="beside")
        beside.start()
        beside.join()
        assert called == []
        call_hooks()
    assert called == [threading.current_thread().name]
    engine.close()


def test_scores_that_were_stopped_are_an_error_of_ours() -> None:
    """There is no half of a score; the next one is right."""
    engine = LocalEngine(load_model(folder_of("llava")))
    turns = question("llava", 1)
    right = engine.score(turns, CHOICES)
    engine.reuse.clear()
    with when_reached(text_layers(engine)[0], lambda: stop_what_runs(engine)):  # noqa: SIM117
        with pytest.raises(GenerationError, match="was stopped"):
            engine.score(turns, CHOICES)
    assert [s.log_probability for s in engine.score(turns, CHOICES)] == pytest.approx(
        [s.log_probability for s in right], abs=1e-3
    )
    engine.close()


@pytest.mark.parametrize("way", ["score", "borrow", "batch", "forget"])
def test_work_that_is_stopped_while_it_waits_in_line_ends_in_our_words(way: str) -> None:
    """It never began: an error of ours, or for a batch one interrupted reply a row."""
    engine = LocalEngine(load_model("starter"))
    turns = question("starter", 1)
    works = {
        "score": lambda: engine.score(turns, CHOICES),
        "borrow": lambda: engine.borrow(lambda loaded, leave: loaded),
        "batch": lambda: [reply.finish_reason for reply in engine.generate_batch([turns, turns], SHORT)],
        "forget": engine.forget,
    }
    may_end = threading.Event()
    ahead = engine.start_work(lambda generation: Reply("") if may_end.wait(60) else Reply("late"))
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(works[way]())
        except VLMError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while len(engine._queue._line.waiting) < 2:
        time.sleep(0.01)
    engine._queue._line.waiting[1].stop()
    may_end.set()
    thread.join(60)
    ahead.wait()
    assert found, "the caller still waits"
    if way == "batch":
        assert found == [["interrupted", "interrupted"]]
    else:
        assert isinstance(found[0], ModelError if way == "forget" else GenerationError)
        assert "before" in str(found[0])
    assert engine.generate(turns, SHORT).text
    engine.close()


def test_a_short_campaign_of_cuts_at_random_moments_gets_no_wrong_answer() -> None:
    builds = ("starter", "gemma3", "qwen2-vl", "mllama")
    trials = stop_campaign.run_campaign(30, seed=11, builds=builds, n_questions=1)
    assert [str(trial) for trial in trials if trial.problem] == []
    assert sum(trial.was_cut for trial in trials) >= 10, "cuts that come too late show nothing"
    with suppress(KeyboardInterrupt):  # one that was still on its way
        time.sleep(0.01)
