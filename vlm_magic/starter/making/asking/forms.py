"""Questions that are answered in JSON: fields of one object, or all objects of a scene in a list.

A typed answer is held to its form token by token; the model never sees the type, only the part of the form
that is already written. So the names of fields vary as people vary them, and what follows each is learned.
Neighbours: `questions` has the facts, `words/second_wordings` the patterns.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

from vlm_magic.starter.making.asking.choosing import some_target
from vlm_magic.starter.making.asking.questions import BIG, SMALL, Ask, caption_of, place_of
from vlm_magic.starter.making.words.second_wordings import SECOND_WORDINGS
from vlm_magic.starter.making.world.naming import name_of
from vlm_magic.starter.making.world.scenes import Scene
from vlm_magic.starter.making.world.things import Thing

__all__ = ["ask_fields", "ask_objects"]

_FIELDS: dict[str, tuple[Callable[[Thing], str | None], tuple[str, ...]]] = {
    "colour": (
        lambda t: t.colour,
        ("colour", "color", "colour", "color", "main_colour", "paint", "fill", "hue"),
    ),
    "shape": (lambda t: t.shape, ("shape", "form", "kind", "shape", "type", "figure", "what", "geometry")),
    "name": (name_of, ("name", "object", "label", "thing", "title", "item", "description", "full_name")),
    "place": (
        lambda t: place_of(t.x, t.y),
        ("place", "where", "position", "location", "place", "spot", "region", "area"),
    ),
    "size": (
        lambda t: "small" if t.size <= SMALL else "big" if t.size >= BIG else None,
        ("size", "how_big", "scale"),
    ),
}
_LISTS = ("objects", "shapes", "things", "items", "figures", "elements", "content", "all")
# A list of words alone: what the words say must follow from the list's name, or nobody could know it.
_WORD_LISTS = {
    "shape": ("shapes", "figures", "forms", "kinds"),
    "colour": ("colours", "colors", "fills", "paints"),
    "place": ("places", "positions", "spots"),
    "name": ("objects", "things", "items", "elements", "content", "all", "names"),
}
_COUNTS = ("count", "n", "number", "n_shapes", "n_objects", "total", "how_many")
_GROUNDS = ("background", "background_colour", "background_color", "ground")


def _fields_of(names: dict[str, str], thing: Thing) -> dict[str, str] | None:
    """The facts of an object under these names, or None where one of them is in doubt."""
    facts = {}
    for fact, name in names.items():
        value = _FIELDS[fact][0](thing)
        if value is None:
            return None
        facts[name] = value
    return facts


def _choose_names(rng: Random, weights: tuple[int, ...] = (5, 5, 3, 4, 1)) -> dict[str, str]:
    """Some fields, and what they are called; British and American by chance."""
    n = rng.choice((1, 1, 2, 2, 3, 3, 4))
    chosen: list[str] = []
    while len(chosen) < n:
        fact = rng.choices(tuple(_FIELDS), weights)[0]
        if fact not in chosen:
            chosen.append(fact)
    return {fact: rng.choice(_FIELDS[fact][1]) for fact in chosen}


def ask_fields(rng: Random, scene: Scene) -> Ask | None:
    """Fields of one object: {"colour": "red", "shape": "circle"}."""
    found = some_target(rng, scene) if scene.objects else None
    if not found:
        return None
    facts = _fields_of(_choose_names(rng), found[0])
    if not facts:
        return None
    pattern = rng.choice(SECOND_WORDINGS["word as JSON"])
    return Ask("word as JSON", pattern, {"a": found[1]}, json.dumps(facts), found[0], "word as JSON")


def ask_objects(rng: Random, scene: Scene) -> Ask | None:
    """All objects in reading order, as a list, alone or in an object with a count or the background."""
    if not scene.objects or caption_of(scene, background=False) is None:
        return None
    names = _choose_names(rng, (6, 6, 2, 4, 1))
    lists: tuple[str, ...] = _LISTS
    plain = len(names) == 1 and rng.random() < 0.6  # a list of words instead of a list of objects
    alone = rng.random() < 0.3
    if plain:
        fact = "name" if alone else rng.choice(tuple(_WORD_LISTS))
        names, lists = {fact: fact}, _WORD_LISTS[fact]
    entries: list[object] = []
    for thing in scene.objects:
        facts = _fields_of(names, thing)
        if facts is None:
            return None
        entries.append(next(iter(facts.values())) if plain else facts)
    answer: object = entries
    if not alone:
        fields: list[tuple[str, object]] = [(rng.choice(lists), entries)]
        if rng.random() < 0.25:
            fields.insert(rng.randrange(2), (rng.choice(_COUNTS), len(entries)))
        if rng.random() < 0.25:
            fields.insert(rng.randrange(2), (rng.choice(_GROUNDS), scene.background))
        answer = dict(fields)
    pattern = rng.choice(SECOND_WORDINGS["objects as JSON"])
    return Ask("objects as JSON", pattern, {}, json.dumps(answer), None, "objects as JSON")
