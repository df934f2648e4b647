"""How much memory a model takes, how much is free, how it is freed, and how running out of it is told.

Knows tensors and allocators; knows nothing of prompts or checkpoints. Neighbours: `estimate` says what a
load will need, `loading` and `engine` turn allocator errors into ours through `out_of_memory`.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vlm_magic.errors import OutOfMemoryError
from vlm_magic.wording import shorten, size_words

if TYPE_CHECKING:
    from vlm_magic.models.loaded import Loaded

__all__ = [
    "free_bytes",
    "is_out_of_memory",
    "out_of_memory",
    "real_bytes",
    "release",
    "to_device",
    "watched_peak",
]

_ALLOCATOR_WORDS = (
    "out of memory",  # CUDA, MPS, HIP
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",  # the operating system
    "not enough memory",  # torch's CPU allocator on Windows
    "std::bad_alloc",
    "failed to allocate",
)
# oneDNN (x86 CPUs) says no more than this where memory for a new kernel ran out; with more words after it
# ("… descriptor for …") it means something that it cannot compute at all.
_ONEDNN_WORDS = "could not create a primitive"
_NO_LIMIT = 1 << 60  # cgroups write a number of about this size for "no limit"


# ---- what a model holds ------------------------------------------------------------------------


def real_bytes(model: Any) -> int:
    """Bytes of all tensors of a model, shared storages once, quantised tensors as they are stored.

    transformers' own figure is wrong for Quanto and torchao: their tensors report the size of the weights
    that they stand for.
    """
    seen: dict[tuple[str, int], int] = {}
    for tensor in _tensors_of(model):
        for part in _stored(tensor):
            if part.device.type != "meta":
                storage = part.untyped_storage()
                seen[(str(part.device), storage.data_ptr())] = storage.nbytes()
    return sum(seen.values())


def stored_bytes(module: Any) -> int:
    """Bytes of one module's own weights as they lie in memory, quantised ones as what they are."""
    return sum(
        tensor.numel() * tensor.element_size()
        for parameter in module.parameters()
        for tensor in _stored(parameter)
    )


def _tensors_of(model: Any) -> Iterator[Any]:
    yield from model.parameters()
    yield from model.buffers()
    for module in model.modules():
        state = getattr(module, "state", None)  # bitsandbytes moves 8-bit weights here on first use
        for name in ("CB", "SCB"):
            value = getattr(state, name, None)
            if isinstance(value, torch.Tensor):
                yield value


def _stored(tensor: Any) -> Iterator[torch.Tensor]:
    """The plain tensors behind a tensor: itself, the parts of a subclass, the scales of bitsandbytes."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        for name in names:
            yield from _stored(getattr(tensor, name))
        return
    yield tensor
    for name in ("CB", "SCB"):
        value = getattr(tensor, name, None)
        if isinstance(value, torch.Tensor):
            yield value
    yield from _scales(getattr(tensor, "quant_state", None))


def _scales(state: Any) -> Iterator[torch.Tensor]:
    """The tensors of a bitsandbytes quantisation state, its nested one included."""
    if state is None:
        return
    for name in ("absmax", "code", "offset"):
        value = getattr(state, name, None)
        if isinstance(value, torch.Tensor):
            yield value
    yield from _scales(getattr(state, "state2", None))


# ---- what is free ------------------------------------------------------------------------------


def free_bytes(device: str) -> int:
    """Bytes that can still be taken on a device ("spread": all GPUs; "offload": GPUs and the CPU)."""
    if device in ("spread", "offload"):
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        total = sum(_free_on_gpu(f"cuda:{i}") for i in gpus)
        return total + (_free_on_cpu() if device == "offload" else 0)
    if device.startswith("cuda"):
        return _free_on_gpu(device)
    if device == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return _free_on_cpu()


def _free_on_gpu(device: str) -> int:
    """What the driver has free, and what this process's allocator has reserved without using it."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def _free_on_cpu() -> int:
    """The least of what the machine, the control group and the process's own limit leave."""
    return min(limit for limit in (_available(), _left_in_cgroup(), _left_in_rlimit()) if limit is not None)


def _available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # macOS and Windows; ipykernel brings it
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        return _NO_LIMIT
    return int(psutil.virtual_memory().available)


def _left_in_cgroup() -> int | None:
    for limit, used, stat in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
        ),
    ):
        try:
            n_limit = int(Path(limit).read_text("ascii"))
            n_used = int(Path(used).read_text("ascii"))
            fields = dict(line.split() for line in Path(stat).read_text("ascii").splitlines())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if n_limit < _NO_LIMIT:  # cached file pages are given back on demand
            return max(0, n_limit - n_used + int(fields.get("inactive_file", 0)))
    return None


def _left_in_rlimit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return None
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return max(0, soft - pages * resource.getpagesize())


# ---- moving and giving back --------------------------------------------------------------------


def to_device(inputs: Mapping[str, Any], loaded: Loaded) -> dict[str, Any]:
    """The inputs where the model is, floating point ones in its type."""
    device = loaded.device
    dtype: torch.dtype = getattr(torch, loaded.dtype)
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


def release(loaded: Loaded) -> int:
    """Unload: drop model and processor and give their memory back.

    Returns:
        Bytes that were freed: less than the model held where something else, such as a variable of the
        notebook, still refers to a part of it.
    """
    model, device = loaded.model, loaded.device
    if model is None:
        return 0
    held = _holders(model)
    _take_off_hooks(model)
    loaded.model = loaded.processor = None
    loaded.__dict__.pop("control", None)
    del model
    give_back(device)
    return sum(n for ref, n in held if ref() is None)


def _holders(model: Any) -> list[tuple[weakref.ref[Any], int]]:
    """Each tensor of a model, with the bytes that it does not share with one before it."""
    seen: set[tuple[str, int]] = set()
    holders = []
    for tensor in _tensors_of(model):
        n_bytes = 0
        for part in _stored(tensor):
            if part.device.type != "meta":
                storage = part.untyped_storage()
                place = (str(part.device), storage.data_ptr())
                n_bytes += 0 if place in seen else storage.nbytes()
                seen.add(place)
        holders.append((weakref.ref(tensor), n_bytes))
    return holders


def _take_off_hooks(model: Any) -> None:
    """Remove accelerate's hooks, which hold the weights of the parts that are on the CPU."""
    if getattr(model, "hf_device_map", None):
        from accelerate.hooks import remove_hook_from_submodules

        remove_hook_from_submodules(model)


def give_back(device: str = "cpu") -> None:
    """Free what nothing refers to: in Python, in torch's caches and in the C library's heap."""
    gc.collect()
    if device.startswith("cuda") or device in ("spread", "offload"):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
    if sys.platform.startswith("linux"):
        with suppress(AttributeError, OSError):  # musl has none
            ctypes.CDLL(None).malloc_trim(0)


# ---- running out -------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one of its causes, came from an allocator."""
    for cause in _chain(error):
        if isinstance(cause, (MemoryError, torch.OutOfMemoryError)):
            return True
        if isinstance(cause, (RuntimeError, OSError)):
            words = str(cause).lower()
            if words.strip() == _ONEDNN_WORDS or any(word in words for word in _ALLOCATOR_WORDS):
                return True
    return False


def out_of_memory(
    error: BaseException, loaded: Loaded | None = None, *, what: str, hint: str = ""
) -> OutOfMemoryError:
    """Our error for an allocator's; raise it ``from None``.

    The cause is kept as text, and the frames of the original and of all its causes are cleared: IPython
    keeps the last error, whose frames would keep the tensors that did not fit.
    """
    device = loaded.device if loaded is not None else "cpu"
    cause = shorten("; ".join(f"{type(e).__name__}: {e}" for e in _chain(error)), 200)
    for link in _chain(error):
        if link.__traceback__ is not None:
            traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None
    error.__cause__ = error.__context__ = None
    give_back(device)
    return OutOfMemoryError(
        what,
        have=f"{size_words(free_bytes(device))} free on {device}; {cause}",
        hint=hint or _hint(loaded),
        cause=cause,
        device=device,
    )


def _hint(loaded: Loaded | None) -> str:
    """What to change: fewer picture tokens, smaller weights, a new conversation."""
    flags = ["--new (a shorter conversation)", "--picture-tokens 256"]
    if loaded is None or not loaded.quantization:
        flags.append("%vlm_load … --quantize 4bit")
    return ", or ".join(flags)


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it, each once."""
    links: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in links:
        links.append(current)
        current = current.__cause__ or current.__context__
    return links


@contextmanager
def watched_peak(device: str) -> Iterator[Callable[[], int | None]]:
    """Gives a function for the peak: the most bytes taken on a device within the block, beyond those before.

    On a GPU it is torch's own count; on a Linux CPU that of the process, all threads included, in whole
    pages; elsewhere None.
    """
    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        yield lambda: max(0, int(torch.cuda.max_memory_allocated(device)) - held)
        return
    give_back(device)
    can_see = device == "cpu" and _forget_peak()
    held = resident_bytes()
    yield lambda: max(0, _peak_bytes() - held) if can_see else None


def _forget_peak() -> bool:
    """Reset the system's count of this process's peak; whether it could. See proc(5), clear_refs, VmHWM."""
    try:
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return _peak_bytes() > 0


def _peak_bytes() -> int:
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def resident_bytes() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0
