"""Few-shot prompts: examples fix the form of an answer, in turns of their own or written down in one.

Neighbour: `dialogues`, which lists it among its builders.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from vlm_magic.starter.making.dialogues.turns import Deck, Dialogue, Part, Turn
from vlm_magic.starter.making.world.naming import listing, name_of
from vlm_magic.starter.making.world.scenes import Scene

__all__ = ["few_shot"]

_FACTS: dict[str, tuple[Callable[[Scene], str], tuple[str, ...]]] = {
    "colour": (lambda s: s.objects[0].colour, ("What colour is it?", "Colour?", "Which colour?",
    "Describe it.", "", "What is it?")),
    "shape": (lambda s: s.objects[0].shape, ("What shape is it?", "Shape?", "What is it?", "Describe it.", "",
    "What is this?")),
    "name": (lambda s: name_of(s.objects[0]), ("What is this?", "Describe this picture.",
    "Describe this image.", "What is it?", "", "What do you see?")),
    "background": (lambda s: s.background, ("What is the background?", "Background?",
    "What colour is the background?")),
    "count": (lambda s: str(len(s.objects)), ("How many shapes?", "How many shapes are there?", "Count.",
    "Number?", "")),
    "names": (lambda s: listing([name_of(t) for t in s.objects]), ("What is in the picture?", "Describe "
    "this image.", "List the shapes.", "")),
}  # fmt: skip
_WORDS = (
    "It is", "I see", "answer", "a", "the", "result", "Colour", "Shape", "This is", "look", "yes", "no",
    "well", "so", "one", "very", "nice",
    "fine", "shape", "colour", "value", "label", "class", "Category", "An image of a", "A picture of", "tag",
    "x", "item", "my", "That is",
    "Here is", "Fun fact", "great", "sure", "found", "type", "name", "Answer", "Result", "is", "key",
    "A photo of a", "drawn", "paper", "done",
)  # fmt: skip
_JOINTS = (" ", " ", ": ", ", ", " = ", " - ", "! ", ". ")
_ENDS = ("", "", ".", "!", "!!", ";", " .", "...", ")")


_FORMS = (
    ("It is ", "."), ("I see ", "."), ("a ", ""), ("the ", ""), ("", "!"), ("", "."), ("Answer: ", ""),
    ("= ", ""), ("This is ", "."), ("A ", "."), ("Colour: ", ""), ("Shape: ", ""), ("[", "]"), ("<", ">"),
    ("An image of a ", "."), ("A picture of a ", "."), ("A photo of a ", ""), ("The answer is ", "."),
    ("label: ", ""), ("class ", ""), ("- ", ""), ("It looks ", " to me."), ("", ", I think."),
    ("", " thing"), ("Well, ", "."), ("Look: ", "!"), ("Yes: ", ""), ("", ". Fun fact: shapes are fun."),
    ("My answer: ", ""), ("Result = ", ";"), ("(", ")"), ("{", "}"), ("* ", ""), ("very ", ""),
    ("Only ", "."), ("Here: ", ""), ("An image of a ", ". Fun fact: I like it."), ("Category: ", ""),
    ("I would say ", "."), ("tag:", ""), ("", " it is."),
)  # fmt: skip


def _form(rng: Random) -> tuple[str, str]:
    """What stands before and after the fact: a form that people use, or a random one."""
    if rng.random() < 0.7:
        return rng.choice(_FORMS)
    before = rng.choice(_WORDS) + rng.choice(_JOINTS) if rng.random() < 0.7 else ""
    after = rng.choice(_ENDS)
    if rng.random() < 0.2:
        after = rng.choice(_JOINTS[:6]) + rng.choice(_WORDS) + after
    return before, after


def few_shot(rng: Random, deck: Deck) -> Dialogue | None:
    """One to three examples fix the form of the answer; the last picture is answered in that form."""
    fact = rng.choice(("colour", "shape", "name", "name", "background", "count", "names"))
    value, questions = _FACTS[fact]
    n = rng.choice((2, 2, 3, 3, 4))
    pictures, handles = [], []
    for _ in range(60):
        scene, handle = deck.scene(rng)
        single = fact in ("colour", "shape", "name")
        size = len(scene.objects)
        if (
            (single and size != 1)
            or (fact == "names" and not (1 <= size <= 2 and _clear(scene)))
            or not 0 < size <= 4
        ):
            continue
        pictures.append(scene)
        handles.append(handle)
        if len(pictures) == n:
            break
    else:
        return None
    before, after = _form(rng)
    question = rng.choice(questions)
    answers = [f"{before}{value(s)}{after}".strip() for s in pictures]
    if rng.random() < 0.5:  # real turns
        turns = []
        for i, answer in enumerate(answers):
            parts: tuple[Part, ...] = (i, question) if question else (i,)
            turns.append(Turn(parts, answer, "few-shot" if i else "few-shot example"))
        return Dialogue(tuple(turns), tuple(pictures), tuple(handles))
    # one turn: pictures and answers written down by the person
    key = rng.choice(("Answer:", "A:", "Assistant:", "->", "=", ":", "Label:", "Category:", "Caption:", ""))
    head = rng.choice(
        (
            "",
            "",
            "",
            "Examples:",
            "Do it like this:",
            "Follow the examples.",
            "Instruction: Answer in the same way.",
        )
    )
    parts_: list[Part] = [head] if head else []
    for i, answer in enumerate(answers):
        parts_.append(i)
        line = " ".join(x for x in (question, key) if x)
        last = i == len(answers) - 1
        line = line if last else f"{line} {answer}".strip()
        if line:
            parts_.append(line)
    return Dialogue((Turn(tuple(parts_), answers[-1], "few-shot"),), tuple(pictures), tuple(handles))


def _clear(scene: Scene) -> bool:
    return all(
        not 0.02 < abs(a.x - b.x) < 0.06 for a, b in zip(scene.objects, scene.objects[1:], strict=False)
    )
