"""Turns and parts made ready for a layout: neighbours merged, gaps where a plain prompt needs them.

Knows messages alone. Neighbours: `layouts` and `idefics` write what comes out of here.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_magic.messages import Part, Text, Turn

__all__ = ["joined", "joint", "merged"]


def merged(turns: Sequence[Turn]) -> list[Turn]:
    """Neighbouring turns of one role as one (templates want roles to alternate), likewise texts."""
    result: list[Turn] = []
    for turn in turns:
        parts, thinking = turn.parts, turn.thinking
        if result and result[-1].role == turn.role:
            before = result.pop()
            parts = (*before.parts, Text("\n\n"), *parts)
            thinking = "\n\n".join(filter(None, [before.thinking, thinking]))
        result.append(Turn(turn.role, tuple(joined(parts)), thinking))
    return result


def joint(before: str, after: str = "") -> str:
    """What stands between a plain prompt and its answer: a blank, unless there is a gap already."""
    is_apart = not before or before[-1].isspace() or before[-1] in "([{\"'“‘«" or after[:1].isspace()
    return "" if is_apart else " "


def joined(parts: Sequence[Part]) -> list[Part]:
    """Neighbouring texts as one, so that a control word cut in two is still seen."""
    result: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and result and isinstance(result[-1], Text):
            result[-1] = Text(result[-1].text + part.text)
        else:
            result.append(part)
    return result
