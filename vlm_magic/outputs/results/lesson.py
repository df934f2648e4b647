"""A lesson as it runs and as it is saved: the loss as a curve, and what was right before and after.

The curve is a picture without scripts (SVG in a data URI); the figures stand in words beside it. `LessonView`
shows them in one output, or as a bar in a terminal; the rest are pure functions. Neighbour:
`vlm_magic.tasks.training.lesson` is the caller.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from vlm_magic.outputs.live_output import LiveOutput
from vlm_magic.outputs.markdown.html import clean_text
from vlm_magic.outputs.markdown.safe_markdown import literal
from vlm_magic.outputs.styles import framed
from vlm_magic.wording import count_words

__all__ = ["LessonFigures", "LessonView", "lesson_bundle"]

_WIDTH, _HEIGHT = 560, 150
_LEFT, _BOTTOM, _TOP, _RIGHT = 34, 20, 8, 8
_UPDATE_S = 0.5
_MAX_POINTS = 400
_BLOCKS = "▁▂▃▄▅▆▇█"
_N_BLOCKS = 40


@dataclass(frozen=True, slots=True)
class LessonFigures:
    """A lesson at one moment.

    Attributes:
        name: of the model.
        method: "lora" or "all".
        steps: how many there shall be.
        losses: of each step so far, in nats for a token.
        seconds: that they took.
        n_parameters: numbers that are learned.
        rows: (what was asked, (right, all) before, likewise after or None) of the questions put aside.
    """

    name: str
    method: str
    steps: int
    losses: tuple[float, ...]
    seconds: float
    n_parameters: int
    rows: tuple[tuple[str, tuple[int, int], tuple[int, int] | None], ...] = ()


def lesson_bundle(figures: LessonFigures) -> dict[str, str]:
    """A lesson as ``text/html``, ``text/markdown`` and ``text/plain``."""
    return {"text/html": _html(figures), "text/markdown": _markdown(figures), "text/plain": _plain(figures)}


def _title(figures: LessonFigures) -> str:
    done = len(figures.losses)
    way = "LoRA" if figures.method == "lora" else "all weights"
    steps = count_words(done, "step") if done >= figures.steps else f"{done:,} of {figures.steps:,} steps"
    return f"{figures.name} was taught {steps} ({way}, {figures.n_parameters:,} numbers)"


def _loss_words(figures: LessonFigures) -> str:
    """From where to where the loss went: means of the first and the last steps."""
    if not figures.losses:
        return "no step yet"
    n = max(1, len(figures.losses) // 10)
    first, last = sum(figures.losses[:n]) / n, sum(figures.losses[-n:]) / n
    return f"loss {first:.2f} → {last:.2f}"


def _summary(figures: LessonFigures) -> list[str]:
    seconds = f"{figures.seconds:.1f} s" if figures.losses else ""
    return [part for part in (_loss_words(figures), seconds) if part]


def _share(pair: tuple[int, int] | None) -> str:
    return "" if pair is None else f"{pair[0]} of {pair[1]}"


def _html(figures: LessonFigures) -> str:
    small = "".join(f" <small>{escape(part)}</small>" for part in _summary(figures))
    head = f'<div class="vlm-map-head"><b>{escape(clean_text(_title(figures)))}</b>{small}</div>'
    curve = ""
    if figures.losses:
        source = base64.b64encode(_svg(figures).encode()).decode()
        curve = (
            f'<div class="vlm-map-verdict"><img alt="The {escape(_loss_words(figures))}" width="{_WIDTH}" '
            f'src="data:image/svg+xml;base64,{source}"></div>'
        )
    return framed(f"{head}{curve}{_table(figures)}", "map", sheet="map")


def _table(figures: LessonFigures) -> str:
    if not figures.rows:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="vlm-map-number">{_share(before)}</td>'
        f'<td class="vlm-map-number">{_share(after)}</td></tr>'
        for name, before, after in figures.rows
    )
    return (
        '<div class="vlm-map-table vlm-map-groups"><table><thead><tr><th>questions right</th>'
        '<th class="vlm-map-number">before</th><th class="vlm-map-number">after</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _svg(figures: LessonFigures) -> str:
    """The loss of each step as a faint line, its running mean as a strong one."""
    losses = figures.losses
    stride = max(1, len(losses) // _MAX_POINTS)
    most = max(*losses, 1e-6)
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def line(values: Sequence[float]) -> str:
        points = [
            f"{_LEFT + wide * (n + 1) / figures.steps:.1f},{_TOP + high * (1 - values[n] / most):.1f}"
            for n in range(0, len(values), stride)
        ]
        return " ".join(points)

    base = _TOP + high
    words = 'font-family="sans-serif" font-size="11" fill="#808080"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f'<path d="M{_LEFT} {_TOP}V{base}H{_WIDTH - _RIGHT}" fill="none" stroke="#808080"/>'
        f'<text x="{_LEFT - 4}" y="{_TOP + 9}" text-anchor="end" {words}>{most:.1f}</text>'
        f'<text x="{_LEFT - 4}" y="{base}" text-anchor="end" {words}>0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 5}" {words}>loss by step</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 5}" text-anchor="end" {words}>{figures.steps}</text>'
        f'<polyline points="{line(losses)}" fill="none" stroke="#3b82f6" stroke-opacity=".35"/>'
        f'<polyline points="{line(_smooth(losses))}" fill="none" stroke="#3b82f6" stroke-width="2"/></svg>'
    )


def _smooth(losses: Sequence[float]) -> list[float]:
    mean, means = losses[0], []
    for loss in losses:
        mean = 0.8 * mean + 0.2 * loss
        means.append(mean)
    return means


def _markdown(figures: LessonFigures) -> str:
    lines = [f"**{literal(_title(figures))}** " + literal(" · ".join(_summary(figures)))]
    if figures.rows:
        table = ["| questions right | before | after |", "|---|---|---|"]
        table += [f"| {literal(name)} | {_share(b)} | {_share(a)} |" for name, b, a in figures.rows]
        lines.append("\n".join(table))
    return "\n\n".join(lines) + "\n"


def _plain(figures: LessonFigures) -> str:
    lines = [" · ".join([_title(figures), *_summary(figures)])]
    if figures.losses:
        lines.append(f"  {_blocks(figures.losses)}")
    lines += [
        f"  {name}: {_share(before)} right before" + (f", {_share(after)} after" if after else "")
        for name, before, after in figures.rows
    ]
    return "\n".join(lines)


def _blocks(losses: Sequence[float]) -> str:
    """The curve in block characters, one for a stretch of steps."""
    means, most = [], max(*losses, 1e-6)
    for n in range(min(_N_BLOCKS, len(losses))):
        start, end = n * len(losses) // _N_BLOCKS, (n + 1) * len(losses) // _N_BLOCKS
        part = losses[start : max(end, start + 1)] if len(losses) > _N_BLOCKS else losses[n : n + 1]
        means.append(sum(part) / len(part))
    return "".join(_BLOCKS[min(7, int(8 * mean / most))] for mean in means)


class LessonView:
    """What a person sees of a lesson: an output that changes in place, a bar in a terminal, or the end alone.

    Args:
        steps: how many there shall be.
        is_shown: False shows nothing.
    """

    def __init__(self, steps: int, *, is_shown: bool = True) -> None:
        from tqdm.auto import tqdm

        self._output = LiveOutput() if is_shown else None
        is_terminal = self._output is not None and self._output.where == "terminal"
        self._bar: Any = tqdm(total=steps, unit="step", leave=False, disable=not is_terminal)
        self._shown_at = 0.0

    def show(self, figures: LessonFigures) -> None:
        """There is another step."""
        self._bar.update(len(figures.losses) - self._bar.n)
        if figures.losses:
            self._bar.set_postfix_str(f"loss {figures.losses[-1]:.3f}")
        is_due = time.monotonic() - self._shown_at > _UPDATE_S
        if self._output is not None and self._output.is_watched and is_due:
            self._shown_at = time.monotonic()
            self._output.show(lesson_bundle(figures))

    def finish(self, figures: LessonFigures) -> None:
        """All steps are done, or an interrupt ended them."""
        self._bar.close()
        if self._output is not None:
            self._output.show(lesson_bundle(figures))
