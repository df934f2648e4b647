"""What reuse, streaming and scoring cost against the plain recipe of the guides. Ratios of one run.

    python tests/benchmarks/bench_reuse.py [idefics2 idefics3 llava qwen2-vl]

Random builds of about 100 million parameters, float32, one torch thread, pictures of 224 pixels,
questions of about 12 tokens. The plain recipe is template, processor and ``generate`` on the whole
conversation, every turn. Both sides are measured next to each other, many times; a row gives the medians,
their ratio, the quartiles of the ratios of neighbours, and the ratio of the processor time of both, which
other work on the machine hardly changes.
"""

# ruff: noqa: E402  (the switches must be set before anything is imported)

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parent)]

import torch
from large_models import BUILDS, large
from PIL import Image

from vlm_magic.messages import Part, Picture, Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.decoding import scoring
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import prepare

N_CHATS = 3
N_TURNS = 20
COMPARED_TURNS = (2, 5, 10, 20)
N_PICTURES = 4
N_STREAMED_TOKENS = 40
ANSWER = "In this image we can see two cats on the nets."
QUESTIONS = ("What do we see in this image?", "And how about this image? Describe it.")


@dataclass
class Times:
    """Seconds of the same thing, done again and again."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of all threads of this process

    def add(self, call: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def row(what: str, goal: str, plain: Times, ours: Times) -> str:
    """One line of the table; a ratio above 1 says that ours is faster."""
    ratios = [p / o for p, o in zip(plain.wall, ours.wall, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    whole = statistics.median(plain.wall) / statistics.median(ours.wall)
    cpu = statistics.median(plain.cpu) / statistics.median(ours.cpu)
    return (
        f"| {what} | {statistics.median(plain.wall) * 1e3:.0f} | {statistics.median(ours.wall) * 1e3:.0f} "
        f"| x{whole:.2f} | {low:.2f} to {high:.2f} | x{cpu:.2f} | {goal} |"
    )


HEAD = """| what | plain ms | ours ms | ratio | quartiles | ratio of CPU time | goal |
|---|---|---|---|---|---|---|"""


def pictures(seed: int) -> list[Picture]:
    """Four pictures that no other seed has."""
    torch.manual_seed(seed)
    noise = torch.randint(0, 256, (N_PICTURES, 224, 224, 3), dtype=torch.uint8)
    return [
        Picture(None, f"p{n}", Image.fromarray(noise[n].numpy()), f"digest {seed} {n}")
        for n in range(N_PICTURES)
    ]


def plain_inputs(engine: LocalEngine, turns: list[Turn]) -> dict[str, Any]:
    """The guides' recipe: the whole conversation through template and processor."""
    messages = [
        {
            "role": turn.role,
            "content": [
                {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part.text}
                for part in turn.parts
            ],
        }
        for turn in turns
    ]
    prompt = engine.processor.apply_chat_template(messages, add_generation_prompt=True)
    images = [picture.rgb for turn in turns for picture in turn.pictures]
    return dict(engine.processor(text=[prompt], images=[images] if images else None, return_tensors="pt"))


def plain_generate(engine: LocalEngine, turns: list[Turn], n_tokens: int) -> None:
    with torch.inference_mode():
        engine.model.generate(**plain_inputs(engine, turns), max_new_tokens=n_tokens, do_sample=False)


@contextmanager
def endless(engine: LocalEngine) -> Iterator[None]:
    """No end token on either side: both make as many tokens as they are asked for."""
    config = engine.model.generation_config
    eos, stop_ids = config.eos_token_id, token_ids.stop_token_ids
    config.eos_token_id = None
    token_ids.stop_token_ids = lambda loaded, settings: []
    try:
        yield
    finally:
        config.eos_token_id, token_ids.stop_token_ids = eos, stop_ids


def chat(seed: int) -> Iterator[list[Turn]]:
    """The turns up to each question of a chat with four pictures in its first four questions."""
    shown = pictures(seed)
    turns: list[Turn] = []
    for n in range(N_TURNS):
        parts: list[Part] = [Text(QUESTIONS[n % 2])]
        if n < N_PICTURES:
            parts.insert(0, shown[n])
        turns.append(Turn("user", tuple(parts)))
        yield list(turns)
        turns.append(Turn("assistant", (Text(ANSWER),)))


def bench_turns(engine: LocalEngine) -> Iterator[str]:
    """Time to first token along a chat, until the one token is there."""
    plain = {n: Times() for n in COMPARED_TURNS}
    ours = {n: Times() for n in COMPARED_TURNS}
    one = Settings(max_tokens=1)
    for seed in range(1, N_CHATS + 1):
        for n, turns in enumerate(chat(seed), start=1):
            if n in plain:
                ours[n].add(lambda turns=turns: engine.generate(turns, one))
                plain[n].add(lambda turns=turns: plain_generate(engine, turns, 1))
            else:
                engine.generate(turns, one)
    for n in COMPARED_TURNS:
        goal = "x10" if n == 10 else ""
        yield row(f"first token at turn {n}", goal, plain[n], ours[n])
    flat = statistics.median(ours[20].cpu) / statistics.median(ours[5].cpu)
    grown = statistics.median(plain[20].cpu) / statistics.median(plain[5].cpu)
    yield f"turn 20 takes x{flat:.2f} the CPU time of turn 5 (the plain recipe x{grown:.2f})"


def bench_overhead(engine: LocalEngine) -> Iterator[str]:
    """What is neither processor nor forward at turn 20: stores, threads, and generate's own preparations."""
    turns = list(chat(9))[-1]
    engine.generate(turns, Settings(max_tokens=1))
    tokenizer = type(engine.processor.tokenizer)
    own: dict[str, list[float]] = {"wall": [], "cpu": []}
    processor: dict[str, list[float]] = {"wall": [], "cpu": []}
    for n in range(15):
        whole, forward, processing = Times(), Times(), Times()
        now = [*turns[:-1], Turn("user", (Text(f"Question {n}?"),))]
        with (
            timed(engine.model, "forward", forward),
            timed(engine.processor, "apply_chat_template", processing),
            timed(tokenizer, "__call__", processing),
        ):
            whole.add(lambda now=now: engine.generate(now, Settings(max_tokens=1)))
        for kind, values in own.items():
            known = sum(getattr(forward, kind)) + sum(getattr(processing, kind))
            values.append((sum(getattr(whole, kind)) - known) * 1e3)
            processor[kind].append(sum(getattr(processing, kind)) * 1e3)
    for kind, values in own.items():
        low, middle, high = statistics.quantiles(values, n=4)
        yield (
            f"turn 20, {kind} time: {middle:.1f} ms ({low:.1f} to {high:.1f}) are neither forward nor "
            f"template and tokenizer, which take {statistics.median(processor[kind]):.1f} ms; goal: under 5"
        )


@contextmanager
def timed(owner: Any, name: str, times: Times) -> Iterator[None]:
    """Add up what a method takes, wherever it is called."""
    real = getattr(owner, name)

    @wraps(real)  # transformers looks at a forward's parameters
    def call(*args: Any, **options: Any) -> Any:
        kept: list[Any] = []
        times.add(lambda: kept.append(real(*args, **options)))
        return kept[0]

    was_own = name in vars(owner)
    setattr(owner, name, call)
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, real)
        else:
            delattr(owner, name)


def bench_streaming(engine: LocalEngine) -> Iterator[str]:
    """Seconds until a consumer has all tokens, against bare generate without a streamer; prompt included."""
    turns = [Turn("user", (Text(QUESTIONS[0]),))]
    plain, ours = Times(), Times()
    with endless(engine):
        for _ in range(15):
            plain.add(lambda: plain_generate(engine, turns, N_STREAMED_TOKENS))
            engine.reuse.clear()
            ours.add(lambda: list(engine.stream(turns, Settings(max_tokens=N_STREAMED_TOKENS))))
    assert engine.last_reply is not None
    assert engine.last_reply.n_new_tokens == N_STREAMED_TOKENS
    yield row(f"{N_STREAMED_TOKENS} tokens streamed", "0.97", plain, ours)


def bench_scoring(engine: LocalEngine) -> Iterator[str]:
    """Twenty choices against twenty full forwards."""
    choices = [
        f"{a} {b}" for a in ("two", "red", "big", "old") for b in ("cats", "bees", "cars", "doors", "boats")
    ]
    assert engine.loaded is not None
    loaded = engine.loaded
    plain, ours = Times(), Times()
    for seed in (11, 12, 13):
        shown = pictures(seed)
        turns = [Turn("user", (shown[0], shown[1], Text("What is it?")))]
        ids = [scoring.replies_ids(loaded, turns, [choice], Settings())[0] for choice in choices]

        inputs = memory.to_device(prepare(loaded, turns, Settings()).inputs, loaded)

        def full(
            turns: list[Turn] = turns, inputs: dict[str, Any] = inputs, ids: list[list[int]] = ids
        ) -> None:
            with torch.inference_mode():
                for each in ids:
                    scoring._with_full_forward(loaded, turns, each, Settings(), lambda: None, inputs)

        ours.add(lambda turns=turns: engine.score(turns, choices))
        plain.add(full)
    yield row("20 choices scored", "x8", plain, ours)


BENCHES = (bench_turns, bench_overhead, bench_scoring, bench_streaming)


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or list(BUILDS):
        engine = LocalEngine(large(name))
        assert engine.loaded is not None
        print(f"\n{name}, {engine.loaded.n_parameters / 1e6:.0f} M parameters\n\n{HEAD}", flush=True)
        remarks: list[str] = []
        for bench in BENCHES:
            for line in bench(engine):
                if line.startswith("|"):
                    print(line, flush=True)
                else:
                    remarks.append(line)
        print("\n" + "\n".join(remarks), flush=True)
        engine.close()


if __name__ == "__main__":
    main(sys.argv[1:])
