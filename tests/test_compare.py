"""One prompt under a grid of settings: the answers, what it costs the models that are there, how it looks."""

from __future__ import annotations

import _thread
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image, ImageDraw
from script_vectors import VECTOR_LIST, live_things, render_with_html
from tiny_models import build_large, copy_of, folder_of

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import GenerationError, ModelLoadError, ModelNotFoundError, OptionError, VLMError
from vlm_magic.messages import Picture, Reply, Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.lending import _bring_back
from vlm_magic.outputs.results.compare import GridCell, comparison_bundle, word_differences
from vlm_magic.tasks.compare.grid import Comparison
from vlm_magic.tasks.compare.run import run
from vlm_magic.testing import ScriptedEngine


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[workspace.Workspace]:
    made = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", made)
    yield made
    for name in list(made.models.engines):
        made.models.unload(name)


@pytest.fixture
def shell(fresh: workspace.Workspace) -> Iterator[Any]:
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.user_ns["scene"] = scene()
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def scene() -> Image.Image:
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 40, 40), fill="red")
    ImageDraw.Draw(image).rectangle((50, 50, 80, 80), fill="blue")
    return image


def cell(shell: Any, source: str) -> Any:
    """Run a cell; its error, if any."""
    result = shell.run_cell(source, store_history=True)
    return result.error_in_exec or result.error_before_exec


def grid_of(shell: Any, line: str, prompt: str = "What is in {scene}?") -> Comparison:
    assert cell(shell, f"%%vlm -o grid {line}\n{prompt}") is None
    made: Comparison = shell.user_ns["grid"]
    return made


# ---- answers -----------------------------------------------------------------------------------


def test_every_answer_is_what_a_cell_of_its_own_would_say(shell: Any, fresh: workspace.Workspace) -> None:
    """Token by token, with the settings of its place in the grid; the last axis runs fastest."""
    engine = fresh.models.load("starter")
    grid = grid_of(shell, "--compare system='Be brief.','' beams=1,2 max-tokens=3,12")
    values = [tuple(row.values.values()) for row in grid]
    assert values[:3] == [("Be brief.", 1, 3), ("Be brief.", 1, 12), ("Be brief.", 2, 3)]
    assert len(values) == 8
    for row in grid:
        turns = [Turn("user", (Text("What is in "), Picture(None, "scene", scene()), Text("?")))]
        alone = engine.generate(turns, Settings(**row.values))  # type: ignore[arg-type]
        assert row.reply is not None
        assert row.reply.token_ids == alone.token_ids
        assert row.reply.finish_reason == alone.finish_reason


def test_quantised_loads_answer_beside_each_other_and_leave_nothing(
    shell: Any, fresh: workspace.Workspace
) -> None:
    """Each way of loading in its row with the weights' true size; what was resident is, alone."""
    engine = fresh.models.load("starter")
    folder = folder_of("idefics2-chatty")
    grid = grid_of(
        shell, f"--compare models=starter,{folder} quantize=none,bnb-4bit,8bit,int8 --max-tokens 4"
    )
    assert [row.error for row in grid] == [None] * 8
    sizes = [row.weights_bytes or 0 for row in grid]
    assert sizes[0] > sizes[3] > 0
    assert sizes[4] > max(sizes[5:])
    assert fresh.models.engines == {"starter": engine}
    assert not engine.is_closed
    assert grid[0].weights_bytes == memory.real_bytes(engine.model)


def test_a_loaded_model_is_used_as_it_is_and_under_its_name(shell: Any, fresh: workspace.Workspace) -> None:
    """By name or by source; changed options are another load of the same source."""
    mine = fresh.models.load(folder_of("idefics3"), name="mine", splitting=False)
    fresh.models.load("starter")
    lending = fresh.models.lending()
    with lending.lend("mine", {}) as engine:
        assert engine is mine
    with lending.lend("mine", {"splitting": False}) as engine:
        assert engine is mine
    with lending.lend("mine", {"splitting": True}) as engine:
        assert engine is not mine
        assert isinstance(engine, LocalEngine)
        assert engine.loaded is not None
        assert engine.loaded.options.splitting is True
        guest = engine
    assert guest.is_closed
    with lending.lend(None, {}) as engine:
        assert engine is fresh.models.engine()
    grid = grid_of(shell, "--compare models=mine,starter splitting=yes --max-tokens 2")
    assert [row.error for row in grid] == [None, None]
    assert fresh.models.engines["mine"] is mine
    assert mine.loaded is not None
    assert mine.loaded.options.splitting is False


def test_without_any_loaded_model_the_starter_answers_and_leaves(
    shell: Any, fresh: workspace.Workspace
) -> None:
    assert grid_of(shell, "--compare max-tokens=2,4")[1].reply is not None
    assert fresh.models.engines == {}


def test_examples_of_a_row_stand_before_its_question(shell: Any, fresh: workspace.Workspace) -> None:
    """As many as it says, in their order, with their pictures."""
    fake = ScriptedEngine()
    fresh.models.add("fake", fake)
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    shell.user_ns["shots"] = [(red, "Red."), (blue, "Blue.")]
    grid = vlm_magic.compare(
        "What colour is ", scene(), "?", n_examples=[0, 2, 1], examples=shell.user_ns["shots"]
    )
    lengths = [len(turns) for turns, _ in fake.history]
    assert lengths == [1, 5, 3]
    assert [turn.text for turn in fake.history[1][0] if turn.role == "assistant"] == ["Red.", "Blue."]
    assert [len(turn.pictures) for turn in fake.history[2][0]] == [1, 0, 1]
    assert "examples 2" in grid.bundle()["text/plain"]


def test_it_is_outside_the_conversation(shell: Any, fresh: workspace.Workspace) -> None:
    """It sees no turn, leaves none, and what was computed for the conversation is still there."""
    engine = fresh.models.load("starter")
    cell(shell, "%%vlm\nWhat is in {scene}?")
    before = fresh.conversations.session().conversation.exchanges
    kept = engine.reuse.n_bytes
    grid = grid_of(shell, "--compare max-tokens=4,8", "How many shapes are in {scene}?")
    assert fresh.conversations.session().conversation.exchanges == before
    assert engine.reuse.n_bytes == kept > 0
    assert [row.reply.n_reused_tokens for row in grid if row.reply] == [0, 0], "fair times"
    assert cell(shell, "%%vlm -o again\nWhat colour is it?") is None
    reply = fresh.conversations.session().conversation.exchanges[-1].reply
    assert reply is not None
    assert reply.n_reused_tokens > 0


def test_the_result_is_a_table_of_records(shell: Any, fresh: workspace.Workspace) -> None:
    """Values, answer, seconds, tokens and bytes of each row; an error in words."""
    fresh.models.load("starter")
    frame = grid_of(shell, "--compare models=starter,/no/such max-tokens=2,9").to_frame()
    assert list(frame["model"]) == ["starter", "starter", "/no/such", "/no/such"]
    assert list(frame["max_tokens"]) == [2, 9, 2, 9]
    assert list(frame["n_new_tokens"][:2]) == [2, 9]
    assert (frame["first_token_s"][:2] <= frame["total_s"][:2]).all()
    assert (frame["weights_bytes"][:2] > 1_000_000).all()
    assert list(frame["answer"].isna()) == [False, False, True, True]
    assert "no folder /no/such" in frame["error"][3]


def test_choices_are_compared_with_their_probabilities(shell: Any, fresh: workspace.Workspace) -> None:
    """Each row is what a cell with choices of its own would say."""
    engine = fresh.models.load("starter")
    grid = grid_of(shell, "--choices circle,star --compare system='','Look.'", "What shape is in {scene}?")
    probabilities = list(grid.to_frame()["probability"])
    assert len(set(probabilities)) == 2
    assert f"{probabilities[0]:.1%}" in grid.bundle()["text/plain"]
    turns = [Turn("user", (Text("What shape is in "), Picture(None, "scene", scene()), Text("?")))]
    alone = engine.generate(turns, Settings(choices=("circle", "star")))
    assert max(choice.probability for choice in alone.choices) == pytest.approx(probabilities[0])


def test_the_same_in_plain_python(fresh: workspace.Workspace) -> None:
    """Lists and tuples are axes, the rest holds for all answers."""
    seen: list[int] = []
    grid = vlm_magic.compare(
        *("What is in ", scene(), "?"),
        model="starter",
        quantize=(None, "int8"),
        stop=("zebra",),
        max_tokens=5,
        on_change=lambda comparison: seen.append(comparison.n_done),
    )
    assert [row.reply.n_new_tokens for row in grid if row.reply] == [5, 5]
    assert seen == sorted(seen)
    assert seen[-1] == 2


# ---- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--compare temperatur=0,1", "temperature"),
        ("--compare trust-remote-code=yes", "cannot be compared"),
        ("--compare temperature=0,warm", "does not fit"),
        ("--compare temperature=0,-1", "at least 0"),
        ("--compare temperature=0,0", "appears twice"),
        ("--compare models=a models=b", "appears twice"),
        ("--compare models=a model=b", "appears twice"),
        ("--compare models=a,,b", "lacks a value"),
        ("--compare models=", "lacks a value"),
        ("--compare quantize=none,5bit", "5bit"),
        ("--compare examples=0,1", "0 examples"),
        (
            "--compare seed=" + ",".join(map(str, range(20))) + " top-k=" + ",".join(map(str, range(1, 20))),
            "200",
        ),
        ("--compare", "needs a value"),
        ("--compare temperature", "needs a value"),
        ("-m fake --compare models=fake", "one of them"),
        ("-c other --compare seed=1,2", "no conversation"),
        ("--new --compare seed=1,2", "no conversation"),
        ("--type int --compare seed=1,2", "without --type"),
    ],
)
def test_a_line_that_cannot_be_meant_is_refused_before_anything_is_asked(
    shell: Any, fresh: workspace.Workspace, line: str, part: str
) -> None:
    fake = ScriptedEngine()
    fresh.models.add("fake", fake)
    error = cell(shell, f"%%vlm -o grid {line}\nWhat?")
    assert isinstance(error, OptionError)
    assert part in str(error)
    assert len(str(error).splitlines()) <= 3
    assert fake.history == []
    assert "grid" not in shell.user_ns
    assert cell(shell, "%%vlm\nnext") is None


def test_an_empty_prompt_and_a_missing_picture_are_refused(shell: Any, fresh: workspace.Workspace) -> None:
    fake = ScriptedEngine()
    fresh.models.add("fake", fake)
    for prompt in ("  ", "What is in {scen}?"):
        assert isinstance(cell(shell, f"%%vlm --compare seed=1,2\n{prompt}"), VLMError)
    assert fake.history == []


def test_an_error_stays_in_its_row_and_the_rest_goes_on(
    shell: Any, fresh: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is not there, one that fails, values that do not go together; three lines each."""
    fresh.models.add("fake", ScriptedEngine("one", GenerationError("fake failed"), "three"))
    grid = grid_of(shell, "--compare models=/no/such,fake seed=1,2,3")
    kinds = [type(row.error) for row in grid]
    assert kinds == [ModelNotFoundError] * 3 + [type(None), GenerationError, type(None)]
    assert [row.reply.text for row in grid if row.reply] == ["one", "three"]
    shown = capsys.readouterr().out
    assert "GenerationError: fake failed" in shown
    assert shown.count("ModelNotFoundError: no folder /no/such") == 3
    grid = grid_of(shell, "--compare beams=1,2 temperature=0,1", "x")
    assert [bool(row.error) for row in grid] == [False, False, False, True]
    assert "beam search does not sample" in str(grid[3].error)


def test_a_kept_error_holds_no_frames(shell: Any, fresh: workspace.Workspace) -> None:
    """A traceback would keep pictures and tensors for as long as the result lives."""
    grid = grid_of(shell, "--compare models=/no/such seed=1,2")
    error: BaseException | None = grid[0].error
    while error is not None:
        assert error.__traceback__ is None
        error = error.__cause__ or error.__context__


def test_an_interrupt_keeps_what_is_done_and_the_next_cell_works(
    shell: Any, fresh: workspace.Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer under way is kept as far as it came; the result is there; no wall of traceback."""
    fake = ScriptedEngine("quick", "slow " * 500, seconds_per_token=0.01)
    fresh.models.add("fake", fake)

    def interrupt() -> None:
        while len(fake.history) < 2:
            fake.started.wait(0.01)
        threading.Event().wait(0.3)
        _thread.interrupt_main()

    presser = threading.Thread(target=interrupt)
    presser.start()
    error = cell(shell, "%%vlm -o grid --compare seed=1,2,3\nWhat?")
    presser.join()
    assert isinstance(error, KeyboardInterrupt)
    grid = shell.user_ns["grid"]
    assert [row.is_done for row in grid] == [True, False, False]
    assert grid[1].reply.finish_reason == "interrupted"
    assert grid[1].reply.text.startswith("slow slow")
    assert grid[2].reply is None
    shown = capsys.readouterr().out
    assert "1 of 3 answers are there" in shown
    assert "not asked" in shown
    assert "Traceback" not in shown
    fake.replies.clear()
    with fresh.models.lending() as lender:
        assert run(grid, lender).n_done == 3, "what is missing can be answered later"
    assert cell(shell, "%%vlm\nnext") is None


@pytest.mark.parametrize("n_pictures", [1, 2])
def test_each_model_warms_up_once_and_every_row_begins_from_nothing(
    fresh: workspace.Workspace, monkeypatch: pytest.MonkeyPatch, n_pictures: int
) -> None:
    """One throwaway token before the first row, so that the first row looks no slower than it is."""
    engine = fresh.models.load(folder_of("idefics3"))
    asked: list[int] = []
    start = engine.start

    def watched(turns: Any, settings: Any = None, **options: Any) -> Any:
        asked.append(settings.max_tokens)
        return start(turns, settings, **options)

    monkeypatch.setattr(engine, "start", watched)
    parts = [scene() for _ in range(n_pictures)]
    grid = vlm_magic.compare("What?", *parts, max_tokens=[2, 3, 4])
    assert asked == [1, 2, 3, 4]
    assert [row.reply.n_reused_tokens for row in grid if row.reply] == [0, 0, 0]


# ---- room --------------------------------------------------------------------------------------


def test_weights_that_were_changed_are_known_to_be(fresh: workspace.Workspace) -> None:
    """A step of training, a replaced tensor, an added adapter: nothing of that can be read again."""
    import torch

    engine = fresh.models.load(folder_of("idefics3"))
    engine.generate([Turn("user", (Picture(None, "scene", scene()), Text("What?")))], Settings(max_tokens=2))
    assert engine.is_as_loaded, "answering changes nothing"
    weight = next(engine.model.parameters())
    with torch.no_grad():
        weight.add_(0.5)
    assert not engine.is_as_loaded
    fresh.models.unload()
    engine = fresh.models.load(folder_of("idefics3"))
    weight = next(engine.model.parameters())
    weight.data = weight.data.clone()
    assert not engine.is_as_loaded


def test_what_was_put_away_comes_back_as_the_same_engine(fresh: workspace.Workspace) -> None:
    """Sessions and variables that hold it go on; meanwhile asking it is an error in words."""
    engine = fresh.models.load(folder_of("idefics3"))
    session = fresh.conversations.session()
    said = session.ask("What?", scene(), max_tokens=4).text
    session.reset()
    assert engine.put_away() > 100_000
    with pytest.raises(VLMError):
        session.ask("What?", scene(), max_tokens=4)
    engine.bring_back()
    session.reset()
    assert session.ask("What?", scene(), max_tokens=4).text == said
    assert engine.is_as_loaded


def test_the_largest_resident_makes_room_first(
    fresh: workspace.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that as few as can be have to move, and all are back afterwards."""
    from vlm_magic.models.checkpoints.estimate import estimate
    from vlm_magic.models.load_options import LoadOptions

    small, large = (fresh.models.load(folder_of(name)) for name in ("idefics3", "paligemma"))
    sizes = {engine: memory.real_bytes(engine.model) for engine in (small, large)}
    assert sizes[small] < sizes[large]
    guest = folder_of("qwen2-vl")
    needed = estimate(str(guest), LoadOptions()).needed_bytes

    def free_bytes(device: str) -> int:
        gone = sum(size for engine, size in sizes.items() if engine.loaded is None)
        return needed - sizes[large] + gone

    monkeypatch.setattr(memory, "free_bytes", free_bytes)
    with fresh.models.lending() as lender, lender.lend(str(guest), {}):
        assert [engine.loaded is None for engine in (small, large)] == [False, True]
    assert small.loaded is not None
    assert large.loaded is not None


LIMITED = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from PIL import Image
import vlm_magic
from vlm_magic import workspace
from vlm_magic.models import memory

here, there, spare, is_trained = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "trained"
with workspace.current().models.lending() as lender, lender.lend(there, {}):
    pass  # imports what a load imports
resident = vlm_magic.load(here)
session = vlm_magic.session()
picture = Image.new("RGB", (64, 64), "red")
said = session.ask("What?", picture, max_tokens=2).text
if is_trained:
    with torch.no_grad():
        next(resident.model.parameters()).add_(0)
loaded = resident.loaded
resident.reuse.clear()
memory.give_back()
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + spare,) * 2)
grid = vlm_magic.compare("What?", picture, model=[there, here], max_tokens=2)
moved = resident.loaded is not loaded
session.reset()
print(json.dumps([
    [type(row.error).__name__ for row in grid],
    moved,
    resident is vlm_magic.engine() and session.ask("What?", picture, max_tokens=2).text == said,
]))
"""


@pytest.fixture(scope="module")
def two_large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two builds of 415 MB; loading one maps its file, so it takes twice that for a moment."""
    first = build_large(tmp_path_factory.mktemp("large") / "first")
    return first, Path(shutil.copytree(first, first.with_name("second")))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
@pytest.mark.parametrize(
    ("spare", "state", "expected"),
    [
        (460_000_000, "as it was", ["NoneType", True]),  # 467 MB are needed
        (460_000_000, "trained", ["OutOfMemoryError", False]),
        (20_000_000, "as it was", ["OutOfMemoryError", False]),
    ],
    ids=["makes room and is back afterwards", "stays when it was trained", "stays when it would not help"],
)
def test_a_resident(two_large: tuple[Path, Path], spare: int, state: str, expected: list[Any]) -> None:
    """In a process with a real limit on its memory."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, two_large), str(spare), state],
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # each thread's own arena takes 64 MB of addresses
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (there, here), moved, is_back = json.loads(done.stdout)
    assert [there, moved] == expected
    assert here == "NoneType"
    assert is_back


def test_one_that_does_not_come_back_says_so(tmp_path: Path, fresh: workspace.Workspace) -> None:
    """Its checkpoint went away meanwhile; loading it again by name is what helps."""
    folder = copy_of("idefics3", tmp_path / "mine")
    engine = fresh.models.load(folder, name="mine")
    lending = fresh.models.lending()
    engine.put_away()
    lending._leave.callback(_bring_back, engine, "cpu")
    shutil.rmtree(folder)
    with pytest.raises(ModelLoadError, match="cannot be loaded again"):
        lending.__exit__()
    copy_of("idefics3", folder)
    assert not fresh.models.load(folder, name="mine").is_closed


def test_the_peak_is_what_was_taken_since(tmp_path: Path) -> None:
    """Beyond what was held before, and no more than was taken."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell")
    size = 60_000_000
    bytearray(2 * size)  # an earlier peak does not count
    with memory.watched_peak("cpu") as peak:
        assert (peak() or 0) < size // 3
        held = bytearray(size)
        held[::4096] = b"x" * len(held[::4096])
        del held
        assert 0.95 * size < (peak() or 0) < 1.5 * size


# ---- how it looks ------------------------------------------------------------------------------


@given(st.text("ab ,.\n𝄞é", max_size=40), st.text("ab ,.\n𝄞é", max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_pieces_give_both_texts_again(old: str, new: str) -> None:
    pieces = word_differences(old, new)
    if pieces is not None:
        assert "".join(text for kind, text in pieces if kind != "less") == new
        assert "".join(text for kind, text in pieces if kind != "more") == old


def test_differences_are_marked_by_words_and_whole_phrases() -> None:
    pieces = word_differences("A red circle on the left.", "A big blue circle on the left side.")
    assert pieces == [
        ("same", "A "),
        ("less", "red"),
        ("more", "big blue"),
        ("same", " circle on the left"),
        ("more", " side"),
        ("same", "."),
    ]
    assert word_differences("猫が一匹います", "猫が二匹います") == [
        ("same", "猫が"),
        ("less", "一"),
        ("more", "二"),
        ("same", "匹います"),
    ]
    assert word_differences("Yes.", "There are three of them, all of them red") is None
    longer = word_differences("A cat.", "An image of a cat. Fun fact: it sleeps.")
    assert longer is not None, "what grew is marked too"
    assert ("same", " cat.") in longer
    assert word_differences("same", "same") == [("same", "same")]
    assert word_differences("word " * 5000, "word " * 5000) is None, "too long to compare in good time"


def said(text: str, **figures: Any) -> GridCell:
    return GridCell(Reply(text, n_new_tokens=3, ttft_s=0.1, total_s=0.5, **figures), "", "", 5_000_000, 1_000)


def test_answers_stand_side_by_side_with_their_figures() -> None:
    """The last axis that is not too wide makes the columns; an axis of one value is said once."""
    cells = [said("A cat."), said("A dog."), said("A cat."), GridCell(error="OptionError: no\n  try:  yes")]
    bundle = comparison_bundle(
        (Text("What?"),), {"model": ["a", "b"], "seed": ["1", "2"], "beams": ["4"]}, cells
    )
    page = bundle["text/html"]
    assert re.findall(r"<th[^>]*>([^<]*)</th>", page) == ["seed 1", "seed 2", "a", "b"]
    assert "4 answers · beams 4" in page
    assert "A <del>cat</del> <ins>dog</ins>." in page
    assert page.count("compared with this") == 1
    assert page.count(">the same<") == 1
    assert page.count(">0.10 s<") == 3
    assert page.count(">5.0 MB<") == 3
    plain = bundle["text/plain"]
    assert "2. a · seed 2 (differs)\n   A [-cat-]{+dog+}." in plain
    assert "4. b · seed 2\n   OptionError: no\n     try:  yes" in plain
    assert len({len(line) for line in plain.splitlines()[-4:]}) == 1, "the figures stand in columns"
    assert "A ~~cat~~**dog**." in bundle["text/markdown"]
    rows = comparison_bundle((Text("?"),), {"seed": list("12345")}, [said("x")] * 5)["text/html"]
    assert rows.count("<tr><th") == 5
    assert "<thead>" not in rows


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_nothing_that_is_shown_can_run_or_fetch(vector: str) -> None:
    """In answers alike and different, in errors, in values, in the question."""
    cells = [
        said(f"One two three four. {vector}"),
        said(f"One two three five. {vector}"),
        GridCell(error=vector),
    ]
    bundle = comparison_bundle((Text(vector),), {"system": [vector, "b", "c"], "model": [vector]}, cells)
    page = re.sub(r"^<style>.*?</style>", "", bundle["text/html"], flags=re.DOTALL)
    assert live_things(re.sub(r"</?(ins|del)>", "", page)) == []
    assert live_things(render_with_html(bundle["text/markdown"])) == []


def test_thumbnails_are_shown_and_can_be_left_out() -> None:
    comparison = Comparison([Text("What is in "), Picture(None, "scene", scene())], {"seed": [1, 2]})
    assert "<img" not in comparison._repr_mimebundle_()["text/html"]
    shown = comparison.bundle(lambda _: "data:image/png;base64,AAAA")["text/html"]
    assert shown.count("<img") == 1
    assert "not asked" in shown


@pytest.mark.browser
def test_the_grid_in_jupyterlab_grows_and_fits_its_column(tmp_path: Path) -> None:
    """Answers come one by one; side by side where there is room, else one below the other; saved as seen."""
    import lab as jupyter

    folder = tmp_path / "notebooks"
    folder.mkdir()
    setup = (
        "%load_ext vlm_magic\nfrom vlm_magic.testing import ScriptedEngine\nfrom PIL import Image\n"
        "from vlm_magic.workspace import current\nred = Image.new('RGB', (64, 64), 'red')\n"
        "current().models.add('fake', ScriptedEngine('A red square.', 'A red round square.', 'slow ' * 400, "
        "seconds_per_token=0.02))"
    )
    ask = "%%vlm --compare models=fake,./none seed=1,2\nWhat is {red}?"
    slow = "%%vlm --compare seed=1,2\nWhat is {red}?"
    jupyter.write_notebook(folder / "grid.ipynb", setup, ask, slow)
    shots = Path(os.environ.get("VLM_MAGIC_SCREENSHOTS", "") or os.devnull)

    def tops(page: Any) -> list[float]:
        cells = page.locator(".jp-Cell").nth(1).locator(".vlm-grid > table > tbody > tr:first-child > td")
        return [cell.bounding_box()["y"] for cell in cells.all()]

    with (
        jupyter.running_lab(folder) as lab,
        jupyter.running_browser() as browser,
        jupyter.browser_page(lab, "grid.ipynb", browser=browser) as page,
    ):
        jupyter.run_cell(page, 0)
        jupyter.run_cell(page, 1)
        assert len(set(tops(page))) == 1, "side by side"
        text = jupyter.output_text(page, 1)
        assert "A red round square." in text
        assert text.count("ModelNotFoundError") == 2
        if shots.is_dir():
            jupyter.screenshot(page, shots / "compare.png")
        jupyter.run_cell(page, 2, wait=False)
        waiting = page.locator(".jp-Cell").nth(2).locator(".vlm-idle")
        waiting.first.wait_for()
        assert waiting.all_inner_texts() == ["answering", "not asked"]
        jupyter.command(page, "notebook:interrupt-kernel")
        jupyter.wait_idle(page)
        text = jupyter.output_text(page, 2)
        assert "stopped" in text
        assert "Interrupted: 0 of 2 answers are there" in text
        jupyter.save(page)
        page.set_viewport_size({"width": 560, "height": 1200})
        page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
        page.wait_for_function(
            "document.querySelector('.vlm-grid > table > tbody td').getBoundingClientRect().width > 250"
        )
        assert len(set(tops(page))) == 2, "one below the other"
        if shots.is_dir():
            jupyter.screenshot(page, shots / "compare-narrow.png")
        assert page.problems == []
    saved = json.loads((folder / "grid.ipynb").read_text(encoding="utf-8"))
    outputs = saved["cells"][1]["outputs"]
    assert len(outputs) == 1, "one output that grew"
    assert set(outputs[0]["data"]) == {"text/html", "text/markdown", "text/plain"}
    assert "A red <ins>round</ins> square." in "".join(outputs[0]["data"]["text/html"])
