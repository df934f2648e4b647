"""The magics in a real IPython shell (a terminal one), with a scripted engine behind them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from published import Published

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import VLMError
from vlm_magic.messages import Picture, Text
from vlm_magic.shell import magics, reports
from vlm_magic.shell.options import MAGICS
from vlm_magic.testing import ScriptedEngine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    fake = ScriptedEngine()
    fresh.models.add("fake", fake)
    return fake


@pytest.fixture
def shell(engine: ScriptedEngine) -> Iterator[Any]:
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def run(shell: Any, source: str) -> Any:
    """Run a cell; its error, if any."""
    result = shell.run_cell(source, store_history=True)
    return result.error_in_exec or result.error_before_exec


def last_turn(engine: ScriptedEngine) -> list[Any]:
    parts = engine.history[-1][0][-1].parts
    return [part.name if isinstance(part, Picture) else part.text for part in parts]


def test_a_cell_puts_variables_at_their_place_and_prints_the_answer(
    shell: Any, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal gets the words, no widget's noise."""
    shell.user_ns.update(before=Image.new("RGB", (8, 8)), after=Image.new("RGB", (8, 8), "red"), n=2)
    engine.enqueue("The colour changed.")
    assert run(shell, "%%vlm -o answer\nWhat {n} things changed between {before} and {after}?") is None
    assert last_turn(engine) == ["What 2 things changed between ", "before", " and ", "after", "?"]
    assert shell.user_ns["answer"] == "The colour changed."
    out = capsys.readouterr().out
    assert "The colour changed." in out
    assert "object at 0x" not in out


def test_a_line_takes_its_prompt_as_it_stands(shell: Any, engine: ScriptedEngine) -> None:
    """IPython expands nothing in it: quotes, dollars and braces are the person's."""
    shell.user_ns.update(name="secret", cat=Image.new("RGB", (8, 8)))
    assert run(shell, """%vlm --max-tokens 7 what's "in" {cat}, $name -o or ![x]?""") is None
    assert last_turn(engine) == ["""what's "in" """, "cat", ", $name -o or ![x]?"]
    assert engine.history[-1][1].max_tokens == 7


def test_a_reply_in_a_variable_is_shown_by_a_later_cell_but_not_twice_by_its_own(
    shell: Any, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cell that asked has the answer in its output; another one shows what the variable holds."""
    engine.enqueue("Two cats.")
    assert run(shell, "x = %vlm How many?\nx") is None
    assert capsys.readouterr().out.count("Two cats.") == 1
    assert run(shell, "x") is None
    assert "<Reply from scripted: 'Two cats.' (2 tokens, " in capsys.readouterr().out


def test_a_script_of_ipython_gets_replies_into_its_variables(
    shell: Any, engine: ScriptedEngine, tmp_path: Path
) -> None:
    """``ipython script.ipy`` and ``%run script.ipy`` leave no line of theirs in the history."""
    engine.enqueue("Two cats.")
    (tmp_path / "script.ipy").write_text("x = %vlm How many?\n")
    assert run(shell, f"%run {tmp_path / 'script.ipy'}") is None
    assert shell.user_ns["x"].text == "Two cats."


def test_raw_takes_the_text_as_it_stands(shell: Any, engine: ScriptedEngine) -> None:
    """No variables, no pictures."""
    shell.user_ns["x"] = 3
    assert run(shell, "%%vlm --raw\n{x} ![](cat.png)") is None
    assert engine.history[-1][0][-1].parts == (Text("{x} ![](cat.png)"),)


def test_every_setting_reaches_the_engine(shell: Any, engine: ScriptedEngine) -> None:
    """Under the names that plain Python uses."""
    assert (
        run(shell, "%%vlm --system 'be brief' --temperature 0.5 --top-p .9 --seed 3 --time-limit 4\nhi")
        is None
    )
    settings = engine.history[-1][1]
    assert (settings.system, settings.temperature, settings.top_p) == ("be brief", 0.5, 0.9)
    assert (settings.seed, settings.time_limit_s) == (3, 4.0)
    assert run(shell, "%%vlm --beams 2\nhi") is None
    assert engine.history[-1][1].beams == 2


@pytest.mark.parametrize(
    ("source", "kind", "part"),
    [
        ("%%vlm\nWhat is in {catt}?", "PictureNotFoundError", "cat"),
        ("%%vlm\n![](no/such.png)", "PictureNotFoundError", "such.png"),
        ("%%vlm --max-token 5\nhi", "OptionError", "--max-tokens"),
        ("%%vlm --top-p 2\nhi", "OptionError", "--top-p"),
        ("%%vlm hello\nhi", "OptionError", "below the line"),
        ("%%vlm\n   ", "PromptError", "empty"),
        ("%%vlm -m fakes\nhi", "ModelNotFoundError", "fake"),
        ("%vlm_history -c nope", "ConversationError", "main"),
        ("%vlm_load /no/such/folder", "ModelNotFoundError", "/no/such/folder"),
        ("%vlm_load --dtyp float32", "OptionError", "--dtype"),
    ],
)
def test_an_error_is_three_lines_and_costs_nothing(
    shell: Any, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str], source: str, kind: str, part: str
) -> None:
    """The conversation is as before and the next cell works."""
    shell.user_ns["cat"] = Image.new("RGB", (8, 8))
    run(shell, "%%vlm\nfirst")
    before = workspace.current().conversations.session("main").conversation.exchanges
    capsys.readouterr()
    error = run(shell, source)
    assert isinstance(error, VLMError)
    assert type(error).__name__ == kind
    assert part in str(error)
    shown = capsys.readouterr()
    assert len((shown.out + shown.err).strip().splitlines()) <= 3, "no wall of traceback"
    assert workspace.current().conversations.session("main").conversation.exchanges == before
    assert run(shell, "%%vlm\nnext") is None


def test_status_history_and_reset_tell_what_there_is(
    shell: Any, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each says its part in plain words."""
    engine.enqueue("Two cats.")
    run(shell, "%%vlm\nhow many?")
    capsys.readouterr()
    run(shell, "%vlm_status")
    status = capsys.readouterr().out
    assert "fake" in status
    assert "conversation 'main': 1 turn" in status
    run(shell, "%vlm_history")
    history = capsys.readouterr().out
    assert "how many?" in history
    assert "Two cats." in history
    run(shell, "%vlm_reset")
    assert "1 turn forgotten" in capsys.readouterr().out
    assert len(workspace.current().conversations.session("main").conversation) == 0


def test_the_status_has_the_frame_of_all_outputs_and_marks_what_is_in_use(
    shell: Any, engine: ScriptedEngine, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm_magic.outputs.live_output.surroundings", lambda: "person")
    engine.enqueue("One.", "Two.")
    workspace.current().conversations.session("main").ask("one")
    workspace.current().conversations.session("<b>other").ask("two")
    run(shell, "%vlm_status")
    html, plain = (published.outputs[-1][-1][f"text/{kind}"] for kind in ("html", "plain"))
    assert 'class="vlm mathjax_ignore tex2jax_ignore vlm-overview"' in html
    assert "<b>other" not in html
    (marked,) = [item for item in html.split("<li>") if "&lt;b&gt;other" in item]
    assert "in use" in marked
    assert html.count("in use") == 2, "one model and one conversation"
    assert [line[:2] for line in plain.splitlines()] == ["* ", "  ", "* "]


def test_a_dry_run_shows_the_bill_and_asks_nothing(
    shell: Any, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """No turn, no tokens."""
    shell.user_ns["cat"] = Image.new("RGB", (8, 6))
    assert run(shell, "%%vlm --dry-run\nWhat is in {cat}?") is None
    out = capsys.readouterr().out
    assert "token" in out
    assert "cat" in out
    assert engine.history == []
    assert len(workspace.current().conversations.session("main").conversation) == 0


def test_line_magic_calls_work_in_a_loop(shell: Any, engine: ScriptedEngine) -> None:
    """As people write them in code."""
    shell.user_ns["shell"] = shell
    assert run(shell, "for i in range(3):\n    shell.run_line_magic('vlm', f'number {i}')") is None
    assert [history[0][-1].text for history in engine.history] == ["number 0", "number 1", "number 2"]


def test_a_load_that_takes_long_shows_how_far_it_is(
    shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor by tensor; a fast one shows no bar."""
    assert run(shell, "%vlm_load starter --as fast") is None
    assert "weights" not in capsys.readouterr().err
    monkeypatch.setattr(reports, "_QUIET_S", 0.0)
    assert run(shell, "%vlm_load starter --as slow") is None
    bar = capsys.readouterr().err
    assert "starter: weights" in bar
    assert " tensors" in bar
    for name in ("fast", "slow"):
        assert run(shell, f"%vlm_unload {name}") is None


def test_vlm_load_expands_variables(shell: Any, tmp_path: Path) -> None:
    """So that a loop over checkpoints works."""
    shell.user_ns["name"] = str(tmp_path / "missing")
    error = run(shell, "%vlm_load {name}")
    assert str(tmp_path / "missing") in str(error)


@pytest.mark.parametrize("row", MAGICS, ids=lambda row: row.name)
def test_every_magic_of_the_table_is_registered_and_documented(shell: Any, row: Any) -> None:
    """``%%vlm?`` shows the table's text."""
    kind = "cell" if row.name.startswith("%%") else "line"
    function = shell.find_magic(row.name.lstrip("%"), kind)
    assert function is not None
    assert row.summary in function.__doc__


def test_plain_python_shares_what_the_magics_use(shell: Any, engine: ScriptedEngine) -> None:
    """vlm_magic.engine() and vlm_magic.session()."""
    run(shell, "%%vlm\nfrom a cell")
    assert vlm_magic.engine() is engine
    vlm_magic.session().ask("from Python")
    assert len(vlm_magic.session().conversation) == 2


def test_loading_the_extension_twice_counts_cells_once(shell: Any, engine: ScriptedEngine) -> None:
    """A re-run of the first cell is common."""
    run(shell, "%reload_ext vlm_magic")
    run(shell, "%load_ext vlm_magic")
    run(shell, "%%vlm\nonce")
    assert len(engine.history) == 1


@pytest.mark.parametrize("suffix", [".md", ".html", ".json", ".ipynb"])
def test_a_conversation_is_exported_in_the_format_of_the_ending(
    shell: Any, engine: ScriptedEngine, tmp_path: Path, suffix: str
) -> None:
    """Words and pictures; another ending or folder is a short error."""
    shell.user_ns["cat"] = Image.new("RGB", (8, 8))
    engine.enqueue("A black cat.")
    run(shell, "%%vlm\nWhat is in {cat}?")
    path = tmp_path / f"talk{suffix}"
    assert run(shell, f"%vlm_export {path}") is None
    text = path.read_text(encoding="utf-8")
    assert "A black cat." in text
    assert "data:image/" in text
    assert isinstance(run(shell, f"%vlm_export {tmp_path}/talk.docx"), VLMError)
    assert isinstance(run(shell, f"%vlm_export {tmp_path}/no/folder/talk{suffix}"), VLMError)


def test_another_conversation_on_its_line_moves_a_cells_turn(shell: Any, engine: ScriptedEngine) -> None:
    """It is never in two conversations, and moves back without the option."""

    def said(cell_id: str, source: str) -> dict[str, list[str]]:
        assert shell.run_cell(source, store_history=True, cell_id=cell_id).success
        sessions = workspace.current().conversations.sessions
        found = {name: [e.reply.text for e in s.conversation if e.reply] for name, s in sessions.items()}
        return {name: texts for name, texts in found.items() if texts}

    run(shell, "%reload_ext vlm_magic")  # within a cell, as people do
    said("a", "%%vlm\none")
    assert said("b", "%%vlm\ntwo") == {"main": ["one", "two"]}
    assert said("a", "%%vlm -c other\none") == {"main": ["two"], "other": ["one"]}
    assert said("a", "%%vlm\none") == {"main": ["two", "one"]}


def test_a_cell_inside_a_cell_belongs_to_the_outer_one(shell: Any, engine: ScriptedEngine) -> None:
    """As in ``%%capture`` and ``%run``: run again, the outer cell's turns stay as many."""
    run(shell, "%reload_ext vlm_magic")  # within a cell, as people do
    shell.user_ns["shell"] = shell
    source = (
        "shell.run_cell('%%vlm\\none')\nshell.run_line_magic('vlm', 'two')\nshell.run_cell('%%vlm\\nthree')"
    )
    for _ in range(2):
        assert shell.run_cell(source, store_history=True, cell_id="outer").success
        turns = workspace.current().conversations.session().conversation.exchanges
        assert [(turn.key, turn.parts) for turn in turns] == [
            (("outer", n), (Text(words),)) for n, words in enumerate(("one", "two", "three"))
        ]


@pytest.mark.parametrize("line", ["%vlm hello", "%%vlm\nhello", "%vlm_load nothing", "%vlm_status"])
def test_an_interrupt_before_there_is_an_answer_is_one_line_as_well(
    shell: Any, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """It may hit while the line is parsed, or while something is imported."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name in ("parse_line", "parse_around", "parse_options_only", "ask"):
        monkeypatch.setattr(magics, name, interrupt)
    error = run(shell, line)
    assert isinstance(error, KeyboardInterrupt)
    assert error._render_traceback_() == ["Interrupted: what was loaded and said before is kept."]  # type: ignore[attr-defined]
    assert len(vlm_magic.session().conversation) == 0


@pytest.mark.parametrize(
    ("cell", "above"),
    [
        ("%%vlm\nWhat is a circle?", ["What is a circle?"]),
        ("%%vlm -o x --max-tokens 7\n\nWhat is a circle?\n", ["What is a circle?"]),
        ("x = 1\n%vlm What is a circle?", ["What is a circle?"]),
        ("%vlm What is a circle?\n%vlm What is a square?", [None, None]),
        ("%vlm What is a circle?\nprint('later')", [None]),
        ("for n in 'ab': get_ipython().run_cell_magic('vlm', '', f'What is {n}?')", [None, None]),
    ],
)
def test_a_prompt_stands_right_above_where_it_is_the_only_call_at_the_end_of_its_cell(
    shell: Any, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch, cell: str, above: list[str | None]
) -> None:
    """Below it, then, words alone are not repeated; where a cell asks twice, each answer has its question."""
    from vlm_magic.shell.calls import chat

    told, choose = [], chat.choose_view
    monkeypatch.setattr(
        chat, "choose_view", lambda **how: (told.append(how["prompt_above"]), choose(**how))[1]
    )
    assert run(shell, cell) is None
    assert told == above
