"""Ways to make a model's inputs with transformers alone: their lines, and the same done here to compare.

Knows turns and tensors, not which way a program takes. Neighbour: `program` tries them in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlm_magic.messages import Picture, Turn

__all__ = ["Way", "as_blocks", "as_string", "gives_the_same"]


@dataclass(frozen=True)
class Way:
    """One way to make the inputs: its lines, and the same done here."""

    lines: list[str]
    make: Callable[[], Any]


def as_blocks(turn: Turn, placeholder: str) -> list[dict[str, str]]:
    """A turn as blocks of a chat template; pictures need no placeholder."""
    return [
        {"type": "image"} if isinstance(part, Picture) else {"type": "text", "text": part.text}
        for part in turn.parts
    ]


def as_string(turn: Turn, placeholder: str) -> str:
    """A turn as one string, with a placeholder for each picture."""
    return "".join(placeholder if isinstance(part, Picture) else part.text for part in turn.parts)


def gives_the_same(make: Callable[[], Any], exact: dict[str, Any]) -> bool:
    """Whether a way gives the model the tensors that it was given."""
    import torch

    try:
        made = {k: v for k, v in dict(make()).items() if isinstance(v, torch.Tensor) and k != "labels"}
    except Exception:  # a processor may raise anything on a prompt that it does not take
        return False
    return made.keys() == exact.keys() and all(torch.equal(made[name], exact[name]) for name in exact)
