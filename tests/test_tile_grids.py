"""What people are told of tiles is what the processor made."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_models import folder_of, tiny

from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.models.prompts.tile_grids import tile_grids

torch.set_num_threads(1)


def grids(loaded: Loaded, *sizes: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    pictures = [Picture(None, "p", Image.new("RGB", size, "red"), str(size)) for size in sizes]
    turns = [Turn("user", (*pictures, Text("What?")))]
    return tile_grids(loaded, prepare(loaded, turns, Settings()), turns)


@pytest.mark.parametrize(
    ("name", "wide", "tall"),
    [
        ("idefics3-tiles", (1, 2), (2, 1)),
        ("smolvlm", (1, 2), (2, 1)),
        ("llava-next", (1, 2), (2, 1)),
        ("llava-onevision", (1, 2), (2, 1)),
        ("mllama", (1, 2), (2, 1)),
        ("internvl", (1, 2), (2, 1)),
    ],
)
def test_wide_and_tall_pictures_are_cut_their_way(
    name: str, wide: tuple[int, int], tall: tuple[int, int]
) -> None:
    assert grids(tiny(name), (64, 32)) == (wide,)
    assert grids(tiny(name), (32, 64)) == (tall,)


@pytest.mark.parametrize(
    "name", ["idefics2-chatty", "idefics3", "llava", "qwen2-vl", "gemma3", "paligemma", "blip-2"]
)
def test_what_is_shown_whole_has_one_tile(name: str) -> None:
    assert grids(tiny(name), (64, 32)) == ((1, 1),)


def test_idefics2_cuts_into_quarters() -> None:
    loaded = load_model(folder_of("idefics2-chatty"), LoadOptions(splitting=True))
    assert grids(loaded, (64, 48), (48, 64)) == ((2, 2), (2, 2))


def test_onevision_shows_several_pictures_whole() -> None:
    assert grids(tiny("llava-onevision"), (64, 32), (32, 64)) == ((1, 1), (1, 1))
