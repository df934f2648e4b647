"""An answer that is gone on with is the answer that a larger limit would have given at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_models
import torch
from PIL import Image

from vlm_magic.errors import ContextLengthError, ConversationError, OptionError
from vlm_magic.messages import Picture, Reply, Settings, Text, Turn
from vlm_magic.models.engine import LocalEngine
from vlm_magic.session import Session
from vlm_magic.testing import ScriptedEngine

DRAWN = ("idefics3", "idefics", "mllama")  # in whose draws from this seed no answer ends
RED = Picture(None, "red", Image.new("RGB", (48, 32), "red"), "red-48-32")
QUESTION = (Turn("user", (Text("What is in "), RED, Text("?"))),)
N_TOKENS = 9


@pytest.fixture(scope="module", params=sorted(tiny_models.TINY))
def engine(request: pytest.FixtureRequest) -> LocalEngine:
    torch.set_num_threads(1)
    return LocalEngine(tiny_models.tiny(request.param))


def cut_and_continued(engine: LocalEngine, first: int, settings: Settings) -> tuple[Reply, Reply]:
    """(the answer cut after some tokens and gone on with, the same at once)."""
    whole = engine.generate(QUESTION, settings)
    cut = engine.generate(QUESTION, replace(settings, max_tokens=first))
    assert cut.finish_reason == "length"
    chunks = list(engine.continue_from(cut, QUESTION, settings))
    reply = chunks[-1].reply
    assert reply is not None
    assert "".join(chunk.text for chunk in chunks) == reply.text
    return reply, whole


def test_greedy_it_is_the_longer_answer_token_by_token(engine: LocalEngine) -> None:
    """Whether its tokens stand behind the prompt or are said again is the family's business."""
    reply, whole = cut_and_continued(engine, 4, Settings(max_tokens=N_TOKENS))
    assert reply.token_ids == whole.token_ids
    assert reply.text == whole.text
    assert reply.finish_reason == whole.finish_reason
    assert (reply.n_new_tokens, reply.n_prompt_tokens) == (whole.n_new_tokens, whole.n_prompt_tokens)
    assert reply.picture_tokens == whole.picture_tokens


@pytest.mark.parametrize("name", DRAWN)
def test_random_draws_from_a_seed_go_on_where_they_were(name: str) -> None:
    engine = LocalEngine(tiny_models.tiny(name))
    drawn = Settings(max_tokens=N_TOKENS, temperature=1.0, seed=5, log_probabilities=True)
    reply, whole = cut_and_continued(engine, 4, drawn)
    assert reply.token_ids == whole.token_ids
    assert reply.log_probabilities == pytest.approx(whole.log_probabilities, abs=1e-4)


def test_what_the_first_part_computed_is_not_computed_again() -> None:
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    cut = engine.generate(QUESTION, Settings(max_tokens=5))
    (*_, last) = engine.continue_from(cut, QUESTION, Settings(max_tokens=N_TOKENS))
    assert last.reply is not None
    assert last.reply.n_reused_tokens >= cut.n_prompt_tokens + 3


def test_a_text_without_its_tokens_is_gone_on_with_too() -> None:
    """As one from a saved notebook, or from another model."""
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    cut = engine.generate(QUESTION, Settings(max_tokens=5))
    bare = Reply(cut.text, "length", model="another")
    (*_, last) = engine.continue_from(bare, QUESTION, Settings(max_tokens=30))
    assert last.reply is not None
    assert last.reply.text.startswith(cut.text)
    assert last.reply.n_new_tokens == 30


def test_a_full_context_has_no_room_for_more() -> None:
    engine = LocalEngine(tiny_models.tiny("idefics3"))
    limit = engine.bill(QUESTION).context_tokens
    assert limit is not None
    long = Reply("w", "length", model=engine.name, token_ids=(5,) * limit)
    with pytest.raises(ContextLengthError):
        list(engine.continue_from(long, QUESTION, Settings(max_tokens=limit + 9)))


def test_in_a_session_it_stays_one_answer_of_one_turn() -> None:
    session = Session(ScriptedEngine("one two three four five six seven", "and then"))
    assert str(session.ask("Count", max_tokens=2)) == "one two"
    session.ask("More?")
    first = session.conversation.exchanges[0]
    reply = session.continue_answer(first.id, max_tokens=3)
    assert "".join(chunk.text for chunk in reply) == "one two three four five"
    first, later = session.conversation.exchanges
    assert first.reply is not None
    assert (str(first.reply), first.alternatives) == ("one two three four five", [])
    assert first.settings.max_tokens == 5, "asked again it would be as long"
    assert later.is_stale, "it saw the answer cut off"
    for _ in session.continue_answer(first.id):
        pass
    whole = session.conversation.exchanges[0].reply
    assert whole is not None
    assert (str(whole), whole.finish_reason) == ("one two three four five six seven", "stop")


def test_what_cannot_be_gone_on_with_says_why() -> None:
    session = Session(ScriptedEngine("a b", log_probabilities={"yes": -1.0, "no": -2.0}))
    with pytest.raises(ConversationError, match="no answer"):
        session.continue_answer()
    session.ask("What?")
    with pytest.raises(ConversationError, match="end by itself"):
        session.continue_answer()
    tiny = LocalEngine(tiny_models.tiny("idefics3"))
    cut = Reply("a", "length")
    for how in (Settings(beams=2), Settings(choices=("yes", "no"))):
        with pytest.raises(OptionError, match="token by token"):
            tiny.continue_from(cut, QUESTION, how)


def test_a_stop_before_more_was_said_loses_nothing() -> None:
    """Neither in line nor while a family says again what it has said."""
    tiny = LocalEngine(tiny_models.tiny("mllama"))
    session = Session(tiny)
    cut = session.ask(*QUESTION[0].parts, max_tokens=8)
    for _ in range(3):
        busy = tiny.start(QUESTION, Settings(max_tokens=50))
        answer = session.continue_answer()
        answer.stop()
        busy.stop()
        answer.wait()
        kept = session.conversation.exchanges[-1].reply
        assert kept is not None
        assert kept.text.startswith(cut.text)
    again = tiny.continue_from(cut, QUESTION, Settings(max_tokens=200))
    for _ in again:
        again.stop()  # at its first words
    assert again.reply is not None
    assert again.reply.text.startswith(cut.text)
