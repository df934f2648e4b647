"""Chat templates are programs of others: what they refuse is said, what they take is bounded."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import TINY, copy_of, tiny

from vlm_magic.errors import ModelKindError, ModelLoadError, PromptError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts import templates
from vlm_magic.models.prompts.prepare import prepare

END = "<end_of_utterance>"
PICTURE = Picture(None, "red", Image.new("RGB", (40, 30), "red"), "red")


def user(*parts: str | Picture) -> Turn:
    return Turn("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(text: str, thinking: str = "") -> Turn:
    return Turn("assistant", (Text(text),), thinking)


def loaded_with(template: str, tmp_path: Path) -> Loaded:
    folder = copy_of("idefics3", tmp_path / "copy")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return load_model(folder)


BLOCKS = (
    "{% for item in m.content %}{% if item.type == 'image' %}<image>{% else %}{{ item.text }}{% endif %}"
    "{% endfor %}"
)


def test_a_template_that_writes_the_system_text_into_the_last_question_is_right(tmp_path: Path) -> None:
    """Pixtral's does so: the text is there, only not where the conversation has it."""
    template = (
        "{% set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}"
        "{% for m in loop_messages %}{% if m.role == 'user' %}[INST]"
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content[0].text }}\n\n{% endif %}"
        + BLOCKS
        + "[/INST]{% else %}"
        + BLOCKS
        + "{% endif %}{% endfor %}"
    )
    turns = [user(PICTURE, "First?"), assistant("One."), user("Second?")]
    prepared = prepare(loaded_with(template, tmp_path), turns, Settings(system="Be brief."))
    assert prepared.rendered.endswith("[INST]Be brief.\n\nSecond?[/INST]")
    assert prepared.notes == ()


def test_what_a_template_says_against_a_system_text_reaches_the_person(tmp_path: Path) -> None:
    """Llama 3.2 Vision's refuses one together with pictures, and takes one alone."""
    template = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.content is not string %}"
        "{% for c in m.content %}{% if c.type == 'image' %}{% set ns.n = ns.n + 1 %}{% endif %}{% endfor %}"
        "{% endif %}{% endfor %}"
        "{% if ns.n and messages[0].role == 'system' %}"
        "{{ raise_exception('Prompting with images is incompatible with system messages.') }}{% endif %}"
        "{% for m in messages %}{{ m.role }}: " + BLOCKS + "\n{% endfor %}assistant:"
    )
    loaded = loaded_with(template, tmp_path)
    prepared = prepare(loaded, [user(PICTURE, "What?")], Settings(system="Be brief."))
    assert "Prompting with images is incompatible with system messages." in prepared.notes[0]
    assert "Be brief." in prepared.rendered
    alone = prepare(loaded, [user("What?")], Settings(system="Be brief."))
    assert alone.rendered.startswith("system: Be brief.")
    assert alone.notes == ()


def test_a_template_that_would_write_a_list_as_python_is_given_a_string(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    prepared = prepare(loaded_with(template, tmp_path), [user("See ", PICTURE, " there?")], Settings())
    assert prepared.rendered == "<|im_start|>user: See <image> there?\nassistant:"


def test_a_person_may_write_what_looks_like_such_a_list(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}" + BLOCKS + "{% endfor %}"
    asked = "What is {'type': 'text', 'text': 1}?"
    prepared = prepare(loaded_with(template, tmp_path), [user(asked)], Settings())
    assert prepared.rendered.endswith(asked)


def test_what_a_template_says_against_a_conversation_reaches_the_person(tmp_path: Path) -> None:
    template = "{{ raise_exception('Only one question at a time, please.') }}"
    with pytest.raises(PromptError, match="Only one question at a time") as caught:
        prepare(loaded_with(template, tmp_path), [user("What?")], Settings())
    assert str(caught.value).count("\n") == 2


GROWS = (
    "{% if messages | length > 3 %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}{% endif %}{% for m in messages %}" + BLOCKS + "{% endfor %}"
)
SWELLS = (
    "{% if messages | length > 3 %}{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}{% endif %}"
    "{% for m in messages %}" + BLOCKS + "{% endfor %}"
)
EATS = (
    "{% if messages | length > 3 %}{% set x = 'x' * 10 ** 10 %}{% endif %}"
    "{% for m in messages %}" + BLOCKS + "{% endfor %}"
)
LONG = [user("One?"), assistant("Yes."), user("Two?"), assistant("Yes."), user("Three?")]


@pytest.mark.parametrize("template", [GROWS, SWELLS, EATS], ids=["time", "size", "memory"])
def test_a_template_that_takes_too_much_later_is_an_error(tmp_path: Path, template: str) -> None:
    """It passes at load; the conversation grows; the next short one works again."""
    loaded = loaded_with(template, tmp_path)
    engine = LocalEngine(loaded)
    engine.generate(LONG[:1], Settings(max_tokens=2))
    began = time.monotonic()
    with pytest.raises(ModelLoadError, match="takes too long or too much memory with this conversation"):
        engine.generate(LONG, Settings(max_tokens=2))
    with pytest.raises(ModelLoadError):
        engine.bill(LONG)
    assert time.monotonic() - began < 2 * (templates.LIMIT_S + 20)
    assert engine.generate(LONG[:1], Settings(max_tokens=2)).n_new_tokens


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to a thread on this system")
def test_an_interrupt_while_a_template_hangs_returns_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who waits gets away, and so does the worker."""
    monkeypatch.setattr(templates, "LIMIT_S", 60.0)
    templates.close_all()
    engine = LocalEngine(loaded_with(GROWS, tmp_path))
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.generate(LONG, Settings(max_tokens=2))
    assert time.monotonic() - began < 15
    assert engine.generate(LONG[:1], Settings(max_tokens=2)).n_new_tokens
    assert not [child for child in templates._children.values() if not child.is_alive]


def test_a_child_that_was_killed_is_replaced() -> None:
    templates.render("{{ messages[0].content }}", {}, [{"role": "user", "content": "a"}])
    for child in templates._children.values():
        child._process.kill()
        child._process.wait()
    again = templates.render("{{ messages[0].content }}", {}, [{"role": "user", "content": "b"}])
    assert again.text == "b"


def test_only_a_few_children_are_kept() -> None:
    for n in range(7):
        assert templates.render(f"{n}", {}, []).text == f"{n}"
    assert len(templates._children) <= 4


WITH_TEMPLATE = [name for name, build in TINY.items() if build.is_chat and name != "idefics-instruct"]


@pytest.mark.parametrize("name", WITH_TEMPLATE)
def test_a_child_renders_what_transformers_renders(name: str) -> None:
    """With and without a place for an answer."""
    chatty: Loaded = tiny(name)
    template = chatty.chat_template
    assert template is not None
    blocks = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Wat is dit? é 🦆"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Een eend."}]},
        {"role": "user", "content": [{"type": "text", "text": "{{ no }} \\n"}]},
    ]
    names = dict(chatty.tokenizer.special_tokens_map)
    for more in (True, False):
        made = templates.render(template, names, blocks, add_generation_prompt=more)
        own = chatty.processor.apply_chat_template(blocks, add_generation_prompt=more, tokenize=False)
        assert made.text == own


def test_a_template_that_drops_words_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelKindError, match="drops a part of the prompt"):
        prepare(loaded_with("{{ bos_token }}hello", tmp_path), [user("What?")], Settings())
