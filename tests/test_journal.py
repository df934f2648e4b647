"""Journals of maps: what is written, found again, refused, and left after a crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from vlm_magic.errors import OptionError
from vlm_magic.tasks.map import journal
from vlm_magic.tasks.map.journal import FileJournal, Memory, Record, forget_maps, remembered
from vlm_magic.tasks.map.sources.source_key import Repeats
from vlm_magic.tasks.map.table import MappedRow, table_of

HEADER: dict[str, object] = {"prompt": "What is it?", "model": {"name": "a", "weights": "1"}, "settings": {}}


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_rows_are_found_again_by_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = FileJournal(path, HEADER)
    first.add(Record("k1", "cat.png", "a cat – 猫", {"cat": 0.75}, 3, 0.25))
    first.close()
    second = FileJournal(path, HEADER)
    assert second.find("k1") == Record("k1", "cat.png", "a cat – 猫", {"cat": 0.75}, 3, 0.25)
    assert second.find("k2") is None
    second.close()


def test_a_failed_row_is_written_and_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = FileJournal(path, HEADER)
    first.add(Record("k1", error="PictureDecodeError: broken"))
    first.close()
    second = FileJournal(path, HEADER)
    assert second.find("k1") is None
    second.close()
    assert lines_of(path)[1]["error"] == "PictureDecodeError: broken"


def test_lines_are_only_ever_added(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    before = b""
    for n in range(3):
        run = FileJournal(path, HEADER)
        run.add(Record(f"k{n}"))
        run.close()
        now = path.read_bytes()
        assert now.startswith(before)
        before = now
    assert len(lines_of(path)) == 4


@pytest.mark.parametrize("tail", [b'{"key": "k2", "te', b"\xff\xfe garbage", b"[1, 2]\n", b'{"key": 3}\n'])
def test_half_a_line_is_stepped_over(tmp_path: Path, tail: bytes) -> None:
    """What a full disk or a power cut leaves; the next row begins on a line of its own."""
    path = tmp_path / "rows.jsonl"
    first = FileJournal(path, HEADER)
    first.add(Record("k1", text="one"))
    first.close()
    with path.open("ab") as file:
        file.write(tail)
    second = FileJournal(path, HEADER)
    assert len(second) == 1
    second.add(Record("k3", text="three"))
    second.close()
    third = FileJournal(path, HEADER)
    found = third.find("k1"), third.find("k3")
    third.close()
    assert [record and record.text for record in found] == ["one", "three"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": "Where is it?"}, "another prompt"),
        ({"model": {"name": "b", "weights": "1"}}, "another model"),
        ({"model": {"name": "a", "weights": "2"}}, "another model"),
        ({"settings": {"max_tokens": 5}}, "other settings"),
    ],
)
def test_a_journal_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    """In three lines that say what differs."""
    path = tmp_path / "rows.jsonl"
    FileJournal(path, HEADER).close()
    before = path.read_bytes()
    with pytest.raises(OptionError, match=words) as caught:
        FileJournal(path, {**HEADER, **change})
    assert len(str(caught.value).splitlines()) == 3
    assert path.read_bytes() == before
    FileJournal(path, HEADER).close()  # and the lock is free again


@pytest.mark.parametrize("content", ["name,age\nann,3\n", '{"cells": []}\n', "[]\n", "\n"])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(OptionError, match="not a map's journal"):
        FileJournal(path, HEADER)
    assert path.read_text() == content


def test_two_runs_on_one_journal_are_refused(tmp_path: Path) -> None:
    """In this process, and from another one that was killed without a word the file is free again."""
    path = tmp_path / "rows.jsonl"
    first = FileJournal(path, HEADER)
    with pytest.raises(OptionError, match="another run writes"):
        FileJournal(path, HEADER)
    first.close()
    code = (
        "import sys, time\n"
        "from vlm_magic.tasks.map.journal import FileJournal\n"
        f"held = FileJournal(sys.argv[1], {HEADER!r})\n"
        "print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OptionError, match="another run writes"):
            FileJournal(path, HEADER)
        other.kill()
    FileJournal(path, HEADER).close()


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A folder that is not there, a folder in the file's place, and a file that is read-only."""
    with pytest.raises(OptionError, match="cannot be written") as caught:
        FileJournal(tmp_path / "nowhere" / "rows.jsonl", HEADER)
    assert "no folder" in caught.value.have
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(OptionError, match="cannot be written"):
        FileJournal(tmp_path, HEADER)
    path = tmp_path / "rows.jsonl"
    path.write_text("")
    path.chmod(0o400)
    if os.access(path, os.W_OK):  # root may write everywhere
        return
    with pytest.raises(OptionError, match="cannot be written"):
        FileJournal(path, HEADER)


def test_rows_of_this_run_are_in_the_file_and_not_in_memory(tmp_path: Path) -> None:
    """A map of a hundred thousand rows keeps its table, and of a row's key a few bytes."""
    run, repeats = FileJournal(tmp_path / "rows.jsonl", HEADER), Repeats()
    tracemalloc.start()
    try:
        begun = tracemalloc.get_traced_memory()[0]
        for n in range(5_000):
            run.add(Record(f"{n:064x}", source=f"source:{n:032x}"))
        written = tracemalloc.get_traced_memory()[0]
        for n in range(5_000):
            assert repeats.told_apart(f"{n:064x}") == f"{n:064x}"
        told = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        run.close()
    assert written - begun < 20 * 5_000
    assert told - written < 130 * 5_000
    assert repeats.told_apart(f"{7:064x}") == f"{7:064x}#2"
    assert repeats.told_apart(f"{7:064x}") == f"{7:064x}#3"
    assert len(lines_of(tmp_path / "rows.jsonl")) == 5_001


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    """A line of which only a part could be written."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    run = FileJournal(tmp_path / "rows.jsonl", HEADER)
    os.close(run._file)
    run._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space"):
        run.add(Record("k1"))
    run.close()


def test_memory_keeps_answers_of_the_same_question_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By prompt, model and settings; bounded, and forgotten on request."""
    forget_maps()
    own = remembered(HEADER)
    own.add(Record("k1", text="one"))
    own.add(Record("k2", error="no"))
    assert remembered(dict(HEADER)) is own
    assert remembered({**HEADER, "prompt": "other"}).find("k1") is None
    assert (len(own), own.find("k2")) == (1, None)
    monkeypatch.setattr(journal, "_MAX_REMEMBERED", 2)
    for n in range(3):
        remembered({"prompt": str(n)})
    assert isinstance(remembered(HEADER), Memory)
    assert remembered(HEADER).find("k1") is None
    forget_maps()


def test_memory_forgets_the_map_that_was_not_asked_for_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that somebody works on stays, however old it is."""
    forget_maps()
    monkeypatch.setattr(journal, "_MAX_REMEMBERED", 2)
    first, second, third = ({"prompt": words} for words in ("one", "two", "three"))
    for header in (first, second):
        remembered(header).add(Record("k", text=header["prompt"]))
    remembered(first)
    remembered(third)
    assert remembered(first).find("k") == Record("k", text="one")
    assert remembered(second).find("k") is None
    forget_maps()


def test_answers_that_are_lists_of_one_length_stay_one_cell_each() -> None:
    answers = [[1, 2], [3, 4], [5, 6]]
    rows = [MappedRow(n, n, f"{n}.png", answer) for n, answer in enumerate(answers)]
    assert list(table_of(rows, has_choices=False, is_labelled=False).answer) == answers
