"""Interrupt and Stop, twenty of twenty each, in a real kernel that a cell blocks: words so far are kept."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
from notebook_kernel import Notebook, running_notebook

TIMES = 20
WORDS = 2000  # at fifty a second; an answer that is not stopped would take forty seconds
START = f"""import time, vlm_magic
%load_ext vlm_magic
from vlm_magic.testing import ScriptedEngine
story = " ".join(f"w{{n}}" for n in range({WORDS}))
engine = ScriptedEngine(seconds_per_token=0.02)
vlm_magic.workspace.current().models.add("fake", engine)
"""
LAST = """turn = vlm_magic.session().conversation.exchanges[-1]
said = turn.reply.text
print(turn.reply.finish_reason, story.startswith(said), len(said.split()), turn.answered_at)"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with running_notebook(tmp_path_factory.mktemp("stopping"), "stop.ipynb") as notebook:
        notebook.run(START, "start")
        assert notebook.errors == []
        yield notebook


def ended(notebook: Notebook) -> float:
    """Check the last turn: stopped, its words so far kept; when it ended, in seconds since 1970."""
    reason, is_beginning, n_words, at = notebook.run(LAST, "last").split()
    assert (reason, is_beginning) == ("interrupted", "True")
    assert 0 < int(n_words) < WORDS
    return float(at)


def test_an_interrupt_ends_the_answer_twenty_times_of_twenty(notebook: Notebook) -> None:
    waits = []
    for n in range(TIMES):
        notebook.run("engine.replies[:] = [story, 'fine']", "prepare")
        request = notebook.start("%%vlm\nA long story, please.", f"long-{n}")
        queued = notebook.start("print('ran on')", "queued")
        notebook.first_words(request)
        clicked = time.time()
        notebook.interrupt()
        said = notebook.collect("", f"long-{n}", request)
        assert "Interrupted: the answer so far is kept" in said
        assert "ran on" not in notebook.collect("", "queued", queued), "an interrupt ends a Run All"
        waits.append(ended(notebook) - clicked)
        assert "fine" in notebook.run("%vlm And now?", f"next-{n}")
    print(
        f"interrupt to end: median {statistics.median(waits) * 1000:.0f} ms, most {max(waits) * 1000:.0f} ms"
    )
    assert max(waits) < 5.0, "a machine may be busy; the answer would have gone on for forty seconds"


def test_stop_ends_that_answer_alone_twenty_times_of_twenty(notebook: Notebook) -> None:
    waits = []
    for n in range(TIMES):
        notebook.run("engine.replies[:] = [story, 'fine']", "prepare")
        request = notebook.start("%%vlm\nA long story, please.", f"story-{n}")
        queued = notebook.start("print('ran on')", "queued")
        panel, answer = notebook.first_words(request)
        clicked = time.time()
        notebook.click_stop(panel, answer)
        said = notebook.collect("", f"story-{n}", request)
        assert "Interrupted" not in said
        assert "stopped" in said
        assert "ran on" in notebook.collect("", "queued", queued), "Stop ends that answer alone"
        waits.append(ended(notebook) - clicked)
        late = notebook.start("%vlm And now?", f"then-{n}")
        notebook.click_stop(panel, answer)
        assert "fine" in notebook.collect("", f"then-{n}", late), "a late Stop never hits the next answer"
    print(f"Stop to end: median {statistics.median(waits) * 1000:.0f} ms, most {max(waits) * 1000:.0f} ms")
    assert max(waits) < 5.0, "a machine may be busy; the answer would have gone on for forty seconds"
