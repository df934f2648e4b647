"""What Tab offers: options on the line of a magic, names of the notebook in a prompt, pictures first.

Added to IPython's own completer; older IPython without matchers of this kind goes without.
Neighbours: `options` has the table; `vlm_magic.inputs.pictures` knows what is picture-like.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vlm_magic.inputs.pictures import is_picture_like
from vlm_magic.shell.options import MAGICS, Magic
from vlm_magic.workspace import Workspace

__all__ = ["PromptCompleter", "picture_names_first"]

_OPEN_BRACE = re.compile(r"(?<!\{)\{(?:\{\{)*([A-Za-z_]\w*)?$")
_FLAG = re.compile(r"(?:^|\s)(-[\w-]*)$")
_VALUE = re.compile(r"(?:^|\s)(--?[a-z][\w-]*)(?:\s+|=)([\w.,]*)$")
_MAGIC_LINE = re.compile(r"^\s*(%%?\w+)(?:\s|$)")


class PromptCompleter:
    """Completes inside ``%%vlm`` and on the lines of the magics.

    Args:
        shell: the IPython shell to complete for.
        workspace: the models and conversations that a line may name.
    """

    def __init__(self, shell: Any, workspace: Workspace) -> None:
        self._shell = shell
        self._workspace = workspace
        self._matcher: Any = None

    def start(self) -> None:
        """Add the matcher to the shell's completer."""
        try:
            from IPython.core.completer import context_matcher
        except ImportError:
            return  # IPython before 8.6

        @context_matcher(identifier="vlm_magic")  # sets attributes, so a method will not do
        def match(context: Any) -> Any:
            return self._match(context)

        self._matcher = match
        self._shell.Completer.custom_matchers.append(match)

    def stop(self) -> None:
        """Take it out again."""
        if self._matcher in getattr(self._shell.Completer, "custom_matchers", ()):
            self._shell.Completer.custom_matchers.remove(self._matcher)

    def _match(self, context: Any) -> Any:
        from IPython.core.completer import SimpleCompletion

        lines = context.full_text.split("\n")
        fragment, words = self.complete(lines, context.cursor_line, context.cursor_position)
        if not words:
            return {"completions": [], "matched_fragment": fragment, "suppress": False}
        return {
            "completions": [SimpleCompletion(text=word, type=kind) for word, kind in words],
            "matched_fragment": fragment,
            "suppress": True,
            "ordered": True,
        }

    def complete(self, lines: list[str], row: int, column: int) -> tuple[str, list[tuple[str, str]]]:
        """What was begun at the cursor, and its completions with their kinds, the best first."""
        row = min(row, len(lines) - 1)
        before = lines[row][:column]
        magic = _magic_of(lines[0] if lines[0].lstrip().startswith("%%") else lines[row])
        if magic is None:
            return "", []
        in_body = magic.name == "%%vlm" and row > 0
        on_line = None if in_body else self._on_line(magic, before)
        brace = _OPEN_BRACE.search(before) if in_body or magic.name == "%vlm" else None
        if on_line is not None or brace is None:
            return on_line or ("", [])
        begun = brace[1] or ""
        return begun, _names(self._shell.user_ns, begun)

    def _on_line(self, magic: Magic, before: str) -> tuple[str, list[tuple[str, str]]] | None:
        """The completions of an option, of its value, or of a model's name; None where none stands."""
        if flag := _FLAG.search(before):
            return flag[1], [(f, "option") for f in _flags(magic) if f.startswith(flag[1])]
        value = _VALUE.search(before)
        if value is not None and any(value[1] in option.flags for option in magic.options):
            begun = value[2].rpartition(",")[2]
            return begun, self._values(value[1], begun)
        if magic.name == "%vlm_unload":
            begun = before.rpartition(" ")[2]
            return begun, _kind(_beginning(self._workspace.models.engines, begun), "model")
        return None

    def _values(self, flag: str, begun: str) -> list[tuple[str, str]]:
        """What stands after an option: a conversation, a model, or a variable that fits it."""
        if flag in ("-c", "--conversation"):
            return _kind(_beginning(self._workspace.conversations.sessions, begun), "conversation")
        if flag in ("-m", "--model"):
            return _kind(_beginning(self._workspace.models.engines, begun), "model")
        if flag in ("--map", "--choices", "--examples"):
            return _names(self._shell.user_ns, begun)
        if flag == "--type":
            types = {
                name: value for name, value in self._shell.user_ns.items() if isinstance(value, (type, dict))
            }
            return _kind(_beginning([n for n in types if not _is_hidden(n, begun)], begun), "type")
        return []


def _beginning(names: Iterable[str], begun: str) -> list[str]:
    return sorted(name for name in names if name.startswith(begun))


def _magic_of(line: str) -> Magic | None:
    found = _MAGIC_LINE.match(line)
    return next((magic for magic in MAGICS if found and magic.name == found[1]), None)


def _flags(magic: Magic) -> list[str]:
    return [option.flags[-1] for option in magic.options]


def picture_names_first(names: Mapping[str, object], begun: str) -> list[str]:
    """Names that begin so, as the panel's box offers them."""
    return [name for name, _ in _names(names, begun)]


def _names(names: Mapping[str, object], begun: str) -> list[tuple[str, str]]:
    """Pictures first, then the rest, each in alphabetical order; private and IPython's own are left out.

    JupyterLab keeps this order until a letter is typed into its open list; from then on it sorts by how well
    a name matches, then by the name, and takes no rank from a kernel (4.6). The panel's box keeps it.
    """
    wanted = sorted(name for name in names if name.startswith(begun) and not _is_hidden(name, begun))
    pictures = [name for name in wanted if _is_picture(names[name])]
    others = [name for name in wanted if name not in pictures and not _is_tool(names[name])]
    return [*_kind(pictures, "picture"), *_kind(others, "variable")]


def _kind(words: Iterable[str], kind: str) -> list[tuple[str, str]]:
    return [(word, kind) for word in words]


def _is_hidden(name: str, begun: str) -> bool:
    return (name.startswith("_") and not begun.startswith("_")) or name in (
        "In",
        "Out",
        "exit",
        "quit",
        "get_ipython",
    )


def _is_picture(value: object) -> bool:
    try:
        return is_picture_like(value)
    except Exception:  # an odd object's own attribute access; Tab must never raise
        return False


def _is_tool(value: object) -> bool:
    """Modules, classes and functions: rarely what a prompt wants."""
    return callable(value) or type(value).__name__ == "module"
