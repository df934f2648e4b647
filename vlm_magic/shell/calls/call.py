"""One call of ``%%vlm`` or ``%vlm``: what its line asked for, and where it runs.

Pure data, which all kinds of calls share. Neighbours: `ask` decides which kind it is; `chat`, `map` and
`compare` answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.explain.explanation import check_views
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Settings
from vlm_magic.shell.options import ASK_OPTIONS
from vlm_magic.workspace import Workspace

__all__ = ["Call", "Context", "body_of"]


@dataclass(frozen=True)
class Context:
    """Where a call runs.

    Attributes:
        shell: the IPython shell.
        workspace: the models and conversations.
        pictures: limits of pictures and downloads.
        save_thumbnails: whether outputs keep small pictures in the notebook's file.
    """

    shell: Any
    workspace: Workspace
    pictures: PictureOptions = field(default_factory=PictureOptions)
    save_thumbnails: bool = True

    @property
    def names(self) -> dict[str, Any]:
        """The variables of the notebook."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    @property
    def thumbnail(self) -> Callable[..., str] | None:
        """Makes the data URI of a small picture; None where the file shall keep none."""
        return thumbnail_data_uri if self.save_thumbnails else None


@dataclass(frozen=True)
class Call:
    """What a line and its text asked for.

    Attributes:
        text: the prompt.
        first_line: the line of the cell that it begins on, for errors.
        settings: how to answer; what the line left out is not in it.
    """

    text: str = ""
    first_line: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = None
    conversation: str | None = None
    new: bool = False
    model: str | None = None
    raw: bool = False
    no_panel: bool = False
    dry_run: bool = False
    type: str | None = None
    choices: str | None = None
    examples: str | None = None
    map: str | None = None
    journal: str | None = None
    into: str | None = None
    batch_size: int | None = None
    on: str | None = None
    workers: int | None = None
    truth: str | None = None
    match: str | None = None
    compare: Mapping[str, tuple[str, ...]] | None = None
    explain: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any], text: str, first_line: int = 1) -> Call:
        """The call that a line's parsed options and the text make.

        Raises:
            OptionError: an option that says nothing without another one, or contradicts it.
        """
        own = {f.name for f in fields(cls)}
        options = {name: value for name, value in values.items() if name in own}
        settings = {name: value for name, value in values.items() if name not in own}
        _check_settings(settings)
        call = cls(text, first_line, settings, **options)
        call._check()
        return call

    def _check(self) -> None:
        if self.match is not None and self.truth is None:
            raise OptionError("--match needs --truth", have="no --truth", hint="--truth column --match exact")
        if self.explain:
            self._check_explain()
        if self.map is None:
            about_maps = {
                "--journal": self.journal,
                "--into": self.into,
                "--batch-size": self.batch_size,
                "--on": self.on,
                "--workers": self.workers,
                "--truth": self.truth,
            }
            for flag, value in about_maps.items():
                if value is not None:
                    raise OptionError(f"{flag} needs --map", have="no --map", hint=f"--map pictures {flag} …")
        elif self.workers is not None and self.on is None:
            raise OptionError("--workers needs --on", have="no --on", hint="--on dask --workers 2")
        elif self.compare is not None:
            raise OptionError(
                "a map and a comparison at once",
                have="--map and --compare on one line",
                hint="either --map or --compare",
            )

    def _check_explain(self) -> None:
        check_views(self.explain)
        beside = {"--map": self.map, "--compare": self.compare, "--dry-run": self.dry_run or None}
        for flag, value in beside.items():
            if value is not None:
                raise OptionError(
                    f"--explain is about one answer, {flag} gives none to look at",
                    have=f"--explain and {flag} on one line",
                    hint="one of them",
                )


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse values out of their range by the names that a line gives them, before anything is looked up.

    Raises:
        OptionError: such a value.
    """
    try:
        Settings().updated(settings)
    except OptionError as error:
        name = getattr(error, "name", None)
        flag = next((option.flags[-1] for option in ASK_OPTIONS if option.dest == name), None)
        if flag is None or not hasattr(error, "nearest"):
            raise
        value = settings[str(name)]
        hint = f"{flag} {error.nearest}"
        raise OptionError(f"{flag} is {value}", have=error.have, hint=hint, name=name, value=value) from None


def body_of(cell: str, values: Mapping[str, object]) -> str:
    """The text of a cell: without blank lines around it, but a text that is continued keeps those at its end.

    Of these IPython has added one, so a text that shall end in a line break is followed by an empty line.
    """
    if values.get("continuation") or values.get("raw"):
        return cell.lstrip("\n").removesuffix("\n")
    return cell.strip("\n")
