"""One answer under way: chunks out, a stop in, errors to the caller, one after the other."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
from fake_engine import FakeEngine

from vlm_magic.errors import GenerationError
from vlm_magic.messages import Progress, Reply, Settings, Text, Turn

ASK = (Turn("user", (Text("one two three"),)),)


def test_chunks_add_up_to_the_reply_and_the_last_one_carries_it() -> None:
    """Streaming says what waiting says."""
    chunks = list(FakeEngine("a red circle").start(ASK, Settings()))
    assert "".join(chunk.text for chunk in chunks) == "a red circle"
    assert [chunk.reply is None for chunk in chunks] == [True, True, True, False]
    assert chunks[-1].reply is not None
    assert chunks[-1].reply.text == "a red circle"


def test_the_worker_commits_the_reply_before_the_last_chunk_is_handed_out() -> None:
    """A caller that is interrupted loses nothing."""
    kept: list[Reply] = []
    for chunk in FakeEngine("a b").start(ASK, Settings(), on_end=kept.append):
        if chunk.reply is not None:
            assert kept == [chunk.reply]


def test_a_stop_from_another_thread_keeps_the_partial_text() -> None:
    """It ends within one token."""
    engine = FakeEngine("word " * 1000, seconds_per_token=0.005)
    generation = engine.start(ASK, Settings())
    threading.Timer(0.05, generation.stop).start()
    reply = generation.wait(10)
    assert reply is not None
    assert reply.finish_reason == "interrupted"
    assert 1 <= reply.n_new_tokens < 500


def test_leaving_the_loop_stops_the_work_and_waits_for_its_end() -> None:
    """As an interrupt of the cell does."""
    kept: list[Reply] = []
    engine = FakeEngine("word " * 1000, seconds_per_token=0.005)
    generation = engine.start(ASK, Settings(), on_end=kept.append)
    chunks = iter(generation)
    next(chunks)
    with pytest.raises(KeyboardInterrupt):
        chunks.throw(KeyboardInterrupt)  # type: ignore[attr-defined]  # it is a generator
    assert generation.is_ended
    assert kept[0].finish_reason == "interrupted"


def test_an_error_in_the_worker_is_raised_where_the_caller_iterates_and_waits() -> None:
    """And the next answer works."""
    engine = FakeEngine(GenerationError("the model broke"), "fine")
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
    engine = FakeEngine("first " * 20, "third", seconds_per_token=0.01)
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
    engine = FakeEngine("word " * 50, seconds_per_token=0.01)
    generation = engine.start(ASK, Settings())
    assert generation.wait(0.01) is None
    generation.stop()
    assert generation.wait(10) is not None


def test_an_unused_engine_is_collected_and_its_thread_ends() -> None:
    """A forgotten model must not stay in memory because of its worker."""
    engine = FakeEngine("hello")
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
    engine = FakeEngine("word " * 10_000, seconds_per_token=0.005)
    generation = engine.start(ASK, Settings())
    time.sleep(0.02)
    engine.close()
    assert generation.is_ended
