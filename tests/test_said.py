"""What a model said is marked: a string in every way, and the mark stays where the text goes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from vlm_magic.conversation import Conversation
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.messages import ModelText, Reply, Settings, Text, as_said

URL = "https://example.org/cat.png"


class Kind(StrEnum):
    CAT = "cat"


class Found(BaseModel):
    link: str
    kind: Kind
    size: Literal["small", "large"] = "small"
    more: list[dict[str, str]] = []


@dataclass
class Seen:
    link: str


@dataclass(frozen=True, slots=True)
class Fixed:
    link: str


def test_it_is_a_string_in_every_way() -> None:
    said = Reply(f"see {URL}").text
    assert (said, hash(said), repr(said)) == (f"see {URL}", hash(f"see {URL}"), repr(f"see {URL}"))
    assert json.dumps({"a": said}) == json.dumps({"a": f"see {URL}"})
    assert f"{said:>40}" == f"{f'see {URL}':>40}"
    assert {f"see {URL}": 1}[said] == 1
    assert re.sub("see ", "", said) == URL


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s[:3],
        lambda s: s[0],
        lambda s: s + "x",
        lambda s: "x" + s,
        lambda s: s * 2,
        lambda s: 2 * s,
        lambda s: s.strip().lower().replace("a", "b"),
        lambda s: s.split()[1],
        lambda s: s.partition(" ")[2],
        lambda s: s.splitlines()[0],
        lambda s: s.join(["a", "b"]),
        lambda s: s.removeprefix("see "),
        lambda s: max(s.split(), key=len),
    ],
)
def test_what_is_made_of_it_is_marked_too(make: Any) -> None:
    assert isinstance(make(Reply(f"see {URL}").text), ModelText)


def test_typed_answers_are_marked_through_and_through() -> None:
    found = as_said(Found(link=URL, kind=Kind.CAT, more=[{"a": URL}]))
    assert isinstance(found.link, ModelText)
    assert isinstance(found.more[0]["a"], ModelText)
    assert found.kind is Kind.CAT
    assert found == Found(link=URL, kind=Kind.CAT, more=[{"a": URL}])
    for record in (Seen(URL), Fixed(URL)):
        assert isinstance(as_said(record).link, ModelText)
    assert as_said((3, None, [URL]))[2][0] == URL
    assert isinstance(as_said({"k": (URL,)})["k"][0], ModelText)


def test_answers_of_maps_and_comparisons_stay_marked_in_their_tables() -> None:
    from vlm_magic.tasks.map.table import MappedRow, table_of

    rows = [MappedRow(n, n, f"p{n}", Reply(URL).text) for n in range(2)]
    frame = table_of(rows, has_choices=False, is_labelled=False)
    assert isinstance(frame.answer[0], ModelText)
    assert resolve_parts(parse_prompt("{frame.answer[0]}"), {"frame": frame}) == [Text(URL)]
    assert resolve_parts(parse_prompt("{frame.answer}"), {"frame": frame}) == [Text(str(frame.answer))]


def test_a_reply_is_marked_wherever_it_was_kept() -> None:
    conversation, reply = Conversation(), Reply(URL)
    assert isinstance(replace(reply, notes=("x",)).text, ModelText)
    exchange = conversation.commit(conversation.draft((Text("q"),), Settings()), reply)
    assert exchange.reply is not None
    assert isinstance(exchange.reply.text, ModelText)
