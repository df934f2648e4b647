"""Train the starter from nothing: `python -m vlm_magic.starter.making.train`.

Reads top to bottom in eight numbered stages; each leaves its result in the work folder and is skipped or
taken up there when the script runs again. Seeded: the same stages on the same machine give the same losses.

On two CPU cores the whole takes about ten hours; `--device cuda` runs the same steps on a GPU
(not measured); `--smoke` a few steps of everything in seconds. Neighbours: every stage lives in a module of
its own, this one only puts them in order.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.starter import WEIGHTS

if TYPE_CHECKING:
    from transformers import Idefics3ForConditionalGeneration, PreTrainedTokenizerFast

__all__ = ["Recipe", "go_on", "main", "second_schooling", "train"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How much of everything. The shipped weights had these, but not yet the second schooling."""

    workers: int = 2
    device: str = "cpu"
    n_corpus: int = 30_000
    n_pool: int = 3_000
    vision_steps: int = 4_800
    n_scenes: int = 9_000
    n_alike: int = 3_000
    n_charts: int = 1_500
    n_edits: int = 6_000
    text_steps: int = 19_000
    joint_steps: int = 21_100
    second_steps: int = 18_000
    n_outside: int = 2_500
    n_odd: int = 2_000
    n_plain: int = 2_500
    n_unknown: int = 2_000
    small: bool = False


SMOKE = Recipe(1, "cpu", 300, 6, 3, 40, 10, 6, 20, 4, 2, 4, 10, 6, 4, 4, small=True)


def train(
    recipe: Recipe, work: Path, out: Path, *, quiet: bool = False, rank: int = 0
) -> dict[str, list[float]]:
    """Run all stages in this process (one of `recipe.workers`).

    Args:
        recipe: How much of everything.
        work: Folder of checkpoints, the picture pool and the feature store (some gigabytes).
        out: Folder that gets the weights.
        quiet: Without progress bars.
        rank: Which of the processes this is.

    Returns:
        The losses of `vision`, `text`, `joint` and `second`, of the steps made by this call.
    """
    import torch

    from vlm_magic.starter.making.training.architecture import build_config, build_model, save_folder
    from vlm_magic.starter.making.training.batches import JOINT_MIXES
    from vlm_magic.starter.making.training.features import FeatureStore, fill_store
    from vlm_magic.starter.making.training.text_stage import train_text
    from vlm_magic.starter.making.training.vision_stage import Pool, fill_pool, train_vision

    torch.set_num_threads(1 if recipe.device == "cpu" else 4)
    work.mkdir(parents=True, exist_ok=True)
    speak, bar = (lambda text: None, _no_bar) if quiet or rank else (_say, _bar)

    # 1. A tokenizer from the words of the small world.
    tokenizer = _tokenizer(work / "tokenizer", recipe.n_corpus, rank)
    model = build_model(build_config(tokenizer)).to(recipe.device)
    speak(f"{sum(p.numel() for p in model.parameters()):,} parameters")

    # 2. matplotlib's pictures, drawn beforehand because they are slow.
    _pool_bar = bar("pool", recipe.n_pool)
    fill_pool(work, rank, recipe.n_pool, lambda done: _counts(_pool_bar)(done + 1, recipe.n_pool))
    _meet()
    pool = Pool.load(work)

    # 3. The vision tower learns what stands where; until stage 6 it stays as it is.
    vision = train_vision(
        model,
        pool,
        work,
        n_steps=recipe.vision_steps,
        batch_size=4 if recipe.small else 32,
        log=speak,
        tick=_steps(bar("vision", recipe.vision_steps)),
    )

    # 4. What the tower sees in the pictures of the second stage, written down once.
    fill_store(
        model,
        pool,
        work,
        rank,
        n_parts=recipe.workers,
        n_scenes=recipe.n_scenes,
        n_alike=recipe.n_alike,
        n_charts=recipe.n_charts,
        n_edits=recipe.n_edits,
        progress=_counts(bar("features", 1)),
    )
    _meet()
    store = FeatureStore.load(work)

    # 5. The language model learns to answer, easy questions first.
    with torch.no_grad():  # the tower's cells came out twice as large as suits beside word embeddings
        model.model.connector.modality_projection.proj.weight.mul_(0.5)

    def export() -> None:
        save_folder(model, tokenizer, out)

    text = train_text(
        model,
        tokenizer,
        store,
        work / "text.pt",
        n_steps=recipe.text_steps,
        small=recipe.small,
        log=speak,
        tick=_steps(bar("text", recipe.text_steps)),
        on_save=export,
    )

    # 6. Tower and language model learn on together, gently, from the pictures themselves.
    joint = train_text(
        model,
        tokenizer,
        store,
        work / "joint.pt",
        n_steps=recipe.joint_steps,
        mixes=JOINT_MIXES,
        lr=0.0008,
        rest_lr=0.0008,
        with_tower=True,
        horizon=500,
        small=recipe.small,
        stage="joint",
        log=speak,
        tick=_steps(bar("joint", recipe.joint_steps)),
        on_save=export,
    )

    # 7. The second schooling: comparisons, neighbours, doubt and JSON beside all that was learned before.
    second = second_schooling(recipe, model, tokenizer, work, out, quiet=quiet, rank=rank)

    # 8. The folder that ships.
    if rank == 0:
        export()
        speak(f"weights are in {out}")
    return {"vision": vision, "text": text, "joint": joint, "second": second}


def second_schooling(
    recipe: Recipe,
    model: Idefics3ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    out: Path,
    *,
    quiet: bool = False,
    rank: int = 0,
) -> list[float]:
    """Teach a model that knows the small world what people ask beyond the first wordings.

    The tower stays as it is: what the new questions need is in its features already, and questions about
    stored features cost a third. Resumes from `work/second.pt`.

    Args:
        recipe: How much of everything.
        model: Knows the first schooling; is changed.
        tokenizer: Of the model.
        work: Folder of the checkpoint; the pictures go into its folder `second`.
        out: Folder that gets the weights at each checkpoint.
        quiet: Without progress bars.
        rank: Which of the processes this is.

    Returns:
        The losses of the steps that this call made.
    """
    from vlm_magic.starter.making.training.architecture import save_folder
    from vlm_magic.starter.making.training.features import FeatureStore, fill_store
    from vlm_magic.starter.making.training.second_batches import SECOND_MIXES, make_second_batch
    from vlm_magic.starter.making.training.text_stage import train_text
    from vlm_magic.starter.making.training.vision_stage import Pool, fill_pool
    from vlm_magic.starter.making.world.edits import CHANGES

    speak, bar = (lambda text: None, _no_bar) if quiet or rank else (_say, _bar)
    fill_pool(work, rank, recipe.n_pool)
    _meet()
    folder = work / "second"
    folder.mkdir(exist_ok=True)
    fill_store(
        model,
        Pool.load(work),
        folder,
        rank,
        n_parts=recipe.workers,
        n_scenes=recipe.n_scenes // 2,
        n_alike=recipe.n_alike // 2,
        n_charts=recipe.n_charts // 2,
        n_edits=recipe.n_edits // 2,
        n_odd=recipe.n_odd // recipe.workers,
        n_plain=recipe.n_plain // recipe.workers,
        n_outside=recipe.n_outside // recipe.workers,
        n_unknown=recipe.n_unknown // recipe.workers,
        changes=tuple(CHANGES),
        progress=_counts(bar("second features", 1)),
    )
    _meet()
    return train_text(
        model,
        tokenizer,
        FeatureStore.load(folder),
        work / "second.pt",
        n_steps=recipe.second_steps,
        mixes=SECOND_MIXES,
        batches=make_second_batch,
        lr=0.0006,
        rest_lr=0.0006,
        horizon=300,
        small=recipe.small,
        stage="second",
        save_every=100,
        log=speak,
        tick=_steps(bar("second", recipe.second_steps)),
        on_save=lambda: save_folder(model, tokenizer, out),
    )


def go_on(recipe: Recipe, start: Path, work: Path, out: Path) -> list[float]:
    """The second schooling alone, from a folder of weights (the shipped ones, say)."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    model = AutoModelForImageTextToText.from_pretrained(start, dtype=torch.float32)
    return second_schooling(recipe, model, AutoTokenizer.from_pretrained(start), work, out)


def _tokenizer(folder: Path, n_corpus: int, rank: int) -> PreTrainedTokenizerFast:
    """Train the tokenizer on dialogues, or load the one in the folder; rank 0 makes it, the others wait."""
    from transformers import PreTrainedTokenizerFast

    from vlm_magic.starter.making.dialogues.dialogues import make_dialogue
    from vlm_magic.starter.making.training.architecture import build_tokenizer

    def corpus() -> Iterator[str]:
        for seed in range(n_corpus):
            for turn in make_dialogue(seed).turns:
                yield "User: " + " ".join(part for part in turn.parts if isinstance(part, str))
                yield "\nAssistant: " + turn.answer

    if rank == 0 and not folder.exists():
        build_tokenizer(corpus(), vocab_size=1536).save_pretrained(folder)
    _meet()
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def _meet() -> None:
    """Wait for the other processes."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"{time.strftime('%H:%M:%S')} {text}")


def _bar(name: str, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=name, mininterval=2, smoothing=0.05)


def _no_bar(name: str, total: int) -> Any:
    return lambda *_: None


def _steps(bar: Any) -> Callable[[int, float], None]:
    """A tick that moves a bar to a step and shows the loss."""
    if not hasattr(bar, "update"):
        return lambda step, loss: None

    def tick(step: int, loss: float) -> None:
        bar.update(step - bar.n)
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    return tick


def _counts(bar: Any) -> Callable[[int, int], None]:
    """A progress callback that moves a bar to a count."""
    if not hasattr(bar, "update"):
        return lambda done, total: None

    def progress(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress


def _worker(rank: int, recipe: Recipe, work: Path, out: Path, port: int) -> None:
    """One of several processes that average their gradients."""
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=recipe.workers)
    train(recipe, work, out, rank=rank)
    dist.destroy_process_group()


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(
        prog="python -m vlm_magic.starter.making.train", description="Train the starter from nothing."
    )
    parser.add_argument(
        "--work", type=Path, default=Path("starter-work"), help="checkpoints and features, some gigabytes"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder that gets the weights")
    parser.add_argument("--workers", type=int, default=2, help="processes (CPU only; one thread each)")
    parser.add_argument(
        "--device", default="cpu", help="cpu, or cuda for the same steps on a GPU in one process"
    )
    parser.add_argument("--text-steps", type=int, default=Recipe().text_steps)
    parser.add_argument("--joint-steps", type=int, default=Recipe().joint_steps)
    parser.add_argument("--vision-steps", type=int, default=Recipe().vision_steps)
    parser.add_argument("--second-steps", type=int, default=Recipe().second_steps)
    parser.add_argument(
        "--start",
        type=Path,
        help="only the second schooling, from the weights in this folder, in one process",
    )
    parser.add_argument(
        "--port", type=int, default=29517, help="of the processes' meeting point on this machine"
    )
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything")
    given = parser.parse_args(argv)
    if given.smoke:
        train(SMOKE, given.work, given.out)
        return
    workers = 1 if given.start or given.device != "cpu" else given.workers
    recipe = Recipe(
        workers,
        given.device,
        text_steps=given.text_steps,
        joint_steps=given.joint_steps,
        vision_steps=given.vision_steps,
        second_steps=given.second_steps,
    )
    if given.start:
        go_on(recipe, given.start, given.work, given.out)
        return
    if workers == 1:
        train(recipe, given.work, given.out)
        return
    from torch.multiprocessing.spawn import spawn

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    spawn(_worker, (recipe, given.work, given.out, given.port), nprocs=workers)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
