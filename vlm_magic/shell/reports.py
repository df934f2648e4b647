"""What the smaller magics say: loading, status, unloading, history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.inputs.pictures import forget_pictures
from vlm_magic.inputs.thumbnails import forget_thumbnails, thumbnail_data_uri
from vlm_magic.outputs.export import export_conversation
from vlm_magic.outputs.saved import metadata_for
from vlm_magic.outputs.transcript import conversation_bundle
from vlm_magic.shell.showing import Interrupted, show_bundle
from vlm_magic.workspace import Workspace

__all__ = ["export", "restore", "show_history", "show_load", "show_reset", "show_status", "show_unload"]


def show_load(workspace: Workspace, model: str, values: dict[str, Any]) -> None:
    """Load a model and say what was loaded, or that it was there already."""
    from vlm_magic.models.loading import describe

    name = values.pop("name", None)
    if values.pop("dry_run", False):
        from vlm_magic.models.estimate import estimate
        from vlm_magic.models.options import LoadOptions

        print(estimate(model, LoadOptions.from_values(values)))
        return
    resident = dict(workspace.engines)
    try:
        with _load_bars(model) as on_progress:
            engine = workspace.load(
                model,
                name=None if name is None else str(name),
                replace=name is None,
                on_progress=on_progress,
                **values,
            )
    except KeyboardInterrupt:
        raise Interrupted(f"{model} is not loaded.") from None
    assert engine.loaded is not None
    is_new = engine not in resident.values()
    if not is_new:
        print(f"{engine.name} is loaded already")
        return
    remarks = list(engine.loaded.notes)
    if model != "starter":
        remarks.insert(0, f"attention {engine.loaded.attention}")
    print("\n".join([describe(engine.loaded), *(f"  {remark}" for remark in remarks)]))


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
    """Print each resident model and each conversation on a line."""
    lines = [_model_line(name, engine, workspace) for name, engine in workspace.engines.items()]
    lines = lines or ["no model is loaded; %vlm_load loads the starter"]
    for name, session in workspace.sessions.items():
        n = len(session.conversation)
        n_stale = sum(exchange.is_stale for exchange in session.conversation)
        stale = f", {n_stale} of them stale" if n_stale else ""
        lines.append(f"conversation {name!r}: {n} turn{'s' * (n != 1)}{stale}")
    print("\n".join(lines))


def _model_line(name: str, engine: Any, workspace: Workspace) -> str:
    from vlm_magic.models.engine import LocalEngine
    from vlm_magic.models.loading import describe

    mark = "*" if name == workspace.default_engine else " "
    if not isinstance(engine, LocalEngine) or engine.loaded is None:
        return f"{mark} {name}"
    attention = engine.loaded.attention.partition(":")[0]
    speed = f" · last {engine.last_reply.tokens_per_s:.0f} tokens/s" if engine.last_reply else ""
    kept = f" · keeps {_size(engine.reuse.n_bytes)} for reuse" if engine.reuse.n_bytes else ""
    called = f"{name} = " if name != engine.loaded.name else ""
    return f"{mark} {called}{describe(engine.loaded)} · attention {attention}{speed}{kept}"


def show_unload(workspace: Workspace, name: str | None) -> None:
    """Unload a model and say what came back."""
    key = name or workspace.default_engine
    n_bytes = workspace.unload(name)
    print(f"{key} unloaded, {_size(n_bytes)} given back")


def show_history(workspace: Workspace, name: str | None, *, save_thumbnails: bool) -> None:
    """Show a conversation as it would be saved."""
    conversation = workspace.known_session(name).conversation
    exchanges = conversation.exchanges
    show_bundle(
        conversation_bundle(
            exchanges, conversation.name, thumbnail=thumbnail_data_uri if save_thumbnails else None
        ),
        metadata_for(exchanges, conversation.name, pictures=workspace.pictures.shown_key, is_whole=True),
    )


def restore(workspace: Workspace, name: str | None, notebook: Path | None) -> None:
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
    print(workspace.restore(notebook, name))


def export(workspace: Workspace, name: str | None, path: Path, *, save_thumbnails: bool) -> None:
    """Write a conversation to a file, in the format that its ending names."""
    conversation = workspace.known_session(name).conversation
    text = export_conversation(
        conversation.exchanges,
        path.suffix,
        name=conversation.name,
        thumbnail=thumbnail_data_uri if save_thumbnails else None,
        full_picture=lambda picture: thumbnail_data_uri(picture, max(picture.size_px)),
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write {path}", have=error.strerror or "", hint="another folder") from error
    print(f"conversation {conversation.name!r} is in {path}")


def show_forget(workspace: Workspace) -> None:
    """Empty the stores of models, pictures and maps, and say what they held."""
    from vlm_magic.tasks.journal import forget_maps

    stores = [engine.reuse for engine in workspace.engines.values() if hasattr(engine, "reuse")]
    n_bytes = sum(store.clear() for store in stores)
    forget_thumbnails()
    in_memory, on_disk = forget_pictures()
    kept = workspace.pictures.forget()
    n_rows = forget_maps()
    print(
        f"forgotten: {_size(n_bytes)} of reused computation, {_size(in_memory)} of decoded pictures, "
        f"{_size(on_disk)} of downloads, {_size(kept)} of pictures kept for a restart, "
        f"{n_rows} answered row{'s' * (n_rows != 1)} of maps"
    )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.0f} MB"


def show_reset(workspace: Workspace, name: str | None) -> None:
    """Forget a conversation and say how much it was."""
    session = workspace.known_session(name)
    n = session.reset()
    print(f"conversation {session.conversation.name!r}: {n} turn{'s' * (n != 1)} forgotten")
