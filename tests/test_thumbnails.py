"""Small copies for the proof: the right size, upright, without a word of metadata, made once."""

from __future__ import annotations

import base64
import io

import numpy as np
import picture_corpus as corpus
import pytest
from PIL import Image, features

from vlm_magic.errors import PictureTypeError
from vlm_magic.inputs.pictures import to_picture
from vlm_magic.inputs.thumbnails import forget_thumbnails, thumbnail_bytes, thumbnail_data_uri
from vlm_magic.messages import Picture


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((400, 240), (192, 115)),
        ((240, 400), (115, 192)),
        ((40, 24), (40, 24)),
        ((1, 1), (1, 1)),
        ((1, 5000), (1, 192)),
        ((5000, 2), (192, 1)),
    ],
)
def test_the_longest_side_is_bounded_and_nothing_is_enlarged(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    data, mime = thumbnail_bytes(to_picture(corpus.scene().resize(size)))
    assert opened(data).size == expected
    assert mime in ("image/webp", "image/jpeg")
    assert thumbnail_bytes(to_picture(corpus.scene().resize(size)), longest_px=20)[0] != b""


def test_a_thumbnail_is_upright_and_keeps_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "the maker of the camera"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    stored = Image.fromarray(
        np.ascontiguousarray(corpus.TURNS[6](corpus.rgb(corpus.scene().resize((400, 240)))))
    )
    source = corpus.encoded(
        stored,
        "JPEG",
        exif=exif.tobytes(),
        comment=b"the maker of the comment",
        icc_profile=b"the maker of the profile",
    )
    data, _ = thumbnail_bytes(to_picture(source))
    small = opened(data)
    small.load()
    assert small.size == (192, 115)
    assert not small.getexif()
    assert not {"exif", "xmp", "icc_profile", "comment", "photoshop"} & set(small.info)
    assert b"the maker" not in data
    corner = np.asarray(small.convert("RGB"))[10, 10].astype(int)
    assert np.abs(corner - (220, 30, 30)).max() < 25


def test_a_thumbnail_is_made_once_for_equal_pictures() -> None:
    forget_thumbnails()
    first = thumbnail_bytes(to_picture(corpus.scene(), name="one"))
    assert thumbnail_bytes(to_picture(corpus.encoded(corpus.scene(), "PNG"), name="two")) is first
    forget_thumbnails()
    assert thumbnail_bytes(to_picture(corpus.scene())) is not first


def test_the_data_uri_holds_the_same_bytes() -> None:
    picture = to_picture(corpus.scene())
    head, _, body = thumbnail_data_uri(picture).partition(",")
    assert head == f"data:{thumbnail_bytes(picture)[1]};base64"
    assert base64.b64decode(body) == thumbnail_bytes(picture)[0]


def test_without_webp_a_thumbnail_is_a_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    forget_thumbnails()
    data, mime = thumbnail_bytes(to_picture(corpus.scene()))
    assert mime == "image/jpeg"
    assert opened(data).format == "JPEG"
    forget_thumbnails()


def test_a_picture_that_is_not_decoded_has_no_thumbnail() -> None:
    with pytest.raises(PictureTypeError):
        thumbnail_bytes(Picture("cat.png"))


@pytest.mark.parametrize("has_webp", [True, False])
def test_what_a_picture_of_somebody_elses_has_with_it_stays_out(
    has_webp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only what `inputs` has decoded: pillow writes a comment that is in ``info`` into the file."""
    monkeypatch.setattr(features, "check", lambda name: has_webp)
    image = corpus.rgb(corpus.scene().resize((40, 24)))
    own = Image.fromarray(np.ascontiguousarray(image))
    for name in ("comment", "exif", "icc_profile", "xmp"):
        own.info[name] = b"made by the person at home"
    data, _ = thumbnail_bytes(Picture(None, "own", own))
    assert b"at home" not in data
