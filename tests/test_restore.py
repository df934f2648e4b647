"""Going on with a conversation after a restart: real kernels, saved files, the starter once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from notebook_kernel import Notebook, running_notebook

from vlm_magic.outputs.records import exchanges_in

START = """import vlm_magic
%load_ext vlm_magic
from vlm_magic.testing import ScriptedEngine
vlm_magic.workspace.current().models.add("fake", ScriptedEngine())
"""
SCENE = "from PIL import Image\nscene = Image.linear_gradient('L').convert('RGB').resize((120, 90))"
TURNS = (
    "print([(e.id, e.reply.text, e.is_stale, [p.is_lost for p in e.pictures]) "
    "for e in vlm_magic.session().conversation])"
)


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running_notebook(tmp_path, "day.ipynb", cache) as notebook:
        yield notebook


def answers_in(path: Path) -> list[str]:
    kept = exchanges_in(json.loads(path.read_text()))
    return [e.reply.text.lower() for _, e in kept if e.reply]


def yesterday(notebook: Notebook, setup: str = "") -> None:
    """Two turns about a picture, saved; then the kernel is gone, and with it the picture's variable."""
    notebook.run(f"{START}{setup}\n{SCENE}", "start")
    notebook.run("%%vlm\nWhat colour is the circle in {scene}?", "one")
    notebook.run("%%vlm\nWhat colour is the square?", "two")
    assert notebook.errors == []
    notebook.save()
    notebook.restart()
    notebook.run(START, "start")


def test_a_follow_up_question_is_answered_from_the_picture_of_before_the_restart(notebook: Notebook) -> None:
    """By the starter, which sees the picture alone: its variable is gone."""
    draw = (
        "from vlm_magic.starter.making.world.scenes import draw_scene\n"
        "scene = draw_scene([('red', 'circle', 0.25, 0.3, 0.35), ('blue', 'square', 0.7, 0.7, 0.35)])"
    )
    notebook.run(f"%load_ext vlm_magic\n{draw}", "start")
    notebook.run("%%vlm\nWhat colour is the circle in {scene}?", "one")
    assert notebook.errors == []
    notebook.save()
    notebook.restart()
    notebook.run("%load_ext vlm_magic", "start")
    said = notebook.run("%vlm_history --restore", "history")
    assert "restored from day.ipynb" in said
    assert "1 turn of conversation 'main'" in said
    assert "no longer on this machine" not in said
    assert notebook.errors == []
    assert "NameError" in notebook.run("scene", "gone")
    notebook.run("%%vlm\nWhat colour is the square?", "two")
    notebook.save()
    first, second = answers_in(notebook.path)
    assert "red" in first
    assert "blue" in second


def test_a_cell_that_runs_again_takes_its_restored_place(notebook: Notebook) -> None:
    """And a second restart brings all of it back once more."""
    yesterday(notebook)
    notebook.run("%vlm_history --restore", "history")
    notebook.run("%%vlm\nWhat colour is the square?", "two")
    notebook.run("%vlm Is there a circle?", "three")
    turns = notebook.run(TURNS, "turns")
    assert turns.count("main-") == 3
    assert "True" not in turns, "nothing stale, nothing lost"
    notebook.save()
    notebook.restart()
    notebook.run(START, "start")
    assert "3 turns" in notebook.run("%vlm_history --restore", "history")
    assert "nothing new" in notebook.run("%vlm_history --restore", "again")


def test_where_a_picture_is_gone_its_turn_says_so_and_the_words_go_on(
    notebook: Notebook, tmp_path: Path
) -> None:
    yesterday(notebook, "%config VLMMagics.save_thumbnails = False")  # else its thumbnail would be left
    shutil.rmtree(tmp_path / "cache" / "vlm_magic" / "pictures")
    said = notebook.run("%vlm_history --restore", "history")
    assert "1 of 1 pictures no longer on this machine: scene" in said
    assert "[picture: scene, no longer on this machine]" in said
    assert notebook.run("%vlm -o words Hello", "three").count("Error") == 0
    first = "vlm_magic.session().conversation.exchanges[0].id"
    lost = notebook.run(f"vlm_magic.session().again({first})", "again")
    assert lost.startswith("PictureNotFoundError: picture 'scene' of this turn is no longer on this machine")
    assert lost.count("\n") == 2
    notebook.run(f"{SCENE}\nvlm_magic.session().reset()", "start over")
    notebook.run("%%vlm\nWhat colour is the circle in {scene}?", "one")
    assert "False, [False]" in notebook.run(TURNS, "turns"), "its cell mends it"


def test_opening_the_panel_brings_an_empty_conversation_back_and_offers_the_rest(notebook: Notebook) -> None:
    yesterday(notebook)
    notebook.run("%vlm_chat", "chat")
    turns = notebook.run(TURNS, "turns")
    assert turns.count("main-") == 2
    assert "True" not in turns
    notebook.restart()
    notebook.run(f"{START}{SCENE}", "start")
    notebook.run("%%vlm\nWhat colour is the square in {scene}?", "new")
    offer = (
        "import ipywidgets\npanels = [w for w in ipywidgets.Widget.widgets.values() if hasattr(w, 'offer')]"
    )
    notebook.run(f"%vlm_chat\n{offer}", "chat")
    assert "2 turns of the saved notebook can be brought back." in notebook.run(
        "print(panels[-1].offer)", "x"
    )
    bring = (
        "panels[-1]._handle_custom_msg({'type': 'act', 'kind': 'restore'}, [])\nprint(repr(panels[-1].offer))"
    )
    assert notebook.run(bring, "x") == "''\n"
    assert notebook.run(TURNS, "turns").count("main-") == 3


def test_what_a_person_forgot_does_not_come_back_by_itself(notebook: Notebook) -> None:
    yesterday(notebook)
    notebook.run("%vlm_reset", "reset")
    notebook.run("%vlm_chat", "chat")
    assert notebook.run(TURNS, "turns").strip() == "[]"
    assert "2 turns" in notebook.run("%vlm_history --restore", "history"), "but when it is asked for"


def test_another_file_can_be_named_and_errors_are_short(notebook: Notebook, tmp_path: Path) -> None:
    yesterday(notebook)
    notebook.path.rename(tmp_path / "renamed.ipynb")
    missing = notebook.run("%vlm_history --restore", "history")
    assert missing.startswith("ConversationError: no notebook 'day.ipynb'")
    assert "%vlm_history --restore FILE.ipynb" in missing
    said = notebook.run("%vlm_history --restore renamed.ipynb", "history")
    assert "2 turns of conversation 'main'" in said
    assert "no longer" not in said, "a renamed notebook finds its pictures"
    nothing = notebook.run("%vlm_history -c plants --restore renamed.ipynb", "history")
    assert nothing.startswith(
        "ConversationError: nothing of conversation 'plants' in renamed.ipynb\n  have: main"
    )


def test_keeping_pictures_can_be_switched_off(notebook: Notebook, tmp_path: Path) -> None:
    notebook.run(f"{START}{SCENE}\n%config VLMMagics.keep_pictures_mb = 0", "start")
    notebook.run("%%vlm\nWhat colour is the circle in {scene}?", "one")
    assert not (tmp_path / "cache" / "vlm_magic" / "pictures").exists()
    notebook.save()
    assert '"pictures"' not in notebook.path.read_text()


def test_a_lost_picture_comes_back_small_from_the_notebook(notebook: Notebook) -> None:
    """It says so, and the model is shown the thumbnail."""
    yesterday(notebook)
    notebook.run("%vlm_forget", "forget")  # this notebook's kept pictures
    said = notebook.run("%vlm_history --restore", "history")
    assert "1 of 1 picture small, from the thumbnails that the notebook holds: scene" in said
    assert "no longer on this machine" not in said
    sizes = "print([p.note[:23] for e in vlm_magic.session().conversation for p in e.pictures])"
    assert notebook.run(sizes, "sizes").strip() == "['only its thumbnail is l']"
    notebook.run("%%vlm\nWhat is in it?", "three")
    assert notebook.errors == []


def test_a_notebook_forgets_its_own_pictures_and_leaves_those_of_others(tmp_path: Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with running_notebook(tmp_path / name, f"{name}.ipynb", cache) as notebook:
            notebook.run(f"{START}{SCENE}", "start")
            notebook.run(f"%%vlm\n{name} {{scene}}", "ask")
    kept = tmp_path / "cache" / "vlm_magic" / "pictures"
    assert len(list(kept.iterdir())) == 2
    with running_notebook(tmp_path / "two", "two.ipynb", cache) as notebook:
        notebook.run(START, "start")
        said = notebook.run("%vlm_forget", "forget")
        assert "what stays: downloads and other notebooks' pictures" in said
        assert len(list(kept.iterdir())) == 1
        said = notebook.run("%vlm_forget --all", "forget")
        assert "all notebooks kept for a restart" in said
        assert list(kept.iterdir()) == []
