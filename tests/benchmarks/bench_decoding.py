"""What a token costs: plain ``generate``, our step in torch, our kernel, and llama.cpp. Ratios of one run.

    python tests/benchmarks/bench_decoding.py [starter idefics3 smolvlm-256m] [--tokens 60] [--rounds 5]
    python tests/benchmarks/bench_decoding.py --bare [starter smolvlm-256m]
    python tests/benchmarks/bench_decoding.py --same
    VLM_MAGIC_LLAMA=FOLDER python tests/benchmarks/bench_decoding.py --llama

Random builds (but for the starter), one torch thread unless OMP_NUM_THREADS says otherwise. The ways take
turns; a row gives the medians of wall and CPU milliseconds a token, streaming included, the ratio to plain
``generate`` by CPU time, which other work on the machine hardly changes, and the share of the copy bandwidth.

``--bare`` has our step called by itself, with the likeliest token and nothing around it, in turns with a
streamed answer of the same length: the share that streaming keeps.

``--same`` prints the share of equal tokens over 200 answers of the starter in each kind of numbers, against
float32 by ``generate``, and takes no times. ``--llama`` compares with llama.cpp's server and the same weights
in float32 (``tests/support/real_servers.py`` says what the folder holds): it and our kernel take turns, one
thread each.
"""

# ruff: noqa: E402  (the switches must be set before anything is imported)

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parent)]

import large_models
import torch
from PIL import Image, ImageDraw
from transformers import LogitsProcessor

from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding import single
from vlm_magic.models.decoding.step import drafts
from vlm_magic.models.decoding.step.blueprint import read
from vlm_magic.models.decoding.step.figures import bandwidth_share
from vlm_magic.models.decoding.step.handover import record_of, steps_of
from vlm_magic.models.decoding.step.positions import Positions
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.load_options import LoadOptions

WAYS = {"generate": None, "eager": "no", "native": "yes", "guessing": "yes"}
NUMBERS = (
    ("float32", {}),
    ("bfloat16", {"dtype": "bfloat16"}),
    ("int8 (torchao)", {"quantize": "torchao-int8"}),
    ("int8 (Quanto)", {"quantize": "quanto-int8"}),
    ("8bit (bnb)", {"quantize": "bnb-8bit"}),
)


class NeverEnds(LogitsProcessor):
    """No answer ends before its limit."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids
        self.marks: list[tuple[float, float]] = []  # wall and CPU seconds, a token each

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.marks.append((time.perf_counter(), time.process_time()))
        scores = scores.clone()
        scores[:, self._ids] = -1e9
        return scores


def question(seed: int = 0) -> list[Turn]:
    image = Image.new("RGB", (96, 96), "white")
    ImageDraw.Draw(image).ellipse((10 + seed % 40, 12, 50 + seed % 40, 52), fill=(seed * 53 % 255, 60, 200))
    words = ("describe the picture", "what is in the picture?", "how many things are there?")[seed % 3]
    return [Turn("user", (Picture(None, f"p{seed}", image), Text(words)))]


@contextmanager
def way(engine: LocalEngine, name: str) -> Iterator[None]:
    """Answers within are computed so."""
    loaded, can_decode, is_worth_it = engine.loaded, single.can_decode, drafts.Pay.is_worth_it
    assert loaded is not None
    if WAYS[name] is None:
        single.can_decode = lambda _: False
    else:
        engine.loaded = replace(loaded, options=replace(loaded.options, compile=WAYS[name]))
    if name != "guessing":  # guesses from the text's own words, which a random model repeats for ever
        drafts.Pay.is_worth_it = lambda self: False
    try:
        yield
    finally:
        engine.loaded, single.can_decode, drafts.Pay.is_worth_it = loaded, can_decode, is_worth_it


def token_ms(engine: LocalEngine, n_tokens: int) -> tuple[float, float]:
    """Wall and CPU milliseconds of each token behind the first five, as a stream is read."""
    endless = NeverEnds(_ends(engine))
    for _ in engine.start(question(), Settings(max_tokens=n_tokens), logits_processors=[endless]):
        pass
    first, last = endless.marks[5], endless.marks[-1]
    n = len(endless.marks) - 6
    return (last[0] - first[0]) / n * 1e3, (last[1] - first[1]) / n * 1e3


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:5.0%} of the copy bandwidth"


def _ends(engine: LocalEngine) -> list[int]:
    from vlm_magic.models.prompts.token_ids import stop_token_ids

    return list(stop_token_ids(engine.loaded, Settings()))


def loaded(name: str, options: dict[str, Any]) -> LocalEngine:
    how = LoadOptions(**options)
    return LocalEngine(load_model("starter", how) if name == "starter" else large_models.large(name, how))


def measure(name: str, numbers: str, options: dict[str, Any], n_tokens: int, n_rounds: int) -> None:
    engine = loaded(name, options)
    model = engine.model
    found: dict[str, list[tuple[float, float]]] = {each: [] for each in WAYS}
    for each in WAYS:
        with way(engine, each):
            engine.generate(question(), Settings(max_tokens=3))
    for _ in range(n_rounds):
        for each in WAYS:
            with way(engine, each):
                found[each].append(token_ms(engine, n_tokens))
    plain = statistics.median(cpu for _, cpu in found["generate"])
    for each, times in found.items():
        with way(engine, each):
            engine.generate(question(), Settings(max_tokens=3))
        did = record_of(model).way
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        share = bandwidth_share(model, 1e3 / cpu * torch.get_num_threads(), "cpu")
        print(
            f"{name:13} {numbers:15} {each:9}{'' if did == each else did:9} {wall:8.2f} ms"
            f" {cpu:8.2f} ms cpu  x{plain / cpu:5.2f}  {_percent(share)}",
            flush=True,
        )
    engine.close()


def bare(name: str, n_tokens: int, n_rounds: int) -> None:
    """CPU milliseconds a token of our step alone and of a streamed answer, taking turns."""
    engine = loaded(name, {})
    found: dict[str, list[float]] = {"bare": [], "streamed": []}
    with way(engine, "native"):
        n_before = engine.generate(question(), Settings(max_tokens=6)).n_prompt_tokens + 5
        for _ in range(n_rounds):
            found["bare"].append(_bare_ms(engine.model, n_before, n_tokens))
            found["streamed"].append(token_ms(engine, n_tokens + 6)[1])
    alone, streamed = map(statistics.median, found.values())
    did = record_of(engine.model).way
    print(
        f"{name:13} {did:9} {alone:8.3f} ms cpu bare, {streamed:8.3f} streamed: {alone / streamed:.3f} kept",
        flush=True,
    )
    engine.close()


def _bare_ms(model: Any, n_before: int, n_tokens: int) -> float:
    """CPU milliseconds a token of our step alone, behind ``n_before`` tokens."""
    blueprint = read(model)
    assert blueprint is not None
    step, positions = next(steps_of(blueprint, "yes")), Positions()
    shape = (1, model.config.get_text_config().num_key_value_heads, n_before + n_tokens, blueprint.head_dim)
    rooms = [(torch.zeros(shape), torch.zeros(shape)) for _ in blueprint.layers]
    token = torch.zeros(1, 1, dtype=torch.int64)
    positions.table(blueprint, n_before + n_tokens)
    with torch.inference_mode():
        began = time.process_time()
        for n in range(n_before, n_before + n_tokens):
            logits = step(token, n, positions.slice(blueprint, n, 1), rooms)
            token = logits.argmax(-1, keepdim=True)
        return (time.process_time() - began) / n_tokens * 1e3


def same(n_answers: int = 200) -> None:
    """How many tokens of the starter's answers are those of float32 by ``generate``."""

    def said(engine: LocalEngine, how: str) -> list[tuple[int, ...]]:
        with way(engine, how):
            return [engine.generate(question(n), Settings(max_tokens=30)).token_ids for n in range(n_answers)]

    truth: list[tuple[int, ...]] = []
    for numbers, options in NUMBERS:
        engine = loaded("starter", options)
        truth = truth or said(engine, "generate")
        for how in ("eager", "guessing"):
            found = said(engine, how)
            pairs = [
                pair
                for one, other in zip(truth, found, strict=True)
                for pair in zip(one, other, strict=False)
            ]
            n_equal, n_all = sum(a == b for a, b in pairs), sum(map(len, truth))
            n_answered = sum(one == other for one, other in zip(truth, found, strict=True))
            print(
                f"{numbers:15} {record_of(engine.model).way:9} equal tokens {n_equal / n_all:.4f} of {n_all},"
                f" equal answers {n_answered}/{n_answers}",
                flush=True,
            )
        engine.close()


def llama(n_tokens: int, n_rounds: int) -> None:
    """Milliseconds a token of llama.cpp's server and of our kernel, taking turns."""
    import requests
    from real_servers import llama_server

    body = {
        "prompt": "describe the picture " * 10,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
    }
    engine = loaded("starter", {})
    clocks: dict[str, list[float]] = {"its own clock": [], "its CPU time": [], "ours": [], "our CPU time": []}
    with tempfile.TemporaryDirectory() as folder, llama_server(Path(folder)) as server, way(engine, "native"):
        url, headers = server.url.removesuffix("/v1"), {"Authorization": f"Bearer {server.key}"}
        for n in range(n_rounds + 1):
            wall, cpu = token_ms(engine, n_tokens)
            answers, spent = [], [_cpu_s(server.process.pid)]
            for k in (1, n_tokens + 1):
                asked = body | {"n_predict": k}
                answers.append(
                    requests.post(f"{url}/completion", json=asked, headers=headers, timeout=600).json()
                )
                spent.append(_cpu_s(server.process.pid))
            its_cpu = (spent[2] - spent[1] - (spent[1] - spent[0])) / n_tokens * 1e3
            if n:  # the first of each sets things up
                clocks["its own clock"].append(answers[1]["timings"]["predicted_per_token_ms"])
                clocks["its CPU time"].append(its_cpu)
                clocks["ours"].append(wall)
                clocks["our CPU time"].append(cpu)
    for name, found in clocks.items():
        print(f"{'starter':13} {name:15} {statistics.median(found):8.3f} ms, at best {min(found):.3f}")
    ratio = min(clocks["ours"]) / min(clocks["its own clock"])
    print(f"{'':13} ours beside its own clock, at best: x{ratio:.2f}")
    engine.close()


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("builds", nargs="*", default=["starter", "idefics3", "smolvlm-256m"])
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--numbers", default="")
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--same", action="store_true")
    parser.add_argument("--llama", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print("load average", *os.getloadavg(), f"· {torch.get_num_threads()} thread(s)")
    if args.same:
        same()
    if args.llama:
        llama(args.tokens, args.rounds)
    for name in args.builds if args.bare else []:
        bare(name, args.tokens, args.rounds)
    for name in [] if args.same or args.llama or args.bare else args.builds:
        for numbers, options in NUMBERS:
            if args.numbers in numbers:
                measure(name, numbers, options, args.tokens, args.rounds)
    print("load average", *os.getloadavg())


if __name__ == "__main__":
    main()
