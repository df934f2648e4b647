"""What the options come to on this machine: device, numbers' type, quantisation, attention, and why.

Everything that can be refused is refused here, from the configuration alone, before a byte of weights is
fetched. Knows devices and installed packages; loads nothing. Neighbours: `memory` estimates a plan,
`loading` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from vlm_magic.errors import ModelKindError, OptionError
from vlm_magic.models.checkpoints.eight_bits import choose_eight_bits
from vlm_magic.models.cpu_numbers import bfloat16_speedup
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.loaded import Family
from vlm_magic.models.prompts.families import NO_DIALOGUE

__all__ = ["Plan", "make_plan", "model_class_of"]

_WORTH_IT = 1.5  # times as fast as float32
_WIDE = 512  # of a language model that is no toy
_EIGHT_BITS = ("torchao-int8", "quanto-int8", "bnb-8bit")
_PACKAGES = {
    "bnb-4bit": ("bitsandbytes", "bitsandbytes"),
    "bnb-8bit": ("bitsandbytes", "bitsandbytes"),
    "quanto-int8": ("optimum.quanto", "optimum-quanto"),
    "torchao-int8": ("torchao", "torchao"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model will be loaded.

    Attributes:
        device: "cpu", "cuda:0", "mps", "spread" (over the GPUs) or "offload" (GPUs, then the CPU).
        dtype: "float32", "bfloat16" or "float16".
        quantization: "" or a long name of `options.QUANTIZATIONS`.
        attention: what transformers is told.
        reason: why that attention.
        numbers_reason: why those numbers, where a person may wonder; else "".
    """

    device: str
    dtype: str
    quantization: str
    attention: str
    reason: str
    numbers_reason: str = ""

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch has it."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def main_device(self) -> str:
        """The device that the inputs go to."""
        return (
            "cuda:0"
            if self.device in ("spread", "offload") and torch.cuda.is_available()
            else ("cpu" if self.device in ("spread", "offload") else self.device)
        )


def make_plan(name: str, config: Any, family: Family, options: LoadOptions) -> Plan:
    """Decide, or refuse.

    Args:
        name: of the model, for messages.
        config: its transformers configuration.
        family: its row.
        options: what is wished.

    Raises:
        OptionError: a wish that cannot be met here; says what is missing.
        ModelKindError: transformers has no picture-and-text model for this configuration.
    """
    model_class = model_class_of(name, config)
    if config.model_type in NO_DIALOGUE:
        raise ModelKindError(
            f"{name} is not a model to talk to",
            have=f"model type {config.model_type!r}: {NO_DIALOGUE[config.model_type]}",
            hint="transformers itself runs it; here a vision-language model, for example starter",
            model_type=config.model_type,
        )
    device = _device(options.device)
    dtype, numbers_reason = _dtype(options, device, family, config)
    quantization, why = _quantization(name, config, options, device)
    attention, reason = _attention(options.attn, model_class, device, dtype)
    if options.adapter and find_spec("peft") is None:
        raise OptionError("an adapter needs the package peft", hint="pip install peft")
    return Plan(device, dtype, quantization, attention, reason, numbers_reason or why)


def model_class_of(name: str, config: Any) -> Any:
    """The class that transformers maps the configuration to.

    Raises:
        ModelKindError: none that takes pictures and text.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        found = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    except KeyError:
        raise ModelKindError(
            f"{name} takes no pictures",
            have=f"model type {config.model_type!r}, which is not a vision-language model in transformers",
            hint="a vision-language model, for example starter",
            model_type=config.model_type,
        ) from None
    return found[0] if isinstance(found, tuple) else found


def _device(wish: str) -> str:
    """The device of a wish."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if wish == "auto":
        return _roomiest_gpu(n_gpus) if n_gpus else "mps" if has_mps else "cpu"
    if wish == "cpu" or (wish == "mps" and has_mps):
        return wish
    if wish in ("offload", "spread") and n_gpus:
        return wish
    if wish == "cuda" and n_gpus:
        return _roomiest_gpu(n_gpus)
    if wish.startswith("cuda:") and wish[5:].isdigit() and int(wish[5:]) < n_gpus:
        return wish
    have = ["cpu", *(f"cuda:{i}" for i in range(n_gpus)), *(["mps"] if has_mps else [])]
    raise OptionError(f"no device {wish!r} here", have=", ".join(have), hint="--device auto", device=wish)


def _roomiest_gpu(n_gpus: int) -> str:
    free = [torch.cuda.mem_get_info(i)[0] for i in range(n_gpus)]
    return f"cuda:{free.index(max(free))}"


def _dtype(options: LoadOptions, device: str, family: Family, config: Any) -> tuple[str, str]:
    """The numbers, and why where a person may wonder."""
    if options.dtype != "auto":
        return options.dtype, ""
    if device != "cpu":
        return _dtype_beside_cpu(device, family), ""
    speedup = bfloat16_speedup() if _may_be_bfloat16(config, options) else 0.0
    if speedup < _WORTH_IT:
        return "float32", ""
    return "bfloat16", f"bfloat16, as saved: {speedup:.1f} times as fast here as float32 (--dtype float32)"


def _may_be_bfloat16(config: Any, options: LoadOptions) -> bool:
    """Whether a CPU's numbers are worth a test: not of small models, whose float32 says the same everywhere.

    Checkpoints that were saved in float32 stay what they are, and 8-bit weights are computed with in float32.
    """
    width = getattr(config.get_text_config(), "hidden_size", None) or 0
    saved = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return saved == "bfloat16" and width >= _WIDE and not options.quantize


def _dtype_beside_cpu(device: str, family: Family) -> str:
    """bfloat16 where the device computes in it, float16 on older GPUs for safe families, else float32."""
    if device == "mps":
        return "bfloat16" if torch.backends.mps.is_macos_or_newer(14, 0) else "float32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float16" if family.is_float16_safe else "float32"


def _quantization(name: str, config: Any, options: LoadOptions, device: str) -> tuple[str, str]:
    """The quantisation's long name, its package and its fit checked, and why it where a person may wonder."""
    own = getattr(config, "quantization_config", None)
    if own is not None:
        method = own.get("quant_method", "?") if isinstance(own, dict) else getattr(own, "quant_method", "?")
        if options.quantize:
            raise OptionError(
                f"{name} is quantised already", have=f"its checkpoint is {method}", hint="without --quantize"
            )
        return f"{getattr(method, 'value', method)} (as saved)", ""
    wish, why = options.quantize, ""
    if wish is None:
        return "", ""
    if wish == "8bit":
        wish, why = _eight_bits(device)
    module, package = _PACKAGES[wish]
    if not _is_installed(module):
        others = [q for q, (m, _) in _PACKAGES.items() if _is_installed(m)]
        raise OptionError(
            f"--quantize {wish} needs the package {package}",
            have=f"what is installed can do {', '.join(others)}"
            if others
            else "no quantisation is installed",
            hint=f"pip install {package}",
            package=package,
        )
    if device == "mps" and wish.startswith("bnb"):
        raise OptionError(f"--quantize {wish} does not run on mps", hint="--quantize quanto-int8")
    if device == "offload":
        raise OptionError(
            f"--quantize {wish} cannot leave a part of the model on the CPU",
            hint="--device auto, or --device offload without --quantize",
        )
    return wish, why


def _eight_bits(device: str) -> tuple[str, str]:
    """What "8bit" is here, and why."""
    there = [name for name in _EIGHT_BITS if _is_installed(_PACKAGES[name][0])]
    if device != "cpu" or not there:
        return "bnb-8bit", ""
    choice = choose_eight_bits(there)
    return choice.name, choice.reason


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is not there
        return False


def _attention(wish: str, model_class: Any, device: str, dtype: str) -> tuple[str, str]:
    """The implementation and why it was taken."""
    supports = {
        "eager": True,
        "sdpa": bool(getattr(model_class, "_supports_sdpa", False)),
        "flex_attention": bool(getattr(model_class, "_supports_flex_attn", False)),
        "flash_attention_2": bool(getattr(model_class, "_supports_flash_attn", False)),
        "flash_attention_3": bool(getattr(model_class, "_supports_flash_attn", False)),
    }
    if wish == "auto":
        return _best_attention(supports, device, dtype)
    if "/" in wish:
        if find_spec("kernels") is None:
            raise OptionError(f"--attn {wish} needs the package kernels", hint="pip install kernels")
        return wish, "asked for"
    missing = _missing_for(wish, supports, device, dtype)
    if missing:
        can = [name for name in supports if not _missing_for(name, supports, device, dtype)]
        raise OptionError(
            f"--attn {wish}: {missing}", have=f"{', '.join(can)} can run here", hint="--attn auto", attn=wish
        )
    return wish, "asked for"


def _best_attention(supports: dict[str, bool], device: str, dtype: str) -> tuple[str, str]:
    missing = _missing_for("flash_attention_2", supports, device, dtype)
    if not missing:
        return "flash_attention_2", "the fastest that this GPU and model have"
    if supports["sdpa"]:
        return "sdpa", "the best on this device" if device in (
            "cpu",
            "mps",
        ) else f"no flash attention: {missing}"
    return "eager", "this model has no other"


def _missing_for(name: str, supports: dict[str, bool], device: str, dtype: str) -> str:
    """What is missing for an attention; "" for nothing."""
    if not supports.get(name, False):
        return "this model does not support it"
    if not name.startswith("flash"):
        return ""
    if device in ("cpu", "mps"):
        return f"it needs a CUDA device, this is {device}"
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    is_there = is_flash_attn_2_available if name == "flash_attention_2" else is_flash_attn_3_available
    if not is_there():
        return "the package flash-attn is not installed (pip install flash-attn --no-build-isolation)"
    if dtype == "float32":
        return "it computes in bfloat16 or float16 only, this is float32"
    return ""
