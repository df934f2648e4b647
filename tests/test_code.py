"""The program of an answer: plain transformers, run without this package, gives the same tokens."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image, ImageDraw

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import ConversationError, OptionError
from vlm_magic.messages import Reply
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.shell.calls.code import show_code
from vlm_magic.tasks.code.parts import literal, short_ids
from vlm_magic.tasks.code.program import program_of
from vlm_magic.testing import ScriptedEngine

RUNNER = """
import json, sys
sys.modules["vlm_magic"] = None  # importing it fails
import torch
torch.set_num_threads(1)
for file in sys.argv[1:]:
    scope = {}
    exec(compile(open(file, encoding="utf-8").read(), file, "exec"), scope)
    shares = scope["shares"].tolist() if "shares" in scope else []
    print("IDS", json.dumps([scope["new_ids"], scope["answer"], shares]))
"""


def picture() -> Image.Image:
    image = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((10, 10, 40, 40), fill="red")
    draw.rectangle((60, 55, 85, 80), fill="blue")
    return image


def run(folder: Path, codes: list[str]) -> list[tuple[list[int], str, list[float]]]:
    """Run programs one after the other in a Python that knows no vlm_magic: tokens, text, probabilities."""
    files = []
    for n, code in enumerate(codes):
        ast.parse(code)
        assert "vlm_magic" not in code.replace("/vlm_magic/starter", "")
        files.append(folder / f"program_{n}.py")
        files[-1].write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER, *map(str, files)],
        cwd=folder, capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(json.loads(line[4:])) for line in done.stdout.splitlines() if line.startswith("IDS ")]


def check(said: tuple[list[int], str, list[float]], reply: Reply) -> None:
    """The same words, from the same tokens: the program's end token aside, and what follows a stop text."""
    ids, text, shares = said
    assert shares == pytest.approx([choice.probability for choice in reply.choices], abs=1e-3)
    n = min(len(ids), len(reply.token_ids))
    assert tuple(ids[:n]) == reply.token_ids[:n]
    assert len(ids) - len(reply.token_ids) in (-1, 0, 1)
    # of broken bytes a stream keeps the good ones before, which a decoder of the whole may not
    assert text == reply.text or "\ufffd" in reply.text


@pytest.fixture(scope="module")
def starter() -> LocalEngine:
    torch.set_num_threads(1)
    return vlm_magic.load()


def test_the_starters_answers_come_out_of_plain_programs(starter: LocalEngine, tmp_path: Path) -> None:
    """A conversation of several turns and every setting that changes tokens, in one process."""
    session = vlm_magic.Session(starter)
    file = tmp_path / "scene.png"
    picture().save(file)
    codes, replies = [], []
    for parts, how in (
        (("How many circles are there in ", file, "?"), {}),
        (("And what colour is the square in ", picture(), "?"), {"system": "Be brief."}),
        (("Describe the picture.",), {"beams": 2, "max_tokens": 30}),
        (("Describe it.",), {"temperature": 1.0, "top_p": 0.9, "seed": 3, "max_tokens": 12}),
        (("Describe it again.",), {"stop": (" and",), "max_tokens": 30}),
        (("Describe it once more.",), {"repetition_penalty": 1.3, "bad_words": ("red",), "max_tokens": 20}),
        (("What is it in ", picture(), "? Write <image> and 'quotes\"\n{braces}"), {"max_tokens": 8}),
        (("A story: once",), {"continuation": True, "max_tokens": 8}),
        (("What colour?",), {"grammar": json.dumps({"regex": "(?:dark )?green|purple"})}),
        (("What is the round one?",), {"choices": ("a circle", "a square", 'a "box"')}),
        (("And in ", picture(), "?"), {"choices": ("red", "the colour red", "blue"), "normalize": "length"}),
        (("And in ", picture(), "?"), {"choices": ("red", "blue", "green"), "normalize": "prior"}),
        (("A red circle and a",), {"choices": ("blue", "red"), "continuation": True}),
    ):
        replies.append(session.ask(*parts, **how))
        codes.append(program_of(session, engine=starter, folder=tmp_path / "pictures"))
    # The file and the variable hold the same pixels; the other one is the prior's grey square.
    assert len(os.listdir(tmp_path / "pictures")) == 2
    assert "apply_chat_template" in codes[1]
    assert "*[" in codes[6]  # no text gives these tokens
    for said, reply in zip(run(tmp_path, codes), replies, strict=True):
        check(said, reply)


BUILDS = (
    ("idefics", "idefics-instruct", "idefics2-base", "idefics2-chatty"),
    ("idefics3-tiles", "llava", "llava-next", "gemma3"),
    ("mllama", "paligemma", "blip-2", "instructblip", "instructblip-t5"),
)


@pytest.mark.parametrize("names", BUILDS, ids="+".join)
def test_programs_of_every_kind_of_family_give_the_same_tokens(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    """Templates with blocks and with strings, base checkpoints, lists, a language model inside the model."""
    codes, replies = [], []
    for name in names:
        engine = LocalEngine(tiny_models.tiny(name))
        session = vlm_magic.Session(engine)
        reply = session.ask("Look at ", picture(), " and say what it is.", max_tokens=6)
        if tiny_models.TINY[name].max_pictures is None:
            reply = session.ask("And ", picture().rotate(90), "?", max_tokens=6)
        codes.append(program_of(session, engine=engine, folder=tmp_path / name))
        replies.append(reply)
        chosen = vlm_magic.Session(engine)
        replies.append(chosen.ask(picture(), "Is it a fox?", choices=("a fox", "no", "the cat")))
        codes.append(program_of(chosen, engine=engine, folder=tmp_path / name))
    for said, reply in zip(run(tmp_path, codes), replies, strict=True):
        check(said, reply)


@pytest.mark.parametrize(("dtype", "n_equal"), [("float32", 5), ("bfloat16", 3)])
def test_how_a_model_was_loaded_is_in_its_program(tmp_path: Path, dtype: str, n_equal: int) -> None:
    """Numbers' type, attention, the pictures' budget; all tokens are promised equal in float32 alone."""
    options = LoadOptions(dtype=dtype, attn="eager", splitting=False)  # type: ignore[arg-type]
    engine = LocalEngine(load_model(tiny_models.folder_of("idefics3-tiles"), options))
    session = vlm_magic.Session(engine)
    reply = session.ask(picture(), "What is it?", max_tokens=n_equal)
    code = program_of(session, engine=engine, folder=tmp_path)
    assert f"dtype=torch.{dtype}" in code
    assert 'attn_implementation="eager"' in code
    assert "do_image_splitting = False" in code
    check(run(tmp_path, [code])[0], reply)


def test_what_has_no_program_is_said(starter: LocalEngine) -> None:
    session = vlm_magic.Session(starter)
    with pytest.raises(ConversationError, match="no turns yet"):
        program_of(session, engine=starter)
    session.ask("red or blue?", choices=("red", "blue"))
    with pytest.raises(OptionError, match="does not run here"):
        program_of(vlm_magic.Session(starter, session.conversation), engine=ScriptedEngine())  # type: ignore[arg-type]


def test_a_turn_that_is_not_the_last_has_only_what_was_before_it(starter: LocalEngine) -> None:
    session = vlm_magic.Session(starter)
    session.ask("Hello?")
    session.ask("Later.")
    code = program_of(session, session.conversation.exchanges[0], engine=starter)
    assert "Hello?" in code
    assert "Later." not in code
    assert code.count("Hello?") == 1


def test_literals_are_python_that_means_the_same() -> None:
    values = [
        "a\nb\t\"'\\",
        "\x1b\u202e\U0001f600é",
        {"a": [1, None, True, (2.5,)], "b": ("x", "y")},
        -0.0,
        [],
    ]
    for value in values:
        assert ast.literal_eval(literal(value)) == value
        assert "\x1b" not in literal(value)
    assert eval(short_ids([1, 2, 2, 2, 2, 2, 2, 3])) == [1, 2, 2, 2, 2, 2, 2, 3]


# ---- the magic -----------------------------------------------------------------------------------


@pytest.fixture
def shell(starter: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    fresh.models.add("starter", starter)
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.user_ns["scene"] = picture()
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def error_of(shell: Any, source: str) -> Any:
    result = shell.run_cell(source, store_history=True)
    return result.error_in_exec or result.error_before_exec


def test_the_magic_shows_the_last_answer_of_any_conversation_or_of_one(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(error_of(shell, "%vlm_code"), ConversationError)
    assert error_of(shell, "%vlm -c one How many circles are there in {scene}?") is None
    assert error_of(shell, "%vlm -c two Hello there") is None
    capsys.readouterr()
    assert error_of(shell, "%vlm_code") is None
    assert "Hello there" in capsys.readouterr().out
    assert not (tmp_path / "vlm_code_pictures").exists()
    assert error_of(shell, "%vlm_code -c one") is None
    out = capsys.readouterr().out
    assert "How many circles" in out
    assert 'picture_scene = Image.open("' in out
    assert len(list((tmp_path / "vlm_code_pictures").glob("picture_scene-*.png"))) == 1


def test_the_magic_writes_a_file_with_its_pictures_beside_it(
    shell: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error_of(shell, "%vlm What is in {scene}?") is None
    assert error_of(shell, f"%vlm_code {tmp_path}/look.py") is None
    assert "python look.py" in capsys.readouterr().out
    assert [path.suffix for path in (tmp_path / "look_pictures").iterdir()] == [".png"]
    assert "What is in" in (tmp_path / "look.py").read_text("utf-8")
    error = error_of(shell, "%vlm_code /proc/nowhere/look.py")
    assert isinstance(error, OptionError)
    assert len(str(error).splitlines()) == 3


def test_the_program_can_be_had_in_plain_python(starter: LocalEngine, tmp_path: Path) -> None:
    found = workspace.Workspace()
    found.models.add("starter", starter)
    found.conversations.session("a").ask("Hello")
    show_code(found, "a", str(tmp_path / "a.py"))
    assert (tmp_path / "a.py").is_file()
