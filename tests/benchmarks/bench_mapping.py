"""What a map costs against the loop of plain ``generate`` calls and the guides' padded batch.

    python tests/benchmarks/bench_mapping.py [idefics2 idefics3 llava qwen2-vl]

The starter over 200 pictures, and with three examples before each; then, by name, random builds of
about 100 million parameters over fewer. One torch thread for each operation, float32, greedy; the map runs
some of them beside others where there is a second core. The three ways take turns on the same pictures, and
ratios are those of their medians. Peaks of memory are measured in processes of
their own. The padded batch has as many rows as the map's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

from vlm_magic.messages import Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.starter.making.world.scenes import make_scene
from vlm_magic.tasks.examples import example_turns
from vlm_magic.tasks.map.mapping import PictureMap

QUESTION = "Describe the picture."
N_ROUNDS = 3


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class Ways:
    """The same work in three ways.

    Args:
        engine: the model.
        images: one picture a row.
        examples: turns before every question.
        n_tokens: the most new tokens.
    """

    def __init__(
        self,
        engine: LocalEngine,
        images: Sequence[Image.Image],
        examples: Sequence[Turn] = (),
        n_tokens: int = 64,
    ) -> None:
        self.engine = engine
        self.images = list(images)
        self.examples = tuple(examples)
        self.n_tokens = n_tokens
        self.n_rows = engine.rows_at_once(
            [*examples, Turn("user", (*example_turns([(images[0], "x")])[0].parts, Text(QUESTION)))],
            Settings(max_tokens=n_tokens),
        )
        messages = [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"}
                    for part in turn.parts
                ],
            }
            for turn in self.examples
        ]
        question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
        self.prompt = engine.processor.apply_chat_template([*messages, question], add_generation_prompt=True)
        self.shown = [picture.rgb for turn in self.examples for picture in turn.pictures]

    def _plain(self, images: Sequence[Image.Image], **padding: Any) -> list[str]:
        """Processor, ``generate``, decoding, as the guides write it."""
        processor, model = self.engine.processor, self.engine.model
        inputs = processor(
            text=[self.prompt] * len(images),
            images=[[*self.shown, image] for image in images],
            return_tensors="pt",
            **padding,
        )
        ids = model.generate(**inputs, max_new_tokens=self.n_tokens, do_sample=False)
        said = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in said]

    def loop(self) -> list[str]:
        """One call for each picture."""
        return [text for image in self.images for text in self._plain([image])]

    def padded(self) -> list[str]:
        """The guides' batch, as many rows at a time as the map takes."""
        said: list[str] = []
        for start in range(0, len(self.images), self.n_rows):
            said += self._plain(self.images[start : start + self.n_rows], padding=True, padding_side="left")
        return said

    def mapped(self) -> list[str]:
        """Our map, with empty stores."""
        self.engine.reuse.clear()
        run = PictureMap(
            self.engine,
            QUESTION,
            self.images,
            examples=self.examples,
            resume=False,
            settings=Settings(max_tokens=self.n_tokens),
        )
        rows = sorted(run, key=lambda row: row.position)
        assert not any(row.error for row in rows), [row.error for row in rows]
        assert not run.notes, run.notes
        return [row.text for row in rows]


def compare(title: str, ways: Ways, *, loops: int = 1) -> None:
    """Take turns, check that all say the same, print the ratios."""
    said = ways.mapped(), ways.padded()
    assert said[0] == said[1], "the map says something else than the padded batch"
    ours, padded, loop = [], [], []
    for n in range(N_ROUNDS):
        padded.append(seconds(ways.padded))
        ours.append(seconds(ways.mapped))
        if n < loops:
            loop.append(seconds(ways.loop))
    mine, theirs = statistics.median(ours), statistics.median(padded)
    shown = f"map {mine:.2f} s, padded batches of {ways.n_rows} {theirs:.2f} s (x{theirs / mine:.2f})"
    if loop:
        shown += f", loop {loop[0]:.2f} s (x{loop[0] / mine:.2f})"
    print(f"{title}: {shown}", flush=True)


def scenes(n: int) -> list[Image.Image]:
    return [make_scene(seed, n_objects=1 + seed % 3).picture for seed in range(n)]


def starter() -> LocalEngine:
    return LocalEngine(load_model("starter"))


def peak(way: str, n_rows: int | None = None) -> None:
    """Print the bytes that one way takes at its peak beyond the loaded model; run in a process of its own."""
    torch.set_num_threads(1)
    ways = Ways(starter(), scenes(200))
    ways.n_rows = n_rows or ways.n_rows
    ways.engine.generate([Turn("user", (Text("Hello"),))], Settings(max_tokens=2))
    with memory.watched_peak("cpu") as taken:
        getattr(ways, way)()
        print(json.dumps(taken()))


def compare_peaks() -> None:
    """Map, padded batches as large as the map's, and all pictures in one; each in a process of its own."""
    taken = {}
    for way in (["padded"], ["padded", "200"], ["mapped"]):
        done = subprocess.run(
            [sys.executable, __file__, "--peak", *way], capture_output=True, text=True, check=True
        )
        taken[way[-1]] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"peak memory beyond the model: map {taken['mapped'] / 1e6:.0f} MB, "
        f"padded batches {taken['padded'] / 1e6:.0f} MB, all in one padded batch {taken['200'] / 1e6:.0f} MB",
        flush=True,
    )


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    engine = starter()
    images = scenes(203)
    compare("starter, 200 pictures", Ways(engine, images[:200]))
    examples = example_turns(list(zip(images[200:], ("one", "two", "three"), strict=True)), prompt=QUESTION)
    compare("starter, 200 pictures after three examples", Ways(engine, images[:200], examples), loops=0)
    compare_peaks()
    for name in names:
        from large_models import large

        big = LocalEngine(large(name))
        assert big.loaded is not None
        title = f"{name}, {big.loaded.n_parameters / 1e6:.0f} M parameters, 12 pictures"
        compare(title, Ways(big, [image.resize((224, 224)) for image in images[:12]], n_tokens=16))
        big.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        peak(sys.argv[2], *map(int, sys.argv[3:]))
    else:
        main(sys.argv[1:])
