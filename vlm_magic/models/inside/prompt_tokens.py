"""A prompt token by token: what is picture, what is the person's, what is the template's.

Read from what the processor made, also how pixels became tokens. A person's words are found again in the text
of the tokens, blanks aside, as a tokenizer may write them otherwise than they were typed. Neighbour:
`vlm_magic.models.prompts` makes the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import isqrt
from typing import Any, Literal

from vlm_magic.messages import (
    Picture,
    PictureTokens,
    PromptToken,
    PromptTokens,
    Settings,
    Text,
    TokenKind,
    Turn,
)
from vlm_magic.models.loaded import Loaded, Prepared
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.models.prompts.tile_grids import tile_grids
from vlm_magic.models.prompts.token_ids import context_tokens, picture_token_ids
from vlm_magic.models.said_tokens import texts_of

__all__ = ["mixing_of", "prompt_tokens"]

_UNSEEN = re.compile(r"[\s\u200b]+")


def prompt_tokens(loaded: Loaded, turns: Sequence[Turn], settings: Settings) -> PromptTokens:
    """The tokens of a prompt, and how its pictures became tokens.

    Args:
        loaded: the model.
        turns: the conversation, the question last.
        settings: as for the answer.
    """
    prepared = prepare(loaded, turns, settings)
    ids: list[int] = prepared.inputs["input_ids"][0].tolist()
    kinds = _kinds(loaded, ids, prepared)
    texts = _texts(loaded, ids, kinds)
    _find_words(turns, settings, texts, kinds)
    pictures = [picture for turn in turns for picture in turn.pictures]
    tokens = [
        PromptToken(text, token, kind, n) for text, token, (kind, n) in zip(texts, ids, kinds, strict=True)
    ]
    grids = tile_grids(loaded, prepared, turns) if len(prepared.picture_spans) == len(pictures) else ()
    seen = [
        _picture_tokens(loaded, prepared, picture, n, grids[n] if grids else (1, 1), tokens)
        for n, picture in enumerate(pictures)
    ]
    return PromptTokens(tokens, pictures=tuple(seen), context_tokens=context_tokens(loaded))


def _kinds(loaded: Loaded, ids: Sequence[int], prepared: Prepared) -> list[tuple[TokenKind, int]]:
    """What each token is as far as pictures go; the others are the template's until somebody claims them."""
    kinds: list[tuple[TokenKind, int]] = [("template", -1)] * len(ids)
    stands_for = set(picture_token_ids(loaded))
    for n, (start, end) in enumerate(prepared.picture_spans):
        is_any = any(ids[place] in stands_for for place in range(start, end))
        for place in range(start, end):
            kinds[place] = ("picture" if not is_any or ids[place] in stands_for else "mark", n)
    return kinds


def _texts(loaded: Loaded, ids: Sequence[int], kinds: Sequence[tuple[TokenKind, int]]) -> list[str]:
    """How each token is written; those of a picture by their names."""
    texts: list[str] = []
    for n, run in groupby(range(len(ids)), key=lambda place: kinds[place][1]):
        places = list(run)
        some = [ids[place] for place in places]
        if n >= 0:
            texts += [str(token) for token in loaded.tokenizer.convert_ids_to_tokens(some)]
        else:
            texts += texts_of(loaded.tokenizer, some, with_special=True)
    return texts


def _find_words(
    turns: Sequence[Turn], settings: Settings, texts: Sequence[str], kinds: list[tuple[TokenKind, int]]
) -> None:
    """Give the tokens of what people and the model said to them."""
    letters: list[str] = []
    places: list[int] = []
    for place, text in enumerate(texts):
        if kinds[place][1] < 0:
            for letter in _UNSEEN.sub("", text).lower():
                letters.append(letter)
                places.append(place)
    shown, cursor = "".join(letters), 0
    for kind, said in _said(turns, settings):
        needle = _UNSEEN.sub("", said).lower()
        at = shown.find(needle, cursor) if needle else -1
        if at < 0:
            continue
        cursor = at + len(needle)
        for place in places[at:cursor]:
            kinds[place] = (kind, -1)


def _said(turns: Sequence[Turn], settings: Settings) -> Iterator[tuple[TokenKind, str]]:
    if settings.system:
        yield "system", settings.system
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, Text):
                yield ("model" if turn.role == "assistant" else "person"), part.text


def _picture_tokens(
    loaded: Loaded,
    prepared: Prepared,
    picture: Picture,
    n: int,
    tiles: tuple[int, int],
    tokens: Sequence[PromptToken],
) -> PictureTokens:
    """How one picture became tokens, as far as the processor's facts tell."""
    own = [token for token in tokens if token.picture == n]
    n_tokens = sum(token.kind == "picture" for token in own)
    vision = getattr(loaded.model.config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    patch_px = patch if isinstance(patch, int) else None
    seen_px, cells = _seen(loaded, prepared, n, patch_px)
    mixing = mixing_of(loaded)
    n_seen = _n_seen(prepared)
    is_whole = tiles == (1, 1) and n_seen in (None, 1) and mixing == "places"
    if cells is None and is_whole and isqrt(n_tokens) ** 2 == n_tokens > 0:
        cells = isqrt(n_tokens), isqrt(n_tokens)
    width, height = picture.size_px
    return PictureTokens(
        picture,
        seen_px=seen_px,
        tiles=tiles,
        n_tokens=n_tokens,
        n_marks=len(own) - n_tokens,
        patch_px=patch_px,
        cells=cells,
        is_filled_up=_is_filled_up(loaded)
        and seen_px is not None
        and seen_px[0] == seen_px[1]
        and width != height,
        n_seen=n_seen,
        mixing=mixing,
    )


def mixing_of(loaded: Loaded) -> Literal["places", "queries", "beside"]:
    """Whether a token stands for a place, by the model's configuration."""
    config = loaded.model.config
    text = config.get_text_config()
    if getattr(text, "cross_attention_layers", None) or getattr(config, "cross_layer_interval", None):
        return "beside"
    has_queries = any(getattr(config, name, None) for name in ("qformer_config", "perceiver_config"))
    return "queries" if has_queries else "places"


def _n_seen(prepared: Prepared) -> int | None:
    """How many pictures the tower sees of one; told where it stands alone in its prompt."""
    pixels = prepared.inputs.get("pixel_values")
    if pixels is None or pixels.ndim < 4 or len(prepared.picture_spans) != 1:
        return None
    if "image_grid_thw" in prepared.inputs:
        return 1
    shape = pixels.shape[:-3]
    return int(shape[1] if len(shape) == 2 else shape[0]) if len(shape) in (1, 2) else None


def _is_filled_up(loaded: Loaded) -> bool:
    """Whether pictures keep their shape, and are filled up with nothing."""
    pictures = loaded.processor.image_processor
    size = getattr(pictures, "size", None) or {}
    keeps = bool(size["longest_edge"]) if "longest_edge" in size else False
    return bool(getattr(pictures, "do_pad", False)) and keeps


def _seen(
    loaded: Loaded, prepared: Prepared, n: int, patch_px: int | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """(width, height) that the vision tower sees, and (rows, columns) of tokens; None where it is not told.

    Where a picture is cut into tiles the size is that of one tile.
    """
    inputs: dict[str, Any] = prepared.inputs
    grid = inputs.get("image_grid_thw")
    if grid is not None and patch_px:
        merge = int(getattr(loaded.processor.image_processor, "merge_size", 1) or 1)
        _, rows, columns = (int(value) for value in grid[n])
        return (columns * patch_px, rows * patch_px), (rows // merge, columns // merge)
    pixels = inputs.get("pixel_values")
    if pixels is None or pixels.ndim < 4 or pixels.shape[-3] not in (1, 3):
        return None, None
    return (int(pixels.shape[-1]), int(pixels.shape[-2])), None
