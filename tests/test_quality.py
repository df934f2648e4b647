"""The habits of the house as tests, so that one command says it all: format, lint, types, front end, pins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "tests" / "constraints.txt"


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)


def test_the_code_is_formatted() -> None:
    """Mend with `ruff format`."""
    _run(sys.executable, "-m", "ruff", "format", "--check", "--quiet", "--diff")


def test_lint_finds_nothing() -> None:
    """Mend with `ruff check --fix` where it can be."""
    _run(sys.executable, "-m", "ruff", "check", "--quiet")


def test_types_are_right() -> None:
    _run(sys.executable, "-m", "mypy", "--no-error-summary")


def test_the_front_end_passes_its_own_tests() -> None:
    node = shutil.which("node")
    if node is None:
        reason = "node is not installed; the front end's tests did not run"
        pytest.fail(reason) if os.environ.get("CI", "").lower() in ("1", "true") else pytest.skip(reason)
    scripts = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("*.mjs"))
    assert scripts
    _run(node, "--test", *scripts)


def _pins() -> dict[str, str]:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in pins}


def _installed_closure() -> set[str]:
    """The names of everything that the package and its extras bring along here, by their metadata."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    ahead = [(Requirement(line), "") for line in [*project["dependencies"], *extras["lab"], *extras["test"]]]
    seen: set[tuple[str, str]] = set()
    while ahead:
        wanted, extra = ahead.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        for inner in ("", *wanted.extras):
            if (name, inner) not in seen:
                seen.add((name, inner))
                ahead += [(Requirement(line), inner) for line in requires]
    return {name for name, _ in seen}


def test_everything_that_gets_installed_is_pinned_to_the_tested_version() -> None:
    """CUDA's own packages aside, which torch pins itself and machines without a GPU do not need."""
    pins = _pins()
    if sys.platform != "linux":
        pytest.skip("the pins were made on Linux")
    own = re.compile(r"nvidia-.*|cuda-.*|triton|setuptools")
    names = {name for name in _installed_closure() if not own.fullmatch(name)}
    assert sorted(names - set(pins)) == []
    assert not any(own.fullmatch(name) for name in pins if name != "setuptools")


def test_the_pins_satisfy_the_declared_floors() -> None:
    pins = _pins()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        *project["dependencies"],
        *(line for e in project["optional-dependencies"].values() for line in e),
    ]
    wrong = [
        line
        for line in lines
        if not (r := Requirement(line)).specifier.contains(Version(pins[canonicalize_name(r.name)]))
    ]
    assert wrong == []
