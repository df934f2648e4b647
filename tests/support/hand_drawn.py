"""Pictures drawn by hand with PIL, and sixty questions about them in a person's own words.

No generator drew them and no wording of training was written with them in view. Each question has one right
answer, in the starter's own form, or a few that mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageDraw

__all__ = ["PICTURES", "SIXTY"]


def _canvas(
    size: tuple[int, int] = (240, 240), ground: str = "white"
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", size, ground)
    return picture, ImageDraw.Draw(picture)


def _ball(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: str) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _box(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: str) -> None:
    draw.rectangle((x - r, y - r, x + r, y + r), fill=fill)


def _tent(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: str) -> None:
    draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)


def _star(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: str) -> None:
    points = []
    for k in range(10):
        reach = r if k % 2 == 0 else 0.42 * r
        points.append((x + reach * math.sin(k * math.pi / 5), y - reach * math.cos(k * math.pi / 5)))
    draw.polygon(points, fill=fill)


def _gem(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: str) -> None:
    draw.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=fill)


def _plus(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, fill: str) -> None:
    draw.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=fill)
    draw.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=fill)


def _ball_over_box() -> Image.Image:
    picture, draw = _canvas()
    _ball(draw, 120, 65, 35, "red")
    _box(draw, 120, 175, 40, "yellow")
    return picture


def _small_star() -> Image.Image:
    picture, draw = _canvas()
    _star(draw, 70, 70, 24, "blue")
    _ball(draw, 170, 160, 40, "green")
    return picture


def _big_star() -> Image.Image:
    picture, draw = _canvas()
    _star(draw, 130, 130, 75, "blue")
    return picture


def _one_box() -> Image.Image:
    picture, draw = _canvas((300, 200))
    _box(draw, 80, 100, 40, "purple")
    return picture


def _four_things() -> Image.Image:
    picture, draw = _canvas((280, 280))
    _ball(draw, 60, 60, 32, "red")
    _tent(draw, 210, 70, 36, "green")
    _box(draw, 70, 210, 34, "blue")
    _star(draw, 205, 205, 40, "orange")
    return picture


def _before() -> Image.Image:
    picture, draw = _canvas((260, 200))
    _ball(draw, 60, 100, 36, "red")
    _gem(draw, 190, 100, 42, "green")
    return picture


def _after_loss() -> Image.Image:
    picture, draw = _canvas((260, 200))
    _ball(draw, 60, 100, 36, "red")
    return picture


def _after_repaint() -> Image.Image:
    picture, draw = _canvas((260, 200))
    _ball(draw, 60, 100, 36, "blue")
    _gem(draw, 190, 100, 42, "green")
    return picture


def _three_reds() -> Image.Image:
    picture, draw = _canvas((330, 130))
    _ball(draw, 60, 65, 30, "red")
    _box(draw, 165, 65, 30, "red")
    _tent(draw, 270, 65, 32, "red")
    return picture


def _odd_box() -> Image.Image:
    picture, draw = _canvas((330, 130))
    _ball(draw, 60, 65, 30, "blue")
    _ball(draw, 165, 65, 30, "blue")
    _box(draw, 270, 65, 30, "blue")
    return picture


def _crosses() -> Image.Image:
    picture, draw = _canvas((250, 250), "lightgrey")
    _plus(draw, 70, 190, 38, "black")
    _plus(draw, 180, 60, 38, "black")
    return picture


def _night() -> Image.Image:
    picture, draw = _canvas((320, 240), "black")
    _star(draw, 160, 60, 40, "yellow")
    _tent(draw, 160, 180, 44, "green")
    return picture


def _bars() -> Image.Image:
    picture, draw = _canvas((320, 240))
    for x, height, fill in ((60, 80, "red"), (140, 160, "blue"), (220, 115, "green")):
        draw.rectangle((x, 205 - height, x + 50, 205), fill=fill)
    draw.line((40, 20, 40, 205, 300, 205), fill="black", width=2)
    return picture


def _stick_man() -> Image.Image:
    picture, draw = _canvas()
    draw.ellipse((95, 25, 145, 75), outline="black", width=4)
    for line in (
        (120, 75, 120, 150),
        (120, 95, 75, 125),
        (120, 95, 165, 125),
        (120, 150, 85, 215),
        (120, 150, 155, 215),
    ):
        draw.line(line, fill="black", width=4)
    return picture


def _scribble() -> Image.Image:
    picture, draw = _canvas()
    points = [
        (120 + 90 * math.sin(1.7 * t) * math.cos(t), 120 + 90 * math.sin(t))
        for t in [k / 9 for k in range(120)]
    ]
    draw.line(points, fill="darkblue", width=3)
    return picture


def _heart() -> Image.Image:
    picture, draw = _canvas()
    draw.pieslice((55, 55, 125, 125), 180, 360, fill="red")
    draw.pieslice((115, 55, 185, 125), 180, 360, fill="red")
    draw.polygon([(55, 90), (185, 90), (120, 190)], fill="red")
    return picture


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "ball over box": _ball_over_box,
    "small star": _small_star,
    "big star": _big_star,
    "one box": _one_box,
    "four things": _four_things,
    "before": _before,
    "after loss": _after_loss,
    "after repaint": _after_repaint,
    "three reds": _three_reds,
    "odd box": _odd_box,
    "crosses": _crosses,
    "night": _night,
    "bars": _bars,
    "stick man": _stick_man,
    "scribble": _scribble,
    "heart": _heart,
}

SIXTY: tuple[tuple[tuple[str, ...], str, tuple[str, ...]], ...] = (
    # one picture
    (("ball over box",), "What's below the red circle?", ("a yellow square",)),
    (("ball over box",), "what is on top of the yellow square", ("a red circle",)),
    (("ball over box",), "Which one sits higher, the circle or the square?", ("the red circle",)),
    (("ball over box",), "Is there anything under the yellow square? What is it?", ("nothing", "no")),
    (("night",), "What is underneath the star?", ("a green triangle",)),
    (("night",), "What's above the green triangle?", ("a yellow star",)),
    (("night",), "How many colours do the shapes have?", ("2",)),
    (("night",), "what colour's the sky behind the star", ("black",)),
    (("three reds",), "Are all the shapes the same colour?", ("yes",)),
    (("three reds",), "All the same shape?", ("no",)),
    (("three reds",), "How many colours are used?", ("1",)),
    (("three reds",), "What's to the right of the square?", ("a red triangle",)),
    (("odd box",), "Which is the odd one out?", ("the blue square",)),
    (("odd box",), "One of these is different from the others. Which one?", ("the blue square",)),
    (("odd box",), "Do they all have the same color?", ("yes",)),
    (("crosses",), "Are both shapes the same colour?", ("yes",)),
    (("crosses",), "How many crosses have I drawn?", ("2",)),
    (("four things",), "Are these all the same color?", ("no",)),
    (("four things",), "How many different colors do you see?", ("4",)),
    (("four things",), "What's in the bottom right corner?", ("an orange star",)),
    (("four things",), "What is below the red circle?", ("a blue square",)),
    (("four things",), "What do you see beside the blue square?", ("an orange star", "a red circle")),
    (("four things",), "which is lower, the star or the triangle?", ("the orange star",)),
    (("bars",), "Which colour wins?", ("the blue bar", "blue")),
    (("bars",), "Which bar is the lowest?", ("the red bar",)),
    (("bars",), "Put the bars in order, tallest first.", ("blue, green, red", "blue, green and red")),
    (("bars",), "How many bars are there?", ("3",)),
    # two and three pictures
    (("small star", "big star"), "Which picture has the bigger star?", ("the second",)),
    (("small star", "big star"), "In which picture is the star smaller?", ("the first",)),
    (("small star", "big star"), "Do both have a star?", ("yes",)),
    (("small star", "big star"), "Do both pictures have a circle?", ("no",)),
    (("small star", "big star"), "What do they have in common?", ("Both have a blue star.",)),
    (("small star", "big star"), "Which one is emptier?", ("the second",)),
    (("one box", "four things"), "Which picture has more shapes?", ("the second",)),
    (("one box", "four things"), "Which one is more crowded?", ("the second",)),
    (("one box", "four things"), "Which has fewer objects?", ("the first",)),
    (("one box", "four things"), "How many shapes are there altogether?", ("5",)),
    (
        ("one box", "four things"),
        "How many shapes are in each picture?",
        ("1 in the first, 4 in the second",),
    ),
    (("one box", "four things"), "First or second image: where's the star?", ("the second",)),
    (("one box", "four things"), "Is there a diamond in either of them?", ("no",)),
    (("four things", "one box"), "Is there a square in both?", ("yes",)),
    (("before", "after loss"), "What's missing in the second picture?", ("The green diamond disappeared.",)),
    (("before", "after loss"), "what disappeared", ("The green diamond disappeared.",)),
    (("before", "after loss"), "Same or different?", ("different",)),
    (("before", "before"), "Are they the same or different?", ("same",)),
    (("before", "before"), "What changed?", ("Nothing changed.",)),
    (("after loss", "before"), "What's new?", ("A green diamond appeared.",)),
    (("after loss", "before"), "What was added?", ("A green diamond appeared.",)),
    (("before", "after repaint"), "What has changed here?", ("The red circle became blue.",)),
    (("before", "after repaint"), "How many circles altogether?", ("2",)),
    (("one box", "small star", "four things"), "Which of the three has the most shapes?", ("the third",)),
    (("one box", "small star", "four things"), "How many shapes are there in all three?", ("7",)),
    (("big star", "small star", "one box"), "Which one has the square?", ("the third",)),
    # beyond its world
    (("stick man",), "Who is this?", ("I don't know.",)),
    (("stick man",), "Is this a man or a woman?", ("I don't know.",)),
    (("scribble",), "What is this?", ("I don't know.",)),
    (("heart",), "What shape is this?", ("I don't know.",)),
    (("ball over box",), "Who drew this?", ("I don't know.",)),
    (("four things",), "What does the star taste like?", ("I don't know.",)),
    (("night",), "Where was this picture taken?", ("I don't know.",)),
)
