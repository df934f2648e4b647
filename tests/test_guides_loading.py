"""The code examples that this project began from: loading, templates, quantisation, splitting, labels.

Each is done twice on a tiny build of the model it names: as the guide writes it, with transformers alone,
and through this package. The prompts must be the same tokens, the settings the same, the answers the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from tiny_models import folder_of, tiny
from transformers import AutoProcessor

from vlm_magic.errors import OptionError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts.prepare import prepare, prepare_batch
from vlm_magic.models.prompts.token_ids import forbidden_token_ids, stop_token_ids
from vlm_magic.tasks.training.batch import IGNORED, training_batch

torch.set_num_threads(1)
FAKE, IMAGE, END = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
COLOURS = ("red", "blue", "green")


@cache
def image(n: int) -> Image.Image:
    canvas = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(canvas).rectangle((6, 6, 40, 40), fill=COLOURS[n - 1])
    return canvas


def picture(n: int) -> Picture:
    return Picture(None, f"image_{n}", image(n), str(n))


def user(*parts: str | Picture) -> Turn:
    return Turn("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(text: str) -> Turn:
    return Turn("assistant", (Text(text),))


@cache
def processor_of(name: str) -> Any:
    return AutoProcessor.from_pretrained(folder_of(name))


def same_inputs(prepared: Prepared, inputs: Any) -> None:
    for key, value in dict(inputs).items():
        assert torch.equal(prepared.inputs[key], value), key


def bad_words_of(processor: Any) -> list[list[int]]:
    ids: list[list[int]] = processor.tokenizer([IMAGE, FAKE], add_special_tokens=False).input_ids
    return ids


@pytest.fixture(scope="module")
def idefics2() -> Loaded:
    loaded: Loaded = tiny("idefics2-chatty")
    return loaded


@pytest.fixture(scope="module")
def idefics() -> Loaded:
    loaded: Loaded = tiny("idefics")
    return loaded


# ---- Image-text-to-text guide ------------------------------------------------------------------

GUIDE_TURNS = [
    user(picture(1), "What do we see in this image?"),
    assistant("In this image we can see two cats on the nets."),
    user(picture(2), "And how about this image?"),
]
GUIDE_MESSAGES = [
    {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": "What do we see in this image?"}],
    },
    {
        "role": "assistant",
        "content": [{"type": "text", "text": "In this image we can see two cats on the nets."}],
    },
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And how about this image?"}]},
]


def test_guide_loads_idefics2_in_bfloat16_with_flash_attention() -> None:
    """On a CPU flash attention is refused in words, before anything is loaded; without it, it loads."""
    folder = folder_of("idefics2-chatty")
    with pytest.raises(OptionError, match="CUDA"):
        load_model(folder, LoadOptions(dtype="bfloat16", attn="flash_attention_2"))
    loaded = load_model(folder, LoadOptions(dtype="bfloat16"))
    assert loaded.dtype == "bfloat16"
    assert LocalEngine(loaded).generate(GUIDE_TURNS, Settings(max_tokens=3)).n_new_tokens == 3


def test_guide_asks_about_two_images_through_the_chat_template(idefics2: Loaded) -> None:
    processor = processor_of("idefics2-chatty")
    prompt = processor.apply_chat_template(GUIDE_MESSAGES, add_generation_prompt=True)
    inputs = processor(text=prompt, images=[image(1), image(2)], return_tensors="pt")
    prepared = prepare(idefics2, GUIDE_TURNS, Settings())
    assert prepared.rendered == prompt
    same_inputs(prepared, inputs)
    with torch.no_grad():
        generated = idefics2.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = generated[0, inputs["input_ids"].shape[1] :].tolist()
    said = list(LocalEngine(idefics2).generate(GUIDE_TURNS, Settings(max_tokens=8)).token_ids)
    assert said == new[: len(said)]


def test_guide_streams_the_answer_word_by_word(idefics2: Loaded) -> None:
    """Each value is what was said so far, and the token that ends the utterance is never shown."""
    turns = [*GUIDE_TURNS, assistant("Flowers."), user(picture(3), "And what is in this image?")]
    so_far, values = "", []
    for chunk in LocalEngine(idefics2).stream(turns, Settings(max_tokens=12)):
        so_far += chunk.text
        values.append(so_far)
    assert all(later.startswith(earlier) for earlier, later in pairwise(values))
    assert END not in values[-1]


@pytest.mark.filterwarnings("ignore")
def test_guide_quantizes_to_int8_with_quanto() -> None:
    loaded = load_model(folder_of("idefics2-chatty"), LoadOptions(quantize="int8"))
    assert loaded.quantization == "quanto-int8"
    assert loaded.model.config.quantization_config.weights == "int8"
    assert LocalEngine(loaded).generate(GUIDE_TURNS, Settings(max_tokens=3)).n_new_tokens == 3


# ---- Idefics2 page -----------------------------------------------------------------------------

DIFFERENCE = "What’s the difference between these two images?"
ANSWER = "The difference is that one image is about dogs and the other one about cats."


def test_idefics2_chat_messages_example(idefics2: Loaded) -> None:
    prepared = prepare(idefics2, [user(DIFFERENCE, picture(1), picture(2))], Settings())
    assert prepared.rendered == f"User: {DIFFERENCE}<image><image>{END}\nAssistant:"
    processor = processor_of("idefics2-chatty")
    same_inputs(prepared, processor(images=[image(1), image(2)], text=prepared.rendered, return_tensors="pt"))


def test_idefics2_do_image_splitting_makes_five_images_of_one() -> None:
    whole = prepare(tiny("idefics2-chatty"), [user(picture(1), "What?")], Settings())
    loaded = load_model(folder_of("idefics2-chatty"), LoadOptions(splitting=True))
    split = prepare(loaded, [user(picture(1), "What?")], Settings())
    assert loaded.processor.image_processor.do_image_splitting
    assert split.inputs["pixel_values"].shape[1] == 5 * whole.inputs["pixel_values"].shape[1]
    ids = split.inputs["input_ids"][0].tolist()
    image_id = loaded.model.config.image_token_id
    assert ids.count(image_id) == 5 * whole.inputs["input_ids"][0].tolist().count(image_id)
    assert len(split.picture_spans) == 1
    LocalEngine(loaded).generate([user(picture(1), "What?")], Settings(max_tokens=2))


def test_idefics2_training_labels_example(idefics2: Loaded) -> None:
    """The guide's labels, token by token, and then without the user's words, as it recommends for chats."""
    turns = [user(DIFFERENCE, picture(1), picture(2)), assistant(ANSWER)]
    processor, model = processor_of("idefics2-chatty"), load_model(folder_of("idefics2-chatty")).model
    text = prepare(idefics2, turns, Settings()).rendered
    assert text == f"User: {DIFFERENCE}<image><image>{END}\nAssistant: {ANSWER}{END}\n"
    inputs = processor(images=[image(1), image(2)], text=text, return_tensors="pt")
    labels = inputs.input_ids.clone()
    labels[labels == processor.tokenizer.pad_token_id] = -100
    labels[labels == model.config.image_token_id] = -100
    batch = training_batch(idefics2, [turns], only_assistant=False)
    assert torch.equal(batch["labels"], labels)

    chat = training_batch(idefics2, [turns])
    learned = chat["input_ids"][chat["labels"] != IGNORED]
    assert "".join(processor.tokenizer.decode(learned).split()) == "".join((ANSWER + END).split())
    loss = model(**chat).loss
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.model.vision_model.parameters())


def test_idefics2_flash_attention_in_float16() -> None:
    with pytest.raises(OptionError, match="flash_attention_2"):
        load_model(folder_of("idefics2-chatty"), LoadOptions(dtype="float16", attn="flash"))
    assert load_model(folder_of("idefics2-chatty"), LoadOptions(dtype="float16")).dtype == "float16"


@pytest.mark.filterwarnings("ignore")
def test_idefics2_in_4_bits_nf4_double_quantized() -> None:
    loaded = load_model(folder_of("idefics2-chatty"), LoadOptions(dtype="float16", quantize="4bit"))
    config = loaded.model.config.quantization_config
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.float16
    kinds = {type(module).__name__ for module in loaded.model.model.text_model.modules()}
    assert "Linear4bit" in kinds
    assert LocalEngine(loaded).generate(GUIDE_TURNS, Settings(max_tokens=2)).n_new_tokens == 2


def test_idefics2_base_forward_example_with_bad_words() -> None:
    """Two prompts of two pictures and one, in one batch, continued without a template."""
    loaded = tiny("idefics2-base")
    processor = processor_of("idefics2-base")
    prompts = [
        "<image>In this image, we can see the city of New York, and more specifically the Statue of Liberty."
        "<image>In this image,",
        "In which city is that bridge located?<image>",
    ]
    processor.tokenizer.padding_side = "left"
    inputs = processor(
        images=[[image(1), image(2)], [image(3)]], text=prompts, padding=True, return_tensors="pt"
    )
    first, second = prompts[0].split("<image>")[1:]
    conversations = [
        [user(picture(1), first, picture(2), second)],
        [user("In which city is that bridge located?", picture(3))],
    ]
    prepared = prepare_batch(loaded, conversations, Settings(continuation=True))
    same_inputs(prepared, inputs)
    generated = loaded.model.generate(
        **inputs, bad_words_ids=bad_words_of(processor), max_new_tokens=8, do_sample=False
    )
    ours = loaded.model.generate(
        **prepared.inputs, suppress_tokens=forbidden_token_ids(loaded), max_new_tokens=8, do_sample=False
    )
    assert torch.equal(generated, ours)


def test_idefics2_processor_example(idefics2: Loaded) -> None:
    """With two tokens a picture, as the page sets it."""
    loaded = load_model(folder_of("idefics2-base"))
    loaded.processor.image_seq_len = 2
    conversations = [[user(picture(1), "In this image, we see")], [user("bla bla bla", picture(2))]]
    prepared = prepare_batch(loaded, conversations, Settings(continuation=True))
    tokens = loaded.tokenizer.batch_decode(prepared.inputs["input_ids"])
    assert [token.replace("<unk>", "").replace(" ", "") for token in tokens] == [
        f"<s>{FAKE}{IMAGE}{IMAGE}{FAKE}Inthisimage,wesee",
        f"<s>blablabla{FAKE}{IMAGE}{IMAGE}{FAKE}",
    ]


# ---- Image tasks with IDEFICS ------------------------------------------------------------------


def test_idefics_loads_in_bfloat16_on_any_device() -> None:
    loaded = load_model(folder_of("idefics"), LoadOptions(dtype="bfloat16"))
    assert loaded.dtype == "bfloat16"
    assert LocalEngine(loaded).generate([user(picture(1))], Settings(max_tokens=3)).n_new_tokens >= 1


@pytest.mark.filterwarnings("ignore")
def test_idefics_loads_in_4_bits() -> None:
    loaded = load_model(folder_of("idefics"), LoadOptions(quantize="4bit", dtype="float16"))
    assert loaded.model.config.quantization_config.bnb_4bit_compute_dtype == torch.float16
    assert LocalEngine(loaded).generate([user(picture(1))], Settings(max_tokens=2)).n_new_tokens >= 1


LIST = "['animals', 'vegetables', 'city landscape', 'cars', 'office']"
TOWER = (
    "An image of the Eiffel Tower at night. Fun fact: the Eiffel Tower is the same height as an "
    "81-storey building."
)
IDEFICS_EXAMPLES: dict[str, Sequence[str | int]] = {
    "captioning without a word": [1],
    "prompted captioning": [1, "This is an image of "],
    "few-shot prompting": [
        "User:",
        1,
        f"Describe this image.\nAssistant: {TOWER}\n",
        "User:",
        2,
        "Describe this image.\nAssistant:",
    ],
    "visual question answering": [
        "Instruction: Provide an answer to the question. Use the image to answer.\n",
        1,
        "Question: Where are these people and what's the weather like? Answer:",
    ],
    "image classification": [
        "Instruction: Classify the following image into a single category from the following list: "
        f"{LIST}.\n",
        1,
        "Category: ",
    ],
    "image-guided text generation": ["Instruction: Use the image to write a story. \n", 1, "Story: \n"],
}


@pytest.mark.parametrize("example", list(IDEFICS_EXAMPLES))
def test_idefics_example(idefics: Loaded, example: str) -> None:
    """The same tokens and pixels as the guide's own call, and the same answer with its bad words."""
    items = IDEFICS_EXAMPLES[example]
    processor = processor_of("idefics")
    inputs = processor(text=[image(i) if isinstance(i, int) else i for i in items], return_tensors="pt")
    turns = [user(*(picture(i) if isinstance(i, int) else i for i in items))]
    same_inputs(prepare(idefics, turns, Settings()), inputs)
    beams = 2 if "generation" in example else 1
    generated = idefics.model.generate(
        **inputs,
        max_new_tokens=8,
        num_beams=beams,
        bad_words_ids=bad_words_of(processor),
        eos_token_id=stop_token_ids(idefics, Settings()),
        do_sample=False,
    )
    new = generated[0, inputs["input_ids"].shape[1] :].tolist()
    said = list(LocalEngine(idefics).generate(turns, Settings(max_tokens=8, beams=beams)).token_ids)
    assert said == new[: len(said)]
    assert said


def test_idefics_runs_in_batch_mode(idefics: Loaded) -> None:
    processor = processor_of("idefics")
    inputs = processor(
        text=[[image(n), "This is an image of "] for n in (1, 2, 3)], return_tensors="pt", padding_side="left"
    )
    prepared = prepare_batch(
        idefics, [[user(picture(n), "This is an image of ")] for n in (1, 2, 3)], Settings()
    )
    same_inputs(prepared, inputs)


def test_idefics_instruct_conversation() -> None:
    loaded = tiny("idefics-instruct")
    processor = processor_of("idefics-instruct")
    said = "This picture depicts Idefix, the dog of Obelix in Asterix and Obelix. Idefix is running."
    prompts = [
        [
            "User: What is in this image?",
            image(1),
            END,
            f"\nAssistant: {said}{END}",
            "\nUser:",
            image(2),
            f"And who is that?{END}",
            "\nAssistant:",
        ]
    ]
    inputs = processor(text=prompts, add_end_of_utterance_token=False, return_tensors="pt")
    turns = [
        user("What is in this image?", picture(1)),
        assistant(said),
        user(picture(2), "And who is that?"),
    ]
    same_inputs(prepare(loaded, turns, Settings()), inputs)
    exit_condition = processor.tokenizer(END, add_special_tokens=False).input_ids
    assert exit_condition[-1] in stop_token_ids(loaded, Settings())
    assert {ids[-1] for ids in bad_words_of(processor)} <= set(forbidden_token_ids(loaded))


@pytest.fixture(autouse=True)
def _left_as_they_were() -> Iterator[None]:
    yield
    processor_of.cache_clear()
