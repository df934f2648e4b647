"""The starter's second schooling: what is asked, what lies outside its world, what of it is learned."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hand_drawn import PICTURES, SIXTY

from vlm_magic import Session, load
from vlm_magic.starter import WEIGHTS
from vlm_magic.starter.making.asking.comparisons import COMPARISONS, ask_change
from vlm_magic.starter.making.asking.doubts import DONT_KNOW, ask_no_answer, ask_outside, ask_plain
from vlm_magic.starter.making.asking.forms import ask_fields, ask_objects
from vlm_magic.starter.making.asking.neighbours import NEIGHBOUR_ASKERS
from vlm_magic.starter.making.asking.questions import SIDE_MARGIN, Ask
from vlm_magic.starter.making.card import write_card
from vlm_magic.starter.making.dialogues.second import SECOND_BUILDERS
from vlm_magic.starter.making.dialogues.turns import FreshDeck, word
from vlm_magic.starter.making.evaluate import all_skills
from vlm_magic.starter.making.results import Result, calibration
from vlm_magic.starter.making.training.features import FeatureStore
from vlm_magic.starter.making.training.vision_stage import to_pixels
from vlm_magic.starter.making.words.grammar import MARK
from vlm_magic.starter.making.words.heldout_second import HELD_OUT_SECOND
from vlm_magic.starter.making.words.second_wordings import SECOND_WORDINGS
from vlm_magic.starter.making.world.edits import CHANGES, plan_edit
from vlm_magic.starter.making.world.outside import OUTSIDE, plan_outside
from vlm_magic.starter.making.world.scenes import Scene, draw_scene, plan_odd, plan_plain, plan_scene


def _scenes(rng: Random, n: int) -> list[Scene]:
    return [plan_scene(rng, n_objects=rng.randint(1, 3)) for _ in range(n)]


def _asked(make: Callable[[Random], tuple[Ask | None, object]], n: int = 200) -> list[tuple[Ask, object]]:
    rng, found = Random(11), []
    while len(found) < n:
        ask, truth = make(rng)
        if ask:
            found.append((ask, truth))
    return found


def _compared(name: str, n_pictures: int) -> list[tuple[Ask, list[Scene]]]:
    def make(rng: Random) -> tuple[Ask | None, object]:
        scenes = _scenes(rng, n_pictures)
        return COMPARISONS[name][0](rng, scenes), scenes

    return _asked(make)  # type: ignore[return-value]


# --- comparisons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_pictures", [2, 3])
def test_the_bigger_one_is_bigger_by_half(n_pictures: int) -> None:
    """Each picture has exactly one of them, and the answer's is the biggest or smallest by a clear ratio."""
    for ask, scenes in _compared("bigger across", n_pictures):
        noun = ask.slots["thing"]
        sizes = []
        for scene in scenes:
            [thing] = [t for t in scene.objects if noun in (t.shape, f"{t.colour} {t.shape}")]
            sizes.append(thing.size)
        place = ("the first", "the second", "the third").index(ask.answer)
        best = max(sizes) if ask.sense.startswith("big") else min(sizes)
        assert sizes[place] == best
        others = [size for i, size in enumerate(sizes) if i != place]
        assert all(max(best, size) >= 1.5 * min(best, size) for size in others)


def test_counts_over_pictures_add_up() -> None:
    """Altogether is the sum of what is in each."""
    for ask, scenes in _compared("altogether", 3):
        if ask.slots["kinds"] in ("shapes", "objects", "things"):
            assert int(ask.answer) == sum(len(scene.objects) for scene in scenes)
    for ask, scenes in _compared("in each", 2):
        if ask.slots["kinds"] in ("shapes", "objects", "things"):
            first, second = (len(scene.objects) for scene in scenes)
            assert ask.answer == f"{first} in the first, {second} in the second"


def test_both_and_neither_are_answered_yes_as_often_as_no() -> None:
    """A model that always says yes earns a half."""
    answers = Counter(ask.answer for ask, _ in _compared("both or neither", 2))
    assert set(answers) == {"yes", "no"}
    assert 0.4 < answers["yes"] / 200 < 0.6


def test_what_shows_something_is_the_only_picture_that_does() -> None:
    """Where is the square? The other picture has none."""
    for ask, scenes in _compared("which one shows", 2):
        words = ask.slots["a"].split()[1:]
        has = [any(set(words) <= {t.shape, t.colour, words[-1]} for t in s.objects) for s in scenes]
        place = ("the first", "the second").index(ask.answer)
        assert has[place]
        if len(words) == 1:
            assert not any(t.shape == words[0] for t in scenes[1 - place].objects)


@pytest.mark.parametrize("kind", ["moved", "grew", "shrank"])
def test_a_thing_that_moves_or_grows_stays_the_same_thing(kind: str) -> None:
    """Only its place or its size differs, and it stays apart from the others."""
    rng = Random(3)
    for _ in range(40):
        before, after, _, sentence = plan_edit(rng, most=3, kind=kind)
        [old] = set(before.objects) - set(after.objects)
        [new] = set(after.objects) - set(before.objects)
        assert old.kind == new.kind
        assert sentence == f"The {old.colour} {old.shape} {kind}."
        if kind == "moved":
            assert (old.w, old.h) == (new.w, new.h)
            assert np.hypot(old.x - new.x, old.y - new.y) >= 0.22
        else:
            assert (old.x, old.y) == (new.x, new.y)
            assert max(old.size, new.size) >= 1.5 * min(old.size, new.size)
            assert (new.size > old.size) == (kind == "grew")
        for other in after.objects:
            if other is not new:
                gap_x = abs(other.x - new.x) - (other.w + new.w) / 2
                assert max(gap_x, abs(other.y - new.y) - (other.h + new.h) / 2) > 0


def test_what_is_missing_is_asked_where_something_is_missing_or_nothing_changed() -> None:
    """Never where something else happened: the question would have no answer."""
    rng = Random(4)
    for _ in range(300):
        edit = plan_edit(rng, kind=rng.choice(tuple(CHANGES)))
        ask = ask_change(rng, edit)
        assert ask.answer == edit[3]
        if ask.sense == "gone":
            assert edit[2] in ("disappeared", "nothing")
        if ask.sense == "added":
            assert edit[2] in ("appeared", "nothing")


# --- one picture --------------------------------------------------------------------------------------------


def test_a_neighbour_is_where_the_question_says() -> None:
    """Below means lower by a clear distance, and nothing else is there."""

    def make(rng: Random) -> tuple[Ask | None, object]:
        [scene] = _scenes(rng, 1)
        return NEIGHBOUR_ASKERS["neighbour"](rng, scene), scene

    n_nothing = 0
    for ask, scene in _asked(make):
        assert isinstance(scene, Scene)
        n_nothing += ask.answer == "nothing"
        if ask.subject is None:
            continue
        away = {"what is below": "y", "what is above": "y"}.get(ask.sense, "x")
        sign = 1 if ask.sense in ("what is below", "what is right") else -1
        named = ask.slots["a"].split()[1:]
        [thing] = [
            t for t in scene.objects
            if t is not ask.subject and (t.shape in named or t.colour in named) and len(named) < 3
            and all(w in (t.shape, t.colour, "one", "shape", "object", "thing", "figure") for w in named)
        ] or [None]  # fmt: skip
        if thing is not None:
            assert sign * (getattr(ask.subject, away) - getattr(thing, away)) >= SIDE_MARGIN
    assert 10 < n_nothing < 130


def test_the_odd_one_differs_in_one_way_from_all_others() -> None:
    """One shape or colour occurs once, the rest are alike in it; two candidates are no question."""

    def make(rng: Random) -> tuple[Ask | None, object]:
        scene = plan_odd(rng)
        return NEIGHBOUR_ASKERS["odd one out"](rng, scene), scene

    for ask, scene in _asked(make, 100):
        assert isinstance(scene, Scene)
        n = len(scene.objects)
        alone = [
            i for i, t in enumerate(scene.objects)
            for tally in (Counter(o.shape for o in scene.objects), Counter(o.colour for o in scene.objects))
            if len(tally) == 2 and (tally[t.shape] or tally[t.colour]) == 1
        ]  # fmt: skip
        assert len(set(alone)) == 1
        assert scene.objects[alone[0]] is ask.subject
        assert n in (3, 4)


# --- outside and doubt --------------------------------------------------------------------------------------


def test_a_seed_always_gives_the_same_picture_outside() -> None:
    """Every kind is drawn from its seed alone, and two seeds differ."""
    for kind in OUTSIDE:
        one, other = plan_outside(Random(5), kind), plan_outside(Random(6), kind)
        assert np.array_equal(np.asarray(one.picture), np.asarray(one.picture))
        assert one.picture.mode == "RGB"
        assert one.picture.size != other.picture.size or np.any(
            np.asarray(one.picture) != np.asarray(other.picture)
        )


def test_doubt_has_one_answer() -> None:
    """Outside the world and beyond the picture alike."""
    rng = Random(9)
    for _ in range(100):
        for ask in (ask_outside(rng, plan_outside(rng)), ask_no_answer(rng, plan_scene(rng, n_objects=2))):
            assert ask is None or ask.answer == DONT_KNOW


# --- JSON ---------------------------------------------------------------------------------------------------


def test_json_answers_say_what_the_scene_holds() -> None:
    """They parse; every value is a word of the small world, and a list has an entry for each object."""

    def make(rng: Random) -> tuple[Ask | None, object]:
        scene = plan_scene(rng, n_objects=rng.randint(1, 4))
        return (ask_objects if rng.random() < 0.6 else ask_fields)(rng, scene), scene

    for ask, scene in _asked(make, 300):
        assert isinstance(scene, Scene)
        value = json.loads(ask.answer)
        assert json.dumps(value) == ask.answer
        if ask.skill == "objects as JSON":
            lists = [value] if isinstance(value, list) else [v for v in value.values() if isinstance(v, list)]
            assert [len(entries) for entries in lists] == [len(scene.objects)]
            said = json.dumps(lists[0][0])
            thing = scene.objects[0]
        else:
            said, thing = ask.answer, ask.subject  # type: ignore[assignment]
        words = {thing.colour, thing.shape, f"{thing.colour} {thing.shape}", "small", "big"}
        assert (
            any(f'"{w}"' in said for w in words)
            or '"in the' in said
            or '"at the' in said
            or '"on the' in said
        )


def test_of_json_the_values_are_learned_and_nobody_learns_to_begin_it() -> None:
    """Neither the bracket that opens JSON nor the names of its fields are labelled; what they hold is."""
    from transformers import AutoTokenizer

    from vlm_magic.starter.making.training.batches import Scribe

    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    scribe = Scribe(tokenizer)
    row = scribe.branch("Describe the circle.", '{"colour": "red"}', "")
    told = [i for i, wanted in zip(row.ids, row.labelled, strict=True) if wanted]
    text = tokenizer.decode(told)
    assert text.startswith('"": "red"}')  # without the bracket and the name
    assert told[-1] == scribe.eos
    plain = scribe.branch("What colour is the circle?", "red", "")
    assert sum(plain.labelled) == 2


# --- wordings, dialogues, measures --------------------------------------------------------------------------


def test_every_new_question_can_be_worded_with_its_pictures() -> None:
    """A wording holds as many marks as pictures come with the question."""
    rng, deck = Random(12), FreshDeck(most=3)
    for build in SECOND_BUILDERS.values():
        for _ in range(60):
            dialogue = build(rng, deck)
            if dialogue:
                shown = [p for turn in dialogue.turns for p in turn.parts if isinstance(p, int)]
                assert sorted(shown) == list(range(len(dialogue.pictures)))
                assert not any(MARK in p for turn in dialogue.turns for p in turn.parts if isinstance(p, str))


def test_a_conversation_leaves_the_world_and_comes_back() -> None:
    """Some turn has no answer, and a later one about a drawn scene has one."""
    rng, deck = Random(13), FreshDeck(most=3)
    built = [d for d in (SECOND_BUILDERS["leaving"](rng, deck) for _ in range(200)) if d]
    assert len(built) > 60
    back = [turn for d in built for turn in d.turns if turn.skill == "comes back"]
    assert len(back) > 40
    assert all(turn.answer != DONT_KNOW for turn in back)


def test_every_sense_with_held_out_phrasings_can_be_measured() -> None:
    """Each builds questions in its own words, and no slot stays open."""
    skills = {skill.name: skill for skill in all_skills()}
    for sense, patterns in HELD_OUT_SECOND.items():
        build, found, i = skills[f"held out: {sense}"].build, 0, 0
        while found < 5:
            i += 1
            assert i < 4000, sense
            dialogue = build(Random(f"{sense}/{i}"))
            if dialogue:
                found += 1
                text = dialogue.turns[0].parts[-1]
                assert isinstance(text, str)
                assert "<" not in text
        assert len(patterns) >= 3


def test_an_interval_and_a_calibration_are_those_of_the_books() -> None:
    """Wilson's interval of 9 in 10; a model that is sure and half right is off by a half."""
    low, high = Result("x", 0.5, n_right=9, n=10).interval
    assert low == pytest.approx(0.596, abs=1e-3)
    assert high == pytest.approx(0.982, abs=1e-3)
    error, wrong = calibration([(1.0, True), (1.0, False)])
    assert (error, wrong) == (0.5, 1.0)
    assert calibration([(0.75, True)] * 3 + [(0.75, False)]) == (0.0, 0.75)


def test_sixty_questions_are_about_pictures_that_can_be_drawn() -> None:
    """Sixty, each with pictures by name and at least one right answer."""
    assert len(SIXTY) == 60
    for names, question, right in SIXTY:
        assert question
        assert right
        assert all(PICTURES[name]().mode == "RGB" for name in names)


def test_wordings_name_as_many_pictures_as_there_are() -> None:
    """A comparison in a wording with marks has two or three of them."""
    rng = Random(14)
    for name, n in (("bigger across", 2), ("bigger across", 3), ("altogether", 2), ("both or neither", 2)):
        for ask, _ in _compared(name, n)[:60]:
            assert word(rng, ask, n).count(MARK) == n


def test_a_card_tells_what_is_claimed_from_what_is_not(tmp_path: Path) -> None:
    """A figure at its target stands in the table, one below it apart; both with their interval."""
    results = [
        Result("colour", 0.98, n_right=499, n=500, confidences=[(0.99, True)] * 499 + [(0.6, False)]),
        Result("emptier", 0.97, n_right=490, n=500),
        Result("held out: gone", 0.95, n_right=90, n=100),
    ]
    write_card(results, WEIGHTS, tmp_path / "CARD.md")
    claims, _, rest = (tmp_path / "CARD.md").read_text("utf-8").partition("not claimed")
    assert "| colour | 0.998 | 0.989 to 1.000 | 500 |" in claims
    assert "| emptier | 0.980 |" in claims
    assert "held out: gone" not in claims
    assert "| held out: gone | 0.900 | 0.826 to 0.945 | 100 | 0.95 |" in rest
    assert "wrong answers have a mean\nprobability of 0.60" in rest


@pytest.mark.parametrize("shape", ["circle", "square", "triangle", "diamond"])
def test_a_plain_shape_alone_is_known(shape: str) -> None:
    """One large shape in the middle is what people draw first; doubt that is learned must not reach it."""
    engine = load("starter")
    for colour, side in (("red", 0.3), ("blue", 0.5), ("green", 0.66)):
        picture = draw_scene([(colour, shape, 0.5, 0.5, side)], size=(240, 240))
        for question in ("What do you see?", "What is in the picture?", "Describe it."):
            assert f"{colour} {shape}" in Session(engine).ask(picture, question).text


def test_a_plain_scene_is_one_large_shape_asked_as_unknown_ones_are() -> None:
    """What tells "I don't know." from a name is the picture, never the words nor the size."""
    rng = Random(21)
    asked = Counter()
    for _ in range(400):
        scene = plan_plain(rng)
        [thing] = scene.objects
        assert thing.size >= 0.24
        assert thing.w / 2 <= thing.x <= 1 - thing.w / 2
        assert thing.h / 2 <= thing.y <= 1 - thing.h / 2
        ask = ask_plain(rng, scene)
        if ask is None:
            continue
        assert ask.answer != DONT_KNOW
        if ask.pattern in SECOND_WORDINGS["unknown shape"]:
            assert thing.shape in ask.answer
            asked["name" if ask.answer == thing.shape else "caption"] += 1
        else:
            asked["of it" if ask.sense in SECOND_WORDINGS else "anything"] += 1
        if ask.sense == "its colour":
            assert ask.answer == thing.colour
        if ask.sense == "is it one":
            assert (ask.answer == "yes") == (thing.shape in ask.slots["one"])
    assert min(asked.values()) > 40
    assert len(asked) == 4


def test_a_store_of_parts_of_any_size_gives_each_row_its_own_picture() -> None:
    """The first part may be the smaller one."""
    parts = [np.full((n, 4, 2), 7, np.int16) for n in (2, 5, 1)]
    squares = [np.zeros((n, 2, 2, 3), np.uint8) for n in (2, 5, 1)]
    rows = iter(range(8))
    for part, square in zip(parts, squares, strict=True):
        for i in range(len(part)):
            part[i] = square[i] = next(rows)
    store = FeatureStore(parts, squares, [], [])
    asked = [7, 0, 6, 2, 1]
    assert store.features(asked).view(torch.int16)[:, 0, 0].tolist() == asked
    wanted = to_pixels(np.stack([np.full((2, 2, 3), row, np.uint8) for row in asked]))
    assert torch.equal(store.pixels(asked), wanted)
