"""What a prompt would be and cost: the answer of a dry run.

Neighbours: `prepare` makes the prompt, `tile_grids` says how its pictures were cut, `engine` hands
it out.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_magic.messages import Bill, Settings, Turn
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts import token_ids
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.models.prompts.tile_grids import tile_grids

__all__ = ["bill_of"]


def bill_of(loaded: Loaded, turns: Sequence[Turn], settings: Settings) -> Bill:
    """Tokens, pictures and text of a prompt; generates nothing."""
    prepared = prepare(loaded, turns, settings)
    return Bill(
        n_tokens=int(prepared.inputs["input_ids"].shape[1]),
        picture_tokens=tuple(prepared.picture_tokens),
        context_tokens=token_ids.context_tokens(loaded),
        rendered=prepared.rendered,
        notes=tuple(prepared.notes),
        picture_grids=tile_grids(loaded, prepared, turns),
    )
