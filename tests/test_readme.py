"""The README and the map for contributors say what is so: commands, magics, modules, the example.

`python tests/test_readme.py` writes the tables and the map anew.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from itertools import groupby
from pathlib import Path

import pytest

from vlm_magic.models.loaded import Family
from vlm_magic.models.prompts.families import FAMILIES
from vlm_magic.shell.options import MAGICS, Magic

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
START = "<!-- magics: written by `python tests/test_readme.py` -->\n"
END = "<!-- end of magics -->"
FAMILIES_START = "<!-- families: written by `python tests/test_readme.py` -->\n"
FAMILIES_END = "<!-- end of families -->"
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
MAP_START = "<!-- map: written by `python tests/test_readme.py` -->\n"
MAP_END = "<!-- end of map -->"


def _blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def table() -> str:
    """The table of magics, and one of options for those that share them, as Markdown."""
    lines = ["| magic | what it does |", "|---|---|"]
    lines += [f"| `{_cell(row.usage)}` | {_cell(row.summary)} |" for row in MAGICS]

    def options(row: Magic) -> tuple[str, ...]:
        return tuple(option.usage for option in row.options)

    for _, rows in groupby((row for row in MAGICS if row.options), options):
        holders = list(rows)
        names = " and ".join(f"`{row.name}`" for row in holders)
        lines += ["", f"| option of {names} | what it does |", "|---|---|"]
        lines += [f"| `{_cell(option.usage)}` | {_cell(option.help)} |" for option in holders[0].options]
    return "\n".join(lines) + "\n"


def _built_types() -> set[str]:
    """The model types that have a tiny build in the tests, as their decorators say."""
    sources = [path.read_text("utf-8") for path in sorted((ROOT / "tests" / "support").glob("tiny_*.py"))]
    return {found for source in sources for found in re.findall(r'@builder\(\s*"[^"]+", "([^"]+)"', source)}


def families_table() -> str:
    """Each family of the contract in `test_families`, which has a tiny build of every row."""

    def kept(family: Family) -> str:
        return {"none": "", "features": "yes", "across": "yes"}[family.reuse]

    lines = [
        "| family | model types | pictures of a prompt | words alone | keeps prompts | side by side |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        types = ", ".join(f"`{model_type}`" for model_type in family.model_types)
        pictures = "any number" if family.max_pictures is None else str(family.max_pictures)
        alone, batch = ("" if family.needs_picture else "yes"), ("yes" if family.is_batchable else "")
        lines.append(f"| {_cell(family.name)} | {types} | {pictures} | {alone} | {kept(family)} | {batch} |")
    listed = {model_type for family in FAMILIES for model_type in family.model_types}
    others = ", ".join(f"`{model_type}`" for model_type in sorted(_built_types() - listed))
    lines.append(f"| any other, for example | {others} | any number | yes | | |")
    return "\n".join(lines) + "\n"


def _between(text: str, start: str, end: str, content: str) -> str:
    """The text with ``content`` between the two marks."""
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}{content}{end}{after}"


def _with_table(text: str) -> str:
    text = _between(text, FAMILIES_START, FAMILIES_END, families_table())
    return _between(text, START, END, table())


def modules() -> list[Path]:
    """Every module of the package, ground floor first, then room by room."""
    rooms = [
        "vlm_magic",
        "messages",
        "inputs",
        "models",
        "remote",
        "outputs",
        "explain",
        "tasks",
        "workspace",
        "shell",
        "starter",
    ]
    found = [path.relative_to(ROOT) for path in (ROOT / "vlm_magic").rglob("*.py")]
    return sorted(
        found,
        key=lambda path: (
            rooms.index(path.parts[1:-1][0]) if path.parts[1:-1] else 0,
            path.parent,
            path.name,
        ),
    )


def module_map() -> str:
    """Each module with the first sentence of its docstring."""
    lines = ["| module | what it does |", "|---|---|"]
    for path in modules():
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        sentence = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
        lines.append(f"| `{path.relative_to('vlm_magic').as_posix()}` | {_cell(sentence)} |")
    return "\n".join(lines) + "\n"


def test_the_table_shows_the_live_magics_and_options() -> None:
    """Mend with `python tests/test_readme.py`."""
    text = README.read_text(encoding="utf-8")
    assert START in text
    assert FAMILIES_START in text
    assert text == _with_table(text)


def test_the_map_names_every_module() -> None:
    """And none that is gone. Mend with `python tests/test_readme.py`."""
    named = re.findall(r"^\| `([\w/]+\.py)` \|", CONTRIBUTING.read_text(encoding="utf-8"), re.MULTILINE)
    assert named == [path.relative_to("vlm_magic").as_posix() for path in modules()]


def test_the_first_two_blocks_are_commands_of_one_line() -> None:
    """Each does all its set-up, starting with nothing but Python."""
    lab, tests = _blocks("bash")[:2]
    for command in (lab, tests):
        assert command.count("\n") == 1
        steps = command.strip().split(" && ")
        assert steps[0] == "python3 -m venv .venv"
        assert shlex.split(steps[1])[:4] == [".venv/bin/pip", "install", "-c", "tests/constraints.txt"]
    assert "jupyter lab" in lab
    assert lab.strip().endswith("notebooks/00_quickstart.ipynb")
    assert tests.strip().endswith("-m pytest")


def test_ci_runs_the_readmes_test_command() -> None:
    """In a virtual environment of its own, otherwise to the letter."""
    shown = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run"), "--show"], capture_output=True, text=True, check=True
    ).stdout
    venv = shlex.split(shown)[3]
    assert shown.replace(venv, ".venv") == _blocks("bash")[1]


def test_every_file_that_the_readme_names_is_there() -> None:
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"!\[[^\]]*\]\((\.[^)]+)\)", text)
    assert named
    named += re.findall(r"(?:tests|notebooks|\.github)/[\w.]+", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("code", _blocks("python"))
def test_the_example_in_plain_python_runs(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlm_magic import workspace
    from vlm_magic.starter.making.world.scenes import draw_scene

    monkeypatch.setattr(workspace, "_current", workspace.Workspace())
    draw_scene([("red", "circle", 0.3, 0.3, 0.3), ("blue", "square", 0.7, 0.7, 0.3)]).save(
        tmp_path / "scene.png"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    said = r"starter was taught 20 steps" if "teach" in code else r"(1|one)\b"
    assert re.match(said, capsys.readouterr().out, re.IGNORECASE)


if __name__ == "__main__":
    README.write_text(_with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
    text = CONTRIBUTING.read_text(encoding="utf-8")
    CONTRIBUTING.write_text(_between(text, MAP_START, MAP_END, module_map()), encoding="utf-8")
    print(f"wrote {len(MAGICS)} magics to {README.name} and {len(modules())} modules to {CONTRIBUTING.name}")
