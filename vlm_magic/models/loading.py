"""Load a checkpoint as people ask for it, or say beforehand why it cannot be.

Knows options, folders and devices; knows nothing of prompts, generation or notebooks. Neighbours: `families` picks
the row, `memory` says what fits.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm_magic.errors import ModelKindError, ModelLoadError, ModelNotFoundError, shorten
from vlm_magic.models.control_tokens import ControlTokens
from vlm_magic.models.families import Family, family_of
from vlm_magic.models.memory import real_bytes
from vlm_magic.starter import WEIGHTS

__all__ = ["LoadOptions", "Loaded", "describe", "load_model"]


@dataclass(frozen=True)
class LoadOptions:
    """How to load.

    Attributes:
        dtype: "auto", "float32", "bfloat16" or "float16".
        quantize: None, "bnb-4bit" ("4bit"), "bnb-8bit" ("8bit"), "quanto-int8" ("int8") or "torchao-int8".
        attn: "auto", "sdpa", "eager", "flash_attention_2", …
        device: "auto", "cpu", "cuda:0", "mps", …
        splitting: whether pictures are cut into tiles; None leaves it to the checkpoint.
        picture_tokens: about how many tokens a picture may cost; None leaves it to the checkpoint.
        revision: branch, tag or commit on the hub.
        adapter: a LoRA adapter, folder or hub id.
        trust_remote_code: run code that comes with the checkpoint.
        unsafe_weights: load pickled weights too (they can run code).
        sampling: take the checkpoint's own generation defaults.
        force: load although it will not fit.
    """

    dtype: str = "auto"
    quantize: str | None = None
    attn: str = "auto"
    device: str = "auto"
    splitting: bool | None = None
    picture_tokens: int | None = None
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    unsafe_weights: bool = False
    sampling: bool = False
    force: bool = False


@dataclass
class Loaded:
    """A model in memory with all that goes with it.

    Attributes:
        name: as people call it ("starter", or the id or folder as asked for).
        model: the transformers model, in evaluation mode.
        processor: its processor.
        family: its row of the table.
        options: what was asked for.
        device: where it is ("cpu", "cuda:0").
        dtype: of its weights ("float32").
        quantization: "" for none.
        attention: what was picked, and why.
        n_parameters: how many.
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
        for owner in (self.processor, self.tokenizer):
            template = getattr(owner, "chat_template", None)
            if isinstance(template, dict):
                template = template.get("default")
            if template:
                return str(template)
        return None

    @cached_property
    def control(self) -> ControlTokens:
        """The words that text of people must not become."""
        named = [
            getattr(self.processor, f"{kind}_token", None)
            for kind in ("image", "video", "audio", "boi", "eoi")
        ]
        return ControlTokens(
            self.tokenizer,
            named=[str(word) for word in named if word],
            template=self.chat_template or "",
            pattern=self.family.control_pattern,
        )


def load_model(
    model: str | Path = "starter",
    options: LoadOptions = LoadOptions(),
    *,
    on_progress: Callable[[str, int, int], None] | None = None,
    is_stopped: Callable[[], bool] | None = None,
) -> Loaded:
    """Load a model.

    Args:
        model: "starter", a folder, or a hub id.
        options: how.
        on_progress: called with (stage, done, total).
        is_stopped: asked now and then; True ends the load.

    Raises:
        ModelNotFoundError: no such model.
        ModelKindError: a model that does not look at pictures.
        ModelLoadError: it does not load.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    began = time.perf_counter()
    folder = WEIGHTS if str(model) == "starter" else Path(model)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"no model {str(model)!r}", hint="starter")
    model_type = json.loads((folder / "config.json").read_text("utf-8")).get("model_type", "")
    family = family_of(model_type)
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        if not hasattr(processor, "tokenizer"):
            raise ModelKindError(f"{model} has no processor for pictures")
        network = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
    except (OSError, ValueError, ImportError) as error:
        raise ModelLoadError(f"{model} does not load", have=shorten(error, 200)) from error
    return Loaded(
        str(model),
        network,
        processor,
        family,
        options,
        "cpu",
        "float32",
        "",
        "sdpa",
        sum(p.numel() for p in network.parameters()),
        time.perf_counter() - began,
    )


def describe(loaded: Loaded) -> str:
    """One line: ``starter · float32 · cpu · 1.3 M parameters · 5 MB · 0.3 s``."""
    size = real_bytes(loaded.model)
    return (
        f"{loaded.name} · {loaded.quantization or loaded.dtype} · {loaded.device} · "
        f"{loaded.n_parameters / 1e6:.1f} M parameters · {size / 1e6:.0f} MB · {loaded.load_s:.1f} s"
    )
