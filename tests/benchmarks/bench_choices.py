"""Twenty choices over many pictures, against one full forward per picture and choice. Ratios of one run.

    python tests/benchmarks/bench_choices.py [starter idefics3 …] [--pictures 100] [--threads 1]

The starter and random builds of about 100 million parameters, float32. Both sides get the same pictures,
question and tokens, picture by picture in turn; neither has seen the picture before. The plain side is
what one writes with transformers: for each choice a processor call and a forward over picture, question
and choice, of which the choice's log-probabilities are summed. A second plain side is kinder: it prepares
the picture's pixels once for its twenty forwards. The results are compared as well.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

from large_models import large

from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.decoding.scoring import replies_ids
from vlm_magic.models.engine import LocalEngine
from vlm_magic.starter.making.world.scenes import plan_scene
from vlm_magic.tasks.choices.choices import Choices
from vlm_magic.tasks.classify import classify

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
CHOICES = tuple(f"{size}{colour}" for size in ("", "dark ") for colour in COLOURS)
QUESTION = "What colour is the shape?"


def seconds(call: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """(seconds on the clock, seconds of this process on the processor) and the result."""
    began, worked = time.perf_counter(), time.process_time()
    result = call()
    return (time.perf_counter() - began, time.process_time() - worked), result


def plain_inputs(engine: LocalEngine, picture: Picture) -> dict[str, Any]:
    """Template and processor, as the guides do it."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = engine.processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    return dict(engine.processor(text=[prompt], images=[[picture.rgb]], return_tensors="pt"))


def plain_score(engine: LocalEngine, inputs: dict[str, Any], ids: list[int]) -> float:
    """One full forward over prompt and choice; the choice's log-probability."""
    tail = torch.tensor([ids])
    whole = dict(inputs)
    whole["input_ids"] = torch.cat([inputs["input_ids"], tail], dim=1)
    for name, value in inputs.items():
        if name != "input_ids" and value.ndim == 2 and value.shape == inputs["input_ids"].shape:
            more = torch.ones_like(tail) if name == "attention_mask" else torch.zeros_like(tail)
            whole[name] = torch.cat([value, more], dim=1)
    with torch.inference_mode():
        logits = engine.model(**whole).logits[0, -len(ids) - 1 : -1].float()
    return float(torch.log_softmax(logits, dim=-1)[range(len(ids)), ids].sum())


def bench(name: str, n_pictures: int) -> str:
    engine = LocalEngine(large(name)) if name != "starter" else _starter()
    assert engine.loaded is not None
    n_parameters = engine.loaded.n_parameters
    scenes = [plan_scene(Random(f"bench {n}"), n_objects=1) for n in range(n_pictures + 2)]
    pictures = [Picture(None, f"s{n}", scene.picture, f"bench {n}") for n, scene in enumerate(scenes)]
    turns = [Turn("user", (pictures[0], Text(QUESTION)))]
    ids = [replies_ids(engine.loaded, turns, [choice], Settings())[0] for choice in CHOICES]

    def plain(picture: Picture) -> list[float]:
        return [plain_score(engine, plain_inputs(engine, picture), each) for each in ids]

    def kinder(picture: Picture) -> list[float]:
        inputs = plain_inputs(engine, picture)
        return [plain_score(engine, inputs, each) for each in ids]

    def ours(picture: Picture) -> list[float]:
        outcome = classify(engine, picture, CHOICES, QUESTION)
        assert isinstance(outcome, Choices)
        return list(outcome.log_probabilities.values())

    times: dict[str, list[tuple[float, float]]] = {"plain": [], "kinder": [], "ours": []}
    worst = n_same = 0.0
    for n, picture in enumerate(pictures):
        sides = [("plain", plain), ("kinder", kinder), ("ours", ours)]
        results = {}
        for side, call in sides[n % 3 :] + sides[: n % 3]:
            taken, results[side] = seconds(lambda call=call, picture=picture: call(picture))
            if n >= 2:  # the first two warm up
                times[side].append(taken)
        worst = max(worst, *(abs(a - b) for a, b in zip(results["plain"], results["ours"], strict=True)))
        n_same += results["plain"].index(max(results["plain"])) == results["ours"].index(max(results["ours"]))
    engine.close()
    lines = [f"{name} ({n_parameters / 1e6:.0f} M), {len(CHOICES)} choices over {n_pictures} pictures"]
    for at, what in enumerate(("on the clock", "processor time")):
        total = {side: sum(taken[at] for taken in each) for side, each in times.items()}
        median = {side: statistics.median(taken[at] for taken in each) for side, each in times.items()}
        lines.append(
            f"  {what}: plain {total['plain']:.2f} s, pixels once {total['kinder']:.2f} s, "
            f"ours {total['ours']:.2f} s; x{total['plain'] / total['ours']:.1f} and "
            f"x{total['kinder'] / total['ours']:.1f} (medians x{median['plain'] / median['ours']:.1f}, "
            f"x{median['kinder'] / median['ours']:.1f})"
        )
    lines.append(f"  largest difference {worst:.1e}, same choice {n_same:.0f} of {len(pictures)}")
    return "\n".join(lines)


def _starter() -> LocalEngine:
    from vlm_magic.models.checkpoints.loading import load_model

    return LocalEngine(load_model("starter"))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=["starter", "idefics3"])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    for name in given.models:
        print(bench(name, given.pictures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
