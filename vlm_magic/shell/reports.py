"""What the smaller magics say: loading, status, unloading, history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.inputs.pictures import forget_pictures
from vlm_magic.inputs.thumbnails import forget_thumbnails, thumbnail_data_uri
from vlm_magic.messages import Engine, remembers
from vlm_magic.outputs.live_output import show_bundle
from vlm_magic.outputs.records import metadata_for
from vlm_magic.outputs.results.status import StatusLine, status_bundle
from vlm_magic.outputs.transcript import conversation_bundle
from vlm_magic.remote.transport.address import is_url
from vlm_magic.shell.interrupted import Interrupted
from vlm_magic.uninterrupted import import_whole
from vlm_magic.wording import count_words, size_words
from vlm_magic.workspace import Workspace, restore
from vlm_magic.workspace.exporting import export_to

__all__ = [
    "export",
    "show_connect",
    "show_history",
    "show_load",
    "show_reset",
    "show_restored",
    "show_status",
    "show_unload",
]


def show_load(workspace: Workspace, model: str, values: dict[str, Any]) -> None:
    """Load a model and say what was loaded, or that it was there already."""
    name = values.pop("name", None)
    if values.pop("dry_run", False):
        import_whole("vlm_magic.models.engine")  # what 8 bits are is tried with the step of answers
        from vlm_magic.models.checkpoints.estimate import estimate
        from vlm_magic.models.load_options import LoadOptions

        print(estimate(model, LoadOptions.from_values(values)))
        return
    resident = dict(workspace.models.engines)
    try:
        with _load_bars(model) as on_progress:
            engine = workspace.models.load(
                model,
                name=None if name is None else str(name),
                replace=name is None,
                on_progress=on_progress,
                **values,
            )
    except KeyboardInterrupt:
        raise Interrupted(f"{model} is not loaded.") from None
    if engine in resident.values():
        print(f"{engine.name} is loaded already")
        return
    about = engine.about
    remarks = about.remarks if model == "starter" else (*about.details, *about.remarks)
    print("\n".join([about.line, *(f"  {remark}" for remark in remarks)]))


def show_connect(workspace: Workspace, words: Sequence[str], values: dict[str, Any]) -> None:
    """Use a model on a server and say what was found there.

    Args:
        workspace: what is resident.
        words: addresses, and the name of the model where one is given.
        values: options.
    """
    urls = [word for word in words if is_url(word)]
    names = [word for word in words if not is_url(word)]
    known = ("name", "key_env", "timeout_s", "at_once", "picture_px", "allow_plain_key")
    strange = [f"--{name.replace('_', '-')}" for name in values if name not in known]
    if strange or len(names) > 1:
        raise OptionError(
            f"{', '.join(strange) or ' '.join(names)} is about models that are loaded here",
            have="an address, its model's name, --as, --key-env, --timeout, --at-once, --picture-size",
            hint="%vlm_load URL NAME",
        )
    try:
        engine = workspace.models.connect(urls, next(iter(names), None), **values)
    except KeyboardInterrupt:
        raise Interrupted("no server was connected.") from None
    about = engine.about
    print("\n".join([about.line, *(f"  {remark}" for remark in (*about.details, *about.remarks))]))


_QUIET_S = 1.0  # a load that takes less shows no bar


@contextmanager
def _load_bars(model: str) -> Iterator[Callable[[str, int, int], None]]:
    """Shows how far a download is, then how far the reading of the weights.

    For a fast load no bar is even made: in a notebook it would be a widget, saved with the file.
    """
    bars: dict[str, Any] = {}
    begun: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - begun.setdefault(stage, now) < _QUIET_S:
            return
        if stage not in bars:
            from tqdm.auto import tqdm

            for bar in bars.values():
                bar.close()
            unit = {"unit": "B", "unit_scale": True} if stage == "download" else {"unit": " tensors"}
            bars[stage] = tqdm(total=total, desc=f"{model}: {stage}", leave=False, **unit)
        bars[stage].update(done - bars[stage].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def show_status(workspace: Workspace) -> None:
    """Show each resident model and each conversation on a line."""
    models = [_model_line(name, engine, workspace) for name, engine in workspace.models.engines.items()]
    conversations = []
    for name, session in workspace.conversations.sessions.items():
        n = len(session.conversation)
        n_stale = sum(exchange.is_stale for exchange in session.conversation)
        stale = f", {n_stale} of them stale" if n_stale else ""
        others = name == workspace.conversations.current != workspace.conversations.latest
        goes_on = "; cells without -c go on here" if others else ""
        words = f"conversation {name!r}: {count_words(n, 'turn')}{stale}{goes_on}"
        conversations.append(StatusLine(words, name == workspace.conversations.latest))
    show_bundle(status_bundle(models, conversations))


def _model_line(name: str, engine: Engine, workspace: Workspace) -> StatusLine:
    is_current = name == workspace.models.default_name
    if engine.is_closed:
        return StatusLine(f"{name}: away", is_current)
    about = engine.about
    details = (detail if detail.endswith(")") else detail.partition(":")[0] for detail in about.details)
    called = f"{name} = " if name != about.model else ""
    return StatusLine(f"{called}{' · '.join((about.line, *details, *about.figures))}", is_current)


def show_unload(workspace: Workspace, name: str | None) -> None:
    """Unload a model and say what came back."""
    key = name or workspace.models.default_name
    is_elsewhere = bool(workspace.models.engine(name).host)
    n_bytes = workspace.models.unload(name)
    print(f"{key} disconnected" if is_elsewhere else f"{key} unloaded, {size_words(n_bytes)} given back")


def show_history(workspace: Workspace, name: str | None, *, save_thumbnails: bool) -> None:
    """Show a conversation as it would be saved."""
    conversation = workspace.conversations.known_session(name).conversation
    exchanges = conversation.exchanges
    show_bundle(
        conversation_bundle(
            exchanges, conversation.name, thumbnail=thumbnail_data_uri if save_thumbnails else None
        ),
        metadata_for(
            exchanges, conversation.name, pictures=workspace.conversations.pictures.shown_key, is_whole=True
        ),
    )


def show_restored(workspace: Workspace, name: str | None, notebook: Path | None) -> None:
    """Bring conversations back from a saved notebook, and say what came.

    Args:
        workspace: where to.
        name: only this conversation; None is all of them.
        notebook: the file; None where the surroundings do not tell it.
    """
    if notebook is None:
        raise OptionError(
            "this kernel does not know which notebook it belongs to",
            have="the front-end did not say",
            hint="%vlm_history --restore FILE.ipynb",
        )
    print(restore(workspace.conversations, notebook, name))


def export(workspace: Workspace, name: str | None, path: Path, *, save_thumbnails: bool) -> None:
    """Write a conversation to a file, in the format that its ending names."""
    conversation = workspace.conversations.known_session(name).conversation
    print(export_to(conversation, path, save_thumbnails=save_thumbnails))


def show_forget(workspace: Workspace, *, everything: bool = False) -> None:
    """Empty the stores of this notebook, or of all on this machine, and say what they held and what stays."""
    from vlm_magic.tasks.map.journal import forget_maps

    n_bytes = sum(engine.forget() for engine in workspace.models.engines.values() if remembers(engine))
    forget_thumbnails()
    in_memory, downloads = forget_pictures(downloads=everything)
    kept = workspace.conversations.pictures.forget(everywhere=everything)
    n_rows = forget_maps()
    notebooks = "all notebooks" if everything else "this notebook"
    print(
        f"forgotten: {size_words(n_bytes)} of reused computation, {size_words(in_memory)} of decoded "
        f"pictures, {count_words(n_rows, 'answered row')} of maps; on this machine "
        f"{size_words(kept)} of pictures that {notebooks} kept for a restart"
        + (f" and {size_words(downloads)} of downloads" if everything else "")
    )
    if not everything:
        print("what stays: downloads and other notebooks' pictures; %vlm_forget --all forgets them too")


def show_reset(workspace: Workspace, name: str | None) -> None:
    """Forget a conversation and say how much it was."""
    session = workspace.conversations.known_session(name)
    n = session.reset()
    print(f"conversation {session.conversation.name!r}: {count_words(n, 'turn')} forgotten")
