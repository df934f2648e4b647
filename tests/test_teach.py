"""Teaching: what is learned and what stays, stops that go on exactly, adapters on and off, errors."""

from __future__ import annotations

import base64
import math
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from script_vectors import live_things
from tiny_models import folder_of

import vlm_magic
from vlm_magic.errors import OptionError, PromptError
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.tasks.training.batch import IGNORED
from vlm_magic.tasks.training.kept import KeptLesson
from vlm_magic.tasks.training.loop import Loop
from vlm_magic.testing import ScriptedEngine

torch.set_num_threads(1)


def heart(rng: Random) -> Image.Image:
    """A shape that the starter does not know, drawn by a curve."""
    picture = Image.new("RGB", (160, 160), "white")
    side, colour = rng.randint(24, 40), rng.choice(("red", "blue", "green", "purple"))
    x, y = rng.randint(side + 4, 156 - side), rng.randint(side + 4, 152 - side)
    angles = [2 * math.pi * k / 60 for k in range(60)]
    ImageDraw.Draw(picture).polygon(
        [
            (
                x + side * math.sin(t) ** 3,
                y
                - side
                * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
                / 16,
            )
            for t in angles
        ],
        fill=colour,
    )
    return picture


def hearts(n: int) -> list[tuple[Image.Image, str]]:
    rng = Random(5)
    return [(heart(rng), "heart") for _ in range(n)]


PATCHES = [(Image.new("RGB", (48, 40), c), c) for c in ("red", "blue", "green", "black", "white", "brown")]
ASKED = "Which colour is {picture}?"
QUICK: dict[str, object] = {
    "prompt": ASKED,
    "batch_size": 2,
    "learning_rate": 0.02,
    "held_out": 0.0,
    "progress": False,
}


@pytest.fixture
def tiny() -> Iterator[LocalEngine]:
    engine = LocalEngine(load_model(folder_of("idefics3")))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def starter() -> Iterator[LocalEngine]:
    engine = LocalEngine(load_model("starter"))
    yield engine
    engine.close()


def answers(engine: LocalEngine) -> list[str]:
    """What it says of the patches, few tokens each."""
    said = []
    for picture, _ in PATCHES:
        said.append(str(vlm_magic.Session(engine, max_tokens=4).ask("Which colour is ", picture, "?").text))
    return said


def weights(lesson: vlm_magic.tasks.training.lesson.Lesson) -> dict[str, torch.Tensor]:
    assert lesson._adapter is not None
    return {name: weight.detach().clone() for name, weight in lesson._adapter.parameters().items()}


# ---- learning --------------------------------------------------------------------------------------------


def test_the_starter_learns_a_new_shape_and_keeps_what_it_knew(
    starter: LocalEngine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Held-out hearts, held-out questions of before; the adapter loads elsewhere and comes off again."""
    unseen = heart(Random(77))
    ask = lambda engine: vlm_magic.Session(engine).ask(unseen, "What shape is it?").text  # noqa: E731
    before = ask(starter)
    assert before != "heart"
    lesson = vlm_magic.teach(
        starter,
        hearts(24),
        prompt="{picture} What shape is it?",
        rehearse=vlm_magic.starter_questions(60, seed=3),
        steps=30,
        progress=False,
    )
    assert lesson.before["new"].accuracy.n_right == 0
    assert lesson.after["new"].accuracy.value == 1.0
    was, now = lesson.before["old"].accuracy, lesson.after["old"].accuracy
    assert was.n == now.n == 12
    assert now.n_right >= was.n_right - 2
    assert ask(starter) == "heart"
    assert not starter.is_as_loaded
    capfd.readouterr()
    again = LocalEngine(load_model("starter", LoadOptions(adapter=str(lesson.save(tmp_path / "heart")))))
    assert "MISSING" not in "".join(capfd.readouterr())
    assert any(note.endswith("heart") for note in again.about.remarks)
    assert ask(again) == "heart"
    again.close()
    lesson.take_off()
    assert ask(starter) == before
    assert starter.is_as_loaded
    lesson.put_on()
    assert ask(starter) == "heart"
    lesson.take_off()


@pytest.mark.parametrize(
    "name",
    [
        "idefics",
        "idefics2-chatty",
        "llava",
        "qwen2-vl",
        "gemma3",
        "mllama",
        "paligemma",
        "internvl",
        "blip-2",
    ],
)
def test_every_kind_of_model_learns_and_is_as_it_was_afterwards(name: str) -> None:
    """Random weights of real architectures: the loss falls, and without the adapter nothing has changed."""
    engine = LocalEngine(load_model(folder_of(name)))
    before = answers(engine)
    lesson = vlm_magic.teach(engine, PATCHES[:2], steps=10, **QUICK)
    assert sum(lesson.losses[-2:]) < 0.97 * sum(lesson.losses[:2])
    lesson.take_off()
    assert engine.is_as_loaded
    assert answers(engine) == before
    engine.close()


@pytest.mark.parametrize("quantize", ["8bit", "int8", "torchao-int8"])
@pytest.mark.filterwarnings("ignore")  # those libraries have something to say about their own futures
def test_quantised_models_learn_by_lora_without_a_word_for_each_product(
    quantize: str, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = LocalEngine(load_model(folder_of("idefics3"), LoadOptions(quantize=quantize)))
    lesson = vlm_magic.teach(engine, PATCHES[:2], steps=8, **QUICK)
    assert sum(lesson.losses[-2:]) < 0.97 * sum(lesson.losses[:2])
    assert "MatMul8bitLt" not in capfd.readouterr().err
    engine.close()


def test_all_weights_learn_come_back_and_are_saved_as_a_model(tiny: LocalEngine, tmp_path: Path) -> None:
    before = answers(tiny)
    lesson = vlm_magic.teach(tiny, PATCHES[:2], steps=30, method="all", **{**QUICK, "learning_rate": 0.005})
    learned = answers(tiny)
    assert learned != before
    other = LocalEngine(load_model(lesson.save(tmp_path / "taught")))
    assert answers(other) == learned
    other.close()
    lesson.take_off()
    assert answers(tiny) == before
    lesson.put_on()
    assert answers(tiny) == learned


def test_the_same_call_learns_the_same_and_another_seed_another_thing(tiny: LocalEngine) -> None:
    first = weights(vlm_magic.teach(tiny, PATCHES, steps=5, **QUICK))
    second = weights(vlm_magic.teach(tiny, PATCHES, steps=5, **QUICK))
    other = weights(vlm_magic.teach(tiny, PATCHES, steps=5, seed=1, **QUICK))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_map_asks_again_after_a_lesson(tiny: LocalEngine) -> None:
    """What this process remembers of a map is another model's answer then."""
    pictures = [picture for picture, _ in PATCHES]
    ask = lambda: list(vlm_magic.map_pictures(tiny, ASKED, pictures, progress=False, max_tokens=4).answer)  # noqa: E731
    before = ask()
    vlm_magic.teach(tiny, PATCHES, steps=25, **QUICK)
    assert ask() != before


# ---- stopping --------------------------------------------------------------------------------------------


def interrupt_after(engine: LocalEngine, n_steps: int) -> threading.Thread:
    """Sends the kernel's interrupt once so many steps are done."""

    def watch() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            lesson = vlm_magic.lesson(engine)
            if lesson is not None and len(lesson.losses) >= n_steps:
                signal.raise_signal(signal.SIGINT)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_an_interrupt_keeps_what_was_learned_and_the_same_call_goes_on_exactly(
    tiny: LocalEngine, tmp_path: Path
) -> None:
    """In this kernel, and in another one from the folder: the weights of a lesson that nobody stopped."""
    steps = 60
    whole = weights(vlm_magic.teach(tiny, PATCHES, steps=steps, **QUICK))
    folder = tmp_path / "kept"
    engine = LocalEngine(load_model(folder_of("idefics3")))
    thread = interrupt_after(engine, 3)
    with pytest.raises(KeyboardInterrupt, match=f"of {steps} steps are done and kept") as caught:
        vlm_magic.teach(engine, PATCHES, steps=steps, keep=folder, **QUICK)
    thread.join()
    assert caught.value._render_traceback_()[0].startswith("Interrupted: ")
    lesson = vlm_magic.lesson(engine)
    assert lesson is not None
    assert lesson.is_on
    assert 3 <= len(lesson.losses) < steps
    assert len(answers(engine)) == len(PATCHES)  # the model answers, with what it has learned so far
    elsewhere = LocalEngine(load_model(folder_of("idefics3")))
    for go_on in (engine, elsewhere):
        done = vlm_magic.teach(go_on, PATCHES, steps=steps, keep=folder, **QUICK)
        found = weights(done)
        assert len(done.losses) == steps
        assert all(torch.equal(whole[name], found[name]) for name in whole)
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "lesson.json"}
    with pytest.raises(OptionError, match="holds another lesson"):
        vlm_magic.teach(engine, PATCHES, steps=steps + 1, keep=folder, **QUICK)
    for other in (engine, elsewhere):
        other.close()


def test_a_lesson_that_is_cut_off_while_it_is_kept_leaves_the_one_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of one step and losses of another one would go on from a place where no lesson was."""

    def after(n_steps: int) -> Loop:
        state = {"weight.a": torch.full((2,), float(n_steps))}
        return SimpleNamespace(losses=[0.5] * n_steps, state=lambda: state)  # type: ignore[return-value]

    kept = KeptLesson(tmp_path)
    kept.write("key", after(3), 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", lambda *_args, **_options: 1 // 0)  # between weights and losses
        with pytest.raises(ZeroDivisionError):
            kept.write("key", after(5), 2.0)
    found = kept.read("key")
    assert found is not None
    weights, losses, _ = found
    assert len(losses) == weights["weight.a"][0] == 3
    kept.write("key", after(7), 3.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lesson-7.safetensors", "lesson.json"]


# ---- examples --------------------------------------------------------------------------------------------


def test_a_batch_takes_what_few_shot_examples_take(tiny: LocalEngine) -> None:
    """Pairs, triples, rows, tables, paths, messages and sessions come to the same labels."""
    picture = PATCHES[0][0]
    path = Path(folder_of("idefics3")) / "red.png"
    picture.save(path)
    session = vlm_magic.Session(ScriptedEngine("red"))
    session.ask("Which colour is ", picture, "?")
    messages = [
        {"role": "user", "content": ["Which colour is ", {"type": "image", "image": picture}, "?"]},
        {"role": "assistant", "content": "red"},
    ]
    forms = [
        [(picture, "red")],
        [(str(path), ASKED, "red")],
        [{"picture": picture, "answer": "red"}],
        pd.DataFrame({"image": [picture], "label": ["red"]}),
        messages,
        [messages],
        session,
        session.conversation,
        [session],
    ]
    batches = [vlm_magic.training_batch(tiny, form, prompt=ASKED) for form in forms]
    for batch in batches:
        assert torch.equal(batch["input_ids"], batches[0]["input_ids"])
        assert torch.equal(batch["labels"], batches[0]["labels"])
    learned = batches[0]["labels"][batches[0]["labels"] != IGNORED]
    assert tiny.processor.tokenizer.decode(learned).replace("<end_of_utterance>", "").strip() == "red"


def test_a_conversation_is_one_example_with_all_its_turns(tiny: LocalEngine) -> None:
    session = vlm_magic.Session(ScriptedEngine("red", "no"))
    session.ask("Which colour is ", PATCHES[0][0], "?")
    session.ask("Is it green?")
    batch = vlm_magic.training_batch(tiny, [session, session.conversation])
    assert batch["input_ids"].shape[0] == 2
    words = tiny.processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] != IGNORED])
    assert re.findall(r"red|no", words) == ["red", "no"]


# ---- errors ----------------------------------------------------------------------------------------------


def test_what_cannot_be_taught_is_said_in_three_lines_and_changes_nothing(tiny: LocalEngine) -> None:
    refused = [
        (lambda: vlm_magic.teach(ScriptedEngine(), PATCHES), "cannot be taught from here"),
        (lambda: vlm_magic.teach(tiny, []), "no examples"),
        (lambda: vlm_magic.teach(tiny, "cats.png"), "a table or a list"),
        (lambda: vlm_magic.teach(tiny, PATCHES, method="qlora"), "no method 'qlora'"),
        (lambda: vlm_magic.teach(tiny, PATCHES, steps=0), "steps is 0"),
        (lambda: vlm_magic.teach(tiny, PATCHES, held_out=1.5), "held_out is 1.5"),
        (lambda: vlm_magic.training_batch(tiny, Image.new("RGB", (4, 4))), "this is a Image"),
        (lambda: vlm_magic.starter_questions(3, skills="colur"), "no skill 'colur'"),
    ]
    for call, said in refused:
        with pytest.raises((OptionError, PromptError), match=re.escape(said)) as caught:
            call()
        assert len(str(caught.value).splitlines()) in (2, 3), said
    assert tiny.is_as_loaded


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_not_learned_themselves() -> None:
    for quantize, method, said in (
        ("8bit", "all", "need float32"),
        ("4bit", "lora", "no gradients on a CPU"),
    ):
        engine = LocalEngine(load_model(folder_of("idefics3"), LoadOptions(quantize=quantize)))
        with pytest.raises(OptionError, match=said) as caught:
            vlm_magic.teach(engine, PATCHES, method=method)
        assert len(str(caught.value).splitlines()) == 3
        engine.close()


def test_without_peft_it_is_said_how_to_get_it(tiny: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(OptionError, match="pip install peft") as caught:
        vlm_magic.teach(tiny, PATCHES)
    assert len(str(caught.value).splitlines()) == 3


def test_a_model_with_an_adapter_of_its_own_is_left_alone(tiny: LocalEngine, tmp_path: Path) -> None:
    folder = vlm_magic.teach(tiny, PATCHES, steps=2, **QUICK).save(tmp_path / "one")
    other = LocalEngine(load_model(folder_of("idefics3"), LoadOptions(adapter=str(folder))))
    with pytest.raises(OptionError, match="was loaded with an adapter"):
        vlm_magic.teach(other, PATCHES, steps=2, **QUICK)
    other.close()


# ---- how it looks ----------------------------------------------------------------------------------------


def test_a_lesson_shows_its_curve_without_scripts(tiny: LocalEngine) -> None:
    how = {**QUICK, "held_out": 0.4}
    bundle = vlm_magic.teach(tiny, PATCHES, steps=5, **how)._repr_mimebundle_()
    page = re.sub(r"^<style>.*?</style>", "", bundle["text/html"], flags=re.DOTALL)
    curve = re.search(
        r'<img alt="The loss [\d.]+ → [\d.]+" width="560" src="data:image/svg\+xml;base64,(.*?)">', page
    )
    assert curve
    svg = base64.b64decode(curve[1]).decode()
    assert svg.count("<polyline") == 2
    assert "<script" not in svg
    assert live_things(page.replace(curve[0], "")) == []
    assert "new, put aside: 0 of 2 right before, " in bundle["text/plain"]


def test_a_terminal_sees_the_loss_fall(tiny: LocalEngine, capsys: pytest.CaptureFixture[str]) -> None:
    vlm_magic.teach(tiny, PATCHES, steps=5, **{**QUICK, "progress": True})
    out, err = capsys.readouterr()
    assert "was taught 5 steps (LoRA" in out
    assert re.search(r"loss \d\.\d{3}", err)


# ---- the starter's questions -----------------------------------------------------------------------------


def test_the_starters_questions_come_from_the_seed_and_the_starter_answers_them(starter: LocalEngine) -> None:
    first, second = (vlm_magic.starter_questions(42, seed=4) for _ in range(2))
    assert [row["question"] for row in first] == [row["question"] for row in second]
    assert vlm_magic.starter_questions(5, seed=4)[4]["answer"] == first[4]["answer"]
    assert {row["skill"] for row in vlm_magic.starter_questions(4, skills=["count", "where"])} == {
        "count",
        "where",
    }
    for row in first:
        for _, (x0, y0, x1, y1) in row["objects"]:
            assert 0 <= x0 < x1 <= row["picture"].width
            assert 0 <= y0 < y1 <= row["picture"].height
    assert vlm_magic.evaluate(starter, first).accuracy.n_right >= 38
