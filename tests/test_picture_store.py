"""Full pictures on disk: the same pixels again, bounded, private, whatever happens to the files."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from PIL import Image

from vlm_magic.inputs.picture_store import PictureStore, _hash
from vlm_magic.inputs.pictures import to_picture
from vlm_magic.messages import Picture


def noise(seed: int, size: tuple[int, int] = (64, 48)) -> Picture:
    """A picture that no encoder makes small."""
    data = b"".join(
        bytes([(seed * 7919 + i * i * 31) >> k & 255 for k in (0, 3, 7)]) for i in range(size[0] * size[1])
    )
    return to_picture(Image.frombytes("RGB", size, data), name=f"p{seed}")


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    return PictureStore("day.ipynb", folder=tmp_path / "kept")


def files(store: PictureStore) -> list[Path]:
    return sorted(path for path in store.folder.glob("*/*"))


def test_the_same_pixels_come_back_in_another_process(store: PictureStore) -> None:
    pictures = [noise(n) for n in range(3)]
    store.keep(pictures)
    store.wait()
    another = PictureStore("day.ipynb", folder=store.folder)
    for picture in pictures:
        found = another.find(another.key, picture.digest)
        assert found is not None
        assert found.tobytes() == picture.rgb.tobytes()


def test_each_notebook_finds_its_own_pictures_alone(store: PictureStore) -> None:
    store.keep([noise(1)])
    store.wait()
    assert PictureStore("other.ipynb", folder=store.folder).key != store.key
    for key in ("0" * 32, "", "..", "../kept", store.key + "/x", store.key.upper()):
        assert store.find(key, noise(1).digest) is None
    assert store.find(store.key, "../../etc/passwd") is None


@pytest.mark.skipif(sys.platform == "win32", reason="rights are told otherwise there")
def test_only_the_owner_may_read(store: PictureStore) -> None:
    store.keep([noise(1)])
    store.wait()
    (path,) = files(store)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700


def test_the_least_recently_used_go_first_over_all_notebooks(store: PictureStore) -> None:
    """A restored picture counts as used."""
    store.keep([noise(1)])
    store.wait()
    n_bytes = files(store)[0].stat().st_size
    other = PictureStore("other.ipynb", folder=store.folder)
    for n in (2, 3):
        other.keep([noise(n)])
        other.wait()
    for age, picture, where in ((300, noise(1), store), (200, noise(2), other), (100, noise(3), other)):
        path = where.folder / where.key / _hash(picture.digest)
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert store.find(store.key, noise(1).digest) is not None, "the oldest, and now used"
    other.limit_bytes = int(n_bytes * 3.2)
    other.keep([noise(4)])
    other.wait()
    assert store.find(store.key, noise(1).digest) is not None
    assert [other.find(other.key, noise(n).digest) is not None for n in (2, 3, 4)] == [False, True, True]
    assert sum(path.stat().st_size for path in files(store)) <= other.limit_bytes


def test_a_file_that_was_changed_or_cut_off_is_a_picture_that_is_gone(store: PictureStore) -> None:
    store.keep([noise(1), noise(2)])
    store.wait()
    first, second = files(store)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data[:100])
    assert [store.find(store.key, noise(n).digest) for n in (1, 2)] == [None, None]


def test_nothing_is_kept_where_that_is_switched_off_or_not_possible(tmp_path: Path) -> None:
    off = PictureStore("day.ipynb", folder=tmp_path / "off", limit_bytes=0)
    off.keep([noise(1)])
    off.wait()
    assert not off.folder.exists()
    assert off.shown_key == ""
    (tmp_path / "file").write_text("in the way")
    nowhere = PictureStore("day.ipynb", folder=tmp_path / "file" / "kept")
    nowhere.keep([noise(1), Picture(None, "lost", digest="abc"), Picture("not decoded")])
    nowhere.wait()
    assert nowhere.find(nowhere.key, noise(1).digest) is None


def test_a_picture_larger_than_the_limit_pushes_nothing_out(store: PictureStore) -> None:
    store.keep([noise(1)])
    store.wait()
    store.limit_bytes = files(store)[0].stat().st_size + 100
    store.keep([noise(2, (300, 200))])
    store.wait()
    assert store.find(store.key, noise(1).digest) is not None


def test_forgetting_says_how_much_it_was(store: PictureStore) -> None:
    store.keep([noise(1)])
    store.wait()
    n_bytes = files(store)[0].stat().st_size
    assert store.forget() == n_bytes
    assert store.find(store.key, noise(1).digest) is None
    store.keep([noise(1)])
    store.wait()
    assert store.find(store.key, noise(1).digest) is not None, "kept anew when it is used again"
