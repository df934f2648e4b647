"""Where information may flow: the attention from the place where an answer begins to a picture's tokens.

It says what could be read there, not what the answer hangs on: on pictures without the thing that is asked
about it points at something all the same. Here to be compared with what hiding parts shows. Only for models
whose tokens lie on the picture in rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Settings, Turn
from vlm_magic.models.inside.batch_scores import read_reply
from vlm_magic.models.inside.prompt_tokens import mixing_of
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.token_ids import picture_token_ids

__all__ = ["attention_to_pictures"]


def attention_to_pictures(
    loaded: Loaded, turns: Sequence[Turn], reply: str, settings: Settings, *, layers: str = "last"
) -> list[list[list[float]]]:
    """For each picture of the prompt a square of weights, row by row, that add up to at most 1.

    Args:
        loaded: the model.
        turns: the prompt, the question last.
        reply: what was said.
        settings: as for the answer.
        layers: "last", or "mean" of all.

    Raises:
        OptionError: the model gives no attention, or its tokens do not lie on the picture in a square.
    """
    if mixing_of(loaded) != "places":
        raise OptionError(
            f"the picture's tokens of {loaded.name} stand for no places",
            have=f"{loaded.family.name}: each is drawn from the whole picture, or stands beside the text",
            hint="needed, which hides parts and asks again",
        )
    with _eager(loaded.model):
        reading = read_reply(loaded, [turns], reply, settings, output_attentions=True)
    given = [each for each in (getattr(reading.out, "attentions", None) or ()) if each is not None]
    if not given or given[-1].ndim != 4:
        raise OptionError(
            f"{loaded.name} gives no attention from words to a picture's tokens",
            have=loaded.family.name,
            hint="needed, which hides parts and asks again",
        )
    chosen = given[-1:] if layers == "last" else given
    place = chosen[0].shape[2] - len(reading.ids) - 1  # the prompt's last token, which the answer begins at
    row = sum(each[0, :, place].float().mean(dim=0) for each in chosen) / len(chosen)  # (T,)
    ids: list[int] = reading.prepared.inputs["input_ids"][0].tolist()
    seen, squares = set(picture_token_ids(loaded)), []
    for start, end in reading.prepared.picture_spans:
        weights = [float(row[n]) for n in range(start, end) if ids[n] in seen]
        side = isqrt(len(weights))
        if not side or side * side != len(weights):
            raise OptionError(
                f"the {len(weights)} tokens of a picture do not lie on it in a square",
                have=f"{loaded.family.name}: tiles, or features that were mixed",
                hint="needed, which hides parts and asks again",
            )
        squares.append([weights[n * side : (n + 1) * side] for n in range(side)])
    return squares


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Faster kinds of attention give no weights; the model's own comes back afterwards."""
    before = getattr(model.config, "_attn_implementation", None)
    if before == "eager" or not hasattr(model, "set_attn_implementation"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if before:
            model.set_attn_implementation(before)
