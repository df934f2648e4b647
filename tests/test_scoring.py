"""How likely a reply is: the shared prompt gives what full forwards give, on every family."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from PIL import Image

from vlm_magic.errors import PromptError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models import scoring
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.families import FAMILIES

CHOICES = ("cat", "cats", "a quick brown fox", "Paris")
ABLE = {kind for family in FAMILIES if family.reuse != "none" for kind in family.model_types}


def question(name: str) -> list[Turn]:
    image = Image.effect_noise((64, 48), 80).convert("RGB")
    return [Turn("user", (Picture(None, "p", image), Text("What is it?")))]


@pytest.fixture(scope="module", params=sorted(tiny_models.TINY))
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(tiny_models.tiny(request.param))


def test_scores_are_those_of_full_forwards(engine: LocalEngine) -> None:
    """Twice: with an empty store and with the prompt in it; float32, within rounding."""
    assert engine.loaded is not None
    turns = question(engine.name)
    for _ in range(2):
        scores = engine.score(turns, CHOICES)
        for score in scores:
            with torch.inference_mode():
                full = scoring._with_full_forward(
                    engine.loaded, turns, score.token_ids, Settings(), lambda: None
                )
            assert score.token_log_probabilities == pytest.approx(full, abs=2e-5)
            assert score.log_probability == pytest.approx(sum(full), abs=1e-4)
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


def test_the_greedy_answer_is_the_likeliest_first_token(engine: LocalEngine) -> None:
    """Scores and answers come from the same model."""
    turns = question(engine.name)
    assert engine.loaded is not None
    reply = engine.generate(turns, Settings(max_tokens=1))
    scores = engine.score(turns, CHOICES, with_end=False)
    assert all(len(score.token_ids) >= 1 for score in scores)
    best = max(score.token_log_probabilities[0] for score in scores)
    assert best <= 0
    assert reply.n_new_tokens == 1


def test_no_choices_are_an_error_that_shows_how() -> None:
    """Three lines."""
    with pytest.raises(PromptError, match="no choices"):
        LocalEngine(tiny_models.tiny("idefics3")).score(question("x"), [])
