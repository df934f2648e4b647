"""The local engine with the real starter: streaming, stopping, limits, sampling, beams, errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from tiny_models import folder_of

from vlm_magic.errors import ContextLengthError, GenerationError, ModelError
from vlm_magic.messages import Picture, Progress, Reply, Settings, Text, Turn
from vlm_magic.models import resident
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import prepare


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    torch.set_num_threads(1)
    engine = LocalEngine(load_model("starter"))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def circle() -> Picture:
    image = Image.new("RGB", (160, 120), "white")
    ImageDraw.Draw(image).ellipse((50, 30, 110, 90), fill="red")
    return Picture(None, "circle", image, "circle")


def ask(*parts: Text | Picture) -> list[Turn]:
    return [Turn("user", tuple(parts))]


@pytest.fixture(scope="module")
def question(circle: Picture) -> list[Turn]:
    return ask(Text("Describe "), circle, Text("."))


@pytest.fixture
def endless(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    """The same model without an end token: it talks until it is stopped."""
    monkeypatch.setattr(token_ids, "stop_token_ids", lambda loaded, settings: [])
    return engine


def test_streaming_waiting_and_asking_again_say_the_same(engine: LocalEngine, question: list[Turn]) -> None:
    """Greedy: the same question gives the same answer."""
    chunks = list(engine.stream(question))
    streamed = "".join(chunk.text for chunk in chunks)
    reply = engine.generate(question)
    assert chunks[-1].reply is not None
    assert streamed == chunks[-1].reply.text == reply.text
    assert chunks[-1].reply.token_ids == reply.token_ids


def test_the_reply_is_what_the_plain_recipe_gives(engine: LocalEngine, question: list[Turn]) -> None:
    """Template, processor and generate, as the guides show."""
    processor, model = engine.processor, engine.model
    blocks = [
        {"type": "text", "text": "Describe "},
        {"type": "image"},
        {"type": "text", "text": "."},
    ]
    prompt = processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=[question[0].pictures[0].rgb], return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=512, do_sample=False)
    plain = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert engine.generate(question).text == plain


def test_the_figures_add_up(engine: LocalEngine, question: list[Turn]) -> None:
    """Tokens of the prompt, of the pictures and of the answer; seconds."""
    bill = engine.bill(question)
    reply = engine.generate(question)
    assert reply.n_prompt_tokens == bill.n_tokens
    assert reply.n_picture_tokens == sum(bill.picture_tokens) > 0
    assert reply.finish_reason == "stop"
    assert reply.n_new_tokens == len(reply.token_ids) + 1, "the end token is counted, not kept"
    assert 0 < reply.ttft_s <= reply.total_s
    assert reply.tokens_per_s == pytest.approx((reply.n_new_tokens - 1) / (reply.total_s - reply.ttft_s))
    assert reply.model == "starter"


def test_the_most_tokens_is_a_limit(engine: LocalEngine, question: list[Turn]) -> None:
    """And the beginning is the same."""
    whole = engine.generate(question)
    cut = engine.generate(question, Settings(max_tokens=2))
    assert cut.finish_reason == "length"
    assert cut.token_ids == whole.token_ids[:2]


@pytest.mark.parametrize("n_chunks", [1, 3, 10])
def test_a_stop_in_decode_keeps_the_partial_text_and_the_model_works_on(
    endless: LocalEngine, question: list[Turn], n_chunks: int
) -> None:
    """Within one token; the next answer is whole."""
    kept: list[Reply] = []
    generation = endless.start(question, Settings(max_tokens=1000), on_end=kept.append)
    chunks = iter(generation)
    for _ in range(n_chunks):
        next(chunks)
    generation.stop()
    reply = generation.wait(10)
    assert reply is not None
    assert kept == [reply]
    assert reply.finish_reason == "interrupted"
    assert 1 <= reply.n_new_tokens < 1000
    again = endless.generate(question, Settings(max_tokens=5))
    assert again.n_new_tokens == 5


def test_a_stop_in_prefill_leaves_within_a_layer(engine: LocalEngine, question: list[Turn]) -> None:
    """The flag is seen by a layer of the model, not only between tokens."""
    seen: list[str] = []
    generation = None

    def stop_in_the_middle(*_: object) -> None:
        seen.append("layer")
        if len(seen) == 3:
            assert generation is not None
            generation.stop()

    handles = [
        layer.register_forward_hook(stop_in_the_middle)
        for layer in [*engine.model.model.vision_model.encoder.layers, *engine.model.model.text_model.layers]
    ]
    try:
        generation = engine.start(question, Settings())
        reply = generation.wait(20)
    finally:
        for handle in handles:
            handle.remove()
    assert reply is not None
    assert (reply.finish_reason, reply.n_new_tokens) == ("interrupted", 0)
    assert len(seen) == 3
    assert engine.generate(question).finish_reason == "stop"


def test_a_time_limit_ends_the_answer_with_what_there_is(endless: LocalEngine, question: list[Turn]) -> None:
    """Also when it is too short for a single token."""
    reply = endless.generate(question, Settings(max_tokens=10_000, time_limit_s=0.3))
    assert reply.finish_reason == "time"
    assert reply.n_new_tokens < 3000
    assert endless.generate(question, Settings(time_limit_s=0.0)).finish_reason == "time"


def test_a_stop_string_ends_the_answer(engine: LocalEngine, question: list[Turn]) -> None:
    """It is not part of it."""
    whole = engine.generate(question).text
    word = whole.split()[1]
    cut = engine.generate(question, Settings(stop=(word,)))
    assert cut.text == whole[: whole.index(word)].rstrip()
    assert cut.finish_reason == "stop"


def test_sampling_is_repeatable_with_a_seed_and_leaves_the_seed_of_others_alone(
    endless: LocalEngine, question: list[Turn]
) -> None:
    """Different seeds differ."""
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    settings = [Settings(temperature=5.0, seed=seed, max_tokens=12) for seed in (3, 3, 4)]
    first, second, third = (endless.generate(question, s).token_ids for s in settings)
    assert first == second != third
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_temperature_may_be_a_whole_number(engine: LocalEngine, question: list[Turn]) -> None:
    whole, real = (engine.generate(question, Settings(temperature=t, seed=4)) for t in (2, 2.0))
    assert whole.text == real.text


def test_sampling_draws_from_all_tokens_unless_told_otherwise(
    endless: LocalEngine, question: list[Turn]
) -> None:
    """So hot that all tokens are alike: transformers' own top_k would leave fifty of them."""
    hot = Settings(temperature=1e4, max_tokens=1, seed=5)
    drawn = {reply.token_ids for reply in endless.generate_several(question, 200, hot)}
    assert len(drawn) > 100, "of 1,536 tokens, 200 draws repeat a dozen"
    few = {reply.token_ids for reply in endless.generate_several(question, 200, replace(hot, top_k=3))}
    assert len(few) == 3


def test_the_checkpoints_own_sampling_defaults_are_used_on_request_only(
    endless: LocalEngine, question: list[Turn], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy stays greedy with a checkpoint that samples by default."""
    greedy = endless.generate(question, Settings(max_tokens=12)).token_ids
    theirs = endless.model.generation_config
    for name, value in {"do_sample": True, "temperature": 9.0, "repetition_penalty": 3.0}.items():
        monkeypatch.setattr(theirs, name, value)
    assert endless.generate(question, Settings(max_tokens=12)).token_ids == greedy
    sampled = [
        endless.generate(question, Settings(max_tokens=12, sampling=True, seed=s)).token_ids for s in (1, 2)
    ]
    assert sampled[0] != sampled[1]
    assert endless.model.generation_config is theirs


def test_beams_give_the_best_of_the_plain_recipe(engine: LocalEngine, question: list[Turn]) -> None:
    """There is nothing to stream; the answer comes as one chunk."""
    processor, model = engine.processor, engine.model
    content = [
        {"type": "text", "text": "Describe "},
        {"type": "image"},
        {"type": "text", "text": "."},
    ]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=prompt, images=[question[0].pictures[0].rgb], return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=20, num_beams=3, do_sample=False)
    plain = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    *before, last = engine.stream(question, Settings(beams=3, max_tokens=20))
    assert last.reply is not None
    assert last.reply.text == plain == "".join(chunk.text for chunk in before)
    assert last.reply.tokens_per_s == 0, "no speed can be read off tokens that come at once"


def test_forbidden_words_do_not_appear(engine: LocalEngine, question: list[Turn]) -> None:
    """As bad_words_ids does in the guides."""
    word = engine.generate(question).text.split()[1]
    assert word not in engine.generate(question, Settings(bad_words=(word,), max_tokens=30)).text.split()


def test_progress_is_told_in_order(engine: LocalEngine, question: list[Turn]) -> None:
    """Pictures, prefill, decode."""
    seen: list[Progress] = []
    engine.start(question, Settings(), on_progress=seen.append).wait(20)
    assert [p.stage for p in seen] == ["pictures", "prefill", "decode"]


def test_answers_of_several_threads_do_not_mix(engine: LocalEngine, circle: Picture) -> None:
    """They queue; each is what it would be alone."""
    questions = [ask(Text(text), circle) for text in ("Describe it. ", "How many shapes? ", "Hello! ")]
    alone = [engine.generate(q).text for q in questions]
    together: dict[int, str] = {}

    def work(n: int) -> None:
        together[n] = engine.generate(questions[n]).text

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[n] for n in range(3)] == alone


def test_a_prompt_that_does_not_fit_is_an_error_with_the_numbers(engine: LocalEngine) -> None:
    """Nothing is trimmed silently."""
    with pytest.raises(ContextLengthError, match="nothing was trimmed") as caught:
        engine.generate(ask(Text("word " * 20_000)))
    assert caught.value.n_tokens > caught.value.context_tokens  # type: ignore[attr-defined]


def test_an_error_inside_the_model_reaches_the_caller_and_the_next_answer_works(
    engine: LocalEngine, question: list[Turn]
) -> None:
    """The streamer of transformers would hang."""

    def break_it(*_: object) -> None:
        raise ValueError("a layer broke")

    handle = engine.model.model.text_model.layers[1].register_forward_hook(break_it)
    try:
        with pytest.raises(GenerationError, match="a layer broke"):
            engine.generate(question)
    finally:
        handle.remove()
    assert engine.generate(question).finish_reason == "stop"


def test_a_closed_engine_says_how_to_load_again(circle: Picture) -> None:
    """Closing twice is harmless."""
    engine = LocalEngine(load_model("starter"))
    engine.close()
    assert engine.close() == 0
    with pytest.raises(ModelError, match="unloaded"):
        engine.generate(ask(Text("hi"), circle))


def test_log_probabilities_come_on_request_and_agree_with_scoring(
    engine: LocalEngine, question: list[Turn]
) -> None:
    """One for each token: those of a plain forward over prompt and answer, and those of `score`."""
    reply = engine.generate(question, Settings(log_probabilities=True))
    assert engine.generate(question).log_probabilities == ()
    assert engine.loaded is not None
    inputs = prepare(engine.loaded, question, Settings()).inputs
    ids = torch.cat([inputs["input_ids"], torch.tensor([reply.token_ids])], dim=1)
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        logits = engine.model(**whole).logits[0, -len(reply.token_ids) - 1 : -1]  # (T, V)
    expected = torch.log_softmax(logits.float(), dim=-1)[range(len(reply.token_ids)), list(reply.token_ids)]
    assert reply.log_probabilities == pytest.approx(expected.tolist(), abs=1e-3)
    (score,) = engine.score(question, [reply.text], with_end=False)
    assert score.token_ids == reply.token_ids, "the answer is tokenized as it was said"
    assert reply.log_probabilities == pytest.approx(score.token_log_probabilities, abs=1e-3)


def test_logits_processors_change_what_is_chosen(engine: LocalEngine, question: list[Turn]) -> None:
    """Any of transformers', or one's own."""
    from transformers import SuppressTokensLogitsProcessor

    first = engine.generate(question).token_ids[0]
    forbid = SuppressTokensLogitsProcessor([first], device="cpu")
    reply = engine.start(question, Settings(max_tokens=3), logits_processors=[forbid]).wait(20)
    assert reply is not None
    assert reply.token_ids[0] != first


def test_an_engine_that_is_closed_while_it_is_away_stays_closed() -> None:
    """Its worker ends, and bringing back what was put away brings nothing back."""
    engine = LocalEngine(load_model("starter"), "away")
    engine.generate([Turn("user", (Text("hello"),))], Settings(max_tokens=1))
    assert engine.put_away() > 0
    assert engine.close() == 0
    engine.bring_back()
    assert engine.is_closed
    assert not any(thread.name == "vlm_magic away" for thread in threading.enumerate())
    with pytest.raises(ModelError, match="was unloaded"):
        engine.start([Turn("user", (Text("hello"),))])


def test_an_engine_that_is_closed_while_it_comes_back_stays_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(load_model("starter"), "away")
    engine.put_away()

    def load_meanwhile(*wanted: Any) -> Loaded:
        loaded = load_model(*wanted)
        engine.close()
        return loaded

    monkeypatch.setattr(resident, "load_model", load_meanwhile)
    engine.bring_back()
    assert engine.is_closed


def test_what_a_checkpoint_has_to_say_of_a_picture_is_told_once() -> None:
    """Whatever it is called: the remark comes from the checkpoint, not from the engine."""
    loaded = replace(load_model(folder_of("llava")), remark_on=lambda images: f"{len(list(images))} seen")
    engine = LocalEngine(loaded)
    turns = [Turn("user", (Picture(None, "p", Image.new("RGB", (64, 48))), Text("what?")))]
    replies = [engine.generate(turns, Settings(max_tokens=2)) for _ in range(2)]
    assert ["1 seen" in reply.notes for reply in replies] == [True, False]
    engine.close()
