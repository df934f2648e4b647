"""Records of a conversation in a saved notebook: complete for going on, harmless whoever wrote them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panel_scenes import RICH, question, reply

from vlm_magic.messages import Exchange, Picture, Settings, Text
from vlm_magic.outputs.saved import METADATA_KEY, exchanges_in, from_record, metadata_for, to_record


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


def test_pixels_and_token_ids_stay_out_of_the_file() -> None:
    text = json.dumps(metadata_for([answered(token_ids=(1, 2, 3))], "main"))
    assert "token_ids" not in text
    assert len(text) < 5_000


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
    *("reply", "text", "settings", "conversation"),
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
