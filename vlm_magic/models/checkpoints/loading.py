"""Load a checkpoint as people ask for it, or say beforehand why it cannot be.

The order is the promise: find it, read its configuration, check every option, estimate the memory; only
then fetch and load. Nothing here knows prompts, generation or notebooks. Neighbours: `hub`, `plan`,
`estimate`, `processors`, `picture_budget` and `template_probe` each do one step; `families` holds the row
that goes with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_magic.errors import ModelLoadError, OutOfMemoryError, VLMError
from vlm_magic.messages import About
from vlm_magic.models import memory
from vlm_magic.models.checkpoints import estimate as estimates
from vlm_magic.models.checkpoints import hub, picture_budget
from vlm_magic.models.checkpoints.hub import Source
from vlm_magic.models.checkpoints.plan import Plan, make_plan
from vlm_magic.models.checkpoints.processors import load_processor
from vlm_magic.models.checkpoints.template_probe import try_template
from vlm_magic.models.checkpoints.versions import check_versions
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.loaded import Family, Loaded, chat_template_of
from vlm_magic.models.prompts import templates
from vlm_magic.models.prompts.families import family_of
from vlm_magic.starter import scope
from vlm_magic.uninterrupted import run_apart
from vlm_magic.wording import shorten, size_words

__all__ = ["about_loaded", "describe", "load_model"]

OnProgress = Callable[[str, int, int], None]


def load_model(
    model: str | Path = "starter",
    options: LoadOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    is_stopped: Callable[[], bool] | None = None,
) -> Loaded:
    """Load a model, to be used by one thread at a time.

    Args:
        model: "starter", a folder, or a hub id.
        options: how; all defaults if None.
        on_progress: called with (stage, done, total): "download" in bytes, "weights" in tensors.
        is_stopped: asked during a download, between steps and after every tensor; True ends the load, as an
            interrupt does.

    Raises:
        ModelNotFoundError: no such model; says what the folder or the local cache has.
        ModelKindError: a model that takes no pictures, or lacks a processor.
        OptionError: an option that cannot be met on this machine; before any download of weights.
        OutOfMemoryError: it does not fit; before it is loaded where that can be known.
        ModelLoadError: it is there and does not load, it was stopped, or a package is too old.
    """
    check_versions()
    cut_short = threading.Event()

    def is_over() -> bool:
        return cut_short.is_set() or (is_stopped is not None and is_stopped())

    def load(tell: OnProgress) -> Loaded:
        with _ONE_LOAD:
            return _load(model, options or LoadOptions(), tell if on_progress else None, is_over)

    return run_apart(load, on_progress or _untold, stop=cut_short.set, patience_s=_PATIENCE_S)


_ONE_LOAD = threading.Lock()  # transformers changes settings of the whole process while it loads
_PATIENCE_S = 10.0  # after an interrupt; a tensor of a large model takes a while


def _untold(stage: str, done: int, total: int) -> None:
    """Nobody wants to know."""


def _load(
    model: str | Path, options: LoadOptions, on_progress: OnProgress | None, is_stopped: Callable[[], bool]
) -> Loaded:
    """Find, check, estimate, fetch, load; in a thread that no interrupt hits."""
    began = time.perf_counter()
    _quiet_libraries()
    report = on_progress or _untold
    check = _stop_check(str(model), is_stopped)
    source = hub.find(model, options)
    config = estimates.load_config(source, options)
    family = family_of(config.model_type)
    plan = _plan_that_fits(source, config, family, options)
    check()
    source = _fetch(source, options, on_progress, is_stopped)
    check()
    processor, notes = _load_processor(source, config, family, options)
    with _probed(source, processor) as probe_notes, _told_by_tensor(report, check):
        network, weights_notes = _load_network(source, config, plan, options)
    check()
    return Loaded(
        name=source.name,
        model=network,
        processor=processor,
        family=family,
        options=options,
        device=plan.main_device,
        dtype=str(network.dtype).removeprefix("torch."),
        quantization=plan.quantization,
        attention=f"{plan.attention}: {plan.reason}",
        n_parameters=network.num_parameters(),
        load_s=time.perf_counter() - began,
        notes=(*filter(None, [plan.numbers_reason]), *weights_notes, *notes, *probe_notes),
        **({"remark_on": scope.remark_on} if source.is_starter else {}),
    )


def _load_processor(
    source: Source, config: Any, family: Family, options: LoadOptions
) -> tuple[Any, list[str]]:
    """The processor with the pictures' budget set, and remarks."""
    processor = load_processor(
        source.name, source.folder, config, family, trust_remote_code=options.trust_remote_code
    )
    budget = picture_budget.apply(
        source.name, processor, config, splitting=options.splitting, picture_tokens=options.picture_tokens
    )
    notes = [budget] if budget else []
    if chat_template_of(processor) is None and not family.has_own_dialogue:
        notes.append("it has no chat template: prompts are continued as plain text")
    return processor, notes


def _stop_check(name: str, is_stopped: Callable[[], bool] | None) -> Callable[[], None]:
    def check() -> None:
        if is_stopped is not None and is_stopped():
            raise ModelLoadError(f"the load of {name} was stopped", have="what was downloaded is kept")

    return check


def _plan_that_fits(source: Source, config: Any, family: Family, options: LoadOptions) -> Plan:
    """The plan, moved to all GPUs where one is too small; refused where nothing fits and it is not forced."""
    import torch

    plan = make_plan(source.name, config, family, options)
    if source.is_starter or options.force:
        return plan  # the packaged model fits wherever torch does
    made = estimates.estimate_source(source, config, plan, options)
    if (
        not made.fits
        and options.device == "auto"
        and plan.device.startswith("cuda")
        and torch.cuda.device_count() > 1
    ):
        spread = Plan("spread", plan.dtype, plan.quantization, plan.attention, plan.reason)
        made = estimates.estimate_source(source, config, spread, options)
        plan = spread
    if made.fits:
        return plan
    needed, free = size_words(made.needed_bytes), size_words(made.free_bytes)
    raise OutOfMemoryError(
        f"{source.name} does not fit on {plan.device}",
        have=f"it needs {needed}, {free} are free",
        hint=f"{made.advice or 'a smaller model'}; --force tries anyway",
        needed_bytes=made.needed_bytes,
        free_bytes=made.free_bytes,
        estimate=made,
    )


def _fetch(
    source: Source,
    options: LoadOptions,
    on_progress: OnProgress | None,
    is_stopped: Callable[[], bool] | None,
) -> Source:
    try:
        return hub.fetch_weights(source, options, on_progress=on_progress, is_stopped=is_stopped)
    except hub.StoppedError:
        raise ModelLoadError(
            f"the download of {source.name} was stopped", have="what was downloaded is kept"
        ) from None


@contextmanager
def _probed(source: Source, processor: Any) -> Iterator[list[str]]:
    """Try the chat template in a child while the block reads the weights; gives a list for remarks.

    Not for the starter: its template is a line of this package's own, and the child takes about as long as
    the load.
    """
    notes: list[str] = []
    template = chat_template_of(processor)
    if template is None:
        yield notes
        return
    if source.is_starter:
        templates.trust(template)
        yield notes
        return
    try:
        templates.start(template)
    except OSError as error:  # systems without processes, such as a browser
        notes.append(f"the chat template was not tried out beforehand ({type(error).__name__})")
        templates.trust(template)
        yield notes
        return
    yield notes
    try_template(source.name, template, dict(processor.tokenizer.special_tokens_map))


def _load_network(source: Source, config: Any, plan: Plan, options: LoadOptions) -> tuple[Any, list[str]]:
    """The model with its weights, and remarks."""
    from transformers import AutoModelForImageTextToText

    arguments: dict[str, Any] = {
        "config": config,
        "dtype": plan.torch_dtype,
        "attn_implementation": plan.attention,
        "local_files_only": True,
        "trust_remote_code": options.trust_remote_code,
        "use_safetensors": not (options.unsafe_weights and not hub.weight_files(source.folder)),
        "output_loading_info": True,
    }
    if plan.device != "cpu":
        arguments["device_map"] = _device_map(plan)
    if plan.quantization and not plan.quantization.endswith("(as saved)"):
        from vlm_magic.models.checkpoints.quantization import quantization_config

        arguments["quantization_config"] = quantization_config(source.name, config, plan)
        arguments.setdefault("device_map", {"": "cpu"})
    try:
        with _quiet_progress_bars():
            network, info = AutoModelForImageTextToText.from_pretrained(source.folder, **arguments)
            notes = _weights_notes(info)
            if options.adapter:
                notes.append(_add_adapter(network, options))
    except VLMError:
        raise
    except Exception as error:  # from_pretrained raises whatever its parts raise
        if memory.is_out_of_memory(error):
            failure = memory.out_of_memory(
                error,
                what=f"{source.name} ran out of memory while loading on {plan.device}",
                hint="--quantize 4bit, --dtype bfloat16, or a smaller model",
            )
        else:
            raise ModelLoadError(
                f"{source.name} does not load as {plan.quantization or plan.dtype} on {plan.device}",
                have=f"{type(error).__name__}: {shorten(error, 180)}",
            ) from error
    else:
        return network.eval(), notes
    raise failure


def _device_map(plan: Plan) -> Any:
    return "auto" if plan.device in ("spread", "offload") else {"": plan.device}


def _weights_notes(info: dict[str, Any]) -> list[str]:
    """What the person must know about weights that were not in the checkpoint."""
    missing = sorted(info.get("missing_keys") or ())
    if not missing:
        return []
    return [f"{len(missing)} tensors are not in the checkpoint and are random, for example {missing[0]}"]


@contextmanager
def _told_by_tensor(report: OnProgress, check: Callable[[], None]) -> Iterator[None]:
    """While transformers reads weights in this thread: tell how many are there, and leave when stopped.

    Source: transformers, ``core_model_loading``: the tensors of all shards go through one progress bar,
    and an exception from it closes the threads that read ahead.
    """
    from transformers.utils import logging as bars

    if not hasattr(bars, "set_tqdm_hook"):  # an older version: stopped between steps alone
        yield
        return
    thread = threading.get_ident()

    def watch(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        bar = make(*args, **options)
        is_ours = threading.get_ident() == thread and options.get("desc") == "Loading weights"
        return through(bar, len(args[0])) if is_ours else bar

    def through(tensors: Iterable[Any], n_tensors: int) -> Iterator[Any]:
        for n, tensor in enumerate(tensors):
            check()
            report("weights", n, n_tensors)
            yield tensor
        report("weights", n_tensors, n_tensors)

    before = bars.set_tqdm_hook(watch)
    try:
        yield
    finally:
        bars.set_tqdm_hook(before)


def _add_adapter(network: Any, options: LoadOptions) -> str:
    """Put a LoRA adapter into the model."""
    adapter = str(options.adapter)
    folder = hub.find_adapter(adapter, options)
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)  # its report names tied rows as missing, which are there; ours follows
    try:
        info = network.load_adapter(str(folder), adapter_kwargs={"local_files_only": True})
    finally:
        logger.setLevel(level)
    missing = [key for key in getattr(info, "missing_keys", None) or () if "token_adapter" not in key]
    extra = getattr(info, "unexpected_keys", None) or ()
    if not missing and not extra:
        return f"with the adapter {adapter}"
    first = sorted((*missing, *extra))[0]
    return (
        f"with the adapter {adapter}, which is of another model: {len(missing)} of its tensors are missing, "
        f"{len(extra)} have no place, for example {first}"
    )


def _quiet_libraries() -> None:
    """Keep remarks about missing kernels, and about every product of 8-bit weights, out of notebooks.

    transformers imports torchao wherever it is installed, also when nobody asked for it.
    """
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _quiet_progress_bars() -> Iterator[None]:
    """No bars from transformers: `on_progress` is how people see progress."""
    from transformers.utils import logging as bars

    was_on = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            bars.enable_progress_bar()


def describe(loaded: Loaded) -> str:
    """One line: ``starter · float32 · cpu · 1.3 M parameters · 5 MB · 0.3 s``."""
    n = loaded.n_parameters
    count = f"{n / 1e9:.1f} B" if n >= 10**9 else f"{n / 1e6:.1f} M"
    kind = f"{loaded.quantization}, {loaded.dtype}" if loaded.quantization else loaded.dtype
    return (
        f"{loaded.name} · {kind} · {loaded.device} · {count} parameters · "
        f"{size_words(memory.real_bytes(loaded.model))} · {loaded.load_s:.1f} s"
    )


def about_loaded(loaded: Loaded, way: str, speed: str, n_kept_bytes: int) -> About:
    """What a model is, how it computes, how fast its last reply was and what is kept for reuse."""
    figures = [speed] if speed else []
    if n_kept_bytes:
        figures.append(f"keeps {size_words(n_kept_bytes)} for reuse")
    details = tuple(filter(None, (f"attention {loaded.attention}", way)))
    return About(describe(loaded), loaded.name, details, tuple(loaded.notes), tuple(figures))
