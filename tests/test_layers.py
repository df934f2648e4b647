"""Imports go only downstairs, between rooms and inside them; each heavy library stays in its own rooms.

Reads the imports with `ast`, also those inside functions and those that only a type checker sees; the tables
here are the rule.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vlm_magic"

GROUND = {"wording", "errors", "messages", "choice_scores", "work_queue", "uninterrupted"}
FIRST = {"inputs", "conversation", "models", "remote", "outputs"}

# A room -> the rooms it may import, itself aside. The package's own front (`vlm_magic/__init__.py`) is "".
MAY_IMPORT: dict[str, set[str]] = {
    "wording": set(),
    "errors": {"wording"},
    "messages": {"wording", "errors"},
    "uninterrupted": set(),
    "work_queue": {"wording", "errors", "messages"},
    "choice_scores": {"wording", "errors", "messages"},
    "inputs": GROUND,
    "conversation": GROUND,
    "remote": GROUND,
    "models": GROUND | {"starter"},  # to find the weights
    "outputs": GROUND,
    "explain": GROUND | {"models", "outputs"},  # asks engines by protocols, shows what it found
    "session": GROUND | {"inputs", "conversation", "explain"},  # the engine comes in by its protocol
    "testing": GROUND,
    "workspace": GROUND | FIRST | {"session"},
    "tasks": GROUND | FIRST | {"session", "explain"},
    "shell": GROUND | FIRST | {"session", "workspace", "tasks", "explain"},
    "starter": {"", "errors", "wording"},  # stands apart; it is measured through the front door
    "front": GROUND | FIRST | {"session", "workspace", "tasks"},
    "": GROUND | FIRST | {"session", "tasks", "front", "shell", "explain", "starter"},
}

# Inside a room: its floors from the ground up. A module or sub-package imports those of lower floors, and
# what stands beside it on its own floor stays unknown to it.
FLOORS: dict[str, list[set[str]]] = {
    "messages": [
        {"parts", "said", "settings"},
        {"replies"},
        {"explained", "engines", "exchange"},
        {"__init__"},
    ],
    "inputs": [
        {"limits", "cell_text", "thumbnails", "disk_store", "excerpts"},
        {"pixels"},
        {"locate"},
        {"download"},
        {"readers"},
        {"kinds"},
        {"pictures"},
        {"prompt", "parts", "picture_store"},
    ],
    "models": [
        {"control_tokens", "load_options", "cache_size"},
        {"loaded"},
        {"memory", "identity", "cpu_threads", "cpu_numbers", "said_tokens"},
        {"prompts"},
        {"checkpoints", "caches"},
        {"decoding"},
        {"inside"},
        {"resident"},
        {"engine"},
        {"lending"},
    ],
    "tasks": [
        {"frames", "schemas", "code"},
        {"examples"},
        {"choices", "typed"},
        {"forms", "compare"},
        {"map"},
        {"classify", "evaluate"},
        {"training"},
    ],
    "shell": [
        {"line", "interrupted", "notebook", "cells", "question_mark"},
        {"options"},
        {"completion"},
        {"panels"},
        {"chat", "reports"},
        {"cell_panel"},
        {"calls"},
        {"magics"},
    ],
}
MOST_MODULES = 12  # of one folder, its `__init__` aside

# A library -> the places (rooms or files) that may import it. Type-only imports are free.
MAY_USE: dict[str, set[str]] = {
    "IPython": {"shell", "outputs"},
    "ipykernel": {"shell"},
    "anywidget": {"outputs/panel/widget.py", "outputs/panel/stop_bar.py"},
    "ipywidgets": {"outputs/panel/widget.py"},
    "torch": {"models", "tasks", "starter"},
    "transformers": {"models", "tasks", "starter"},
    "accelerate": {"models"},
    "bitsandbytes": {"models"},
    "huggingface_hub": {"models"},
    "requests": {"inputs", "models", "remote"},
    "urllib3": {"inputs", "remote"},
    "matplotlib": {"starter", "tasks/choices/calibration.py", "inputs/pixels/colour_maps.py"},
    "pandas": {"tasks", "explain"},
    "dask": {"tasks/map/cluster/dask.py"},
    "distributed": {"tasks/map/cluster/dask.py"},
    "ray": {"tasks/map/cluster/ray.py"},
    "fsspec": {"tasks/map/sources/cloud.py"},
    "llguidance": {"models"},
    "pydantic": {"tasks"},
}


@dataclass(frozen=True)
class Import:
    """One import: where it stands, what it names, and whether only a type checker sees it."""

    file: str
    line: int
    module: str
    is_type_only: bool

    @property
    def room(self) -> str:
        """The room of the importing module; "" for the package's own front."""
        return "" if self.file == "__init__.py" else self.file.split("/")[0].removesuffix(".py")

    @property
    def target_room(self) -> str | None:
        """The room that is imported; None for a library."""
        first, *rest = self.module.split(".")
        return (rest[0] if rest else "") if first == "vlm_magic" else None

    def __str__(self) -> str:
        return f"vlm_magic/{self.file}:{self.line} imports {self.module}"


def _imports_of(path: Path) -> Iterator[Import]:
    file = path.relative_to(PACKAGE).as_posix()

    def walk(node: ast.AST, type_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, type_only)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide the room"
            assert node.module is not None
            for alias in node.names:
                inner = PACKAGE.parent.joinpath(*node.module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                name = f"{node.module}.{alias.name}" if is_module else node.module
                yield Import(file, node.lineno, name, type_only)
        inside = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, type_only or inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


IMPORTS = [found for path in sorted(PACKAGE.rglob("*.py")) for found in _imports_of(path)]


def test_every_room_has_its_row_in_the_table() -> None:
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - {"__init__"} == set(MAY_IMPORT) - {""}


def test_imports_go_only_downstairs() -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.target_room is not None
        and found.target_room != found.room
        and found.target_room not in MAY_IMPORT[found.room]
    ]
    assert wrong == []


@pytest.mark.parametrize("library", sorted(MAY_USE))
def test_a_library_is_imported_in_its_rooms_alone(library: str) -> None:
    wrong = [
        str(found)
        for found in IMPORTS
        if found.module.split(".")[0] == library
        and not found.is_type_only
        and not {found.room, found.file} & MAY_USE[library]
    ]
    assert wrong == []


def test_outputs_know_only_the_display_side_of_ipython() -> None:
    allowed = {"IPython", "IPython.display"}  # get_ipython and display
    wrong = [
        str(found)
        for found in IMPORTS
        if found.room == "outputs" and found.module.split(".")[0] == "IPython" and found.module not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_inside_a_room_imports_go_only_downstairs(room: str) -> None:
    floor_of = {name: n for n, names in enumerate(FLOORS[room]) for name in names}
    wrong = []
    for found in IMPORTS:
        if found.room != room or found.target_room != room:
            continue
        here, there = found.file.split("/")[1].removesuffix(".py"), found.module.split(".")[2]
        if here != there and floor_of[there] >= floor_of[here]:
            wrong.append(str(found))
    assert wrong == []


@pytest.mark.parametrize("room", sorted(FLOORS))
def test_everything_in_a_room_with_floors_stands_on_one(room: str) -> None:
    there = {path.stem for path in (PACKAGE / room).iterdir() if path.suffix == ".py" or _has_code(path)}
    assert there - {"__init__"} == set().union(*FLOORS[room]) - {"__init__"}


def _has_code(path: Path) -> bool:
    return (path / "__init__.py").exists()


def test_no_module_imports_itself_through_others() -> None:
    """A circle is a module in the wrong place, also one of lazy imports or of types alone."""
    graph: dict[str, set[str]] = {}
    for found in IMPORTS:
        if found.target_room is not None:
            name = "vlm_magic." + found.file.removesuffix(".py").replace("/", ".")
            name = name.removesuffix(".__init__")
            if found.module != name:
                graph.setdefault(name, set()).add(found.module)
    circles = []
    for start, targets in graph.items():
        ahead, seen = [(n, (start, n)) for n in targets], set()
        while ahead:
            name, way = ahead.pop()
            if name == start:
                circles.append(" -> ".join(way))
                break
            if name not in seen:
                seen.add(name)
                ahead += [(n, (*way, n)) for n in graph.get(name, ())]
    assert circles == []


def test_no_folder_is_too_full_to_find_ones_way() -> None:
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    sizes = {
        folder.relative_to(PACKAGE.parent).as_posix(): sum(
            path.stem != "__init__" for path in folder.glob("*.py")
        )
        for folder in folders
    }
    assert {folder: n for folder, n in sizes.items() if n > MOST_MODULES} == {}


def test_every_other_library_is_a_declared_dependency() -> None:
    """Nothing is imported at run time that an installed package would not bring along."""
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {
        line.split(">")[0].split("[")[0].strip().lower()
        for line in [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    }
    names = {
        "PIL": "pillow",
        "IPython": "ipython",
        "markdown_it": "markdown-it-py",
        "mdit_py_plugins": "mdit-py-plugins",
    }
    brought_along = {
        "transformers": {"huggingface_hub", "safetensors", "tokenizers", "tqdm"},
        "accelerate": {"psutil"},
        "ipython": {"traitlets"},
        "ipywidgets": {"comm"},
        "pydantic": {"typing_extensions"},
        "requests": {"urllib3"},
        "distributed": {"dask"},
        "torch": {"fsspec"},
    }
    for holder, brought in brought_along.items():
        if holder in declared:
            declared |= brought
    optional = {"optimum", "torchao", "peft", "pillow_heif"}  # errors say how to install them
    used = {found.module.split(".")[0] for found in IMPORTS if not found.is_type_only}
    used -= {"vlm_magic", *sys.stdlib_module_names, *optional}
    assert sorted(name for name in used if names.get(name, name).lower() not in declared) == []
