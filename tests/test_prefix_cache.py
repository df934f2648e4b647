"""The store of KV caches: longest beginnings, whole pictures, bounded bytes, caches parked in CPU memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from vlm_magic.models.caches.prefix_cache import Keys, PrefixStore, cache_bytes, cache_length, keys_of

N_LAYERS, N_HEADS, WIDTH = 2, 2, 4
TOKEN_BYTES = 2 * N_LAYERS * N_HEADS * WIDTH * 4  # keys and values, float32


def cache_of(keys: Keys) -> Any:
    """A cache in which each token's keys and values say which token it is."""
    cache = DynamicCache()
    values = torch.from_numpy(keys.astype(np.float32))[None, None, :, None]
    for layer in range(N_LAYERS):
        cache.update(
            values.expand(1, N_HEADS, -1, WIDTH).clone(), -values.expand(1, N_HEADS, -1, WIDTH).clone(), layer
        )
    return cache


def held(cache: Any) -> list[int]:
    """The tokens that a cache says it holds."""
    return [] if not cache.layers else [int(v) for v in cache.layers[-1].keys[0, 0, :, 0]]


def prompt(first: int, n_tokens: int) -> Keys:
    return np.arange(first, first + n_tokens, dtype=np.int64)


def keep(store: PrefixStore, keys: Keys) -> None:
    """Put a prompt's whole cache into the store."""
    store.put(keys, cache_of(keys), len(keys))


def test_the_longest_beginning_is_taken_less_the_last_token() -> None:
    """Its logits are needed in any case."""
    store = PrefixStore(10**6)
    keep(store, prompt(0, 10))
    cache, n = store.take(prompt(0, 10))
    assert (n, held(cache)) == (9, list(range(9)))
    assert len(store) == 0, "who takes a cache fills it and puts it back"


def test_nothing_alike_gives_an_empty_cache() -> None:
    store = PrefixStore(10**6)
    keep(store, prompt(0, 10))
    cache, n = store.take(prompt(50, 10))
    assert (n, cache_length(cache)) == (0, 0)
    assert len(store) == 1


def test_a_picture_is_taken_whole_or_not_at_all() -> None:
    """An edit of words in front of it, or another picture of which the beginning looks alike."""
    ids = list(range(30))
    store = PrefixStore(10**6)
    keys = keys_of(ids, [(10, 20)], ["cat"])
    keep(store, keys)
    _, n = store.take(keys_of(ids[:15], [(10, 15)], ["cat"]), [(10, 15)])
    assert n == 10
    other = keys_of(ids, [(10, 20)], ["dog"])
    assert (other[:10] == keys[:10]).all()
    assert not (other[10:20] == keys[10:20]).any()


def test_a_short_way_back_cuts_and_a_long_one_copies() -> None:
    """So that the conversation that was left can go on."""
    store = PrefixStore(10**6)
    keep(store, prompt(0, 200))
    edited = np.concatenate([prompt(0, 50), prompt(900, 5)])
    cache, n = store.take(edited)
    assert (n, held(cache)) == (50, list(range(50)))
    assert len(store) == 1
    cache, n = store.take(np.concatenate([prompt(0, 190), prompt(900, 5)]))
    assert (n, held(cache)) == (190, list(range(190)))
    assert len(store) == 0


def test_the_least_recently_used_leaves_first_and_the_bound_holds() -> None:
    store = PrefixStore(25 * TOKEN_BYTES)
    for first in (0, 100, 200):
        keep(store, prompt(first, 10))
        assert store.n_bytes <= store.max_bytes
    assert len(store) == 2
    assert store.take(prompt(0, 10))[1] == 0
    assert store.take(prompt(200, 10))[1] == 9


def test_a_cache_above_the_bound_is_not_kept() -> None:
    store = PrefixStore(5 * TOKEN_BYTES)
    keep(store, prompt(0, 10))
    assert store.n_bytes == 0


def test_a_cache_left_ragged_by_an_interrupt_is_cut_to_what_all_layers_hold() -> None:
    store = PrefixStore(10**6)
    cache = cache_of(prompt(0, 10))
    cache.layers[1].crop(-3)
    store.put(prompt(0, 10), cache, 10)
    taken, n = store.take(prompt(0, 20))
    assert n == 7
    assert [layer.get_seq_length() for layer in taken.layers] == [7, 7]


def test_a_cache_is_kept_only_as_far_as_the_model_is_known_to_have_filled_it() -> None:
    """A first forward that was cut short leaves a cache of too few layers, none of which is short."""
    store = PrefixStore(10**6)
    cut = cache_of(prompt(0, 10))
    del cut.layers[1:]
    store.put(prompt(0, 10), cut, 0)
    assert len(store) == 0
    store.put(prompt(0, 10), cache_of(prompt(0, 10)), 6)
    assert store.take(prompt(0, 20))[1] == 6


@pytest.mark.parametrize("way_back", ["cut", "copied"])
def test_what_leaves_the_device_waits_in_cpu_memory_and_comes_back(way_back: str) -> None:
    """Moves are from the CPU to the CPU here: what is tested is who moves when, and the bounds."""
    n_tokens = {"cut": 10, "copied": 100}[way_back]
    store = PrefixStore(int(2.5 * n_tokens) * TOKEN_BYTES, parked_bytes=int(1.5 * n_tokens) * TOKEN_BYTES)
    for first in (0, 1000, 2000):
        keep(store, prompt(first, n_tokens))
    assert store.n_parked_bytes == n_tokens * TOKEN_BYTES
    assert store.n_bytes - store.n_parked_bytes <= store.max_bytes
    asked = np.concatenate([prompt(0, 9), prompt(5000, 3)])
    cache, n = store.take(asked)
    assert (n, held(cache)) == (9, list(range(9)))
    store.put(asked, cache, len(asked))
    keep(store, prompt(3000, n_tokens))
    assert store.n_parked_bytes <= store.parked_bytes
    assert store.n_bytes - store.n_parked_bytes <= store.max_bytes
    assert store.clear() > 0
    assert store.n_bytes == store.n_parked_bytes == 0


def test_bytes_are_those_of_keys_and_values() -> None:
    assert cache_bytes(cache_of(prompt(0, 10))) == 10 * TOKEN_BYTES


def test_a_beginning_of_what_is_kept_is_not_kept_beside_it() -> None:
    """A conversation that grows leaves one cache, not one for each turn."""
    store = PrefixStore(10**6)
    for n_tokens in (10, 20, 30):
        keep(store, prompt(0, n_tokens))
    keep(store, prompt(500, 10))
    assert (len(store), store.n_bytes) == (2, 40 * TOKEN_BYTES)
    assert store.take(prompt(0, 40))[1] == 30
