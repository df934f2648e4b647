"""Load a checkpoint as people ask for it, or say beforehand why it cannot be.

The order is the promise: find it, read its configuration, check every option, estimate the memory; only
then fetch and load. Nothing here knows prompts, generation or notebooks. Neighbours: `sources`, `planning`,
`estimate`, `processors`, `picture_budget` and `template_probe` each do one step; `families` holds the row
that goes with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_magic.errors import ModelLoadError, OutOfMemoryError, VLMError, shorten
from vlm_magic.models import estimate as estimates
from vlm_magic.models import memory, picture_budget, sources
from vlm_magic.models.control_tokens import ControlTokens
from vlm_magic.models.families import Family, family_of
from vlm_magic.models.options import LoadOptions
from vlm_magic.models.planning import Plan, make_plan
from vlm_magic.models.processors import load_processor
from vlm_magic.models.sources import Source
from vlm_magic.models.template_probe import TemplateProbe

__all__ = ["LoadOptions", "Loaded", "describe", "load_model"]

OnProgress = Callable[[str, int, int], None]


@dataclass
class Loaded:
    """A model in memory with all that goes with it.

    Attributes:
        name: as people call it ("starter", or the id or folder as asked for).
        model: the transformers model, in evaluation mode; None after `memory.release`.
        processor: its processor; None after `memory.release`.
        family: its row of the table.
        options: what was asked for.
        device: where its inputs go ("cpu", "cuda:0").
        dtype: of its weights, and of what is computed with quantised ones ("float32").
        quantization: "" for none.
        attention: what was picked, and why.
        n_parameters: how many, quantised ones counted as what they stand for.
        load_s: seconds it took.
        notes: remarks for the person.
    """

    name: str
    model: Any
    processor: Any
    family: Family
    options: LoadOptions
    device: str
    dtype: str
    quantization: str
    attention: str
    n_parameters: int
    load_s: float
    notes: tuple[str, ...] = field(default=())

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def chat_template(self) -> str | None:
        """The template for chats: the processor's, else the tokenizer's, else None."""
        return chat_template_of(self.processor)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads the prompt and a decoder of its own writes the answer (T5)."""
        return bool(self.model.config.get_text_config().is_encoder_decoder)

    def n_before_answer(self, n_prompt: int) -> int:
        """How many tokens ``generate`` gives before the answer's: the prompt's, or a decoder's first one."""
        return 1 if self.is_encoder_decoder else n_prompt

    @cached_property
    def control(self) -> ControlTokens:
        """The words that text of people must not become."""
        named = [
            getattr(owner, f"{kind}_token", None)
            for owner in (self.processor, self.tokenizer)
            for kind in ("image", "video", "audio", "boi", "eoi")
        ]
        return ControlTokens(
            self.tokenizer,
            named=[str(word) for word in named if word],
            template=self.chat_template or "",
            pattern=self.family.control_pattern,
        )


def chat_template_of(processor: Any) -> str | None:
    """The default chat template of a processor or its tokenizer."""
    for owner in (processor, processor.tokenizer):
        template = getattr(owner, "chat_template", None)
        if isinstance(template, dict):
            template = template.get("default")
        if template:
            return str(template)
    return None


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
        is_stopped: asked during a download, between steps and after every tensor; True ends the load.

    Raises:
        ModelNotFoundError: no such model; says what the folder or the local cache has.
        ModelKindError: a model that does not look at pictures, or lacks a processor.
        OptionError: an option that cannot be met on this machine; before any download of weights.
        OutOfMemoryError: it does not fit; before it is loaded where that can be known.
        ModelLoadError: it is there and does not load, or it was stopped.
    """
    began = time.perf_counter()
    _quiet_torchao()
    options = options or LoadOptions()
    report = on_progress or (lambda stage, done, total: None)
    check = _stop_check(str(model), is_stopped)
    source = sources.find(model, options)
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
        notes=(*weights_notes, *notes, *probe_notes),
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
            raise ModelLoadError(f"the load of {name} was stopped", hint="what was downloaded is kept")

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
    needed, free = memory.size_words(made.needed_bytes), memory.size_words(made.free_bytes)
    raise OutOfMemoryError(
        f"{source.name} does not fit on {plan.device}",
        have=f"it needs {needed}, {free} are free",
        hint=f"{made.advice or 'a smaller model'}; --force tries it all the same",
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
        return sources.fetch_weights(source, options, on_progress=on_progress, is_stopped=is_stopped)
    except sources.StoppedError:
        raise ModelLoadError(
            f"the download of {source.name} was stopped", hint="what was downloaded is kept"
        ) from None


@contextmanager
def _probed(source: Source, processor: Any) -> Iterator[list[str]]:
    """Try the chat template in a child while the block reads the weights; gives a list for remarks.

    Not for the starter: its template is a line of this package's own, and the child takes about as long as
    the load.
    """
    notes: list[str] = []
    template = chat_template_of(processor)
    if source.is_starter or template is None:
        yield notes
        return
    probe = TemplateProbe(source.name, template, dict(processor.tokenizer.special_tokens_map))
    try:
        yield notes
        probe.result()
        notes += [probe.note] if probe.note else []
    finally:
        probe.cancel()


def _load_network(source: Source, config: Any, plan: Plan, options: LoadOptions) -> tuple[Any, list[str]]:
    """The model with its weights, and remarks."""
    from transformers import AutoModelForImageTextToText

    arguments: dict[str, Any] = {
        "config": config,
        "dtype": plan.torch_dtype,
        "attn_implementation": plan.attention,
        "local_files_only": True,
        "trust_remote_code": options.trust_remote_code,
        "use_safetensors": not (options.unsafe_weights and not sources.weight_files(source.folder)),
        "output_loading_info": True,
    }
    if plan.device != "cpu":
        arguments["device_map"] = _device_map(plan)
    if plan.quantization and not plan.quantization.endswith("(as saved)"):
        from vlm_magic.models.quantization import quantization_config

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
    folder = sources.find_adapter(adapter, options)
    network.load_adapter(str(folder), adapter_kwargs={"local_files_only": True})
    return f"with the adapter {adapter}"


def _quiet_torchao() -> None:
    """Keep its remarks about kernels that it cannot use out of notebooks.

    transformers imports torchao wherever it is installed, also when nobody asked for it.
    """
    for name in ("torchao", "torch.utils._pytree"):
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
        f"{memory.size_words(memory.real_bytes(loaded.model))} · {loaded.load_s:.1f} s"
    )
