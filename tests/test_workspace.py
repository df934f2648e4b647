"""Which conversation a cell's call belongs to, and which model answers."""

from __future__ import annotations

import pytest
from fake_engine import FakeEngine

from vlm_magic.errors import ConversationError, ModelNotFoundError
from vlm_magic.workspace import Workspace


class Notebook:
    """Runs cells against a workspace, as the shell does."""

    def __init__(self) -> None:
        self.workspace = Workspace()
        self.workspace.add_engine("fake", FakeEngine())

    def run(
        self, cell: str | None, *texts: str, name: str | None = None, new: bool = False, ok: bool = True
    ) -> None:
        self.workspace.begin_cell(cell)
        for text in texts:
            key = self.workspace.next_key()
            session = self.workspace.session_for(key, name, new)
            answer = session.start(
                [text], key=key, fresh=new, on_commit=lambda e, s=session: self.workspace.settle(s, e)
            )
            answer.wait(10)
        self.workspace.end_cell(succeeded=ok)

    @property
    def said(self) -> dict[str, list[str]]:
        return {
            name: [e.reply.text + ("*" if e.is_stale else "") for e in session.conversation if e.reply]
            for name, session in self.workspace.sessions.items()
            if len(session.conversation)
        }


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


def test_run_all_twice_is_run_all_once(notebook: Notebook) -> None:
    """With several calls in a cell, a --new and a -c."""

    def run_all() -> None:
        notebook.run("a", "a0", "a1")
        notebook.run("b", "b", name="plants")
        notebook.run("c", "c", new=True)
        notebook.run("d", "d")

    run_all()
    once = notebook.said
    assert once == {"main": ["a0", "a1"], "plants": ["b"], "main 2": ["c", "d"]}
    run_all()
    assert notebook.said == once


def test_a_cell_of_an_earlier_conversation_stays_there(notebook: Notebook) -> None:
    """Running it again does not drag it into the newest one."""
    notebook.run("a", "a")
    notebook.run("b", "b", new=True)
    notebook.run("a", "a again")
    assert notebook.said == {"main": ["a again"], "main 2": ["b"]}


def test_running_a_new_cell_again_starts_over_the_conversation_it_started(notebook: Notebook) -> None:
    """Turns of cells that were deleted since do not linger."""
    notebook.run("a", "a", new=True)
    notebook.run("b", "b")
    notebook.run("a", "a2", new=True)
    assert notebook.said == {"main 2": ["a2"]}


def test_changing_the_conversation_of_a_cell_moves_its_turn(notebook: Notebook) -> None:
    """It is never in two conversations."""
    notebook.run("a", "a")
    notebook.run("b", "b")
    notebook.run("a", "a", name="other")
    assert notebook.said == {"main": ["b*"], "other": ["a"]}
    notebook.run("a", "a")
    assert notebook.said == {"main": ["b*", "a"]}


def test_a_shorter_loop_drops_turns_but_a_failed_cell_does_not(notebook: Notebook) -> None:
    """Calls that were not reached are not gone."""
    notebook.run("a", "0", "1", "2")
    notebook.run("a", "0", ok=False)
    assert notebook.said == {"main": ["0", "1*", "2*"]}
    notebook.run("a", "0")
    assert notebook.said == {"main": ["0"]}


def test_a_cell_without_an_id_appends(notebook: Notebook) -> None:
    """As in a terminal."""
    notebook.run(None, "x")
    notebook.run(None, "x")
    assert notebook.said == {"main": ["x", "x"]}


def test_the_newest_model_answers_until_it_is_unloaded(notebook: Notebook) -> None:
    """Then the one before it; sessions that exist follow."""
    session = notebook.workspace.session()
    notebook.workspace.add_engine("second", FakeEngine("from the second"))
    assert session.ask("who?").text == "from the second"
    notebook.workspace.unload()
    assert session.engine is notebook.workspace.engine("fake")


def test_unknown_names_are_errors_that_name_the_near_ones(notebook: Notebook) -> None:
    """Three lines each."""
    with pytest.raises(ModelNotFoundError, match="fake"):
        notebook.workspace.engine("fakes")
    notebook.run("a", "a", name="plants")
    with pytest.raises(ConversationError, match="plants"):
        notebook.workspace.known_session("plant")
    notebook.workspace.unload()
    with pytest.raises(ModelNotFoundError, match="vlm_load"):
        notebook.workspace.engine()
