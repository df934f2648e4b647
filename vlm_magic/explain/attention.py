"""Attention, for comparison alone: where information may flow, not what the answer hangs on.

Attention always shows something, also on a picture that has nothing to do with the answer; see
`vlm_magic.models.inside.attention`. No view of `Session.explain`; a notebook may lay it beside the needed
parts and see where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Box, Engine, Exchange, Picture, Turn, is_here
from vlm_magic.outputs.explain.marked import weights_drawn

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["AttentionMap", "attention_maps"]


@dataclass(frozen=True)
class AttentionMap:
    """Where information may flow from one picture to the place where the answer begins.

    Attributes:
        picture: the picture.
        weights: a row of weights for each row of its tokens; those beside the picture are left out.
        layers: "last", or "mean" of all.
    """

    picture: Picture
    weights: tuple[tuple[float, ...], ...]
    layers: str

    label = "where information may flow (attention)"

    def box_px(self, row: int, column: int) -> Box:
        """Where a token lies, in the picture's pixels."""
        width, height = self.picture.size_px
        n_rows, n_columns = len(self.weights), len(self.weights[0])
        return (
            round(column * width / n_columns),
            round(row * height / n_rows),
            round((column + 1) * width / n_columns),
            round((row + 1) * height / n_rows),
        )

    @property
    def peak_px(self) -> Box:
        """The place with the most weight."""
        cells = [(row, column) for row, each in enumerate(self.weights) for column in range(len(each))]
        return self.box_px(*max(cells, key=lambda cell: self.weights[cell[0]][cell[1]]))

    def to_pil(self) -> Image.Image:
        """The picture in its own colours with a square in each place, the larger the more weight."""
        return weights_drawn(self.picture, self.weights)

    def _repr_png_(self) -> bytes:
        from vlm_magic.outputs.explain.marked import png_bytes

        return png_bytes(self.to_pil())


def attention_maps(
    engine: Engine, exchange: Exchange, turns: Sequence[Turn] | None = None, *, layers: str = "last"
) -> tuple[AttentionMap, ...]:
    """The attention to each picture of a prompt.

        attention_maps(session.engine, session.conversation.exchanges[-1])[0].peak_px

    Args:
        engine: a model that is loaded here.
        exchange: the question with its answer.
        turns: the prompt, where the question stood in a conversation; the question alone if not given.
        layers: "last", or "mean" of all.

    Raises:
        OptionError: a model elsewhere, or one without a map from tokens to places.
    """
    if not is_here(engine) or exchange.reply is None:
        raise OptionError(
            f"{engine.name} shows nothing of its inside",
            have="a model elsewhere, or no answer",
            hint="%vlm_load",
        )
    shown = tuple(turns) if turns is not None else exchange.turns[:1]
    text, settings = str(exchange.reply.text), engine.in_effect(exchange.settings)

    def work(loaded: Any, leave: Callable[[], None]) -> list[list[list[float]]]:
        from vlm_magic.models.inside.attention import attention_to_pictures

        return attention_to_pictures(loaded, shown, text, settings, layers=layers)

    squares = engine.borrow(work)
    pictures = [picture for turn in shown for picture in turn.pictures]
    padded = bool(getattr(engine.loaded.processor.image_processor, "do_pad", False))
    return tuple(
        AttentionMap(picture, _on_picture(picture, square, is_padded=padded), layers)
        for picture, square in zip(pictures, squares, strict=True)
    )


def _on_picture(
    picture: Picture, square: Sequence[Sequence[float]], *, is_padded: bool
) -> tuple[tuple[float, ...], ...]:
    """The rows and columns that lie on the picture, where a processor fills it up to a square."""
    side = len(square)
    n_rows = n_columns = side
    if is_padded:
        width, height = picture.size_px
        n_rows = max(1, round(side * height / max(width, height)))
        n_columns = max(1, round(side * width / max(width, height)))
    return tuple(tuple(row[:n_columns]) for row in square[:n_rows])
