"""The starter: its scenes, its training script, its weights and its card."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

import vlm_magic
from vlm_magic.starter import WEIGHTS
from vlm_magic.starter.making.asking.askers import ASKERS
from vlm_magic.starter.making.asking.questions import BIG, RATIO, SIDE_MARGIN, SMALL, place_of
from vlm_magic.starter.making.card import CARD, hash_of
from vlm_magic.starter.making.dialogues.dialogues import make_dialogue
from vlm_magic.starter.making.dialogues.turns import Dialogue, Turn, word
from vlm_magic.starter.making.evaluate import all_skills, run
from vlm_magic.starter.making.words.grammar import MARK, RULES, unfold
from vlm_magic.starter.making.words.heldout import HELD_OUT
from vlm_magic.starter.making.words.heldout_second import HELD_OUT_SECOND
from vlm_magic.starter.making.words.second_wordings import SECOND_WORDINGS
from vlm_magic.starter.making.words.wordings import WORDINGS
from vlm_magic.starter.making.world.charts import make_chart, make_plot
from vlm_magic.starter.making.world.drawing import to_square
from vlm_magic.starter.making.world.edits import CHANGES, plan_edit
from vlm_magic.starter.making.world.palette import COLOURS, SHAPES
from vlm_magic.starter.making.world.scenes import draw_scene, make_scene, plan_scene

# --- scenes -------------------------------------------------------------------------------------------------


def test_a_seed_always_gives_the_same_scene_and_pixels() -> None:
    """Scenes, plots and charts depend on their seed alone."""
    for make in (make_scene, make_plot, make_chart):
        one, other = make(7), make(7)
        assert np.array_equal(np.asarray(one.picture), np.asarray(other.picture))
    assert make_scene(7).objects == make_scene(7).objects
    assert make_scene(7) != make_scene(8)
    assert make_dialogue(3) == make_dialogue(3)


def test_a_scene_has_the_objects_that_were_asked_for() -> None:
    """Shapes, colours and counts come from the small world."""
    for seed in range(200):
        scene = make_scene(seed, n_objects=1 + seed % 3)
        assert 1 <= len(scene.objects) <= 1 + seed % 3
        assert all(t.shape in SHAPES and t.colour in COLOURS for t in scene.objects)
        assert all(t.colour != scene.background for t in scene.objects)
        assert scene.picture.mode == "RGB"


def test_objects_keep_apart_and_inside() -> None:
    """No two boxes overlap, none leaves the picture."""
    for seed in range(300):
        things = make_scene(seed, n_objects=4).objects
        for i, a in enumerate(things):
            assert a.w / 2 <= a.x <= 1 - a.w / 2
            assert a.h / 2 <= a.y <= 1 - a.h / 2
            for b in things[i + 1 :]:
                assert abs(a.x - b.x) > (a.w + b.w) / 2 or abs(a.y - b.y) > (a.h + b.h) / 2


def test_an_object_is_where_the_truth_says() -> None:
    """The pixel at the centre of a filled object has its colour."""
    for seed in range(300):
        scene = make_scene(seed, n_objects=2)
        if scene.style.noise or scene.style.jpeg or scene.style.slope:
            continue
        picture = scene.picture
        for thing in scene.objects:
            if thing.look == "fill" and thing.shape != "triangle":
                pixel = picture.getpixel((int(thing.x * picture.width), int(thing.y * picture.height)))
                assert np.abs(np.subtract(pixel, thing.rgb)).max() <= 3


def test_a_picture_can_be_drawn_from_a_description() -> None:
    """`draw_scene` puts a red circle where it is told."""
    picture = draw_scene([("red", "circle", 0.25, 0.5, 0.3)], "black", (200, 100))
    assert picture.size == (200, 100)
    assert picture.getpixel((50, 50)) == (255, 0, 0)
    assert picture.getpixel((150, 50)) == (0, 0, 0)
    with pytest.raises(KeyError):
        draw_scene([("red", "unicorn", 0.5, 0.5, 0.3)])


def test_training_scales_pictures_as_the_processor_does(processor: Any) -> None:
    """The fast way to 96 pixels and the processor's give the same values, for any size and shape."""
    rng = np.random.default_rng(0)
    for size in ((64, 64), (224, 224), (300, 200), (101, 333), (1500, 700)):
        picture = Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
        values = processor.image_processor(images=[[picture]], return_tensors="np")["pixel_values"][0, 0]
        mine = np.asarray(to_square(picture)).transpose(2, 0, 1) / 127.5 - 1
        assert np.abs(values - mine).max() < 1e-5


# --- questions ----------------------------------------------------------------------------------------------


def _asked(asker: str, n: int = 300) -> list[tuple[Any, Any]]:
    rng, found = Random(5), []
    while len(found) < n:
        scene = plan_scene(rng, n_objects=rng.randint(1, 4))
        if ask := ASKERS[asker](rng, scene):
            found.append((scene, ask))
    return found


def test_yes_and_no_are_balanced() -> None:
    """Guessing earns a half."""
    for asker in ("exist", "relation"):
        answers = Counter(ask.answer for _, ask in _asked(asker, 600))
        assert set(answers) == {"yes", "no"}
        assert 0.42 < answers["yes"] / 600 < 0.58


def test_a_claim_near_a_border_is_never_asked() -> None:
    """Sizes, places and relations are asked only where a person would not hesitate."""
    for _, ask in _asked("size"):
        assert ask.subject.size <= SMALL if ask.answer == "small" else ask.subject.size >= BIG
    for _, ask in _asked("where"):
        assert all(abs(v - line) >= 0.04 for v in (ask.subject.x, ask.subject.y) for line in (1 / 3, 2 / 3))
    for scene, ask in _asked("extreme"):
        if "biggest" in ask.slots["ext"]:
            sizes = sorted(t.size for t in scene.objects)
            assert sizes[-1] >= RATIO * sizes[-2]
    for scene, ask in _asked("left or right"):
        others = [t for t in scene.objects if t is not ask.subject]
        assert any(abs(t.x - ask.subject.x) >= SIDE_MARGIN for t in others)
    assert place_of(0.34, 0.5) is None


def test_the_order_of_a_caption_is_never_in_doubt() -> None:
    """Listed objects are clearly left to right, or one above the other."""
    for scene, _ in _asked("caption"):
        for one, other in pairwise(scene.objects):
            assert one.x <= other.x + 0.02
            assert not 0.02 < abs(one.x - other.x) < 0.06


def test_an_edited_scene_differs_in_the_one_thing_that_is_said() -> None:
    """Each kind of change changes what it says and nothing else."""
    rng = Random(2)
    for kind in CHANGES:
        for _ in range(20):
            before, after, said, sentence = plan_edit(rng, kind=kind)
            assert said == kind
            gone, new = set(before.objects) - set(after.objects), set(after.objects) - set(before.objects)
            assert (len(gone), len(new)) == {
                "nothing": (0, 0), "background": (0, 0), "appeared": (0, 1), "disappeared": (1, 0),
            }.get(kind, (1, 1))  # fmt: skip
            assert (before.background != after.background) == (kind == "background")
            for thing in gone:
                assert thing.colour in sentence
                assert thing.shape in sentence


def test_a_picture_may_stand_before_in_or_after_the_words() -> None:
    """Dialogues bring pictures at every place of a sentence."""
    places = Counter()
    for seed in range(400):
        parts = make_dialogue(seed).turns[0].parts
        if 0 in parts and len(parts) > 1:
            at = parts.index(0)
            places["first" if at == 0 else "last" if at == len(parts) - 1 else "middle"] += 1
    assert min(places[p] for p in ("first", "middle", "last")) > 20


def _plain(text: str) -> str:
    """A phrasing without case, stops, contractions and American spelling."""
    text = text.lower()
    short = {
        "what's": "what is",
        "where's": "where is",
        "who's": "who is",
        "i'd": "i would",
        "color": "colour",
    }
    for said, meant in short.items():
        text = text.replace(said, meant)
    return " ".join(re.sub(r"[^a-z ]", "", text).split())


@pytest.mark.parametrize(
    ("held_out", "wordings", "least"),
    [(HELD_OUT, WORDINGS, 200), (HELD_OUT_SECOND, {**WORDINGS, **SECOND_WORDINGS}, 300)],
    ids=["first", "second"],
)
def test_no_training_pattern_makes_a_held_out_phrasing(
    held_out: dict[str, tuple[str, ...]], wordings: dict[str, tuple[str, ...]], least: int
) -> None:
    """The held-out phrasings stay held out: no pattern of training unfolds into one."""
    names = re.findall(r"<([a-z0-9]+)>", str(wordings), re.IGNORECASE)
    slots = {n.lower(): "A" if n == "aonly" else n.upper() for n in names if n.lower() not in RULES}
    held = {_plain(unfold(Random(0), p, slots)) for patterns in held_out.values() for p in patterns}
    assert sum(map(len, held_out.values())) >= least
    rng = Random(1)
    made = {
        _plain(unfold(rng, pattern, slots))
        for patterns in wordings.values()
        for pattern in patterns
        for _ in range(800)
    }
    assert sorted(held & made) == []


def test_dialogues_are_made_fast_enough() -> None:
    """Hundreds of dialogues a second even on a busy machine (over a thousand on a free one)."""
    import time

    began = time.process_time()
    for seed in range(300):
        for picture in make_dialogue(seed).pictures:
            assert picture.picture.size[0] > 0
    assert 300 / (time.process_time() - began) > 400


# --- training -----------------------------------------------------------------------------------------------


def test_the_training_script_runs_and_repeats_itself(tmp_path: Path) -> None:
    """A smoke run goes through all stages; a second one has the same losses, and its folder loads."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from vlm_magic.starter.making.train import SMOKE, train

    first = train(SMOKE, tmp_path / "a", tmp_path / "out", quiet=True)
    second = train(SMOKE, tmp_path / "b", tmp_path / "out2", quiet=True)
    assert first["vision"] == pytest.approx(second["vision"], abs=1e-3)
    assert first["text"] == pytest.approx(second["text"], abs=1e-3)
    assert first["joint"] == pytest.approx(second["joint"], abs=1e-3)
    assert first["second"] == pytest.approx(second["second"], abs=1e-3)
    AutoProcessor.from_pretrained(tmp_path / "out")
    AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    resumed = train(SMOKE, tmp_path / "a", tmp_path / "out", quiet=True)
    assert resumed == {"vision": [], "text": [], "joint": [], "second": []}


def test_the_fast_forward_pass_agrees_with_transformers(tower: Any, processor: Any) -> None:
    """Tokens are those of the chat template, and the tree's logits those of the standard modules."""
    import torch

    from vlm_magic.starter.making.training.batches import Scribe
    from vlm_magic.starter.making.training.network import connect, see, tree_logits
    from vlm_magic.starter.making.training.vision_stage import to_pixels

    scene = make_scene(4)
    scribe = Scribe(processor.tokenizer)
    weights = dict(tower.named_parameters())
    pixels = to_pixels(np.asarray(to_square(scene.picture))[None])
    asked = [("What colour is the circle?", "red"), ("How many shapes are there?", "3")]
    with torch.no_grad():
        cells = connect(weights, tower.config, see(weights, tower.config, pixels))
        rows = [scribe.branch(question, answer, "") for question, answer in asked]
        logits, targets = tree_logits(weights, tower.config, scribe.trees([([0], rows)]), cells)
        at = 0
        for question, answer in asked:
            dialogue = Dialogue((Turn((0, question), answer, ""),), (scene,), (0,))
            n = len(scribe.encode(" " + answer)) + 1
            message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
            prompt = processor.apply_chat_template([message], add_generation_prompt=True)
            inputs = processor(text=prompt, images=[[scene.picture]], return_tensors="pt")
            assert inputs["input_ids"][0].tolist() == [scribe.bos, *scribe.dialogue(dialogue).ids[:-n]]
            reference = tower(**inputs).logits[0, -1]
            assert torch.allclose(logits[at], reference, atol=2e-3)
            at += n
        assert at == len(targets)


# --- weights and card ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processor() -> Any:
    """The processor of the shipped folder."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def tower() -> Any:
    """The shipped model in float32."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(WEIGHTS, dtype="float32")


@pytest.fixture(scope="module")
def new_session() -> Callable[[], vlm_magic.Session]:
    """Makes conversations with the starter, which is loaded once."""
    import torch

    torch.set_num_threads(1)  # more than one only wait for each other with a model this small
    engine = vlm_magic.load("starter")
    return lambda: vlm_magic.Session(engine)


def test_importing_the_starter_imports_nothing_heavy() -> None:
    """The package knows where its weights are without torch, transformers or matplotlib."""
    code = (
        "import sys, vlm_magic.starter as s; assert s.WEIGHTS.is_dir();"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_load_without_torchvision_and_custom_code() -> None:
    """Auto classes alone load the folder where torchvision cannot be imported."""
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        "import vlm_magic.starter as s\n"
        "AutoProcessor.from_pretrained(s.WEIGHTS); AutoModelForImageTextToText.from_pretrained(s.WEIGHTS)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_folder_is_small() -> None:
    """At most 15 MB with everything, so that it fits into the wheel."""
    assert sum(f.stat().st_size for f in WEIGHTS.iterdir()) <= 15e6


def test_the_card_belongs_to_the_weights() -> None:
    """The card names the hash of the tensors that are shipped."""
    assert hash_of(WEIGHTS) in CARD.read_text("utf-8")


def _claimed() -> dict[str, float]:
    """Skills and accuracies of the card's first table."""
    table = CARD.read_text("utf-8").split("## Accuracy")[1].split("not claimed")[0].split("## By")[0]
    interval = r"(?: [\d.]+ to [\d.]+ \|)?"
    return {
        name: float(value)
        for name, value in re.findall(rf"^\| ([^|]+?) \| ([\d.]+) \|{interval} \d+ \|$", table, re.M)
    }


def test_something_is_claimed_and_nothing_below_its_target() -> None:
    """The card claims skills, each at or above the figure that it has to reach."""
    targets = {skill.name: skill.target for skill in all_skills()}
    assert len(_claimed()) >= 10
    assert all(figure >= targets[name] for name, figure in _claimed().items())


@pytest.mark.parametrize(
    "skill", [s for s in all_skills() if s.name in _claimed()], ids=lambda s: s.name.replace(" ", "-")
)
def test_a_sample_of_a_claimed_skill_reaches_its_figure(
    skill: Any, new_session: Callable[[], vlm_magic.Session]
) -> None:
    """Twenty fresh questions: so many mistakes come once in a thousand times if the card is right."""
    figure = min(_claimed()[skill.name], 0.99)  # what 500 questions can tell
    result = run(skill, 20, new_session, seed="test")
    chance = sum(
        math.comb(result.n, k) * figure**k * (1 - figure) ** (result.n - k) for k in range(result.n_right + 1)
    )
    assert chance > 0.001, result.wrong


# --- drawn by hand ------------------------------------------------------------------------------------------


def _draw_a_face_off() -> Image.Image:
    """A red ball left of a blue box, in plain PIL."""
    picture = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 90, 110, 170), fill="red")
    draw.rectangle((150, 90, 230, 170), fill="blue")
    return picture


def _draw_a_night_sky() -> Image.Image:
    """A yellow star over a green triangle on black, wide format."""
    picture = Image.new("RGB", (640, 480), "black")
    draw = ImageDraw.Draw(picture)
    points = [
        (320 + r * np.sin(k * np.pi / 5), 120 - r * np.cos(k * np.pi / 5))
        for k in range(10)
        for r in ((90, 36)[k % 2],)
    ]
    draw.polygon(points, fill="yellow")
    draw.polygon([(320, 280), (220, 450), (420, 450)], fill="green")
    return picture


def _draw_three_dots() -> Image.Image:
    """Three purple circles in a row on light grey, outlined."""
    picture = Image.new("RGB", (300, 120), "lightgrey")
    draw = ImageDraw.Draw(picture)
    for x in (20, 120, 220):
        draw.ellipse((x, 30, x + 60, 90), fill="purple", outline="black", width=2)
    return picture


HAND_DRAWN = (
    (_draw_a_face_off, "what colour is the circle?", "red"),
    (_draw_a_face_off, "What's to see in this picture?", "A red circle and a blue square."),
    (_draw_a_face_off, "Is the circle left of the square?", "yes"),
    (_draw_a_face_off, "how many things are there", "2"),
    (_draw_a_face_off, "Where's the star?", "There is no star."),
    (_draw_a_night_sky, "What color is the background?", "black"),
    (_draw_a_night_sky, "Is the star above or below the triangle?", "above"),
    (_draw_a_night_sky, "What is the green thing?", "triangle"),
    (_draw_a_night_sky, "Can you see a red circle?", "no"),
    (_draw_three_dots, "How many circles do you see?", "3"),
    (_draw_three_dots, "Is the background grey or green?", "grey"),
    (_draw_three_dots, "Are there any squares?", "no"),
)


def test_hand_drawn_pictures_are_answered_right(new_session: Callable[[], vlm_magic.Session]) -> None:
    """At least nine of ten questions in a person's own words, on pictures that no generator drew."""
    given = [(str(new_session().ask(draw(), question)), right) for draw, question, right in HAND_DRAWN]
    n_right = sum(answer == right for answer, right in given)
    assert n_right >= 0.9 * len(given), given


def test_every_skill_can_be_worded_with_the_picture_anywhere() -> None:
    """Wordings always hold as many marks as pictures come with the question."""
    rng = Random(9)
    for asker in ASKERS.values():
        for _ in range(40):
            ask = asker(rng, plan_scene(rng, n_objects=rng.randint(1, 3)))
            if ask:
                assert word(rng, ask, 1).count(MARK) == 1
                assert MARK not in word(rng, ask, 0)
