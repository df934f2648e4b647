"""A prompt may end in a question mark, which IPython would take for a call for help."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from vlm_magic.shell.question_mark import allow_questions, forbid_questions


@pytest.fixture
def shell() -> Iterator[Any]:
    shell = InteractiveShell()
    allow_questions(shell)
    yield shell
    forbid_questions(shell)


@pytest.mark.parametrize(
    "line",
    [
        "%vlm Where is the circle?",
        "%vlm -o answer What is in {cat}?",
        "%vlm what's this?",
        "%vlm Which is it, the red or the blue one??",
        "%vlm Is it {x!r}?",
    ],
)
def test_a_question_is_a_prompt(shell: Any, line: str) -> None:
    words = line.removeprefix("%vlm ")
    assert shell.transform_cell(line) == f"get_ipython().run_line_magic('vlm', {words!r})\n"


@pytest.mark.parametrize("target", ["reply", "told[5 % 2]"])
def test_a_questions_value_may_be_assigned(shell: Any, target: str) -> None:
    assert shell.transform_cell(f"{target} = %vlm -c other Where is it?\nprint(1)\n") == (
        f"{target} = get_ipython().run_line_magic('vlm', '-c other Where is it?')\nprint(1)\n"
    )
    assert "pinfo" in shell.transform_cell("x = y?")


def test_a_question_may_stand_in_a_loop(shell: Any) -> None:
    assert shell.transform_cell("for n in range(3):\n    %vlm How many are there?\n") == (
        "for n in range(3):\n    get_ipython().run_line_magic('vlm', 'How many are there?')\n"
    )


@pytest.mark.parametrize("line", ["%vlm?", "%vlm??", "%%vlm?", "vlm?", "%vlm_load?", "?%vlm"])
def test_help_stays_help(shell: Any, line: str) -> None:
    """Everything that IPython itself would answer with its help."""
    assert "pinfo" in shell.transform_cell(line)


def test_text_in_a_string_is_left_alone(shell: Any) -> None:
    source = 'text = """\n%vlm Where is it?\n"""\n'
    assert shell.transform_cell(source) == source


def test_it_can_be_switched_off(shell: Any) -> None:
    forbid_questions(shell)
    assert "pinfo" in shell.transform_cell("%vlm Where is the circle?")
