"""What 8 bits are on a CPU is found by trying the packages that are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch

from vlm_magic.models.checkpoints import eight_bits
from vlm_magic.models.checkpoints.estimate import estimate
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding.step import figures
from vlm_magic.models.load_options import LoadOptions

NAMES = ("torchao-int8", "quanto-int8", "bnb-8bit")


@pytest.fixture(autouse=True)
def nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(eight_bits, "_FOUND", {})
    monkeypatch.setattr(eight_bits, "_LONGEST_S", 0.01)


def test_every_package_that_is_installed_is_tried_and_the_fastest_taken(tmp_path: Path) -> None:
    choice = eight_bits.choose_eight_bits(NAMES)
    seconds = json.loads((tmp_path / "vlm_magic" / "eight_bits.json").read_text())["seconds"]
    assert set(seconds) == set(NAMES)  # all of them say what float32 says
    assert choice.name == min(seconds, key=lambda name: seconds[name])
    assert choice.reason.startswith(f"8bit is {choice.name}: the fastest here, ")
    assert all(name in choice.reason for name in NAMES)
    assert figures._TrialStep in map(type, eight_bits.STEPS)  # tokens are timed as answers are made


def test_what_was_found_is_kept_for_the_next_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And tried again where it cannot be read."""
    tried: list[str] = []
    monkeypatch.setattr(eight_bits, "_seconds_of", lambda name: tried.append(name) or 1.0 + len(name))
    first = eight_bits.choose_eight_bits(NAMES)
    assert (first.name, tried) == ("bnb-8bit", list(NAMES))
    eight_bits._FOUND.clear()
    assert eight_bits.choose_eight_bits(NAMES) == first
    assert len(tried) == 3
    for broken in ("", "[]", '{"key": 1}', '{"key": "x", "seconds": 3}'):
        (tmp_path / "vlm_magic" / "eight_bits.json").write_text(broken)
        eight_bits._FOUND.clear()
        tried.clear()
        assert eight_bits.choose_eight_bits(NAMES) == first
        assert len(tried) == 3


def test_what_is_fast_and_wrong_is_left_and_what_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(plain: torch.nn.Linear) -> torch.nn.Module:
        layer = torch.nn.Linear(plain.in_features, plain.out_features, bias=False)
        layer.weight = torch.nn.Parameter(plain.weight * 1.2)
        return layer

    def broken(plain: torch.nn.Linear) -> torch.nn.Module:
        raise RuntimeError("no kernel for this processor")

    monkeypatch.setitem(eight_bits._MAKERS, "bnb-8bit", wrong)
    monkeypatch.setitem(eight_bits._MAKERS, "torchao-int8", broken)
    choice = eight_bits.choose_eight_bits(NAMES)
    assert choice.name == "quanto-int8"
    assert choice.reason.endswith("the only one here; not right here: torchao-int8, bnb-8bit")


DRY_RUN = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "vlm_magic")
shell.run_line_magic("vlm_load", f"{sys.argv[1]} --quantize 8bit --device cpu --dry-run")
from vlm_magic.models.checkpoints import eight_bits
assert [type(step).__name__ for step in eight_bits.STEPS] == ["_TrialStep"]
"""


def test_a_dry_run_as_the_first_thing_in_a_kernel_tries_with_the_step_that_answers_are_made_by() -> None:
    folder = str(tiny_models.folder_of("idefics3"))
    command = [sys.executable, "-W", "ignore", "-c", DRY_RUN, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "  numbers  8bit is " in done.stdout


@pytest.mark.filterwarnings("ignore")  # those libraries have something to say about their own futures
def test_the_plan_says_what_8_bits_are_here_and_the_model_is_loaded_so() -> None:
    how = LoadOptions(quantize="8bit", device="cpu")
    told = estimate(tiny_models.folder_of("idefics3"), how)
    assert told.plan.quantization in NAMES
    assert f"  numbers  8bit is {told.plan.quantization}: " in str(told)
    loaded = load_model(tiny_models.folder_of("idefics3"), how)
    assert loaded.quantization == told.plan.quantization
    assert any(note.startswith("8bit is ") for note in loaded.notes)
    asked = load_model(tiny_models.folder_of("idefics3"), LoadOptions(quantize="bnb-8bit", device="cpu"))
    assert asked.quantization == "bnb-8bit"  # by its own name it is what it was
