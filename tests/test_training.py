"""Training batches: which tokens are learned, on every family that talks, and that learning works."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_models import TINY, folder_of, tiny

from vlm_magic.errors import PromptError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.models.prompts.thinking import switch_of
from vlm_magic.models.prompts.token_ids import stop_token_ids
from vlm_magic.tasks.training.batch import IGNORED, training_batch

torch.set_num_threads(1)
CHAT = [name for name, build in TINY.items() if build.is_chat]


def user(*parts: str | Picture) -> Turn:
    return Turn("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(text: str) -> Turn:
    return Turn("assistant", (Text(text),))


def picture(colour: str = "red") -> Picture:
    return Picture(None, colour, Image.new("RGB", (48, 40), colour), colour)


def learned_words(loaded: Loaded, batch: dict[str, torch.Tensor], row: int = 0) -> str:
    """The words at the learned places, the tokens that end answers as a bar."""
    stops = stop_token_ids(loaded, Settings())
    words = ""
    for token_id, label in zip(batch["input_ids"][row].tolist(), batch["labels"][row].tolist(), strict=True):
        if label != IGNORED:
            assert label == token_id
            words += "|" if token_id in stops else loaded.tokenizer.decode([token_id])
    return words


@pytest.mark.parametrize("name", CHAT)
def test_only_the_assistants_words_are_learned(name: str) -> None:
    loaded = tiny(name)
    turns = [
        user(picture(), "What is in this image?"),
        assistant("two cats."),
        user("And this?", picture("blue")),
        assistant("a dog, not a <image>"),
    ]
    words = learned_words(loaded, training_batch(loaded, [turns]))
    ends = words.count("|")
    assert ends in (0, 2)  # LLaVA's template writes no end
    plain = "".join(words.replace("|", "").split())
    assert plain == "twocats.adog,nota<image>"


@pytest.mark.parametrize("name", CHAT)
def test_padding_pictures_and_questions_count_for_nothing(name: str) -> None:
    loaded = tiny(name)
    short, long = (
        [user(picture(), "What?"), assistant("ok.")],
        [
            user(picture("blue"), "What do we see in this image here and there?"),
            assistant("two cats on the nets."),
        ],
    )
    batch = training_batch(loaded, [short, long])
    padding = batch["attention_mask"] == 0
    assert padding[0, 0]
    assert (batch["labels"][padding] == IGNORED).all()
    assert learned_words(loaded, batch, 0).strip(" |") == "ok."
    assert learned_words(loaded, batch, 1).strip(" |").replace(" ", "") == "twocatsonthenets."


@pytest.mark.parametrize("name", [*CHAT, "paligemma"])
def test_what_is_learned_has_not_been_seen(name: str) -> None:
    """Another last word changes nothing of what the model finds likely before it."""
    loaded = tiny(name)
    turns = [user(picture(), "What is in this image?"), assistant("two cats on the nets")]
    batch = training_batch(loaded, [turns, turns])
    learned = (batch["labels"][0] != IGNORED).nonzero().flatten()  # (n,)
    ids = batch["input_ids"].clone()
    ids[:, learned[-1]] = ids[:, learned[0]]
    with torch.inference_mode():
        said = loaded.model(**batch).logits[:, learned - 1]  # (B, n, V)
        other = loaded.model(**{**batch, "input_ids": ids}).logits[:, learned - 1]
    assert len(learned) > 2
    torch.testing.assert_close(said, other)


def test_questions_can_be_learned_too() -> None:
    loaded = tiny("idefics2-chatty")
    turns = [user(picture(), "What?"), assistant("ok.")]
    words = learned_words(loaded, training_batch(loaded, [turns], only_assistant=False))
    assert "What?" in words
    assert "ok." in words
    assert "<image>" not in words


def test_a_conversation_without_an_answer_is_refused() -> None:
    with pytest.raises(PromptError, match="no answer to learn"):
        training_batch(tiny("llava"), [[user("hello")]])


@pytest.mark.parametrize("name", CHAT)
def test_a_few_steps_teach_a_fixed_answer(name: str) -> None:
    engine = LocalEngine(load_model(folder_of(name)))
    loaded = engine.loaded
    assert loaded is not None
    model = loaded.model
    ask = [user(picture(), "What is in this image?")]
    batch = training_batch(engine, [[*ask, assistant("two cats on the nets.")]])
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(100):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if losses[-1] < 0.02:
            break
    model.eval()
    assert losses[-1] < 0.1, losses
    # A finished answer has no thought in it: a model that thinks is asked for one at once.
    at_once = Settings(think=False if switch_of(loaded) else None)
    n_prompt_tokens = prepare(loaded, ask, at_once).inputs["input_ids"].shape[1]
    reply = engine.generate(ask, at_once.updated({"max_tokens": n_prompt_tokens}))
    assert reply.text.strip().startswith("two cats on the nets.")
    engine.close()
