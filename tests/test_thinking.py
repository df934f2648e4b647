"""What a model thinks before it answers: kept apart, counted, given back as its template wants it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import copy_of, tiny
from transformers import LogitsProcessor

from vlm_magic.errors import OptionError
from vlm_magic.messages import Picture, Reply, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.prepare import prepare

QUESTION = [Turn("user", (Picture(None, "red", Image.new("RGB", (40, 30), "red"), "red"), Text("What?")))]


class Script(LogitsProcessor):
    """Has the model say what the test wants, token by token."""

    def __init__(self, loaded: Loaded, text: str) -> None:
        self._ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        self._n_prompt: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._n_prompt = input_ids.shape[1] if self._n_prompt is None else self._n_prompt
        n_said = input_ids.shape[1] - self._n_prompt
        only = torch.full_like(scores, -torch.inf)
        only[:, self._ids[min(n_said, len(self._ids) - 1)]] = 0
        return only


def said(loaded: Loaded, text: str, settings: Settings | None = None) -> tuple[Reply, str, str]:
    """(reply, streamed words, streamed thought) of a model that says ``text``."""
    engine = LocalEngine(loaded)
    script = Script(loaded, text)
    chunks = list(engine.start(QUESTION, settings or Settings(max_tokens=80), logits_processors=[script]))
    reply = chunks[-1].reply
    assert reply is not None
    return reply, "".join(c.text for c in chunks), "".join(c.thinking for c in chunks)


def with_template(template: str, folder: Path) -> Loaded:
    copy_of("idefics3", folder)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return load_model(folder)


PLAIN = (
    "{% for m in messages %}{{ m.role }}: {% for item in m.content %}{% if item.type == 'image' %}<image>"
    "{% else %}{{ item.text.split('</think>')[-1] }}{% endif %}{% endfor %}\n{% endfor %}"
)


def test_a_thought_that_the_template_opened_is_apart_from_the_answer() -> None:
    reply, words, thought = said(tiny("qwen3.5"), "It is red.\n</think>\n\nRed.<|im_end|>")
    assert (reply.text, reply.thinking) == ("Red.", "It is red.")
    assert (words, thought) == (reply.text, reply.thinking)
    assert 0 < reply.n_thinking_tokens < reply.n_new_tokens == len(reply.token_ids) + 1


def test_a_thought_that_the_model_opens_itself_is_apart_too() -> None:
    """Gemma 4 writes a label into its thoughts, which is no part of them."""
    reply, words, thought = said(tiny("gemma4"), "<|channel>thought\nSo red.<channel|>Red.<turn|>")
    assert (reply.text, reply.thinking) == ("Red.", "So red.")
    assert (words, thought) == ("Red.", "So red.")


@pytest.mark.parametrize("opened", ["", "{% if add_generation_prompt %}assistant: <think>\n{% endif %}"])
def test_marks_that_are_no_tokens_are_found_by_their_letters(tmp_path: Path, opened: str) -> None:
    """And the next question is answered: the template drops the thought, and nothing is missed."""
    loaded = with_template(PLAIN + opened, tmp_path / "copy")
    assert "<think>" not in loaded.control.added
    start = "" if opened else "<think>\n"
    reply, words, thought = said(loaded, f"{start}It is < red.\n</think>\n\nRed.<|im_end|>")
    assert (reply.text, reply.thinking) == ("Red.", "It is < red.")
    assert (words, thought) == ("Red.", "It is < red.")
    answer = Turn("assistant", (Text(reply.text),), reply.thinking)
    again = prepare(loaded, [*QUESTION, answer, Turn("user", (Text("Sure?"),))], Settings())
    assert "It is < red." not in again.rendered
    assert "Red." in again.rendered
    assert again.notes == ()


def test_words_that_only_begin_like_a_mark_are_the_answer(tmp_path: Path) -> None:
    loaded = with_template(PLAIN, tmp_path / "copy")
    reply, words, _ = said(loaded, "<thin ice<|im_end|>")
    assert reply.text == words == "<thin ice"
    assert (reply.thinking, reply.n_thinking_tokens) == ("", 0)


def test_a_thought_that_uses_up_its_tokens_says_so() -> None:
    reply, _, _ = said(tiny("qwen3.5"), "It is red and so on.", Settings(max_tokens=4))
    assert (reply.text, reply.finish_reason) == ("", "length")
    assert any("still thinking" in note for note in reply.notes)


def test_a_template_that_asks_for_the_thought_gets_it() -> None:
    """Qwen3.5 shows a thought of the running answer, and none of earlier ones."""
    answer = Turn("assistant", (Text("Red."),), "It is red.")
    last = prepare(tiny("qwen3.5"), [*QUESTION, answer], Settings())
    assert "<think>\nIt is red.\n</think>\n\nRed." in last.rendered
    later = prepare(tiny("qwen3.5"), [*QUESTION, answer, Turn("user", (Text("Sure?"),))], Settings())
    assert "It is red." not in later.rendered


def test_thinking_is_turned_off_and_on_where_the_template_knows_it() -> None:
    qwen, gemma = tiny("qwen3.5"), tiny("gemma4")
    assert prepare(qwen, QUESTION, Settings()).rendered.endswith("<think>\n")
    assert prepare(qwen, QUESTION, Settings(think=True)).rendered.endswith("<think>\n")
    assert prepare(qwen, QUESTION, Settings(think=False)).rendered.endswith("<think>\n\n</think>\n\n")
    assert "<|think|>" not in prepare(gemma, QUESTION, Settings()).rendered
    assert "<|think|>" in prepare(gemma, QUESTION, Settings(think=True)).rendered


def test_a_template_without_a_switch_has_its_thought_closed(tmp_path: Path) -> None:
    loaded = with_template(PLAIN + "{% if add_generation_prompt %}<think>\n{% endif %}", tmp_path / "copy")
    assert prepare(loaded, QUESTION, Settings(think=False)).rendered.endswith("<think>\n\n</think>\n\n")


def test_a_model_that_does_not_think_cannot_be_made_to() -> None:
    with pytest.raises(OptionError, match="does not think"):
        prepare(tiny("idefics3"), QUESTION, Settings(think=True))
    prepare(tiny("idefics3"), QUESTION, Settings(think=False))


@pytest.mark.parametrize("name", ["qwen3.5", "gemma4"])
def test_a_thought_has_no_more_tokens_than_it_may(name: str) -> None:
    engine = LocalEngine(tiny(name))
    reply = engine.generate(QUESTION, Settings(max_tokens=40, think=5, bad_words=("<turn|>", "<|im_end|>")))
    assert 5 <= reply.n_thinking_tokens <= 5 + 8
    assert reply.n_new_tokens > reply.n_thinking_tokens
    assert reply.thinking
    (batched, _) = engine.generate_batch([QUESTION, QUESTION], Settings(max_tokens=40, think=5))
    assert batched.n_thinking_tokens <= 5 + 8


def test_choices_are_compared_behind_the_thought() -> None:
    engine = LocalEngine(tiny("qwen3.5"))
    reply = engine.generate(QUESTION, Settings(choices=("red", "blue")))
    assert reply.text in ("red", "blue")
    closed = prepare(tiny("qwen3.5"), QUESTION, Settings(think=False)).inputs["input_ids"].shape[1]
    assert reply.n_prompt_tokens == closed


@pytest.mark.parametrize("think", [None, False, 4])
def test_a_typed_answer_begins_behind_the_thought(think: int | None) -> None:
    grammar = json.dumps({"json_schema": {"enum": ["red", "blue"]}})
    settings = Settings(max_tokens=60, think=think, grammar=grammar)
    reply = LocalEngine(tiny("qwen3.5")).generate(QUESTION, settings)
    assert json.loads(reply.text) in ("red", "blue")
    assert bool(reply.thinking) is bool(think)


def test_the_setting_is_checked() -> None:
    with pytest.raises(OptionError, match="think is 0"):
        Settings(think=0)
