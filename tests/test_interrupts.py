"""Interrupts of a real kernel while a real model looks, reads and writes: twenty of twenty, three times.

A hook on a layer sends the process the signal that Jupyter's interrupt button sends, when that layer of
that stage begins, and then takes a while, as a layer of a large model does. So each round stops at the
place that it names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from notebook_kernel import Notebook, running_notebook

N_ROUNDS = 20

_SETUP = """
import os, signal, time
import torch
import vlm_magic
%load_ext vlm_magic
%vlm_load starter --as judge
%vlm_load starter --as model
from vlm_magic.starter.making.world.scenes import draw_scene

COLOURS = ["red", "blue", "green", "yellow"]
SHAPES = ["circle", "square", "triangle"]
judge, model = vlm_magic.engine("judge"), vlm_magic.engine("model")
see = list(model.model.model.vision_model.encoder.layers)
read = list(model.model.model.text_model.layers)


def scene(n):
    shape = (COLOURS[n % 4], SHAPES[n % 3], 0.15 + 0.01 * n, 0.4, 0.3)
    return draw_scene([shape, (COLOURS[(n + 1) % 4], SHAPES[(n + 1) % 3], 0.7, 0.8, 0.2)])


class Interrupt:
    \"\"\"One signal, when a layer of a stage begins.\"\"\"

    def __init__(self, stage, n):
        layers = see if stage == "vision" else read
        self.stage, self.n_steps, self.is_sent = stage, 1 + n % 3, False
        self.handle = layers[n % len(layers)].register_forward_pre_hook(self.look, with_kwargs=True)

    def look(self, module, args, options):
        n_tokens = (args[0] if args else options["hidden_states"]).shape[1]
        if self.stage != "vision" and (n_tokens == 1) != (self.stage == "decode"):
            return
        self.n_steps -= self.stage == "decode"
        if self.is_sent or (self.stage == "decode" and self.n_steps > 0):
            return
        self.is_sent = True
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)


def last():
    return vlm_magic.session().conversation.exchanges[-1]


def right(picture):
    return vlm_magic.Session(judge).ask("Describe ", picture, ".").text
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with running_notebook(tmp_path_factory.mktemp("interrupts"), "interrupts.ipynb") as notebook:
        notebook.run(_SETUP, "setup")
        assert notebook.errors == []
        yield notebook


@pytest.mark.parametrize("stage", ["vision", "prefill", "decode"])
def test_twenty_of_twenty_interrupts_leave_a_model_that_answers_right(notebook: Notebook, stage: str) -> None:
    """One line says so, the words so far are kept, and asked again it says what another model says."""
    first = {"vision": 0, "prefill": 20, "decode": 40}[stage]  # a picture that the model has not seen yet
    for n in range(N_ROUNDS):
        notebook.run(f"picture = scene({first + n})\ninterrupt = Interrupt({stage!r}, {n})", f"{stage}-{n}")
        shown = notebook.run("%vlm -m model --new Describe {picture}.", f"{stage}-{n}-stopped")
        assert notebook.errors.pop().startswith("Interrupted: the answer so far is kept"), shown
        so_far = notebook.run(
            "interrupt.handle.remove()\n"
            "print(interrupt.is_sent, last().reply.finish_reason, last().reply.n_new_tokens > 0, "
            "right(picture).startswith(last().reply.text))",
            f"{stage}-{n}-so-far",
        )
        assert so_far.split() == ["True", "interrupted", str(stage == "decode"), "True"]
        notebook.run("%vlm -m model --new -o said Describe {picture}.", f"{stage}-{n}-again")
        verdict = notebook.run("print(said == right(picture), len(said) > 10)", f"{stage}-{n}-verdict")
        assert verdict.split() == ["True", "True"]
    assert notebook.errors == []


def test_the_store_is_shown_and_emptied(notebook: Notebook) -> None:
    """%vlm_status says what is kept for reuse, %vlm_forget gives it back, and answers stay what they were."""
    notebook.run("picture = scene(70)\n%vlm -m model --new -o before Describe {picture}.", "ask")
    notebook.run("%vlm -m model --new -o warm Describe {picture}.", "warm")
    reused = notebook.run("print(last().reply.n_reused_tokens > 0, model.reuse.n_bytes > 0)", "reused")
    assert reused.split() == ["True", "True"]
    line = next(line for line in notebook.run("%vlm_status", "status").splitlines() if "* model" in line)
    assert "for reuse" in line
    assert notebook.run("%vlm_forget", "forget").startswith("forgotten: ")
    assert notebook.run("print(model.reuse.n_bytes)", "bytes").strip() == "0"
    assert "* model" in notebook.run("%vlm_status", "status-after")
    assert "for reuse" not in notebook.run("%vlm_status", "status-again")
    notebook.run("%vlm -m model --new -o after Describe {picture}.", "after")
    same = notebook.run("print(before == warm == after, last().reply.n_reused_tokens)", "same")
    assert same.split() == ["True", "0"]
    assert notebook.errors == []


_IMPATIENT = """
def press_four_times(module, args, options):
    if len(presses) < 4 and (args[0] if args else options["hidden_states"]).shape[1] == 1:
        while len(presses) < 4:
            presses.append(os.kill(os.getpid(), signal.SIGINT))
            time.sleep(0.15)


presses = []
handle = read[0].register_forward_pre_hook(press_four_times, with_kwargs=True)
picture = scene(72)
"""


def test_pressing_the_button_again_and_again_loses_nothing(notebook: Notebook) -> None:
    """The worker commits the words by itself, whatever happens to the cell that waits for them."""
    notebook.run(_IMPATIENT, "impatient")
    notebook.run("%vlm -m model --new Describe {picture}.", "pressed")
    time.sleep(1)  # until all presses are over
    notebook.errors.clear()  # a later press may hit IPython while it shows the first one
    notebook.run("handle.remove()\n%vlm -m model -o more And now?", "goes-on")
    kept = notebook.run(
        "stopped, answered = vlm_magic.session().conversation.exchanges[-2:]\n"
        "print(len(presses), stopped.reply.finish_reason, stopped.reply.n_new_tokens > 0, "
        "right(picture).startswith(stopped.reply.text), answered.reply.finish_reason)",
        "kept",
    )
    assert kept.split() == ["4", "interrupted", "True", "True", "stop"]
    assert notebook.errors == []


_SLOW_SHARDS = """
import pathlib
import tiny_models
from transformers import core_model_loading as reading

shards = tiny_models.copy_of("llava", pathlib.Path("shards"))
(pathlib.Path("shards") / "model.safetensors").unlink()
tiny_models.tiny("llava").model.save_pretrained("shards", max_shard_size="100KB")
read_tensor, n_read = reading._materialize_copy, 0


def slowly(*args, **options):
    global n_read
    n_read += 1
    if n_read == 8:
        os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)
    return read_tensor(*args, **options)


reading._materialize_copy = slowly
"""


def test_interrupting_a_load_keeps_the_model_that_was_there(notebook: Notebook) -> None:
    """Between the tensors of a checkpoint in several files; the resident model answers as before."""
    notebook.run("picture = scene(71)\n%vlm -m model --new -o before Describe {picture}.", "before-load")
    notebook.run(_SLOW_SHARDS, "shards")
    notebook.run("%vlm_load shards", "load")
    assert notebook.errors.pop() == "Interrupted: shards is not loaded."
    told = notebook.run(
        "reading._materialize_copy = read_tensor\n"
        "n_tensors = len(tiny_models.tiny('llava').model.state_dict())\n"
        "print(len(list(pathlib.Path('shards').glob('*.safetensors'))) > 2, n_read < n_tensors, "
        "vlm_magic.engine() is model)",
        "told",
    )
    assert told.split() == ["True", "True", "True"]
    notebook.run("%vlm --new -o after Describe {picture}.", "after-load")
    assert notebook.run("print(before == after)", "same-after-load").strip() == "True"
    assert "parameters" in notebook.run("%vlm_load shards", "load-again")
    assert notebook.errors == []
