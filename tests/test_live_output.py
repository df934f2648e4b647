"""One output that changes in place: in a notebook, in one that a program runs, in a terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from published import Published

from vlm_magic.outputs.live_output import LiveOutput, show_bundle
from vlm_magic.outputs.surroundings import Surroundings, stop_way, surroundings

FIRST, LAST = {"text/plain": "1 of 2"}, {"text/plain": "2 of 2"}


def test_what_somebody_looks_at_changes_in_place(published: Published) -> None:
    output = LiveOutput("person")
    assert output.is_watched
    assert not output.is_shown
    output.show(FIRST)
    assert output.is_shown
    output.show(LAST, {"vlm_magic": {"version": 1}})
    assert published.outputs == [[FIRST, LAST]]
    assert published.metadata == [[{}, {"vlm_magic": {"version": 1}}]], "each update brings its own"


def test_a_program_gets_outputs_that_never_change(published: Published) -> None:
    output = LiveOutput("program")
    assert not output.is_watched
    output.show(LAST)
    assert not output.is_shown
    show_bundle(FIRST)  # no kernel in this test: a terminal
    assert published.outputs == [[LAST]]


def test_a_terminal_gets_the_words(published: Published, capsys: pytest.CaptureFixture[str]) -> None:
    LiveOutput("terminal").show(LAST)
    assert capsys.readouterr().out == "2 of 2\n"
    assert published.outputs == []


@pytest.mark.parametrize(
    ("request_", "where"),
    [
        ({"metadata": {"cellId": "a"}, "content": {}}, "person"),
        ({"metadata": {}, "content": {"allow_stdin": True}}, "person"),
        ({"metadata": {}, "content": {"allow_stdin": False}}, "program"),
        ({}, "program"),
        (None, "terminal"),
    ],
)
def test_the_surroundings_are_read_off_the_shell(
    monkeypatch: pytest.MonkeyPatch, request_: dict[str, Any] | None, where: Surroundings
) -> None:
    shell = None if request_ is None else SimpleNamespace(kernel=object(), parent_header=request_)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert surroundings() == where
    assert LiveOutput().where == where


def test_stop_goes_by_message_where_the_kernel_has_subshells(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel, way in (
        (SimpleNamespace(_supports_kernel_subshells=True), "message"),
        (object(), "interrupt"),
    ):
        monkeypatch.setattr("IPython.get_ipython", lambda kernel=kernel: SimpleNamespace(kernel=kernel))
        assert stop_way() == way
