"""How likely a reply is: the shared prompt gives what full forwards give, on every family."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from leaning import leaning
from PIL import Image
from spoken import said_log_probabilities

from vlm_magic.errors import PromptError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models.decoding import scoring
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.prompts.families import FAMILIES

CHOICES = ("cat", "cats", "a quick brown fox", "Paris")
FIRSTS = ("cat", "Paris", "yellow")
"""They begin with different letters."""
ABLE = {kind for family in FAMILIES if family.reuse != "none" for kind in family.model_types}


def question(name: str) -> list[Turn]:
    image = Image.effect_noise((64, 48), 80).convert("RGB")
    return [Turn("user", (Picture(None, "p", image), Text("What is it?")))]


@pytest.fixture(scope="module", params=sorted(tiny_models.TINY))
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(tiny_models.tiny(request.param))


def test_scores_are_those_of_full_forwards(engine: LocalEngine) -> None:
    """As the model says the choices itself, step by step; twice, with an empty store and a filled one."""
    turns = question(engine.name)
    expected: list[list[float]] = []
    for _ in range(2):
        scores = engine.score(turns, CHOICES)
        expected = expected or [
            said_log_probabilities(engine.loaded, turns, score.token_ids) for score in scores
        ]
        for score, by_hand in zip(scores, expected, strict=True):
            assert score.token_log_probabilities == pytest.approx(by_hand, abs=5e-5)
            assert score.log_probability == pytest.approx(sum(by_hand), abs=2e-4)
            assert all(value < 0 for value in score.token_log_probabilities)


def test_scoring_leaves_the_next_answer_as_it_was(engine: LocalEngine) -> None:
    """The cache goes back to the prompt."""
    turns = question(engine.name)
    before = engine.generate(turns, Settings(max_tokens=5)).token_ids
    engine.score(turns, CHOICES)
    assert engine.generate(turns, Settings(max_tokens=5)).token_ids == before


def test_many_choices_are_scored_in_batches_alike(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few fit at a time."""
    turns = question(engine.name)
    together = engine.score(turns, CHOICES)
    monkeypatch.setattr(scoring, "_BATCH_BYTES", 1)
    one_by_one = engine.score(turns, CHOICES)
    for a, b in zip(together, one_by_one, strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


def test_no_forward_makes_more_logits_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many choices there are, and however long."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    turns, choices = question("idefics3"), [f"choice {n} of many, said at length" for n in range(24)]
    sizes: list[int] = []
    handle = engine.model.get_output_embeddings().register_forward_hook(
        lambda module, args, logits: sizes.append(4 * logits.numel())
    )
    try:
        together = engine.score(turns, choices)
        bound = max(sizes) // 4
        sizes.clear()
        monkeypatch.setattr(scoring, "_BATCH_BYTES", bound)
        in_parts = engine.score(turns, choices)
    finally:
        handle.remove()
    assert max(sizes) <= bound
    for a, b in zip(together, in_parts, strict=True):
        assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)


def test_the_greedy_answer_is_the_likeliest_first_token(engine: LocalEngine) -> None:
    """Made to lean towards a choice, a model both says it and finds it the likeliest; and so for each."""
    turns = question(engine.name)
    firsts = {score.choice: score.token_ids[0] for score in engine.score(turns, FIRSTS, with_end=False)}
    assert len(set(firsts.values())) == len(FIRSTS), "else it would not show which one is meant"
    for choice, token in firsts.items():
        with leaning(engine.model, [token], 50):
            reply = engine.generate(turns, Settings(max_tokens=1))
            scores = engine.score(turns, FIRSTS, with_end=False)
        assert reply.token_ids == (token,)
        assert max(scores, key=lambda score: score.token_log_probabilities[0]).choice == choice


def test_no_choices_are_an_error_that_shows_how() -> None:
    """Three lines."""
    with pytest.raises(PromptError, match="no choices"):
        LocalEngine(tiny_models.tiny("idefics3")).score(question("x"), [])
