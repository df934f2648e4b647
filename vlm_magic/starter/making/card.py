"""Write `CARD.md`: what the starter is, how it was made, what it was measured to be right about.

Knows nothing of how anything is measured. Neighbour: `evaluate`, which calls it; `_STORY` holds the facts
of the training that made the shipped weights.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlm_magic.starter.making.results import Result, calibration
from vlm_magic.starter.making.skills import SKILLS

__all__ = ["CARD", "hash_of", "write_card"]

CARD = Path(__file__).parents[1] / "CARD.md"

_INTRODUCTION = """\
# The starter

A small vision-language model that ships with the package, so that the first minute works on any machine,
without a network and without a GPU. It was trained from nothing, by the code in this folder, on drawn scenes.
It is meant for first steps, lessons and tests; it knows nothing of photographs.

| | |
|---|---|
| architecture | Idefics3 of transformers, {parameters:,} parameters; any picture becomes 36 image tokens |
| files | {megabytes:.1f} MB in all, weights in bfloat16 |
| loads with | `AutoModelForImageTextToText` and `AutoProcessor`; no custom code, no torchvision |
| weights | sha256 `{digest}` |

Its world: {world}
"""

_WORLD = """\
circles, squares, triangles, stars, diamonds and crosses in red, orange, yellow, green, blue, purple, pink,
brown, black, white and grey, one to four on a plain background (white, black, grey, blue, yellow, green,
pink), as people draw them with PIL and matplotlib; bar charts of two to four coloured bars. Pictures of any
size; they are scaled to a square of 96 pixels, so an object should take up at least an eighth of the
picture's longer side, and keep a twenty-fifth of the picture between it and the next.
"""

_STORY = """\

## Training

`python -m vlm_magic.starter.making.train` makes such a model from nothing, in numbered stages.
Nothing but this package's own generator of scenes went in: no pictures and no texts from elsewhere.

1. A byte-level BPE tokenizer (1 536 entries) from 30 000 generated dialogues.
2. A pool of 6 000 pictures drawn by matplotlib; all others are drawn while training.
3. The vision tower with a throw-away head that names what stands in each of 6 x 6 cells: 4 800 steps of 64
   pictures (20 minutes). It is frozen until stage 6.
4. Its features of some 56 000 pictures, written to disk with the pictures: 24 000 scenes and plots, 6 000
   scenes of objects that are easily taken for each other, 3 000 + 3 000 bar charts, 12 000 scenes with a
   copy in which one thing changed.
5. The language model and the connector on freshly worded questions about them, easy kinds first: 13 600
   steps of some 250 answers (90 minutes on a machine that was mostly busy). One picture is the shared
   prefix of many questions.
6. Tower, connector and language model together, 21 100 steps (0.0008 at most) on the same pictures, the
   head of stage 3 asking beside the questions; more conversations after the first quarter. A tower that was
   only asked about single cells leaves an object between two cells to either or both, which is how objects
   were missed and counted twice. What is kept is the exponential mean of the parameters over 500 steps.
7. Export in bfloat16.

Before its export the script has a second schooling (comparisons of pictures, neighbours, "I don't know.",
JSON), which the shipped weights have not had.

Muon for the matrices (0.003, then 0.002), AdamW for the rest (0.002), cosine to 2 %, clipping at 1,
bfloat16 arithmetic over float32 weights. Machine: two cores of an AMD EPYC (AVX-512 with bfloat16), no GPU,
shared with other work while training.

The shipped weights were made by these stages with breaks: the language model was interrupted several times
to add wordings, to shift the mixture towards what it had not learned yet, and to let the learning rate fall
faster from step 6 000 on and, raised once more, from 9 600 to 13 600. Last came 5 400 gentle steps (0.0006
and less for all parameters, one process, 76 000 pictures drawn anew, one core of an Intel Xeon for fifty
minutes), with more wordings, captions that always list shapes one by one, and clearer borders: sizes that
are compared differ by half at least, objects keep 2.5 % (at last 4 %) of the picture between them, and the
order of a caption is clear by 8 % of its width. At the end came 1 500 steps of one process and 7 000 of two
on the same pictures (0.001 at most, an hour and a half of what other work left of two cores of the Xeon),
nearly half of them questions whose picture stands anywhere among the words; the last 2 000 had more counts
and captions and no longer asked "What is the lowest thing?" for its shape alone. The mean of the weights
before and after those 2 000, which was better than either, then went through stage 6 with two processes on
the Xeon, in three pieces: 4 600 steps (95 minutes) with a hundred more wordings and whole names ("the red
circle") as answers about size; 5 400 (0.0006 at most, two hours beside other work) with forty wordings more
and plainer forms in few-shot prompts; and 11 100 (0.0006 at most, four hours) with two hundred and forty
wordings more, more questions about two pictures and, in the last 3 850, 24 000 fresh pictures, most of them
of objects that are easily taken for each other: what was still wrong was wrong in these. The script runs
the same stages without the breaks.

## What it cannot do

Photographs, text in pictures, other shapes, more than six objects, shades between two colours, objects that
are tiny, overlap or lie within a few pixels of each other, sizes that are neither small nor big. It answers
such questions too, and is then wrong: it has no way to say that it does not know. It understands short
English questions about its world and little else.
"""


def hash_of(weights: Path) -> str:
    """The sha256 of a weights folder's tensors."""
    return hashlib.sha256((weights / "model.safetensors").read_bytes()).hexdigest()


def write_card(results: Sequence[Result], weights: Path, path: Path) -> None:
    """Write the card of some weights.

    Args:
        results: What was measured.
        weights: The folder it was measured on.
        path: Where the card goes.
    """
    size = sum(f.stat().st_size for f in weights.iterdir())
    text = _INTRODUCTION.format(
        parameters=_n_parameters(weights), megabytes=size / 1e6, digest=hash_of(weights), world=_WORLD
    )
    text += (
        _STORY
        + _table(results)
        + _calibration(results)
        + _by_case(results)
        + _by_kind(results)
        + _confusions(results)
    )
    path.write_text(text, "utf-8")


def _n_parameters(weights: Path) -> int:
    from safetensors import safe_open

    total = 0
    with safe_open(weights / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            n = 1
            for side in file.get_slice(name).get_shape():
                n *= side
            total += n
    return total


def _table(results: Sequence[Result]) -> str:
    """Accuracy by skill with its interval; what is below its target is listed apart, as not claimed."""
    text = (
        "\n## Accuracy\n\n"
        "Greedy answers of the package's own engine on fresh seeds, exact match of the whole answer; scenes "
        "of one to three\nobjects, pictures of any size, the picture before, inside or after the words; 95 % "
        "intervals (Wilson).\n"
    )
    held_out = [r for r in results if r.name.startswith("held out: ")]
    first = {skill.name for skill in SKILLS}
    for heading, some in (
        ("", [r for r in results if r.name in first]),
        ("Of the second schooling:\n", [r for r in results if r.name not in first and r not in held_out]),
        ("Phrasings that training never saw, the pictures before the words:\n", held_out),
    ):
        rows = [_row(r) for r in some if r.accuracy >= r.target]
        if rows:
            text += f"\n{heading}\n| skill | accuracy | interval | questions |\n|---|---|---|---|\n".replace(
                "\n\n\n", "\n\n"
            )
            text += "\n".join(rows) + "\n"
    short = [f"{_row(r)} {r.target:.2f} |" for r in results if r.accuracy < r.target]
    if short:
        text += "\nMeasured, but below the figure it would have to reach, so **not claimed**:\n\n"
        text += "| skill | accuracy | interval | questions | needed |\n|---|---|---|---|---|\n"
        text += "\n".join(short) + "\n"
    return text


def _row(result: Result) -> str:
    low, high = result.interval
    return f"| {result.name} | {result.accuracy:.3f} | {low:.3f} to {high:.3f} | {result.n} |"


def _calibration(results: Iterable[Result]) -> str:
    """How far the probability of an answer can be trusted, over all skills."""
    confidences = [pair for r in results for pair in r.confidences]
    if not confidences:
        return ""
    error, wrong = calibration(confidences)
    return (
        f"\n## Calibration\n\nOver {len(confidences)} answers the expected calibration error is {error:.3f} "
        f"(ten bins); wrong answers have a mean\nprobability of {wrong:.2f}.\n"
    )


def _by_case(results: Iterable[Result]) -> str:
    """Accuracy by number of objects and by size of the picture, over all skills that show scenes."""
    by_n: dict[int, list[bool]] = {}
    by_size: dict[str, list[bool]] = {}
    first = {skill.name for skill in SKILLS}
    for r in results:
        if r.name not in first or "bar" in r.name or r.name in ("taller", "same", "difference", "few-shot"):
            continue
        for n, side, right in r.cases:
            by_n.setdefault(n, []).append(right)
            label = (
                "up to 100"
                if side <= 100
                else "101 to 200"
                if side <= 200
                else "201 to 300"
                if side <= 300
                else "over 300"
            )
            by_size.setdefault(label, []).append(right)
    lines = ["\n## By number of objects and by size\n", "| objects | accuracy | questions |\n|---|---|---|"]
    lines += [f"| {n} | {sum(v) / len(v):.3f} | {len(v)} |" for n, v in sorted(by_n.items())]
    lines += ["\n| longer side, pixels | accuracy | questions |\n|---|---|---|"]
    order = ("up to 100", "101 to 200", "201 to 300", "over 300")
    lines += [
        f"| {k} | {sum(by_size[k]) / len(by_size[k]):.3f} | {len(by_size[k])} |"
        for k in order
        if k in by_size
    ]
    return "\n".join(lines) + "\n"


def _by_kind(results: Iterable[Result]) -> str:
    """The finer skills within those that hold several."""
    lines = ["\n## Within the mixed skills\n", "| question | accuracy | questions |\n|---|---|---|"]
    for r in results:
        if r.name in ("held-out wordings", "difference", "drawn by matplotlib", "gone, new, changed"):
            lines += [
                f"| {r.name}: {k.split(': ')[-1]} | {sum(v) / len(v):.3f} | {len(v)} |"
                for k, v in sorted(r.kinds.items())
            ]
    return "\n".join(lines) + "\n"


def _confusions(results: Iterable[Result]) -> str:
    """What was taken for what, in the skills with one-word answers."""
    text = "\n## Confusions\n\nRight answer in rows, given answer in columns; only pairs that occurred.\n"
    for r in results:
        if r.name not in ("colour", "shape", "where", "count all", "size"):
            continue
        wrong: Counter[tuple[str, str]] = Counter({k: v for k, v in r.answers.items() if k[0] != k[1]})
        text += f"\n**{r.name}**: "
        text += ", ".join(f"{a} → {b} ({n})" for (a, b), n in wrong.most_common(12)) if wrong else "none"
        text += f", in {r.n} questions\n"
    return text
