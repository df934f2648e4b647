"""Set how many tokens a picture may cost, as far as a processor lets us.

Processors have no common switch: some cut pictures into tiles, some choose a resolution, some always take
the same number. Which kind a processor is shows in the settings that its picture part has; no family is
asked for by name.

Neighbours: `loading` calls `apply` once after the processor is there; `prompts.prepare` then measures what a
picture really costs.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from vlm_magic.errors import OptionError

__all__ = ["apply"]


_TILES = {
    "do_image_splitting": "",
    "crop_to_patches": "max_patches",
    "do_pan_and_scan": "pan_and_scan_max_num_crops",
}
"""Switch → limit; Idefics2's has none."""


def apply(
    name: str, processor: Any, config: Any, *, splitting: bool | None, picture_tokens: int | None
) -> str:
    """Change the processor's settings in place.

    Args:
        name: of the model, for messages.
        processor: its processor.
        config: its configuration; LLaVA-NeXT's kind reads its grids from there, so they are changed in both.
        splitting: whether pictures are cut into tiles; None changes nothing.
        picture_tokens: about the most tokens of a picture; None changes nothing.

    Returns:
        What was done, in words; "" for nothing.

    Raises:
        OptionError: this processor cannot do that.
    """
    said = []
    if splitting is not None:
        _set_splitting(name, processor, config, splitting)
        said.append("pictures are cut into tiles" if splitting else "pictures are not cut into tiles")
    if picture_tokens is not None:
        said.append(_set_tokens(name, processor, config, picture_tokens))
    return "; ".join(said)


def _set(processor: Any, name: str, value: Any) -> None:
    """Set it where the processor looks: on its picture part, and in the defaults that it puts over that."""
    setattr(processor.image_processor, name, value)
    defaults = getattr(processor, "images_kwargs", None)
    if isinstance(defaults, dict) and name in defaults:
        processor.images_kwargs = {**defaults, name: value}  # on this one; the class keeps its own


def _set_splitting(name: str, processor: Any, config: Any, splitting: bool) -> None:
    pictures = processor.image_processor
    for switch in _TILES:
        if hasattr(pictures, switch):
            _set(processor, switch, splitting)
            return
    if getattr(pictures, "max_image_tiles", None):
        pictures.max_image_tiles = _config_tiles(config) if splitting else 1
        return
    if getattr(pictures, "image_grid_pinpoints", None):
        if not splitting:
            raise OptionError(
                f"{name} always cuts pictures into tiles",
                hint="--picture-tokens limits how many",
            )
        return
    if splitting:
        raise OptionError(
            f"{name} does not cut pictures into tiles", have=f"{type(pictures).__name__} has no such setting"
        )


def _config_tiles(config: Any) -> int:
    return int(getattr(getattr(config, "vision_config", None), "max_num_tiles", 4))


def _set_tokens(name: str, processor: Any, config: Any, n_tokens: int) -> str:
    """Choose the setting under which a picture costs at most ``n_tokens``."""
    pictures = processor.image_processor
    per_tile = int(
        getattr(processor, "image_seq_len", None) or getattr(processor, "image_seq_length", None) or 0
    )
    if getattr(pictures, "merge_size", None) and getattr(pictures, "patch_size", None):
        return _set_resolution(name, pictures, n_tokens)
    if getattr(pictures, "image_grid_pinpoints", None):
        return _set_grids(name, pictures, config, n_tokens)
    if hasattr(pictures, "do_image_splitting") and hasattr(pictures, "max_image_size"):
        return _set_longest_edge(name, pictures, n_tokens, per_tile)
    for switch in _TILES:
        if hasattr(pictures, switch):
            return _set_tiles(name, processor, switch, n_tokens, per_tile)
    raise OptionError(
        f"{name} spends the same number of tokens on every picture",
        have=f"{per_tile} tokens" if per_tile else f"{type(pictures).__name__} has no setting for it",
        hint="without --picture-tokens",
    )


def _too_few(name: str, n_tokens: int, least: int) -> OptionError:
    return OptionError(
        f"{name} cannot show a picture in {n_tokens} tokens",
        have=f"at least {least}",
        hint=f"--picture-tokens {least}",
        least=least,
    )


def _set_resolution(name: str, pictures: Any, n_tokens: int) -> str:
    """Qwen2-VL's kind: one token a square of patches, the picture scaled to a number of pixels."""
    side = pictures.patch_size * pictures.merge_size
    pixels = n_tokens * side * side
    size = dict(pictures.size)
    least = int(size.get("shortest_edge") or side * side)
    if n_tokens < 4:
        raise _too_few(name, n_tokens, 4)
    size["shortest_edge"] = min(least, pixels)
    size["longest_edge"] = pixels
    pictures.size = type(pictures.size)(**size) if not isinstance(pictures.size, dict) else size
    for old, value in (("min_pixels", size["shortest_edge"]), ("max_pixels", pixels)):
        if hasattr(pictures, old):
            setattr(pictures, old, value)
    return f"pictures are scaled to at most {pixels:,} pixels"


def _set_grids(name: str, pictures: Any, config: Any, n_tokens: int) -> str:
    """LLaVA-NeXT's kind: tiles in a grid beside the whole picture; each costs a square of patches."""
    vision = config.vision_config
    side = vision.image_size
    per_tile = (side // vision.patch_size) ** 2
    grids = [
        grid
        for grid in pictures.image_grid_pinpoints
        if (1 + (grid[0] // side) * (grid[1] // side)) * per_tile <= n_tokens
    ]
    if not grids:
        smallest = min((g[0] // side) * (g[1] // side) for g in pictures.image_grid_pinpoints)
        raise _too_few(name, n_tokens, (1 + smallest) * per_tile)
    pictures.image_grid_pinpoints = grids
    config.image_grid_pinpoints = grids
    return f"pictures are cut in {len(grids)} of the grids only"


def _set_longest_edge(name: str, pictures: Any, n_tokens: int, per_tile: int) -> str:
    """Idefics3's kind: k by k tiles and the whole picture, or the whole alone."""
    n_tiles = n_tokens // (per_tile + 3)  # three marks around each tile
    if n_tiles < 1:
        raise _too_few(name, n_tokens, per_tile + 3)
    k = isqrt(n_tiles - 1)
    if k < 2:
        pictures.do_image_splitting = False
        return "pictures are not cut into tiles"
    pictures.do_image_splitting = True
    edge = k * int(pictures.max_image_size["longest_edge"])
    pictures.size = {"longest_edge": edge}
    return f"pictures are scaled to {edge} pixels and cut into at most {k} by {k} tiles"


def _set_tiles(name: str, processor: Any, switch: str, n_tokens: int, per_tile: int) -> str:
    """Idefics2's, InternVL's and Gemma 3's kind: tiles beside the whole picture, as many as a limit says."""
    around = 4 if _TILES[switch] else 2  # marks and line breaks around each
    n_tiles = n_tokens // (per_tile + around)
    if n_tiles < 1:
        raise _too_few(name, n_tokens, per_tile + around)
    if not _TILES[switch]:
        n_tiles = 5 if n_tiles >= 5 else 1  # four quarters and the whole, or the whole alone
    _set(processor, switch, n_tiles > 2)
    if n_tiles <= 2:
        return "pictures are not cut into tiles"
    if _TILES[switch]:
        _set(processor, _TILES[switch], n_tiles - 1)
    return f"pictures are cut into at most {n_tiles - 1} tiles beside the whole"
