"""Maps over paths of object stores: listed, read, told apart by the store's own mark, refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import _registry
from PIL import Image
from worker_engines import SizeEngine, register_store

import vlm_magic
from vlm_magic.errors import OptionError, PictureNotFoundError, VLMError
from vlm_magic.tasks.map.sources.source_key import source_identity
from vlm_magic.testing import ScriptedEngine


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Path]:
    """A bucket that is a folder: this machine's files under the name of a store."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    for n in range(4):
        Image.new("RGB", (20 + n, 20)).save(folder / f"{n}.png")
    register_store(str(tmp_path))
    yield folder
    _registry.pop("s3", None)


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("s3://bucket/*.png", ["0.png", "1.png", "2.png", "3.png"]),
        ("s3://bucket", ["0.png", "1.png", "2.png", "3.png"]),
        ("s3://bucket/2.png", ["2.png"]),
        ("s3://bucket/rows.csv", ["2.png", "3.png"]),
        (["s3://bucket/1.png", "s3://bucket/gone.png"], ["1.png", "gone.png"]),
    ],
)
def test_paths_of_a_store_are_listed_and_read(bucket: Path, place: object, names: list[str]) -> None:
    """Patterns, folders, files, tables with paths beside them, columns; what is gone is a row's error."""
    (bucket / "rows.csv").write_text("photo,title\n2.png,two\ns3://bucket/3.png,three\n")
    frame = vlm_magic.map_pictures(SizeEngine(), "What?", place, progress=False, resume=False)
    assert list(frame.picture) == names
    there = [name for name in names if "gone" not in name]
    assert list(frame.answer[: len(there)]) == [f"{20 + int(name[0])}x20" for name in there]
    assert list(frame.error.notna()) == ["gone" in name for name in names]


def test_a_path_of_a_store_is_known_by_the_stores_own_mark(bucket: Path) -> None:
    before = source_identity("s3://bucket/0.png")
    assert before.startswith("cloud:s3://bucket/0.png:")
    assert source_identity("s3://bucket/0.png") == before
    Image.new("RGB", (99, 20)).save(bucket / "0.png")
    assert source_identity("s3://bucket/0.png") != before
    assert source_identity("s3://bucket/gone.png") == ""


def test_nothing_there_and_a_package_that_is_missing_are_said(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PictureNotFoundError, match="no file matches"):
        vlm_magic.map_pictures(ScriptedEngine(), "What?", "s3://bucket/*.jpg")

    def missing(path: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(OptionError, match="needs a package") as caught:
        vlm_magic.map_pictures(ScriptedEngine(), "What?", "s3://bucket/*.png")
    assert "Install s3fs" in str(caught.value)


@pytest.mark.parametrize("place", ["file:///etc/*", "memory://a/*.png", "ftp://a/*.png", "github://a:b@c/*"])
def test_no_other_scheme_is_opened(place: str) -> None:
    """Least of all what fsspec would: this machine's files by another name, or any host."""
    with pytest.raises(VLMError, match="not fetched"):
        vlm_magic.map_pictures(ScriptedEngine(), "What?", place, progress=False)


def test_what_a_prompt_says_is_never_opened_in_a_store(bucket: Path) -> None:
    with pytest.raises(VLMError):
        vlm_magic.Picture("s3://bucket/0.png").rgb  # noqa: B018 - decoding is what is refused
