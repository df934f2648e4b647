"""Batches give what their prompts give one by one, on every family."""

from __future__ import annotations

import threading
import time
from functools import cache
from typing import Any

import pytest
import tiny_models
import torch
from leaning import leaning
from PIL import Image

from vlm_magic.errors import OptionError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.models.prompts.token_ids import stop_token_ids

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


def test_pictures_of_one_shape_with_more_and_fewer_tokens_keep_their_own_features() -> None:
    """Gemma 4 pads all pixels to one shape; how many of them are a picture's differs."""
    sizes = [(40, 48), (56, 48), (72, 48), (200, 30), (30, 200)]
    asked = [
        [Turn("user", (Picture(None, f"{size}", Image.new("RGB", size, "red")), Text("What is it?")))]
        for size in sizes
    ]
    engine = LocalEngine(tiny_models.tiny("gemma4"))
    together = engine.generate_batch(asked, SHORT)
    assert len({reply.n_picture_tokens for reply in together}) > 1
    alone = [engine.generate(turns, SHORT).token_ids for turns in asked]
    assert [reply.token_ids for reply in together] == alone


def test_a_stop_string_ends_its_row_alone() -> None:
    """The others go on."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    asked = conversations(tiny_models.TINY["idefics3"])
    whole = engine.generate_batch(asked, Settings(max_tokens=12))
    word = whole[0].text[3:5]
    cut = engine.generate_batch(asked, Settings(max_tokens=12, stop=(word,)))
    for before, after in zip(whole, cut, strict=True):
        assert after.text == before.text.partition(word)[0].rstrip()


@pytest.mark.parametrize("name", ["idefics3", "idefics-instruct", "instructblip-t5"])
@pytest.mark.parametrize("limit_s", [0.0, 1.0])
def test_a_time_limit_keeps_what_there_is_of_every_row(name: str, limit_s: float) -> None:
    """Where prompts are computed together, where they are not, and where a decoder answers; it works on."""
    loaded, build = tiny_models.tiny(name), tiny_models.TINY[name]
    engine = LocalEngine(loaded)
    asked = conversations(build)
    whole = engine.generate_batch(asked, SHORT)
    with leaning(loaded.model, stop_token_ids(loaded, Settings()), -1e4, pause_s=0.01):
        began = time.perf_counter()
        replies = engine.generate_batch(asked, Settings(max_tokens=1500, time_limit_s=limit_s))
        took_s = time.perf_counter() - began
    assert [reply.finish_reason for reply in replies] == ["time"] * len(asked)
    assert all((0 < reply.n_new_tokens < 1500) == (limit_s > 0) for reply in replies)
    assert took_s < 10, "1,500 tokens would have taken 15 s and more"
    again = engine.generate_batch(asked, SHORT)
    assert [reply.token_ids for reply in again] == [reply.token_ids for reply in whole]


def test_a_time_limit_holds_for_several_answers_to_one_question() -> None:
    """Which are computed in a way of their own."""
    loaded = tiny_models.tiny("idefics3")
    turns = conversations(tiny_models.TINY["idefics3"])[0]
    with leaning(loaded.model, stop_token_ids(loaded, Settings()), -1e4, pause_s=0.01):
        how = Settings(max_tokens=1500, time_limit_s=1.0, temperature=1.0, seed=1)
        replies = LocalEngine(loaded).generate_several(turns, 3, how)
    assert [reply.finish_reason for reply in replies] == ["time"] * 3
    assert all(0 < reply.n_new_tokens < 1500 for reply in replies)


def test_rows_that_have_ended_leave_and_the_others_say_the_same() -> None:
    """They cost no more forwards; their replies are told at once."""
    loaded = tiny_models.tiny("idefics3")
    engine, end = LocalEngine(loaded), stop_token_ids(loaded, Settings())[0]
    asked = [[Turn("user", (picture(n), Text(f"What is number {n}?")))] for n in range(6)]
    alone = [engine.generate(turns, Settings(max_tokens=20)).token_ids for turns in asked]
    n_rows: list[int] = []

    def end_half(module: Any, args: Any, logits: torch.Tensor) -> torch.Tensor:
        n_rows.append(logits.shape[0])
        changed = logits.clone()
        if len(n_rows) == 4:
            changed[:3, -1, end] += 1e4
        return changed

    handle = engine.model.get_output_embeddings().register_forward_hook(end_half)
    try:
        replies = engine.generate_batch(asked, Settings(max_tokens=20))
    finally:
        handle.remove()
    said = [reply.token_ids for reply in replies]
    assert said[3:] == alone[3:]
    assert all(
        len(ids) < 20 and ids == whole[: len(ids)] for ids, whole in zip(said[:3], alone, strict=False)
    )
    assert n_rows[3] == 6
    assert set(n_rows[6:]) == {3}


def test_rows_longer_than_a_sliding_window_are_read_as_they_are_alone() -> None:
    """Padding between a shared beginning and the rest would move the beginning out of the window."""
    loaded = tiny_models.tiny("gemma3")
    window = loaded.model.config.get_text_config().sliding_window
    asked = [[Turn("user", (picture(0), Text("The same words. " + "so " * n)))] for n in (1, 20, window)]
    engine = LocalEngine(loaded)
    seen: list[torch.Tensor] = []
    handle = engine.model.get_output_embeddings().register_forward_hook(
        lambda module, args, logits: seen.append(logits[:, -1].clone())
    )
    try:
        together = engine.generate_batch(asked, SHORT)
        alone = []
        for turns in asked:
            alone.append(len(seen))
            engine.reuse.clear()
            engine.generate(turns, SHORT)
    finally:
        handle.remove()
    assert together[0].n_prompt_tokens < window < together[-1].n_prompt_tokens
    first = next(logits for logits in seen if len(logits) == len(asked))  # (B, V)
    torch.testing.assert_close(first, torch.cat([seen[at] for at in alone]), atol=1e-4, rtol=1e-3)


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


@pytest.mark.parametrize("name", ["idefics3", "qwen2-vl", "llava"])
def test_so_many_rows_are_computed_at_once_as_a_fifth_of_the_free_memory_holds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured on the caches that a batch really fills; bounded, and never none."""
    from vlm_magic.models import memory
    from vlm_magic.models.caches.prefix_cache import cache_bytes

    engine = LocalEngine(tiny_models.tiny(name))
    turns = conversations(tiny_models.TINY[name])[0]
    with torch.inference_mode():
        inputs = prepare(tiny_models.tiny(name), turns, Settings()).inputs
        out = engine.model.generate(
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, pad_token_id=0
        )
    n_tokens = inputs["input_ids"].shape[1]
    how = Settings(max_tokens=20)
    row_bytes = cache_bytes(out.past_key_values) * (n_tokens + 20) // n_tokens
    for n_rows in (1, 7, 40):
        monkeypatch.setattr(memory, "free_bytes", lambda device, n=n_rows: int((n + 0.5) * row_bytes / 0.2))
        assert engine.rows_at_once(turns, how) == n_rows
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert engine.rows_at_once(turns, how) == 1
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**60)
    assert engine.rows_at_once(turns, how) == 64
