"""What reuse, streaming and scoring cost against the plain recipe of the guides. Ratios of one run.

    python tests/benchmarks/bench_reuse.py [idefics2 idefics3 llava qwen2-vl]

Random builds of about 100 million parameters, float32, one torch thread, pictures of 224 pixels,
questions of about 12 tokens. The plain recipe is template, processor and ``generate`` on the whole
conversation, every turn. Our side is interleaved with it, turn by turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

from large_models import BUILDS, large

from vlm_magic.messages import Part, Picture, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine

N_TURNS = 20
N_PICTURES = 4
ANSWER = "In this image we can see two cats on the nets."
QUESTIONS = ("What do we see in this image?", "And how about this image? Describe it.")


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def pictures() -> list[Picture]:
    images = [Image.effect_noise((224, 224), 40 + 20 * n).convert("RGB") for n in range(N_PICTURES)]
    return [Picture(None, f"p{n}", image, f"digest {n}") for n, image in enumerate(images)]


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
    return dict(engine.processor(text=[prompt], images=[images], return_tensors="pt"))


def plain_generate(engine: LocalEngine, turns: list[Turn], n_tokens: int) -> None:
    with torch.inference_mode():
        engine.model.generate(
            **plain_inputs(engine, turns), max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False
        )


def bench_turns(engine: LocalEngine) -> str:
    """Time to first token at each turn of a chat with four pictures in its first four turns."""
    shown = pictures()
    turns: list[Turn] = []
    ours, plain, reused = [], [], []
    for n in range(N_TURNS):
        parts: list[Part] = [Text(QUESTIONS[n % 2])]
        if n < N_PICTURES:
            parts.insert(0, shown[n])
        turns.append(Turn("user", tuple(parts)))
        now = list(turns)
        if n in (1, 9, 10, 19):
            plain.append(
                (n + 1, min(seconds(lambda now=now: plain_generate(engine, now, 1)) for _ in range(2)))
            )
        reply = engine.generate(now, Settings(max_tokens=1))
        ours.append(reply.ttft_s)
        reused.append(reply.n_reused_tokens / reply.n_prompt_tokens)
        turns.append(Turn("assistant", (Text(ANSWER),)))
    by_turn = dict(plain)
    return (
        f"turn 10: plain {by_turn[10] * 1e3:.0f} ms, ours {ours[9] * 1e3:.0f} ms, "
        f"x{by_turn[10] / ours[9]:.1f}; turn 20: x{by_turn[20] / ours[19]:.1f}; "
        f"ours at 2/10/20: {ours[1] * 1e3:.0f}/{ours[9] * 1e3:.0f}/{ours[19] * 1e3:.0f} ms; "
        f"reused at turn 10: {reused[9]:.0%}"
    )


def bench_overhead(engine: LocalEngine) -> str:
    """What is not forward: preparing and fitting a prompt of 20 turns whose pictures are known."""
    shown = pictures()
    turns: list[Turn] = []
    for n in range(20):
        turns += [Turn("user", ((shown[n],) if n < 4 else ()) + (Text(QUESTIONS[n % 2]),))]
        turns += [Turn("assistant", (Text(ANSWER),))]
    turns.append(Turn("user", (Text("Sure?"),)))
    engine.generate(turns, Settings(max_tokens=1))
    times = [seconds(lambda: engine.reuse.prepare(turns, Settings())) for _ in range(15)]
    return f"prompt of 20 turns made in {statistics.median(times) * 1e3:.1f} ms"


def bench_streaming(engine: LocalEngine) -> str:
    """Tokens per second to a consumer, against bare generate without a streamer; interleaved medians."""
    turns = [Turn("user", (pictures()[0], Text(QUESTIONS[0])))]
    from vlm_magic.models import families

    families.stop_token_ids = lambda loaded, settings: []  # both sides run to the end
    n = 48
    ours, plain = [], []
    for _ in range(5):
        plain.append(
            seconds(lambda: plain_generate(engine, turns, n))
            - seconds(lambda: plain_generate(engine, turns, 1))
        )
        chunks = list(engine.stream(turns, Settings(max_tokens=n)))
        reply = chunks[-1].reply
        assert reply is not None
        ours.append(reply.total_s - reply.ttft_s)
    ratio = statistics.median(plain) / statistics.median(ours)
    return f"streaming keeps {ratio:.2f} of bare generate ({(n - 1) / statistics.median(ours):.1f} tokens/s)"


def bench_scoring(engine: LocalEngine) -> str:
    """Twenty choices against twenty full forwards."""
    from vlm_magic.models.scoring import _with_full_forward, reply_ids

    turns = [Turn("user", (pictures()[0], pictures()[1], Text("What is it?")))]
    choices = [
        f"{a} {b}" for a in ("two", "red", "big", "old") for b in ("cats", "bees", "cars", "doors", "boats")
    ]
    assert engine.loaded is not None
    loaded = engine.loaded
    ids = [reply_ids(loaded, turns, choice, Settings()) for choice in choices]

    def full() -> None:
        with torch.inference_mode():
            for each in ids:
                _with_full_forward(loaded, turns, each, Settings(), lambda: None)

    plain = seconds(full)
    engine.reuse.clear()
    ours = seconds(lambda: engine.score(turns, choices))
    return f"20 choices: {plain:.2f} s by full forwards, {ours:.2f} s shared, x{plain / ours:.1f}"


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or list(BUILDS):
        engine = LocalEngine(large(name))
        assert engine.loaded is not None
        print(f"{name}: {engine.loaded.n_parameters / 1e6:.0f} M parameters", flush=True)
        for bench in (bench_turns, bench_overhead, bench_scoring, bench_streaming):
            print("  " + bench(engine), flush=True)
        engine.close()


if __name__ == "__main__":
    main(sys.argv[1:])
