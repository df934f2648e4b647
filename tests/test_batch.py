"""Batches give what their prompts give one by one, on every family."""

from __future__ import annotations

import threading
from functools import cache

import pytest
import tiny_models
import torch
from PIL import Image

from vlm_magic.errors import OptionError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loading import load_model

SHORT = Settings(max_tokens=6)


@pytest.fixture(scope="module", params=sorted(tiny_models.TINY))
def build(request: pytest.FixtureRequest) -> tiny_models.Tiny:
    torch.set_num_threads(1)
    return tiny_models.TINY[request.param]


@pytest.fixture(scope="module")
def engine(build: tiny_models.Tiny) -> LocalEngine:
    return LocalEngine(tiny_models.tiny(build.name))


@cache
def picture(n: int) -> Picture:
    image = Image.effect_noise((40 + 16 * n, 48), 80).convert("RGB")
    return Picture(None, f"p{n}", image)


def conversations(build: tiny_models.Tiny) -> list[list[Turn]]:
    """One picture, two pictures, none, a follow-up: as far as the family takes them."""
    found = [
        [Turn("user", (picture(0), Text("What is it?")))],
        [Turn("user", (picture(1), Text("And this, said at some length, what may that be?")))],
    ]
    if build.max_pictures is None:
        found.append([Turn("user", (picture(0), Text("or "), picture(2), Text("?")))])
    if not build.needs_picture:
        found.append([Turn("user", (Text("Nothing to see."),))])
    return found


def test_a_batch_says_what_its_prompts_say_one_by_one(build: tiny_models.Tiny, engine: LocalEngine) -> None:
    """Greedy tokens and counts alike; different numbers of pictures in one batch."""
    asked = conversations(build)
    together = engine.generate_batch(asked, SHORT)
    for turns, reply in zip(asked, together, strict=True):
        alone = engine.generate(turns, SHORT)
        assert reply.token_ids == alone.token_ids
        assert (reply.text, reply.finish_reason) == (alone.text, alone.finish_reason)
        assert (reply.n_prompt_tokens, reply.n_picture_tokens) == (
            alone.n_prompt_tokens,
            alone.n_picture_tokens,
        )


def test_a_stop_string_ends_its_row_alone() -> None:
    """The others go on."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    asked = conversations(tiny_models.TINY["idefics3"])
    whole = engine.generate_batch(asked, Settings(max_tokens=12))
    word = whole[0].text[3:5]
    cut = engine.generate_batch(asked, Settings(max_tokens=12, stop=(word,)))
    for before, after in zip(whole, cut, strict=True):
        assert after.text == before.text.partition(word)[0].rstrip()


def test_a_time_limit_keeps_what_there_is_of_every_row() -> None:
    """And the engine works on."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    asked = conversations(tiny_models.TINY["idefics3"])
    replies = engine.generate_batch(asked, Settings(max_tokens=1500, time_limit_s=0.3))
    assert {reply.finish_reason for reply in replies} <= {"time", "stop"}
    assert engine.generate_batch(asked, SHORT)[0].n_new_tokens > 0


def test_unloading_stops_a_batch() -> None:
    """From another thread."""
    engine = LocalEngine(load_model(tiny_models.folder_of("idefics3")))
    asked = conversations(tiny_models.TINY["idefics3"])
    threading.Timer(0.3, engine.close).start()
    replies = engine.generate_batch(asked, Settings(max_tokens=1900))
    assert len(replies) == len(asked)


def test_several_answers_come_from_sampling_or_from_beams() -> None:
    """Greedy ones would all be the same, and that is said."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    turns = conversations(tiny_models.TINY["idefics3"])[2]
    drawn = engine.generate_several(turns, 4, Settings(max_tokens=8, temperature=3.0, seed=1))
    assert len({reply.token_ids for reply in drawn}) > 1
    again = engine.generate_several(turns, 4, Settings(max_tokens=8, temperature=3.0, seed=1))
    assert [r.token_ids for r in again] == [r.token_ids for r in drawn]
    beams = engine.generate_several(turns, 3, Settings(max_tokens=8, beams=3))
    assert len({reply.token_ids for reply in beams}) == 3
    assert beams[0].token_ids == engine.generate(turns, Settings(max_tokens=8, beams=3)).token_ids
    assert {reply.n_picture_tokens for reply in beams} == {drawn[0].n_picture_tokens}
    with pytest.raises(OptionError, match="all be the same"):
        engine.generate_several(turns, 2, SHORT)
