"""The public names: adding, renaming or dropping one is a decision that is seen here."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import vlm_magic

PUBLIC = [
    "Bill",
    "Chunk",
    "Engine",
    "Explanation",
    "Picture",
    "Reply",
    "Session",
    "Settings",
    "Text",
    "Turn",
    "VLMError",
    "classify",
    "compare",
    "connect",
    "engine",
    "evaluate",
    "lesson",
    "load",
    "load_ipython_extension",
    "map_pictures",
    "session",
    "starter_questions",
    "teach",
    "to_pil",
    "training_batch",
    "typed",
    "unload_ipython_extension",
]


def test_the_public_names_are_these_and_sorted() -> None:
    assert vlm_magic.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in PUBLIC:
        assert getattr(vlm_magic, name).__doc__, name


def test_nothing_else_is_there_without_an_underscore() -> None:
    """Rooms that were imported and helpers of typing aside, a name that shows is a public one."""
    import types

    for name in PUBLIC:
        getattr(vlm_magic, name)
    helpers = {"Any", "TYPE_CHECKING", "annotations"}
    shown = {
        name
        for name in dir(vlm_magic)
        if not name.startswith("_") and not isinstance(getattr(vlm_magic, name), types.ModuleType)
    }
    assert shown - helpers == set(PUBLIC)


def test_a_public_function_is_the_real_one_with_its_signature() -> None:
    """No wrapper that says the same again."""
    import inspect

    from vlm_magic.tasks.map import calls

    assert vlm_magic.map_pictures is calls.map_pictures
    assert "journal" in inspect.signature(vlm_magic.map_pictures).parameters
    assert "max_megapixels" in inspect.signature(vlm_magic.to_pil).parameters


def test_importing_a_room_does_not_hide_the_function_of_its_name() -> None:
    """`vlm_magic.session` is the function, whatever was imported before it was first used."""
    script = """
import vlm_magic.session, vlm_magic.workspace, vlm_magic.front, importlib
from vlm_magic.session import Session
importlib.import_module("vlm_magic.session")
assert vlm_magic.session().conversation.name == "main"
assert sorted(vlm_magic._WHERE) == sorted(n for n in vlm_magic.__all__ if "ipython" not in n)
try:
    vlm_magic.nothing
except AttributeError as error:
    assert "nothing" in str(error)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("folder", ["benchmarks", "support"])
def test_what_scripts_import_of_the_package_is_there(folder: str) -> None:
    """Nobody runs a benchmark every day; one that no longer starts would go unnoticed."""
    missing = []
    for path in sorted((Path(__file__).parent / folder).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vlm_magic":
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    is_there = hasattr(module, alias.name) or (
                        hasattr(module, "__path__")
                        and importlib.util.find_spec(f"{node.module}.{alias.name}")
                    )
                    if not is_there:
                        missing.append(f"{path.name}:{node.lineno} imports {node.module}.{alias.name}")
    assert missing == []
