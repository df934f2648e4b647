"""The magics: parse a line, make one call, show one result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from traitlets import Bool, Float, Int, List, Unicode, observe

from vlm_magic.errors import OptionError
from vlm_magic.inputs.limits import FetchLimits, PictureOptions
from vlm_magic.inputs.picture_store import PictureStore
from vlm_magic.remote.transport.address import is_url
from vlm_magic.shell import reports
from vlm_magic.shell.calls.ask import ask
from vlm_magic.shell.calls.call import Call, Context, body_of
from vlm_magic.shell.calls.code import show_code
from vlm_magic.shell.calls.explain import continue_last, explain_last
from vlm_magic.shell.cells import CellWatch
from vlm_magic.shell.chat import ChatController
from vlm_magic.shell.completion import PromptCompleter
from vlm_magic.shell.interrupted import told_in_one_line
from vlm_magic.shell.line import parse_around, parse_line, parse_options_only
from vlm_magic.shell.notebook import notebook_path
from vlm_magic.shell.options import help_text, magic
from vlm_magic.shell.question_mark import allow_questions, forbid_questions
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
        workspace.conversations.pictures = PictureStore(
            str(path) if path else "", limit_bytes=limit_mb * 1_000_000
        )
        self.watch = CellWatch(shell, workspace)
        self.completer = PromptCompleter(shell, workspace)

    @no_var_expand
    @cell_magic("vlm")
    def vlm_cell(self, line: str, cell: str) -> None:
        values = parse_options_only(line, magic("%%vlm").options, "%%vlm")
        n_blank = len(cell) - len(cell.lstrip("\n"))
        text = body_of(cell, values)
        self._ask(values, text, first_line=2 + n_blank)  # the magic's line is the first

    @no_var_expand
    @line_magic("vlm")
    def vlm_line(self, line: str) -> Any:
        values, prompt = parse_line(line, magic("%vlm").options)
        reply = self._ask(values, prompt)
        return reply if _takes_value(self.shell) else None

    @line_magic
    def vlm_load(self, line: str) -> None:
        row = magic("%vlm_load")
        values, model = parse_around(line, row.options, "%vlm_load")
        if is_url(model.partition(" ")[0]):
            reports.show_connect(self.workspace, model.split(), values)
        else:
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
        values = parse_options_only(line, magic("%vlm_forget").options, "%vlm_forget")
        reports.show_forget(self.workspace, everything=bool(values.get("all")))

    @line_magic
    def vlm_history(self, line: str) -> None:
        values, file = parse_around(line, magic("%vlm_history").options, "%vlm_history")
        if values.get("restore"):
            path = Path(file).expanduser() if file else notebook_path(self.shell)
            reports.show_restored(self.workspace, _name(values), path)
        elif file:
            raise OptionError(f"%vlm_history does not know {file!r}", hint=f"%vlm_history --restore {file}")
        reports.show_history(self.workspace, _name(values), save_thumbnails=self.save_thumbnails)

    @line_magic
    def vlm_export(self, line: str) -> None:
        values, file = parse_around(line, magic("%vlm_export").options, "%vlm_export")
        if not file:
            raise OptionError("%vlm_export needs a file", hint="%vlm_export conversation.md")
        path = Path(file).expanduser()
        reports.export(self.workspace, _name(values), path, save_thumbnails=self.save_thumbnails)

    @line_magic
    def vlm_code(self, line: str) -> None:
        values, file = parse_around(line, magic("%vlm_code").options, "%vlm_code")
        show_code(self.workspace, _name(values), file)

    @line_magic
    def vlm_explain(self, line: str) -> None:
        values, views = parse_around(line, magic("%vlm_explain").options, "%vlm_explain")
        if "continue_with" in values:
            continue_last(self._context(), _name(values), str(values["continue_with"]))
        else:
            explain_last(self._context(), _name(values), views, values.get("out"))

    @line_magic
    def vlm_reset(self, line: str) -> None:
        values = parse_options_only(line, magic("%vlm_reset").options, "%vlm_reset")
        reports.show_reset(self.workspace, _name(values))

    @line_magic
    def vlm_chat(self, line: str) -> None:
        values = parse_options_only(line, magic("%vlm_chat").options, "%vlm_chat")
        session = self.workspace.conversations.session(_name(values))
        controller = ChatController(
            self.shell,
            self.workspace,
            session,
            pictures=self._limits(),
            save_thumbnails=self.save_thumbnails,
        )
        controller.open()

    @observe("keep_pictures_mb")
    def _keep_pictures(self, change: Any) -> None:
        self.workspace.conversations.pictures.limit_bytes = change.new * 1_000_000

    def _limits(self) -> PictureOptions:
        return PictureOptions(
            max_megapixels=self.max_megapixels or None,
            fetch=FetchLimits(allow_hosts=tuple(self.allow_hosts), use_proxies=self.use_proxies),
        )

    def _context(self) -> Context:
        return Context(self.shell, self.workspace, self._limits(), self.save_thumbnails)

    def _ask(self, values: dict[str, object], text: str, first_line: int = 1) -> Any:
        return ask(self._context(), Call.of(values, text, first_line))


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
    (VLMMagics.vlm_explain, "%vlm_explain"),
    (VLMMagics.vlm_reset, "%vlm_reset"),
):
    _function.__doc__ = help_text(_name_of_magic)
    setattr(VLMMagics, _function.__name__, told_in_one_line(_function))


def _takes_value(shell: Any) -> bool:
    """Whether a line magic's value is welcome: behind a bare one a terminal writes an empty ``Out[…]``."""
    if getattr(shell, "kernel", None) is not None:
        return True
    typed = "".join(
        shell.history_manager.input_hist_raw[-1:]
    )  # of a script that runs, the line that began it
    stands_alone = re.search(r"^\s*%?vlm\b", typed, re.MULTILINE)
    return not stands_alone or bool(re.search(r"=\s*%vlm\b|run_line_magic", typed))


def _name(values: dict[str, object]) -> str | None:
    name = values.get("conversation")
    if name is not None and not isinstance(name, str):
        raise OptionError(f"{name!r} is not the name of a conversation")
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
