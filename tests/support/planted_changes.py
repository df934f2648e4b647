"""Break the package on purpose, one small change at a time, and see whether the tests notice.

    python tests/support/planted_changes.py --list
    python tests/support/planted_changes.py --only vision     # entries with this word in name, room or tests
    python tests/support/planted_changes.py                   # all of them: an hour on two idle cores
    python tests/support/planted_changes.py --trust-tests     # half of that, where the suite is known to pass

The changes stand in `planted_table`. Each is made in a copy of the tree in a temporary folder, never in the
tree itself; then the tests that ought to notice are run. A change is *noticed* when a test fails with it
that passes without it. The script ends with 1 where a change went unnoticed, and with 2 where an entry is
wrong: its old text is not found exactly once, its tests fail without the change, or with it nothing can even
be imported.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Planted", "PlantedError", "place_of", "plant"]

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("vlm_magic", "tests", "pyproject.toml", "README.md", "LICENSE", ".github", "notebooks")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".*_cache", "node_modules", "*.pyc")
_TIMEOUT_S = 900.0  # a change may make a test wait for ever: that is noticed too


@dataclass(frozen=True)
class Planted:
    """One change that would hurt somebody.

    Attributes:
        name: what is broken, in words.
        room: the file, or the folder, in which ``old`` stands exactly once: code may move within its room.
        old: the text that is taken away.
        new: the text in its place.
        why: who would be hurt, and how.
        tests: what to run: files of tests, with ``-k`` and words at the end where they are long.
    """

    name: str
    room: str
    old: str
    new: str
    why: str
    tests: str


class PlantedError(Exception):
    """An entry that cannot be planted any more, or whose tests say nothing."""


def place_of(planted: Planted, root: Path = ROOT) -> Path:
    """The file in which the old text stands.

    Raises:
        PlantedError: it stands nowhere in its room, or more than once.
    """
    room = root / planted.room
    files = sorted(room.rglob("*")) if room.is_dir() else [room]
    texts = {file: _read(file) for file in files if file.suffix in (".py", ".mjs", ".css", ".md")}
    found = [file for file, text in texts.items() for _ in range(text.count(planted.old))]
    if len(found) != 1:
        places = ", ".join(str(file.relative_to(root)) for file in found) or "nowhere"
        raise PlantedError(
            f"{planted.name}: the old text is found {len(found)} times in {planted.room}: {places}"
        )
    return found[0]


def plant(planted: Planted, root: Path) -> Callable[[], None]:
    """Make the change in a tree; gives the function that takes it back."""
    file = place_of(planted, root)
    before = file.read_text("utf-8")
    file.write_text(before.replace(planted.old, planted.new), "utf-8")
    return lambda: _restore(file, before)


def _restore(file: Path, text: str) -> None:
    file.write_text(text, "utf-8")


def _read(file: Path) -> str:
    return file.read_text("utf-8") if file.is_file() else ""


def _copy(target: Path) -> None:
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=_LEFT_OUT)
        elif source.exists():
            shutil.copy2(source, target / name)


def _commands(tests: str) -> list[list[str]]:
    """What runs the tests: pytest for Python, node for the front end."""
    names, _, words = tests.partition(" -k ")
    pages = [name for name in names.split() if name.endswith(".mjs")]
    files = [name for name in names.split() if name not in pages]
    chosen = ["-k", words] if words else []
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *chosen, *files]
    return [*([["node", "--test", *pages]] if pages else []), *([pytest] if files else [])]


def _outcome(tests: str, root: Path) -> tuple[str, str]:
    """("passed", "failed" or "broken", the last words of the first run that did not pass)."""
    # Without bytecode files: two changes within a second would share one.
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    for command in _commands(tests):
        try:
            done = subprocess.run(
                command,
                cwd=root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "failed", f"no end after {_TIMEOUT_S:.0f} s"
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        failed = next(
            (line for line in said if line.startswith(("FAILED", "not ok"))), said[-1] if said else ""
        )
        if done.returncode == 1:
            return "failed", failed
        if done.returncode != 0:  # pytest: no such test, an error while it collected
            return "broken", failed
    return "passed", ""


def _check_copy(root: Path) -> None:
    """Make sure that it is the copy that is tested."""
    code = "import vlm_magic; print(vlm_magic.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    if not Path(done.stdout.strip()).is_relative_to(root):
        raise PlantedError(f"the tests would run on {done.stdout.strip()}, not on the copy in {root}")


def _run(table: Iterable[Planted], *, is_trusted: bool = False) -> int:
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        root = Path(folder).resolve()
        _copy(root)
        _check_copy(root)

        @cache
        def without(tests: str) -> tuple[str, str]:
            return ("passed", "") if is_trusted else _outcome(tests, root)

        for planted in table:
            began = time.monotonic()
            try:
                verdict, words = _verdict(planted, root, without)
            except PlantedError as error:
                verdict, words = "WRONG", str(error)
            counts[verdict] += 1
            print(
                f"{verdict:9} {planted.name} ({time.monotonic() - began:.0f} s) {words}".rstrip(), flush=True
            )
    n_all = sum(counts.values())
    print(f"{counts['noticed']} of {n_all} planted changes noticed", flush=True)
    return 2 if counts["WRONG"] else int(counts["unnoticed"] > 0)


def _verdict(planted: Planted, root: Path, without: Callable[[str], tuple[str, str]]) -> tuple[str, str]:
    take_back = plant(planted, root)
    try:
        outcome, words = _outcome(planted.tests, root)
    finally:
        take_back()
    if outcome == "broken":
        raise PlantedError(f"{planted.name}: nothing can be run with it: {words}")
    if outcome == "passed":
        return "unnoticed", ""
    plain, plain_words = without(planted.tests)
    if plain != "passed":
        raise PlantedError(f"{planted.name}: its tests fail without it as well: {plain_words}")
    return "noticed", words


def main() -> int:
    """Parse the line, run or list."""
    from planted_table import TABLE

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="say what would be planted")
    parser.add_argument(
        "--only", action="append", metavar="WORD", help="entries with this word; may be repeated"
    )
    parser.add_argument("--trust-tests", action="store_true", help="do not run them without a change as well")
    options = parser.parse_args()
    wanted = [word.lower() for word in options.only or [""]]
    table = [p for p in TABLE if any(w in f"{p.name} {p.room} {p.tests}".lower() for w in wanted)]
    if options.list:
        for planted in table:
            print(f"{planted.name}\n    {planted.room}: {planted.why}\n    {planted.tests}")
        print(f"{len(table)} planted changes")
        return 0
    return _run(table, is_trusted=options.trust_tests)


if __name__ == "__main__":
    sys.exit(main())
