"""How fast pictures and prompts are read: a plain script that prints ratios.

    python tests/benchmarks/bench_inputs.py [number of photographs]

Photographs of 12 megapixels are made once in a temporary folder; the disk cache of the system is warm.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout, when it is not installed

import numpy as np
from PIL import Image

from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pictures import to_picture
from vlm_magic.inputs.pixels import decoded_cache
from vlm_magic.inputs.prompt import parse_prompt
from vlm_magic.inputs.thumbnails import forget_thumbnails, thumbnail_bytes

WIDTH, HEIGHT = 4000, 3000
MODEL_PX = 1024  # the longest side that small vision-language models look at


def photographs(folder: Path, n: int) -> list[Path]:
    """``n`` JPEG files of 12 megapixels with the detail of a photograph."""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    image = Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    paths = []
    for index in range(n):
        path = folder / f"{index}.jpg"
        image.putpixel((index, 0), (0, 0, 0))
        image.save(path, quality=88)
        paths.append(path)
    return paths


def seconds(work: Callable[[], object], repeat: int = 5) -> float:
    """The median time of ``work``."""
    times = []
    for _ in range(repeat):
        gc.collect()
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def peak_mb(work: Callable[[], object]) -> float:
    """How far the memory of this process rises while ``work`` runs (Linux; 0 elsewhere)."""
    status = Path("/proc/self/status")
    if not status.exists():
        work()
        return 0.0
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
    before = _status_mb("VmRSS")
    work()
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1000


def bench_photographs(paths: list[Path]) -> None:
    """From disk to RGB at the size of a model, against Pillow's plain way."""
    options = PictureOptions(longest_px=MODEL_PX)

    def ours() -> None:
        for path in paths:
            decoded_cache.forget()
            to_picture(path, options=options)

    def plain() -> None:
        for path in paths:
            Image.open(path).convert("RGB")

    def plain_resized() -> None:
        for path in paths:
            image = Image.open(path).convert("RGB")
            image.thumbnail((MODEL_PX, MODEL_PX))

    ours_mb = peak_mb(lambda: to_picture(paths[0], options=options))
    plain_mb = peak_mb(lambda: Image.open(paths[0]).convert("RGB"))
    ours_s, plain_s, resized_s = seconds(ours, 1), seconds(plain, 1), seconds(plain_resized, 1)
    n = len(paths)
    print(f"{n} JPEG of 12 megapixels, disk to RGB at {MODEL_PX} px")
    print(
        f"  to_picture(longest_px={MODEL_PX})        {1000 * ours_s / n:7.1f} ms each, peak +{ours_mb:.0f} MB"
    )
    print(f"  Image.open().convert('RGB')        {1000 * plain_s / n:7.1f} ms each, peak +{plain_mb:.0f} MB")
    print(f"  the same, then thumbnail()         {1000 * resized_s / n:7.1f} ms each")
    print(f"  ratio {plain_s / ours_s:.1f} (same work: {resized_s / ours_s:.1f})")


def bench_whole(path: Path) -> None:
    """Every pixel of one photograph, the first and the second time."""
    data = path.read_bytes()

    def first() -> None:
        decoded_cache.forget()
        to_picture(data)

    first_s = seconds(first)
    again_s = seconds(lambda: to_picture(data))
    plain_s = seconds(lambda: Image.open(path).convert("RGB"))
    print(f"every pixel: {1000 * first_s:.0f} ms (plain {1000 * plain_s:.0f} ms, ours with the digest)")
    print(f"  seen already: {1000 * again_s:.2f} ms, ratio {first_s / again_s:.0f}")
    picture = to_picture(data)

    def thumbnail() -> None:
        forget_thumbnails()
        thumbnail_bytes(picture)

    again_s = seconds(lambda: thumbnail_bytes(picture))
    print(f"  thumbnail: {1000 * seconds(thumbnail):.1f} ms; again {1e6 * again_s:.0f} µs")


def bench_parsing() -> None:
    """A cell of 10,000 characters."""
    line = "Compare {cat} with `code`, \\frac{a}{b}, {\"a\": [1]}, {d['k']:>3} for $5, https://e.org/a.png\n"
    words = "A long prompt of words alone, without a single brace in it, as most prompts are.\n"
    for name, unit in (("dense with marks", line), ("words", words)):
        text = (unit * 1000)[:10_000]
        best = min(_once(text) for _ in range(30))
        print(f"parse 10,000 characters, {name}: {1000 * best:.2f} ms")


def _once(text: str) -> float:
    begun = time.perf_counter()
    parse_prompt(text)
    return time.perf_counter() - begun


def main() -> None:
    """Run everything and print the ratios."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder:
        paths = photographs(Path(folder), n)
        bench_photographs(paths)
        bench_whole(paths[0])
    bench_parsing()


if __name__ == "__main__":
    main()
