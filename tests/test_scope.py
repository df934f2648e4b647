"""Drawings are told from photographs, and the starter says once that it does not know the latter."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

import vlm_magic
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.starter.making.world.scenes import make_scene
from vlm_magic.starter.scope import REMARK, looks_drawn


def photograph(seed: int) -> Image.Image:
    """Shading at every scale, as light on real things makes it."""
    rng = np.random.default_rng(seed)
    total = np.zeros((240, 320, 3))
    for octave in range(1, 7):
        noise = rng.normal(size=(3, 3 * 2**octave, 4 * 2**octave)).astype(np.float32)
        layers = [np.asarray(Image.fromarray(n).resize((320, 240), Image.Resampling.BICUBIC)) for n in noise]
        total += np.stack(layers, axis=-1) / 2**octave
    total = (total - total.min()) / (total.max() - total.min())
    return Image.fromarray((total * 255).astype(np.uint8))


def test_nearly_all_drawn_scenes_look_drawn_and_no_photograph_does() -> None:
    """Noise, outlines and JPEG artefacts included."""
    assert sum(looks_drawn(make_scene(seed).picture) for seed in range(60)) >= 58
    assert not any(looks_drawn(photograph(seed)) for seed in range(20))


@pytest.mark.parametrize("size", [(64, 64), (900, 300), (1500, 1500)])
def test_a_hand_drawn_scene_of_any_size_looks_drawn(size: tuple[int, int]) -> None:
    """Sharp edges, plain ground."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((size[0] // 8, size[1] // 8, size[0] // 2, size[1] // 2), fill="red", outline="black")
    draw.rectangle((size[0] // 2, size[1] // 2, size[0] - 5, size[1] - 5), fill="blue")
    assert looks_drawn(image)


def test_the_starter_says_once_that_photographs_are_beyond_it() -> None:
    """In the notes of the reply, not in its words; drawings do not bring it up."""
    session = vlm_magic.Session(LocalEngine(load_model("starter")), max_tokens=3)
    drawn = session.ask("What is it? ", make_scene(1).picture)
    first = session.ask("What is it? ", photograph(1))
    again = session.ask("And this? ", photograph(2))
    assert [REMARK in reply.notes for reply in (drawn, first, again)] == [False, True, False]
    assert REMARK not in first.text


def test_grain_of_few_shades_is_no_drawing() -> None:
    """A dithered photograph has two shades and no flat place."""
    noise = np.random.default_rng(1).integers(0, 2, (256, 256), dtype=np.uint8) * 255
    assert not looks_drawn(Image.fromarray(noise).convert("RGB"))
