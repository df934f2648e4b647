"""Which package computes with 8-bit weights fastest on this CPU, and rightly: found by trying what is there.

Two decoder layers of SmolVLM-256M's shape, with random weights, are quantised by each, compared with float32,
and timed on a prompt and on a token of an answer. What came of it is kept in the user's cache folder until a
package, the processor or the number of threads changes. Knows torch, transformers and those packages; no
checkpoint. Neighbour: `plan` asks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["STEPS", "Choice", "choose_eight_bits"]

# How the tokens of an answer are computed is known upstairs: from a decoder to a function of no arguments
# that computes one token, or None where that is left to the decoder's own forward. `is_there` says whether
# what makes it fast is there.
STEPS: list[Any] = []

_SHAPE = {  # SmolVLM-256M's, with fewer layers and words
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 2,
    "vocab_size": 64,
}
_PROMPT = 64  # tokens at a time
_ANSWER_TOKENS, _PROMPT_TOKENS = 100, 320  # what is weighed: an answer of so many after a prompt of so many
_FAR = 0.05  # of the length of float32's logits; rounding to 8 bits is about 0.01 a layer
_LONGEST_S = 0.08  # for each time that is taken
_PACKAGES = ("torch", "transformers", "torchao", "optimum-quanto", "bitsandbytes")


_FOUND: dict[str, dict[str, float]] = {}  # in this process


@dataclass(frozen=True, slots=True)
class Choice:
    """What to use for 8 bits, and why.

    Attributes:
        name: of the quantisation.
        reason: one sentence.
    """

    name: str
    reason: str


def choose_eight_bits(names: Sequence[str]) -> Choice:
    """The fastest of some quantisations that is right; the first where none can be tried.

    Args:
        names: "torchao-int8", "quanto-int8" or "bnb-8bit", of packages that are installed.
    """
    key = _key(names)
    seconds = _FOUND.get(key) or _kept(key)
    if seconds is None:
        seconds = {name: took for name in names if (took := _seconds_of(name)) is not None}
        _keep(key, seconds)
    _FOUND[key] = seconds
    if not seconds:
        return Choice(names[0], f"8bit is {names[0]}: nothing could be tried")
    best, *others = sorted(seconds, key=lambda name: seconds[name])
    beside = ", ".join(f"{name} {seconds[name] / seconds[best]:.1f} times as long" for name in others)
    left = [name for name in names if name not in seconds]
    wrong = f"; not right here: {', '.join(left)}" if left else ""
    told = f"the fastest here, {beside}" if beside else "the only one here"
    return Choice(best, f"8bit is {best}: {told}{wrong}")


def _seconds_of(name: str) -> float | None:
    """What a prompt and its answer take; None where it fails or says something else than float32."""
    try:
        with torch.inference_mode(), torch.random.fork_rng(), _quietly():
            torch.manual_seed(0)
            ids = torch.randint(0, _SHAPE["vocab_size"], (1, _PROMPT))
            decoder = _decoder()
            truth = decoder(ids).logits
            for layer in decoder.model.layers:
                for part in (layer.self_attn, layer.mlp):
                    for each, plain in list(part.named_children()):
                        if isinstance(plain, torch.nn.Linear):
                            setattr(part, each, _MAKERS[name](plain))
            logits = decoder(ids).logits.float()
            if not (logits - truth).norm() <= _FAR * truth.norm():
                return None
            answer_s = _ANSWER_TOKENS * _best_s(_step_of(decoder, ids))
            return answer_s + _PROMPT_TOKENS / _PROMPT * _best_s(lambda: decoder(ids))
    except Exception:  # whatever fails here is not used, and the others are
        return None


def _decoder() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SHAPE)).eval()


def _step_of(decoder: Any, ids: torch.Tensor) -> Callable[[], object]:
    """What computes a single token when an answer is made."""
    for way in STEPS:
        if (step := way(decoder)) is not None:
            return step  # type: ignore[no-any-return]
    return lambda: decoder(ids[:, :1])


@contextmanager
def _quietly() -> Iterator[None]:
    """These packages have much to say about themselves."""
    loggers = [
        logging.getLogger(name) for name in ("bitsandbytes", "bitsandbytes.autograd._functions", "torchao")
    ]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _best_s(call: Callable[[], object]) -> float:
    """Seconds at best; one thread by its own time, so that other work on the machine does not count."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _LONGEST_S or best == float("inf"):
        start = clock()
        call()
        best = min(best, max(clock() - start, 1e-9))
    return best


def _by_torchao(plain: torch.nn.Linear) -> torch.nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    holder = torch.nn.Sequential(_copy(plain))
    quantize_(holder, Int8WeightOnlyConfig())
    return holder[0]


def _by_quanto(plain: torch.nn.Linear) -> torch.nn.Module:
    from optimum.quanto import freeze, qint8, quantize

    holder = torch.nn.Sequential(_copy(plain))
    quantize(holder, weights=qint8)
    freeze(holder)
    return holder[0]


def _by_bitsandbytes(plain: torch.nn.Linear) -> torch.nn.Module:
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    layer: torch.nn.Module = Linear8bitLt(
        plain.in_features, plain.out_features, bias=False, has_fp16_weights=False, threshold=6.0
    )
    layer.weight = Int8Params(plain.weight.detach().clone(), requires_grad=False, has_fp16_weights=False)
    return layer.to("cpu").eval()


_MAKERS: dict[str, Callable[[torch.nn.Linear], torch.nn.Module]] = {
    "torchao-int8": _by_torchao,
    "quanto-int8": _by_quanto,
    "bnb-8bit": _by_bitsandbytes,
}


def _copy(plain: torch.nn.Linear) -> torch.nn.Linear:
    layer = torch.nn.Linear(plain.in_features, plain.out_features, bias=False)
    layer.weight = torch.nn.Parameter(plain.weight.detach().clone(), requires_grad=False)
    return layer


# What is kept


def _key(names: Sequence[str]) -> str:
    """Another one for other packages, another processor, other threads, or a kernel that was not there."""
    parts = [*names, platform.machine(), platform.processor(), *map(_version, _PACKAGES)]
    ways = [str(way.is_there()) for way in STEPS]
    parts += [torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads()), *ways]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=10).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _file() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("vlm_magic", appauthor=False) / "eight_bits.json"


def _kept(key: str) -> dict[str, float] | None:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return (
            {str(name): float(took) for name, took in found["seconds"].items()}
            if found["key"] == key
            else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _keep(key: str, seconds: dict[str, float]) -> None:
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        part = _file().with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"key": key, "seconds": seconds}), encoding="utf-8")
        os.replace(part, _file())
