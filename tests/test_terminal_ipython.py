"""`ipython` in a plain terminal: words stream as they come, no widget's noise, Ctrl-C keeps what was said."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pexpect = pytest.importorskip("pexpect", reason="pexpect comes with IPython, but not on Windows")

ROOT = Path(__file__).parents[1]
PROMPT = re.compile(r"In \[\d+\]: ")


class Terminal:
    """An `ipython` in a pseudo terminal."""

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))
        self.child: Any = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", "--no-banner", "--simple-prompt", "--colors=NoColor", "--no-confirm-exit"],
            cwd=str(folder),
            env={**os.environ, "PYTHONPATH": paths, "TERM": "dumb"},
            encoding="utf-8",
            timeout=60,
            dimensions=(40, 200),
        )
        self.child.expect(PROMPT)

    def run(self, line: str) -> str:
        """Type a line; what stands between it and the next prompt."""
        self.child.sendline(line)
        self.child.expect(PROMPT)
        return str(self.child.before).replace("\r\n", "\n").partition("\n")[2]

    def close(self) -> None:
        self.child.ptyproc.delayafterterminate = 2  # s; a tenth, as it is, is too little on a busy machine
        self.child.close(force=True)


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """An `ipython` with the extension and a picture; one for all tests here."""
    terminal = Terminal(tmp_path_factory.mktemp("terminal"))
    try:
        assert terminal.run("%load_ext vlm_magic").strip() == ""
        terminal.run(
            "import vlm_magic.workspace; from vlm_magic.testing import ScriptedEngine; from PIL import Image"
        )
        terminal.run("cat = Image.new('RGB', (32, 24), 'red')")
        yield terminal
    finally:
        terminal.close()


def use_fake(terminal: Terminal, words: str, seconds_per_token: float) -> None:
    engine = f"ScriptedEngine({words!r}, seconds_per_token={seconds_per_token})"
    assert "Error" not in terminal.run(f"vlm_magic.workspace.current().models.add('fake', {engine})")


def test_words_stream_as_they_come(terminal: Terminal) -> None:
    """The first words are on the screen while the last ones have not been said."""
    use_fake(terminal, "alpha beta gamma delta epsilon omega", 0.8)
    terminal.child.sendline("%vlm What is in {cat}?")
    terminal.child.expect("alpha")
    with pytest.raises(pexpect.TIMEOUT):
        terminal.child.expect("omega", timeout=0.4)
    terminal.child.expect("omega")
    terminal.child.expect(PROMPT)


def test_a_cell_is_typed_over_several_lines(terminal: Terminal) -> None:
    use_fake(terminal, "Red.", 0)
    for line in ("%%vlm -o answer", "What colour is {cat}?", ""):
        terminal.child.sendline(line)
        terminal.child.expect(re.escape("...: "))
    terminal.child.sendline("")
    terminal.child.expect("Red")
    terminal.child.expect(PROMPT)
    assert "Red." in terminal.run("print(answer)")


def test_no_widget_shows_itself(terminal: Terminal) -> None:
    use_fake(terminal, "A red cat.", 0)
    shown = terminal.run("%vlm What is in {cat}?")
    assert "A red cat." in shown
    assert "cat" in shown
    for noise in ("object at 0x", "ChatPanel", "<div", "<style", "Traceback"):
        assert noise not in shown


def test_ctrl_c_keeps_the_partial_answer_and_the_next_line_works(terminal: Terminal) -> None:
    use_fake(terminal, " ".join(f"w{n}" for n in range(300)), 0.05)
    terminal.child.sendline("%vlm Tell me everything about {cat}.")
    terminal.child.expect("w3")
    terminal.child.sendintr()
    terminal.child.expect(PROMPT)
    assert "Traceback" not in terminal.child.before
    reply = "vlm_magic.session().conversation.exchanges[-1].reply"
    assert "interrupted" in terminal.run(f"print({reply}.finish_reason)")
    assert "w0 w1 w2" in terminal.run(f"print({reply}.text)")
    use_fake(terminal, "Fine.", 0)
    assert "Fine." in terminal.run("%vlm And now?")


def test_an_error_is_three_lines(terminal: Terminal) -> None:
    shown = terminal.run("%vlm What is in {catt}?").strip().splitlines()
    assert shown[0].startswith("PictureNotFoundError: ")
    assert len(shown) <= 3


def test_the_starter_answers(terminal: Terminal) -> None:
    """The real model, loaded by the magic."""
    assert "starter" in terminal.run("%vlm_load")
    shown = terminal.run("%vlm --new --max-tokens 20 -o answer Is there a star in {cat}?")
    assert "Error" not in shown
    assert terminal.run("print(len(answer) > 0)").strip() == "True"
