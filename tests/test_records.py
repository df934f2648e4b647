"""Records of a conversation in a saved notebook: complete for going on, harmless whoever wrote them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panel_scenes import RICH, question, reply
from PIL import Image

from vlm_magic.errors import ConversationError
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Exchange, Picture, Reply, Settings, Text
from vlm_magic.outputs.records import (
    METADATA_KEY,
    exchanges_in,
    from_record,
    metadata_for,
    metadata_of_several,
    read_notebook,
    to_record,
)
from vlm_magic.outputs.transcript import exchange_bundle


def answered(number: int = 1, text: str = RICH, **figures: Any) -> Exchange:
    exchange = question(number)
    exchange.settings = Settings(system="Be brief.", temperature=0.5, stop=("END",))
    exchange.key = ("cell-1", 0)
    exchange.reply = reply(text, "length", notes=("a remark",), **figures)
    return exchange


def notebook(*metadata: Any) -> dict[str, Any]:
    outputs = [{"output_type": "display_data", "data": {}, "metadata": one} for one in metadata]
    return {"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]}


def test_a_record_survives_the_file_and_gives_the_exchange_back() -> None:
    exchange = answered()
    exchange.is_stale = exchange.is_hidden = True
    back = from_record(json.loads(json.dumps(to_record(exchange))))
    assert back is not None
    assert (back.id, back.key, back.settings, back.reply) == (
        exchange.id, exchange.key, exchange.settings, exchange.reply,
    )  # fmt: skip
    assert (back.is_stale, back.is_hidden) == (True, True)
    names = [(p.name, p.digest, p.image) if isinstance(p, Picture) else p for p in back.parts]
    first, second = exchange.pictures
    assert names[1] == ("before", first.digest, None)
    assert names[3] == ("after", second.digest, None)
    assert names[0] == Text("What changed between ")


def test_a_notebook_gives_its_conversations_in_order_and_the_latest_of_each_turn() -> None:
    older, newer, other = answered(1, "old"), answered(1, "new"), answered(2, "other")
    kept = notebook(
        metadata_for([older], "main"), {}, metadata_for([other, Exchange("q", (Text("open"),))], "side"),
        metadata_for([newer], "main"),
    )  # fmt: skip
    found = [(name, e.reply.text) for name, e in exchanges_in(json.loads(json.dumps(kept))) if e.reply]
    assert found == [("main", "new"), ("side", "other")]


def turn(name: str, place: int, at: float, answer: str = "", call: int = 0) -> Exchange:
    """A cell's turn; without a place it was typed in a panel."""
    key = (name, call) if name.startswith("cell") else None
    exchange = Exchange(f"main-{name}", (Text(name),), key=key, place=place, answered_at=at)
    exchange.reply = reply(answer or f"{name} at {at:.0f}")
    return exchange


def found_in(*metadata: Any) -> list[str]:
    kept = exchanges_in(json.loads(json.dumps(notebook(*metadata))))
    return [f"{e.reply.text}{'*' if e.is_stale else ''}" for _, e in kept if e.reply]


def whole(*turns: Exchange, at: float) -> dict[str, Any]:
    kept = metadata_for(turns, "main", is_whole=True)
    kept[METADATA_KEY]["whole_at"] = at
    return kept


def test_turns_stand_in_their_places_and_those_before_a_newer_one_are_stale() -> None:
    """Cells keep their outputs as they wrote them: what became stale afterwards is told by the times."""
    cells = turn("cell-2", 1, 10), turn("cell-1", 2, 40), turn("cell-3", 3, 30)
    one_each = [metadata_for([cell], "main") for cell in cells]
    assert found_in(*reversed(one_each)) == ["cell-2 at 10", "cell-1 at 40", "cell-3 at 30*"]


def test_an_output_of_the_whole_conversation_knows_what_was_deleted_typed_and_asked_again() -> None:
    """Unless a cell has run since; what another kernel answered before it is no part of it."""
    first, second, third = (turn(f"cell-{n}", n, 10.0 * n) for n in (1, 2, 3))
    again = turn("cell-2", 2, 45, "again")
    typed = turn("typed", 4, 41)
    of_cells = [metadata_for([cell], "main") for cell in (first, second, third)]
    kept = whole(first, again, typed, at=50)
    assert found_in(*of_cells, kept) == ["cell-1 at 10", "again", "typed at 41*"]
    later = metadata_for([turn("cell-3", 5, 60)], "main")
    assert found_in(*of_cells[:2], later, kept) == ["cell-1 at 10", "again", "typed at 41*", "cell-3 at 60"]


def test_what_was_hidden_without_a_new_answer_is_read_from_the_whole_conversation() -> None:
    shown, hidden = turn("cell-1", 1, 10), turn("cell-1", 1, 10)
    hidden.is_hidden = True
    for outputs in (
        [metadata_for([shown], "main"), whole(hidden, at=20)],
        [whole(hidden, at=20), metadata_for([shown], "main")],
    ):
        ((_, found),) = exchanges_in(notebook(*outputs))
        assert found.is_hidden


def test_earlier_answers_are_kept_in_bounds() -> None:
    exchange = answered()
    exchange.alternatives = [reply(f"answer {n}") for n in range(9)]
    back = from_record(json.loads(json.dumps(to_record(exchange))))
    assert back is not None
    assert [r.text for r in back.alternatives] == ["answer 6", "answer 7", "answer 8"]


def test_a_file_says_when_it_was_saved_and_where_its_pictures_are(tmp_path: Path) -> None:
    path = tmp_path / "day.ipynb"
    path.write_text(json.dumps(notebook(metadata_for([answered()], "main", pictures="ab"))))
    saved = read_notebook(path)
    assert list(saved.conversations) == ["main"]
    assert saved.picture_keys == ("ab",)
    assert abs(saved.saved_at - time.time()) < 60


@pytest.mark.parametrize("text", ["", "[1", "[" * 100_000, "\ud800"])
def test_a_file_that_cannot_be_read_is_a_short_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.ipynb"
    with pytest.raises(ConversationError, match=r"no notebook 'x\.ipynb'"):
        read_notebook(path)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ConversationError, match=r"x\.ipynb cannot be read as a notebook") as caught:
        read_notebook(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text", ["[]", "3", '{"cells": 3}', '{"cells": [{"outputs": [7]}]}'])
def test_json_without_turns_holds_no_conversation(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.ipynb"
    path.write_text(text)
    assert read_notebook(path).conversations == {}


def test_pixels_and_token_ids_stay_out_of_the_file() -> None:
    text = json.dumps(metadata_for([answered(token_ids=(1, 2, 3))], "main"))
    assert "token_ids" not in text
    assert len(text) < 5_000


def test_records_of_another_version_are_left_alone() -> None:
    """What a later version means by its fields is not guessed at."""
    kept = metadata_for([answered()], "main")
    assert len(list(exchanges_in(notebook(kept)))) == 1
    for version in (2, "1", None):
        kept[METADATA_KEY]["version"] = version
        assert list(exchanges_in(notebook(kept))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7}, {"parts": []}, {"parts": "x"}, {"parts": [{"text": 1}]}, {"parts": [{"picture": "a"}]},
        {"reply": None},
        {"reply": {"text": "x", "finish_reason": "because"}}, {"reply": {"text": 3, "finish_reason": "stop"}},
    ],
)  # fmt: skip
def test_a_record_of_another_shape_is_left_out(change: dict[str, Any]) -> None:
    record = {**to_record(answered()), **change}
    assert from_record(record) is None


def test_settings_that_do_not_hold_are_left_at_their_defaults() -> None:
    record = {
        **to_record(answered()),
        "settings": {"temperature": "hot", "special_tokens": True, "max_tokens": 7},
    }
    back = from_record(record)
    assert back is not None
    assert back.settings == Settings(max_tokens=7), "nobody's file makes text into control tokens"


_NAMES = [
    *("cells", "outputs", "metadata", METADATA_KEY, "version", "exchanges", "id", "parts"),
    *("reply", "text", "settings", "conversation", "whole_at", "place", "answered_at", "alternatives"),
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["cells", "metadata"]), _JSON, max_size=2), _JSON)
def test_no_file_makes_reading_fail(whole: dict[str, Any], part: Any) -> None:
    list(exchanges_in(whole))
    list(
        exchanges_in(notebook({METADATA_KEY: {"version": 1, "conversation": "m", "exchanges": [part]}}, part))
    )
    from_record(part)


def test_an_output_may_hold_several_conversations(tmp_path: Path) -> None:
    """A panel's, that showed one after the other: all of them come back, with their thumbnails."""
    red, blue = (Picture(None, c, Image.new("RGB", (8, 8), c), c) for c in ("red", "blue"))
    turns = {
        name: Exchange(f"{name}-1", (Text("see "), shown), reply=Reply("yes"), place=1, answered_at=1.0)
        for name, shown in (("cats", red), ("main", blue))
    }
    metadata = metadata_of_several(metadata_for([turn], name, is_whole=True) for name, turn in turns.items())
    html = "".join(
        exchange_bundle(turn, thumbnail=thumbnail_data_uri)["text/html"] for turn in turns.values()
    )
    output = {"data": {"text/html": html}, "metadata": metadata}
    path = tmp_path / "several.ipynb"
    path.write_text(json.dumps({"cells": [{"outputs": [output]}]}))
    saved = read_notebook(path)
    assert {name: [turn.id for turn in found] for name, found in saved.conversations.items()} == {
        "cats": ["cats-1"],
        "main": ["main-1"],
    }
    assert sorted(saved.thumbnails) == ["blue", "red"]
