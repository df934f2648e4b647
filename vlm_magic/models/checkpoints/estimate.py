"""What a model will need, before a byte of its weights is read.

From the configuration and the safetensors headers alone. Where weights are quantised, the model's modules
are laid out without memory (torch's meta device) to know which of them are linear layers of the language
model: those alone are quantised; the vision tower, the connector and the head stay in full precision.

Neighbours: `hub` reads headers, `plan` says what will be done, `memory` what is free; `loading`
refuses by this, `%vlm_load --dry-run` prints it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vlm_magic.models import memory
from vlm_magic.models.cache_size import cache_token_bytes, first_int
from vlm_magic.models.checkpoints import hub
from vlm_magic.models.checkpoints.hub import Source, TensorHeader
from vlm_magic.models.checkpoints.packages import missing_package
from vlm_magic.models.checkpoints.plan import Plan, make_plan, model_class_of
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.prompts.families import family_of
from vlm_magic.uninterrupted import run_apart
from vlm_magic.wording import shorten, size_words

__all__ = [
    "Estimate",
    "empty_model",
    "estimate",
    "estimate_source",
    "kept_modules",
    "language_layers",
    "load_config",
]

WORKING_CONTEXT_TOKENS = 8192  # a long conversation with pictures; the whole context is given beside it
_N_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
# Names of the modules that look at pictures or join them to the text, in the trees of transformers 5.
_SEES = re.compile(
    r"vision|visual|image|img|(^|[._])vit([._]|$)|siglip|clip|connector|project|perceiver|resampler|merger|align"
    r"|qformer|query|audio|speech|embed_vision|mm_"
)
_IN_A_LAYER = re.compile(r"(^|\.)\w*(layers?|blocks?|h)\.\d+\.")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a load will need against what there is. All sizes in bytes.

    Attributes:
        name: of the model.
        plan: device, type, quantisation and attention.
        n_parameters: of the checkpoint.
        weights_bytes: the weights as they will lie in memory.
        cache_bytes: the KV cache of a conversation of `n_cache_tokens`.
        n_cache_tokens: the context, or 8192 tokens where it is longer.
        context_tokens: the whole context; None where the checkpoint does not say.
        cache_token_bytes: one token's keys and values.
        picture_bytes: working memory for looking at one picture.
        free_bytes: free on the device now.
        advice: the option that would make it fit, "" where it fits or nothing would.
    """

    name: str
    plan: Plan
    n_parameters: int
    weights_bytes: int
    cache_bytes: int
    n_cache_tokens: int
    context_tokens: int | None
    cache_token_bytes: int
    picture_bytes: int
    free_bytes: int
    advice: str = ""

    @property
    def needed_bytes(self) -> int:
        """Weights, cache and one picture's working memory."""
        return self.weights_bytes + self.cache_bytes + self.picture_bytes

    @property
    def fits(self) -> bool:
        """Whether it is needed and free."""
        return self.needed_bytes <= self.free_bytes

    def __str__(self) -> str:
        kind = self.plan.quantization or self.plan.dtype
        verdict = "fits" if self.fits else "does not fit"
        lines = [
            f"{self.name} as {kind} on {self.plan.device}: {verdict}",
            f"  weights  {size_words(self.weights_bytes)} for {self.n_parameters / 1e6:,.1f} M parameters",
            f"  cache    {size_words(self.cache_bytes)} for {self.n_cache_tokens:,} tokens"
            + (f" of a context of {self.context_tokens:,}" if self.context_tokens else ""),
            f"  picture  {size_words(self.picture_bytes)} while one is looked at",
            f"  needed   {size_words(self.needed_bytes)}, free {size_words(self.free_bytes)}",
            f"  attention {self.plan.attention}: {self.plan.reason}",
            *([f"  numbers  {self.plan.numbers_reason}"] if self.plan.numbers_reason else []),
        ]
        return "\n".join([*lines, f"  try      {self.advice}"] if self.advice else lines)


def estimate(model: str | Path, options: LoadOptions | None = None) -> Estimate:
    """What loading a model would need. Fetches its configuration and headers at most.

    Raises:
        ModelNotFoundError, ModelKindError, OptionError: as for a load.
    """
    how = options or LoadOptions()

    def made(_: object) -> Estimate:
        source = hub.find(model, how)
        config = load_config(source, how)
        plan = make_plan(source.name, config, family_of(config.model_type), how)
        return estimate_source(source, config, plan, how)

    return run_apart(made)  # it imports the model's class


def load_config(source: Source, options: LoadOptions) -> Any:
    """The transformers configuration of a source.

    Raises:
        ModelKindError: an architecture that transformers does not know, or that comes with its own code.
        ModelLoadError: it cannot be read.
    """
    from transformers import AutoConfig

    from vlm_magic.errors import ModelKindError, ModelLoadError

    raw = hub.read_config(source)
    try:
        return AutoConfig.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=options.trust_remote_code
        )
    except (ValueError, KeyError) as error:
        if "auto_map" in raw and not options.trust_remote_code:
            raise ModelKindError(
                f"{source.name} comes with code of its own, which is not run",
                hint="--trust-remote-code, if you have read and trust that code",
            ) from error
        model_type = raw.get("model_type", "none")
        raise ModelKindError(
            f"transformers does not know the architecture of {source.name}",
            have=f"model type {model_type!r}: {shorten(error, 120)}",
            model_type=model_type,
        ) from error
    except Exception as error:  # a configuration class may fail in any way on odd values
        package = missing_package(error)
        if package:
            raise ModelLoadError(
                f"{source.name} needs the package {package}",
                have="it is not installed",
                hint=f"pip install {package}",
                package=package,
            ) from error
        raise ModelLoadError(
            f"the configuration of {source.name} does not load", have=shorten(error)
        ) from error


def estimate_source(source: Source, config: Any, plan: Plan, options: LoadOptions) -> Estimate:
    """The estimate of a plan for a source whose configuration is read."""
    headers = list(hub.tensor_headers(source, options))
    n_parameters, weights = _weights(config, plan, headers, source)
    text = config.get_text_config()
    context = first_int(text, "max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
    per_token = cache_token_bytes(text, _N_BYTES[plan.dtype])
    n_tokens = min(context or WORKING_CONTEXT_TOKENS, WORKING_CONTEXT_TOKENS)
    made = Estimate(
        name=source.name,
        plan=plan,
        n_parameters=n_parameters,
        weights_bytes=weights,
        cache_bytes=per_token * n_tokens,
        n_cache_tokens=n_tokens,
        context_tokens=context,
        cache_token_bytes=per_token,
        picture_bytes=_picture_bytes(config, plan),
        free_bytes=memory.free_bytes(plan.device),
    )
    if made.fits:
        return made
    advice = _advice(made, config, source, headers, options)
    return Estimate(**{**{name: getattr(made, name) for name in made.__slots__}, "advice": advice})


def _weights(config: Any, plan: Plan, headers: list[TensorHeader], source: Source) -> tuple[int, int]:
    """(parameters, bytes) of the weights under a plan."""
    if plan.quantization.endswith("(as saved)"):
        return sum(h.n_elements for h in headers), sum(h.n_bytes for h in headers)
    if not plan.quantization and headers:
        return _plain_weights(headers, plan)
    model = empty_model(source.name, config)
    sizes = {id(p): p.numel() for p in model.parameters()}  # tied ones once
    n_parameters = sum(sizes.values())
    total = n_parameters * _N_BYTES[plan.dtype]
    if plan.quantization:
        kept = kept_modules(model, plan)
        for name, linear in _linears(model):
            if not _is_kept(name, kept):
                total += _quantized_bytes(linear, plan) - linear.weight.numel() * _N_BYTES[plan.dtype]
    return n_parameters, total


def _plain_weights(headers: Iterable[TensorHeader], plan: Plan) -> tuple[int, int]:
    n_floats = n_other_bytes = n_others = 0
    for header in headers:
        if header.dtype in _FLOATS:
            n_floats += header.n_elements
        else:
            n_others += header.n_elements
            n_other_bytes += header.n_bytes
    return n_floats + n_others, n_floats * _N_BYTES[plan.dtype] + n_other_bytes


def empty_model(name: str, config: Any) -> Any:
    """The model's modules without memory behind them."""
    with torch.device("meta"):
        return model_class_of(name, config)._from_config(config, attn_implementation="eager")


def kept_modules(model: Any, plan: Plan) -> list[str]:
    """Names of the modules that stay in full precision: all that are no linear layers of the language model.

    The shortest prefixes that hold no layer to quantise, as transformers matches names from their start. On
    a CPU bitsandbytes computes in 4 bits only where a layer's sizes are multiples of its blocks; others are
    kept too.
    """
    whole = _never_quantized(model)
    wanted = {
        name
        for name, linear in _linears(model)
        if _is_language_layer(name) and _can_be(linear, plan) and whole.isdisjoint(name.split("."))
    }
    prefixes: dict[str, None] = {}
    for name, _ in _linears(model):
        if name in wanted:
            continue
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            prefix = ".".join(parts[:n])
            if not any(f"{w}.".startswith(f"{prefix}.") for w in wanted):
                prefixes[prefix] = None
                break
    return list(prefixes)


def language_layers(model: Any) -> list[str]:
    """Names of the linear layers of the language model: what is quantised, and what LoRA adapts."""
    return [name for name, _ in _linears(model) if _is_language_layer(name)]


def _never_quantized(model: Any) -> set[str]:
    """Parts of names of layers that transformers itself keeps whole, as T5's ``wo``."""
    lists = [getattr(module, "_keep_in_fp32_modules", None) or () for module in model.modules()]
    return {part for each in lists for part in each}


def _can_be(linear: Any, plan: Plan) -> bool:
    """Whether a layer's sizes allow the quantisation."""
    if plan.quantization != "bnb-4bit" or plan.device != "cpu":
        return True
    return bool(linear.in_features % 64 == 0 and linear.out_features % 32 == 0)


def _linears(model: Any) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]


def _is_language_layer(name: str) -> bool:
    return bool(_IN_A_LAYER.search(name)) and not _SEES.search(name)


def _is_kept(name: str, kept: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in kept)


def _quantized_bytes(linear: Any, plan: Plan) -> int:
    """Bytes of one quantised weight with its scales.

    Source: bitsandbytes 0.50 (nf4, blocks of 64, scales quantised again in blocks of 256; int8 with one
    float32 scale a row); optimum-quanto 0.2 and torchao 0.18 (int8 with one scale a row in the model's
    type).
    """
    n, n_rows = linear.weight.numel(), linear.out_features
    if plan.quantization == "bnb-4bit":
        n_blocks = -(-n // 64)
        return int(n // 2 + n_blocks + 4 * -(-n_blocks // 256) + 4 * 16 + 4 * 256 + 4)
    if plan.quantization == "bnb-8bit":
        return int(n + 4 * n_rows)
    return int(n + _N_BYTES[plan.dtype] * n_rows)


def _picture_bytes(config: Any, plan: Plan) -> int:
    """Peak working memory of a vision tower on one picture cut into at most five tiles.

    One layer at a time holds about four copies of its input and one of its inner width per patch.
    """
    vision = getattr(config, "vision_config", None)
    side, patch = first_int(vision, "image_size"), first_int(vision, "patch_size")
    width = first_int(vision, "hidden_size", "embed_dim") or 0
    inner = first_int(vision, "intermediate_size") or 4 * width
    n_patches = (side // patch) ** 2 if side and patch else 1024
    return 5 * n_patches * (4 * width + inner) * _N_BYTES[plan.dtype]


def _advice(
    made: Estimate, config: Any, source: Source, headers: list[TensorHeader], options: LoadOptions
) -> str:
    """The mildest option under which it would fit."""
    from dataclasses import replace

    trials: list[tuple[str, Plan]] = []
    if made.plan.dtype == "float32":
        trials.append(("--dtype bfloat16", replace(made.plan, dtype="bfloat16")))
    if not made.plan.quantization:
        for wish in ("bnb-8bit", "bnb-4bit"):
            trials.append((f"--quantize {wish[4:]}", replace(made.plan, quantization=wish)))
            if made.plan.dtype == "float32":
                both = replace(made.plan, quantization=wish, dtype="bfloat16")
                trials.append((f"--quantize {wish[4:]} --dtype bfloat16", both))
    for flags, plan in trials:
        _, weights = _weights(config, plan, headers, source)
        cache = cache_token_bytes(config.get_text_config(), _N_BYTES[plan.dtype]) * made.n_cache_tokens
        needed = weights + cache + _picture_bytes(config, plan)
        if needed <= made.free_bytes:
            return f"{flags} needs {size_words(needed)}"
    if made.plan.device.startswith("cuda") and made.needed_bytes <= made.free_bytes + memory.free_bytes(
        "cpu"
    ):
        return "--device offload keeps a part on the CPU (slow)"
    return ""
