"""What CONTRIBUTING tells newcomers is so: the way of a question, and every file that is named."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from vlm_magic import workspace

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / ".github" / "CONTRIBUTING.md", ROOT / ".github" / "CHANGELOG.md", ROOT / "README.md"]


def files_in(text: str) -> list[str]:
    """The modules and folders between backticks, as they are written there."""
    return re.findall(r"`([\w./]+(?:\.py|/\w+\.md|/))`", text)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_every_file_that_is_named_is_there(guide: Path) -> None:
    """From the root, or from the package, as the map has it."""
    named = files_in(guide.read_text(encoding="utf-8"))
    missing = [
        name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "vlm_magic"))
    ]
    assert missing == []


def test_a_question_goes_the_way_that_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten lines, each of whose files does a part of it."""
    guide = GUIDES[0].read_text(encoding="utf-8")
    lines = re.findall(
        r"^(\d+)\. (.*)$", guide.partition("goes this way:")[2].partition("\n\n`tests/")[0], re.MULTILINE
    )
    assert [int(number) for number, _ in lines] == list(range(1, 11))
    package = Path(workspace.__file__).parents[1]
    seen: set[str] = set()

    def watch(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            seen.add(frame.f_code.co_filename)

    monkeypatch.setattr(workspace, "_current", workspace.Workspace())
    shell = InteractiveShell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.run_cell("%vlm_load")
    # As a front-end that somebody looks at tells of itself.
    shell.kernel = SimpleNamespace()
    shell.parent_header = {"metadata": {"cellId": "a"}}
    shell.user_ns["photo"] = Image.new("RGB", (64, 64), "red")
    threading.setprofile(watch)  # the model answers in a thread that begins with its first question
    sys.setprofile(watch)
    try:
        assert shell.run_cell("%%vlm\nWhat is in {photo}?", cell_id="a").success
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        shell.run_line_magic("unload_ext", "vlm_magic")
    passed = {str(Path(name).relative_to(package)) for name in seen if Path(name).is_relative_to(package)}
    not_passed = {name for _, line in lines for name in files_in(line)} - passed
    assert not_passed <= {"shell/options.py", "models/prompts/families.py"}, "these two are tables of data"
    workspace.current().models.unload()
