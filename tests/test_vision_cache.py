"""Pictures that two threads look at: each once, also where one of the two fails; how many threads help."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from vlm_magic.messages import Picture
from vlm_magic.models.caches.vision_cache import EncodedPicture, Features, VisionCache
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.cpu_threads import has_idle_core, useful_threads
from vlm_magic.models.loaded import Loaded
from vlm_magic.starter.making.world.scenes import make_scene

N = 20
NAMES = [f"scene {n}" for n in range(N)]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model("starter")


def shown(seed: int) -> Picture:
    """A drawn scene as a picture of a prompt."""
    return Picture(None, f"scene {seed}", make_scene(seed).picture)


@pytest.fixture
def cache(loaded: Loaded) -> VisionCache:
    """A store with twenty pictures that were processed and not encoded."""
    store = VisionCache(loaded, 2**30)
    scenes = {name: shown(seed) for seed, name in enumerate(NAMES)}
    store._entry(NAMES[0], scenes[NAMES[0]])
    store.look_ahead(scenes, and_encode=False)
    assert len(store) == N
    return store


def watched(cache: VisionCache, watch: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``watch`` called with the number of pictures before each look of the tower."""
    plain = cache._encode

    def encode(pixels: dict[str, torch.Tensor]) -> Features:
        watch(len(pixels["pixel_values"]))
        return plain(pixels)

    monkeypatch.setattr(cache, "_encode", encode)


def encode(cache: VisionCache, names: list[str]) -> list[torch.Tensor]:
    with torch.inference_mode():
        cache.encode(names)
        return [cache.features(name).pooled for name in names]


def test_two_threads_encode_each_picture_once(
    cache: VisionCache, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    both_begun = threading.Barrier(2, timeout=30)

    def watch(n: int) -> None:
        counts.append(n)
        if len(counts) <= 2:
            both_begun.wait()

    watched(cache, watch, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(encode, cache, NAMES), pool.submit(encode, cache, NAMES[::-1])]
        seen, reverse = (job.result(60) for job in jobs)
    assert sum(counts) == N
    assert all(map(torch.equal, seen, reverse[::-1]))
    alone = VisionCache(loaded, 2**30)
    for seed, name in enumerate(NAMES):
        alone._entry(name, shown(seed))
    for name, features in zip(NAMES, seen, strict=True):
        torch.testing.assert_close(features, encode(alone, [name])[0], atol=1e-5, rtol=1e-4)


def test_pictures_of_a_thread_that_fails_are_left_to_the_other(
    cache: VisionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_fail = threading.Event(), threading.Event()
    main = threading.current_thread()

    def watch(n: int) -> None:
        if threading.current_thread() is not main:
            begun.set()
            may_fail.wait(30)
            raise MemoryError

    watched(cache, watch, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(encode, cache, NAMES)
        assert begun.wait(30)
        threading.Timer(0.2, may_fail.set).start()
        assert len(encode(cache, NAMES)) == N
        with pytest.raises(MemoryError):
            job.result(30)


def test_a_store_may_be_tidied_while_another_thread_adds_to_it(loaded: Loaded) -> None:
    store = VisionCache(loaded, 50_000)
    scenes = {name: shown(seed) for seed, name in enumerate(NAMES)}
    store._entry(NAMES[0], scenes[NAMES[0]])
    is_over = threading.Event()

    def tidy() -> None:
        while not is_over.is_set():
            store.tidy()

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(tidy)
        for _ in range(10):
            store.look_ahead(scenes, and_encode=True)
        is_over.set()
        job.result(30)
    store.tidy()
    assert store.n_bytes <= 50_000


def test_the_picture_that_was_not_used_for_the_longest_leaves_first(loaded: Loaded) -> None:
    """The one that is asked about stays, though it came first."""
    store = VisionCache(loaded, 0)
    first, second, third = NAMES[:3]
    for seed, name in enumerate((first, second, first, third)):
        store._entry(name, shown(seed))
    store.max_bytes = store.n_bytes * 2 // 3
    store.tidy()
    assert [store.text_of(name) is not None for name in (first, second, third)] == [True, False, True]


def test_a_small_model_works_on_one_thread_and_leaves_the_other_cores(loaded: Loaded) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with useful_threads(loaded):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    n_cores: Any = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert has_idle_core(loaded) == (n_cores > 1)


def test_an_answer_counts_only_what_is_new_to_it(cache: VisionCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map leaves tens of thousands of pictures; counting all of them at each answer took longer than it."""
    encode(cache, NAMES)
    cache.tidy()
    n_counted = 0
    plain = EncodedPicture.n_bytes.fget
    assert plain is not None

    def n_bytes(entry: EncodedPicture) -> int:
        nonlocal n_counted
        n_counted += 1
        return int(plain(entry))

    monkeypatch.setattr(EncodedPicture, "n_bytes", property(n_bytes))
    cache._entry("new", shown(N))
    encode(cache, ["new"])
    cache.tidy()
    assert n_counted == 1
    cache.max_bytes = cache.n_bytes // 2
    cache.tidy()
    assert cache._n_counted == cache.n_bytes <= cache.max_bytes
    assert "new" in cache._entries
    cache.clear()
    cache.tidy()
    assert cache._n_counted == cache.n_bytes == 0
