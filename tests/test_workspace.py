"""Which conversation a cell's call belongs to, and which model answers."""

from __future__ import annotations

import pytest
from tiny_models import folder_of

from vlm_magic.errors import ConversationError, ModelNotFoundError
from vlm_magic.messages import Settings, Text, Turn
from vlm_magic.testing import ScriptedEngine
from vlm_magic.workspace import Workspace


class Notebook:
    """Runs cells against a workspace, as the shell does."""

    def __init__(self) -> None:
        self.workspace = Workspace()
        self.workspace.models.add("fake", ScriptedEngine())

    def run(
        self, cell: str | None, *texts: str, name: str | None = None, new: bool = False, ok: bool = True
    ) -> None:
        self.workspace.cell.begin(cell)
        for text in texts:
            key = self.workspace.cell.next_key()
            session = self.workspace.conversations.session_for(key, name, new)
            answer = session.start(
                [text],
                key=key,
                fresh=new,
                on_commit=lambda e, s=session: self.workspace.conversations.settle(s, e),
            )
            answer.wait(10)
        self.workspace.end_cell(succeeded=ok)

    @property
    def said(self) -> dict[str, list[str]]:
        return {
            name: [e.reply.text + ("*" if e.is_stale else "") for e in session.conversation if e.reply]
            for name, session in self.workspace.conversations.sessions.items()
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


def test_running_a_new_cell_again_replaces_its_own_turn(notebook: Notebook) -> None:
    """The turns after it stay, as for any other cell, and become stale."""
    notebook.run("a", "a", new=True)
    notebook.run("b", "b")
    notebook.run("c", "c")
    notebook.run("a", "a2", new=True)
    assert notebook.said == {"main 2": ["a2", "b*", "c*"]}


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
    session = notebook.workspace.conversations.session()
    notebook.workspace.models.add("second", ScriptedEngine("from the second"))
    assert session.ask("who?").text == "from the second"
    notebook.workspace.models.unload()
    assert session.engine is notebook.workspace.models.engine("fake")


def test_unknown_names_are_errors_that_name_the_near_ones(notebook: Notebook) -> None:
    """Three lines each."""
    with pytest.raises(ModelNotFoundError, match="fake"):
        notebook.workspace.models.engine("fakes")
    notebook.run("a", "a", name="plants")
    with pytest.raises(ConversationError, match="plants"):
        notebook.workspace.conversations.known_session("plant")
    notebook.workspace.models.unload()
    with pytest.raises(ModelNotFoundError, match="vlm_load"):
        notebook.workspace.models.engine()


def test_after_an_unload_the_newest_of_the_others_answers(notebook: Notebook) -> None:
    """As if the unloaded one had not been there."""
    for name in ("second", "third"):
        notebook.workspace.models.add(name, ScriptedEngine(name=name))
    notebook.workspace.models.unload("third")
    assert notebook.workspace.models.default_name == "second"
    notebook.workspace.models.unload("fake")
    assert notebook.workspace.models.default_name == "second"


def test_two_loads_of_one_checkpoint_are_told_apart() -> None:
    """Each answers under the name that it was given."""
    workspace = Workspace()
    one = workspace.models.load(folder_of("llava"), name="one")
    two = workspace.models.load(folder_of("llava"), name="two")
    ask = [Turn("user", (Text("hi"),))]
    few = Settings(max_tokens=2)
    try:
        assert (one.name, two.name) == ("one", "two")
        assert one.generate(ask, few).model == "one"
        assert [reply.model for reply in two.generate_batch([ask, ask], few)] == ["two", "two"]
        assert workspace.models.answering_as("one") is one
        assert workspace.models.answering_as("two") is two
        assert workspace.models.answering_as("three") is None
    finally:
        workspace.models.unload("one")
        workspace.models.unload("two")


def test_loading_the_same_again_costs_nothing_and_in_another_way_replaces_it(notebook: Notebook) -> None:
    """The first cell is run again at every start; other options are another model."""
    models = notebook.workspace.models
    engine = models.load("starter", name="mine")
    assert models.load("starter", name="mine") is engine
    other = models.load("starter", name="mine", dtype="bfloat16")
    assert other is not engine
    assert engine.is_closed
    assert models.engine("mine") is other
    models.unload("mine")


def test_a_new_that_failed_leaves_nothing_behind(notebook: Notebook) -> None:
    """Cells go on where they were, no empty conversation is listed, and its name is free again."""
    notebook.run("a", "a")
    conversations = notebook.workspace.conversations
    for _ in range(2):
        session = conversations.session_for(("b", 0), new=True)
        assert session.conversation.name == "main 2"
        conversations.abandon(session)
        assert list(conversations.sessions) == ["main"]
        assert conversations.current == "main"
    notebook.run("b", "b", new=True)
    conversations.abandon(conversations.session("main 2"))
    assert notebook.said == {"main": ["a"], "main 2": ["b"]}, "one with turns stays"


def test_magics_without_a_name_mean_the_conversation_answered_in_last(notebook: Notebook) -> None:
    conversations = notebook.workspace.conversations
    assert conversations.known_session().conversation.name == "main"
    notebook.run("a", "a")
    notebook.run("b", "b", name="plants")
    assert (conversations.latest, conversations.current) == ("plants", "main")
    assert conversations.known_session().conversation.name == "plants"
    notebook.run("c", "c")
    assert conversations.known_session().conversation.name == "main"
