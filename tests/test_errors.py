"""Errors are part of the product: three lines, short in a notebook, attributes kept."""

from __future__ import annotations

import inspect

import pytest

from vlm_magic import errors
from vlm_magic.errors import PictureNotFoundError, VLMError, near_names
from vlm_magic.wording import shorten

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, VLMError) and kind is not VLMError
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_is_a_vlm_error_and_a_built_in_one(kind: type[VLMError]) -> None:
    """Code that catches ValueError or LookupError catches ours."""
    built_in = {ValueError, LookupError, TypeError, OSError, RuntimeError, TimeoutError, MemoryError}
    assert any(issubclass(kind, base) for base in built_in)
    assert kind.__name__ in (errors.__doc__ or ""), "the tree in the docstring names every error"


def test_an_error_reads_as_three_lines_and_keeps_its_values() -> None:
    """What failed, what there is, what to try."""
    error = PictureNotFoundError("no variable 'catt'", have="cat, cats", hint="{cat}", name="catt")
    assert str(error).splitlines() == ["no variable 'catt'", "  have: cat, cats", "  try:  {cat}"]
    assert error.name == "catt"  # type: ignore[attr-defined]


def test_a_notebook_shows_the_lines_alone_and_the_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """VLM_MAGIC_TRACEBACK=1 brings everything back."""
    with pytest.raises(PictureNotFoundError) as caught:
        raise PictureNotFoundError("no file 'x.png'", hint="a path")
    error = caught.value
    assert error._render_traceback_() == ["PictureNotFoundError: no file 'x.png'", "  try:  a path"]
    monkeypatch.setenv("VLM_MAGIC_TRACEBACK", "1")
    assert "Traceback" in error._render_traceback_()[0]


def test_long_values_stay_within_a_message() -> None:
    """A megabyte in a message would be a defect of its own."""
    error = VLMError("x" * 10_000, have="y\n" * 10_000, hint="z" * 10_000)
    assert 8 <= len(str(error)) <= 600
    assert len(str(error).splitlines()) == 3
    assert shorten("a" * 500, 100).count("…") == 1
    assert len(shorten("a" * 500, 100)) == 100


def test_near_names_come_best_first() -> None:
    """The first suggestion is the one to try."""
    assert near_names("catt", ["dog", "cats", "cat", 3]) == ["cat", "cats"]  # type: ignore[list-item]
