"""What the starter says about pictures that its generator never drew: by hand, and photographs.

    python tests/support/held_out_pictures.py [--weights FOLDER] [--photographs FOLDER]

Prints how many of the sixty questions about hand-drawn pictures are answered right, which are not, and in how
many questions about photographs the starter says that it does not know. The photographs are those that
scikit-image ships (its folder `skimage/data`; `pip download --no-deps scikit-image` and unpack it). They are
measured on, never trained on. Neighbour: `hand_drawn`, with the pictures and the questions.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))

from hand_drawn import PICTURES, SIXTY
from PIL import Image

__all__ = ["ask_about_photographs", "ask_sixty"]

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "motorcycle_left.png", "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg", "text.png",
    "color.png",
)  # fmt: skip
QUESTIONS = (
    "What is in this picture?",
    "What do you see?",
    "Describe the photo.",
    "Who is this?",
    "where was this taken?",
    "What animal is it",
    "What does the text say?",
    "What is happening here?",
    "How many people are there?",
    "What colour is it?",
)


def ask_sixty(engine: Any) -> Iterator[tuple[str, str, float, bool]]:
    """Question, answer, the answer's probability, and whether it is one of the right ones."""
    from vlm_magic import Session

    for names, question, right in SIXTY:
        reply = Session(engine).ask(*(PICTURES[name]() for name in names), question, log_probabilities=True)
        answer = reply.text.strip()
        yield question, answer, math.exp(sum(reply.log_probabilities)), answer in right


def ask_about_photographs(engine: Any, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Photograph, question, answer: each photograph with each question."""
    from vlm_magic import Session

    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as file:
            photograph = file.convert("RGB")
        for question in QUESTIONS:
            yield name, question, Session(engine).ask(photograph, question).text.strip()


def main() -> None:
    """Parse the command line, ask, print."""
    from vlm_magic import load
    from vlm_magic.starter.making.asking.doubts import DONT_KNOW

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--weights", default="starter", help="a folder of weights (the shipped ones)")
    parser.add_argument("--photographs", type=Path, help="a folder with scikit-image's data")
    given = parser.parse_args()
    engine = load(given.weights)
    answers = list(ask_sixty(engine))
    wrong = [answer for answer in answers if not answer[3]]
    for question, answer, probability, _ in wrong:
        print(f"    {question!r}: {answer!r} ({probability:.2f})")
    print(f"hand-drawn: {len(answers) - len(wrong)} of {len(answers)} right", end="")
    print(f", wrong answers' mean probability {sum(a[2] for a in wrong) / max(1, len(wrong)):.2f}")
    if given.photographs:
        said = list(ask_about_photographs(engine, given.photographs))
        sure = [row for row in said if row[2] != DONT_KNOW]
        for name, question, answer in sure[:40]:
            print(f"    {name} {question!r}: {answer!r}")
        print(f'photographs: {len(said) - len(sure)} of {len(said)} "{DONT_KNOW}"')


if __name__ == "__main__":
    main()
