"""One answer under way: chunks out, a stop in, errors to the caller, one after the other."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from vlm_magic import work_queue
from vlm_magic.errors import GenerationError
from vlm_magic.messages import Progress, Reply, Settings, Text, Turn
from vlm_magic.testing import ScriptedEngine
from vlm_magic.work_queue import Generation, WorkQueue

ASK = (Turn("user", (Text("one two three"),)),)


def test_chunks_add_up_to_the_reply_and_the_last_one_carries_it() -> None:
    """Streaming says what waiting says."""
    chunks = list(ScriptedEngine("a red circle").start(ASK, Settings()))
    assert "".join(chunk.text for chunk in chunks) == "a red circle"
    assert [chunk.reply is None for chunk in chunks] == [True, True, True, False]
    assert chunks[-1].reply is not None
    assert chunks[-1].reply.text == "a red circle"


def test_the_worker_commits_the_reply_before_the_last_chunk_is_handed_out() -> None:
    """A caller that is interrupted loses nothing."""
    kept: list[Reply] = []
    for chunk in ScriptedEngine("a b").start(ASK, Settings(), on_end=kept.append):
        if chunk.reply is not None:
            assert kept == [chunk.reply]


def test_a_stop_from_another_thread_keeps_the_partial_text() -> None:
    """It ends within one token."""
    engine = ScriptedEngine("word " * 1000, seconds_per_token=0.005)
    generation = engine.start(ASK, Settings())
    threading.Timer(0.05, generation.stop).start()
    reply = generation.wait(10)
    assert reply is not None
    assert reply.finish_reason == "interrupted"
    assert 1 <= reply.n_new_tokens < 500


def test_leaving_the_loop_stops_the_work_and_waits_for_its_end() -> None:
    """As an interrupt of the cell does."""
    kept: list[Reply] = []
    engine = ScriptedEngine("word " * 1000, seconds_per_token=0.005)
    generation = engine.start(ASK, Settings(), on_end=kept.append)
    chunks = iter(generation)
    next(chunks)
    with pytest.raises(KeyboardInterrupt):
        chunks.throw(KeyboardInterrupt)  # type: ignore[attr-defined]  # it is a generator
    assert generation.is_ended
    assert kept[0].finish_reason == "interrupted"


def test_an_error_in_the_worker_is_raised_where_the_caller_iterates_and_waits() -> None:
    """And the next answer works."""
    engine = ScriptedEngine(GenerationError("the model broke"), "fine")
    generation = engine.start(ASK, Settings())
    with pytest.raises(GenerationError, match="broke"):
        list(generation)
    with pytest.raises(GenerationError, match="broke"):
        generation.wait()
    reply = engine.start(ASK, Settings()).wait(10)
    assert reply is not None
    assert reply.text == "fine"


def test_answers_wait_in_line_and_say_so() -> None:
    """First come, first served; one that waits can be cancelled."""
    engine = ScriptedEngine("first " * 20, "third", seconds_per_token=0.01)
    seen: list[Progress] = []
    first = engine.start(ASK, Settings())
    second = engine.start(ASK, Settings(), on_progress=seen.append)
    third = engine.start(ASK, Settings(), on_progress=seen.append)
    assert [p.done for p in seen if p.stage == "queued"] == [1, 2]
    second.stop()
    replies = [generation.wait(10) for generation in (first, second, third)]
    assert [reply.text for reply in replies if reply] == ["first " * 19 + "first ", "", "third"]
    assert replies[1] is not None
    assert replies[1].finish_reason == "interrupted"


def test_waiting_with_a_time_out_gives_none_while_the_work_goes_on() -> None:
    """A panel can look without blocking."""
    engine = ScriptedEngine("word " * 50, seconds_per_token=0.01)
    generation = engine.start(ASK, Settings())
    assert generation.wait(0.01) is None
    generation.stop()
    assert generation.wait(10) is not None


def test_an_unused_engine_is_collected_and_its_thread_ends() -> None:
    """A forgotten model must not stay in memory because of its worker."""
    engine = ScriptedEngine("hello")
    engine.start(ASK, Settings()).wait(10)
    thread = engine._queue._thread
    assert thread is not None
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    thread.join(5)
    assert not thread.is_alive()


def test_a_closed_queue_ends_what_runs() -> None:
    """Unloading in the middle of an answer does not wait for its end."""
    engine = ScriptedEngine("word " * 10_000, seconds_per_token=0.005)
    generation = engine.start(ASK, Settings())
    time.sleep(0.02)
    engine.close()
    assert generation.is_ended


class InterruptedThread(threading.Thread):
    """A thread whose start is hit by an interrupt, before it runs or after."""

    n_hits = 0
    is_started_first = False

    def start(self) -> None:
        if InterruptedThread.n_hits:
            InterruptedThread.n_hits -= 1
            if InterruptedThread.is_started_first:
                super().start()
            raise KeyboardInterrupt
        super().start()


@pytest.mark.parametrize("is_started_first", [False, True])
def test_an_interrupt_while_the_worker_starts_leaves_a_queue_that_works(
    monkeypatch: pytest.MonkeyPatch, is_started_first: bool
) -> None:
    """Nothing waits for ever, and no two answers are made at once."""
    monkeypatch.setattr(work_queue.threading, "Thread", InterruptedThread)  # type: ignore[attr-defined]
    monkeypatch.setattr(InterruptedThread, "n_hits", 1)
    monkeypatch.setattr(InterruptedThread, "is_started_first", is_started_first)
    queue = WorkQueue("test")
    at_work: list[int] = []

    def work(generation: Generation) -> Reply:
        at_work.append(threading.get_ident())
        time.sleep(0.05)
        assert at_work.pop() == threading.get_ident()
        assert at_work == []
        return Reply("done")

    with pytest.raises(KeyboardInterrupt):
        queue.submit(work)
    generations = [queue.submit(work) for _ in range(4)]
    assert [generation.wait(10) for generation in generations] == [Reply("done")] * 4
    until(lambda: not queue._line.waiting)
    workers = [thread for thread in threading.enumerate() if thread.name == "vlm_magic test"]
    queue.close()
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


def test_an_interrupt_between_the_line_and_its_worker_leaves_nothing_in_the_line() -> None:
    """The second question's handle is lost on the way; the third is answered, and nobody is before it."""

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    engine = ScriptedEngine("word " * 20, "unheard", "fine", seconds_per_token=0.01)
    first = engine.start(ASK, Settings())
    with pytest.raises(KeyboardInterrupt):
        engine.start(ASK, Settings(), on_progress=interrupt)
    third = engine.start(ASK, Settings())
    assert first.wait(10) is not None
    reply = third.wait(10)
    assert reply is not None
    assert reply.finish_reason == "stop"
    until(lambda: not engine._queue._line.waiting)


def until(is_so: Callable[[], bool]) -> None:
    """Wait a moment for another thread."""
    deadline = time.monotonic() + 10
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert is_so()
