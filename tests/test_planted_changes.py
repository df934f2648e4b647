"""The table of planted changes stays in step with the code; planting them is left to its script."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted_changes import ROOT, Planted, PlantedError, place_of, plant
from planted_table import TABLE


@pytest.mark.parametrize("planted", TABLE, ids=lambda planted: planted.name)
def test_each_old_text_stands_exactly_once_in_its_room(planted: Planted) -> None:
    """Where it does not, the code has moved on: the row is written anew, or goes."""
    assert planted.old in place_of(planted).read_text("utf-8")
    assert planted.old != planted.new


def test_names_are_told_apart_and_the_tests_that_they_name_are_there() -> None:
    assert len({planted.name for planted in TABLE}) == len(TABLE)
    files = {name for planted in TABLE for name in planted.tests.partition(" -k ")[0].split()}
    assert [name for name in sorted(files) if not (ROOT / name).is_file()] == []


def test_what_is_no_longer_there_is_an_error_and_what_was_planted_can_be_taken_back(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    file = tmp_path / "room" / "module.py"
    file.write_text("a = 1\nb = 1\n")
    row = Planted("one is two", "room", "a = 1", "a = 2", "", "")
    take_back = plant(row, tmp_path)
    assert file.read_text() == "a = 2\nb = 1\n"
    take_back()
    assert file.read_text() == "a = 1\nb = 1\n"
    for old in ("c = 1", "= 1"):
        with pytest.raises(PlantedError, match="the old text is found"):
            place_of(Planted("gone, or twice", "room", old, "", "", ""), tmp_path)
