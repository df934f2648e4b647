"""Bar charts with coloured bars, and scenes drawn by matplotlib's own primitives.

`make_chart(seed)` gives a `Chart` with its picture and its bars. Two hands draw: matplotlib (as a person
would; tens of milliseconds a picture) and, for volume, an imitation with PIL in the same geometry. matplotlib
is imported only when it draws, through its object interface: no back-end is chosen and no global figure is
left behind.

Knows nothing of questions and models. Neighbour: `scenes` supplies colours, sizes and objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw

from vlm_magic.starter.making.world.drawing import outline
from vlm_magic.starter.making.world.palette import COLOURS, PALETTE, RGB
from vlm_magic.starter.making.world.scenes import Scene, plan_scene
from vlm_magic.starter.making.world.things import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Bar", "Chart", "make_chart", "make_plot", "plan_chart", "plot_chart", "plot_scene"]

_BAR_COLOURS = tuple(c for c in COLOURS if c != "white")
# names a person would type, where one exists for a colour, beside its shades as numbers
_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "star": "*", "diamond": "D", "cross": "P"}
_MARKER_SCALE = {"circle": 1.0, "square": 1.0, "triangle": 1.0, "star": 1.0, "diamond": 0.7071, "cross": 1.0}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: colour, value, and where its top stands in fractions of the picture."""

    colour: str
    value: float
    x: float
    top: float
    w: float
    base: float
    rgb: RGB = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Chart:
    """A bar chart with its truth; bars from left to right."""

    bars: tuple[Bar, ...]
    style: Style = field(default_factory=Style)
    look: int = 0
    """Bits for what else is drawn: 1 grid, 2 title, 4 no frame, 8 bar outlines, 16 letters under the bars."""
    drawn: Image.Image | None = None
    bare: bool = False
    """Drawn with PIL as by hand: the bars, and at most two lines."""

    @property
    def picture(self) -> Image.Image:
        """The picture, RGB; drawn with PIL unless matplotlib drew it."""
        return self.drawn if self.drawn is not None else _draw_chart(self)


def plan_chart(rng: Random, *, n_bars: int | None = None) -> Chart:
    """Plan a bar chart without matplotlib: two to five bars of different colours and different heights."""
    n = n_bars if n_bars is not None else rng.choices((2, 3, 4, 5), (3, 4, 4, 2))[0]
    height = rng.choice((160, 200, 240, 300, 320))
    style = Style(
        int(height * rng.choice((1.0, 1.25, 1.333, 1.333, 1.5))),
        height,
        smooth=True,
        seed=rng.getrandbits(31),
    )
    left, right, base, top = 0.125, 0.9, 0.89, 0.12
    values = _plan_values(rng, n)
    colours = rng.sample(_BAR_COLOURS, n)
    thickness = rng.choice((0.8, 0.8, 0.6, 0.5))
    pitch = (right - left) / (n - 1 + thickness + 0.1 * n)
    start = (left + right - pitch * (n - 1)) / 2
    bars = tuple(
        Bar(
            colour,
            value,
            start + i * pitch,
            base - value * (base - top) * 0.95,
            thickness * pitch,
            base,
            rng.choice(PALETTE[colour]) if rng.random() < 0.5 else PALETTE[colour][0],
        )
        for i, (colour, value) in enumerate(zip(colours, values, strict=True))
    )
    bits = rng.getrandbits(7)
    return Chart(bars, style, bits >> 2, bare=bits & 3 == 0)


def make_chart(seed: int, *, n_bars: int | None = None) -> Chart:
    """Make the bar chart of a seed, drawn by matplotlib."""
    return plot_chart(plan_chart(Random(seed), n_bars=n_bars))


def make_plot(seed: int, *, n_objects: int | None = None) -> Scene:
    """Make the scene of a seed drawn by matplotlib: patches or scatter markers, axes shown or not."""
    rng = Random(seed)
    scene = plan_scene(rng, n_objects=n_objects)
    while not scene.style.axes:  # planned inside the axes
        scene = plan_scene(rng, n_objects=n_objects)
    return plot_scene(scene)


def plot_chart(chart: Chart) -> Chart:
    """Draw a chart with matplotlib; the truth of the result is what matplotlib made of it."""
    rng = Random(chart.style.seed)
    figure = _new_figure(chart.style)
    axes = figure.add_subplot()
    scale = rng.choice((1, 10, 10, 50, 100))
    values = [round(bar.value * scale, 2 if scale < 50 else 0) for bar in chart.bars]
    names = list("ABCDEFGH"[: len(values)]) if chart.look & 16 else [str(i + 1) for i in range(len(values))]
    if rng.random() < 0.3:
        names = rng.sample(
            ["red", "tea", "cats", "May", "Ann", "Bob", "2021", "east", "west", "x", "y", "z"], len(values)
        )
    edge: dict[str, Any] = {"edgecolor": "black"} if chart.look & 8 else {}
    pitch = chart.bars[1].x - chart.bars[0].x if len(chart.bars) > 1 else 1.0
    patches = axes.bar(
        range(len(values)),
        values,
        width=chart.bars[0].w / pitch,
        color=[tuple(v / 255 for v in bar.rgb) for bar in chart.bars],
        **edge,
    )
    axes.set_xticks(range(len(values)), names)
    if chart.look & 1 and rng.random() < 0.5:
        axes.grid(axis="y", alpha=0.4)
    if chart.look & 2:
        axes.set_title(rng.choice(["Sales", "A chart", "Results", "Fruit", "Counts by group"]))
    if chart.look & 4:
        axes.spines[["top", "right"]].set_visible(False)
    if rng.random() < 0.3:
        axes.set_ylabel(rng.choice(["value", "count", "n"]))
    if rng.random() < 0.3:
        figure.tight_layout()
    picture = _to_picture(figure)
    bars = []
    for bar, patch, value in zip(chart.bars, patches, values, strict=True):
        box = patch.get_window_extent()
        x = (box.x0 + box.x1) / 2 / picture.width
        top, base = 1 - box.y1 / picture.height, 1 - box.y0 / picture.height
        bars.append(replace(bar, value=value, x=x, top=top, base=base, w=box.width / picture.width))
    return replace(chart, bars=tuple(bars), drawn=picture)


def plot_scene(scene: Scene) -> Scene:
    """Draw a scene with matplotlib's patches or scatter markers instead of PIL."""
    from matplotlib.patches import Ellipse, Polygon

    style = scene.style
    rng = Random(style.seed)
    figure = _new_figure(style)
    axes = figure.add_axes((0.125, 0.11, 0.775, 0.77))
    limit = rng.choice((1, 1, 5, 10, 100))
    axes.set_xlim(0, limit)
    axes.set_ylim(0, limit)
    if rng.random() < 0.35:
        axes.axis("off")
    elif rng.random() < 0.15:
        axes.grid(alpha=0.3)
    scatter = rng.random() < 0.4
    edge = "black" if rng.random() < 0.2 else None
    objects = []
    for thing in scene.objects:
        placed = thing
        colour = tuple(v / 255 for v in thing.rgb)
        whole: dict[str, Any] = {"transform": figure.transFigure, "clip_on": False, "zorder": 5}
        if scatter:
            side_pt = min(thing.w * style.width, thing.h * style.height) / figure.dpi * 72
            placed = replace(
                thing,
                w=side_pt / 72 * figure.dpi / style.width,
                h=side_pt / 72 * figure.dpi / style.height,
                turn=0.0,
            )
            marker = {"edgecolors": edge} if edge else {"linewidths": 0}
            area = (side_pt * _MARKER_SCALE[thing.shape]) ** 2
            axes.scatter(
                [thing.x],
                [1 - thing.y],
                s=area,
                marker=_MARKERS[thing.shape],
                color=[colour],
                **marker,
                **whole,
            )
        elif thing.shape == "circle":
            axes.add_patch(
                Ellipse(
                    (thing.x, 1 - thing.y),
                    thing.w,
                    thing.h,
                    facecolor=colour,
                    edgecolor=edge or colour,
                    **whole,
                )
            )
        else:
            corners = [(u, 1 - v) for u, v in outline(thing, 1, 1)]
            axes.add_patch(Polygon(corners, closed=True, facecolor=colour, edgecolor=edge or colour, **whole))
        objects.append(placed)
    return replace(scene, objects=tuple(objects), drawn=_to_picture(figure))


def _new_figure(style: Style) -> Figure:
    """An empty figure of the style's size in pixels, its text scaled to look as in a larger one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # a person's figure is about 5 inches high; the resolution, not the layout, follows from the pixels
    dpi = style.height / 4.8
    figure = Figure(figsize=(style.width / dpi, style.height / dpi), dpi=dpi)
    FigureCanvasAgg(figure)
    return figure


def _to_picture(figure: Figure) -> Image.Image:
    """The drawn figure as an RGB picture."""
    canvas: Any = figure.canvas
    canvas.draw()
    width, height = canvas.get_width_height()
    return Image.frombuffer("RGBA", (width, height), canvas.buffer_rgba(), "raw", "RGBA", 0, 1).convert("RGB")


def _plan_values(rng: Random, n: int) -> list[float]:
    """Heights between 0.12 and 1, the highest 1, any two at least 0.09 apart."""
    while True:
        values = [rng.uniform(0.12, 1.0) for _ in range(n)]
        top = max(values)
        values = [v / top for v in values]
        ordered = sorted(values)
        if all(b - a >= 0.09 for a, b in pairwise(ordered)) and ordered[0] > 0.1:
            return values


def _draw_chart(chart: Chart) -> Image.Image:
    """Draw a chart with PIL in matplotlib's layout; letters become specks of the same size."""
    style = chart.style
    width, height = style.width * 2, style.height * 2
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    if chart.bare:
        _draw_bare(draw, chart, width, height)
        return picture.reduce(2)
    left, right, base, top = 0.125 * width, 0.9 * width, 0.89 * height, 0.12 * height
    line = max(1, round(height / 300))
    rng = Random(style.seed)
    n_ticks = rng.choice((5, 6, 8))
    for i in range(n_ticks):
        y = base - (base - top) * i / (n_ticks - 0.5)
        if chart.look & 1:
            draw.line((left, y, right, y), fill=(205, 205, 205), width=line)
        draw.line((left - 0.01 * width, y, left, y), fill=(0, 0, 0), width=line)
        _specks(draw, left - 0.03 * width, y, rng.choice((1, 2, 3)), width, height)
    for bar in chart.bars:
        box = ((bar.x - bar.w / 2) * width, bar.top * height, (bar.x + bar.w / 2) * width, bar.base * height)
        draw.rectangle(box, fill=bar.rgb, outline=(0, 0, 0) if chart.look & 8 else None, width=line)
        draw.line((bar.x * width, base, bar.x * width, base + 0.012 * height), fill=(0, 0, 0), width=line)
        _specks(draw, bar.x * width, base + 0.045 * height, rng.choice((1, 1, 3)), width, height)
    if chart.look & 4:
        draw.line((left, top, left, base, right, base), fill=(0, 0, 0), width=line)
    else:
        draw.rectangle((left, top, right, base), outline=(0, 0, 0), width=line)
    if chart.look & 2:
        _specks(draw, width * 0.51, 0.06 * height, rng.randint(4, 12), width, height)
    return picture.reduce(2)


def _draw_bare(draw: ImageDraw.ImageDraw, chart: Chart, width: int, height: int) -> None:
    """The bars alone, or on a line, or beside a second one."""
    lines = chart.style.seed % 3
    line = max(1, round(height / (100 if chart.look & 2 else 200)))
    left, right, base, top = 0.1 * width, 0.95 * width, chart.bars[0].base * height, 0.08 * height
    for bar in chart.bars:
        box = ((bar.x - bar.w / 2) * width, bar.top * height, (bar.x + bar.w / 2) * width, base)
        draw.rectangle(box, fill=bar.rgb, outline=(0, 0, 0) if chart.look & 8 else None, width=line)
    if lines:
        draw.line((left, base, right, base), fill=(0, 0, 0), width=line)
    if lines == 2:
        draw.line((left, top, left, base), fill=(0, 0, 0), width=line)


def _specks(draw: ImageDraw.ImageDraw, x: float, y: float, n: int, width: int, height: int) -> None:
    """What small text looks like once a picture has been scaled to 96 pixels."""
    pitch = 0.018 * height
    for k in range(n):
        u = x + (k - n / 2) * pitch
        draw.rectangle((u, y - 0.014 * height, u + 0.55 * pitch, y + 0.014 * height), fill=(70, 70, 70))
