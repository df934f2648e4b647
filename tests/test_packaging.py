"""What gets installed: the package without what trained the starter, and all that users run runs so."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vlm_magic"
MAKING = "vlm_magic/starter/making/"
SHIPPED = ("asking", "dialogues", "words", "world", "__init__.py")  # of it: what draws and asks


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution; nothing is fetched for them."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def in_repository() -> set[str]:
    """The package's files, as git would have them: no compiled and no hidden ones."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def stays_out(name: str) -> bool:
    return name.startswith(MAKING) and name.removeprefix(MAKING).split("/")[0] not in SHIPPED


def test_the_wheel_holds_the_package_without_what_trained_the_starter(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("vlm_magic/")}
        others = {name.split("/")[0] for name in wheel.namelist()} - {"vlm_magic"}
    assert held == {name for name in in_repository() if not stays_out(name)}
    assert len(others) == 1
    assert others.pop().endswith(".dist-info")


def test_the_source_distribution_holds_everything(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        held = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
    assert in_repository() <= held
    assert any(name.startswith(MAKING) for name in held)
    assert {"README.md", "LICENSE", "pyproject.toml", "tests/test_packaging.py"} <= held


def test_nothing_that_is_installed_imports_what_trained_the_starter() -> None:
    for path in PACKAGE.rglob("*.py"):
        if not stays_out(path.relative_to(ROOT).as_posix()):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not any(stays_out(f"{name.replace('.', '/')}.py") for name in names), path


RUN_NOTEBOOKS = """
import importlib.util, json, pathlib, sys
import vlm_magic
assert pathlib.Path(vlm_magic.__file__).is_relative_to(sys.argv[1]), vlm_magic.__file__
assert importlib.util.find_spec("vlm_magic.starter.making.training") is None
assert len(vlm_magic.starter_questions(3)) == 3
from IPython.core.interactiveshell import InteractiveShell
for path in sys.argv[2:]:
    shell = InteractiveShell()
    n = 0
    for cell in json.loads(pathlib.Path(path).read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            result = shell.run_cell("".join(cell["source"]))
            if "raises-exception" not in cell["metadata"].get("tags", ()):
                result.raise_error()
            n += 1
    assert n > 3, path
    InteractiveShell.clear_instance()
print("all cells ran")
"""


def test_an_installed_wheel_runs_the_notebooks(installed: Path, tmp_path: Path) -> None:
    """Every cell of the quick-start and of the jobs, where what trained the starter does not exist."""
    notebooks = sorted(str(path) for path in (ROOT / "notebooks").glob("0*.ipynb"))
    done = subprocess.run(
        [sys.executable, "-c", RUN_NOTEBOOKS, str(installed), *notebooks],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.rstrip().endswith("all cells ran")
