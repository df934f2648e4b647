"""One prompt over many pictures: same answers as one by one, nothing lost, whatever goes wrong."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from notebook_kernel import Notebook, running_notebook
from PIL import Image
from script_vectors import VECTOR_LIST, live_things, render_with_html

import vlm_magic
from vlm_magic.errors import (
    ExpressionError,
    GenerationError,
    ModelError,
    OptionError,
    OutOfMemoryError,
    PictureError,
    PromptError,
)
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding.shared_batch import SharedBatch
from vlm_magic.models.engine import LocalEngine
from vlm_magic.outputs.panel.stop_bar import WIDGET_MIME
from vlm_magic.outputs.results.cards import Card
from vlm_magic.outputs.results.map import Sheet, sheet_bundle
from vlm_magic.shell.reports import show_forget
from vlm_magic.starter.making.evaluate import SKILLS
from vlm_magic.starter.making.world.scenes import make_scene
from vlm_magic.tasks.examples import example_turns
from vlm_magic.tasks.map.batches import BatchedRun
from vlm_magic.tasks.map.calls import map_pictures
from vlm_magic.tasks.map.journal import forget_maps
from vlm_magic.tasks.map.mapping import PictureMap
from vlm_magic.tasks.map.partitions import Partitions
from vlm_magic.tasks.map.prompt import MapPrompt
from vlm_magic.tasks.map.rows import evaluated, items_of
from vlm_magic.tasks.map.window import Window
from vlm_magic.testing import ScriptedEngine
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
    engine = ScriptedEngine()
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
        mapped = map_pictures(ScriptedEngine(), "{row.title}", pictures, table=table, **QUIET)
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
        engine = ScriptedEngine()
        run = PictureMap(engine, "What is it?", collection, name="it", resume=False)
        rows = sorted(run, key=lambda row: row.position)
        assert not any(row.error for row in rows), rows
        assert names is None or [row.name for row in rows] == names
        shown = [len(turns[-1].pictures) for turns, _ in engine.history]
        assert sum(shown) == (1 if names == ["it[0]"] else 3)


def test_the_pictures_place_is_marked_or_first() -> None:
    engine = ScriptedEngine()
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
    engine = ScriptedEngine()
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

    run = PictureMap(ScriptedEngine(), "What?", endless(), batch_size=4)
    assert run.n_total is None
    for n, row in enumerate(run, start=1):
        assert asked[0] <= n + 16
        assert row.pictures
        if n == 40:
            break
    assert all(row.pictures == () for row in run.rows)


def test_what_draws_itself_is_drawn_in_the_persons_own_thread() -> None:
    """A figure can be drawn by one thread at a time; pictures in memory are opened by several."""
    drawn: list[threading.Thread] = []

    class Drawing:
        def __init__(self, n: int) -> None:
            self.n = n

        def _repr_png_(self) -> bytes:
            drawn.append(threading.current_thread())
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (self.n, 0, 0)).save(buffer, "PNG")
            return buffer.getvalue()

    rows = list(PictureMap(ScriptedEngine(), "What?", [Drawing(n) for n in range(6)]))
    assert [row.error for row in rows] == [""] * 6
    assert set(drawn) == {threading.current_thread()}


def test_large_pictures_wait_within_the_bound_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows a batch may have: few are opened, and all are answered."""
    from vlm_magic.tasks.map import window

    monkeypatch.setattr(window, "_WINDOW_BYTES", 5 * 4 * 100 * 100)  # of pictures of 100 by 100: five
    asked = [0]

    def large() -> Iterator[Image.Image]:
        for n in range(60):
            asked[0] += 1
            yield Image.new("RGB", (100, 100), (n, n, 9))

    run = PictureMap(ScriptedEngine(), "What?", large(), batch_size=8)
    most = 0
    for n, _ in enumerate(run, start=1):
        most = max(most, asked[0] - n)
    assert len(run.rows) == 60
    assert most <= 6 + 8, "six wait, and eight are asked at most"


def test_rows_that_were_put_back_are_taken_first_in_their_order() -> None:
    """After a batch for which there was no memory."""
    window = Window(items_of(dots(6), None).rows, MapPrompt("What?", {}), PictureOptions())
    with ThreadPoolExecutor(1) as pool:
        window.fill(pool, 6)
        assert list(window.settle(2, lambda key: False)) == []
        first = window.take(2)
        window.put_back(first[::-1])
        assert list(window.settle(2, lambda key: False)) == []
        again = window.take(2)
    assert [waiting.item.position for waiting in again] == [0, 1]


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
    mapped = map_pictures(ScriptedEngine(), "What?", rows, **QUIET)
    assert mapped.error.isna().tolist() == [True, False, False, False, False, False, True, False]
    assert mapped.answer[mapped.error.isna()].tolist() == ["What?", "What?"]
    assert mapped.answer[mapped.error.notna()].isna().all()
    kinds = [error.partition(":")[0] for error in mapped.error.dropna()]
    assert kinds[:3] == ["PictureNotFoundError", "PictureDecodeError", "PictureTypeError"]


def test_no_pictures_are_an_empty_table(tmp_path: Path) -> None:
    """An empty selection is a result; a pattern without a file is a mistake."""
    for nothing in ([], {}, pd.Series([], dtype=object), iter(())):
        mapped = map_pictures(ScriptedEngine(), "What?", nothing, **QUIET)
        assert mapped.empty
        assert list(mapped.columns) == ["picture", "answer", "tokens", "seconds", "error"]
    for pattern in (str(tmp_path / "*.png"), tmp_path):
        with pytest.raises(PictureError):
            map_pictures(ScriptedEngine(), "What?", pattern, **QUIET)


def test_what_is_no_collection_is_said_in_three_lines() -> None:
    frame = pd.DataFrame({"photo": dots(2), "title": ["a", "b"]})
    for wrong, words in ((7, "nothing to map over"), (frame, "several columns")):
        with pytest.raises((PictureError, OptionError), match=words) as caught:
            map_pictures(ScriptedEngine(), "What?", wrong, **QUIET)
        assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(OptionError, match="table rows for"):
        map_pictures(ScriptedEngine(), "{row.title}", dots(3), table=frame, **QUIET)
    with pytest.raises(PromptError, match="no column 'titel'") as caught:
        map_pictures(ScriptedEngine(), "{row.titel}", frame.photo, table=frame, **QUIET)
    assert caught.value.hint == "{row.title}"
    with pytest.raises(PromptError, match="no column 'author'") as caught:
        map_pictures(ScriptedEngine(), "{row.author}", frame.photo, table=frame, **QUIET)
    assert caught.value.hint == "{row.photo}", "there is a table, so another one is not what it needs"
    with pytest.raises(OptionError, match="batch_size"):
        map_pictures(ScriptedEngine(), "What?", dots(2), batch_size=0, **QUIET)
    with pytest.raises(LookupError, match="no variable 'fram'"):
        evaluated("fram.photo", {"frame": frame})


def test_a_generator_that_raises_keeps_the_rows_before_it() -> None:
    """It is said once they are answered; the next run asks only what is missing."""

    def faulty(n_good: int) -> Iterator[Image.Image]:
        yield from dots(20)[:n_good]
        raise ZeroDivisionError("the disk is gone")

    engine = ScriptedEngine()
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
    engine = ScriptedEngine()
    with pytest.raises(OptionError, match="pandas is not installed"):
        map_pictures(engine, "What?", dots(2), **QUIET)
    assert engine.history == []


# --- going on -----------------------------------------------------------------------------------------------


def test_a_second_run_asks_only_what_is_missing() -> None:
    """After leaving early, with pictures that were added since; equal pictures are rows each."""
    engine = ScriptedEngine()
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
    engine = ScriptedEngine()
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
    engine = ScriptedEngine()
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
    with pytest.raises(OptionError, match="other settings"):
        map_pictures(engine, "What?", dots(10), journal=path, max_tokens=3, **QUIET)
    with pytest.raises(OptionError, match="another model"):
        map_pictures(ScriptedEngine(name="other"), "What?", dots(10), journal=path, **QUIET)
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
    real = SharedBatch._generate

    def scarce(self: SharedBatch, inputs: Any, *args: Any) -> Any:
        if inputs["input_ids"].shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, inputs, *args)

    images = [make_scene(seed).picture for seed in range(12)]
    expected = map_pictures(starter, "What is it?", images, **QUIET)
    monkeypatch.setattr(SharedBatch, "_generate", scarce)
    run = PictureMap(starter, "What is it?", images, batch_size=10, resume=False)
    list(run)
    assert run.to_frame().answer.tolist() == expected.answer.tolist()
    assert [note for note in run.notes if "halved" in note]
    monkeypatch.setattr(SharedBatch, "_generate", lambda *args: real(None, None))  # type: ignore[arg-type,call-arg]
    again = PictureMap(starter, "What is it?", images, batch_size=6, resume=False)
    assert not any(row.error for row in again)  # one by one
    assert [note for note in again.notes if "one by one" in note]


def test_a_row_too_large_by_itself_is_a_row_with_an_error() -> None:
    """Out of memory with one row, and a prompt beyond the context among others."""
    engine = ScriptedEngine(OutOfMemoryError("no memory"), "fine")
    mapped = map_pictures(engine, "What?", dots(2), batch_size=1, **QUIET)
    assert mapped.error.notna().tolist() == [True, False]
    small = LocalEngine(tiny_models.tiny("idefics3"))
    table = [{"words": "many words " * (4000 if n == 1 else 1)} for n in range(3)]
    run = PictureMap(small, "{row.words}", dots(3), table=table, settings=Settings(max_tokens=3))
    rows = sorted(run, key=lambda row: row.position)
    assert ["ContextLengthError" in row.error for row in rows] == [False, True, False]


def test_a_model_that_fails_at_everything_ends_the_map() -> None:
    """After a few rows, with its own error; a model that is gone at once."""
    engine = ScriptedEngine(*[GenerationError("broken") for _ in range(50)])
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
    mapped = vlm_magic.map_pictures(ScriptedEngine(), "What?", dots(2), **QUIET)
    assert mapped.answer.tolist() == ["What?", "What?"]


SETUP = """
import torch; torch.set_num_threads(1)
%load_ext vlm_magic
import vlm_magic
%vlm_load
from vlm_magic.starter.making.world.scenes import make_scene
photos = [make_scene(seed, n_objects=1 + seed % 3).picture for seed in range(60)]
"""
MAPPED = "%%vlm --map photos --journal rows.jsonl --batch-size 2 -o said\nDescribe the picture."


def shown(notebook: Notebook, source: str) -> str:
    """Run a cell to its end: words, errors and the last state of every output."""
    words, states = "", {}
    for message in notebook.messages(notebook.start(source, "cell")):
        content = message["content"]
        if message["msg_type"] in ("display_data", "update_display_data"):
            if set(content["data"]) == {WIDGET_MIME}:
                continue  # the Stop bar: other sites show nothing of it
            states[content.get("transient", {}).get("display_id", "")] = content["data"]["text/plain"]
        words += content.get("text", "") + "\n".join(content.get("traceback", []))
    return words + "".join(states.values())


def test_a_journal_refuses_a_model_that_was_trained_since(tmp_path: Path) -> None:
    """One number of one weight is enough: the name alone says nothing."""
    engine = LocalEngine(load_model(tiny_models.folder_of("idefics3")))
    path, how = tmp_path / "rows.jsonl", Settings(max_tokens=2)
    list(PictureMap(engine, "What?", dots(2), journal=path, settings=how))
    again = PictureMap(engine, "What?", dots(2), journal=path, settings=how)
    assert len(list(again)) == again.n_kept == 2
    with torch.no_grad():
        next(engine.model.parameters()).view(-1)[0] += 0.5
    with pytest.raises(OptionError, match="another model"):
        PictureMap(engine, "What?", dots(2), journal=path, settings=how)
    engine.close()


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
            if message["msg_type"] == "update_display_data" and not is_pressed:  # the sheet has its first row
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


def test_columns_that_share_a_name_get_a_hint_that_works() -> None:
    """The hint is taken word for word, and the map that it names has the row's other columns too."""
    picture = Image.new("RGB", (8, 8))
    frame = pd.DataFrame([[1, picture, picture, "a"]], columns=["n", "photo", "photo", "title"])
    for written in ("frame.photo", 'frame["photo"]', "frame"):
        found, table = evaluated(written, {"frame": frame})
        with pytest.raises(OptionError, match="several columns") as caught:
            items_of(found, table, name=written)
        hint = caught.value.hint
        assert "iloc" in hint
        (item,) = items_of(*evaluated(hint, {"frame": frame}), name=hint).rows
        assert item.source is picture
        assert item.row.title == "a"


def test_a_column_that_is_not_there_is_named_as_it_was_written() -> None:
    pictures = [Image.new("RGB", (8, 8))]
    names = {"df": pd.DataFrame({"foto": pictures, "a title": ["x"]})}
    for written in ("df.fotos", 'df["fotos"]', "df.head(1).fotos"):
        with pytest.raises(ExpressionError, match="fotos") as caught:
            evaluated(written, names)
        said = str(caught.value)
        assert f"{{{written}}} raised" in said
        assert "columns: foto, a title" in said
        assert "_vlm_magic" not in said
    found, _ = evaluated("df.foto", names)
    assert next(items_of(found, name="df.foto").rows).name == "df.foto[0]"


def test_a_table_of_arrow_is_refused_with_the_names_of_its_columns() -> None:
    table = pytest.importorskip("pyarrow", reason="pyarrow is not installed").table(
        {"foto": ["a.png"], "n": [1]}
    )
    with pytest.raises(OptionError, match="several columns") as caught:
        items_of(table, name="table")
    assert "have: foto, n" in str(caught.value)


def test_lists_and_tuples_of_names_are_values_and_no_globs() -> None:
    from vlm_magic.tasks.map.rows import evaluated

    names = {colour: Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")}
    for written in ("[red, blue]", "(red, blue)", "(red, blue,)"):
        assert evaluated(written, names) == ([names["red"], names["blue"]], None)
    assert evaluated("[ab]*.png", names) == ("[ab]*.png", None)


def test_pictures_of_a_list_of_names_are_called_by_these_names() -> None:
    """``[red, blue][0]`` says less than ``red``; a list that another one is spread into has places again."""
    dots_ = dots(2)
    for written, called in (
        ("[red, blue]", ["red", "blue"]),
        ("(red, shots[1])", ["red", "shots[1]"]),
        ("[*shots]", ["[*shots][0]", "[*shots][1]"]),
        ("shots", ["shots[0]", "shots[1]"]),
    ):
        assert [item.name for item in items_of(dots_, name=written).rows] == called


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_in_a_file_is_its_rows(kind: str, tmp_path: Path) -> None:
    """Paths beside the file, further columns for the words."""
    paths = files_in(tmp_path, 2)
    frame = pd.DataFrame({"title": ["a", "b"], "Path": [path.name for path in paths]})
    file = tmp_path / f"photos.{kind}"
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        frame.to_parquet(file)
    elif kind == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",")
    found = map_pictures(ScriptedEngine(), "{row.title}", str(file), resume=False, progress=False)
    assert list(found.answer) == ["a", "b"]
    assert list(found.picture) == ["000.png", "001.png"]


def test_a_table_without_pictures_or_that_is_none_is_said_in_three_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    for name, part in (("a.csv", "no column of pictures"), ("b.parquet", "cannot be read")):
        with pytest.raises(OptionError, match=part) as caught:
            items_of(str(tmp_path / name))
        assert len(str(caught.value).splitlines()) == 3


# ---- into a folder ---------------------------------------------------------------------------------------


def files_in(folder: Path, n: int) -> list[Path]:
    paths = []
    for number in range(n):
        path = folder / f"{number:03d}.png"
        Image.new("RGB", (8 + number, 8), (number, 0, 0)).save(path)
        paths.append(path)
    return paths


def test_rows_go_into_a_folder_of_parts_and_only_what_is_missing_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third part, gone on with; then a row of the second part is another picture."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    monkeypatch.setattr(
        "vlm_magic.tasks.map.mapping.Partitions", lambda folder, header: Partitions(folder, header, 4)
    )
    paths = files_in(tmp_path, 10)
    (tmp_path / "gone.png").write_bytes(b"no picture")
    paths[9] = tmp_path / "gone.png"
    folder = tmp_path / "rows"

    def asked(stop_after: int = 100) -> tuple[int, PictureMap]:
        engine = ScriptedEngine(*[f"answer {n}" for n in range(20)])
        away = PictureMap(engine, "What?", paths, into=folder, batch_size=2)
        for n, _ in enumerate(away, start=1):
            if n == stop_after:
                break
        return len(engine.history), away

    n_first, _ = asked(stop_after=5)
    assert (folder / "part-00000.parquet").exists()
    n_second, away = asked()
    assert n_first + n_second in (9, 10)  # a stop may lose the batch that was out
    assert away.rows == []
    frame = pd.read_parquet(folder)
    assert list(frame.position) == list(range(10))
    assert list(frame.picture) == [path.name for path in paths]
    assert frame.answer.notna().sum() == 9
    assert "gone.png" in frame.error[9] or "picture" in frame.error[9]
    dataframe = pytest.importorskip("dask.dataframe", reason="dask is not installed")
    read = dataframe.read_parquet(folder).compute(scheduler="synchronous")
    assert repr(read.to_dict("list")) == repr(frame.to_dict("list"))
    assert list(away.to_frame()["rows"]) == [4, 4, 2]
    assert list(away.to_frame()["errors"]) == [0, 0, 1]
    assert [path.name for path in folder.glob(".part*.jsonl")] == [
        ".part-00002.jsonl"
    ]  # its error is asked again
    assert asked()[0] == 0
    Image.new("RGB", (99, 9)).save(paths[5])
    assert asked()[0] in (1, 4)
    assert len(pd.read_parquet(folder)) == 10
    with pytest.raises(OptionError, match="another prompt"):
        PictureMap(ScriptedEngine(), "Which?", paths, into=folder)


def test_a_folder_of_parts_goes_without_journals_and_needs_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match="own journals"):
        PictureMap(ScriptedEngine(), "What?", [], into=tmp_path / "a", journal=tmp_path / "b")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OptionError, match="pyarrow is not installed"):
        PictureMap(ScriptedEngine(), "What?", [], into=tmp_path / "a")


def test_an_interrupt_while_pictures_are_opened_stops_the_batch_that_was_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for its answers yet; the worker must not go on with them."""
    engine = ScriptedEngine(*["word " * 500] * 4, seconds_per_token=0.01)
    begun: list[Any] = []
    fill = BatchedRun._fill

    def interrupted(batches: BatchedRun, pool: Any) -> None:
        if batches._generating is not None:
            begun.append(batches._generating)
            raise KeyboardInterrupt
        fill(batches, pool)

    monkeypatch.setattr(BatchedRun, "_fill", interrupted)
    pictures = [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(4)]
    with pytest.raises(KeyboardInterrupt):
        vlm_magic.map_pictures(engine, "What?", pictures, batch_size=1, resume=False, progress=False)
    reply = begun[0].wait(20)
    assert reply.finish_reason == "interrupted"
