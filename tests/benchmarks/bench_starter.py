"""How fast the starter is: loading, the first token, each further token, and its generator of dialogues.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_starter.py

Loading and answering are compared with the plain way in transformers (Auto classes, template, processor,
`generate`) in one run, taking turns; medians, with the spread from the first to the third quartile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw

import vlm_magic
from vlm_magic.starter import WEIGHTS
from vlm_magic.starter.making.dialogues.dialogues import make_dialogue

N_ROUNDS = 15
N_DIALOGUES = 2_000
QUESTION = "What is in the picture?"


def drawing(n: int) -> Image.Image:
    """A red circle and a blue square, each time a little elsewhere, so that nothing is found in a store."""
    picture = Image.new("RGB", (240, 240), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20 + n, 40, 90 + n, 110), fill="red")
    draw.rectangle((140, 130 + n, 210, 200 + n), fill="blue")
    return picture


def spread(seconds: list[float], unit: float = 1e3) -> str:
    """Median and quartiles, in milliseconds unless said."""
    low, middle, high = (q * unit for q in statistics.quantiles(seconds, n=4))
    return f"{middle:8.2f}  ({low:.2f} to {high:.2f})"


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that it took, and what it gave."""
    began = time.perf_counter()
    value = do()
    return time.perf_counter() - began, value


def plain_load() -> tuple[Any, Any]:
    """Model and processor as the guides load them."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(WEIGHTS, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(WEIGHTS)


def plain_answer(model: Any, processor: Any, picture: Image.Image, max_new_tokens: int) -> Any:
    """Template, processor and generate, as the guides do it."""
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=text, images=[picture], return_tensors="pt")
    return model.generate(**inputs, max_new_tokens=max_new_tokens)


def main() -> None:
    """Measure and print."""
    import torch

    torch.set_num_threads(1)
    plain_load()  # the Auto classes' imports are not counted
    loads: dict[str, list[float]] = {"vlm_magic": [], "transformers": []}
    for _ in range(N_ROUNDS):
        seconds, engine = timed(lambda: vlm_magic.load("starter"))
        loads["vlm_magic"].append(seconds)
        engine.close()
        seconds, (model, processor) = timed(plain_load)
        loads["transformers"].append(seconds)

    engine = vlm_magic.load("starter")
    first: dict[str, list[float]] = {"vlm_magic": [], "transformers": []}
    each: dict[str, list[float]] = {"vlm_magic": [], "transformers": []}
    for n in range(N_ROUNDS + 2):
        reply = vlm_magic.Session(engine).ask(drawing(n), QUESTION)
        plain_first, _ = timed(lambda n=n: plain_answer(model, processor, drawing(n), 1))
        plain_all, ids = timed(lambda n=n: plain_answer(model, processor, drawing(n), 64))
        if n < 2:  # first calls allocate
            continue
        n_plain = ids.shape[1] - reply.n_prompt_tokens
        first["vlm_magic"].append(reply.ttft_s)
        first["transformers"].append(plain_first)
        each["vlm_magic"].append((reply.total_s - reply.ttft_s) / max(1, reply.n_new_tokens - 1))
        each["transformers"].append((plain_all - plain_first) / max(1, n_plain - 1))

    print(f"{'milliseconds':32}{'median':>8}  (quartiles)")
    for name, figures in (("load", loads), ("first token", first), ("each further token", each)):
        for who, seconds in figures.items():
            print(f"{name + ', ' + who:32}{spread(seconds)}")
    seconds, _ = timed(
        lambda: [d.picture for seed in range(N_DIALOGUES) for d in make_dialogue(seed).pictures]
    )
    print(f"{'dialogues per second, one core':32}{N_DIALOGUES / seconds:8.0f}")


if __name__ == "__main__":
    main()
