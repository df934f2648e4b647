"""Pieces of text add up to the whole: characters over several tokens, spaces, stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_magic.models.decoding.detokenizer import Detokenizer


class Bytes:
    """A byte-level tokenizer: one token a byte, as the rarest characters are."""

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


class Words:
    """A sentencepiece-like tokenizer: a word brings its own space, except at the beginning."""

    words = ("▁a", "▁red", "▁circle", ".", "▁")

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return "".join(self.words[i] for i in ids).replace("▁", " ").removeprefix(" ")


def run(detokenizer: Detokenizer, ids: Sequence[int]) -> list[str]:
    return [*(detokenizer.add(i) for i in ids), detokenizer.finish()]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text(max_size=40))
def test_pieces_add_up_to_the_text(text: str) -> None:
    """For any text, whatever its characters."""
    detokenizer = Detokenizer(Bytes(), strip=False)
    pieces = run(detokenizer, text.encode())
    assert "".join(pieces) == text == detokenizer.text


def test_half_a_character_waits_for_its_other_half() -> None:
    """Nobody sees a replacement character in passing."""
    pieces = run(Detokenizer(Bytes(), strip=False), "é漢".encode())
    assert pieces == ["", "é", "", "", "漢", ""]


def test_words_keep_their_spaces() -> None:
    """Decoding token by token would lose them."""
    assert "".join(run(Detokenizer(Words()), [0, 1, 2, 3])) == "a red circle."


def test_a_chat_answer_has_no_white_space_around_it() -> None:
    """Inside it stays as it is."""
    detokenizer = Detokenizer(Bytes())
    assert "".join(run(detokenizer, b" \n a  b \n\n")) == "a  b" == detokenizer.text


@pytest.mark.parametrize("text", ["yes\nUser: no", "yesUser:", "yes User", "Us yes"])
def test_a_stop_string_ends_the_text_and_is_not_part_of_it(text: str) -> None:
    """Also when it comes in pieces; what only looks like its beginning is handed out later."""
    detokenizer = Detokenizer(Bytes(), stop=("User:",), strip=False)
    pieces = run(detokenizer, text.encode())
    assert "".join(pieces) == text.partition("User:")[0] == detokenizer.text
    assert detokenizer.is_stopped == ("User:" in text)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.text("ab\n ", max_size=30), st.sampled_from([("ab",), ("a\n", "bb"), ("aba",)]))
def test_any_text_is_cut_at_its_first_stop_string(text: str, stop: tuple[str, ...]) -> None:
    """And never shows a part of one that is taken back later."""
    detokenizer = Detokenizer(Bytes(), stop=stop, strip=False)
    texts = [""]
    for i in text.encode():
        detokenizer.add(i)
        texts.append(detokenizer.text)
    detokenizer.finish()
    ends = [text.find(s) for s in stop if s in text]
    assert all(later.startswith(earlier) for earlier, later in pairwise([*texts, detokenizer.text]))
    # The earliest *completed* stop string decides, as in streaming it must.
    first_completed = min((text.find(s) + len(s) for s in stop if s in text), default=None)
    if first_completed is None:
        assert detokenizer.text == text
    else:
        assert text[:first_completed].startswith(detokenizer.text)
        assert len(detokenizer.text) <= max(ends)
