"""The floors that are declared: one list of the oldest releases, and errors that name the version wanted."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from vlm_magic.errors import ModelLoadError
from vlm_magic.models.checkpoints import versions
from vlm_magic.models.checkpoints.loading import load_model

ROOT = Path(__file__).parents[1]


def declared() -> dict[str, tuple[int, ...]]:
    """Each dependency with its floor."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    pairs = [line.split(">=") for line in lines]
    return {name: versions._numbers(floor) for name, floor in pairs}


def test_the_list_of_floors_is_the_declared_one() -> None:
    lines = (ROOT / "tests/floors.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    listed = {name: versions._numbers(floor) for name, floor in pairs}
    assert list(listed) == sorted(listed)
    assert listed.keys() == declared().keys()
    for name, floor in declared().items():
        assert listed[name][: len(floor)] == floor
        assert not any(listed[name][len(floor) :])


def test_what_a_load_asks_for_is_what_is_declared() -> None:
    for name, oldest in versions.OLDEST.items():
        assert declared()[name] == versions._numbers(oldest)


def test_an_older_release_is_named_with_the_one_that_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"transformers": "5.22.2", "torch": "2.13.0+cpu", "accelerate": "1.15.0"}
    monkeypatch.setattr(versions, "version", there.__getitem__)
    with pytest.raises(ModelLoadError, match=r"needs transformers 5\.23 or newer") as caught:
        load_model("starter")
    assert "have: transformers 5.22.2" in str(caught.value)
    there["transformers"] = "5.23.0"
    versions.check_versions()
