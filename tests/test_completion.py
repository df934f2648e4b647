"""What Tab offers in a real IPython completer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image


@pytest.fixture(scope="module")
def shell() -> Iterator[Any]:
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.user_ns.update(
        cat=Image.new("RGB", (4, 4)), camera=np.zeros((4, 4, 3), np.uint8), caption="hello", count=len
    )
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def tab(shell: Any, text: str) -> list[str]:
    """What IPython itself answers with the cursor at the end."""
    with provisionalcompleter():
        return [completion.text for completion in shell.Completer.completions(text, len(text))]


def test_names_come_in_the_body_of_a_cell_pictures_first(shell: Any) -> None:
    """Functions are left out."""
    assert tab(shell, "%%vlm\nWhat is in {ca") == ["camera", "cat", "caption"]


def test_names_come_on_the_line_of_a_line_magic(shell: Any) -> None:
    """The prompt stands there."""
    assert tab(shell, "%vlm what is in {cat") == ["cat"]


def test_options_come_on_the_line(shell: Any) -> None:
    """All of them, or those that begin so."""
    assert tab(shell, "%%vlm --max") == ["--max-tokens"]
    assert {"--dtype", "--quantize", "--attn"} <= set(tab(shell, "%vlm_load --"))


@pytest.mark.parametrize("text", ["%%vlm\nplain text wi", '%%vlm\n{"json": ', "%%vlm\n{{ca", "x = {ca"])
def test_nothing_of_ours_comes_elsewhere(shell: Any, text: str) -> None:
    """IPython's own completions stay as they are."""
    magics = shell.magics_manager.registry["VLMMagics"]
    lines = text.split("\n")
    assert magics.completer.complete(lines, len(lines) - 1, len(lines[-1]))[1] == []


def test_tab_never_raises_on_an_odd_object(shell: Any) -> None:
    """Some objects raise on any attribute."""

    class Odd:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError(name)

    shell.user_ns["cabbage"] = Odd()
    assert "cat" in tab(shell, "%%vlm\n{ca")
    del shell.user_ns["cabbage"]


def test_names_of_conversations_models_and_variables_come_after_their_options(shell: Any) -> None:
    """Pictures first where pictures are meant; types where a type is."""
    from enum import Enum

    from vlm_magic.testing import ScriptedEngine
    from vlm_magic.workspace import current

    workspace = current()
    workspace.models.add("calm", ScriptedEngine())
    workspace.conversations.session("cats")
    shell.user_ns["Colour"] = Enum("Colour", "RED BLUE")
    try:
        assert tab(shell, "%%vlm -c ca") == ["cats"]
        assert tab(shell, "%vlm_export -c ca") == ["cats"]
        assert tab(shell, "%%vlm -m ca") == ["calm"]
        assert tab(shell, "%vlm_unload ca") == ["calm"]
        assert tab(shell, "%%vlm --map ca") == ["camera", "cat", "caption"]
        assert tab(shell, "%%vlm --examples=ca") == ["camera", "cat", "caption"]
        assert tab(shell, "%%vlm --choices ca") == ["camera", "cat", "caption"]
        assert tab(shell, "%%vlm --type Co") == ["Colour"]
    finally:
        workspace.models.unload("calm")
        workspace.conversations.sessions.pop("cats")
