"""The notebook is the conversation: a re-run replaces in place, later turns stay and become stale."""

from __future__ import annotations

import pytest

from vlm_magic.conversation import CellKey, Conversation
from vlm_magic.errors import ConversationError
from vlm_magic.messages import Exchange, Picture, Reply, Settings, Text


def say(
    conversation: Conversation, text: str, key: CellKey | None = None, answer: str = "", fresh: bool = False
) -> Exchange:
    draft = conversation.draft((Text(text),), Settings(), key)
    return conversation.commit(draft, Reply(answer or f"re {text}"), fresh=fresh)


def shown(conversation: Conversation, text: str, key: CellKey | None = None) -> list[str]:
    draft = conversation.draft((Text(text),), Settings(), key)
    return [turn.text for turn in conversation.turns_for(draft)]


@pytest.fixture
def three() -> Conversation:
    conversation = Conversation()
    for name in "abc":
        say(conversation, name, (name, 0))
    return conversation


def test_a_new_cell_sees_all_turns_before_it(three: Conversation) -> None:
    """In the order in which the cells were first run."""
    assert shown(three, "d", ("d", 0)) == ["a", "re a", "b", "re b", "c", "re c", "d"]


def test_running_a_cell_again_replaces_its_turn_and_marks_later_ones_stale(three: Conversation) -> None:
    """The earlier answer stays as an alternative; nothing is lost."""
    assert shown(three, "b2", ("b", 0)) == ["a", "re a", "b2"]
    done = say(three, "b2", ("b", 0))
    assert [e.parts[0].text for e in three] == ["a", "b2", "c"]  # type: ignore[union-attr]
    assert [e.is_stale for e in three] == [False, False, True]
    assert [reply.text for reply in done.alternatives] == ["re b"]


def test_run_all_twice_gives_the_same_conversation_as_once(three: Conversation) -> None:
    """Each turn once, none of them stale."""
    before = [(e.parts, e.reply, e.key) for e in three]
    for name in "abc":
        say(three, name, (name, 0))
    assert [(e.parts, e.reply, e.key) for e in three] == before
    assert not any(e.is_stale for e in three)


def test_a_draft_changes_nothing(three: Conversation) -> None:
    """A call that fails leaves the conversation as it was."""
    before = three.exchanges
    three.draft((Text("b2"),), Settings(), ("b", 0))
    assert three.exchanges == before
    assert not any(e.is_stale for e in three)


def test_ids_are_new_on_every_run(three: Conversation) -> None:
    """A late stop for the earlier run can never hit the next one."""
    first = three.exchanges[1].id
    assert say(three, "b", ("b", 0)).id != first
    assert three.find(three.exchanges[1].id).key == ("b", 0)
    with pytest.raises(ConversationError, match=first):
        three.find(first)


def test_without_a_cell_id_turns_are_appended() -> None:
    """As in a terminal."""
    conversation = Conversation()
    for _ in range(2):
        say(conversation, "same")
    assert len(conversation) == 2


def test_a_question_stopped_before_its_first_word_is_not_shown_to_the_model() -> None:
    """Templates want the roles to alternate."""
    conversation = Conversation()
    draft = conversation.draft((Text("cut"),), Settings(), ("a", 0))
    conversation.commit(draft, Reply("", finish_reason="interrupted"))
    assert shown(conversation, "next") == ["next"]
    assert len(conversation) == 1


def test_a_shorter_loop_drops_the_turns_it_no_longer_makes() -> None:
    """What came after them becomes stale."""
    conversation = Conversation()
    for n in range(3):
        say(conversation, f"loop {n}", ("a", n))
    say(conversation, "after", ("b", 0))
    assert conversation.drop_calls("a", 1) == 2
    assert [(e.key, e.is_stale) for e in conversation] == [(("a", 0), False), (("b", 0), True)]


def test_what_follows_the_first_of_several_dropped_turns_is_stale() -> None:
    """Also what stood between them."""
    conversation = Conversation()
    for text, key in (("a0", ("a", 0)), ("b", ("b", 0)), ("a1", ("a", 1)), ("c", ("c", 0))):
        say(conversation, text, key)
    assert conversation.drop_where(lambda exchange: exchange.key in (("a", 0), ("a", 1))) == 2
    assert [(e.key, e.is_stale) for e in conversation] == [(("b", 0), True), (("c", 0), True)]


def test_a_fresh_start_begins_with_its_question_alone(three: Conversation) -> None:
    """The cell's own earlier answer stays as its alternative."""
    draft = three.draft((Text("b"),), Settings(), ("b", 0))
    assert [turn.text for turn in three.turns_for(draft, fresh=True)] == ["b"]
    done = three.commit(draft, Reply("again"), fresh=True)
    assert three.exchanges == (done,)
    assert [reply.text for reply in done.alternatives] == ["re b"]


def test_a_fresh_start_again_replaces_its_own_turn_alone(three: Conversation) -> None:
    """The turns after it stay and become stale, as for any other cell."""
    draft = three.draft((Text("a2"),), Settings(), ("a", 0))
    assert [turn.text for turn in three.turns_for(draft, fresh=True)] == ["a2"]
    three.commit(draft, Reply("again"), fresh=True)
    assert [e.parts[0].text for e in three] == ["a2", "b", "c"]  # type: ignore[union-attr]
    assert [e.is_stale for e in three] == [False, True, True]


def test_an_edit_takes_the_place_of_the_turn_it_replaces(three: Conversation) -> None:
    """The cell still owns it."""
    target = three.exchanges[1]
    draft = three.draft((Text("b edited"),), Settings(), replaces=target.id)
    assert [turn.text for turn in three.turns_for(draft)] == ["a", "re a", "b edited"]
    three.commit(draft, Reply("new"))
    assert [(e.key, e.is_stale) for e in three] == [(("a", 0), False), (("b", 0), False), (("c", 0), True)]
    with pytest.raises(ConversationError, match="no turn"):
        three.draft((Text("x"),), Settings(), replaces=target.id)


def test_a_hidden_turn_is_kept_from_the_model_alone(three: Conversation) -> None:
    """Later turns become stale, also when it is shown again."""
    three.hide(three.exchanges[0].id)
    assert shown(three, "d") == ["b", "re b", "c", "re c", "d"]
    assert [e.is_stale for e in three] == [False, True, True]
    three.hide(three.exchanges[0].id, False)
    assert shown(three, "d")[0] == "a"
    assert len(three) == 3


def test_an_alternative_can_be_chosen_and_chosen_back(three: Conversation) -> None:
    """No answer is lost by looking at another."""
    say(three, "b", ("b", 0), answer="other")
    target = three.exchanges[1]
    three.choose(target.id, 0)
    assert target.reply is not None
    assert (target.reply.text, [r.text for r in target.alternatives]) == ("re b", ["other"])
    assert three.exchanges[2].is_stale
    with pytest.raises(ConversationError, match="no alternative 5"):
        three.choose(target.id, 5)


def test_the_same_answer_again_is_no_alternative(three: Conversation) -> None:
    """Run All ten times leaves no pile."""
    for _ in range(3):
        say(three, "b", ("b", 0))
    assert three.exchanges[1].alternatives == []


def test_a_deleted_turn_leaves_later_ones_stale(three: Conversation) -> None:
    """And they stay."""
    three.remove(three.exchanges[0].id)
    assert [(e.key, e.is_stale) for e in three] == [(("b", 0), True), (("c", 0), True)]


def test_every_change_is_told_once(three: Conversation) -> None:
    """A panel redraws when it must, and no more often."""
    told: list[int] = []
    three.listeners.append(lambda: told.append(len(three)))
    say(three, "d", ("d", 0))
    three.hide(three.exchanges[0].id)
    three.remove(three.exchanges[0].id)
    three.drop_calls("nothing", 0)
    three.clear()
    assert told == [4, 4, 3, 0]


def earlier(text: str, place: int, key: CellKey | None = None) -> Exchange:
    return Exchange("old", (Text(text),), reply=Reply(f"re {text}"), key=key, place=place, answered_at=1.0)


def test_an_earlier_kernels_turns_come_back_before_those_that_are_here() -> None:
    """With new ids; a turn that never saw them is stale."""
    conversation = Conversation()
    new = say(conversation, "new", ("n", 0))
    assert conversation.restore([earlier("a", 1, ("a", 0)), earlier("b", 4)]) == 2
    assert [e.parts[0].text for e in conversation] == ["a", "b", "new"]  # type: ignore[union-attr]
    assert [e.is_stale for e in conversation] == [False, False, True]
    assert [e.place for e in conversation] == [1, 4, 5]
    assert len({e.id for e in conversation}) == 3
    assert conversation.find(new.id) is conversation.exchanges[2], "the page knows it by its id"
    assert shown(conversation, "next")[:4] == ["a", "re a", "b", "re b"]
    assert say(conversation, "next").place == 6


def test_a_cell_that_ran_again_keeps_its_answer_and_takes_its_earlier_place() -> None:
    """The answer from before is one of its alternatives."""
    conversation = Conversation()
    say(conversation, "b", ("b", 0), "b today")
    turns = [earlier(name, n, (name, 0)) for n, name in enumerate("abc", start=1)]
    assert [e.parts for e in conversation.missing(turns)] == [(Text("a"),), (Text("c"),)]
    assert conversation.restore(turns) == 2
    assert [e.reply.text for e in conversation if e.reply] == ["re a", "b today", "re c"]
    assert [e.is_stale for e in conversation] == [False, True, True]
    assert [reply.text for reply in conversation.exchanges[1].alternatives] == ["re b"]


def test_what_a_person_cleared_or_deleted_is_not_asked_for_again(three: Conversation) -> None:
    assert not three.is_settled
    three.remove(three.exchanges[0].id)
    assert three.is_settled
    other = Conversation()
    other.clear()
    assert other.is_settled
    restored = Conversation()
    restored.restore([earlier("a", 1, ("a", 0))])
    assert restored.is_settled, "brought back once, it is not offered again"


def test_for_a_lost_picture_the_model_is_shown_words() -> None:
    """The turn itself keeps it, for its thumbnail and for another machine."""
    conversation = Conversation()
    lost = Picture(None, "cat", digest="abc")
    turn = Exchange("old", (Text("What is in "), lost, Text("?")), reply=Reply("A cat."), place=1)
    conversation.restore([turn])
    assert shown(conversation, "Why?") == [
        "What is in [picture cat: no longer available]?", "A cat.", "Why?",
    ]  # fmt: skip
    assert conversation.exchanges[0].pictures == (lost,)


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
def test_a_copy_goes_its_own_way(how: str) -> None:
    """Turns and pictures come along; who listens does not, and neither changes with the other."""
    import copy
    import pickle

    from PIL import Image

    ways = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda c: pickle.loads(pickle.dumps(c))}
    conversation = Conversation("plants")
    conversation.listeners.append(lambda: None)
    picture = Picture((open_end for open_end in ()), "p", Image.new("RGB", (4, 4), "red"), "d")
    first = conversation.draft((Text("What is "), picture), Settings(), ("cell", 0))
    conversation.commit(first, Reply("A plant."))
    other = ways[how](conversation)
    assert (other.name, len(other), other.listeners) == ("plants", 1, [])
    assert other.exchanges[0].pictures[0].rgb.getpixel((0, 0)) == (255, 0, 0)
    assert other.exchanges[0].reply == Reply("A plant.")
    second = other.draft((Text("And now?"),), Settings())
    other.commit(second, Reply("Green."))
    assert second.id not in {exchange.id for exchange in conversation}
    assert (len(other), len(conversation)) == (2, 1)
    other.exchanges[0].alternatives.append(Reply("No."))
    assert conversation.exchanges[0].alternatives == []
