"""The magics: parse a line, make one call, show one result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from traitlets import Bool, Float, Int, List, Unicode, observe

from vlm_magic.errors import OptionError
from vlm_magic.inputs.kept import PictureStore
from vlm_magic.inputs.limits import FetchLimits, PictureOptions
from vlm_magic.shell import asking, coding, reports
from vlm_magic.shell.cells import CellWatch
from vlm_magic.shell.chat import ChatDesk
from vlm_magic.shell.completion import PromptCompleter
from vlm_magic.shell.notebook import notebook_path
from vlm_magic.shell.options import help_text, magic, parse_line, parse_options_only
from vlm_magic.shell.questions import allow_questions, forbid_questions
from vlm_magic.workspace import Workspace, current

__all__ = ["VLMMagics", "register", "unregister"]


@magics_class
class VLMMagics(Magics):
    """Vision-language models in the notebook. Settings: ``%config VLMMagics.NAME = value``."""

    save_thumbnails = Bool(True, help="Keep small pictures in the saved notebook.").tag(config=True)
    keep_pictures_mb = Int(
        500,
        min=0,
        help="Megabytes of full pictures kept on this machine, for going on with a conversation after the "
        "kernel was restarted; 0 keeps none.",
    ).tag(config=True)
    allow_hosts = List(
        Unicode(), help="Hosts with a private or local address that a picture's URL may name."
    ).tag(config=True)
    max_megapixels = Float(
        0, help="The largest picture that is decoded; 0 is 50 megapixels (JPEG: 200, decoded reduced)."
    ).tag(config=True)
    use_proxies = Bool(
        False, help="Fetch through the environment's proxies; their addresses cannot be checked."
    ).tag(config=True)

    def __init__(self, shell: Any, workspace: Workspace) -> None:
        super().__init__(shell)
        self.workspace = workspace
        # A terminal saves no notebook, so there is nothing to come back to.
        limit_mb = self.keep_pictures_mb if getattr(shell, "kernel", None) is not None else 0
        path = notebook_path(shell)
        workspace.pictures = PictureStore(str(path) if path else "", limit_bytes=limit_mb * 1_000_000)
        self.watch = CellWatch(shell, workspace)
        self.completer = PromptCompleter(shell)

    @no_var_expand
    @cell_magic("vlm")
    def vlm_cell(self, line: str, cell: str) -> None:
        values = parse_options_only(line, magic("%%vlm").options, "%%vlm")
        n_blank = len(cell) - len(cell.lstrip("\n"))
        text = asking.body_of(cell, values)
        self._ask(values, text, first_line=2 + n_blank)  # the magic's line is the first

    @no_var_expand
    @line_magic("vlm")
    def vlm_line(self, line: str) -> None:
        values, prompt = parse_line(line, magic("%vlm").options)
        self._ask(values, prompt)

    @line_magic
    def vlm_load(self, line: str) -> None:
        row = magic("%vlm_load")
        values, rest = parse_line(line, row.options)
        model, _, more = rest.partition(" ")
        values |= parse_options_only(more, row.options, "%vlm_load")
        reports.show_load(self.workspace, model or "starter", values)

    @line_magic
    def vlm_status(self, line: str) -> None:
        parse_options_only(line, (), "%vlm_status")
        reports.show_status(self.workspace)

    @line_magic
    def vlm_unload(self, line: str) -> None:
        reports.show_unload(self.workspace, line.strip() or None)

    @line_magic
    def vlm_forget(self, line: str) -> None:
        parse_options_only(line, (), "%vlm_forget")
        reports.show_forget(self.workspace)

    @line_magic
    def vlm_history(self, line: str) -> None:
        values, file = parse_line(line, magic("%vlm_history").options)
        if values.get("restore"):
            path = Path(file).expanduser() if file else notebook_path(self.shell)
            reports.restore(self.workspace, _name(values), path)
        elif file:
            raise OptionError(f"%vlm_history does not know {file!r}", hint=f"%vlm_history --restore {file}")
        reports.show_history(self.workspace, _name(values), save_thumbnails=self.save_thumbnails)

    @line_magic
    def vlm_export(self, line: str) -> None:
        values, file = parse_line(line, magic("%vlm_export").options)
        if not file:
            raise OptionError("%vlm_export needs a file", hint="%vlm_export conversation.md")
        path = Path(file).expanduser()
        reports.export(self.workspace, _name(values), path, save_thumbnails=self.save_thumbnails)

    @line_magic
    def vlm_code(self, line: str) -> None:
        values, file = parse_line(line, magic("%vlm_code").options)
        coding.show_code(self.workspace, _name(values), file)

    @line_magic
    def vlm_reset(self, line: str) -> None:
        values = parse_options_only(line, magic("%vlm_reset").options, "%vlm_reset")
        reports.show_reset(self.workspace, _name(values))

    @line_magic
    def vlm_chat(self, line: str) -> None:
        values = parse_options_only(line, magic("%vlm_chat").options, "%vlm_chat")
        session = self.workspace.session(_name(values))
        desk = ChatDesk(
            self.shell,
            self.workspace,
            session,
            pictures=self._limits(),
            save_thumbnails=self.save_thumbnails,
        )
        desk.open()

    @observe("keep_pictures_mb")
    def _keep_pictures(self, change: Any) -> None:
        self.workspace.pictures.limit_bytes = change.new * 1_000_000

    def _limits(self) -> PictureOptions:
        return PictureOptions(
            max_megapixels=self.max_megapixels or None,
            fetch=FetchLimits(allow_hosts=tuple(self.allow_hosts), use_proxies=self.use_proxies),
        )

    def _ask(self, values: dict[str, object], text: str, first_line: int = 1) -> None:
        asking.ask(
            self.shell,
            self.workspace,
            values,
            text,
            first_line=first_line,
            pictures=self._limits(),
            save_thumbnails=self.save_thumbnails,
        )


# The table is the one source of help: ``%%vlm?`` shows the docstring.
for _function, _name_of_magic in (
    (VLMMagics.vlm_cell, "%%vlm"),
    (VLMMagics.vlm_line, "%vlm"),
    (VLMMagics.vlm_chat, "%vlm_chat"),
    (VLMMagics.vlm_load, "%vlm_load"),
    (VLMMagics.vlm_status, "%vlm_status"),
    (VLMMagics.vlm_unload, "%vlm_unload"),
    (VLMMagics.vlm_forget, "%vlm_forget"),
    (VLMMagics.vlm_history, "%vlm_history"),
    (VLMMagics.vlm_export, "%vlm_export"),
    (VLMMagics.vlm_code, "%vlm_code"),
    (VLMMagics.vlm_reset, "%vlm_reset"),
):
    _function.__doc__ = help_text(_name_of_magic)


def _name(values: dict[str, object]) -> str | None:
    name = values.get("conversation")
    if name is not None and not isinstance(name, str):
        raise OptionError(f"{name!r} is no name of a conversation")
    return name


def register(shell: Any) -> None:
    """Add the magics to a shell and follow its cells; once per shell."""
    unregister(shell)
    magics = VLMMagics(shell, current())
    shell.register_magics(magics)
    magics.watch.start()
    magics.completer.start()
    allow_questions(shell)


def unregister(shell: Any) -> None:
    """Follow the shell's cells no longer."""
    magics = shell.magics_manager.registry.get("VLMMagics")
    if magics is not None:
        magics.watch.stop()
        magics.completer.stop()
        forbid_questions(shell)
