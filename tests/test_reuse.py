"""Neither reuse nor our decode step changes an answer: random conversations, and plain ``generate``.

``VLM_MAGIC_CONVERSATIONS=200`` in the environment makes the property test longer.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import tiny_models
import torch
from PIL import Image

from vlm_magic.messages import Part, Picture, Progress, Reply, Settings, Text, Turn
from vlm_magic.models.caches.reuse import Reuse
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding import single
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts.families import FAMILIES
from vlm_magic.models.prompts.prepare import prepare

ABLE = [
    name
    for name, build in tiny_models.TINY.items()
    if any(build.model_type in family.model_types and family.reuse != "none" for family in FAMILIES)
]
N_CONVERSATIONS = int(os.environ.get("VLM_MAGIC_CONVERSATIONS", "5"))  # pairs of interleaved chats
SHORT = Settings(max_tokens=6)
WATCHED = Settings(max_tokens=6, log_probabilities=True)


@pytest.fixture(scope="module", params=ABLE)
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(tiny_models.tiny(request.param))


def picture(seed: int) -> Picture:
    rng = random.Random(seed)
    size = (rng.choice((40, 56, 90)), rng.choice((40, 64)))
    image = (
        Image.effect_noise(size, 90).convert("RGB")
        if seed % 2
        else Image.new("RGB", size, (seed * 40 % 255, 9, 99))
    )
    return Picture(None, f"p{seed}", image)


PICTURES = [picture(seed) for seed in range(4)]


def without_reuse(engine: LocalEngine, turns: list[Turn], settings: Settings) -> Reply:
    """The same model with stores that keep nothing, and every token by ``generate``."""
    reuse, engine.reuse = engine.reuse, Reuse(engine.reuse._loaded, max_bytes=0)
    engine.reuse._is_able = False
    can_decode, single.can_decode = single.can_decode, lambda _: False
    try:
        return engine.generate(turns, settings)
    finally:
        engine.reuse, single.can_decode = reuse, can_decode


def with_kernel(loaded: Loaded) -> Loaded:
    """The same model, its steps computed by the kernel where this machine can build it."""
    return replace(loaded, options=replace(loaded.options, compile="yes"))


def question(rng: random.Random, build: tiny_models.Tiny, n_shown: int) -> Turn:
    """Words with up to two pictures somewhere among them, as far as the build takes them."""
    parts: list[Part] = [Text(rng.choice(("what is it? ", "and this one? ", "how many? ", "describe ")))]
    n_pictures = rng.choice((0, 0, 1, 1, 2))
    if build.max_pictures is not None or build.needs_picture:
        n_pictures = max(n_pictures, n_shown == 0)  # these want one to begin with
    if build.max_pictures is not None:
        n_pictures = min(n_pictures, build.max_pictures - n_shown)
    for _ in range(n_pictures):
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(PICTURES))
    return Turn("user", tuple(parts))


def stop_somewhere(engine: LocalEngine, turns: list[Turn], rng: random.Random) -> None:
    """Before anything, in the prompt, or after some words."""
    generation = engine.start(turns, Settings(max_tokens=50))
    n_chunks = rng.choice((0, 0, 1, 3))
    for n, _ in enumerate(generation):
        if n + 1 >= n_chunks:
            break
    generation.stop()
    generation.wait(60)


@pytest.mark.timeout(60 + 120 * N_CONVERSATIONS)
@pytest.mark.parametrize("name", sorted(tiny_models.TINY))
def test_tokens_are_identical_over_random_conversations(name: str) -> None:
    """Edits, regenerates, stops, two interleaved chats; greedy, float32; logs within rounding."""
    torch.set_num_threads(1)
    build = tiny_models.TINY[name]
    engine = LocalEngine(with_kernel(tiny_models.tiny(name)))
    n_reused = n_asked = n_stopped = 0
    drift = 0.0
    for seed in range(N_CONVERSATIONS):
        rng = random.Random(seed)
        chats: list[list[Turn]] = [[], []]
        for _ in range(5):
            chat = rng.choice(chats)
            action = rng.choice(("ask", "ask", "ask", "again", "edit", "stop"))
            if action in ("again", "edit") and len(chat) >= 2:
                del chat[-2 if action == "again" else rng.randrange(0, len(chat), 2) :]
            n_shown = sum(len(turn.pictures) for turn in chat)
            turns = [*chat, question(rng, build, n_shown)]
            if action == "stop":
                stop_somewhere(engine, turns, rng)
                n_stopped += 1
            reply = engine.generate(turns, WATCHED)
            expected = without_reuse(engine, turns, WATCHED)
            assert reply.token_ids == expected.token_ids
            pairs = zip(reply.log_probabilities, expected.log_probabilities, strict=True)
            drift = max([drift, *(abs(a - b) for a, b in pairs)])
            n_reused += reply.n_reused_tokens
            n_asked += 1
            chat[:] = [*turns, Turn("assistant", (Text(reply.text or "yes"),))]
    assert drift < 1e-4
    assert engine.reuse.is_able == (name in ABLE), "the prompts made from looks are those of the processor"
    assert (n_reused > 0) == (name in ABLE), "nothing was reused, so nothing was tested"
    print(
        f"\n{name}: {2 * N_CONVERSATIONS} conversations, {n_asked} answers, {n_stopped} stops, "
        f"{n_reused} tokens reused, log-probabilities differ by {drift:.1e} at most"
    )


def test_a_prompt_prefilled_in_pieces_gives_the_same_tokens_and_tells_how_far_it_is(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the family allows it; pieces end inside pictures as well."""
    assert engine.loaded is not None
    turns = [Turn("user", (PICTURES[0], Text("what is it? "), PICTURES[1], Text("and this one? ")))]
    whole = without_reuse(engine, turns, SHORT).token_ids
    monkeypatch.setattr(single, "PREFILL_CHUNK_TOKENS", 8)
    engine.reuse.clear()
    seen: list[Progress] = []
    reply = engine.start(turns, SHORT, on_progress=seen.append).wait(30)
    assert reply is not None
    assert reply.token_ids == whole
    done = [p.done for p in seen if p.stage == "prefill"]
    assert done == sorted(done)
    assert (len(done) > 2) == engine.loaded.family.is_chunkable
    assert all(p.total == reply.n_prompt_tokens for p in seen if p.stage == "prefill")


def test_forgetting_waits_for_the_answer_that_needs_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for between a prompt's preparation and its pictures' features, it takes nothing away from it."""
    engine = LocalEngine(tiny_models.tiny(ABLE[0]))
    turns = [Turn("user", (picture(80), Text("what is it? ")))]
    expected = without_reuse(engine, turns, SHORT).token_ids
    held: list[int] = []
    forgetting = threading.Thread(target=lambda: held.append(engine.forget()))
    prepare_really = engine.reuse.prepare

    def prepare_and_forget(turns: Sequence[Turn], settings: Settings) -> Prepared:
        prepared = prepare_really(turns, settings)
        forgetting.start()
        forgetting.join(0.3)
        return prepared

    monkeypatch.setattr(engine.reuse, "prepare", prepare_and_forget)
    assert engine.generate(turns, SHORT).token_ids == expected
    forgetting.join(30)
    assert held[0] > 0
    assert engine.reuse.n_bytes == 0


@pytest.mark.parametrize("n_layers", range(1, 8))
def test_a_stop_at_any_layer_leaves_the_stores_whole(engine: LocalEngine, n_layers: int) -> None:
    """In the vision tower, in prefill, in decode: the next answer is right."""
    turns = [Turn("user", (picture(90 + n_layers), Text("what is it? ")))]
    right = without_reuse(engine, turns, SHORT).token_ids
    stacks = [m for m in engine.model.modules() if isinstance(m, torch.nn.ModuleList)]
    seen: list[int] = []
    generation = None

    def stop(*_: object) -> None:
        seen.append(1)
        if len(seen) == n_layers and generation is not None:
            generation.stop()

    handles = [layer.register_forward_hook(stop) for stack in stacks for layer in stack]
    generation = engine.start(turns, Settings(max_tokens=200))
    reply = generation.wait(30)
    for handle in handles:
        handle.remove()
    assert reply is not None
    assert reply.finish_reason in ("interrupted", "stop")
    assert engine.generate(turns, SHORT).token_ids == right


@pytest.fixture
def own_engine() -> Iterator[LocalEngine]:
    """A model that a test may change, with a prompt in its stores."""
    engine = LocalEngine(load_model(tiny_models.folder_of("idefics3")))
    engine.generate(ASK, SHORT)
    assert engine.generate(ASK, SHORT).n_reused_tokens > 0
    yield engine
    engine.close()


ASK = [Turn("user", (PICTURES[1], Text("what is it? ")))]


def test_weights_that_were_trained_are_never_answered_for_from_the_store(own_engine: LocalEngine) -> None:
    """A step of an optimizer between two questions."""
    before = own_engine.generate(ASK, SHORT).token_ids
    inputs = prepare(own_engine.loaded, ASK, Settings()).inputs
    own_engine.model(**inputs).logits.square().mean().backward()
    torch.optim.SGD(own_engine.model.parameters(), lr=30.0).step()
    reply = own_engine.generate(ASK, SHORT)
    assert reply.n_reused_tokens == 0
    assert reply.token_ids == without_reuse(own_engine, ASK, SHORT).token_ids != before


def test_an_adapter_that_comes_or_is_switched_off_empties_the_stores(own_engine: LocalEngine) -> None:
    """PEFT puts it into the same model."""
    peft = pytest.importorskip("peft")
    before = own_engine.generate(ASK, SHORT).token_ids
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    own_engine.model.add_adapter(lora)
    adapted = own_engine.generate(ASK, SHORT)
    assert adapted.n_reused_tokens == 0
    assert adapted.token_ids == without_reuse(own_engine, ASK, SHORT).token_ids
    own_engine.model.disable_adapters()
    off = own_engine.generate(ASK, SHORT)
    assert off.n_reused_tokens == 0
    assert off.token_ids == before


def test_other_settings_of_the_processor_make_other_looks(own_engine: LocalEngine) -> None:
    """Pictures are cut up anew; set back, the answer is the one from before."""
    before = own_engine.generate(ASK, SHORT)
    own_engine.processor.image_processor.do_image_splitting = True
    split = own_engine.generate(ASK, SHORT)
    assert split.n_reused_tokens == 0
    assert split.n_picture_tokens > before.n_picture_tokens
    assert split.token_ids == without_reuse(own_engine, ASK, SHORT).token_ids
    own_engine.processor.image_processor.do_image_splitting = False
    assert own_engine.generate(ASK, SHORT).token_ids == before.token_ids


def test_a_processor_that_joins_pictures_in_its_own_way_is_left_to_do_so() -> None:
    """What it makes of two pictures is not what it makes of each: the first such prompt finds out."""
    engine = LocalEngine(load_model(tiny_models.folder_of("idefics3")))
    processor = engine.processor
    own = processor.replace_image_token
    processor.replace_image_token = lambda *args, image_idx=0, **more: (
        own(*args, image_idx=image_idx, **more) + " and " * image_idx
    )
    one = [Turn("user", (PICTURES[0], Text("What?")))]
    two = [Turn("user", (PICTURES[0], PICTURES[1], Text("What?")))]
    engine.generate(one, SHORT)
    assert engine.reuse.is_able
    for turns in (two, one, two):
        reply = engine.generate(turns, SHORT)
        assert not engine.reuse.is_able
        assert reply.n_prompt_tokens == engine.bill(turns).n_tokens
        assert reply.token_ids == without_reuse(engine, turns, SHORT).token_ids
    engine.close()
