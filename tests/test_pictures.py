"""Anything picture-like becomes the picture that a person sees, or one clear error."""

from __future__ import annotations

import base64
import collections
import collections.abc
import gc
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import picture_corpus as corpus
import pytest
from PIL import Image, ImageCms

from vlm_magic.errors import (
    FetchRefusedError,
    PictureDecodeError,
    PictureError,
    PictureNotFoundError,
    PictureTooLargeError,
    PictureTypeError,
    VLMError,
)
from vlm_magic.inputs.limits import PictureOptions
from vlm_magic.inputs.pictures import forget_pictures, is_picture_like, to_picture, to_pil, try_pictures
from vlm_magic.inputs.pixels import decoded_cache
from vlm_magic.messages import Picture

SCENE = corpus.rgb(corpus.scene())


def pixels(obj: object, **options: Any) -> np.ndarray:
    """The RGB pixels that we read, (H, W, 3)."""
    image = to_pil(obj, **options)
    assert image.mode == "RGB"
    assert not image.info
    return np.asarray(image)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference per channel; shapes must be equal."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def check_error(exc: VLMError) -> None:
    """Three short lines, whatever went wrong: that, what there is, what to try."""
    assert 8 <= len(str(exc)) <= 600, str(exc)
    assert len(str(exc).splitlines()) == 3, str(exc)


# -- files -------------------------------------------------------------------------------------


def ways(file: corpus.File, folder: Path) -> dict[str, object]:
    """The same file as path, bytes and data URI."""
    path = folder / file.name
    path.write_bytes(file.data)
    uri = f"data:image/x;base64,{base64.b64encode(file.data).decode()}"
    return {"path": path, "bytes": file.data, "data URI": uri}


@pytest.mark.parametrize("file", list(corpus.good_files()), ids=lambda file: file.name)
def test_a_good_file_looks_as_a_person_sees_it(file: corpus.File, tmp_path: Path) -> None:
    for obj in ways(file, tmp_path).values():
        found = pixels(obj)
        if file.seen is not None:
            assert difference(found, file.seen) <= file.tolerance
            if np.ptp(file.seen) > 50:
                assert np.ptp(found) > 30  # not one flat colour


def test_no_broken_file_does_more_than_a_clear_error(tmp_path: Path) -> None:
    counts: collections.Counter[str] = collections.Counter()
    times = []
    for file in corpus.broken_files():
        for way, obj in ways(file, tmp_path).items():
            begun = time.process_time()
            try:
                found = pixels(obj)
            except VLMError as exc:
                counts[type(exc).__name__] += 1
                check_error(exc)
                message = str(exc)
                assert way != "path" or file.name[:20] in message
            else:
                counts["a picture"] += 1
                assert not file.must_fail, file.name
                if file.seen is not None:
                    assert difference(found, file.seen) <= file.tolerance
            times.append(time.process_time() - begun)
    print(f"\n{sum(counts.values())} broken files: {dict(counts)}")
    print(f"slowest {max(times):.2f} s, 99 % under {np.percentile(times, 99):.3f} s")
    assert sum(counts.values()) > 3000
    assert np.percentile(times, 99) < 0.5


_MEMORY_SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:]
import io, numpy, PIL.ImageCms
import picture_corpus as corpus
from PIL import Image
from vlm_magic.errors import VLMError
from vlm_magic.inputs.pictures import to_pil

def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1000

to_pil(numpy.zeros((9, 9, 3)))
files = [file.data for file in corpus.huge_files()] + [file.data for file in corpus._hostile_chunks()]
files.append(corpus.encoded(Image.new("RGBA", (6000, 6600), (9, 9, 9, 9)), "PNG", compress_level=1))
files.append(corpus.encoded(Image.new("RGB", (12000, 9000)), "JPEG", progressive=True))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins again from here
before = status("VmRSS")
for data in files:
    try:
        to_pil(data)
    except VLMError:
        pass
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_file_takes_more_than_four_hundred_megabytes() -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", _MEMORY_SCRIPT, str(here.parent), str(here / "support")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    peak_mb = float(done.stdout)
    print(f"\npeak +{peak_mb:.0f} MB")
    assert peak_mb < 400


def test_the_limit_is_decided_from_the_header_and_can_be_raised() -> None:
    data = corpus.png(8000, 8000)
    with pytest.raises(PictureTooLargeError, match="64 megapixels") as caught:
        to_pil(data)
    assert caught.value.megapixels == 64  # type: ignore[attr-defined]
    small = corpus.encoded(corpus.scene(), "PNG")
    with pytest.raises(PictureTooLargeError):
        to_pil(small, max_megapixels=0.0001)


def test_a_large_jpeg_is_decoded_at_a_reduced_scale_and_says_so() -> None:
    data = corpus.encoded(Image.new("RGB", (10_000, 6_000), "navy"), "JPEG")
    picture = to_picture(data, name="big")
    assert picture.size_px == (5000, 3000)
    assert picture.note == "10000×6000 decoded at 1/2"


def test_a_large_jpeg_keeps_every_pixel_when_that_is_asked_for() -> None:
    data = corpus.encoded(Image.new("L", (10_000, 5_200), 9), "JPEG")
    assert to_pil(data, max_megapixels=60).size == (10_000, 5_200)


def test_a_hint_of_the_size_reduces_while_decoding() -> None:
    data = corpus.encoded(corpus.scene().resize((1600, 960)), "JPEG", quality=95)
    picture = to_picture(data, options=PictureOptions(longest_px=200))
    assert picture.size_px == (200, 120)
    assert picture.note == "1600×960 decoded at 1/8"
    assert difference(np.asarray(picture.rgb.resize((40, 24))), SCENE) < 12
    assert to_pil(data, longest_px=9999).size == (1600, 960)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (
            lambda: corpus.encoded(
                corpus.scene(),
                "GIF",
                save_all=True,
                append_images=[Image.new("RGB", (40, 24)), Image.new("RGB", (40, 24), "red")],
            ),
            "first of 3 frames",
        ),
        (
            lambda: corpus.encoded(corpus.scene(), "TIFF", save_all=True, append_images=[corpus.scene()]),
            "first of 2 pages",
        ),
        (lambda: corpus.encoded(corpus.scene(), "PNG"), ""),
    ],
)
def test_the_note_says_which_frame_was_read(data: Callable[[], bytes], note: str) -> None:
    assert to_picture(data(), name="it").note == note


def test_a_missing_file_names_those_that_look_alike(tmp_path: Path) -> None:
    corpus.scene().save(tmp_path / "holiday.png")
    with pytest.raises(PictureNotFoundError, match=r"holiday\.png"):
        to_pil(tmp_path / "holidya.png")
    with pytest.raises(PictureNotFoundError):
        to_pil("")


@pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes")
@pytest.mark.timeout(10)
def test_devices_pipes_and_folders_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path in ("/dev/zero", pipe, tmp_path):
        with pytest.raises(PictureDecodeError):
            to_pil(path)


def test_a_home_folder_and_escapes_in_a_path_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    corpus.scene().save(tmp_path / "my cat.png")
    assert to_pil("~/my cat.png").size == (40, 24)
    assert to_pil(str(tmp_path / "my%20cat.png")).size == (40, 24)


def test_base64_is_read_with_and_without_a_data_uri() -> None:
    text = base64.b64encode(corpus.encoded(corpus.scene(), "PNG")).decode()
    assert difference(pixels(text), SCENE) == 0
    assert difference(pixels(text.rstrip("=")), SCENE) == 0
    assert difference(pixels(f"data:image/png;base64,{text}"), SCENE) == 0
    with pytest.raises(PictureDecodeError):
        to_pil("data:image/png;base64,!!!")
    with pytest.raises(PictureDecodeError):
        to_pil("data:image/png")


def test_heic_without_its_reader_names_the_package() -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60)
    if "pillow_heif" in sys.modules:
        pytest.skip("pillow-heif is here")
    with pytest.raises(PictureDecodeError, match="pillow-heif"):
        to_pil(data)


def test_decoding_leaves_the_warnings_of_others_alone() -> None:
    import warnings

    before = list(warnings.filters)
    workers = [
        threading.Thread(target=lambda: to_pil(corpus.encoded(corpus.scene(), "GIF"))) for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert list(warnings.filters) == before


# -- Pillow ------------------------------------------------------------------------------------


def in_mode(mode: str) -> Image.Image:  # noqa: PLR0911 - one line per mode
    """The scene (or a ramp) in one of Pillow's modes."""
    scene, ramp = corpus.scene(), np.tile(np.linspace(0, 1, 40), (24, 1))
    if mode == "LAB":
        made = ImageCms.profileToProfile(
            scene, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert made is not None
        return made
    if mode.startswith("I;16"):
        order = ">" if mode.endswith("B") else "<"
        return Image.frombytes(mode, (40, 24), (ramp * 65535).astype(f"{order}u2").tobytes())
    if mode == "I":
        return Image.fromarray((ramp * 65535).astype(np.int32))
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32))
    if mode == "PA":
        return scene.convert("P").convert("PA")
    if mode == "La":
        return scene.convert("LA").convert("La")
    if mode == "RGBa":
        return scene.convert("RGBA").convert("RGBa")
    return scene.convert(mode)


MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "I;16L",
    "I;16B",
    "F",
]


@pytest.mark.parametrize("mode", MODES)
def test_a_pillow_picture_of_every_mode_is_right_and_stays_as_it_was(mode: str) -> None:
    image = in_mode(mode)
    before = image.tobytes(), image.mode, image.size, dict(image.info)
    found = pixels(image)
    if mode in ("I", "F") or mode.startswith("I;16"):
        expected = np.repeat(np.rint(np.tile(np.linspace(0, 255, 40), (24, 1)))[:, :, None], 3, axis=2)
    elif mode in ("1", "L", "LA", "La", "P", "PA"):
        expected = corpus.rgb(corpus.scene().convert({"LA": "L", "La": "L", "PA": "P"}.get(mode, mode)))
    else:
        expected = SCENE
    assert difference(found, expected.astype(np.uint8)) < 6
    assert before == (image.tobytes(), image.mode, image.size, dict(image.info))


def test_what_is_done_to_the_original_later_changes_nothing() -> None:
    image, array = corpus.scene(), SCENE.copy()
    first, second = to_picture(image), to_picture(array)
    image.paste("white", (0, 0, 40, 24))
    array[:] = 255
    assert difference(np.asarray(first.rgb), SCENE) == 0
    assert difference(np.asarray(second.rgb), SCENE) == 0


def test_what_is_done_to_the_result_changes_nothing_either() -> None:
    data = corpus.encoded(corpus.scene(), "PNG")
    kept = to_picture(data)
    for obj in (data, kept):
        to_pil(obj).paste("white", (0, 0, 40, 24))
    assert difference(np.asarray(kept.rgb), SCENE) == 0
    assert difference(pixels(data), SCENE) == 0


def test_an_opened_picture_is_turned_upright_and_says_so() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(corpus.TURNS[6](SCENE)))
    data = corpus.encoded(stored, "PNG", exif=exif.tobytes())
    opened = Image.open(io.BytesIO(data))
    picture = to_picture(opened)
    assert difference(np.asarray(picture.rgb), SCENE) == 0
    assert picture.note == "turned upright by its EXIF"
    assert difference(pixels(opened.convert("RGB")), SCENE) == 0


def test_a_picture_that_was_turned_by_hand_is_not_turned_again() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769).update({0xA002: 24, 0xA003: 40})
    stored = Image.fromarray(np.ascontiguousarray(corpus.TURNS[6](SCENE)))
    opened = Image.open(io.BytesIO(corpus.encoded(stored, "PNG", exif=exif.tobytes())))
    assert difference(pixels(opened.rotate(-90, expand=True)), SCENE) == 0


def test_a_cropped_picture_of_a_broken_file_is_a_clear_error() -> None:
    data = corpus.encoded(corpus.scene().resize((400, 240)), "PNG")
    with pytest.raises(PictureDecodeError):
        to_pil(Image.open(io.BytesIO(data[:300])))
    with pytest.raises(PictureDecodeError):
        to_pil(Image.new("RGB", (0, 5)))


# -- arrays ------------------------------------------------------------------------------------

RAMP = np.tile(np.linspace(0, 1, 40), (24, 1))
GRAY = np.repeat(np.rint(RAMP * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def arrays() -> dict[str, tuple[object, np.ndarray, str]]:
    """(what, what is seen, note) of arrays by name."""
    nan = RAMP.copy()
    nan[0, 0], nan[0, 1], nan[0, 2] = np.nan, np.inf, -np.inf
    nan_seen = GRAY.copy()
    nan_seen[0, :3] = [[255] * 3, [255] * 3, [0] * 3]
    alpha = np.dstack([SCENE, np.full(SCENE.shape[:2], 0, np.uint8)])
    mask = RAMP > 0.5
    mask_seen = np.repeat(mask[:, :, None] * np.uint8(255), 3, axis=2)
    return {
        "uint8 HWC": (SCENE, SCENE, ""),
        "uint8 CHW": (SCENE.transpose(2, 0, 1), SCENE, ""),
        "uint8 HW": (GRAY[:, :, 0], GRAY, ""),
        "uint8 HW1": (GRAY[:, :, :1], GRAY, ""),
        "uint8 1HW": (GRAY[:, :, 0][None], GRAY, ""),
        "uint8 RGBA": (alpha, np.full_like(SCENE, 255), "wholly transparent"),
        "uint8 LA": (np.dstack([GRAY[:, :, 0], np.full((24, 40), 255, np.uint8)]), GRAY, ""),
        "batch of one": (SCENE[None], SCENE, ""),
        "batch of one CHW": (SCENE.transpose(2, 0, 1)[None], SCENE, ""),
        "fortran order": (np.asfortranarray(SCENE), SCENE, ""),
        "negative strides": (SCENE[::-1, ::-1][::-1, ::-1], SCENE, ""),
        "read only": (np.frombuffer(SCENE.tobytes(), np.uint8).reshape(SCENE.shape), SCENE, ""),
        "big endian": ((RAMP * 65535).astype(">u2"), GRAY, ""),
        "bool": (mask, mask_seen, ""),
        "0/1 mask": (mask.astype(np.uint8), mask_seen, "0/1 shown as black and white"),
        "0/1 mask int64": (mask.astype(np.int64), mask_seen, "0/1 shown as black and white"),
        "uint16": ((RAMP * 65535).astype(np.uint16), GRAY, ""),
        "uint16 of 12 bits": ((RAMP * 4095).astype(np.uint16), GRAY, "integers read as 12 bits"),
        "int64": (SCENE.astype(np.int64), SCENE, "integers read as 8 bits"),
        "int32 beyond": ((RAMP * 1e6).astype(np.int32), GRAY, "values from 0 to 1e+06 stretched"),
        "int16 negative": (
            (RAMP * 2000 - 1000).astype(np.int16),
            GRAY,
            "values from -1000 to 1000 stretched",
        ),
        "float64 0…1": (RAMP, GRAY, ""),
        "float32 0…1 HWC": ((SCENE / 255).astype(np.float32), SCENE, ""),
        "float16": (RAMP.astype(np.float16), GRAY, ""),
        "float 0…255": (SCENE.astype(float), SCENE, "floats read as 0…255"),
        "float −1…1": (RAMP * 2 - 1, GRAY, "floats read as −1…1"),
        "float beyond": (RAMP * 5000 - 9, GRAY, "values from -9 to 4991 stretched"),
        "float huge": ((RAMP * 2 - 1) * 1.7e308, GRAY, "values from -1.7e+308 to 1.7e+308 stretched"),
        "NaN and infinities": (nan, nan_seen, "2 infinite values clipped, 1 cell without data shown white"),
        "constant 0.5": (np.full((24, 40), 0.5), np.full_like(GRAY, 128), ""),
        "constant beyond": (
            np.full((24, 40), 1e6),
            np.full_like(GRAY, 128),
            "every value is 1e+06, shown gray",
        ),
        "black": (np.zeros((24, 40, 3), np.uint8), np.zeros_like(GRAY), ""),
        "one pixel": (np.array([[7]], np.uint8), np.full((1, 1, 3), 7, np.uint8), ""),
        "thin": (
            np.full((1, 500, 3), 9, np.uint8),
            np.full((1, 500, 3), 9, np.uint8),
            "read as height×width×channels",
        ),
    }


@pytest.mark.parametrize("kind", list(arrays()))
def test_an_array_is_seen_right_and_stays_as_it_was(kind: str) -> None:
    array, expected, note = arrays()[kind]
    before = np.array(array, copy=True)
    picture = to_picture(array, name="it")
    assert difference(np.asarray(picture.rgb), expected) <= 1
    assert picture.note == note
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 5, 3)),
        np.zeros(5),
        np.array(3.0),
        np.zeros((5, 5, 7)),
        np.zeros((2, 2, 5, 5, 3)),
        np.zeros((5, 5), complex),
        np.array([["a", "b"]]),
        np.zeros((5, 5), "datetime64[s]"),
        np.zeros((5, 5), [("a", "u1")]),
        np.full((5, 5), np.nan),
        np.zeros((3, 20, 20, 3)),
        np.zeros((7000, 8000), bool),
    ],
    ids=str,
)
def test_an_array_that_is_no_picture_is_a_clear_error(array: np.ndarray) -> None:
    with pytest.raises(VLMError) as caught:
        to_pil(array)
    check_error(caught.value)


def test_a_guess_of_the_channel_axis_is_said() -> None:
    assert to_picture(np.full((3, 50, 4), 200, np.uint8)).note == "read as height×width×channels"
    torch = pytest.importorskip("torch")
    assert to_picture(torch.zeros(3, 50, 4)).note == "read as channels×height×width"


def test_tensors_of_every_kind_are_read_and_stay_as_they_were() -> None:
    torch = pytest.importorskip("torch")
    chw = torch.tensor(SCENE.transpose(2, 0, 1).copy())
    unit = chw.float() / 255
    grad = unit.clone().requires_grad_(True)
    cases = [
        chw,
        unit,
        unit[None],
        unit.bfloat16(),
        unit.half(),
        unit.double(),
        grad,
        grad * 1,
        unit.permute(1, 2, 0),
        torch.nn.Parameter(unit),
        unit.to_sparse(),
        unit * 2 - 1,
    ]
    for tensor in cases:
        assert difference(pixels(tensor), SCENE) < 1.5
    assert grad.requires_grad
    assert grad.grad is None
    with torch.inference_mode():
        assert difference(pixels(unit + 0), SCENE) < 1.5
    with pytest.raises(VLMError):
        to_pil(torch.zeros(3, 9, 9, device="meta"))
    assert len(try_pictures(torch.zeros(5, 3, 16, 16)) or []) == 5


def test_whatever_can_be_made_an_array_is_read() -> None:
    class ByArray:
        shape, dtype = SCENE.shape, SCENE.dtype

        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return SCENE

    class ByInterface:
        __array_interface__ = SCENE.__array_interface__

    class ByDlpack:
        shape, dtype = SCENE.shape, SCENE.dtype

        def __dlpack__(self, **kwargs: Any) -> object:
            return SCENE.copy().__dlpack__()

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    for obj in (ByArray(), ByInterface(), ByDlpack()):
        assert is_picture_like(obj)
        assert difference(pixels(obj), SCENE) == 0


# -- figures and other objects -----------------------------------------------------------------


def test_figures_axes_and_artists_are_drawn_and_stay_as_they_were() -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    figure, axes = plt.subplots(1, 2, figsize=(4, 2))
    lines = axes[0].plot([1, 2, 3], "r")
    bars = axes[1].bar([1, 2], [3, 4])
    shown = axes[1].imshow(RAMP)
    size, dpi, canvas = tuple(figure.get_size_inches()), figure.dpi, figure.canvas
    whole = to_pil(figure)
    assert np.ptp(np.asarray(whole)) > 100
    for part in (axes[0], axes[1], lines[0], shown):
        image = to_pil(part)
        assert image.width < whole.width
        assert np.ptp(np.asarray(image)) > 100
    assert len(try_pictures(bars) or []) == len(try_pictures(lines) or []) == 1
    assert len(try_pictures(axes, "axes") or []) == 2
    assert (tuple(figure.get_size_inches()), figure.dpi, figure.canvas) == (size, dpi, canvas)
    plt.close("all")
    assert np.ptp(pixels(figure)) > 100  # a closed figure can still be seen


def test_a_figure_without_pyplot_and_an_empty_one_are_drawn() -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    figure = figure_module.Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    assert np.ptp(pixels(figure)) > 100
    sub = figure_module.Figure(figsize=(4, 2))
    left, _ = sub.subfigures(1, 2)
    left.subplots().plot([1, 2])
    assert np.ptp(pixels(left)) > 100
    lines = pytest.importorskip("matplotlib.lines")
    with pytest.raises(PictureTypeError, match="no figure"):
        to_pil(lines.Line2D([0], [0]))
    with pytest.raises(PictureTooLargeError):
        to_pil(figure_module.Figure(figsize=(200, 200), dpi=200))


def test_objects_that_show_themselves_are_read_by_what_they_show() -> None:
    png, jpeg = corpus.encoded(corpus.scene(), "PNG"), corpus.encoded(corpus.scene(), "JPEG", quality=95)
    text = base64.b64encode(png).decode()

    def of(**methods: object) -> object:
        return type("Shown", (), {name: lambda self, v=value, **_: v for name, value in methods.items()})()

    for obj in (
        of(_repr_png_=png),
        of(_repr_png_=text),
        of(_repr_png_=(png, {"width": 3})),
        of(_repr_jpeg_=jpeg),
        of(_repr_png_=None, _repr_jpeg_=jpeg),
        of(_repr_mimebundle_={"image/png": text, "text/plain": "x"}),
        of(_repr_mimebundle_=({"image/jpeg": jpeg}, {})),
    ):
        assert is_picture_like(obj)
        assert difference(pixels(obj), SCENE) < 14
    for obj in (of(_repr_png_=None), of(_repr_mimebundle_={"text/html": "<b>"}), of(_repr_mimebundle_=None)):
        assert try_pictures(obj, "it") is None
        with pytest.raises(PictureTypeError):
            to_pil(obj)

    class Broken:
        def _repr_png_(self) -> bytes:
            raise RuntimeError("no display")

    assert try_pictures(Broken(), "it") is None


def test_a_display_image_of_ipython_is_read() -> None:
    display = pytest.importorskip("IPython.display")
    png = corpus.encoded(corpus.scene(), "PNG")
    assert difference(pixels(display.Image(data=png)), SCENE) == 0
    assert (
        difference(pixels(display.Image(data=corpus.encoded(corpus.scene(), "JPEG", quality=95))), SCENE) < 14
    )
    with pytest.raises(FetchRefusedError):
        to_pil(display.Image(url="http://127.0.0.1:9/x.png"))


def test_bytes_and_open_files_are_read_and_their_position_stays(tmp_path: Path) -> None:
    data = corpus.encoded(corpus.scene(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    buffer = io.BytesIO(data)
    buffer.seek(0, io.SEEK_END)
    for obj in (data, bytearray(data), memoryview(data), buffer, io.BufferedReader(io.BytesIO(data))):
        assert is_picture_like(obj)
        assert difference(pixels(obj), SCENE) == 0
    assert buffer.tell() == len(data)
    with path.open("rb") as file:
        file.seek(5)
        assert difference(pixels(file), SCENE) == 0
        assert file.tell() == 5
    with pytest.raises(PictureDecodeError, match="closed"):
        to_pil(file)
    with path.open(encoding="latin-1") as words, pytest.raises(PictureTypeError):
        to_pil(words)


def test_a_datasets_cell_is_read(tmp_path: Path) -> None:
    data = corpus.encoded(corpus.scene(), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    assert difference(pixels({"bytes": data, "path": None}), SCENE) == 0
    assert difference(pixels({"bytes": None, "path": str(tmp_path / "a.png")}), SCENE) == 0
    assert len(try_pictures([{"bytes": data, "path": None}] * 2) or []) == 2


def test_a_stranger_is_a_clear_error_and_never_a_picture() -> None:
    class Greedy:
        def __getattr__(self, name: str) -> object:
            return lambda *args, **kwargs: b"\x89PNG"

    import pandas as pd

    frame = pd.DataFrame(np.zeros((20, 20)))
    for obj in (
        None,
        3,
        3.5,
        object(),
        Greedy(),
        frame,
        {},
        [],
        {1, 2},
        len,
        np,
        Image.Image,
        iter([]),
        range(3),
        1j,
    ):
        assert not is_picture_like(obj)
        assert try_pictures(obj, "it") is None
        with pytest.raises(PictureTypeError) as caught:
            to_pil(obj)
        check_error(caught.value)


def test_an_object_that_fails_when_it_is_looked_at_is_text_in_a_prompt_and_an_error_when_asked() -> None:
    class Failing(collections.abc.Sequence):
        def __len__(self) -> int:
            raise RuntimeError("not now")

        def __getitem__(self, index: Any) -> Any:
            raise RuntimeError("not now")

    class FailingArray:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise RuntimeError("not now")

        @property
        def shape(self) -> tuple[int, ...]:
            raise RuntimeError("not now")

    class FailingFile:
        def read(self, n: int = -1) -> bytes:
            raise RuntimeError("not now")

        seek = tell = read

    for obj in (Failing(), FailingArray(), FailingFile()):
        assert not is_picture_like(obj)
        assert try_pictures(obj, "it") is None
        with pytest.raises(VLMError) as caught:
            to_pil(obj)
        check_error(caught.value)


def test_small_tables_of_numbers_are_text_in_a_prompt_and_pictures_when_asked() -> None:
    table = np.arange(12.0).reshape(3, 4)
    assert try_pictures(table, "table") is None
    assert to_pil(table).size == (4, 3)
    assert is_picture_like(np.zeros((28, 28)))
    assert not is_picture_like(np.zeros((10, 10), int))
    assert not is_picture_like(np.zeros(100))
    assert not is_picture_like([[1.0, 2.0]] * 20)


def test_looking_is_cheap_and_decodes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"broken")
    things = [
        corpus.scene(),
        SCENE,
        path,
        [corpus.scene()] * 50,
        "http://127.0.0.1/x.png",
        np.zeros((64, 512, 512, 3), bool),
    ]
    begun = time.process_time()
    for _ in range(20):
        answers = [is_picture_like(thing) for thing in things]
    assert answers == [True, True, True, True, True, True]
    assert time.process_time() - begun < 1


def test_a_column_that_loads_its_items_is_not_loaded_whole() -> None:
    class Column(collections.abc.Sequence):
        loaded = 0

        def __len__(self) -> int:
            return 10_000

        def __getitem__(self, index: Any) -> Any:
            if index >= 10_000:
                raise IndexError
            self.loaded += 1
            return corpus.scene()

    column = Column()
    assert is_picture_like(column)
    assert column.loaded <= 3
    with pytest.raises(VLMError, match="pictures"):
        try_pictures(column, "column")
    assert column.loaded < 100


def test_a_picture_of_several_is_an_error_that_names_the_first() -> None:
    with pytest.raises(PictureTypeError, match="holds 2 pictures") as caught:
        to_picture([corpus.scene(), corpus.scene()], name="cats")
    assert "cats[0]" in str(caught.value)
    assert to_pil([corpus.scene()]).size == (40, 24)


# -- identity ----------------------------------------------------------------------------------


def test_the_same_picture_has_the_same_digest_however_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    corpus.scene().save(path)
    digests = {to_picture(obj).digest for obj in (corpus.scene(), SCENE, path, path.read_bytes(), str(path))}
    assert len(digests) == 1
    assert to_picture(corpus.scene().transpose(Image.Transpose.ROTATE_90)).digest not in digests
    assert (
        to_picture(np.zeros((2, 8, 3), np.uint8)).digest != to_picture(np.zeros((4, 4, 3), np.uint8)).digest
    )


def test_a_picture_already_seen_costs_a_hash_and_not_a_decode() -> None:
    data = corpus.encoded(corpus.scene().resize((2000, 1500)), "PNG", compress_level=1)
    decoded_cache.forget()
    begun = time.process_time()
    first = to_picture(data)
    decoding = time.process_time() - begun
    begun = time.process_time()
    again = to_picture(data)
    assert time.process_time() - begun < decoding / 3
    assert again.image is first.image
    assert decoded_cache.forget() > 0
    assert to_picture(data).image is not first.image


def test_keeping_a_picture_does_not_cost_more_the_more_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    n_asked = 0

    def counted(seen: decoded_cache.SeenPicture) -> int:
        nonlocal n_asked
        n_asked += 1
        return 4 * seen.image.width * seen.image.height

    decoded_cache.forget()
    monkeypatch.setattr(decoded_cache.SeenPicture, "n_bytes", property(counted))
    data = [corpus.encoded(Image.new("RGB", (8, 8), (i, 0, 0)), "PNG") for i in range(200)]
    for one in data:
        to_picture(one)
    assert n_asked <= 4 * len(data)
    assert decoded_cache.forget() == 200 * 4 * 8 * 8


def test_decoded_pictures_leave_in_the_order_of_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_cache, "_MAX_BYTES", 3 * 4 * 8 * 8)
    decoded_cache.forget()
    red, green, blue, white = (
        corpus.encoded(Image.new("RGB", (8, 8), colour), "PNG") for colour in ("red", "lime", "blue", "white")
    )
    kept = {one: to_picture(one).image for one in (red, green, blue)}
    to_picture(red)
    to_picture(white)  # green is the least recently used
    assert to_picture(red).image is kept[red]
    assert to_picture(blue).image is kept[blue]
    assert to_picture(green).image is not kept[green]
    assert decoded_cache.forget() == 3 * 4 * 8 * 8


def test_forgetting_frees_memory_and_disk() -> None:
    data = corpus.encoded(corpus.scene(), "PNG")
    first = to_picture(data)
    assert to_picture(data).image is first.image
    memory, disk = forget_pictures()
    assert memory >= 4 * 40 * 24
    assert disk >= 0
    assert to_picture(data).image is not first.image


def test_a_decoded_picture_comes_back_as_it_is() -> None:
    picture = to_picture(corpus.scene(), name="cat")
    assert to_picture(picture) is picture
    assert to_picture(Picture(corpus.scene(), name="dog")).name == "dog"


def test_pictures_are_let_go_when_they_are_dropped() -> None:
    import weakref

    decoded_cache.forget()
    picture = to_picture(np.zeros((500, 500, 3), np.uint8))
    watched = weakref.ref(picture.rgb)
    del picture
    gc.collect()
    assert watched() is None


# -- the table ---------------------------------------------------------------------------------


def kinds(folder: Path) -> dict[str, tuple[object, type[VLMError] | None]]:
    """One of each kind of input: the object, and the error where one is right."""
    import matplotlib.pyplot as plt
    import pandas as pd
    import torch

    path = folder / "scene.png"
    corpus.scene().save(path)
    data = path.read_bytes()
    figure, axes = plt.subplots(figsize=(2, 1))
    artist = axes.imshow(SCENE)
    return {
        **{f"Pillow, mode {mode}": (in_mode(mode), None) for mode in MODES},
        **{f"array, {kind}": (array, None) for kind, (array, _, _) in arrays().items()},
        "array, empty": (np.zeros((0, 3)), PictureTypeError),
        "array, all NaN": (np.full((9, 9), np.nan), PictureDecodeError),
        "tensor, CHW float": (torch.rand(3, 9, 9), None),
        "tensor, bf16": (torch.rand(3, 9, 9).bfloat16(), None),
        "tensor, with grad": (torch.rand(3, 9, 9, requires_grad=True), None),
        "tensor, meta device": (torch.rand(3, 9, 9, device="meta"), PictureDecodeError),
        "matplotlib figure": (figure, None),
        "matplotlib axes": (axes, None),
        "matplotlib artist": (artist, None),
        "path": (path, None),
        "path as text": (str(path), None),
        "path, missing": (folder / "no.png", PictureNotFoundError),
        "path, folder": (folder, PictureDecodeError),
        "bytes": (data, None),
        "bytes, broken": (data[:60], PictureDecodeError),
        "bytes, no picture": (b"hello", PictureDecodeError),
        "BytesIO": (io.BytesIO(data), None),
        "data URI": (f"data:image/png;base64,{base64.b64encode(data).decode()}", None),
        "plain base64": (base64.b64encode(data).decode(), None),
        "URL, file://": (f"file://{path}", FetchRefusedError),
        "URL, private": ("http://10.0.0.1/a.png", FetchRefusedError),
        "datasets cell": ({"bytes": data, "path": None}, None),
        "Series cell": (pd.Series([corpus.scene()])[0], None),
        "Series of one": (pd.Series([corpus.scene()]), None),
        "list of one": ([corpus.scene()], None),
        "list of several": ([corpus.scene()] * 2, PictureTypeError),
        "DataFrame": (pd.DataFrame({"a": [1]}), PictureTypeError),
        "13000×13000 PNG": (corpus.png(13000, 13000), PictureTooLargeError),
        "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(60), PictureDecodeError),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", PictureDecodeError),
        "number": (3, PictureTypeError),
        "None": (None, PictureTypeError),
        **kinds_of_science(folder, path),
    }


def kinds_of_science(folder: Path, path: Path) -> dict[str, tuple[object, type[VLMError] | None]]:
    """Those that research makes, and those that fail when they are looked at."""
    import ipywidgets
    import pandas as pd
    import seaborn as sns
    from IPython.display import Image as DisplayImage

    logo = Image.new("RGBA", (60, 40), (255, 255, 255, 0))
    logo.paste("white", (10, 10, 50, 30))
    profiled = corpus.encoded(corpus.scene(), "PNG", icc_profile=other_profile())
    apng = corpus.encoded(
        corpus.scene(), "PNG", save_all=True, default_image=True, append_images=[corpus.scene()] * 2
    )
    sheets = [Image.new("RGB", (50, 70), "red")] * 3
    sheets[0].save(folder / "a.pdf", save_all=True, append_images=sheets[1:])
    (folder / "link.png").symlink_to(folder / "gone.png")
    return {
        **{f"map, {kind}": (array, None) for kind, (array, _) in MAPS.items()},
        "floats up to 1.2": (RANDOM.random((9, 9, 3)) * 1.2, None),
        "masked array": (np.ma.array(np.eye(9), mask=np.eye(9) > 0), None),
        "masked array, all of it": (np.ma.masked_all((9, 9)), PictureDecodeError),
        "array with a colour map": (Picture(np.eye(9), cmap="viridis", vmax=2), None),
        "array, no such colour map": (Picture(np.eye(9), cmap="virdis"), PictureTypeError),
        "array 10×10×7": (np.zeros((10, 10, 7)), PictureTypeError),
        "object array of one": (np.array([corpus.scene(), None], object)[:1], None),
        "white on transparent": (logo, None),
        "RGB with a profile": (profiled, None),
        "APNG with a default image": (apng, None),
        "seaborn grid": (sns.FacetGrid(pd.DataFrame({"a": [1]})), None),
        "ipywidgets.Image": (ipywidgets.Image(value=path.read_bytes()), None),
        "IPython Image": (DisplayImage(data=path.read_bytes()), None),
        "IPython Image, private URL": (DisplayImage(url="http://10.0.0.1/a.png"), FetchRefusedError),
        "region of a file": (f"{path}#xywh=1,2,10,10", None),
        "region outside": (f"{path}#xywh=900,2,10,10", PictureError),
        "page of a PDF": (f"{folder / 'a.pdf'}#page=2", None),
        "page that is not there": (f"{folder / 'a.pdf'}#page=9", PictureError),
        "PDF of several pages": (folder / "a.pdf", PictureTypeError),
        "data URI without base64": (
            "data:image/png," + base64.b64encode(path.read_bytes()).decode(),
            PictureDecodeError,
        ),
        "Path of a URL": (Path("https://example.org/a.png"), PictureNotFoundError),
        "broken link": (folder / "link.png", PictureNotFoundError),
        **{f"object that fails, {kind}": (obj, PictureTypeError) for kind, obj in strangers().items()},
    }


def test_every_kind_of_input_is_right_or_a_clear_error(tmp_path: Path) -> None:
    print()
    for kind, (obj, error) in kinds(tmp_path).items():
        try:
            picture = to_picture(obj, name="it")
        except VLMError as exc:
            check_error(exc)
            found, message = type(exc), f"{kind}: {exc}"
            assert found is error, message
            print(f"  {kind:30} clear error: {exc.what}")
        else:
            assert error is None, kind
            assert picture.rgb.mode == "RGB"
            print(f"  {kind:30} right{f' ({picture.note})' if picture.note else ''}")


# -- what science makes ------------------------------------------------------------------------

RANDOM = np.random.default_rng(0)


def gray_of(image: Image.Image) -> np.ndarray:
    """(H, W) of a picture that must be gray."""
    found = np.asarray(image)
    assert (found == found[:, :, :1]).all()
    return found[:, :, 0].astype(int)


@pytest.mark.parametrize(
    "array",
    [
        RANDOM.random((64, 96, 3)) * 1.2,
        SCENE / 255 + RANDOM.normal(0, 0.1, SCENE.shape),
        np.where(RANDOM.random((64, 96, 3)) < 0.01, 1.7, SCENE.repeat(2, 0)[:48].mean() / 255),
        (SCENE / 255 * 1.2 - 0.1).astype(np.float32),
    ],
    ids=["1.2 times too bright", "noise", "overshoot", "bicubic"],
)
def test_floats_slightly_outside_0_to_1_are_clipped_and_said(array: np.ndarray) -> None:
    picture = to_picture(array, name="it")
    assert difference(np.asarray(picture.rgb), np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)) <= 1
    assert "floats read as 0…1" in picture.note
    assert "clipped" in picture.note


def test_a_picture_of_minus_one_to_one_is_still_read_as_such() -> None:
    assert to_picture(SCENE / 127.5 - 1).note == "floats read as −1…1"
    assert difference(pixels((SCENE / 127.5 - 1).astype(np.float32)), SCENE) <= 1


MAPS = {
    "labels 0…2": (RANDOM.integers(0, 3, (48, 64)), "labels 0…2 shown as 3 greys"),
    "labels 0…20, uint8": (
        RANDOM.integers(0, 21, (48, 64)).astype(np.uint8),
        "labels 0…20 shown as 21 greys",
    ),
    "labels and 255": (RANDOM.choice([0, 1, 7, 255], (48, 64)).astype(np.uint8), "shown as 4 greys"),
    "labels and −1": (RANDOM.integers(-1, 5, (48, 64)), "labels -1…4 shown as 6 greys"),
    "depth 0…10 m": (RANDOM.random((48, 64)) * 10, "stretched"),
    "thermal 20…38": (20 + RANDOM.random((48, 64)) * 18, "stretched"),
    "float 0…3": (RANDOM.random((48, 64)).astype(np.float32) * 3, "stretched"),
    "probabilities below 0.1": (RANDOM.random((48, 64)) * 0.1, "stretched"),
    "gradients of ±0.1": (RANDOM.random((48, 64)) * 0.2 - 0.1, "stretched"),
    "raw thermal, uint16": (RANDOM.integers(7000, 8000, (48, 64)).astype(np.uint16), "stretched"),
    "counts 0…60, int64": (RANDOM.integers(0, 61, (48, 64)), "stretched"),
}


@pytest.mark.parametrize("kind", list(MAPS))
def test_a_map_spans_black_to_white_and_says_how(kind: str) -> None:
    array, words = MAPS[kind]
    picture = to_picture(array, name="it")
    found = gray_of(picture.rgb)
    assert (found.min(), found.max()) == (0, 255)
    assert words in picture.note
    order = np.argsort(array, axis=None, kind="stable")
    assert (np.diff(found.ravel()[order]) >= 0).all()  # brighter where the number is larger
    if "labels" in kind:
        assert len(np.unique(found)) == len(np.unique(array))
    as_tensor = pytest.importorskip("torch").tensor(
        array.astype(np.int64 if array.dtype.kind in "iu" else float)
    )
    assert np.ptp(gray_of(to_pil(as_tensor))) == 255


def test_a_few_outlying_values_do_not_darken_a_map() -> None:
    array = RANDOM.random((100, 100)) * 10
    array[0, :3] = 4000
    picture = to_picture(array)
    assert "those beyond clipped" in picture.note
    assert gray_of(picture.rgb)[1:].mean() > 100


def test_an_eight_bit_picture_stays_as_it_is_whatever_its_type() -> None:
    gray = corpus.rgb(corpus.scene().convert("L"))[:, :, 0]
    dark = np.clip(gray // 4, 0, 60).astype(np.uint8)
    for array in (gray, gray.astype(float), gray.astype(np.int64), dark):
        assert difference(gray_of(to_pil(array)), array.astype(np.uint8)) <= 1


@pytest.mark.parametrize("kind", ["masked", "NaN", "-9999", "float32 least", "masked colours"])
def test_cells_without_data_are_white_and_no_part_of_the_stretch(kind: str) -> None:
    array = 20 + RANDOM.random((48, 64)) * 18
    hole = np.zeros((48, 64), bool)
    hole[:10, :10] = True
    given: Any = {
        "masked": np.ma.array(np.where(hole, 1e6, array), mask=hole),
        "NaN": np.where(hole, np.nan, array),
        "-9999": np.where(hole, -9999.0, array),
        "float32 least": np.where(hole, np.finfo(np.float32).min, array).astype(np.float32),
        "masked colours": np.ma.array(
            np.dstack([np.where(hole, 77, 10 + array)] * 3).astype(np.uint8), mask=np.dstack([hole] * 3)
        ),
    }[kind]
    picture = to_picture(given, name="it")
    found = gray_of(picture.rgb)
    assert (found[hole] == 255).all()
    assert "100 cells without data shown white" in picture.note
    if kind != "masked colours":
        assert found[~hole].min() == 0
        assert found[~hole].std() > 50
        assert "stretched" in picture.note
    with pytest.raises(PictureDecodeError, match=r"not a picture|without a single finite") as caught:
        to_pil(np.ma.masked_all((9, 9)))
    check_error(caught.value)


def test_a_colour_map_and_its_range_are_taken_from_matplotlib() -> None:
    colormaps = pytest.importorskip("matplotlib").colormaps
    array = RANDOM.random((20, 30)) * 10
    picture = to_picture(Picture(array, "depth", cmap="viridis", vmin=0, vmax=20))
    expected = colormaps["viridis"](array / 20, bytes=True)[..., :3]
    assert difference(np.asarray(picture.rgb), expected) <= 1
    assert picture.note == "viridis from 0…20"
    assert picture.name == "depth"
    whole = to_picture(Picture(array, cmap="magma"))
    spanned = (array - array.min()) / np.ptp(array)
    assert difference(np.asarray(whole.rgb), colormaps["magma"](spanned, bytes=True)[..., :3]) <= 1
    labels = RANDOM.integers(0, 10, (20, 30))
    assert len(np.unique(np.asarray(to_pil(Picture(labels, cmap="tab10"))).reshape(-1, 3), axis=0)) == 10
    gray = corpus.scene().convert("L")
    assert np.ptp(np.asarray(to_pil(Picture(gray, cmap="viridis")))[:, :, 0]) > 100
    assert gray_of(to_pil(Picture(array, vmin=5, vmax=6))).min() == 0


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (Picture(np.zeros((9, 9)), cmap="virdis"), "cmap='viridis'"),
        (Picture(np.arange(81.0).reshape(9, 9), vmin=3, vmax=1), "vmin=0, vmax=80"),
        (Picture(SCENE, cmap="viridis"), "one channel"),
        (Picture("nope.png", cmap="viridis"), "gray file"),
        (Picture(corpus.scene(), cmap="viridis"), "one channel"),
    ],
    ids=["misspelt", "upside down", "colours", "a file", "RGB of Pillow"],
)
def test_a_colour_map_that_does_not_fit_is_a_clear_error(picture: Picture, words: str) -> None:
    with pytest.raises(VLMError) as caught:
        to_picture(picture, name="it")
    check_error(caught.value)
    assert words in caught.value.hint


def test_white_on_transparent_is_shown_on_black_and_said() -> None:
    logo = Image.new("RGBA", (200, 100), (255, 255, 255, 0))
    logo.paste((250, 255, 252, 255), (20, 40, 180, 60))
    for obj in (
        logo,
        np.asarray(logo),
        corpus.encoded(logo, "PNG"),
        corpus.encoded(logo, "WEBP", lossless=True),
    ):
        picture = to_picture(obj, name="logo")
        assert picture.note == "light on transparent, shown on black"
        assert np.asarray(picture.rgb)[0, 0].tolist() == [0, 0, 0]
        assert np.asarray(picture.rgb)[50, 100].min() > 240
    dark = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    dark.paste((10, 20, 30, 255), (20, 40, 180, 60))
    assert to_picture(dark).note == ""
    assert to_picture(Image.new("RGBA", (9, 9))).note == "wholly transparent"
    assert to_picture(Image.new("RGBA", (9, 9), "white")).note == ""


def test_an_animated_png_shows_what_browsers_show() -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "green", "blue")]
    data = corpus.encoded(
        frames[0], "PNG", save_all=True, default_image=True, append_images=frames[1:], duration=100
    )
    picture = to_picture(data)
    assert np.asarray(picture.rgb)[0, 0].tolist() == [0, 128, 0]
    assert picture.note == "first of 2 frames"
    plain = corpus.encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=100)
    assert np.asarray(to_pil(plain))[0, 0].tolist() == [255, 0, 0]


def other_profile() -> bytes:
    """A profile in which red and blue have changed places, in an otherwise usual sRGB profile."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    n = int.from_bytes(data[128:132], "big")
    for at in range(132, 132 + 12 * n, 12):
        name = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return bytes(data).replace("sRGB".encode("utf-16-be"), "oBGR".encode("utf-16-be"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_of_an_rgb_file_is_honoured(kind: str, mode: str) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        mode = "RGB"
    image = Image.new(mode, (40, 24), "red")
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    data = corpus.encoded(image, kind, icc_profile=other_profile(), **options)
    picture = to_picture(data, name="it")
    red, _, blue = np.asarray(picture.rgb)[5, 5].tolist()
    assert blue > 230
    assert red < 25
    assert picture.note.startswith("colours by its profile, oBGR")
    opened = Image.open(io.BytesIO(data))
    assert difference(pixels(opened), np.asarray(picture.rgb)) == 0
    assert opened.convert("RGB").getpixel((5, 5))[0] > 230  # type: ignore[index] # the person's own stays
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (usual, b"broken" * 100, other_profile()[:200]):
        assert np.asarray(to_pil(corpus.encoded(image, kind, icc_profile=profile, **options)))[5, 5][0] > 230


def test_a_jpeg_of_very_many_scans_is_refused_from_its_bytes() -> None:
    """Each costs a pass over the whole picture: a file of a megabyte could take minutes."""
    plain = corpus.encoded(corpus.scene().resize((64, 48)), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    many = plain[:last] + plain[last:-2] * 250 + plain[-2:]
    assert to_pil(plain).size == (64, 48)
    with pytest.raises(PictureDecodeError, match="scans") as caught:
        to_pil(many)
    assert "200" in caught.value.have


# -- files that change, and objects that fail -----------------------------------------------------

_CUT_SCRIPT = """
import os, sys, threading, time
sys.path[:0] = sys.argv[3:]
from PIL import Image
from vlm_magic.errors import VLMError
from vlm_magic.inputs.pictures import to_pil

path, how = sys.argv[1:3]
obj = Image.open(path) if how == "Pillow" else path
import vlm_magic.inputs.pixels.decode as decode

def cut():
    time.sleep(0.15)
    os.truncate(path, 5_000_000)

plain = decode.to_rgb
def cut_meanwhile(*args, **kwargs):
    threading.Thread(target=cut).start()  # while the pixels are decoded
    return plain(*args, **kwargs)
decode.to_rgb = cut_meanwhile
try:
    print(to_pil(obj).size)
except VLMError as exc:
    print(type(exc).__name__, len(str(exc).splitlines()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be cut there")
@pytest.mark.parametrize("how", ["path", "Pillow"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_a_large_tiff_that_is_cut_short_while_it_is_decoded_is_an_error(
    how: str, compression: str, tmp_path: Path
) -> None:
    path = tmp_path / "big.tif"
    noise = np.random.default_rng(1).integers(0, 256, (4000, 6000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, compression=compression)
    assert path.stat().st_size > 64_000_000
    here = Path(__file__).parent
    command = [sys.executable, "-c", _CUT_SCRIPT, str(path), how, str(here.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() in (["PictureDecodeError", "3"], ["(6000,", "4000)"])  # or it was done before


@pytest.mark.skipif(sys.platform == "win32", reason="devices and pipes")
@pytest.mark.timeout(20)
def test_open_devices_and_pipes_and_growing_files_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/zero", "rb") as zeros, pytest.raises(PictureDecodeError, match="device") as caught:
        to_pil(zeros)
    check_error(caught.value)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb"):
        with pytest.raises(PictureDecodeError, match="pipe"):
            to_pil(pipe)
        assert not is_picture_like(pipe)
    path = tmp_path / "growing.png"
    corpus.scene().save(path)
    plain = os.fstat

    def grown(handle: int) -> os.stat_result:
        found = plain(handle)
        if found.st_ino == path.stat().st_ino:
            with path.open("ab") as file:
                file.write(b"more")
        return found

    monkeypatch.setattr(os, "fstat", grown)
    with pytest.raises(PictureDecodeError, match="changed while it was read") as caught:
        to_pil(path)
    check_error(caught.value)


class Proxied:
    """What a dead weak reference once pointed to."""


def strangers() -> dict[str, object]:
    import weakref

    class Raising:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("not now")

    class RaisingArray:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            raise RuntimeError("not now")

        @property
        def shape(self) -> tuple[int, ...]:
            raise RuntimeError("not now")

    class RaisingFile:
        def read(self, n: int = -1) -> bytes:
            raise RuntimeError("not now")

        seek = tell = read

    class RaisingName:
        filename = name = property(lambda self: 1 / 0)

        def __array__(self) -> np.ndarray:
            return np.zeros((2, 2, 2, 2, 2))

    class RaisingRepr:
        def _repr_png_(self) -> bytes:
            raise RuntimeError("not now")

    return {
        "attributes": Raising(),
        "array": RaisingArray(),
        "file": RaisingFile(),
        "name": RaisingName(),
        "repr": RaisingRepr(),
        "dead": weakref.proxy(Proxied()),
        "dead in a list": [weakref.proxy(Proxied())],
        "class": Raising,
        "module": np,
        "frame": __import__("pandas").DataFrame({"a": [1]}),
    }


@pytest.mark.parametrize("kind", list(strangers()))
def test_an_object_that_fails_when_it_is_looked_at_is_a_type_error_of_three_lines(kind: str) -> None:
    obj = strangers()[kind]
    assert not is_picture_like(obj) or kind == "repr"
    with pytest.raises(PictureTypeError) as caught:
        to_pil(obj)
    check_error(caught.value)


def test_hints_fit_what_went_wrong(tmp_path: Path) -> None:
    import unicodedata

    torch = pytest.importorskip("torch")
    requests = pytest.importorskip("requests")
    data = corpus.encoded(corpus.scene(), "PNG")
    missing = requests.Response()
    missing.status_code, missing.url, missing._content = 404, "https://example.org/a.png", b"<html>no"
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for obj, words in (
        (Path("https://example.org/a.png"), "https://example.org/a.png"),
        ("data:image/png," + base64.b64encode(data).decode(), "data:image/png;base64,"),
        (torch.zeros(3, 9, 9, device="meta"), "after it was loaded"),
        (missing, "404"),
        (tmp_path / "link.png", "gone.png"),
        (np.zeros((9, 9, 7)), "[..., [0, 1, 2]]"),
    ):
        with pytest.raises(VLMError) as caught:
            to_pil(obj)
        check_error(caught.value)
        assert words in str(caught.value)
    name = "Übersicht é.png"
    for given, stored in (("NFC", "NFD"), ("NFD", "NFC")):
        folder = tmp_path / given
        folder.mkdir()
        corpus.scene().save(folder / unicodedata.normalize(stored, name))
        assert to_pil(str(folder / unicodedata.normalize(given, name))).size == (40, 24)


def test_every_error_of_the_inputs_says_what_there_is_and_what_to_try() -> None:
    import ast

    import vlm_magic.errors

    ours = {name for name in vlm_magic.errors.__all__ if name.endswith("Error")}
    short = []
    for path in sorted((Path(__file__).parents[1] / "vlm_magic" / "inputs").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours:
                told = {keyword.arg for keyword in node.keywords}
                if not {"have", "hint"} <= told:
                    short.append(f"{path.name}:{node.lineno} {ast.unparse(node)[:60]}")
    assert short == []


# -- what a notebook holds besides -----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning", "ignore::DeprecationWarning")
def test_grids_of_seaborn_are_drawn() -> None:
    sns = pytest.importorskip("seaborn")
    import matplotlib.pyplot as plt
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [2.0, 1, 4, 3], "c": list("xyxy")})
    for grid in (
        sns.FacetGrid(frame, col="c").map(plt.plot, "a", "b"),
        sns.PairGrid(frame).map(plt.scatter),
        sns.jointplot(frame, x="a", y="b"),
        sns.catplot(frame, x="c", y="a", kind="bar"),
    ):
        assert is_picture_like(grid)
        assert np.ptp(pixels(grid)) > 100
        assert len(try_pictures(grid, "grid") or []) == 1
    import seaborn.objects as so

    assert np.ptp(pixels(so.Plot(frame, "a", "b").add(so.Dot()))) > 100
    plt.close("all")


def test_arrays_of_axes_and_of_pictures_are_several_with_their_places() -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    _, axes = plt.subplots(2, 2)
    names = [picture.name for picture in try_pictures(axes, "axes") or []]
    assert names == ["axes[0, 0]", "axes[0, 1]", "axes[1, 0]", "axes[1, 1]"]
    pictures = np.empty(2, object)
    pictures[:] = [corpus.scene(), corpus.scene()]
    assert [picture.name for picture in try_pictures(pictures, "it") or []] == ["it[0]", "it[1]"]
    single = np.empty((1, 1), object)
    single[0, 0] = corpus.scene()
    assert to_pil(single).size == (40, 24)
    plt.close("all")


def test_images_of_ipywidgets_and_ipython_are_read() -> None:
    widgets, display = pytest.importorskip("ipywidgets"), pytest.importorskip("IPython.display")
    png = corpus.encoded(corpus.scene(), "PNG")
    for obj in (widgets.Image(value=png), display.Image(data=png)):
        assert len(try_pictures(obj, "it") or []) == 1
        assert difference(pixels(obj), SCENE) == 0
    for obj in (widgets.Image.from_url("http://10.0.0.1/a.png"), display.Image(url="http://10.0.0.1/a.png")):
        assert is_picture_like(obj)
        with pytest.raises(FetchRefusedError):
            try_pictures(obj, "it")
        with pytest.raises(FetchRefusedError):
            to_pil(obj)


def test_a_chart_that_cannot_be_drawn_says_the_true_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    class BaseFigure:
        cause: Exception = RuntimeError("Kaleido requires Google Chrome to be installed.")

        def _repr_mimebundle_(self, **kwargs: object) -> dict[str, object]:
            return {"text/html": "<div>"}

        def to_image(self, format: str) -> bytes:  # noqa: A002 - plotly's own name
            raise self.cause

    module = types.ModuleType("plotly.basedatatypes")
    module.BaseFigure = BaseFigure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plotly.basedatatypes", module)
    figure = BaseFigure()
    monkeypatch.setattr("vlm_magic.inputs.pixels.plots.find_spec", lambda name: object())
    with pytest.raises(PictureTypeError) as caught:
        to_pil(figure)
    check_error(caught.value)
    assert "requires Google Chrome" in caught.value.have
    assert "plotly_get_chrome" in caught.value.hint
    monkeypatch.setattr("vlm_magic.inputs.pixels.plots.find_spec", lambda name: None)
    with pytest.raises(PictureTypeError, match="package kaleido"):
        to_pil(figure)


@pytest.mark.parametrize("shape", [(10, 10, 7), (5, 9, 9, 7), (2, 3, 16, 16, 3)])
def test_an_array_of_three_axes_is_pictures_or_an_error_and_never_its_text(shape: tuple[int, ...]) -> None:
    for array in (np.zeros(shape), np.zeros(shape, np.uint8)):
        with pytest.raises(VLMError) as caught:
            try_pictures(array, "it")
        check_error(caught.value)
    assert try_pictures(np.zeros((3, 4, 2)), "it") is None


def test_tables_of_pictures_are_pictures_or_errors() -> None:
    import pandas as pd

    one = pd.DataFrame({"photo": [corpus.scene(), corpus.scene()]})
    assert [p.name for p in try_pictures(one, "frame") or []] == ["frame['photo'][0]", "frame['photo'][1]"]
    with pytest.raises(PictureTypeError, match="a table") as caught:
        try_pictures(one.assign(title="x"), "frame")
    check_error(caught.value)
    assert "frame['photo']" in caught.value.hint
    assert try_pictures(pd.DataFrame({"a": [1.0], "b": ["words"]}), "frame") is None
