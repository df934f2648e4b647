"""Where a checkpoint is: the packaged starter, a folder, the local hub cache, or the hub.

Knows file names and the hub's client; knows nothing of torch or of what is in the files. A token comes from
its usual place (``HF_TOKEN``, or ``hf auth login``) through the client and is never seen here. Neighbours:
`loading` fetches in two steps (configuration first, weights when all options are known to be good),
`memory` reads headers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import ModelLoadError, ModelNotFoundError, near_names
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.starter import WEIGHTS
from vlm_magic.wording import list_words, shorten

if TYPE_CHECKING:
    from huggingface_hub.utils import SafetensorsFileMetadata

__all__ = [
    "Source",
    "StoppedError",
    "TensorHeader",
    "cached_models",
    "fetch_weights",
    "find",
    "find_adapter",
    "read_config",
    "tensor_headers",
    "weight_files",
]

OnProgress = Callable[[str, int, int], None]

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_SMALL_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
_NEVER_FILES = ["original/*", "onnx/*", "openvino/*", "consolidated*", "*.gguf", "*.onnx"]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that was found.

    Attributes:
        name: as people asked for it.
        folder: where its configuration is, and its weights once fetched.
        repo_id: its id on the hub; "" for a folder.
        is_complete: whether the weights are there as well.
    """

    name: str
    folder: Path
    repo_id: str = ""
    is_complete: bool = True

    @property
    def is_starter(self) -> bool:
        """Whether it is the model that comes with this package."""
        return self.folder == WEIGHTS


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a safetensors header says of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int

    @property
    def n_elements(self) -> int:
        """Product of the shape."""
        total = 1
        for size in self.shape:
            total *= size
        return total


def find(model: str | Path, options: LoadOptions) -> Source:
    """Find a model, and fetch its configuration where it is on the hub.

    Raises:
        ModelNotFoundError: it is nowhere; says what there is instead.
    """
    name = str(model)
    if name == "starter":
        return Source(name, WEIGHTS)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(name, _with_config(folder, name))
    if isinstance(model, Path) or name[:1] in "./~" or "\\" in name or not _REPO_ID.fullmatch(name):
        raise ModelNotFoundError(
            f"no folder {name}",
            have=_beside(folder),
            hint="starter, a folder with a config.json, or a hub id",
        )
    return _find_on_hub(name, options)


def _with_config(folder: Path, name: str) -> Path:
    if (folder / "config.json").is_file():
        return folder
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    have = f"folders with one: {', '.join(inside)}" if inside else _listing(folder)
    raise ModelNotFoundError(
        f"{name} has no config.json", have=have, hint=f"{name.rstrip('/')}/{inside[0]}" if inside else ""
    )


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return list_words(names, 8) or "an empty folder"


def _beside(folder: Path) -> str:
    """Names in the parent folder, the nearest first."""
    parent = folder.parent
    if not parent.is_dir():
        return ""
    names = [path.name for path in parent.iterdir() if path.is_dir()]
    near = near_names(folder.name, names) or sorted(names)[:6]
    return f"in {parent}: {', '.join(near)}" if near else f"no folders in {parent}"


# ---- the hub -----------------------------------------------------------------------------------


def cached_models() -> list[str]:
    """Ids of the models in the local hub cache that have a configuration."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE)
    found = []
    for folder in root.glob("models--*") if root.is_dir() else ():
        if any(folder.glob("snapshots/*/config.json")):
            found.append(folder.name.removeprefix("models--").replace("--", "/"))
    return sorted(found)


def _find_on_hub(repo_id: str, options: LoadOptions) -> Source:
    """The configuration files of a hub id, from the cache where the hub is out of reach."""
    folder = _snapshot(repo_id, options, _SMALL_FILES)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{repo_id} has no config.json", have=_listing(folder))
    return Source(repo_id, folder, repo_id, _has_weights(folder, options))


def fetch_weights(
    source: Source,
    options: LoadOptions,
    *,
    on_progress: OnProgress | None = None,
    is_stopped: Callable[[], bool] | None = None,
) -> Source:
    """Download what is missing; at once for a folder.

    Raises:
        ModelLoadError: there are no safetensors and pickled weights were not asked for, or it was stopped.
    """
    folder = source.folder
    if source.repo_id and not source.is_complete:
        wanted = [*_SMALL_FILES, "*.safetensors"]
        if options.trust_remote_code:
            wanted.append("*.py")
        folder = _snapshot(source.repo_id, options, wanted, on_progress, is_stopped)
        if options.unsafe_weights and not any(folder.glob("*.safetensors")):
            folder = _snapshot(source.repo_id, options, [*wanted, "*.bin"], on_progress, is_stopped)
    if not _has_weights(folder, options):
        raise ModelLoadError(
            f"{source.name} has no complete safetensors weights",
            have=_listing(folder),
            hint="--unsafe-weights loads pickled ones, which can run code"
            if source.repo_id or any(folder.glob("*.bin"))
            else "",
        )
    return Source(source.name, folder, source.repo_id)


def _snapshot(
    repo_id: str,
    options: LoadOptions,
    patterns: list[str],
    on_progress: OnProgress | None = None,
    is_stopped: Callable[[], bool] | None = None,
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=options.revision,
                allow_patterns=patterns,
                ignore_patterns=_NEVER_FILES,
                tqdm_class=_progress_class(on_progress, is_stopped),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, ConnectionError) as error:
        raise _not_found(repo_id, options, error) from error


def _not_found(repo_id: str, options: LoadOptions, error: Exception) -> ModelNotFoundError:
    """What a failure of the hub's client means for a person."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    have, hint = _cache_words(), _near(repo_id)
    if isinstance(error, GatedRepoError):
        what = f"{repo_id} wants its terms accepted first"
        hint = "accept them on its page, then: hf auth login (or HF_TOKEN)"
    elif isinstance(error, RevisionNotFoundError):
        what = f"{repo_id} has no revision {options.revision!r}"
    elif isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        what = f"no model {repo_id!r} on the hub, or it is private"
    else:
        why = "the hub is switched off (HF_HUB_OFFLINE)" if _is_offline() else "the hub is out of reach"
        what = f"{repo_id} is not on this machine and {why}"
    return ModelNotFoundError(what, have=have, hint=hint, repo_id=repo_id)


def find_adapter(name: str, options: LoadOptions) -> Path:
    """The folder of a LoRA adapter, fetched where it is on the hub.

    Raises:
        ModelNotFoundError: it is nowhere, or it is not an adapter.
        ModelLoadError: its weights are pickled and that was not asked for.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name[:1] in "./~" or not _REPO_ID.fullmatch(name):
            raise ModelNotFoundError(f"no adapter folder {name}", have=_beside(folder))
        wanted = [*_SMALL_FILES, "*.safetensors", *(["*.bin"] if options.unsafe_weights else [])]
        folder = _snapshot(name, LoadOptions(), wanted)
    if not (folder / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            f"{name} is not an adapter", have=_listing(folder), hint="a folder with adapter_config.json"
        )
    if not (folder / "adapter_model.safetensors").is_file() and not options.unsafe_weights:
        raise ModelLoadError(
            f"the adapter {name} has no safetensors", have=_listing(folder), hint="--unsafe-weights"
        )
    return folder


def _near(repo_id: str) -> str:
    near = near_names(repo_id, cached_models())
    return near[0] if near else "starter, or a folder"


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _cache_words() -> str:
    names = cached_models()
    return f"in the local cache: {', '.join(names)}" if names else "the local cache is empty"


class StoppedError(Exception):
    """The download is no longer wanted; leaves the client's threads."""


def _progress_class(on_progress: OnProgress | None, is_stopped: Callable[[], bool] | None) -> type[Any]:
    """A stand-in for a progress bar that prints nothing and calls back in bytes."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._is_bytes = options.get("unit") == "B"
            options["disable"] = True
            super().__init__(*args, **options)
            self.n, self.total = 0, options.get("total") or 0

        def update(self, n: float | None = 1) -> None:
            if is_stopped is not None and is_stopped():
                raise StoppedError
            self.n += int(n or 0)
            if on_progress is not None and self._is_bytes and self.total:
                on_progress("download", int(self.n), int(self.total))

        def refresh(self, *args: Any, **options: Any) -> None:
            """Nothing to draw."""

    return Bar


# ---- files -------------------------------------------------------------------------------------


def read_config(source: Source) -> dict[str, Any]:
    """The configuration file as it is.

    Raises:
        ModelLoadError: it is not JSON.
    """
    try:
        config: dict[str, Any] = json.loads((source.folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"the configuration of {source.name} cannot be read", have=shorten(error)
        ) from error
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that make up the model, as transformers chooses them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _has_weights(folder: Path, options: LoadOptions) -> bool:
    files = weight_files(folder)
    if files:
        return all(path.is_file() for path in files)
    return options.unsafe_weights and any(folder.glob("pytorch_model*.bin"))


def tensor_headers(source: Source, options: LoadOptions) -> Iterator[TensorHeader]:
    """Name, type and shape of every tensor, from the first bytes of each file alone."""
    files = weight_files(source.folder)
    if files and all(path.is_file() for path in files):
        for path in files:
            yield from _header_of(path)
    elif source.repo_id and not _is_offline():
        yield from _headers_on_hub(source, options)


def _header_of(path: Path) -> Iterator[TensorHeader]:
    from huggingface_hub import parse_local_safetensors_file_metadata
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        yield from _tensors_in(parse_local_safetensors_file_metadata(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorsParsingError) as error:
        reason = str(error).partition("): ")[2] or error  # behind the file's name and path
        raise ModelLoadError(f"{path.name} is not a safetensors file", have=shorten(reason, 120)) from error


def _headers_on_hub(source: Source, options: LoadOptions) -> Iterator[TensorHeader]:
    """The same by range requests; nothing where the hub does not answer."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError

    try:
        metadata = get_safetensors_metadata(source.repo_id, revision=options.revision)
    except (HfHubHTTPError, NotASafetensorsRepoError, OSError):
        return
    for file in metadata.files_metadata.values():
        yield from _tensors_in(file)


def _tensors_in(file: SafetensorsFileMetadata) -> Iterator[TensorHeader]:
    for name, tensor in file.tensors.items():
        start, end = tensor.data_offsets
        yield TensorHeader(name, tensor.dtype, tuple(tensor.shape), end - start)
