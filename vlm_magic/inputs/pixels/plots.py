"""From figures and other objects that a notebook shows as pictures to RGB pictures.

Matplotlib figures are drawn as the notebook's inline backend draws them; axes and artists are cut out
of their figure. Everything else is asked for its picture repr. Libraries are used only when the object
that came is theirs. The object is not changed.
"""

from __future__ import annotations

import base64
import io
from importlib.util import find_spec
from typing import Any

from vlm_magic.errors import PictureDecodeError, PictureError, PictureTooLargeError, PictureTypeError
from vlm_magic.inputs.limits import DEFAULT_MEGAPIXELS, PictureOptions
from vlm_magic.inputs.pixels import sniff
from vlm_magic.inputs.pixels.decode import Decoded, decode_picture
from vlm_magic.wording import shorten

__all__ = ["draw_plot", "show_object"]


def draw_plot(obj: Any, name: str, options: PictureOptions) -> Decoded:
    """The picture of a matplotlib figure, axes, artist or container of artists.

    Raises:
        PictureTypeError: an artist that belongs to no figure.
        PictureTooLargeError: a figure of more pixels than allowed.
        PictureDecodeError: drawing failed.
    """
    if sniff.has_type(obj, "seaborn.axisgrid._BaseGrid"):
        obj = obj.figure
    if sniff.is_plot_group(obj):
        obj = next(iter(_artists(obj)))
    axes = obj if sniff.has_type(obj, "matplotlib.axes.Axes") else getattr(obj, "axes", None)
    figure = obj if sniff.has_type(obj, "matplotlib.figure.Figure") else getattr(obj, "figure", None)
    while figure is not None and not sniff.has_type(figure, "matplotlib.figure.Figure"):
        axes, figure = None, getattr(figure, "figure", None)  # a subfigure: its figure
    if figure is None:
        raise PictureTypeError(
            f"{name} belongs to no figure",
            have=f"a {type(obj).__name__} by itself",
            hint="plt.gcf() for the current figure",
        )
    _check_figure(figure, name, options)
    try:
        data = _drawn(figure, axes if sniff.has_type(axes, "matplotlib.axes.Axes") else None)
    except Exception as exc:
        raise PictureDecodeError(
            f"{name} cannot be drawn",
            have=f"{type(exc).__name__}: {exc}",
            hint="fig.savefig(…) in a cell of its own",
        ) from exc
    return decode_picture(data, name=name, options=options)


def _artists(group: Any) -> list[Any]:
    found: list[Any] = []
    for item in group:
        found.extend([item] if sniff.is_plot(item) else _artists(item or ()))
    return found


def _check_figure(figure: Any, name: str, options: PictureOptions) -> None:
    width, height = (float(side) * float(figure.dpi) for side in figure.get_size_inches())
    megapixels, limit = width * height / 1e6, options.max_megapixels or DEFAULT_MEGAPIXELS
    if megapixels > limit:
        raise PictureTooLargeError(
            f"{name} is a figure of {megapixels:.0f} megapixels",
            have=f"at most {limit:g} are drawn unless more is asked for",
            hint="a smaller figsize or dpi",
            megapixels=megapixels,
        )


def _drawn(figure: Any, axes: Any) -> bytes:
    """PNG bytes of a figure, or of one of its axes with its labels."""
    box: Any = "tight"
    if axes is not None and len(figure.axes) > 1:
        figure.canvas.draw()
        box = axes.get_tightbbox().transformed(figure.dpi_scale_trans.inverted()).padded(0.05)
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format="png",
        dpi=figure.dpi,
        bbox_inches=box,
        facecolor=figure.get_facecolor(),
        edgecolor=figure.get_edgecolor(),
        pil_kwargs={"compress_level": 1},
    )
    return buffer.getvalue()


def show_object(
    obj: Any, name: str, options: PictureOptions, missing: type[PictureTypeError] = PictureTypeError
) -> Decoded:
    """The picture that a notebook would show for ``obj``.

    Args:
        obj: an object with a picture repr, a mimebundle, or a chart that can be exported.
        name: how the person calls it.
        options: the limits.
        missing: what to raise when there is no picture in what it shows.

    Raises:
        PictureTypeError: what it shows holds no picture.
        PictureDecodeError: its repr failed, or its picture is broken.
    """
    try:
        data = _exported(obj, name) or _shown(obj)
    except PictureError:
        raise
    except Exception as exc:
        raise missing(
            f"{name} cannot show itself",
            have=f"{type(exc).__name__}: {exc}",
            hint="save it as PNG, and give its path",
        ) from exc
    if data is None:
        raise missing(
            f"{name} shows no picture",
            have=f"a {type(obj).__name__} without PNG or JPEG",
            hint="save it as PNG",
        )
    return decode_picture(data, name=name, options=options)


def _exported(obj: Any, name: str) -> bytes | None:
    """The PNG of a chart that needs a helper for it; None for anything else."""
    is_plotly = sniff.has_type(obj, "plotly.basedatatypes.BaseFigure")
    is_altair = sniff.has_type(obj, "altair.TopLevelMixin", "altair.vegalite.v5.api.TopLevelMixin")
    if not is_plotly and not is_altair:
        return None
    helper = "kaleido" if is_plotly else "vl-convert-python"
    try:
        if is_plotly:
            return bytes(obj.to_image(format="png"))
        buffer = io.BytesIO()
        obj.save(buffer, format="png")
        return buffer.getvalue()
    except Exception as exc:
        is_missing = (
            isinstance(exc, ImportError) or find_spec(helper.replace("-python", "").replace("-", "_")) is None
        )
        words = shorten(f"{type(exc).__name__}: {exc}", 150)
        needs_browser = not is_missing and "chrome" in words.lower()
        hint = "a Chrome or Chromium: plotly_get_chrome in a terminal" if needs_browser else "save it as PNG"
        raise PictureTypeError(
            f"{name} cannot be turned into a picture",
            have=f"that needs the package {helper}" if is_missing else f"{helper} failed: {words}",
            hint=f"%pip install {helper}" if is_missing else hint,
        ) from exc


def _shown(obj: Any) -> bytes | None:
    """PNG or JPEG bytes of an object's repr."""
    for method in ("_repr_png_", "_repr_jpeg_"):
        if sniff.has_method(obj, method) and (data := _bytes_of(getattr(obj, method)())):
            return data
    if not sniff.has_method(obj, "_repr_mimebundle_"):
        return None
    bundle = obj._repr_mimebundle_(include=["image/png", "image/jpeg"], exclude=[])
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    for kind in ("image/png", "image/jpeg", "image/webp", "image/gif"):
        if isinstance(bundle, dict) and (data := _bytes_of(bundle.get(kind))):
            return data
    return None


def _bytes_of(shown: Any) -> bytes | None:
    """The bytes of one repr: bytes, base64, or one of them with metadata."""
    if isinstance(shown, tuple):
        shown = shown[0] if shown else None
    if isinstance(shown, str):
        shown = base64.b64decode(shown)
    return shown if isinstance(shown, bytes) and shown else None
