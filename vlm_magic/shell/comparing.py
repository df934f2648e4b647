"""``%%vlm --compare``: one prompt under a grid of settings, shown as a table that fills row by row.

Neighbours: `options` has the form of the grid on the line, `vlm_magic.tasks.compare` answers it,
`vlm_magic.workspace` lends the models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from vlm_magic.errors import OptionError
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Part, Settings, Turn
from vlm_magic.outputs.views import surroundings
from vlm_magic.shell.options import ASK_OPTIONS, LOAD_OPTIONS, typed_value
from vlm_magic.shell.showing import Interrupted, show_bundle
from vlm_magic.workspace import Workspace

if TYPE_CHECKING:
    from vlm_magic.tasks.compare import Comparison

__all__ = ["compare"]

_UPDATE_S = 0.25  # a download reports many times a second, and each update carries the whole table


class _Asked(Protocol):
    """What a line asked for (see `asking.Call`)."""

    @property
    def out(self) -> str | None: ...
    @property
    def conversation(self) -> str | None: ...
    @property
    def new(self) -> bool: ...
    @property
    def model(self) -> str | None: ...
    @property
    def dry_run(self) -> bool: ...
    @property
    def type(self) -> str | None: ...
    @property
    def compare(self) -> Mapping[str, tuple[str, ...]] | None: ...


def compare(
    shell: Any,
    workspace: Workspace,
    call: _Asked,
    parts: Sequence[Part],
    settings: Mapping[str, Any],
    *,
    examples: Sequence[Turn] = (),
    save_thumbnails: bool = True,
) -> None:
    """Answer the grid and show it; ``-o`` gets the `Comparison`, also of an interrupted one."""
    from vlm_magic.tasks.compare import Comparison, run

    comparison = Comparison(parts, _axes(call), Settings().updated(settings), examples)
    if call.dry_run:
        print(_plan(workspace, comparison))
        return
    if call.out:
        shell.user_ns[call.out] = comparison
    with _shown(comparison, save_thumbnails=save_thumbnails) as show, workspace.lending() as lender:
        try:
            run(comparison, lender, show)
        except KeyboardInterrupt:
            raise Interrupted(
                f"{comparison.n_done} of {len(comparison)} answers are there; the models are as before."
            ) from None


def _axes(call: _Asked) -> dict[str, list[object]]:
    """The axes of the line with values of their kinds."""
    from vlm_magic.tasks.compare import axis_name

    assert call.compare is not None
    if call.conversation is not None or call.new:
        raise OptionError(
            "a comparison is outside the conversation", have="-c or --new", hint="--compare without them"
        )
    if call.type is not None:
        raise OptionError(
            "answers of a type are not compared", have="--type", hint="--compare without --type"
        )
    axes: dict[str, list[object]] = {}
    for spelling, texts in call.compare.items():
        name = axis_name(spelling)
        if name in axes:
            raise OptionError(f"{spelling} is there twice", name=name)
        axes[name] = [_typed(name, text) for text in texts]
    if call.model is None:
        return axes
    if "model" in axes:
        raise OptionError("-m and models= both name the model", hint="one of them")
    return {"model": [call.model], **axes}


def _typed(name: str, text: str) -> object:
    """A value as its option on a line of its own would read it."""
    if name in ("model", "n_examples"):
        return int(text) if name == "n_examples" and text.isdigit() else text
    if name == "quantize" and text.lower() == "none":
        return None
    option = next(option for option in (*ASK_OPTIONS, *LOAD_OPTIONS) if option.dest == name)
    return typed_value(option, option.flags[-1].lstrip("-"), text)


@contextmanager
def _shown(comparison: Comparison, *, save_thumbnails: bool) -> Iterator[Callable[[Comparison], None]]:
    """Gives a function that shows news; the table as it is at the end is shown in any case."""
    thumbnail = thumbnail_data_uri if save_thumbnails else None
    where = surroundings()
    view = _Table(thumbnail) if where == "person" else _Bar(len(comparison)) if where == "terminal" else None
    try:
        yield view.show if view else lambda _: None
    finally:
        bundle = comparison.bundle(thumbnail)
        if isinstance(view, _Table):
            view.settle(bundle)
        else:
            if view is not None:
                view.close()
            show_bundle(bundle)


class _Table:
    """The table in a notebook that somebody looks at: one output, updated as answers come."""

    def __init__(self, thumbnail: Callable[[Any], str] | None) -> None:
        self._thumbnail = thumbnail
        self._handle: Any = None
        self._n_done = -1
        self._shown_at = 0.0

    def show(self, comparison: Comparison) -> None:
        """Show it as it is, soon if nothing was answered since."""
        is_news = comparison.n_done != self._n_done
        if is_news or time.monotonic() - self._shown_at > _UPDATE_S:
            self._n_done, self._shown_at = comparison.n_done, time.monotonic()
            self.settle(comparison.bundle(self._thumbnail))

    def settle(self, bundle: Mapping[str, str]) -> None:
        """Put it in the place of the one before."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(dict(bundle), raw=True, display_id=True)
        else:
            self._handle.update(dict(bundle), raw=True)


class _Bar:
    """A progress bar in a terminal; the table follows at the end."""

    def __init__(self, n_answers: int) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=n_answers, unit="answer", leave=False)

    def show(self, comparison: Comparison) -> None:
        """How many are done, and what goes on."""
        row = None if comparison.current is None else comparison[comparison.current]
        self._bar.set_description_str(f"{comparison.waiting} {row.label}" if row else "", refresh=False)
        self._bar.update(comparison.n_done - self._bar.n)
        self._bar.refresh()

    def close(self) -> None:
        """Take it off the screen."""
        self._bar.close()


def _plan(workspace: Workspace, comparison: Comparison) -> str:
    """What each row would need: whether its model is there, else what loading it takes."""
    from vlm_magic.errors import VLMError
    from vlm_magic.models.estimate import estimate
    from vlm_magic.tasks.compare import load_changes

    lines = [f"{len(comparison)} answers"]
    with workspace.lending() as lender:
        for row in comparison:
            name, changes = load_changes(row)
            try:
                if lender.is_resident(name, changes):
                    said = "loaded already"
                else:
                    said = str(estimate(*lender.wanted(name, changes))).partition("\n")[0]
            except VLMError as error:
                said = f"{type(error).__name__}: {error}"
            lines.append(f"  {row.label}: {said}")
    return "\n".join(lines)
