"""The bill of a dry run: tokens in all and for each picture, its tiles drawn, what is left."""

from __future__ import annotations

from PIL import Image

from vlm_magic.messages import Bill, Picture
from vlm_magic.outputs.bill import bill_bundle

PICTURES = (
    Picture(None, "<b>map</b>", Image.new("RGB", (400, 200))),
    Picture(None, "cat", Image.new("RGB", (64, 64))),
)
BILL = Bill(530, (500, 10), 2048, "User: <image> <script>x</script>", ("a note",), ((2, 3), (1, 1)))


def test_the_bill_has_the_numbers_in_plain_words() -> None:
    """For a terminal."""
    text = bill_bundle(BILL, PICTURES)["text/plain"]
    assert "530 tokens, 510 of them for 2 pictures; 1518 of 2048 left" in text
    assert "400 × 200 px · 500 tokens in 2 × 3 tiles" in text
    assert "cat · 64 × 64 px · 10 tokens\n" in text
    assert "note: a note" in text


def test_the_tiles_are_drawn_and_nothing_in_the_prompt_is_live() -> None:
    """Three columns take two lines, two rows take one; names and the prompt are escaped."""
    page = bill_bundle(BILL, PICTURES, lambda picture: "data:image/png;base64,AAAA")["text/html"]
    assert page.count('<i class="vlm-cut"') == 3
    assert page.count("<img ") == 2
    assert "<script>" not in page
    assert "<b>map" not in page


def test_without_pictures_there_is_no_table() -> None:
    """And an unknown context says nothing of what is left."""
    bundle = bill_bundle(Bill(5, (), None, "hello"), ())
    assert "<table>" not in bundle["text/html"]
    assert bundle["text/plain"] == "5 tokens\n\nhello"
