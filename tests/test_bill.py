"""The bill of a dry run: tokens in all and for each picture, its tiles drawn, what is left."""

from __future__ import annotations

from PIL import Image

from vlm_magic.messages import Bill, Picture
from vlm_magic.outputs.results.bill import bill_bundle

PICTURES = (
    Picture(None, "<b>map</b>", Image.new("RGB", (400, 200))),
    Picture(None, "cat", Image.new("RGB", (64, 64))),
)
BILL = Bill(530, (500, 10), 2048, "User: <image> <script>x</script>", ("a note",), ((2, 3), (1, 1)))


def test_the_bill_has_the_numbers_in_plain_words() -> None:
    """For a terminal."""
    text = bill_bundle(BILL, PICTURES)["text/plain"]
    assert "530 tokens, 510 of them for 2 pictures; 1,518 of 2,048 left" in text
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


def test_no_control_code_of_a_terminal_gets_through() -> None:
    """Neither in the prompt, nor in a name or a note."""
    picture = Picture(None, "cat\x1b[2J", Image.new("RGB", (8, 8)))
    bill = Bill(5, (1,), None, "User: \x1b]0;title\x07hello\x9b31m", ("a \x1b[31mnote",))
    for form in bill_bundle(bill, (picture,)).values():
        assert not {"\x1b", "\x07", "\x9b"} & set(form)


def test_the_bill_has_the_frame_of_everything_else() -> None:
    page = bill_bundle(BILL, PICTURES)["text/html"]
    assert 'class="vlm mathjax_ignore tex2jax_ignore vlm-bill"' in page
