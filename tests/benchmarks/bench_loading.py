"""Time and memory of loading: what we add to `from_pretrained`, and estimates against real bytes.

Run: ``python tests/benchmarks/bench_loading.py``. Random builds of about 100 million parameters and the
starter; one thread. Prints two tables.
"""

# ruff: noqa: E402  (the paths and the switch must be set before anything is imported)

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import torch
from tiny_models import build_large
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging

from vlm_magic.models import memory
from vlm_magic.models.checkpoints.estimate import estimate
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.starter import WEIGHTS

QUANTIZATIONS = [None, "bnb-8bit", "bnb-4bit", "quanto-int8", "torchao-int8"]


def plain(folder: Path) -> Any:
    """What anybody would write."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return processor, model


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def overhead(name: str, folder: Path, n_rounds: int) -> None:
    """Medians of rounds in which both ways take turns."""
    model = "starter" if folder == WEIGHTS else folder
    plain(folder), load_model(model)
    pairs = [(seconds(lambda: plain(folder)), seconds(lambda: load_model(model))) for _ in range(n_rounds)]
    ours, theirs = (statistics.median(pair[i] for pair in pairs) for i in (1, 0))
    more = 100 * (ours / theirs - 1)
    print(f"{name:14} from_pretrained {theirs:7.3f} s   load_model {ours:7.3f} s   {more:+5.1f} %")


def estimates(name: str, folder: Path) -> None:
    for quantize in QUANTIZATIONS:
        for dtype in ("float32", "bfloat16"):
            options = LoadOptions(quantize=quantize, dtype=dtype)
            began = time.perf_counter()
            made = estimate(folder, options)
            took = time.perf_counter() - began
            loaded = load_model(folder, options)
            real = memory.real_bytes(loaded.model)
            theirs = loaded.model.get_memory_footprint()
            back = memory.release(loaded)
            off = 100 * (made.weights_bytes / real - 1)
            figures = {
                "estimate": made.weights_bytes,
                "real": real,
                "transformers": theirs,
                "came back": back,
            }
            shown = "   ".join(f"{word} {n_bytes / 1e6:6.1f} MB" for word, n_bytes in figures.items())
            print(f"{name:9} {quantize or 'none':13} {dtype:9} {shown}   off {off:+.2f} %   {took:.2f} s")


def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as root:
        folders = {kind: build_large(Path(root) / kind, kind) for kind in ("idefics3", "llava")}
        overhead("starter", WEIGHTS, 15)
        for kind, folder in folders.items():
            overhead(kind, folder, 7)
        for kind, folder in folders.items():
            estimates(kind, folder)


if __name__ == "__main__":
    main()
