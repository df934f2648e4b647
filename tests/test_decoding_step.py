"""The decode step of our own says what ``generate`` says, whatever is asked, or leaves it to ``generate``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
import tiny_models
import torch
from PIL import Image

import vlm_magic
from vlm_magic.messages import Picture, Reply, Settings, Text, Turn
from vlm_magic.models.caches import growing
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.decoding import batch, shared_batch, single
from vlm_magic.models.decoding.step import (
    blueprint,
    drafts,
    eager,
    figures,
    handover,
    recorded,
    rows,
)
from vlm_magic.models.decoding.step.kernel import compiler, native
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.starter.making.world.scenes import make_scene

STEPPED = {
    "idefics2-base",
    "idefics2-chatty",
    "idefics3",
    "idefics3-tiles",
    "smolvlm",
    "llava",
    "vip-llava",
    "llava-next",
    "llava-onevision",
    "qwen2-vl",
    "qwen2.5-vl",
    "qwen3-vl",
    "gemma3",
    "paligemma",
    "internvl",
    "instructblip",
}
HAS_COMPILER = any(map(shutil.which, ("g++", "clang++")))
COMPILED = {"eager": "no", "native": "yes"} if HAS_COMPILER else {"eager": "no"}
NOISE = Picture(None, "noise", Image.effect_noise((56, 40), 90).convert("RGB"))
SMALL = Picture(None, "small", Image.effect_noise((30, 56), 60).convert("RGB"))
ASK = [Turn("user", (NOISE, Text("what is it? ")))]
ROWS = [
    ASK,
    [Turn("user", (SMALL, Text("what is it, and what is it not? ")))],
    [Turn("user", (NOISE, Text("what? ")))],
]
MANY = Settings(max_tokens=24, log_probabilities=True)


def by_generate(engine: LocalEngine, settings: Settings, turns: list[Turn] = ASK) -> Reply:
    """What plain ``generate`` says, from nothing."""
    can_decode, single.can_decode = single.can_decode, lambda _: False
    try:
        with engine.from_nothing():
            return engine.generate(turns, settings)
    finally:
        single.can_decode = can_decode


def rows_by_generate(engine: LocalEngine, settings: Settings) -> list[Reply]:
    """What plain ``generate`` says to a batch."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (batch, shared_batch):
            patch.setattr(module, "row_options", lambda *_: {})
        return engine.generate_batch(ROWS, settings)


def way_of(engine: LocalEngine) -> str:
    """How the last token was computed."""
    return handover.record_of(engine.model).way


@pytest.fixture
def own_engine() -> Iterator[LocalEngine]:
    """A model that a test may change."""
    engine = LocalEngine(load_model(tiny_models.folder_of("idefics3")))
    yield engine
    engine.close()


def engine_of(name: str, way: str) -> LocalEngine:
    """A tiny build that computes its steps one way."""
    loaded = tiny_models.tiny(name)
    return LocalEngine(replace(loaded, options=replace(loaded.options, compile=COMPILED[way])))


@pytest.mark.parametrize("way", COMPILED)
@pytest.mark.parametrize("name", sorted(tiny_models.TINY))
def test_the_step_is_used_where_a_decoder_is_understood_and_says_the_same(name: str, way: str) -> None:
    """Past Gemma's window as well; log-probabilities but for rounding."""
    engine = engine_of(name, way)
    window = getattr(engine.model.config.get_text_config(), "sliding_window", None) if name == "gemma3" else 0
    settings = replace(MANY, max_tokens=MANY.max_tokens + (window or 0))
    reply, expected = engine.generate(ASK, settings), by_generate(engine, settings)
    assert reply.n_prompt_tokens + reply.n_new_tokens > (window or 0)
    assert reply.token_ids == expected.token_ids
    assert reply.finish_reason == expected.finish_reason
    assert reply.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)
    engine.generate(ASK, MANY)
    assert way_of(engine) == (way if name in STEPPED else "generate"), handover.record_of(engine.model).remark
    assert bool(blueprint.why_not(engine.model)) == (name not in STEPPED)


@pytest.mark.parametrize(
    "settings",
    [
        replace(MANY, temperature=0.9, seed=5),
        replace(MANY, temperature=1.3, top_p=0.8, seed=6),
        replace(MANY, temperature=0.7, top_k=3, repetition_penalty=1.4, seed=7),
        replace(MANY, repetition_penalty=1.7),
        replace(MANY, bad_words=("a", "the", "cat")),
        replace(MANY, max_tokens=1),
        replace(MANY, max_tokens=2),
    ],
    ids=lambda s: f"t{s.temperature}-p{s.top_p}-k{s.top_k}-r{s.repetition_penalty}-n{s.max_tokens}",
)
@pytest.mark.parametrize("way", COMPILED)
@pytest.mark.parametrize("name", ["smolvlm", "qwen2-vl", "gemma3"])
def test_every_setting_does_what_it_does_in_generate(name: str, way: str, settings: Settings) -> None:
    """The same processors in the same order, and the same draws from the same seed."""
    engine = engine_of(name, way)
    reply, expected = engine.generate(ASK, settings), by_generate(engine, settings)
    assert reply.token_ids == expected.token_ids
    assert reply.finish_reason == expected.finish_reason
    assert reply.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)


def test_a_stop_text_and_a_form_hold_in_the_step() -> None:
    engine = LocalEngine(tiny_models.tiny("smolvlm"))
    said = engine.generate(ASK, MANY).text
    stop = Settings(max_tokens=24, stop=(said[4:6],))
    assert engine.generate(ASK, stop).text == by_generate(engine, stop).text == said[: said.index(said[4:6])]
    held = Settings(max_tokens=24, grammar='{"regex": "yes|no|maybe"}')
    assert engine.generate(ASK, held).text == by_generate(engine, held).text


def test_a_context_that_outgrows_its_room_goes_on_in_a_larger_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms of three tokens, so that the answer moves often; the next turn goes on from the last room."""
    monkeypatch.setattr(growing.ConversationCache.layer_class, "growth_tokens", 3)
    engine = LocalEngine(tiny_models.tiny("llava"))
    with engine.from_nothing():
        reply = engine.generate(ASK, MANY)
        turns = [*ASK, Turn("assistant", (Text(reply.text),)), Turn("user", (Text("and now?"),))]
        again = engine.generate(turns, MANY)
    assert reply.token_ids == by_generate(engine, MANY).token_ids
    assert again.n_reused_tokens > reply.n_prompt_tokens
    assert again.token_ids == by_generate(engine, MANY, turns).token_ids


def test_a_step_that_says_something_else_is_found_out_and_never_used(
    own_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family that only looks like one that is understood."""
    step = eager.EagerStep.__call__
    monkeypatch.setattr(eager.EagerStep, "__call__", lambda self, *args: step(self, *args) * 1.1 + 0.01)
    expected = by_generate(own_engine, MANY).token_ids
    for _ in range(2):
        assert own_engine.generate(ASK, MANY).token_ids == expected
        assert way_of(own_engine) == "generate"
    assert handover.record_of(own_engine.model).remark


def test_whoever_listens_in_a_layer_hears_every_token(own_engine: LocalEngine) -> None:
    """A forward hook of a person's own: the step would go past it, so it is not used meanwhile."""
    own_engine.generate(ASK, MANY)
    assert way_of(own_engine) == "eager"
    heard: list[int] = []
    layer = own_engine.model.get_decoder().layers[1].mlp
    handle = layer.register_forward_hook(lambda module, args, out: heard.append(args[0].shape[1]))
    reply = own_engine.generate(ASK, MANY)
    handle.remove()
    assert heard.count(1) >= reply.n_new_tokens - 2
    assert own_engine.generate(ASK, MANY).token_ids == reply.token_ids
    assert way_of(own_engine) == "eager"


def test_weights_trained_in_place_and_adapters_are_answered_with_at_once(own_engine: LocalEngine) -> None:
    """The step reads the weights anew for each answer."""
    peft = pytest.importorskip("peft")
    before = own_engine.generate(ASK, MANY).token_ids
    with torch.no_grad():
        for layer in own_engine.model.get_decoder().layers:
            layer.mlp.down_proj.weight.mul_(-3)
            layer.self_attn.o_proj.weight = torch.nn.Parameter(layer.self_attn.o_proj.weight * -2)
    trained = own_engine.generate(ASK, MANY).token_ids
    assert trained == by_generate(own_engine, MANY).token_ids != before
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    own_engine.model.add_adapter(lora)
    adapted = own_engine.generate(ASK, MANY).token_ids
    assert adapted == by_generate(own_engine, MANY).token_ids
    own_engine.model.disable_adapters()
    assert own_engine.generate(ASK, MANY).token_ids == trained


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler here")
@pytest.mark.parametrize("name", ["smolvlm", "qwen2-vl", "gemma3"])
def test_guesses_from_the_conversations_own_text_change_nothing_but_the_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random model soon repeats itself, so that many guesses are right; the next turn's cache is whole."""
    monkeypatch.setattr(drafts.Pay, "is_worth_it", lambda self: True)
    engine = engine_of(name, "native")
    long = replace(MANY, max_tokens=90)
    engine.generate(ASK, MANY)
    pay = handover.record_of(engine.model).pay
    before = pay.n_accepted
    reply = engine.generate(ASK, long)
    assert reply.token_ids == by_generate(engine, long).token_ids
    if name == "smolvlm":
        assert pay.n_accepted > before + 10
    turns = [*ASK, Turn("assistant", (Text(reply.text),)), Turn("user", (Text("and now?"),))]
    for settings in (long, replace(long, repetition_penalty=1.2), replace(long, max_tokens=7)):
        assert engine.generate(turns, settings).token_ids == by_generate(engine, settings, turns).token_ids


def test_guesses_that_cost_more_than_they_give_are_left_out_for_a_while() -> None:
    pay = drafts.Pay()
    pay.note_single(0.010)
    assert pay.is_worth_it()
    for _ in range(4):
        pay.note_drafted(0.020, 0)
    assert not pay.is_worth_it()
    assert sum(not pay.is_worth_it() for _ in range(200)) > 90
    for _ in range(20):
        pay.note_drafted(0.012, 2)
    assert pay.is_worth_it()
    text = drafts.Drafts([5, 1, 2, 3, 9, 8, 1, 2])
    assert text.next(3) == []
    text.add(3)
    assert text.next(3) == [9, 8, 1]
    assert text.next(1) == [9]


@pytest.mark.parametrize("name", sorted(STEPPED))
def test_a_batch_goes_by_the_step_and_says_what_generate_says(name: str) -> None:
    """Rows of several lengths, with padding before them or behind what they begin with."""
    expected = rows_by_generate(engine_of(name, "eager"), MANY)
    for way in COMPILED:
        engine = engine_of(name, way)
        for _ in range(2):  # proved, then used from the first token
            replies = engine.generate_batch(ROWS, MANY)
            assert [reply.token_ids for reply in replies] == [reply.token_ids for reply in expected]
            assert [reply.finish_reason for reply in replies] == [r.finish_reason for r in expected]
            assert way_of(engine) == way


@pytest.mark.parametrize(
    "settings",
    [
        replace(MANY, temperature=0.9, seed=5),
        replace(MANY, repetition_penalty=1.7, bad_words=("a", "the", "cat")),
        Settings(max_tokens=24, grammar='{"regex": "yes|no|maybe"}'),
        replace(MANY, max_tokens=1),
    ],
    ids=["drawn", "penalised", "held", "one"],
)
@pytest.mark.parametrize("way", COMPILED)
def test_every_setting_does_in_a_batch_what_it_does_in_generate(way: str, settings: Settings) -> None:
    engine = engine_of("qwen2-vl", way)
    expected = rows_by_generate(engine, settings)
    replies = engine.generate_batch(ROWS, settings)
    assert [reply.token_ids for reply in replies] == [reply.token_ids for reply in expected]


@pytest.mark.parametrize("way", COMPILED)
def test_rows_of_a_batch_that_have_ended_leave_the_step(way: str) -> None:
    """A stop text ends one row; the others go on in a cache of fewer rows."""
    engine = engine_of("smolvlm", way)
    said = [reply.text for reply in engine.generate_batch(ROWS, MANY)]
    stop = next(
        text[at : at + 3] for text in said for at in range(2, 9) if _ends_few(said, text[at : at + 3])
    )
    settings = replace(MANY, stop=(stop,))
    replies, expected = engine.generate_batch(ROWS, settings), rows_by_generate(engine, settings)
    assert [reply.text for reply in replies] == [reply.text for reply in expected]
    assert [reply.token_ids for reply in replies] == [reply.token_ids for reply in expected]
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}


def _ends_few(said: list[str], stop: str) -> bool:
    return 0 < sum(stop in text for text in said) < len(said)


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler here")
def test_a_kernel_that_is_slower_than_torch_is_not_used(
    own_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a compiler made of it; the status says why."""
    step = native.NativeStep._step

    def slow(self: native.NativeStep, *args: object) -> torch.Tensor:
        for _ in range(40):
            torch.ones(400, 400) @ torch.ones(400, 400)
        return step(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(native.NativeStep, "_step", slow)
    assert own_engine.loaded is not None
    own_engine.loaded = replace(own_engine.loaded, options=replace(own_engine.loaded.options, compile="yes"))
    expected = by_generate(own_engine, MANY).token_ids
    rows = [reply.token_ids for reply in rows_by_generate(own_engine, MANY)]
    for _ in range(2):
        assert own_engine.generate(ASK, MANY).token_ids == expected
        assert [reply.token_ids for reply in own_engine.generate_batch(ROWS, MANY)] == rows
    assert way_of(own_engine) == "eager"
    assert "slower than torch" in figures.way_words(own_engine.model)


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler here")
def test_everyday_jobs_say_the_same_with_the_kernel_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asked for, the kernel there: what people have from their second answer on."""
    said = {}
    for compiled in ("auto", "no"):
        if compiled == "auto":
            monkeypatch.delenv("VLM_MAGIC_COMPILE", raising=False)
            assert compiler.kernel().library("yes") is not None
        else:
            monkeypatch.setattr(single, "can_decode", lambda _: False)
            monkeypatch.setattr(rows, "can_decode", lambda _: False)
        engine = LocalEngine(load_model("starter", LoadOptions(compile=compiled)))
        said[compiled] = _everyday(engine)
        assert way_of(engine) == ("native" if compiled == "auto" else "generate")
        engine.close()
    assert said["auto"] == said["no"]


def _everyday(engine: LocalEngine) -> list[object]:
    """A talk, a draw, beams, choices, typed answers and a map; the talk last, which goes by single steps."""
    session = vlm_magic.Session(engine)
    drawn = [scene(seed) for seed in range(5)]
    mapped = vlm_magic.map_pictures(engine, "Describe the picture.", drawn, resume=False, progress=False)
    jobs: list[object] = [list(mapped["answer"])]
    jobs += [session.ask("What shape is it?", drawn[0], choices=("circle", "square", "star")).text]
    jobs += [vlm_magic.typed(session, bool, "Is there a circle?", drawn[1])]
    jobs += [session.ask("Describe the picture.", drawn[2], beams=3).text]
    jobs += [session.ask("And this one?", drawn[3], temperature=0.8, seed=3).text]
    for seed, question in enumerate(
        ("Describe the picture.", "What colour is the background?", "Again, please.")
    ):
        jobs.append(session.ask(question, *([drawn[seed]] if seed < 2 else [])).text)
    return jobs


def scene(seed: int) -> Image.Image:
    """A picture of the starter's world."""
    return make_scene(seed, n_objects=1 + seed % 3).picture


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A CPU has steps recorded as a GPU has, though it plays them by computing; grows with each recording."""
    recordings: list[int] = []

    def record(step: recorded.Step) -> recorded.Step:
        recordings.append(1)
        step()  # as a GPU warms up
        return step

    monkeypatch.setattr(recorded, "RECORDERS", {"cpu": record})
    monkeypatch.setattr(handover, "is_faster", lambda *_: True)
    return recordings


def recorded_engine(name: str) -> LocalEngine:
    loaded = tiny_models.tiny(name)
    return LocalEngine(replace(loaded, options=replace(loaded.options, compile="auto")))


@pytest.mark.parametrize("name", sorted(STEPPED))
def test_a_step_that_can_be_recorded_says_what_generate_says(name: str, recording: list[int]) -> None:
    """Alone and in a batch with padding, past Gemma's window and past the cache's room."""
    engine = recorded_engine(name)
    window = getattr(engine.model.config.get_text_config(), "sliding_window", None) if name == "gemma3" else 0
    settings = replace(MANY, max_tokens=MANY.max_tokens + (window or 0))
    expected, rows_expected = by_generate(engine, settings), rows_by_generate(engine, MANY)
    for _ in range(2):  # proved, then used from the first token
        reply = engine.generate(ASK, settings)
        assert way_of(engine) == "recorded"
        assert reply.token_ids == expected.token_ids
        assert reply.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-4)
        replies = engine.generate_batch(ROWS, MANY)
        assert way_of(engine) == "recorded"
        assert [reply.token_ids for reply in replies] == [reply.token_ids for reply in rows_expected]
    assert len(recording) >= 4
    assert "recorded" in figures.way_words(engine.model)


def test_a_recorded_step_is_recorded_anew_in_larger_rooms_and_for_other_weights(
    recording: list[int], own_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing._ConversationLayer, "growth_tokens", 7)
    settings = replace(MANY, max_tokens=40)
    expected = by_generate(own_engine, settings)
    assert own_engine.generate(ASK, settings).token_ids == expected.token_ids
    assert len(recording) >= 5
    with torch.no_grad():
        own_engine.model.get_output_embeddings().weight.mul_(-1)
    expected = by_generate(own_engine, settings)
    assert own_engine.generate(ASK, settings).token_ids == expected.token_ids
    assert way_of(own_engine) == "recorded"


def test_a_step_that_cannot_be_recorded_is_computed_by_torch(
    own_engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For good where it never could be; for this answer where only its memory is short."""
    is_short = False

    def record(step: recorded.Step) -> recorded.Step:
        if is_short:
            raise RuntimeError("operation not permitted when stream is capturing")
        return step

    monkeypatch.setattr(recorded, "RECORDERS", {"cpu": record})
    monkeypatch.setattr(handover, "is_faster", lambda *_: True)
    expected = by_generate(own_engine, MANY).token_ids
    own_engine.generate(ASK, MANY)
    assert way_of(own_engine) == "recorded"
    is_short = True
    assert own_engine.generate(ASK, MANY).token_ids == expected
    is_short = False
    assert own_engine.generate(ASK, MANY).token_ids == expected
    assert way_of(own_engine) == "recorded"
    other = LocalEngine(load_model(tiny_models.folder_of("idefics3")))
    is_short = True
    for _ in range(2):
        assert other.generate(ASK, MANY).token_ids == expected
    assert way_of(other) == "eager"


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler here")
def test_a_recorded_step_holds_nothing_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler takes the whole step as one graph, once, as a CUDA graph would; there is no GPU here."""
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(1)
        return graph.forward

    def record(step: recorded.Step) -> recorded.Step:
        torch._dynamo.reset()
        return torch.compile(step, backend=count, fullgraph=True, dynamic=False)

    monkeypatch.setattr(recorded, "RECORDERS", {"cpu": record})
    monkeypatch.setattr(handover, "is_faster", lambda *_: True)
    engine = recorded_engine("idefics3")
    expected = by_generate(engine, MANY).token_ids
    assert engine.generate(ASK, MANY).token_ids == expected
    assert way_of(engine) == "recorded"
    assert sum(graphs) == 1, "the same for every token"
