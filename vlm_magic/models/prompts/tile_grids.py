"""How a processor cut each picture of a prompt into tiles, for people to see what the model was shown.

Read from what the processor made (marks in the prompt, numbers of tokens, chosen grids) where that tells.
Neighbours: `prepare` makes the prompt, `picture_budget` sets how finely pictures are cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Turn
from vlm_magic.models.loaded import Prepared
from vlm_magic.models.prompts.token_ids import picture_token_ids

if TYPE_CHECKING:
    from vlm_magic.models.loaded import Loaded

__all__ = ["tile_grids"]

_MARK = re.compile(r"<row_(\d+)_col_(\d+)>")


def tile_grids(loaded: Loaded, prepared: Prepared, turns: Sequence[Turn]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of each picture's tiles; (1, 1) for one that was shown whole.

    Most families show the whole picture beside its tiles; that one is not counted.

    Args:
        loaded: the model.
        prepared: the prompt, of one conversation.
        turns: what it was made from.
    """
    sizes = [picture.size_px for turn in turns for picture in turn.pictures]
    ids: list[int] = prepared.inputs["input_ids"][0].tolist()
    spans = prepared.picture_spans
    return tuple(_grid(loaded, ids[start:end], sizes[n], n, prepared) for n, (start, end) in enumerate(spans))


def _grid(
    loaded: Loaded, ids: list[int], size: tuple[int, int], n: int, prepared: Prepared
) -> tuple[int, int]:
    processor, pictures = loaded.processor, loaded.processor.image_processor
    marks = [_MARK.fullmatch(str(token)) for token in loaded.tokenizer.convert_ids_to_tokens(ids)]
    places = [(int(mark[1]), int(mark[2])) for mark in marks if mark is not None]
    if places:  # Idefics3, SmolVLM
        return max(row for row, _ in places), max(column for _, column in places)
    if "aspect_ratio_ids" in prepared.inputs:  # Llama 3.2 Vision
        ratio = int(prepared.inputs["aspect_ratio_ids"][0, n])
        rows, columns = loaded.model.config.vision_config.supported_aspect_ratios[ratio - 1]
        return int(rows), int(columns)
    n_image_tokens = sum(token in set(picture_token_ids(loaded)) for token in ids)
    grids = getattr(pictures, "image_grid_pinpoints", None)
    if grids:  # LLaVA-NeXT, LLaVA-OneVision
        return _from_pinpoints(loaded, grids, size, n_image_tokens)
    per_tile = getattr(processor, "image_seq_len", None) or getattr(processor, "image_seq_length", None)
    n_tiles = n_image_tokens // int(per_tile) if per_tile else 1
    if n_tiles <= 1 or hasattr(pictures, "merge_size"):
        return 1, 1
    return _nearest(n_tiles - 1, size[0] / size[1])


def _from_pinpoints(
    loaded: Loaded, grids: Any, size: tuple[int, int], n_image_tokens: int
) -> tuple[int, int]:
    from transformers.image_processing_utils import select_best_resolution

    vision = loaded.model.config.vision_config
    if n_image_tokens <= (vision.image_size // vision.patch_size) ** 2 + 1:
        return 1, 1  # one of several pictures
    height, width = select_best_resolution((size[1], size[0]), grids)
    return height // vision.image_size, width // vision.image_size


def _nearest(n_tiles: int, aspect: float) -> tuple[int, int]:
    """The rows and columns of so many tiles whose shape is nearest to the picture's (width over height)."""
    shapes = [(rows, n_tiles // rows) for rows in range(1, n_tiles + 1) if n_tiles % rows == 0]
    return min(shapes, key=lambda shape: abs(shape[1] / shape[0] - aspect))
