"""Regions, pages and frames: the part of a source that a fragment names, or a clear error."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import picture_corpus as corpus
import pytest
from PIL import Image

from vlm_magic.errors import PictureDecodeError, PictureError, PictureTypeError, VLMError
from vlm_magic.inputs.excerpts import holders
from vlm_magic.inputs.excerpts.fragments import Excerpt, excerpt_of, split_fragment
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pictures import to_picture, to_pictures, to_pil
from vlm_magic.inputs.prompt import parse_prompt, resolve_parts
from vlm_magic.messages import Picture, Text

SCENE = corpus.rgb(corpus.scene())


def shown(text: str, names: dict[str, object] | None = None) -> str:
    parts = resolve_parts(parse_prompt(text), names or {})
    return "".join(p.text if isinstance(p, Text) else f"<{p.name}>" for p in parts)


def colour_of(picture: Picture) -> str:
    """Which of the four colours is in the middle."""
    middle = np.asarray(picture.rgb)[picture.size_px[1] // 2, picture.size_px[0] // 2].astype(int)
    named = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    return min(named, key=lambda name: int(np.abs(middle - named[name]).sum()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, a PDF of twelve pages and a video of eight seconds, two for each colour."""
    path = tmp_path_factory.mktemp("excerpts")
    corpus.scene().save(path / "photo.png")
    corpus.scene().resize((80, 48)).save(path / "with#t=1.png")
    colours = ["red", "green", "blue", "white"]
    sheets = [Image.new("RGB", (100, 140), colours[n % 4]) for n in range(12)]
    sheets[0].save(path / "report.pdf", save_all=True, append_images=sheets[1:])
    av = pytest.importorskip("av")
    with av.open(str(path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for n in range(80):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), colours[n // 20]))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("xywh=10,20,300,200", Excerpt(region=(10, 20, 300, 200))),
        ("xywh=pixel:1,2,3,4", Excerpt(region=(1, 2, 3, 4))),
        ("xywh=percent:25,25,50,50.5", Excerpt(region=(25, 25, 50, 50.5), is_percent=True)),
        ("page=3", Excerpt(pages=(3, 3))),
        ("page=2-5", Excerpt(pages=(2, 5))),
        ("t=3.5", Excerpt(times_s=(3.5, None))),
        ("t=npt:1:30,1:02:03&frames=8", Excerpt(times_s=(90, 3723), n_frames=8)),
        ("t=,10", Excerpt(times_s=(0, 10))),
        ("page=3&xywh=percent:0,0,50,100", Excerpt(region=(0, 0, 50, 100), is_percent=True, pages=(3, 3))),
    ],
)
def test_fragments_are_read_as_the_web_writes_them(words: str, expected: Excerpt) -> None:
    assert excerpt_of(words) == expected
    assert split_fragment(f"a/b.pdf#{words}") == ("a/b.pdf", words)
    assert split_fragment("a.html#chapter") == ("a.html#chapter", "")


@pytest.mark.parametrize(
    "words", ["xywh=1,2,3", "xywh=1,2,0,4", "page=0", "page=5-2", "t=x", "t=9,3", "frames=0"]
)
def test_a_fragment_that_names_no_part_is_a_clear_error(words: str, folder: Path) -> None:
    with pytest.raises(PictureError) as caught:
        to_pil(f"{folder / 'photo.png'}#{words}")
    assert len(str(caught.value).splitlines()) == 3


def test_a_region_is_cut_and_said(folder: Path) -> None:
    path = folder / "photo.png"
    for source in (
        f"{path}#xywh=20,12,10,6",
        f"{path}#xywh=percent:50,50,25,25",
        Path(f"{path}#xywh=20,12,10,6"),
        Picture(path, region=(20, 12, 10, 6)),
        Picture(SCENE, region="percent:50,50,25,25"),
        Picture(corpus.scene(), region=(20, 12, 10, 6)),
    ):
        picture = to_picture(source)
        np.testing.assert_array_equal(np.asarray(picture.rgb), SCENE[12:18, 20:30])
        assert picture.note == "20,12 10×6 of 40×24"
        assert picture.digest != to_picture(path).digest
    assert to_picture(f"{path}#xywh=30,0,100,5").size_px == (10, 5)  # what reaches beyond is left out
    with pytest.raises(PictureError, match="outside") as caught:
        to_picture(f"{path}#xywh=50,0,10,10")
    assert "40×24" in caught.value.have
    assert to_pil(f"{folder}/with#t=1.png").size == (80, 48)  # a name with # in it


def test_a_region_is_counted_in_the_pixels_of_the_whole_picture(tmp_path: Path) -> None:
    big = corpus.scene().resize((10_000, 6_000), Image.Resampling.NEAREST)
    path = tmp_path / "big.jpg"
    big.save(path, quality=90)
    picture = to_picture(f"{path}#xywh=0,3000,5000,3000")
    assert picture.size_px == (2500, 1500)  # decoded at a half
    assert np.abs(np.asarray(picture.rgb).astype(int).mean(axis=(0, 1)) - (40, 60, 210)).max() < 5
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(corpus.TURNS[6](SCENE)))
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(
        np.asarray(to_pil(f"{tmp_path}/turned.png#xywh=20,12,10,6")), SCENE[12:18, 20:30]
    )


def test_pages_of_a_pdf_are_pictures_that_name_their_page(folder: Path) -> None:
    path = folder / "report.pdf"
    for source in (
        f"{path}#page=3",
        Picture(str(path), page=3),
        Picture(path.read_bytes(), "report", page=3),
    ):
        picture = to_picture(source)
        assert colour_of(picture) == "blue"
        assert picture.name.endswith("page 3")
        assert picture.note == "page 3 of 12"
        assert max(picture.size_px) >= 200
    several = to_pictures(f"{path}#page=2-5", name="it")
    assert [colour_of(p) for p in several] == ["green", "blue", "white", "red"]
    assert [p.name for p in several] == [f"it, page {n}" for n in (2, 3, 4, 5)]
    whole = to_pictures(path)
    assert len(whole) == holders.FIRST
    assert whole[0].note == "page 1 of 12; the first 8, #page=… for others"
    half = to_picture(f"{path}#page=3&xywh=percent:0,0,50,100")
    assert abs(half.size_px[0] - whole[0].size_px[0] / 2) <= 1
    names: dict[str, object] = {"path": str(path), "report": path, "page": f"{path}#page=2"}
    assert shown(f"![r]({path}#page=2-3)") == "<r, page 2><r, page 3>"
    assert shown("{page} {page!s}", names) == f"<page, page 2> {path}#page=2"
    assert shown("{report}", names) == shown("{path}", names).replace("path,", "report,")


def test_frames_of_a_video_are_pictures_that_name_their_second(folder: Path) -> None:
    path = folder / "clip.mp4"
    for seconds, colour in ((0, "red"), (1.5, "red"), (2.5, "green"), (3.9, "green"), (7.9, "white")):
        for source in (f"{path}#t={seconds}", Picture(path, time_s=float(seconds))):
            picture = to_picture(source)
            assert (colour_of(picture), picture.size_px) == (colour, (64, 48)), seconds
            assert picture.name == f"clip.mp4, {seconds:g} s" or picture.name.endswith(f", {seconds:g} s")
            assert picture.note == f"{seconds:g} s of 8 s"
    spread = to_pictures(f"{path}#t=0,8&frames=4")
    assert [colour_of(p) for p in spread] == ["red", "green", "blue", "white"]
    assert [p.name.rpartition(", ")[2] for p in spread] == ["1 s", "3 s", "5 s", "7 s"]
    whole = to_pictures(path)
    assert len(whole) == holders.FIRST
    assert "8 frames evenly spaced" in whole[0].note


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("report.pdf#page=13", PictureError, "12 pages"),
        ("report.pdf#t=3", PictureError, "#page=3"),
        ("report.pdf#page=1-99", PictureError, "at most 32"),
        ("report.pdf", PictureTypeError, "page=1"),
        ("clip.mp4#t=99", PictureError, "8 s"),
        ("clip.mp4#page=2", PictureError, "#t=3.5"),
        ("clip.mp4#t=0,5&frames=500", PictureError, "at most 32"),
        ("photo.png#page=2", PictureError, "no pages"),
        ("broken.pdf#page=1", PictureDecodeError, "broken PDF"),
        ("broken.mp4#t=1", PictureDecodeError, "broken video"),
    ],
)
def test_what_is_not_there_is_a_clear_error(
    source: str, error: type[VLMError], words: str, folder: Path
) -> None:
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\n" + bytes(500))
    (folder / "broken.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:600])
    with pytest.raises(error) as caught:
        to_picture(str(folder / source))
    assert len(str(caught.value).splitlines()) == 3, str(caught.value)
    assert words in str(caught.value)


def test_a_missing_library_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holders, "find_spec", lambda name: None)
    with pytest.raises(PictureDecodeError, match="pypdfium2") as caught:
        to_picture(f"{folder / 'report.pdf'}#page=1")
    assert caught.value.hint == '%pip install "vlm_magic[pdf]"'
    with pytest.raises(PictureDecodeError) as caught:
        to_picture(f"{folder / 'clip.mp4'}#t=1")
    assert caught.value.hint == '%pip install "vlm_magic[video]"'


@pytest.mark.parametrize("how", ["hangs", "crashes", "grows"])
def test_a_reader_that_hangs_crashes_or_grows_is_an_error(
    how: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm = {
        "hangs": "while True: pass",
        "crashes": "import os; os.abort()",
        "grows": "raw = b'x' * 10**10",
    }[how]
    child = holders._CHILD.replace("        document =", f"        {harm}\n        document =")
    monkeypatch.setattr(holders, "_CHILD", child)
    monkeypatch.setattr(holders, "_LIMIT_S", 1.0)
    begun = time.monotonic()
    with pytest.raises(PictureDecodeError) as caught:
        to_picture(f"{folder / 'report.pdf'}#page=1")
    assert time.monotonic() - begun < 30
    assert len(str(caught.value).splitlines()) == 3


def test_a_fragment_of_a_url_is_cut_from_what_was_fetched(tmp_path: Path, folder: Path) -> None:
    import hostile_server

    from vlm_magic.inputs.limits import FetchLimits

    limits = FetchLimits(allow_hosts=("127.0.0.1",), cache_dir=tmp_path)
    with hostile_server.running() as server:
        url = server.url("/good")
        text = f"![a]({url}#xywh=20,12,10,6) ![b]({url}) {{u}}"
        parts: Any = resolve_parts(
            parse_prompt(text), {"u": f"{url}#xywh=0,0,4,4"}, options=PictureOptions(fetch=limits)
        )
        sizes = [part.size_px for part in parts if isinstance(part, Picture)]
        assert sizes == [(10, 6), (40, 24), (4, 4)]
