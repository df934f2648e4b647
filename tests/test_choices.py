"""Choices: scored whole, compared in three ways, shown as bars; a turn like any other; a table for many."""

from __future__ import annotations

import enum
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from spoken import said_log_probabilities

import vlm_magic
from vlm_magic import workspace
from vlm_magic.choice_scores import compare, content_free
from vlm_magic.conversation import Conversation
from vlm_magic.errors import ContextLengthError, GenerationError, OptionError, PromptError, VLMError
from vlm_magic.messages import Choice, Exchange, Picture, Reply, Score, Settings, Text, Turn
from vlm_magic.models.decoding.scoring import replies_ids
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.outputs.export import export_conversation
from vlm_magic.outputs.records import from_record, to_record
from vlm_magic.outputs.results.choices import choices_html, choices_markdown, choices_plain, percent
from vlm_magic.outputs.transcript import exchange_bundle
from vlm_magic.session import Session
from vlm_magic.starter.making.world.palette import COLOURS
from vlm_magic.starter.making.world.scenes import Scene, plan_scene
from vlm_magic.tasks.choices.calibration import calibrate
from vlm_magic.tasks.choices.choices import Choices, ChoiceSet
from vlm_magic.tasks.classify import Classified, classify
from vlm_magic.testing import ScriptedEngine

TEXTS = ("cat", "cats", "a quick brown fox", "Paris")
"""One begins another, and they differ in length."""


def picture(seed: int = 0) -> Picture:
    noise = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Picture(None, "p", Image.fromarray(noise), f"noise {seed}")


def question(words: str = "What is it?", seed: int = 0) -> list[Turn]:
    return [Turn("user", (picture(seed), Text(words)))]


@pytest.fixture(scope="module", params=sorted(tiny_models.TINY))
def tiny(request: pytest.FixtureRequest) -> LocalEngine:
    """Not closed: the builds are shared by all tests."""
    torch.set_num_threads(1)
    return LocalEngine(tiny_models.tiny(request.param))


@pytest.fixture(scope="module")
def starter() -> Iterator[LocalEngine]:
    from vlm_magic.models.checkpoints.loading import load_model

    engine = LocalEngine(load_model("starter"))
    yield engine
    engine.close()


# ---- the scores are right, on every family ---------------------------------------------------------------


def test_log_probabilities_are_those_of_the_model_saying_the_choices_itself(tiny: LocalEngine) -> None:
    """On every family, with an empty store and with the prompt in it."""
    assert tiny.loaded is not None
    at_once = Settings(think=False)  # choices are compared behind the thought of a model that has one
    for _ in range(2):
        reply = tiny.generate(question(), Settings(choices=TEXTS))
        for choice in reply.choices:
            ids = replies_ids(tiny.loaded, question(), [choice.text], at_once)[0]
            by_hand = math.fsum(said_log_probabilities(tiny.loaded, question(), ids))
            assert choice.log_probability == pytest.approx(by_hand, abs=2e-3)
            assert choice.n_tokens == len(ids)
        assert math.fsum(choice.probability for choice in reply.choices) == pytest.approx(1)
        assert reply.text == max(reply.choices, key=lambda choice: choice.log_probability).text


PLAIN = {"idefics", "idefics-instruct", "idefics2-base", "paligemma", "blip-2", "instructblip"}
CHAT = sorted(set(tiny_models.TINY) - PLAIN)


@pytest.mark.parametrize("name", CHAT)
def test_a_reply_has_the_tokens_that_the_template_writes_in_a_conversation(name: str) -> None:
    """Prompt and reply together are the prompt of the finished turn: nothing is tokenized otherwise."""
    loaded = tiny_models.tiny(name)
    turns = question()
    prompt = prepare(loaded, turns, Settings()).inputs["input_ids"][0].tolist()
    for text in TEXTS:
        ids = replies_ids(loaded, turns, [text], Settings())[0]
        finished = [*turns, Turn("assistant", (Text(text),))]
        whole = prepare(loaded, finished, Settings()).inputs["input_ids"][0].tolist()
        assert (prompt + ids)[:-1] == whole[: len(prompt) + len(ids) - 1]
        assert ids[-1] in token_ids.stop_token_ids(loaded, Settings())


def test_a_base_checkpoint_gets_a_blank_before_a_reply_and_the_end_of_the_line_after_it() -> None:
    """As examples in its prompt are written; a blank at the prompt's end belongs to the reply."""
    loaded = tiny_models.tiny("idefics2-base")

    def spelled(words: str) -> str:
        ids = replies_ids(loaded, question(words), ["cat"], Settings())[0]
        pieces = "".join(loaded.tokenizer.convert_ids_to_tokens(ids))
        return pieces.replace("▁", " ").replace("<0x0A>", "\n")

    assert spelled("Category:") == " cat\n"
    assert spelled("Category:\n") == "cat\n"
    engine = LocalEngine(loaded)
    blank, none = (engine.score(question(words), TEXTS) for words in ("Category: ", "Category:"))
    assert [score.token_ids for score in blank] == [score.token_ids for score in none]
    assert blank[0].log_probability == pytest.approx(none[0].log_probability, abs=1e-5)


def test_single_tokens_are_decided_as_transformers_decides_them(starter: LocalEngine) -> None:
    """`generate` that may only write those tokens picks the same, with the same probabilities."""
    words = ("red", "blue", "green", "yellow")
    loaded = starter.loaded
    assert loaded is not None
    for seed in range(6):
        scene = plan_scene(Random(seed), n_objects=1)
        turns = [Turn("user", (Picture(None, "s", scene.picture, f"s{seed}"), Text("What colour is it?")))]
        scores = starter.score(turns, words, with_end=False)
        ids = [score.token_ids[0] for score in scores]
        assert all(len(score.token_ids) == 1 for score in scores)
        inputs = prepare(loaded, turns, Settings()).inputs
        out = loaded.model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda *_, ids=ids: ids,
            return_dict_in_generate=True,
            output_logits=True,
        )
        assert int(out.sequences[0, -1]) == ids[max(range(4), key=lambda n: scores[n].log_probability)]
        theirs = torch.softmax(out.logits[0][0].float()[ids], dim=-1).tolist()
        ours = [choice.probability for choice in compare(scores, Settings())]
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_whole_sequences_are_decided_as_an_exhaustive_beam_search_decides_them(starter: LocalEngine) -> None:
    """Transformers' own sum of log-probabilities over a tree of the choices, ends included."""
    loaded = starter.loaded
    assert loaded is not None
    words = ("red", "red circle", "a red circle", "blue square")
    scene = plan_scene(Random(3), n_objects=1)
    turns = [Turn("user", (Picture(None, "s", scene.picture, "s3"), Text("What is it?")))]
    reply = starter.generate(turns, Settings(choices=words))
    ids = replies_ids(loaded, turns, words, Settings())
    inputs = prepare(loaded, turns, Settings()).inputs
    n_prompt = inputs["input_ids"].shape[1]

    def allowed(_: int, so_far: torch.Tensor) -> list[int]:
        said = so_far[n_prompt:].tolist()
        nexts = {each[len(said)] for each in ids if each[: len(said)] == said and len(each) > len(said)}
        return sorted(nexts) or [ids[0][-1]]

    out = loaded.model.generate(
        **inputs,
        max_new_tokens=max(map(len, ids)),
        num_beams=8,
        num_return_sequences=4,
        length_penalty=0.0,
        do_sample=False,
        early_stopping=False,
        eos_token_id=ids[0][-1],
        prefix_allowed_tokens_fn=allowed,
        renormalize_logits=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    theirs = {
        tuple(t for t in row.tolist()[n_prompt:] if t != loaded.tokenizer.pad_token_id): float(score)
        for row, score in zip(out.sequences, out.sequences_scores, strict=True)
    }
    best = max(theirs, key=lambda row: theirs[row])
    assert tuple(ids[words.index(reply.text)])[: len(best)] == best[: len(ids[words.index(reply.text)])]
    assert max(choice.log_probability for choice in reply.choices) == pytest.approx(
        max(theirs.values()), abs=1e-3
    )


# ---- comparing -------------------------------------------------------------------------------------------


def scores_of(*pairs: tuple[float, int]) -> list[Score]:
    return [Score(f"c{n}", log, (0,) * size, (log / size,) * size) for n, (log, size) in enumerate(pairs)]


def test_the_normalisations_are_their_formulas() -> None:
    """Against the formulas of the module's docstring, written out again."""
    scores, priors = scores_of((-2.0, 1), (-3.0, 4), (-7.0, 2)), scores_of((-1.0, 1), (-6.0, 4), (-7.5, 2))

    def softmax(values: list[float]) -> list[float]:
        return [math.exp(v) / sum(map(math.exp, values)) for v in values]

    expected = {
        "none": [-2.0, -3.0, -7.0],
        "length": [-2.0, -0.75, -3.5],
        "prior": [-1.0, 3.0, 0.5],
    }
    for how, values in expected.items():
        compared = compare(scores, Settings(normalize=how), priors)  # type: ignore[arg-type]
        assert [choice.score for choice in compared] == pytest.approx(values)
        assert [choice.probability for choice in compared] == pytest.approx(softmax(values))
        assert [choice.log_probability for choice in compared] == [-2.0, -3.0, -7.0]


def test_the_prior_is_contextual_calibration_once_shares_add_up_to_one() -> None:
    """Zhao et al.: q = diag(p₀)⁻¹ p, with p and p₀ shares among the choices."""
    scores, priors = scores_of((-2.0, 1), (-3.0, 4), (-7.0, 2)), scores_of((-1.0, 1), (-6.0, 4), (-7.5, 2))
    p = [choice.probability for choice in compare(scores, Settings())]
    p0 = [choice.probability for choice in compare(priors, Settings())]
    q = [a / b for a, b in zip(p, p0, strict=True)]
    ours = [choice.probability for choice in compare(scores, Settings(normalize="prior"), priors)]
    assert ours == pytest.approx([value / sum(q) for value in q])


def test_a_ruled_out_choice_costs_nobody_a_number() -> None:
    """A model that gives −∞ to a token leaves finite scores, as JSON wants them."""
    compared = compare(scores_of((-math.inf, 1), (-1.0, 1)), Settings())
    assert [choice.probability for choice in compared] == [0.0, 1.0]
    assert all(math.isfinite(choice.log_probability) for choice in compared)
    both = compare(scores_of((-math.inf, 1), (-math.inf, 1)), Settings())
    assert [choice.probability for choice in both] == [0.5, 0.5]


def test_prior_scores_are_differences_to_a_grey_square(starter: LocalEngine) -> None:
    """From two questions that were scored by themselves."""
    turns = question("What colour is it?")
    prior = starter.generate(turns, Settings(choices=("red", "dark blue"), normalize="prior"))
    plain = starter.generate(turns, Settings(choices=("red", "dark blue")))
    grey = starter.generate(content_free(turns), Settings(choices=("red", "dark blue")))
    for with_prior, alone, without in zip(prior.choices, plain.choices, grey.choices, strict=True):
        assert with_prior.score == pytest.approx(alone.log_probability - without.log_probability, abs=1e-3)
        assert with_prior.log_probability == pytest.approx(alone.log_probability, abs=1e-3)
    assert any("grey" in note for note in prior.notes)


def test_the_prior_keeps_examples_and_earlier_turns(starter: LocalEngine) -> None:
    """Only the question's own picture is taken away: what stood before it stands before the grey square."""
    before = [*question("What is it?", seed=3), Turn("assistant", (Text("a red circle"),))]
    turns = [*before, *question("What colour is it?")]
    assert content_free(turns)[:-1] == before
    how = Settings(choices=("red", "dark blue"))
    prior = starter.generate(turns, replace(how, normalize="prior"))
    plain, grey = starter.generate(turns, how), starter.generate([*before, content_free(turns)[-1]], how)
    for with_prior, alone, without in zip(prior.choices, plain.choices, grey.choices, strict=True):
        assert with_prior.score == pytest.approx(alone.log_probability - without.log_probability, abs=1e-3)


def test_choices_leave_the_next_answer_as_it_was(tiny: LocalEngine) -> None:
    """The store holds the prompt and nothing of the choices."""
    before = tiny.generate(question(), Settings(max_tokens=5)).token_ids
    tiny.generate(question(), Settings(choices=TEXTS))
    assert tiny.generate(question(), Settings(max_tokens=5)).token_ids == before


def test_a_prompt_that_does_not_fit_with_its_longest_choice_is_refused() -> None:
    """With the numbers, before anything is computed."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    with pytest.raises(ContextLengthError, match="tokens"):
        engine.generate(question(), Settings(choices=("cat", "fox " * 4000)))
    assert engine.generate(question(), Settings(choices=("cat", "fox"))).text in ("cat", "fox")


def test_a_stop_and_a_time_limit_leave_no_answer_and_a_working_engine(starter: LocalEngine) -> None:
    """Nothing is said of choices that were not looked at."""
    late = starter.generate(question(), Settings(choices=TEXTS, time_limit_s=0.0))
    assert (late.text, late.finish_reason, late.choices) == ("", "time", ())
    with pytest.raises(GenerationError, match="not compared"):
        Choices(late)
    generating = starter.start(question(seed=9), Settings(choices=tuple(f"word {n}" for n in range(400))))
    generating.stop()
    stopped = generating.wait(30)
    assert stopped is not None
    assert (stopped.text, stopped.finish_reason) == ("", "interrupted")
    assert starter.generate(question(), Settings(choices=("red", "blue"))).choices


def test_a_model_that_samples_by_itself_compares_choices_all_the_same() -> None:
    """`--sampling` at the load is about words, not about choices."""
    from vlm_magic.models.checkpoints.loading import load_model
    from vlm_magic.models.load_options import LoadOptions

    engine = LocalEngine(load_model(tiny_models.folder_of("idefics3"), LoadOptions(sampling=True)))
    assert len(engine.generate(question(), Settings(choices=TEXTS)).choices) == 4


# ---- reading choices -------------------------------------------------------------------------------------


class Animal(enum.Enum):
    CAT = "cat"
    DOG = 2


@pytest.mark.parametrize(
    ("given", "texts", "labels", "values"),
    [
        (["a", " b  c "], ("a", "b c"), ("a", "b c"), ("a", " b  c ")),
        (("a", "b"), ("a", "b"), ("a", "b"), ("a", "b")),
        ({"b", "a"}, ("a", "b"), ("a", "b"), ("a", "b")),
        (Animal, ("cat", "DOG"), ("cat", "DOG"), (Animal.CAT, Animal.DOG)),
        ({0: "cat", 1: "dog"}, ("cat", "dog"), ("cat", "dog"), (0, 1)),
        ({"cat": 0, "dog": 1}, ("cat", "dog"), ("cat", "dog"), (0, 1)),
        ({"good": "great", "bad": "terrible"}, ("great", "terrible"), ("good", "bad"), ("good", "bad")),
        (pd.Series(["x", "y"]), ("x", "y"), ("x", "y"), ("x", "y")),
        (pd.Series(["b", "a", "b"], dtype="category"), ("a", "b"), ("a", "b"), ("a", "b")),
        (np.array([1, 2]), ("1", "2"), ("1", "2"), (1, 2)),
        (
            [1, 2.5, True, "four"],
            ("1", "2.5", "True", "four"),
            ("1", "2.5", "True", "four"),
            (1, 2.5, True, "four"),
        ),
        ((c for c in ("a", "b")), ("a", "b"), ("a", "b"), ("a", "b")),
    ],
)
def test_choices_are_read_from_whatever_holds_them(
    given: object, texts: tuple[str, ...], labels: tuple[str, ...], values: tuple[object, ...]
) -> None:
    read = ChoiceSet.of(given)
    assert (read.texts, read.labels, read.values) == (texts, labels, values)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("cat,dog", "['cat', 'dog']"),
        ([], "no choices"),
        (["a"], "one choice"),
        (["a", "a"], "twice"),
        (["a", " a"], "twice"),
        ([1, "1"], "twice"),
        (["a", "  "], "empty"),
        (["a", None], "NoneType"),
        (["a", math.nan], "float"),
        (["a", Image.new("RGB", (2, 2))], "Image"),
        ({"x": "a", "y": "a"}, "twice"),
        (pd.DataFrame({"a": ["x"]}), "table"),
        (3, "int"),
        ((1 // 0 for _ in "x"), "ZeroDivisionError"),
    ],
)
def test_choices_that_cannot_be_compared_are_a_short_error(given: object, part: str) -> None:
    with pytest.raises(OptionError) as caught:
        ChoiceSet.of(given, "names")
    assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("wrong", [("a",), ("a", "a"), ("a", ""), "ab", ("a", 1)])
def test_settings_refuse_such_choices_as_well(wrong: Any) -> None:
    with pytest.raises(OptionError):
        Settings(choices=wrong)


def test_quotes_around_all_choices_are_noticed() -> None:
    """They make one choice of the whole list."""
    with pytest.raises(OptionError, match="no quotes around all of them: red, green") as caught:
        Settings(choices=("red, green",))
    assert len(str(caught.value).splitlines()) == 3


def test_choices_are_neither_drawn_nor_searched() -> None:
    for other in ({"temperature": 0.5}, {"top_k": 3}, {"beams": 2}):
        with pytest.raises(OptionError, match="compared"):
            Settings(choices=("a", "b"), **other)  # type: ignore[arg-type]


def test_a_choice_of_control_words_is_scored_as_plain_letters(tiny: LocalEngine) -> None:
    """It ends where it ends, and adds no picture."""
    reply = tiny.generate(question(), Settings(choices=("<image>", "<end_of_utterance>", "</s>x", "cat")))
    assert len(reply.choices) == 4
    assert all(choice.n_tokens >= 2 for choice in reply.choices[:3])


# ---- what it shows ---------------------------------------------------------------------------------------

MADE = (
    Choice("animals", 0.0003, -9.1, 2, -9.1),
    Choice("<b>city</b> | `land`\nscape", 0.7, -1.2, 4, -1.2),
    Choice("vegetables", 0.2997, -2.05, 3, -2.05),
)


def test_bars_show_every_choice_the_likeliest_first_and_stay_inert() -> None:
    html, markdown, plain = choices_html(MADE), choices_markdown(MADE), choices_plain(MADE)
    for shown in (html, markdown, plain):
        assert shown.index("city") < shown.index("vegetables") < shown.index("animals")
    assert "70.0 %" in html
    assert "<b>city" not in html.replace("<b>&lt;b&gt;city", "")
    assert "&lt;b&gt;" in html
    assert "<b>" not in markdown
    assert markdown.count("\n") == 4, "a line break in a choice does not break the table"
    assert "█" in plain.splitlines()[0]
    assert choices_html(()) == choices_markdown(()) == choices_plain(()) == ""


def test_percentages_never_say_none_or_all_where_it_is_not_so() -> None:
    assert [percent(p) for p in (0.0, 1e-9, 0.0004, 0.5, 0.9996, 1.0)] == [
        "0.0 %", "<0.1 %", "<0.1 %", "50.0 %", ">99.9 %", "100.0 %",
    ]  # fmt: skip


def test_many_choices_are_summed_up() -> None:
    many = tuple(Choice(f"w{n}", 1 / 80, -4.0, 2, -4.0) for n in range(80))
    for shown in (choices_html(many), choices_markdown(many), choices_plain(many)):
        assert "and 50 more" in shown
        assert "w29" in shown
        assert "w30" not in shown


def exchange() -> Exchange:
    asked = Settings(choices=tuple(choice.text for choice in MADE))
    reply = Reply(MADE[1].text, choices=MADE, n_prompt_tokens=9, model="m")
    return Exchange("main-1", (Text("Which?"),), asked, reply, ("cell", 0))


def test_the_transcript_the_export_and_the_record_keep_the_choices() -> None:
    """A record comes back as it was; a forged one is left out."""
    bundle = exchange_bundle(exchange())
    for shown in bundle.values():
        assert "vegetables" in shown
        assert "3 choices" in shown
    for suffix in (".md", ".html", ".ipynb"):
        assert "vegetables" in export_conversation([exchange()], suffix)
    record = json.loads(json.dumps(to_record(exchange())))
    back = from_record(record)
    assert back is not None
    assert back.reply is not None
    assert back.reply.choices == MADE
    assert back.settings.choices == exchange().settings.choices
    for forged in ([["a", 2, 0, 1, 0]], [["a", 0.5, float("nan"), 1, 0]], ["a"], "abc", [[1, 0.5, 0, 1, 0]]):
        record["reply"]["choices"] = forged
        back = from_record(record)
        assert back is not None
        assert back.reply is not None
        assert back.reply.choices == ()


def test_an_exported_notebook_asks_with_the_same_choices() -> None:
    notebook = json.loads(export_conversation([exchange()], ".ipynb"))
    assert notebook["cells"][2]["source"].startswith("%%vlm --choices ")


def test_the_result_tells_best_probabilities_and_the_objects_they_came_from() -> None:
    asked = ChoiceSet(("great", "terrible", "so so"), ("good", "bad", "fair"), ("good", "bad", 3))
    reply = Reply("so so", choices=compare(scores_of((-2.0, 1), (-3.0, 4), (-0.5, 2)), Settings()))
    result = Choices(reply, asked)
    assert (result.best, str(result), result.value) == ("fair", "fair", 3)
    assert list(result.probabilities) == ["good", "bad", "fair"]
    assert result.probability == max(result.probabilities.values())
    assert result.log_probabilities == {"good": -2.0, "bad": -3.0, "fair": -0.5}
    series = result.to_series()
    assert list(series.index) == ["fair", "good", "bad"]
    assert series.sum() == pytest.approx(1)
    assert "fair" in repr(result)
    bundle = result._repr_mimebundle_()
    assert "vlm-choices" in bundle["text/html"]
    assert bundle["text/html"] == result._repr_html_()
    assert "█" in bundle["text/plain"]


# ---- as a turn -------------------------------------------------------------------------------------------


def test_a_chosen_answer_is_a_turn_like_any_other(starter: LocalEngine) -> None:
    """It replaces the cell's turn, makes later ones stale, is asked again as it was asked."""
    session = Session(starter, Conversation())
    scene = plan_scene(Random(1), n_objects=1)
    colour = scene.objects[0].colour
    colours = (colour, next(name for name in COLOURS if name != colour))
    session.start(["What colour is it? ", scene.picture], key=("a", 0), choices=colours).wait()
    session.start(["Sure?"], key=("b", 0), max_tokens=4).wait()
    session.start(["Is it big?"], key=("c", 0), choices=("yes", "no")).wait()
    first, second, _ = session.conversation.exchanges
    assert first.reply is not None
    assert first.reply.text == colour
    assert [turn.text for turn in session.conversation.turns_for(second)][1] == colour
    session.start(["What colour? ", scene.picture], key=("a", 0), choices=("one", *colours)).wait()
    again, *later = session.conversation.exchanges
    assert all(turn.is_stale for turn in later)
    assert [earlier.text for earlier in again.alternatives] in ([colour], [])
    reply = session.again(again.id).wait()
    assert reply is not None
    assert [choice.text for choice in reply.choices] == ["one", *colours]
    assert session.refresh() == 2
    assert len(session.conversation.exchanges[2].reply.choices) == 2  # type: ignore[union-attr]


def test_an_engine_that_cannot_score_says_so_before_anything_happens() -> None:
    session = Session(ScriptedEngine())
    with pytest.raises(OptionError, match="how likely"):
        session.ask("hi", choices=("a", "b"))
    with pytest.raises(OptionError, match="how likely"):
        classify(ScriptedEngine(), Image.new("RGB", (8, 8)), ["a", "b"])
    assert len(session.conversation) == 0


def test_a_batch_chooses_as_one_by_one(starter: LocalEngine) -> None:
    turns = [question("What colour is it?", seed) for seed in range(3)]
    how = Settings(choices=("red", "blue", "dark green"))
    together = starter.generate_batch(turns, how)
    for mine, alone in zip(together, (starter.generate(each, how) for each in turns), strict=True):
        assert mine.text == alone.text
        assert [c.probability for c in mine.choices] == pytest.approx(
            [c.probability for c in alone.choices], abs=1e-4
        )


# ---- in a notebook ---------------------------------------------------------------------------------------


@pytest.fixture
def shell(starter: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    fresh.models.add("starter", starter)
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.user_ns.update(
        photo=plan_scene(Random(1), n_objects=1).picture,
        colours=["red", "blue", "green"],
        words="red,blue",
        labels={"warm": "red", "cold": "blue"},
        Animal=Animal,
    )
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


def run(shell: Any, source: str) -> Any:
    result = shell.run_cell(source, store_history=True)
    return result.error_in_exec or result.error_before_exec


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ('red,"dark blue",green', ["red", "dark blue", "green"]),
        ('red, "dark blue", green', ["red", "dark blue", "green"]),
        ("\"it's fine\", don't,do", ["it's fine", "don't", "do"]),
        ("1,-1, 2", ["1", "-1", "2"]),
        ('["red", "a, b"]', ["red", "a, b"]),
        ("('red', 'blue')", ["red", "blue"]),
        ("colours", ["red", "blue", "green"]),
        ("{colours}", ["red", "blue", "green"]),
        ("colours[:2]", ["red", "blue"]),
        ("labels", ["red", "blue"]),
        ("labels.values()", ["red", "blue"]),
        ("Animal", ["cat", "DOG"]),
        ("1,2,3", ["1", "2", "3"]),
        ("red,blue --normalize prior", ["red", "blue"]),
        ("red,blue --normalize length", ["red", "blue"]),
    ],
)
def test_a_line_names_choices_in_the_ways_people_write_them(
    shell: Any, written: str, texts: list[str]
) -> None:
    assert run(shell, f"%%vlm --choices {written} -o found --new\nWhat colour is it? {{photo}}") is None
    found = shell.user_ns["found"]
    assert isinstance(found, Choices)
    assert [choice.text for choice in found.reply.choices] == texts


def test_a_cell_shows_a_bar_per_choice_and_keeps_the_turn(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shell, "%%vlm --choices colours -o found\nWhat colour is it? {photo}") is None
    out = capsys.readouterr().out
    assert all(word in out for word in ("red", "blue", "green", "%", "3 choices"))
    run(shell, "%vlm_history")
    assert "3 choices" in capsys.readouterr().out
    assert run(shell, "%vlm --choices yes,no Is there a circle in {photo}?") is None
    first = workspace.current().conversations.session().conversation.exchanges[0].reply
    assert first is not None
    assert first.text == shell.user_ns["found"].best


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--choices words", "one text"),
        ("--choices colour", "colours"),
        ("--choices red", "no variable 'red'"),
        ('--choices "red"', "one choice"),
        ("--choices red,", "empty"),
        ("--choices red,,blue", "empty"),
        ("--choices red,red", "twice"),
        ("--choices photo", "Image"),
        ("--choices red,blue --temperature 1", "compared"),
        ("--choices red,blue --normalize best", "none, length, prior"),
        ("--choices red,blue --normalize prior --raw", "picture"),
        ("--choices red,blue --type int", "together"),
        ("--normalize length", "--choices"),
    ],
)
def test_a_slip_is_three_lines_and_costs_nothing(
    shell: Any, line: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "%%vlm --choices colours -o found\nWhat colour is it? {photo}")
    before = workspace.current().conversations.session().conversation.exchanges
    kept = shell.user_ns["found"]
    capsys.readouterr()
    error = run(shell, f"%%vlm {line} -o found\nWhat colour is it? {{photo}}")
    assert isinstance(error, VLMError)
    assert part in str(error)
    shown = capsys.readouterr()
    assert len((shown.out + shown.err).strip().splitlines()) <= 3
    assert workspace.current().conversations.session().conversation.exchanges == before
    assert shell.user_ns["found"] is kept
    assert run(shell, "%%vlm --choices colours\nWhat colour is it? {photo}") is None


def test_a_dry_run_with_choices_chooses_nothing(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shell, "%%vlm --choices colours --dry-run\nWhat colour is it? {photo}") is None
    assert "tokens" in capsys.readouterr().out
    assert len(workspace.current().conversations.session().conversation) == 0


def test_without_a_picture_choices_work_as_well(shell: Any) -> None:
    assert run(shell, "%%vlm --choices yes,no -o found\nIs there a picture?") is None
    assert shell.user_ns["found"].best in ("yes", "no")


# ---- many pictures ---------------------------------------------------------------------------------------


def scenes(n: int, seed: str = "choices") -> list[Scene]:
    return [plan_scene(Random(f"{seed} {i}"), n_objects=1) for i in range(n)]


def test_one_picture_gives_choices_and_many_a_table(starter: LocalEngine) -> None:
    shown = scenes(4)
    truth = [scene.objects[0].colour for scene in shown]
    one = vlm_magic.classify(starter, shown[0].picture, list(COLOURS), "What colour is it?")
    assert isinstance(one, Choices)
    many = vlm_magic.classify(
        starter, [scene.picture for scene in shown], list(COLOURS), "What colour is it?", truth=truth
    )
    assert isinstance(many, Classified)
    assert many.answers[0] == one.best
    frame = many.to_frame()
    assert list(frame["truth"]) == truth
    assert list(frame["answer"]) == many.answers
    assert frame[[f"p({colour})" for colour in COLOURS]].sum(axis=1).tolist() == pytest.approx([1.0] * 4)
    right = [answer == colour for answer, colour in zip(many.answers, truth, strict=True)]
    assert many.accuracy == sum(right) / 4
    assert many.confusion.to_numpy().sum() == 4
    assert many.confusion.to_numpy().trace() == sum(right)
    assert "accuracy" in repr(many)
    html = many._repr_html_()
    assert html.count("<img") == 4
    assert "truth ↓" in html


@pytest.mark.parametrize("form", ["list", "tuple", "series", "dict", "generator", "batch"])
def test_many_pictures_come_in_many_forms(starter: LocalEngine, form: str) -> None:
    images = [scene.picture.resize((96, 96)) for scene in scenes(2)]
    forms: dict[str, Any] = {
        "list": images,
        "tuple": tuple(images),
        "series": pd.Series(images, index=["x", "y"], dtype=object),
        "dict": {"x": images[0], "y": images[1]},
        "generator": (image for image in images),
        "batch": np.stack([np.asarray(image) for image in images]),
    }
    found = classify(starter, forms[form], ["red", "blue"], "What colour is it?")
    assert isinstance(found, Classified)
    assert len(found) == 2
    assert [row.name for row in found] == (
        ["x", "y"] if form in ("series", "dict") else ["picture[0]", "picture[1]"]
    )


def test_many_pictures_are_a_map_with_a_journal(starter: LocalEngine, tmp_path: Any) -> None:
    """Asked in batches, kept in a file, found again with every number that was there."""
    shown = scenes(6)
    for n, scene in enumerate(shown):
        scene.picture.save(tmp_path / f"{n}.png")
    path = tmp_path / "rows.jsonl"

    def ask() -> Classified:
        found = classify(starter, str(tmp_path), list(COLOURS), "What colour is it?", journal=path)
        assert isinstance(found, Classified)
        return found

    first, n_lines = ask(), len(path.read_text().splitlines())
    again = ask()
    assert [row.name for row in first] == [f"{n}.png" for n in range(6)]
    assert len(path.read_text().splitlines()) == n_lines == 7
    for fresh, kept, scene in zip(first, again, shown, strict=True):
        assert fresh.outcome is not None
        assert kept.outcome is not None
        assert kept.outcome.log_probabilities == fresh.outcome.log_probabilities
        assert kept.outcome.scores == fresh.outcome.scores
        one = classify(starter, scene.picture, list(COLOURS), "What colour is it?")
        assert isinstance(one, Choices)
        assert fresh.outcome.best == one.best
        assert fresh.outcome.probabilities == pytest.approx(one.probabilities, abs=1e-4)


def test_words_of_a_question_are_literal_but_for_the_pictures_place(starter: LocalEngine) -> None:
    """Braces and addresses in choices and questions are words, for one picture as for many."""
    picture = scenes(1)[0].picture
    words = 'Is {picture} {"a": 1} or {no_such_name} of https://example.org/a.png?'
    one = classify(starter, picture, ["red", "{no_such_name}"], words)
    many = classify(starter, [picture], ["red", "{no_such_name}"], words)
    assert isinstance(one, Choices)
    assert isinstance(many, Classified)
    outcome = many.rows[0].outcome
    assert outcome is not None
    assert outcome.log_probabilities == pytest.approx(one.log_probabilities, abs=1e-3)


def test_a_bad_picture_is_a_row_with_an_error(starter: LocalEngine) -> None:
    good = scenes(1)[0].picture
    found = classify(
        starter, [good, "/no/such.png", good], ["red", "blue"], "Colour?", truth=["red", "red", None]
    )
    assert isinstance(found, Classified)
    assert [bool(row.error) for row in found] == [False, True, False]
    assert found.answers[1] is None
    assert len(found.judged) == 1
    assert "1 with an error" in found.summary
    assert found.to_frame()["error"].notna().sum() == 1


def test_a_generator_that_raises_keeps_what_was_done(starter: LocalEngine) -> None:
    def source() -> Iterator[Image.Image]:
        yield scenes(1)[0].picture
        raise RuntimeError("the disk is gone")

    with pytest.raises(PromptError, match="the disk is gone") as caught:
        classify(starter, source(), ["red", "blue"], "Colour?")
    assert len(caught.value.done) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pictures", "truth", "part"),
    [
        ([], None, "no pictures"),
        (pd.DataFrame({"picture": []}), None, "table"),
        (["good"], ["Red"], "'red'"),
        (["good"], ["red", "blue"], "more true labels"),
        (["good", "good"], ["red"], "1 true labels"),
        (["good"], "red", "one true label"),
    ],
)
def test_pictures_or_a_truth_that_do_not_fit_are_a_short_error(
    starter: LocalEngine, pictures: Any, truth: object, part: str
) -> None:
    if isinstance(pictures, list):
        pictures = [scenes(1)[0].picture for _ in pictures]
    with pytest.raises(VLMError) as caught:
        classify(starter, pictures, ["red", "blue"], "Colour?", truth=truth)
    assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_without_a_truth_there_is_no_accuracy(starter: LocalEngine) -> None:
    found = classify(starter, [scenes(1)[0].picture], ["red", "blue"])
    assert isinstance(found, Classified)
    for ask in (lambda: found.accuracy, lambda: found.confusion, found.calibration):
        with pytest.raises(OptionError, match="truth"):
            ask()


def test_without_pandas_the_numbers_are_still_there(
    starter: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = classify(starter, [scenes(1)[0].picture], ["red", "blue"], truth=["red"])
    assert isinstance(found, Classified)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    assert 0 <= found.accuracy <= 1
    assert found.counts
    assert found._repr_html_()
    outcome = found.rows[0].outcome
    assert outcome is not None
    for ask in (found.to_frame, lambda: found.confusion, outcome.to_series):
        with pytest.raises(OptionError, match="pip install pandas"):
            ask()


# ---- calibration -----------------------------------------------------------------------------------------


def test_the_calibration_error_is_its_formula() -> None:
    """Two answers at .9 of which one is right, and two at .6 of which both are."""
    found = calibrate([0.9, 0.9, 0.6, 0.6], [True, False, True, True], n_bins=10)
    assert found.expected_error == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1.0 - 0.6))
    assert found.maximum_error == pytest.approx(0.4)
    assert [(round(each.low, 1), round(each.high, 1)) for each in found.bins if each.n] == [
        (0.5, 0.6),
        (0.8, 0.9),
    ]


def test_calibration_agrees_with_a_plain_numpy_version() -> None:
    rng = np.random.default_rng(4)
    confidences = rng.uniform(0, 1, 2000)
    right = rng.uniform(0, 1, 2000) < confidences**2
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        held = (confidences > low) & (confidences <= high)
        if held.any():
            expected += held.mean() * abs(right[held].mean() - confidences[held].mean())
    found = calibrate(confidences.tolist(), right.tolist())
    assert found.expected_error == pytest.approx(expected)
    assert found.n == 2000


def test_the_ends_of_the_bins_belong_to_them() -> None:
    found = calibrate([0.0, 1.0], [False, True], n_bins=4)
    assert [each.n for each in found.bins] == [1, 0, 0, 1]
    assert found.expected_error == 0


@pytest.mark.parametrize(
    ("p", "right", "n"), [([], [], 5), ([0.5], [], 5), ([1.5], [True], 5), ([0.5], [True], 0)]
)
def test_calibration_refuses_what_is_no_probability(p: list[float], right: list[bool], n: int) -> None:
    with pytest.raises(OptionError):
        calibrate(p, right, n_bins=n)


def test_the_reliability_diagram_is_drawn(tmp_path: Any) -> None:
    import matplotlib.pyplot as plt

    ax = calibrate([0.9, 0.9, 0.6, 0.6], [True, False, True, True], n_bins=10).plot()
    assert "0.400" in ax.get_title()
    assert sorted(round(bar.get_height(), 2) for bar in ax.patches) == [0.5, 1.0]
    ax.figure.savefig(tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").stat().st_size > 5000
    plt.close(ax.figure)


# ---- the starter, by choices -----------------------------------------------------------------------------


SKILLS_BY_CHOICES = ("colour", "shape", "exist", "where", "count all", "left or right", "held-out wordings")
N_QUESTIONS = 16


def held_out(skill: str, n: int) -> dict[str, list[tuple[Turn, str]]]:
    """Questions on fresh scenes with their right answers, by the kind of answer."""
    from vlm_magic.starter.making.evaluate import SKILLS

    build = next(each for each in SKILLS if each.name == skill).build
    found: dict[str, list[tuple[Turn, str]]] = {}
    i = n_found = 0
    while n_found < n:
        i += 1
        dialogue = build(Random(f"by choices/{skill}/{i}"))
        if dialogue is None or "no picture" in dialogue.turns[-1].skill:
            continue
        turn = dialogue.turns[-1]
        parts = session_parts([dialogue.pictures[p].picture if isinstance(p, int) else p for p in turn.parts])
        found.setdefault(turn.skill, []).append((Turn("user", parts), turn.answer))
        n_found += 1
    return found


def session_parts(values: list[Any]) -> tuple[Any, ...]:
    from vlm_magic.session import to_parts

    return to_parts(values)


def test_the_starter_chooses_as_well_as_it_speaks_and_as_one_by_one(
    starter: LocalEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out scenes: accuracy by skill, printed; each decision is that of plain forwards, one a choice."""
    lines, all_right, all_said, n_all = [], 0, 0, 0
    for skill in SKILLS_BY_CHOICES:
        right = said = n = 0
        for kind, asked in held_out(skill, N_QUESTIONS).items():
            answers = {answer for _, answer in asked} | ({"yes", "no"} if "exist" in kind else set())
            choices = tuple(sorted(answers | ({"red", "blue"} if len(answers) < 2 else set())))
            for position, (turn, answer) in enumerate(asked):
                reply = starter.generate([turn], Settings(choices=choices))
                right += reply.text == answer
                said += starter.generate([turn]).text.strip() == answer
                n += 1
                if position < 3:  # by hand as well
                    assert starter.loaded is not None
                    by_hand = {
                        choice: math.fsum(
                            said_log_probabilities(
                                starter.loaded,
                                [turn],
                                replies_ids(starter.loaded, [turn], [choice], Settings())[0],
                            )
                        )
                        for choice in choices
                    }
                    assert reply.text == max(by_hand, key=lambda choice: by_hand[choice])
        lines.append(f"{skill:18} by choices {right / n:.3f}   in its own words {said / n:.3f}   of {n}")
        all_right, all_said, n_all = all_right + right, all_said + said, n_all + n
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert all_right >= 0.93 * n_all
    assert all_right >= all_said - 0.02 * n_all
