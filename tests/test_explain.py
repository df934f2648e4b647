"""Why an answer is what it is: true where the truth is known, without a trace, on all that can score.

The figures of two hundred questions are those of `tests/benchmarks/bench_explain.py`; here is a small sample.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import tiny_models
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image, ImageDraw
from truths import Kind, Question, inside, points_at, questions

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import ConversationError, GenerationError, OptionError
from vlm_magic.explain.asking import Asker, words_of
from vlm_magic.explain.explanation import VIEWS, Explanation
from vlm_magic.explain.hiding import Grid, ground_of, hidden
from vlm_magic.explain.needed import find_needed
from vlm_magic.messages import NeededParts, Picture, Settings, Text, Turn
from vlm_magic.messages.explained import NeededPart
from vlm_magic.models.engine import LocalEngine
from vlm_magic.outputs.explain.needed import needed_plain
from vlm_magic.starter.making.world.scenes import draw_scene
from vlm_magic.testing import ScriptedEngine

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def starter() -> LocalEngine:
    from vlm_magic.models.checkpoints.loading import load_model

    return LocalEngine(load_model("starter"))


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return draw_scene([("red", "circle", 0.25, 0.3, 0.3), ("blue", "square", 0.7, 0.65, 0.35)])


@pytest.fixture(scope="module")
def why_blue(starter: LocalEngine, scene: Image.Image) -> Explanation:
    """Why the square is said to be blue: looked at once for all tests that only read it."""
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    return session.explain("needed", "without", "words")


def answered(starter: LocalEngine, kind: Kind, n: int) -> Iterator[tuple[Question, NeededParts]]:
    """Questions that the starter answers right, with the parts that its answers hang on."""
    for question in islice(questions(kind), n):
        session = vlm_magic.Session(starter)
        if session.ask(question.scene.picture, question.text).text == question.answer:
            turns = session.conversation.exchanges[0].turns[:1]
            reply = session.conversation.exchanges[0].reply
            assert reply is not None
            yield question, find_needed(Asker(starter, turns, reply, Settings()), with_curve=False)


# What is true


def test_the_needed_part_lies_on_the_object_that_was_asked_about(starter: LocalEngine) -> None:
    """As `Truth in CI` has it for two hundred: .93 of them, .8 inside."""
    found = list(answered(starter, "object", 12))
    assert len(found) >= 10
    assert sum(points_at(needed, question) for question, needed in found) >= 0.93 * len(found) - 1
    hits = [inside(needed, question) for question, needed in found if needed]
    assert sum(hits) / len(hits) >= 0.8


@pytest.mark.parametrize(("kind", "least"), [("absent", 0.75), ("ground", 0.95)])
def test_it_can_say_that_no_single_part_decides(starter: LocalEngine, kind: Kind, least: float) -> None:
    found = list(answered(starter, kind, 12))
    assert len(found) >= 8
    assert sum(not needed for _, needed in found) >= least * len(found) - 1


def test_the_order_found_brings_the_answer_down_sooner_than_chance(why_blue: Explanation) -> None:
    curve = why_blue.needed.curve
    assert curve is not None
    assert curve.area_by_need < 0.5 * curve.area_at_random
    assert curve.by_need[0] == pytest.approx(curve.at_random[0], abs=1e-3)
    assert (curve.hidden[0], curve.hidden[-1]) == (0, 1)


def test_a_part_says_what_it_would_be_without_it(starter: LocalEngine, scene: Image.Image) -> None:
    """The box is in pixels of the person's picture, whatever the model made of it."""
    session = vlm_magic.Session(starter)
    session.ask(scene.resize((448, 448)), "What colour is the square?")
    needed = session.explain("needed").needed
    (part,) = needed
    x0, y0, x1, y1 = part.box_px
    assert x0 < 0.7 * 448 < x1
    assert y0 < 0.65 * 448 < y1
    assert part.says == "There is no square."
    assert part.probability < 0.5 < needed.probability
    assert part.picture.size_px == (448, 448)


def test_of_several_pictures_the_part_names_its_own(starter: LocalEngine) -> None:
    one = draw_scene([("green", "star", 0.5, 0.5, 0.4)])
    two = draw_scene([("red", "circle", 0.3, 0.3, 0.35)])
    session = vlm_magic.Session(starter)
    assert session.ask(one, two, "What colour is the circle in the second picture?").text == "red"
    needed = session.explain("needed").needed
    assert len(needed.pictures) == 2
    assert {part.picture.digest for part in needed} == {session.conversation.exchanges[0].pictures[1].digest}


def test_a_longer_answer_says_which_of_its_words_lean_on_a_part(
    starter: LocalEngine, scene: Image.Image
) -> None:
    session = vlm_magic.Session(starter)
    session.ask(scene, "Describe the picture.")
    needed = session.explain("needed").needed
    leaning = {word.text.strip(".") for word in needed.words if word.leans}
    assert {"circle", "square"} <= leaning
    by_word = {word.strip("."): part for part in needed for word in part.words}
    assert by_word["circle"].box_px[0] < by_word["square"].box_px[0]


def test_choices_say_their_probabilities_without_the_part(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?", choices=("red", "blue"))
    needed = session.explain("needed").needed
    assert [choice.text for choice in needed.choices] == ["red", "blue"]
    for part in needed:
        assert sum(choice.probability for choice in part.choices) == pytest.approx(1)
        assert part.probability == next(c.probability for c in part.choices if c.text == "blue")


def test_a_question_that_needs_no_picture_is_told(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    session.ask(scene, "Is there a dog?")
    rows = session.explain("without", others=[Picture(None, "other", draw_scene([]))]).without
    assert [row.shown for row in rows] == [
        "as asked",
        "no picture",
        "a grey picture",
        "another picture: other",
    ]
    by_name = {row.shown: row for row in rows}
    assert by_name["a grey picture"].says == "no"
    session.ask(scene, "What colour is the square?")  # the picture stands in the turn before, too
    rows = session.explain("without").without
    assert all(row.probability < 0.5 for row in rows[1:] if row.probability is not None)


def test_words_are_those_of_the_answer_with_what_else_was_likely(
    starter: LocalEngine, scene: Image.Image
) -> None:
    session = vlm_magic.Session(starter)
    reply = session.ask(scene, "What colour is the square?", log_probabilities=True)
    words = session.explain("words").words
    assert "".join(token.text for token in words).strip() == reply.text
    assert words[-1].is_end
    said = [token.log_probability for token in words if not token.is_end]
    assert said == pytest.approx(reply.log_probabilities, abs=1e-4)
    for token in words:
        assert len(token.likeliest) == 5
        assert token.likeliest[0][1] == pytest.approx(token.log_probability, abs=1e-4)  # it was greedy
        assert token.entropy_bits is not None
        assert 0 <= token.entropy_bits < 11


# Without a trace


def test_looking_changes_neither_the_stores_nor_the_conversation(
    starter: LocalEngine, scene: Image.Image
) -> None:
    """The next answer reuses what it would have reused."""
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    reuse = starter.reuse
    held = reuse.n_bytes, reuse.prefixes.n_bytes, reuse.vision_cache.n_bytes
    before = list(session.conversation.exchanges)
    replies = [exchange.reply for exchange in before]
    session.explain("needed", "without", "words")
    assert starter.reuse is reuse
    assert (reuse.n_bytes, reuse.prefixes.n_bytes, reuse.vision_cache.n_bytes) == held
    assert list(session.conversation.exchanges) == before
    assert [exchange.reply for exchange in session.conversation] == replies
    assert [exchange.alternatives for exchange in session.conversation] == [[]]
    assert session.ask("And the circle?").n_reused_tokens > 30


def test_it_can_be_stopped_and_tells_how_far_it_is(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    told: list[tuple[str, int, int]] = []
    enough = threading.Event()

    def tell(*news: Any) -> None:
        told.append(news)
        enough.set()

    reuse = starter.reuse
    with pytest.raises(GenerationError, match="stopped"):
        session.explain("needed", on_progress=tell, is_stopped=enough.is_set)
    assert told[0][0] == "needed"
    assert 0 < told[0][1] <= told[0][2]
    assert starter.reuse is reuse
    assert session.ask("And the circle?").text == "red"


# What is wrong is said


def test_errors_say_what_there_is(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    with pytest.raises(ConversationError, match="nothing has been answered"):
        session.explain()
    session.ask("Hello!")
    with pytest.raises(OptionError, match="no picture in this turn"):
        session.explain("needed")
    with pytest.raises(OptionError, match="no view 'neded'") as caught:
        session.explain("neded")
    assert "%vlm_explain needed" in str(caught.value)
    found = session.explain("words")
    with pytest.raises(OptionError, match="was not asked for"):
        _ = found.needed
    scripted = vlm_magic.Session(ScriptedEngine("a cat"))
    scripted.ask(scene, "What is it?")
    with pytest.raises(OptionError, match="cannot tell how likely"):
        scripted.explain("needed")


def test_a_follow_up_looks_at_the_picture_before_it(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    session.ask("And the circle?")
    needed = session.explain("needed").needed
    assert needed[0].box_px[0] < 0.25 * 224 < needed[0].box_px[2]


def test_a_stale_turn_is_told(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    session.ask("And the circle?")
    session.conversation.hide(session.conversation.exchanges[0].id)
    assert any("stale" in note for note in session.explain("words").notes)


# How it looks


def test_what_is_saved_needs_neither_scripts_nor_styles(why_blue: Explanation) -> None:
    found, html = why_blue, why_blue.to_html()
    assert "<script" not in html
    assert "onclick" not in html
    assert 'alt="picture picture 1, 224×224 px, framed: part 1 at the right' in html
    assert "without this part" in html
    assert found.to_png().startswith(b"\x89PNG")
    assert "<img" not in found.to_html(pictures=False)
    assert "image/png" not in found.bundle(pictures=False)
    plain = str(found)
    for words in ("There is no square.", "changes in", "questions", "It needed the picture"):
        assert words in plain


def test_a_view_is_a_table_too(why_blue: Explanation) -> None:
    pytest.importorskip("pandas")
    assert list(why_blue.to_frame().says) == ["There is no square."]
    assert why_blue.to_frame("words").text[0].strip() == "blue"


def test_the_magic_and_the_option_show_it(
    monkeypatch: pytest.MonkeyPatch, starter: LocalEngine, capsys: Any
) -> None:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    fresh.models.add("starter", starter)
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    try:
        shell.user_ns["photo"] = draw_scene([("green", "star", 0.5, 0.5, 0.5)])
        assert shell.run_cell("%%vlm --explain words\nWhat colour is the star in {photo}?").success
        assert "Words:" in capsys.readouterr().out
        assert shell.run_cell("%vlm_explain -o why needed without").success
        assert "it says" in capsys.readouterr().out
        assert list(shell.user_ns["why"]) == ["needed", "without"]
        assert not shell.run_cell("%%vlm --explain wrds\nWhat colour is the star in {photo}?").success
        assert not shell.run_cell("%%vlm --explain words --dry-run\nWhat is in {photo}?").success
        assert len(vlm_magic.session().conversation) == 1
    finally:
        shell.run_line_magic("unload_ext", "vlm_magic")


# Every family


@pytest.mark.parametrize("name", sorted(tiny_models.TINY))
def test_it_runs_on_every_build_that_can_score(name: str) -> None:
    """Asked together where that gives the same numbers, else one by one."""
    engine = LocalEngine(tiny_models.tiny(name))
    image = Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 30, 40), fill="red")
    turns = (Turn("user", (Picture(None, "p", image), Text("What is it?"))),)
    reply = engine.generate(turns, Settings(max_tokens=4))
    asker = Asker(engine, turns, reply, Settings(max_tokens=4))
    grid = Grid.of(turns[0].pictures[0])
    dark = hidden(turns[0].pictures[0], grid, grid.cells[:8], (0, 0, 0))
    prompts = [turns, (Turn("user", (dark, Text("What is it?"))),)]
    together = [held.probability for held in asker.ask(prompts)]
    alone = [asker.ask([prompt])[0].probability for prompt in prompts]
    assert together == pytest.approx(alone, rel=2e-2)
    needed = find_needed(asker, with_curve=False)
    assert len(needed.pictures) == 1
    assert needed.n_questions > 4


# Its parts


def test_the_ground_is_the_colour_along_the_border() -> None:
    image = Image.new("RGB", (90, 60), (10, 200, 30))
    ImageDraw.Draw(image).rectangle((5, 5, 80, 55), fill="black")
    assert ground_of(image) == (10, 200, 30)


def test_cells_are_about_square_and_cover_the_picture() -> None:
    for size in ((224, 224), (300, 100), (7, 90), (1, 1)):
        grid = Grid.of(Picture(None, "p", Image.new("RGB", size)))
        boxes = [grid.box_px(cell) for cell in grid.cells]
        assert sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) == size[0] * size[1]


def test_tokens_are_put_together_to_words() -> None:
    spans, words = words_of(["a", " re", "d", " dog", ".", ""], "a red dog.", 6)
    assert words == ("a", "red", "dog.")
    assert spans == ((0, 1), (1, 3), (3, 6))
    assert words_of([], "a red dog.", 6) == (((0, 6),), ("a red dog.",))


def test_every_view_is_in_the_help() -> None:
    from vlm_magic.shell.options import help_text

    for name in VIEWS:
        assert name in help_text("%vlm_explain")


# What needs the model's inside


def test_tokens_say_whose_they_are_and_add_up(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter, system="Be brief.")
    session.ask(scene, "What colour is the square?")
    reply = session.ask("And the circle?")
    tokens = session.explain("tokens").tokens
    assert len(tokens) == reply.n_prompt_tokens

    def said(kind: str) -> str:
        return "".join(token.text for token in tokens if token.kind == kind).strip()

    assert said("person") == "What colour is the square? And the circle?"
    assert said("model") == "blue"
    assert said("system") == "Be brief."
    (seen,) = tokens.pictures
    assert (seen.n_tokens, seen.cells, seen.seen_px, seen.patch_px) == (36, (6, 6), (96, 96), 8)
    assert tokens.count("picture") + tokens.count("mark") == reply.n_picture_tokens


def test_a_picture_that_stands_in_the_prompt_again_is_drawn_once(
    starter: LocalEngine, scene: Image.Image
) -> None:
    session = vlm_magic.Session(starter)
    session.ask("What colour is the square in ", scene, "?")
    session.ask(scene, " Describe the picture.")
    found = session.explain("tokens")
    html = found.to_html()
    assert html.count("<ol>") == 1
    assert html.count("stands in 2 places") == str(found).count("stands in 2 places") == 1
    session.ask(Image.new("RGB", scene.size, "red"), " Describe the picture.")
    assert session.explain("tokens").to_html().count("<ol>") == 2


def test_memory_is_what_the_replies_say(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    first = session.ask(scene.rotate(90), "What colour is the square?")
    second = session.ask("And the circle?")
    one, two = session.explain("memory").memory
    assert one.n_reused + one.n_new_picture + one.n_new_text == first.n_prompt_tokens
    assert one.n_new_picture == first.n_picture_tokens
    assert (two.n_reused, two.n_new_picture) == (second.n_reused_tokens, 0)
    assert two.n_bytes == (second.n_prompt_tokens + second.n_new_tokens) * 5120


def test_the_last_layer_says_what_was_said(starter: LocalEngine, scene: Image.Image) -> None:
    """And a word that is on top in the end was not there in the first layer."""
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    found = session.explain("layers", "words")
    blue = found.layers[0]
    assert [token.text.strip() for token in found.layers] == ["blue", ""]
    assert blue.layers[-1].rank == 1
    assert blue.layers[-1].said == pytest.approx(found.words[0].probability, abs=1e-3)
    assert blue.first_on_top is not None
    assert 1 < blue.first_on_top <= len(blue.layers) == 5
    assert "logit lens" in found.to_html()


def test_two_looks_at_once_leave_what_was_kept_as_it_was(starter: LocalEngine) -> None:
    """The first to end must not let the other one's hidden pictures into the store, nor the last lose it."""
    own = starter.reuse
    first, second = starter.from_nothing(), starter.from_nothing()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert starter.reuse is not own
    second.__exit__(None, None, None)
    assert starter.reuse is own


def test_an_interrupt_on_the_way_to_a_look_leaves_what_was_kept_in_use(
    starter: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change of stores waits in line all the same, and is undone behind it."""
    own, submit = starter.reuse, starter._queue.submit
    n_submitted = 0

    def interrupted(work: Any, **options: Any) -> Any:
        nonlocal n_submitted
        n_submitted += 1
        generation = submit(work, **options)
        if n_submitted == 1:
            raise KeyboardInterrupt
        return generation

    monkeypatch.setattr(starter._queue, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt), starter.from_nothing():
        pass
    assert starter.reuse is own
    assert n_submitted == 2


@pytest.mark.parametrize(
    ("box_px", "where"),
    [
        ((40, 40, 120, 120), "upper left"),  # a third of the way, which nobody calls the middle
        ((80, 80, 160, 160), "middle"),
        ((80, 0, 160, 40), "top"),
        ((160, 120, 240, 240), "lower right"),
    ],
)
def test_where_a_part_lies_is_said_as_people_see_it(box_px: tuple[int, int, int, int], where: str) -> None:
    scene = Picture(None, "scene", Image.new("RGB", (240, 240)))
    part = NeededPart(scene, box_px, "no", 0.01)
    facts = {"answer": "yes", "probability": 0.99, "pictures": (scene,), "sizes": (), "words": ()}
    costs = {"curve": None, "choices": (), "n_questions": 9, "seconds": 0.1, "n_cells": 36}
    assert f" {where}, " in needed_plain(NeededParts([part], **facts, **costs))


def test_attention_says_what_it_is_and_leaves_the_model_as_it_was(
    starter: LocalEngine, scene: Image.Image
) -> None:
    from vlm_magic.explain.attention import attention_maps

    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    kind = starter.model.config._attn_implementation
    (attended,) = attention_maps(starter, session.conversation.exchanges[0])
    assert starter.model.config._attn_implementation == kind
    assert "where information may flow" in attended.label
    assert len(attended.weights) == len(attended.weights[0]) == 6
    assert 0 < sum(map(sum, attended.weights)) <= 1
    assert attended.peak_px[0] > 224 / 3
    assert attended.to_pil().size == (288, 288)


def test_attention_is_not_drawn_where_tokens_stand_for_no_places() -> None:
    """And the view of tokens says so."""
    from vlm_magic.explain.attention import attention_maps

    engine = LocalEngine(tiny_models.tiny("idefics2-chatty"))
    session = vlm_magic.Session(engine, max_tokens=3)
    session.ask(Image.new("RGB", (64, 48), "red"), "what is it")
    (seen,) = session.explain("tokens").tokens.pictures
    assert (seen.mixing, seen.cells) == ("queries", None)
    with pytest.raises(OptionError, match="stand for no places"):
        attention_maps(engine, session.conversation.exchanges[0])


@pytest.mark.parametrize("name", sorted(tiny_models.TINY))
def test_each_view_runs_on_every_build_or_says_why_not(name: str, closing_lines: list[str]) -> None:
    engine = LocalEngine(tiny_models.tiny(name))
    session = vlm_magic.Session(engine, max_tokens=4)
    image = Image.effect_noise((96, 48), 80).convert("RGB")
    reply = session.ask(image, "what is it and where")
    if not reply.text:
        session.conversation.exchanges[0].reply = vlm_magic.Reply("it is", model=engine.name)
    found = session.explain("words", "tokens", "memory", "without")
    tokens = found.tokens
    assert len(tokens) == reply.n_prompt_tokens
    person = "".join(token.text for token in tokens if token.kind == "person").replace(" ", "")
    assert person.strip().lower() == "whatisitandwhere"
    assert len(tokens.pictures) == 1
    assert tokens.count("picture") == tokens.pictures[0].n_tokens
    assert all(0 <= token.probability <= 1.0001 for token in found.words)
    try:
        layers = session.explain("layers").layers
    except OptionError as error:
        closing_lines.append(f"layers of {name}: {error.what}")
    else:
        assert all(word.layers[-1].rank >= 1 for word in layers)
    assert found.to_html()
    assert str(found)


# The reply's own data, and other words


def test_a_reply_carries_the_likeliest_tokens_where_the_settings_ask(
    starter: LocalEngine, scene: Image.Image
) -> None:
    """The same numbers as reading the answer again gives."""
    session = vlm_magic.Session(starter)
    reply = session.ask(scene, "Describe the picture.", top_log_probabilities=5, log_probabilities=True)
    told = reply.top_log_probabilities
    assert "".join(token.text for token in told).strip() == reply.text
    assert tuple(token.token_id for token in told) == reply.token_ids
    assert [token.log_probability for token in told] == pytest.approx(reply.log_probabilities, abs=1e-6)
    again = session.explain("words").words
    for one, other in zip(told, again[:-1], strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert one.entropy_bits == pytest.approx(other.entropy_bits, abs=1e-3)
        assert [each.token_id for each in one.likeliest[:2]] == [
            each.token_id for each in other.likeliest[:2]
        ]
    assert session.ask("And the circle?").top_log_probabilities == ()


def test_a_server_tells_the_likeliest_tokens_where_it_gives_them() -> None:
    """As the events of OpenAI's API hold them."""
    from vlm_magic.remote.answer import Answer
    from vlm_magic.remote.dialects import DIALECTS
    from vlm_magic.remote.payload import body_of

    settings = Settings(top_log_probabilities=2)
    body = body_of("m", [], settings, DIALECTS["vllm"])
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    answer = Answer(settings, lambda *_: None)
    likeliest = [{"token": " blue", "logprob": -0.1}, {"token": " red", "logprob": -2.5}]
    entry = {"token": " blue", "logprob": -0.1, "top_logprobs": likeliest}
    answer.take({"choices": [{"delta": {"content": " blue"}, "logprobs": {"content": [entry]}}]})
    end = {"token": "<|im_end|>", "logprob": -0.2, "top_logprobs": []}
    answer.take({"choices": [{"delta": {"content": ""}, "logprobs": {"content": [end]}}]})
    cut_off = answer.reply("length", model="m", notes=()).top_log_probabilities
    assert [each.is_end for each in cut_off] == [False, False]
    token, last = answer.reply("stop", model="m", notes=()).top_log_probabilities
    assert (last.text, last.is_end, last.log_probability) == ("", True, -0.2)
    assert (token.text, token.log_probability, token.entropy_bits) == (" blue", -0.1, None)
    assert [(other.text, other.log_probability) for other in token.likeliest] == [
        (" blue", -0.1),
        (" red", -2.5),
    ]


def test_another_word_gives_another_answer_of_the_turn(starter: LocalEngine, scene: Image.Image) -> None:
    session = vlm_magic.Session(starter)
    first = session.ask(scene, "Describe the picture.")
    session.ask("And the circle?")
    other = session.explain("words").words[0].likeliest[1].text
    answer = session.continue_with(other)
    for _ in answer:
        pass
    turn = session.conversation.exchanges[1]
    assert turn.reply is not None
    assert str(turn.reply.text).startswith(other.strip())
    assert [str(reply.text) for reply in turn.alternatives] == ["red"]
    assert any("in place of" in note for note in turn.reply.notes)
    answer = session.continue_with("green", 2, turn=session.conversation.exchanges[0].id)
    for _ in answer:
        pass
    assert answer.exchange.reply is not None
    said = str(answer.exchange.reply.text).split()
    assert (said[0], said[1]) == (first.text.split()[0], "green")
    assert len(said) > 4
    assert session.conversation.exchanges[1].is_stale
    with pytest.raises(OptionError, match="likely at none"):
        session.continue_with("zebra")
    with pytest.raises(OptionError, match="no place 99"):
        session.continue_with("red", 99)
    end = session.explain("words").words[-1]
    assert end.is_end
    with pytest.raises(OptionError, match="ends the answer"):
        session.continue_with(end.likeliest[0].text, len(session.explain("words").words))


def test_a_word_that_was_said_in_its_place_gives_the_same_answer(
    starter: LocalEngine, scene: Image.Image
) -> None:
    """So that going on changes nothing but the word."""
    session = vlm_magic.Session(starter)
    first = session.ask(scene, "Describe the picture.")
    for place, word in enumerate(first.text.split()[:4], start=1):
        for _ in session.continue_with(word, place):
            pass
        assert session.conversation.exchanges[0].reply is not None
        assert session.conversation.exchanges[0].reply.text == first.text
        assert session.conversation.exchanges[0].alternatives == []


# The button in the panels


def test_the_panel_explains_an_answer_below_it(starter: LocalEngine, scene: Image.Image) -> None:
    """Pressed again it takes that away; another answer takes it away, too."""
    from vlm_magic.outputs.panel.widget import ChatPanel
    from vlm_magic.shell.panels.explaining import Explaining

    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    turn = session.conversation.exchanges[0]
    panel = ChatPanel("cell", exchanges=[turn])
    explaining = Explaining(lambda: panel)
    explaining.press(session, turn.id)
    _until(lambda: "There is no square" in panel.why(turn.id))
    assert "<script" not in panel.why(turn.id)
    assert "<button" not in panel.why(turn.id)
    assert 'class="vlm-other" data-place="1"' in panel.why(turn.id)
    explaining.press(session, turn.id)
    assert panel.why(turn.id) == ""
    explaining.press(session, turn.id)
    explaining.press(session, turn.id)  # stopped
    _until(lambda: panel.why(turn.id) == "")
    panel.explain(turn.id, "because")
    panel.show_exchange(turn)
    assert panel.why(turn.id) == ""
    panel.close()


def test_a_word_that_is_pressed_is_taken_as_it_is_written(starter: LocalEngine, scene: Image.Image) -> None:
    """By what was found out about the answer while that is the one it was found out about."""
    from vlm_magic.explain.alternatives import begun_with
    from vlm_magic.messages import Likely, SaidToken
    from vlm_magic.shell.panels.explaining import Explaining

    likeliest = (Likely(" blue", -0.1, 5), Likely(" red", -2.0, 6), Likely("red", -3.0, 7))
    words = (SaidToken(" blue", 5, -0.1, likeliest),)
    for word, token in ((" red", 6), ("red", 7), ("red ", 6)):
        assert begun_with(starter, words, word, 1)[0].token_ids == (token,)
    # A server tells no numbers of its tokens: no word is taken for the end because of that.
    told = (SaidToken(" blue", -1, -0.1, (Likely(" red", -2.0),)), SaidToken("", -1, -0.1, (), None, True))
    assert begun_with(ScriptedEngine("blue"), told, " red", 1)[0].text == "red"
    session = vlm_magic.Session(starter)
    session.ask(scene, "What colour is the square?")
    turn = session.conversation.exchanges[0]
    explaining = Explaining(lambda: None)
    explaining._found[turn.id] = session.explain("words")
    answer = explaining.another(session, turn, 1, " green")(turn.id)
    assert "".join(chunk.text for chunk in answer).strip().startswith("green")
    now = session.conversation.exchanges[0]
    assert [str(other.text) for other in now.alternatives] == ["blue"]
    for _ in explaining.another(session, now, 1, " red")(now.id):
        pass
    assert str(session.conversation.exchanges[0].alternatives[0].text) == "blue"
    assert str(session.conversation.exchanges[0].reply).startswith("red")


def _until(is_so: Any) -> None:
    """Wait for something that another thread does; a loaded machine takes its time."""
    import time

    end = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
