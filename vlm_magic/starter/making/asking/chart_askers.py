"""What can be asked about one bar chart: an asker per skill, in `CHART_ASKERS`.

Neighbours: `world/charts` has the truth, `questions` what askers share, `words/wordings` the patterns.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from vlm_magic.starter.making.asking.choosing import pattern_of
from vlm_magic.starter.making.asking.questions import Ask
from vlm_magic.starter.making.words.wordings import WORDINGS
from vlm_magic.starter.making.world.charts import Bar, Chart
from vlm_magic.starter.making.world.naming import listing
from vlm_magic.starter.making.world.palette import COLOURS

__all__ = ["CHART_ASKERS"]

_BAR_EXTREMES = {
    "tallest": (
        "[tallest|tallest|highest|longest|biggest|largest]",
        "[highest|largest|biggest|greatest]",
        "[highest|the highest]",
    ),
    "shortest": ("[shortest|shortest|lowest|smallest]", "[lowest|smallest|least]", ""),
}


def _bar(bar: Bar) -> str:
    return f"the {bar.colour} bar"


def ask_bars(rng: Random, chart: Chart) -> Ask | None:
    """How many bars?"""
    return Ask("bars", pattern_of(rng, "bars"), {}, str(len(chart.bars)))


def ask_extreme_bar(rng: Random, chart: Chart) -> Ask | None:
    """Which bar is the tallest, and what colour is it?"""
    which = rng.choice(("tallest", "tallest", "shortest"))
    heights = sorted((b.base - b.top for b in chart.bars), reverse=which == "tallest")
    if abs(heights[0] - heights[1]) < 0.05:
        return None
    bar = next(b for b in chart.bars if b.base - b.top == heights[0])
    barext, barval, barfar = _BAR_EXTREMES[which]
    slots = {"barext": barext, "barval": barval, "barfar": barfar}
    if rng.random() < 0.3:
        return Ask("extreme bar", pattern_of(rng, "extreme bar colour"), slots, bar.colour)
    pattern = pattern_of(rng, "extreme bar")
    if not barfar and "barfar" in pattern:
        pattern = WORDINGS["extreme bar"][0]
    return Ask("extreme bar", pattern, slots, _bar(bar))


def ask_taller(rng: Random, chart: Chart) -> Ask | None:
    """Which of two bars is taller?"""
    a, b = rng.sample(chart.bars, 2)
    if abs((a.base - a.top) - (b.base - b.top)) < 0.06:
        return None
    taller = rng.random() < 0.65
    er = "[taller|taller|higher|bigger|longer|larger]" if taller else "[shorter|shorter|lower|smaller]"
    first_wins = (a.top < b.top) == taller
    slots = {"a": _bar(a), "b": _bar(b), "er": er}
    if rng.random() < 0.5:
        return Ask("taller", pattern_of(rng, "taller yes"), slots, "yes" if first_wins else "no")
    return Ask("taller", pattern_of(rng, "taller"), slots, _bar(a) if first_wins else _bar(b))


def ask_bar_exist(rng: Random, chart: Chart) -> Ask | None:
    """Is there a red bar?"""
    colours = [b.colour for b in chart.bars]
    yes = rng.random() < 0.5
    colour = (
        rng.choice(colours) if yes else rng.choice([c for c in COLOURS if c not in colours and c != "white"])
    )
    return Ask("bar exist", pattern_of(rng, "bar exist"), {"colour": colour}, "yes" if yes else "no")


def ask_chart_caption(rng: Random, chart: Chart) -> Ask | None:
    """Describe the chart."""
    colours = listing([b.colour for b in chart.bars])
    skill = rng.choice(("list", "caption"))
    answer = f"A bar chart with {len(chart.bars)} bars: {colours}."
    return Ask(
        "chart caption",
        pattern_of(rng, skill),
        {"pic": "<chart>", "shapes": "bars"} if skill == "caption" else {},
        answer,
    )


CHART_ASKERS: dict[str, Callable[[Random, Chart], Ask | None]] = {
    "bars": ask_bars, "extreme bar": ask_extreme_bar, "taller": ask_taller, "bar exist": ask_bar_exist,
    "chart caption": ask_chart_caption,
}  # fmt: skip
