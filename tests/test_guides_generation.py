"""The guides' code about generation, each example done here on a tiny build of its model.

The guides: "Image tasks with IDEFICS" and "Image-text-to-text" of the transformers documentation.
Random weights say nothing about quality: what is compared is tokens with the plain recipe, and form.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image, ImageDraw
from transformers import LogitsProcessor

import vlm_magic
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import prepare


@cache
def engine_of(name: str) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(tiny_models.tiny(name))


@cache
def photo(n: int) -> Image.Image:
    image = Image.new("RGB", (64, 48), (40 * n % 255, 120, 200))
    ImageDraw.Draw(image).ellipse((8 + 4 * n, 8, 40, 40), fill=(200, 40 * n % 255, 0))
    return image


def plain(name: str, prompt: list[Any] | list[list[Any]], **options: Any) -> list[list[int]]:
    """The guides' recipe for IDEFICS: processor on interleaved lists, bad words, generate.

    Tokens, for random weights write bytes that are no characters, which decode in more than one way.
    """
    engine = engine_of(name)
    processor, model = engine.processor, engine.model
    inputs = processor(text=prompt, return_tensors="pt", add_end_of_utterance_token=False)
    bad = processor.tokenizer(["<image>", "<fake_token_around_image>"], add_special_tokens=False).input_ids
    with torch.no_grad():
        ids = model.generate(**inputs, bad_words_ids=bad, do_sample=False, **options)
    new: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    ends = {processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id}
    return [[token for token in row if token not in ends] for row in new]


def ask(name: str, *parts: Any, **settings: Any) -> list[int]:
    """The same through the front door."""
    return list(vlm_magic.Session(engine_of(name)).ask(*parts, **settings).token_ids)


def test_captioning_without_any_text() -> None:
    """The picture alone; the model goes on from the beginning of the sequence."""
    assert ask("idefics", photo(1), max_tokens=10) == plain("idefics", [photo(1)], max_new_tokens=10)[0]


def test_prompted_captioning() -> None:
    """The model continues the words after the picture."""
    words = "This is an image of "
    assert (
        ask("idefics", photo(1), words, max_tokens=10)
        == plain("idefics", [photo(1), words], max_new_tokens=10)[0]
    )


def test_few_shot_prompting_with_a_fun_fact() -> None:
    """Interleaved examples before the question."""
    example = (
        "Describe this image.\nAssistant: An image of the Eiffel Tower at night. Fun fact: it is high.\n"
    )
    prompt = ["User:", photo(1), example, "User:", photo(2), "Describe this image.\nAssistant:"]
    joined = ["User:", photo(1), f"{example}User:", photo(2), "Describe this image.\nAssistant:"]
    assert ask("idefics", *prompt, max_tokens=20) == plain("idefics", joined, max_new_tokens=20)[0]


def test_visual_question_answering() -> None:
    """Instruction, picture, question."""
    prompt = [
        "Instruction: Provide an answer to the question. Use the image to answer.\n",
        photo(3),
        "Question: Where are these people and what's the weather like? Answer:",
    ]
    assert ask("idefics", *prompt, max_tokens=20) == plain("idefics", prompt, max_new_tokens=20)[0]


def test_image_classification_by_generating_and_by_ranking() -> None:
    """The second is what the guide only mentions."""
    categories = ["animals", "vegetables", "city landscape", "cars", "office"]
    first = f"Instruction: Classify the following image into a single category from: {categories}.\n"
    prompt = [first, photo(2), "Category: "]
    assert ask("idefics", *prompt, max_tokens=6) == plain("idefics", prompt, max_new_tokens=6)[0]
    turn = Turn("user", (Text(first), Picture(None, "p", photo(2)), Text("Category: ")))
    scores = engine_of("idefics").score([turn], categories)
    assert [score.choice for score in scores] == categories
    assert len({score.log_probability for score in scores}) == len(categories)


def test_a_story_with_two_beams() -> None:
    """Image-guided text generation with beam search."""
    prompt = ["Instruction: Use the image to write a story. \n", photo(1), "Story: \n"]
    assert (
        ask("idefics", *prompt, max_tokens=24, beams=2)
        == plain("idefics", prompt, num_beams=2, max_new_tokens=24)[0]
    )


def test_a_batch_of_three() -> None:
    """One call for three prompts, the answers of three calls."""
    words = "This is an image of "
    turns = [[Turn("user", (Picture(None, "p", photo(n)), Text(words)))] for n in (1, 2, 3)]
    replies = engine_of("idefics").generate_batch(turns, Settings(max_tokens=10))
    expected = plain("idefics", [[photo(n), words] for n in (1, 2, 3)], max_new_tokens=10)
    assert [list(reply.token_ids) for reply in replies] == expected


def test_bad_words_ids_keep_the_image_tokens_out() -> None:
    """Without being asked, on every family; further words on request."""
    engine = engine_of("idefics")
    assert engine.loaded is not None
    words = ["<image>", "<fake_token_around_image>"]
    ids = {engine.loaded.tokenizer.convert_tokens_to_ids(word) for word in words}
    assert ids <= set(token_ids.forbidden_token_ids(engine.loaded))
    session = vlm_magic.Session(engine)
    word = session.ask(photo(1), "This is ", max_tokens=12).text.split()[0]
    reply = vlm_magic.Session(engine).ask(photo(1), "This is ", max_tokens=12, bad_words=(word,))
    assert word not in reply.text.split()


class EndAfter(LogitsProcessor):
    """Makes a random model end its answer: the end token wins when there are so many new tokens."""

    def __init__(self, token_id: int, n_prompt: int, n_new: int) -> None:
        self._token_id, self._n_tokens = token_id, n_prompt + n_new

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] == self._n_tokens:
            scores[:, self._token_id] = scores.max() + 1
        return scores


def test_idefics_instruct_in_conversation_with_its_exit_condition() -> None:
    """The guide's prompt token by token, pictures at their turns; the answer ends at <end_of_utterance>."""
    engine = engine_of("idefics-instruct")
    assert engine.loaded is not None
    processor, model = engine.processor, engine.model
    said = "This picture depicts Idefix, the dog of Obelix in Asterix and Obelix. Idefix is running."
    prompt = [
        "User: What is in this image?", photo(1), "<end_of_utterance>",
        f"\nAssistant: {said}<end_of_utterance>",
        "\nUser:", photo(2), "And who is that?<end_of_utterance>",
        "\nAssistant:",
    ]  # fmt: skip
    inputs = processor(text=[prompt], add_end_of_utterance_token=False, return_tensors="pt")
    exit_condition = processor.tokenizer("<end_of_utterance>", add_special_tokens=False).input_ids
    n_prompt = inputs["input_ids"].shape[1]
    end = EndAfter(exit_condition[0], n_prompt, 6)
    with torch.no_grad():
        ids = model.generate(
            **inputs, eos_token_id=exit_condition, logits_processor=[end], max_new_tokens=50, do_sample=False
        )
    turns = [
        Turn("user", (Text("What is in this image?"), Picture(None, "dog", photo(1)))),
        Turn("assistant", (Text(said),)),
        Turn("user", (Picture(None, "cat", photo(2)), Text("And who is that?"))),
    ]
    prepared = prepare(engine.loaded, turns, Settings())
    assert prepared.inputs["input_ids"].tolist() == inputs["input_ids"].tolist()
    reply = engine.start(turns, Settings(max_tokens=50), logits_processors=[end]).wait(60)
    assert reply is not None
    assert [*reply.token_ids, *exit_condition] == ids[0, n_prompt:].tolist()
    assert (reply.finish_reason, len(reply.token_ids)) == ("stop", 6)
    assert "<end_of_utterance>" not in reply.text


def test_a_batch_of_idefics2_base_with_two_pictures_and_with_one() -> None:
    """Pictures within the text, bad words, different numbers of pictures: as the prompts one by one."""
    engine = engine_of("idefics2-base")
    processor, model = engine.processor, engine.model
    seen = "In this image, we can see the city of New York, and more specifically the Statue of Liberty."
    prompts = [f"<image>{seen}<image>In this image,", "In which city is that bridge located?<image>"]
    images = [[photo(1), photo(2)], [photo(3)]]
    bad = processor.tokenizer(["<image>", "<fake_token_around_image>"], add_special_tokens=False).input_ids
    expected = []
    for prompt, shown in zip(prompts, images, strict=True):
        inputs = processor(images=[shown], text=[prompt], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, bad_words_ids=bad, max_new_tokens=20, do_sample=False)
        expected.append(tuple(ids[0, inputs["input_ids"].shape[1] :].tolist()))
    first, second, third = (Picture(None, f"p{n}", photo(n)) for n in (1, 2, 3))
    conversations = [
        [Turn("user", (first, Text(seen), second, Text("In this image,")))],
        [Turn("user", (Text("In which city is that bridge located?"), third))],
    ]
    replies = engine.generate_batch(conversations, Settings(max_tokens=20))
    assert [reply.token_ids for reply in replies] == expected


def test_chat_with_several_pictures() -> None:
    """Template and processor of the image-text-to-text guide, two pictures, one in each question."""
    engine = engine_of("idefics2-chatty")
    processor, model = engine.processor, engine.model
    said = "In this image we can see two cats on the nets."
    messages = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "What do we see in this image?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": said}]},
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "And how about this image?"}],
        },
    ]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=prompt, images=[photo(1), photo(2)], return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    expected = tuple(ids[0, inputs["input_ids"].shape[1] :].tolist())
    turns = [
        Turn("user", (Picture(None, "cats", photo(1)), Text("What do we see in this image?"))),
        Turn("assistant", (Text(said),)),
        Turn("user", (Picture(None, "bee", photo(2)), Text("And how about this image?"))),
    ]
    assert engine.generate(turns, Settings(max_tokens=12)).token_ids == expected


@pytest.mark.parametrize("name", ["idefics2-chatty", "idefics3", "llava", "qwen2-vl"])
def test_streaming_in_a_thread(name: str) -> None:
    """Words arrive while the model works, and no end token is among them."""
    session = vlm_magic.Session(engine_of(name))
    texts = [chunk.text for chunk in session.stream("And what is in this image?", photo(2), max_tokens=20)]
    reply = session.conversation.exchanges[-1].reply
    assert reply is not None
    assert len(texts) > 3
    assert "".join(texts) == reply.text
    assert "<end_of_utterance>" not in reply.text
