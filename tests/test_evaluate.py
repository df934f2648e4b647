"""Evaluations: the arithmetic of fractions, judging free answers, and the same in a map with ``--truth``."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from script_vectors import VECTOR_LIST, live_things, render_with_html

import vlm_magic
from vlm_magic import workspace
from vlm_magic.errors import OptionError, PromptError
from vlm_magic.outputs.results.cards import Card
from vlm_magic.outputs.results.map import Sheet, sheet_bundle
from vlm_magic.outputs.results.verdicts import Verdict
from vlm_magic.tasks.evaluate.judging import matcher_of, normalised
from vlm_magic.tasks.evaluate.proportions import Proportion, mcnemar_exact
from vlm_magic.tasks.map.journal import forget_maps
from vlm_magic.testing import ScriptedEngine


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    forget_maps()
    yield
    forget_maps()


def patch(colour: str) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


COLOURS = ("red", "green", "blue", "black")


def table() -> pd.DataFrame:
    return pd.DataFrame({
        "picture": [patch(colour) for colour in COLOURS],
        "question": [f"Which colour is {{picture}}, number {n}?" for n in range(4)],
        "answer": list(COLOURS),
        "kind": ["bright", "bright", "dark", "dark"],
    })  # fmt: skip


# ---- arithmetic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_right", "n"), [(50, 60), (1, 2), (3, 40), (199, 200)])
def test_the_interval_is_wilsons(n_right: int, n: int) -> None:
    """Its ends are the fractions from which the measured one is 1.96 standard deviations away."""
    for end in Proportion(n_right, n).interval:
        deviations = abs(n_right / n - end) / math.sqrt(end * (1 - end) / n)
        assert deviations == pytest.approx(1.959964, abs=1e-5)
    assert Proportion(0, 10).interval[0] == 0.0
    assert Proportion(10, 10).interval[1] == 1.0


def test_an_interval_holds_the_true_fraction_about_nineteen_times_in_twenty() -> None:
    """Of 40 fair throws: summed over all outcomes, not drawn."""
    n, p = 40, 0.3
    held = sum(
        math.comb(n, k) * p**k * (1 - p) ** (n - k)
        for k in range(n + 1)
        if Proportion(k, n).interval[0] <= p <= Proportion(k, n).interval[1]
    )
    assert 0.93 < held < 0.97


def test_mcnemars_exact_test_is_the_binomial_tail() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(3, 3) == 1.0
    assert mcnemar_exact(7, 1) == pytest.approx(2 * 9 / 256)
    assert mcnemar_exact(1, 7) == mcnemar_exact(7, 1)
    splits = itertools.product((0, 1), repeat=5)  # every way in which five questions can be split
    as_lopsided = sum(sum(split) in (0, 5) for split in splits)
    assert mcnemar_exact(5, 0) == pytest.approx(as_lopsided / 2**5)


def test_a_fraction_of_nothing_says_so() -> None:
    assert str(Proportion(0, 0)) == "no answer with a truth"
    assert math.isnan(Proportion(0, 0).value)


# ---- judging ---------------------------------------------------------------------------------------------


def test_answers_are_compared_exactly_normalised_or_by_a_function() -> None:
    assert normalised(" The  Red one. ") == "red one"
    exact, loose = matcher_of("exact"), matcher_of("normalised")
    assert (exact("Red.", "red"), loose("Red.", "red"), loose("a blue", "red")) == (False, True, False)
    assert loose("Violet", ["purple", "violet"]) is True
    assert loose(3, "3") is True
    within = matcher_of(lambda answer, truth: str(truth) in str(answer))
    assert within("It is red", "red") is True
    assert all(matcher("red", missing) is None for matcher in (exact, loose) for missing in (None, math.nan))


def test_what_cannot_compare_is_said_in_three_lines() -> None:
    with pytest.raises(OptionError, match="cannot be compared by 'fuzzy'") as caught:
        matcher_of("fuzzy")
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(PromptError, match="ZeroDivisionError") as failed:
        matcher_of(lambda answer, truth: 1 / 0)("red", "red")
    assert "truth 'red'" in str(failed.value)


# ---- evaluating ------------------------------------------------------------------------------------------


def test_free_answers_are_counted_with_interval_and_groups() -> None:
    engine = ScriptedEngine("Red.", "the green", "black", "black")
    result = vlm_magic.evaluate(engine, table(), by="kind")
    assert (result.accuracy.n_right, result.accuracy.n) == (3, 4)
    assert {name: (share.n_right, share.n) for name, share in result.by_group.items()} == {
        "bright": (2, 2),
        "dark": (1, 2),
    }
    (wrong,) = result.errors
    assert (wrong.question, wrong.answer, wrong.truth) == (
        "Which colour is [picture], number 2?",
        "black",
        "blue",
    )
    assert engine.history[0][0][-1].text == "Which colour is , number 0?"
    assert list(result.to_frame()["right"]) == [True, True, False, True]


def test_wrong_answers_come_with_the_most_confident_first() -> None:
    """The probability is that of the whole answer, asked of the engine for wrong answers alone."""
    chances = {"black": math.log(0.2), "white": math.log(0.9), "Red.": math.log(0.5)}
    engine = ScriptedEngine("Red.", "black", "white", "black", log_probabilities=chances)
    result = vlm_magic.evaluate(engine, table())
    assert [row.answer for row in result.errors] == ["white", "black"]
    assert [row.probability for row in result.errors] == pytest.approx([0.9, 0.2])
    assert result.rows[0].probability is None
    forget_maps()
    engine.enqueue("Red.", "black", "white", "black")
    with pytest.raises(OptionError, match="probabilities=True"):
        result.calibration()
    all_of_them = vlm_magic.evaluate(engine, table(), probabilities=True)
    assert all_of_them.rows[0].probability == pytest.approx(0.5)
    assert all_of_them.calibration().n == 4


def test_two_of_them_are_compared_question_by_question() -> None:
    first = vlm_magic.evaluate(ScriptedEngine(*COLOURS, name="good"), table())
    second = vlm_magic.evaluate(ScriptedEngine("red", "red", "red", "red", name="poor"), table())
    paired = first.compare(second)
    assert (paired.n_both, paired.n_first_only, paired.n_second_only, paired.n_neither) == (1, 3, 0, 0)
    assert paired.p_value == pytest.approx(0.25)
    assert str(paired).startswith("only good right: 3, only poor right: 0")
    with pytest.raises(OptionError, match="the same questions"):
        first.compare(vlm_magic.evaluate(ScriptedEngine("red"), table().iloc[:1]))


def test_pairs_and_triples_are_questions_too_and_a_bad_picture_counts_as_wrong() -> None:
    rows = [(patch("red"), "red"), (patch("blue"), "And this?", "blue"), ("no/such/file.png", "green")]
    engine = ScriptedEngine("red", "blue")
    result = vlm_magic.evaluate(engine, rows, "What is {picture}?")
    assert (result.accuracy.n_right, result.accuracy.n) == (2, 3)
    assert "PictureNotFoundError" in result.errors[-1].error
    assert {turns[-1].text for turns, _ in engine.history} == {"What is ?", "And this?"}


def test_what_is_missing_is_said_before_anything_is_asked() -> None:
    engine = ScriptedEngine()
    for questions, by, said in ((table(), "kinds", "by='kind'"), ([], None, "columns picture and answer")):
        with pytest.raises(PromptError, match="no ") as caught:
            vlm_magic.evaluate(engine, questions, by=by)
        assert said in str(caught.value)
    assert engine.history == []


def test_the_starter_answers_and_is_judged() -> None:
    """A real model: flat pictures in colours that it knows, one asked for with a wrong truth."""
    engine = vlm_magic.load()
    rows = [(patch("white").resize((96, 96)), "white"), (patch("black").resize((96, 96)), "white")]
    result = vlm_magic.evaluate(engine, rows, "What colour is the background?")
    assert [row.is_right for row in result.rows] == [True, False]
    assert 0.5 < (result.errors[0].probability or 0) <= 1


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_nothing_in_its_view_can_run_or_fetch(vector: str) -> None:
    """Wherever words of people and models stand: question, answer, truth, group, error."""
    card = Card(vector, vector, vector, 0.5, question=vector, truth=vector, is_right=False, error=vector)
    verdict = Verdict(vector, ((vector, 1, 2, 0.1, 0.9),), (card,), 1)
    bundle = sheet_bundle(Sheet([card], 1, 1, [card], (vector,), (vector,), verdict=verdict))
    page = re.sub(r"^<style>.*?</style>", "", bundle["text/html"], flags=re.DOTALL)
    ours = r'<i style="(--\w+:[\d.]+%;?)+">|</?(details|summary|i)>|role="img" |aria-label="(right|wrong)"'
    assert live_things(re.sub(ours, "", page)) == []
    assert live_things(render_with_html(bundle["text/markdown"])) == []
    assert "1 wrong or missing answer" in bundle["text/plain"]


# ---- in a map --------------------------------------------------------------------------------------------


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    fresh = workspace.Workspace()
    monkeypatch.setattr(workspace, "_current", fresh)
    chances = {"black": math.log(0.2), "white": math.log(0.9)}
    scripted = ScriptedEngine("Red.", "black", "white", "black", log_probabilities=chances)
    fresh.models.add("scripted", scripted)
    return scripted


@pytest.fixture
def shell(engine: ScriptedEngine) -> Iterator[Any]:
    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "vlm_magic")
    shell.user_ns.update(frame=table(), truths=list(COLOURS), first=lambda said, truth: said[0] == truth[0])
    yield shell
    shell.run_line_magic("unload_ext", "vlm_magic")


MAP = "%%vlm --map frame.picture -o said --truth "


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("answer", [True, False, False, True]),
        ("truths", [True, False, False, True]),
        ("frame.answer --match exact", [False, False, False, True]),
        ("answer --match first", [False, False, False, True]),
    ],
)
def test_a_map_with_its_truth_says_how_many_are_right(
    shell: Any, capsys: pytest.CaptureFixture[str], line: str, right: list[bool]
) -> None:
    """The table gets the verdicts; the view the interval, and the most confident wrong answer first."""
    assert not shell.run_cell(f"{MAP}{line}\nWhat is {{picture}}?").error_in_exec
    said = shell.user_ns["said"]
    assert list(said["right"]) == right
    assert list(said["truth"]) == list(COLOURS)
    out = capsys.readouterr().out
    assert f"{25.0 * sum(right):.1f} % right ({sum(right)} of 4; 95 % interval" in out
    assert "the most confident first" in out
    assert out.index("white (90 %); truth: blue") < out.index("black (20 %); truth: green")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("answr", "answer"),
        ("truths[:2]", "2 truths for 4 pictures"),
        ("answer --match fuzzy", "no variable 'fuzzy'"),
        ("table", "columns picture, question, answer, kind"),
    ],
)
def test_a_truth_that_does_not_fit_is_said_before_anything_is_asked(
    shell: Any, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    error = shell.run_cell(f"{MAP}{line}\nWhat is {{picture}}?").error_in_exec
    assert isinstance(error, OptionError)
    assert said in str(error)
    assert len(str(error).splitlines()) == 3
    assert engine.history == []


def test_match_needs_a_truth_and_a_truth_needs_a_map(shell: Any) -> None:
    for line in ("%%vlm --truth answer\nHello", "%%vlm --map frame.picture --match exact\nHello"):
        assert isinstance(shell.run_cell(line).error_in_exec, OptionError)
