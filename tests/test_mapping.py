"""One prompt over many pictures: same answers as one by one, nothing lost, whatever goes wrong."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from fake_engine import FakeEngine
from notebook_kernel import Notebook, running_notebook
from PIL import Image
from script_vectors import VECTOR_LIST, live_things, render_with_html

import vlm_magic
from vlm_magic.errors import (
    GenerationError,
    ModelError,
    OptionError,
    OutOfMemoryError,
    PictureError,
    PromptError,
)
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loading import load_model
from vlm_magic.models.together import TogetherRun
from vlm_magic.outputs.mapping import Card, Sheet, sheet_bundle
from vlm_magic.shell.reports import show_forget
from vlm_magic.starter.evaluate import SKILLS
from vlm_magic.starter.scenes import make_scene
from vlm_magic.tasks.examples import example_turns
from vlm_magic.tasks.journal import forget_maps
from vlm_magic.tasks.map_calls import map_pictures
from vlm_magic.tasks.mapping import PictureMap
from vlm_magic.tasks.rows import evaluated, items_of
from vlm_magic.workspace import Workspace

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    torch.set_num_threads(1)
    forget_maps()
    yield
    forget_maps()


@pytest.fixture(scope="module")
def starter() -> LocalEngine:
    return LocalEngine(load_model("starter"))


def dots(n: int) -> list[Image.Image]:
    """Small pictures, all different."""
    return [Image.new("RGB", (8, 8), (n, k % 256, 255 - k % 256)) for k in range(n)]


# --- what is seen: the starter's scenes ---------------------------------------------------------------------

LIKELY = {
    "colour": (
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "pink",
        "brown",
        "black",
        "white",
        "grey",
    ),
    "shape": ("circle", "square", "triangle", "star", "diamond", "cross"),
    "exist": ("yes", "no"),
}
N_SCENES = 12


def held_out(name: str) -> tuple[list[Image.Image], list[str], list[str]]:
    """Pictures, questions and right answers of fresh seeds."""
    skill = next(skill for skill in SKILLS if skill.name == name)
    found: list[tuple[Image.Image, str, str]] = []
    n = 0
    while len(found) < N_SCENES:
        n += 1
        dialogue = skill.build(Random(f"map/{name}/{n}"))
        if dialogue is not None:
            words = " ".join(part for part in dialogue.turns[0].parts if isinstance(part, str))
            found.append((dialogue.pictures[0].picture, words, dialogue.turns[0].answer))
    images, questions, answers = zip(*found, strict=True)
    return list(images), list(questions), list(answers)


def test_the_held_out_scenes_are_answered_as_one_by_one(
    starter: LocalEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy by skill is printed; free answers, choices and types alike."""
    lines = []
    for name in ("colour", "shape", "exist", "background", "where", "count all"):
        images, questions, right = held_out(name)
        table = pd.DataFrame({"photo": images, "question": questions})
        mapped = map_pictures(starter, "{picture}{row.question}", table.photo, table=table, **QUIET)
        alone = [
            starter.generate([Turn("user", (Picture(None, "p", image), Text(question)))]).text
            for image, question in zip(images, questions, strict=True)
        ]
        assert mapped.answer.tolist() == alone
        accuracy = float(np.mean([said == truth for said, truth in zip(alone, right, strict=True)]))
        line = f"{name:12} text {accuracy:.2f}"
        if name in LIKELY:
            line += held_to(starter, table, right, LIKELY[name])
        lines.append(line)
        assert accuracy >= 0.75, (name, alone, right)
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def held_to(starter: LocalEngine, table: pd.DataFrame, right: list[str], choices: tuple[str, ...]) -> str:
    """The same by choices and by a type, against one by one; both accuracies in words."""
    how: dict[str, Any] = {"table": table, **QUIET}
    chosen = map_pictures(starter, "{picture}{row.question}", table.photo, choices=choices, **how)
    type_ = Literal[choices]  # type: ignore[valid-type]
    typed = map_pictures(starter, "{picture}{row.question}", table.photo, type=type_, **how)
    for n, (image, question) in enumerate(zip(table.photo, table.question, strict=True)):
        turns = [Turn("user", (Picture(None, "p", image), Text(question)))]
        reply = starter.generate(turns, Settings(choices=choices))
        assert chosen.answer[n] == reply.text
        for choice in reply.choices:
            assert chosen.probabilities[n][choice.text] == pytest.approx(choice.probability, abs=1e-5)
        assert chosen.probability[n] == max(chosen.probabilities[n].values())
        assert typed.answer[n] == vlm_magic.typed(starter, type_, *turns[0].parts)
    shares = [float(np.mean(frame.answer == pd.Series(right))) for frame in (chosen, typed)]
    return f", choices {shares[0]:.2f}, typed {shares[1]:.2f}"


# --- every family -------------------------------------------------------------------------------------------

FAMILIES = ("idefics2-chatty", "idefics3", "idefics3-tiles", "llava-next", "qwen2-vl", "gemma3", "blip-2")


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_one_by_one(name: str) -> None:
    """Questions of different length, pictures of different size; with examples before, where they fit."""
    engine = LocalEngine(tiny_models.tiny(name))
    build = tiny_models.TINY[name]
    images = [Image.effect_noise((40 + 12 * (n % 3), 48), 80).convert("RGB") for n in range(7)]
    table = [{"what": "thing " * (n % 4 + 1)} for n in range(7)]
    shots = example_turns([(images[0], "one"), (images[1], "two")], prompt="What is it?")
    for examples in ((), shots) if build.max_pictures is None and build.is_chat else ((),):
        run = PictureMap(
            engine,
            "What {row.what} is it?",
            images,
            table=table,
            examples=examples,
            batch_size=4,
            settings=Settings(max_tokens=5),
        )
        mapped = sorted(run, key=lambda row: row.position)
        assert run.notes == ()
        for row, image, words in zip(mapped, images, table, strict=True):
            question = Turn("user", (Picture(None, "p", image), Text(f"What {words['what']} is it?")))
            alone = engine.generate([*examples, question], Settings(max_tokens=5))
            assert (row.text, row.n_tokens, row.error) == (alone.text, alone.n_new_tokens, "")


def test_a_shared_beginning_is_computed_once(starter: LocalEngine) -> None:
    """Few-shot examples with their pictures cost their tokens once for the whole map."""
    images = [make_scene(seed).picture for seed in range(23)]
    shots = example_turns(list(zip(images[:3], ("one", "two", "three"), strict=True)), prompt="What is it?")
    engine = LocalEngine(load_model("starter"))
    n_read, n_looked = [0], [0]

    def count(module: Any, args: Any, kwargs: Any) -> None:
        n_read[0] += kwargs["inputs_embeds"].shape[0] * kwargs["inputs_embeds"].shape[1]

    def look(module: Any, args: Any, kwargs: Any) -> None:
        n_looked[0] += kwargs["pixel_values"].shape[0]

    engine.model.model.text_model.register_forward_pre_hook(count, with_kwargs=True)
    engine.model.model.vision_model.register_forward_pre_hook(look, with_kwargs=True)
    how = Settings(max_tokens=1)
    run = PictureMap(
        engine, "What is it?", images[3:], examples=shots, batch_size=5, resume=False, settings=how
    )
    list(run)
    question = Turn("user", (Picture(None, "p", images[3]), Text("What is it?")))
    n_all = engine.bill([*shots, question], how).n_tokens
    n_own = engine.bill([question], how).n_tokens
    n_shared = n_all - n_own
    assert n_looked[0] == 23
    assert n_shared > 100
    assert n_read[0] <= n_shared + 20 * (n_own + 2)


# --- what can be mapped over --------------------------------------------------------------------------------


def test_the_table_has_the_rows_in_their_order_under_their_labels() -> None:
    """Whatever order the model answers in; the index is the column's own."""
    engine = FakeEngine()
    frame = pd.DataFrame({"photo": dots(9), "title": list("abcdefghi")}, index=[f"r{n}" for n in range(9)])
    frame.iloc[4, 0] = None
    mapped = map_pictures(engine, "Say {row.title}", frame.photo, table=frame, batch_size=4, **QUIET)
    assert list(mapped.columns) == ["picture", "answer", "tokens", "seconds", "error"]
    assert mapped.index.equals(frame.index)
    assert mapped.answer.drop("r4").tolist() == [f"Say {c}" for c in "abcdfghi"]
    assert "no picture in this row" in mapped.error["r4"]
    assert mapped.error.drop("r4").isna().all()
    assert mapped.tokens.sum() == 16
    assert frame.join(mapped)["answer"]["r8"] == "Say i"


def test_a_slice_or_a_selection_of_a_column_keeps_its_rows() -> None:
    frame = pd.DataFrame({"photo": dots(6), "title": list("abcdef")})
    names: dict[str, object] = {"frame": frame, "keep": frame.title.isin(["b", "e"])}
    for expression, expected in (
        ("frame.photo[2:4]", ["c", "d"]),
        ('frame["photo"][keep]', ["b", "e"]),
        ("frame[keep].photo", ["b", "e"]),
        ("frame.photo.sample(3, random_state=1)", None),
    ):
        pictures, table = evaluated(expression, names)
        mapped = map_pictures(FakeEngine(), "{row.title}", pictures, table=table, **QUIET)
        assert mapped.answer.tolist() == (expected or frame.title[mapped.index].tolist())


def test_every_kind_of_collection_is_gone_through(tmp_path: Path) -> None:
    """Lists, dicts, arrays, generators, globs, folders, one picture, rows of several pictures."""
    images = dots(3)
    for n, image in enumerate(images):
        image.save(tmp_path / f"p{n}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    paths = sorted(tmp_path.glob("*.png"))
    collections: list[tuple[object, list[str]]] = [
        (images, ["it[0]", "it[1]", "it[2]"]),
        (tuple(map(str, paths)), ["p0.png", "p1.png", "p2.png"]),
        (dict(zip("abc", images, strict=True)), ["a", "b", "c"]),
        (np.stack([np.asarray(image) for image in images]), ["it[0]", "it[1]", "it[2]"]),
        ((image for image in images), ["it[0]", "it[1]", "it[2]"]),
        (tmp_path.glob("*.png"), None),  # type: ignore[list-item]
        (str(tmp_path / "*.png"), ["p0.png", "p1.png", "p2.png"]),
        (tmp_path, ["p0.png", "p1.png", "p2.png"]),
        ([path.read_bytes() for path in paths], ["it[0]", "it[1]", "it[2]"]),
        (images[0], ["it[0]"]),
        ([[images[0], images[1]], images[2]], ["it[0]", "it[1]"]),
    ]
    for collection, names in collections:
        engine = FakeEngine()
        run = PictureMap(engine, "What is it?", collection, name="it", resume=False)
        rows = sorted(run, key=lambda row: row.position)
        assert not any(row.error for row in rows), rows
        assert names is None or [row.name for row in rows] == names
        shown = [len(turns[-1].pictures) for turns, _ in engine.history]
        assert sum(shown) == (1 if names == ["it[0]"] else 3)


def test_the_pictures_place_is_marked_or_first() -> None:
    engine = FakeEngine()
    map_pictures(engine, "Before {picture} after", dots(1), **QUIET)
    map_pictures(engine, "Only words", dots(1), **QUIET)
    map_pictures(engine, "{picture} or {other}", dots(1), names={"other": dots(2)[1]}, **QUIET)
    map_pictures(engine, "as {it} stands", dots(1), raw=True, **QUIET)
    shown = [turns[-1].parts for turns, _ in engine.history]
    assert [type(part).__name__ for part in shown[0]] == ["Text", "Picture", "Text"]
    assert [type(part).__name__ for part in shown[1]] == ["Picture", "Text"]
    assert [type(part).__name__ for part in shown[2]] == ["Picture", "Text", "Picture"]
    assert shown[3][1] == Text("as {it} stands")


def test_what_a_row_brings_in_is_data() -> None:
    """Braces, URLs and references in a column are words."""
    engine = FakeEngine()
    title = "{secret} ![](/etc/passwd) https://example.org/a.png"
    map_pictures(engine, "{row.title}", dots(1), table=[{"title": title}], names={"secret": 7}, **QUIET)
    assert engine.history[0][0][-1].text == title


def test_a_generator_is_not_consumed_ahead_of_the_model() -> None:
    """At the first answer only a few batches were asked for, and no picture is kept afterwards."""
    asked = [0]

    def endless() -> Iterator[Image.Image]:
        while True:
            asked[0] += 1
            yield Image.new("RGB", (8, 8), (asked[0] % 256, asked[0] // 256, 9))

    run = PictureMap(FakeEngine(), "What?", endless(), batch_size=4)
    assert run.n_total is None
    for n, row in enumerate(run, start=1):
        assert asked[0] <= n + 16
        assert row.pictures
        if n == 40:
            break
    assert all(row.pictures == () for row in run.rows)


# --- bad input ----------------------------------------------------------------------------------------------


def test_bad_pictures_are_rows_with_an_error(tmp_path: Path) -> None:
    """Mixed types, strings that are no paths, broken bytes, None and NaN; the others are answered."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    good = dots(2)
    rows: list[object] = [
        good[0],
        "nowhere.png",
        tmp_path / "broken.png",
        None,
        float("nan"),
        7,
        good[1],
        object,
    ]
    mapped = map_pictures(FakeEngine(), "What?", rows, **QUIET)
    assert mapped.error.isna().tolist() == [True, False, False, False, False, False, True, False]
    assert mapped.answer[mapped.error.isna()].tolist() == ["What?", "What?"]
    assert mapped.answer[mapped.error.notna()].isna().all()
    kinds = [error.partition(":")[0] for error in mapped.error.dropna()]
    assert kinds[:3] == ["PictureNotFoundError", "PictureDecodeError", "PictureTypeError"]


def test_no_pictures_are_an_empty_table(tmp_path: Path) -> None:
    """An empty selection is a result; a pattern without a file is a mistake."""
    for nothing in ([], {}, pd.Series([], dtype=object), iter(())):
        mapped = map_pictures(FakeEngine(), "What?", nothing, **QUIET)
        assert mapped.empty
        assert list(mapped.columns) == ["picture", "answer", "tokens", "seconds", "error"]
    for pattern in (str(tmp_path / "*.png"), tmp_path):
        with pytest.raises(PictureError):
            map_pictures(FakeEngine(), "What?", pattern, **QUIET)


def test_what_is_no_collection_is_said_in_three_lines() -> None:
    frame = pd.DataFrame({"photo": dots(2), "title": ["a", "b"]})
    for wrong, words in ((7, "nothing to map over"), (frame, "several columns")):
        with pytest.raises((PictureError, OptionError), match=words) as caught:
            map_pictures(FakeEngine(), "What?", wrong, **QUIET)
        assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(OptionError, match="table rows for"):
        map_pictures(FakeEngine(), "{row.title}", dots(3), table=frame, **QUIET)
    with pytest.raises(PromptError, match="no column 'titel'") as caught:
        map_pictures(FakeEngine(), "{row.titel}", frame.photo, table=frame, **QUIET)
    assert caught.value.hint == "{row.title}"
    with pytest.raises(OptionError, match="batch_size"):
        map_pictures(FakeEngine(), "What?", dots(2), batch_size=0, **QUIET)
    with pytest.raises(LookupError, match="no variable 'fram'"):
        evaluated("fram.photo", {"frame": frame})


def test_a_generator_that_raises_keeps_the_rows_before_it() -> None:
    """It is said once they are answered; the next run asks only what is missing."""

    def faulty(n_good: int) -> Iterator[Image.Image]:
        yield from dots(20)[:n_good]
        raise ZeroDivisionError("the disk is gone")

    engine = FakeEngine()
    run = PictureMap(engine, "What?", faulty(7), batch_size=3)
    with pytest.raises(PromptError, match="ZeroDivisionError: the disk is gone") as caught:
        list(run)
    assert "7 rows" in caught.value.have
    assert len(run.to_frame()) == 7
    assert not run.is_complete
    mapped = map_pictures(engine, "What?", dots(20), **QUIET)
    assert len(mapped) == 20
    assert len(engine.history) == 20


def test_without_pandas_it_is_said_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    engine = FakeEngine()
    with pytest.raises(OptionError, match="pandas is not installed"):
        map_pictures(engine, "What?", dots(2), **QUIET)
    assert engine.history == []


# --- going on -----------------------------------------------------------------------------------------------


def test_a_second_run_asks_only_what_is_missing() -> None:
    """After leaving early, with pictures that were added since; equal pictures are rows each."""
    engine = FakeEngine()
    images = [*dots(10), dots(10)[0]]
    run = PictureMap(engine, "What?", images, batch_size=2)
    for row in run:
        if row.position == 4:
            break
    n_first = len(engine.history)
    assert 5 <= n_first <= 6
    again = PictureMap(engine, "What?", [Image.new("RGB", (9, 9)), *images])
    rows = list(again)
    assert sorted(row.position for row in rows) == list(range(12))
    assert again.n_kept == len(run.rows)
    assert len(engine.history) <= 12 + 1  # an answer that nobody waited for may have been under way
    other = PictureMap(engine, "What else?", images)
    list(other)
    assert other.n_kept == 0


def test_asking_again_on_purpose_and_drawing_anew() -> None:
    """``resume=False`` asks all; random answers without a seed are drawn anew by the next whole run."""
    engine = FakeEngine()
    for _ in range(2):
        map_pictures(engine, "What?", dots(3), resume=False, **QUIET)
    assert len(engine.history) == 6
    for _ in range(2):
        map_pictures(engine, "Draw?", dots(3), temperature=1.0, **QUIET)
    assert len(engine.history) == 12
    for _ in range(2):
        map_pictures(engine, "Draw?", dots(3), temperature=1.0, seed=1, **QUIET)
    assert len(engine.history) == 15


def test_a_journal_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Across processes, as far as the map can tell; each picture is asked once."""
    path = tmp_path / "rows.jsonl"
    engine = FakeEngine()
    run = PictureMap(engine, "What?", dots(10), journal=path, batch_size=2)
    for row in run:
        if row.position == 3:
            break
    forget_maps()
    mapped = map_pictures(engine, "What?", dots(10), journal=path, **QUIET)
    assert len(mapped) == 10
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 10
    with pytest.raises(OptionError, match="another prompt"):
        map_pictures(engine, "What else?", dots(10), journal=path, **QUIET)
    with pytest.raises(OptionError, match="another settings"):
        map_pictures(engine, "What?", dots(10), journal=path, max_tokens=3, **QUIET)
    with pytest.raises(OptionError, match="another model"):
        map_pictures(FakeEngine(name="other"), "What?", dots(10), journal=path, **QUIET)
    with pytest.raises(OptionError, match="cannot be written"):
        map_pictures(engine, "What?", dots(10), journal=tmp_path / "no" / "j.jsonl", **QUIET)
    n = len(engine.history)
    held = PictureMap(engine, "What?", dots(10), journal=path)
    with pytest.raises(OptionError, match="another run writes"):
        map_pictures(engine, "What?", dots(10), journal=path, **QUIET)
    list(held)
    assert len(engine.history) == n


def test_choices_and_types_come_back_from_a_journal(starter: LocalEngine, tmp_path: Path) -> None:
    images = [make_scene(seed).picture for seed in range(4)]
    for n, held in enumerate(({"choices": {"Y": "yes", "N": "no"}}, {"type": Literal["yes", "no"]})):
        path = tmp_path / f"{n}.jsonl"
        ask: dict[str, Any] = {"journal": path, **held, **QUIET}
        first = map_pictures(starter, "Is there a circle?", images, **ask)
        second = map_pictures(starter, "Is there a circle?", images, **ask)
        pd.testing.assert_frame_equal(first, second)
        assert len(path.read_text().splitlines()) == 5


# --- the model fails ----------------------------------------------------------------------------------------


def test_running_out_of_memory_halves_the_batch(
    starter: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocator's error in the forward of more than three rows: all rows are answered, and it is said."""
    real = TogetherRun._generate

    def scarce(self: TogetherRun, inputs: Any, *args: Any) -> Any:
        if inputs["input_ids"].shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, inputs, *args)

    images = [make_scene(seed).picture for seed in range(12)]
    expected = map_pictures(starter, "What is it?", images, **QUIET)
    monkeypatch.setattr(TogetherRun, "_generate", scarce)
    run = PictureMap(starter, "What is it?", images, batch_size=10, resume=False)
    list(run)
    assert run.to_frame().answer.tolist() == expected.answer.tolist()
    assert [note for note in run.notes if "halved" in note]
    monkeypatch.setattr(TogetherRun, "_generate", lambda *args: real(None, None))  # type: ignore[arg-type,call-arg]
    again = PictureMap(starter, "What is it?", images, batch_size=6, resume=False)
    assert not any(row.error for row in again)  # one by one
    assert [note for note in again.notes if "one by one" in note]


def test_a_row_too_large_by_itself_is_a_row_with_an_error() -> None:
    """Out of memory with one row, and a prompt beyond the context among others."""
    engine = FakeEngine(OutOfMemoryError("no memory"), "fine")
    mapped = map_pictures(engine, "What?", dots(2), batch_size=1, **QUIET)
    assert mapped.error.notna().tolist() == [True, False]
    small = LocalEngine(tiny_models.tiny("idefics3"))
    table = [{"words": "many words " * (4000 if n == 1 else 1)} for n in range(3)]
    run = PictureMap(small, "{row.words}", dots(3), table=table, settings=Settings(max_tokens=3))
    rows = sorted(run, key=lambda row: row.position)
    assert ["ContextLengthError" in row.error for row in rows] == [False, True, False]


def test_a_model_that_fails_at_everything_ends_the_map() -> None:
    """After a few rows, with its own error; a model that is gone at once."""
    engine = FakeEngine(*[GenerationError("broken") for _ in range(50)])
    with pytest.raises(GenerationError, match="broken"):
        map_pictures(engine, "What?", dots(50), **QUIET)
    assert len(engine.history) < 20
    gone = LocalEngine(load_model(tiny_models.folder_of("idefics3")))
    run = PictureMap(gone, "What?", dots(9), batch_size=2, settings=Settings(max_tokens=2))
    rows = iter(run)
    next(rows)
    gone.close()
    with pytest.raises(ModelError, match="unloaded"):
        list(rows)
    assert run.rows


# --- in the notebook ----------------------------------------------------------------------------------------


def test_the_public_function_does_the_same() -> None:
    mapped = vlm_magic.map_pictures(FakeEngine(), "What?", dots(2), **QUIET)
    assert mapped.answer.tolist() == ["What?", "What?"]


SETUP = """
import torch; torch.set_num_threads(1)
%load_ext vlm_magic
import vlm_magic
%vlm_load
from vlm_magic.starter.scenes import make_scene
photos = [make_scene(seed, n_objects=1 + seed % 3).picture for seed in range(60)]
"""
MAPPED = "%%vlm --map photos --journal rows.jsonl --batch-size 2 -o said\nDescribe the picture."


def shown(notebook: Notebook, source: str) -> str:
    """Run a cell to its end: words, errors and the last state of every output."""
    words, states = "", {}
    for message in notebook.messages(notebook.start(source, "cell")):
        content = message["content"]
        if message["msg_type"] in ("display_data", "update_display_data"):
            states[content.get("transient", {}).get("display_id", "")] = content["data"]["text/plain"]
        words += content.get("text", "") + "\n".join(content.get("traceback", []))
    return words + "".join(states.values())


def test_a_killed_kernel_loses_no_row_and_asks_none_twice(tmp_path: Path) -> None:
    """SIGKILL in the middle of a journaled map; another kernel goes on: each picture once."""
    path = tmp_path / "rows.jsonl"
    with running_notebook(tmp_path, "day.ipynb") as notebook:
        assert "Error" not in shown(notebook, SETUP)
        notebook.start(MAPPED, "cell")
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < 8):
            time.sleep(0.05)
        process = notebook._manager.provisioner.process  # type: ignore[union-attr]
        process.send_signal(signal.SIGKILL)
        process.wait()
        n_before = path.read_bytes().count(b"\n") - 1
        assert 7 <= n_before < 60
        notebook.restart()
        assert "Error" not in shown(notebook, SETUP)
        assert f"{n_before} answered before" in shown(notebook, MAPPED)
        assert shown(notebook, "print(len(said), said.error.isna().all())") == "60 True\n"
        assert shown(notebook, "print(len(vlm_magic.session().conversation))") == "0\n"
    lines = map(json.loads, path.read_text().splitlines()[1:])
    keys = [record["key"] for record in lines]
    assert len(keys) == len(set(keys)) == 60


def test_an_interrupted_map_keeps_what_is_there(tmp_path: Path) -> None:
    """One line of error, the table so far, the model still loaded; the same cell then asks the others."""
    cell = "%%vlm --map photos --batch-size 2 -o said\nDescribe the picture."
    with running_notebook(tmp_path, "day.ipynb") as notebook:
        assert "Error" not in shown(notebook, SETUP)
        errors, is_pressed = [], False
        for message in notebook.messages(notebook.start(cell, "cell")):
            if message["msg_type"] == "display_data" and not is_pressed:
                is_pressed = True
                notebook.interrupt()
            errors += message["content"].get("traceback", [])
        assert len(errors) == 1
        assert errors[0].startswith("Interrupted: ")
        n_kept = int(shown(notebook, "print(len(said))"))
        assert 0 < n_kept < 60
        assert f"{n_kept} answered before" in shown(notebook, cell)
        assert shown(notebook, "print(len(said), said.error.isna().all())") == "60 True\n"


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_nothing_on_a_sheet_can_run_or_fetch(vector: str) -> None:
    """Wherever words of people and models stand: labels, names, answers, errors, remarks, notes."""
    cards = [
        Card(vector, vector, vector, probability=0.5, remark=vector),
        Card(vector, vector, error=vector),
    ]
    for is_running in (True, False):
        sheet = Sheet(cards, 2, 3, cards, (vector,), (vector,), is_running, out=vector)
        bundle = sheet_bundle(sheet)
        page = re.sub(r"^<style>.*?</style>", "", bundle["text/html"], flags=re.DOTALL)
        ours = r'<i style="--share:\d+%">|<span style="width:[\d.]+%">|</?(details|summary|i)>'
        assert live_things(re.sub(ours, "", page)) == []
        assert live_things(render_with_html(bundle["text/markdown"])) == []


def test_forgetting_asks_every_picture_again(starter: LocalEngine) -> None:
    """Rows that were answered are kept until ``%vlm_forget``."""
    asked = [scene.picture for scene in map(make_scene, range(3))]
    assert map_pictures(starter, "What is it?", asked, progress=False).error.isna().all()
    show_forget(Workspace())
    run = PictureMap(starter, "What is it?", asked)
    assert len(list(run)) == 3
    assert run.n_kept == 0


def test_items_know_how_many_they_are() -> None:
    assert items_of(dots(3)).n == 3
    assert items_of(iter(dots(3))).n is None
