"""Each job of the guides as one ``%%vlm`` cell, on base and on chat checkpoints, in a real IPython shell.

The guides: "Image tasks with IDEFICS" and "Image-text-to-text" of the transformers documentation. Beside each
cell stands the plain transformers program of the guide: its own processor and its own copy of the weights,
read from the same folder, the guide's forbidden words and exit condition; the new tokens must be the same.
Random weights say nothing about quality. `test_seed_generation` and `test_seed_loading` do the same a
storey lower, without cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image, ImageDraw
from tiny_models import folder_of

from vlm_magic import workspace
from vlm_magic.models.decoding.detokenizer import Detokenizer

IMAGE, FAKE, END = "<image>", "<fake_token_around_image>", "<end_of_utterance>"
BASE = ("idefics", "idefics2-base")
CHAT = ("idefics-instruct", "idefics2-chatty")
EVERY = pytest.mark.parametrize("name", [*BASE, *CHAT])
FIRST = ("idefics", "idefics-instruct")  # of the first IDEFICS: its processor takes lists of texts and images

CATEGORIES = ["animals", "vegetables", "city landscape", "cars", "office"]
TOWER = (
    "An image of the Eiffel Tower at night. Fun fact: the Eiffel Tower is the same height as an "
    "81-storey building."
)
IDEFIX = (
    "This picture depicts Idefix, the dog of Obelix in Asterix and Obelix. Idefix is running on the ground."
)


@cache
def photo(n: int) -> Image.Image:
    image = Image.new("RGB", (64, 48), (40 * n % 255, 120, 200))
    ImageDraw.Draw(image).ellipse((8 + 4 * n, 8, 40, 40), fill=(200, 40 * n % 255, 0))
    return image


# ---- the plain programs ------------------------------------------------------------------------


@cache
def plain_model(name: str) -> tuple[Any, Any]:
    """Processor and model as the guides load them."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.set_num_threads(1)
    folder = folder_of(name)
    return AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder).eval()


def generated(name: str, inputs: Any, **options: Any) -> list[list[int]]:
    """``generate`` as in the guides: image tokens forbidden, the end of an utterance as exit condition."""
    processor, model = plain_model(name)
    tokenizer = processor.tokenizer
    options["bad_words_ids"] = tokenizer([IMAGE, FAKE], add_special_tokens=False).input_ids
    ends = {tokenizer.eos_token_id}
    if name in CHAT:
        exit_condition = tokenizer(END, add_special_tokens=False).input_ids
        ends |= set(exit_condition)
        options["eos_token_id"] = [tokenizer.eos_token_id, *exit_condition]
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=False, pad_token_id=0, **options)
    new: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: next((n for n, token in enumerate(row) if token in ends), len(row))] for row in new]


def plain(name: str, prompt: list[Any], **options: Any) -> list[int]:
    """What the guide's program generates for texts and images in their order, the question alone.

    Base checkpoints continue them. Chat checkpoints get them as the user's words: the first IDEFICS in the
    form of the guide's conversation, Idefics2 through its template.
    """
    processor, _ = plain_model(name)
    images = [item for item in prompt if not isinstance(item, str)]
    text = "".join(item if isinstance(item, str) else IMAGE for item in prompt)
    match name:
        case "idefics":
            inputs = processor(text=prompt, return_tensors="pt", add_end_of_utterance_token=False)
        case "idefics2-base":
            inputs = processor(text=text, images=images, return_tensors="pt")
        case "idefics-instruct":
            first, *others = prompt
            items = [f"User: {first}", *others] if isinstance(first, str) else ["User:", first, *others]
            ending = [items.pop() + END] if isinstance(items[-1], str) else [END]
            dialogue = [[*items, *ending, "\nAssistant:"]]
            inputs = processor(text=dialogue, return_tensors="pt", add_end_of_utterance_token=False)
        case _:
            content = [
                {"type": "text", "text": item} if isinstance(item, str) else {"type": "image"}
                for item in prompt
            ]
            messages = [{"role": "user", "content": content}]
            rendered = processor.apply_chat_template(messages, add_generation_prompt=True)
            inputs = processor(text=rendered, images=images, return_tensors="pt")
    return generated(name, inputs, **options)[0]


# ---- the cells ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> Iterator[workspace.Workspace]:
    """All four checkpoints, loaded once, as ``%vlm_load FOLDER --as NAME`` does."""
    loaded = workspace.Workspace()
    for name in (*BASE, *CHAT):
        loaded.models.load(folder_of(name), name=name)
    yield loaded
    for name in (*BASE, *CHAT):
        loaded.models.unload(name)


@pytest.fixture
def shell(models: workspace.Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(workspace, "_current", models)
    models.conversations.session().reset()
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.user_ns.update(photo=photo(1), tower=photo(1), liberty=photo(2), categories=CATEGORIES)
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def cell(shell: Any, name: str, options: str, body: str) -> list[int]:
    """Run one cell; the tokens of its answer."""
    result = shell.run_cell(f"%%vlm -m {name} {options}\n{body}", store_history=True)
    assert result.error_in_exec is None, result.error_in_exec
    reply = workspace.current().conversations.session().conversation.exchanges[-1].reply
    assert reply is not None
    assert reply.token_ids, "an empty answer proves nothing"
    return list(reply.token_ids)


@EVERY
def test_captioning_with_no_text(shell: Any, name: str) -> None:
    """The cell is the picture alone."""
    assert cell(shell, name, "--max-tokens 10", "{photo}") == plain(name, [photo(1)], max_new_tokens=10)


@EVERY
def test_prompted_captioning(shell: Any, name: str) -> None:
    """The model goes on from the words."""
    said = cell(shell, name, "--max-tokens 10", "{photo}This is an image of ")
    assert said == plain(name, [photo(1), "This is an image of "], max_new_tokens=10)


@pytest.mark.parametrize("name", CHAT)
def test_prompted_captioning_without_the_template(shell: Any, name: str) -> None:
    """A chat checkpoint continues words as a base one does, where it is asked to."""
    said = cell(shell, name, "--continuation --max-tokens 10", "{photo}This is an image of ")
    processor, _ = plain_model(name)
    words = "This is an image of "
    options = (
        {"text": [photo(1), words], "add_end_of_utterance_token": False}
        if name in FIRST
        else {"text": f"{IMAGE}{words}", "images": [photo(1)]}
    )
    inputs = processor(return_tensors="pt", **options)
    assert said == generated(name, inputs, max_new_tokens=10)[0]


FEW_SHOT = [
    "User:",
    photo(1),
    f"Describe this image.\nAssistant: {TOWER}\n",
    "User:",
    photo(2),
    "Describe this image.\nAssistant:",
]


@pytest.mark.parametrize("name", BASE)
def test_few_shot_caption_with_a_fun_fact_written_in_one_cell(shell: Any, name: str) -> None:
    """The guide's prompt as it stands."""
    body = (
        f"User:{{tower}}Describe this image.\nAssistant: {TOWER}\n"
        "User:{liberty}Describe this image.\nAssistant:"
    )
    assert cell(shell, name, "--max-tokens 30", body) == plain(name, FEW_SHOT, max_new_tokens=30)


@pytest.mark.parametrize("name", BASE)
def test_few_shot_caption_with_a_fun_fact_from_a_table(shell: Any, name: str) -> None:
    """The same prompt made of a table of examples and the question alone."""
    import pandas as pd

    shell.user_ns["shots"] = pd.DataFrame({"picture": [photo(1)], "answer": [TOWER]})
    body = "User:{liberty}Describe this image.\nAssistant:"
    said = cell(shell, name, "--examples shots --max-tokens 30", body)
    assert said == plain(name, FEW_SHOT, max_new_tokens=30)


@pytest.mark.parametrize("name", CHAT)
def test_few_shot_caption_with_a_fun_fact_on_a_chat_checkpoint(shell: Any, name: str) -> None:
    """Each example is a question and an answer of the conversation."""
    shell.user_ns["shots"] = [(photo(1), TOWER)]
    said = cell(shell, name, "--examples shots --max-tokens 30", "{liberty}Describe this image.")
    processor, _ = plain_model(name)
    question = "Describe this image."
    if name in FIRST:
        dialogue = [
            *("User:", photo(1), f"{question}{END}", f"\nAssistant: {TOWER}{END}"),
            *("\nUser:", photo(2), f"{question}{END}", "\nAssistant:"),
        ]
        inputs = processor(text=[dialogue], return_tensors="pt", add_end_of_utterance_token=False)
    else:
        asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        answered = {"role": "assistant", "content": [{"type": "text", "text": TOWER}]}
        rendered = processor.apply_chat_template([asked, answered, asked], add_generation_prompt=True)
        inputs = processor(text=rendered, images=[photo(1), photo(2)], return_tensors="pt")
    assert said == generated(name, inputs, max_new_tokens=30)[0]


@EVERY
def test_visual_question_answering(shell: Any, name: str) -> None:
    """Instruction, picture, question."""
    instruction = "Instruction: Provide an answer to the question. Use the image to answer.\n"
    question = "Question: Where are these people and what's the weather like? Answer:"
    said = cell(shell, name, "--max-tokens 20", f"{instruction}{{photo}}{question}")
    assert said == plain(name, [instruction, photo(1), question], max_new_tokens=20)


@EVERY
def test_classification_by_generating(shell: Any, name: str) -> None:
    """The categories come from a variable."""
    instruction = (
        "Instruction: Classify the following image into a single category from the following list: "
        "{categories}.\n"
    )
    said = cell(shell, name, "--max-tokens 6", f"{instruction}{{photo}}Category: ")
    prompt = [instruction.format(categories=CATEGORIES), photo(1), "Category: "]
    assert said == plain(name, prompt, max_new_tokens=6)


@EVERY
def test_classification_by_ranking(shell: Any, name: str) -> None:
    """What the guide only mentions: the category whose tokens are the likeliest, summed by hand beside it."""
    result = shell.run_cell(
        f"%%vlm -m {name} -o best --choices categories\n{{photo}}Category:", store_history=True
    )
    assert result.error_in_exec is None
    processor, model = plain_model(name)
    sums = {}
    for category in CATEGORIES:
        before, whole = (_ranked(name, processor, words) for words in ("", category))
        n_before = before["input_ids"].shape[1]
        with torch.no_grad():
            logits = model(**whole).logits[0].float()  # (T, V)
        new = whole["input_ids"][0, n_before:]
        scores = logits[n_before - 1 : -1].log_softmax(-1)
        sums[category] = float(scores.gather(1, new[:, None]).sum())
    best = shell.user_ns["best"]
    assert best.best == max(sums, key=lambda category: sums[category])
    assert sum(best.probabilities.values()) == pytest.approx(1)


def _ranked(name: str, processor: Any, category: str) -> Any:
    """The prompt with a category as its answer, and the token that ends it."""
    end = END if name in CHAT else "\n"  # a base checkpoint's answer ends with its line
    answer = f" {category}{end}" if category else ""
    match name:
        case "idefics":
            items = [photo(1), f"Category:{answer}"]
            return processor(text=items, return_tensors="pt", add_end_of_utterance_token=False)
        case "idefics-instruct":
            items = ["User:", photo(1), f"Category:{END}", f"\nAssistant:{answer}"]
            return processor(text=[items], return_tensors="pt", add_end_of_utterance_token=False)
        case "idefics2-base":
            text = f"{IMAGE}Category:{answer}"
        case _:
            text = f"User:{IMAGE}Category:{END}\nAssistant:{answer}"
    return processor(text=text, images=[photo(1)], return_tensors="pt")


@EVERY
def test_an_image_guided_story_with_two_beams(shell: Any, name: str) -> None:
    """Beam search. A story goes on behind a line break: a cell that is continued keeps its own at the end."""
    instruction, opening = "Instruction: Use the image to write a story. \n", "Story: "
    options = "--beams 2 --max-tokens 24"
    if name in BASE:
        opening, options = "Story: \n", f"{options} --continuation"
    said = cell(shell, name, options, f"{instruction}{{photo}}{opening}\n")
    expected = plain(name, [instruction, photo(1), opening], num_beams=2, max_new_tokens=24)
    assert said == expected


@EVERY
def test_a_batch_of_three(shell: Any, name: str) -> None:
    """Three pictures in one cell; the answers of the guide's padded batch, in their order."""
    photos = [Image.new("RGB", (64, 48), colour) for colour in ("white", "black", "green")]
    shell.user_ns["photos"] = photos
    result = shell.run_cell(
        f"%%vlm -m {name} --map photos -o captions --batch-size 3 --max-tokens 10\n"
        "{picture}This is an image of",
        store_history=True,
    )
    assert result.error_in_exec is None
    assert not workspace.current().conversations.session().conversation.exchanges, "outside the conversation"
    processor, _ = plain_model(name)
    words = "This is an image of"
    match name:
        case "idefics":
            prompts: list[Any] = [[image, words] for image in photos]
        case "idefics-instruct":
            prompts = [["User:", image, f"{words}{END}", "\nAssistant:"] for image in photos]
        case "idefics2-base":
            prompts = [f"{IMAGE}{words}"] * 3
        case _:
            prompts = [f"User:{IMAGE}{words}{END}\nAssistant:"] * 3
    options: dict[str, Any] = {"return_tensors": "pt", "padding": True, "padding_side": "left"}
    options |= (
        {"add_end_of_utterance_token": False} if name in FIRST else {"images": [[image] for image in photos]}
    )
    inputs = processor(text=prompts, **options)
    expected = [words_of(processor.tokenizer, ids) for ids in generated(name, inputs, max_new_tokens=10)]
    answers = list(shell.user_ns["captions"]["answer"])
    assert len(set(answers)) > 1 or name != "idefics", "the one of them that tells such pictures apart"
    assert answers == expected
    assert list(shell.user_ns["captions"]["tokens"]) == [10, 10, 10]


def words_of(tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens as answers show it: random ones write bytes that decode in more than one way."""
    pieces = Detokenizer(tokenizer)
    return "".join([*(pieces.add(token) for token in ids), pieces.finish()])


def conversation_of_the_guide(said: str) -> list[Any]:
    return [
        *("User: What is in this image?", photo(1), END, f"\nAssistant: {said}{END}"),
        *("\nUser:", photo(2), f"And who is that?{END}", "\nAssistant:"),
    ]


def test_the_two_picture_conversation_of_idefics_instruct(shell: Any) -> None:
    """The guide's first answer is given, the second cell's is the model's: at most 100 tokens in all."""
    shell.user_ns["before"] = [
        {"role": "user", "content": [{"type": "text", "text": "What is in this image?"},
                                     {"type": "image", "image": photo(1)}]},
        {"role": "assistant", "content": IDEFIX},
    ]  # fmt: skip
    processor, _ = plain_model("idefics-instruct")
    inputs = processor(
        text=[conversation_of_the_guide(IDEFIX)], add_end_of_utterance_token=False, return_tensors="pt"
    )
    n_prompt = inputs["input_ids"].shape[1]
    said = cell(
        shell,
        "idefics-instruct",
        "--examples before --max-tokens 20",
        "{liberty}And who is that?",
    )
    assert said == generated("idefics-instruct", inputs, max_length=n_prompt + 20)[0]


def test_the_conversation_goes_on_from_cell_to_cell(shell: Any) -> None:
    """The first answer is the model's own; the second question sees it and both pictures."""
    name = "idefics-instruct"
    cell(shell, name, "--max-tokens 6", "What is in this image?{photo}")
    first = workspace.current().conversations.session().conversation.exchanges[-1].reply
    assert first is not None
    said = cell(shell, name, "--max-tokens 20", "{liberty}And who is that?")
    processor, _ = plain_model(name)
    inputs = processor(
        text=[conversation_of_the_guide(first.text)], add_end_of_utterance_token=False, return_tensors="pt"
    )
    assert said == generated(name, inputs, max_new_tokens=20)[0]


@EVERY
def test_forbidden_words_of_one_s_own(shell: Any, name: str) -> None:
    """``bad_words_ids`` of any words, beside the image tokens that nobody has to name."""
    free = shell.run_cell(f"%%vlm -m {name} -o free --max-tokens 12\n{{photo}}This is ", store_history=True)
    assert free.error_in_exec is None
    word = shell.user_ns["free"].split()[0]
    cell(shell, name, f'--bad-words "{word}","zebra crossing" --max-tokens 12', "{photo}This is ")
    reply = workspace.current().conversations.session().conversation.exchanges[-1].reply
    assert word not in reply.text.split()
