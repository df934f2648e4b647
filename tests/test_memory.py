"""Memory: what a model really holds, what it will need, how it comes back, and running out of it."""

from __future__ import annotations

import gc
import json
import os
import re
import struct
import subprocess
import sys
import time
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TINY, build_large, build_wide_cache, folder_of, tiny

from vlm_magic.errors import ModelKindError, OutOfMemoryError
from vlm_magic.models import memory
from vlm_magic.models.checkpoints.estimate import empty_model, estimate
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.load_options import LoadOptions

torch.set_num_threads(1)
QUANTIZATIONS = [None, "bnb-8bit", "bnb-4bit", "quanto-int8", "torchao-int8"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 million parameters."""
    return build_large(tmp_path_factory.mktemp("large") / "idefics3")


@pytest.fixture(scope="module", autouse=True)
def _imported_quantizers() -> None:
    """Import them with a tiny model: their first import logs an error whose frames pytest keeps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for quantize in QUANTIZATIONS[1:]:
            load_model(folder_of("llava"), LoadOptions(quantize=quantize))


# ---- what a model holds ------------------------------------------------------------------------


def test_real_bytes_count_shared_storages_once() -> None:
    layer = torch.nn.Linear(10, 10, bias=False)
    both = torch.nn.ModuleList([layer, torch.nn.Linear(10, 10, bias=False)])
    both[1].weight = layer.weight
    assert memory.real_bytes(both) == 400
    both[1].weight = torch.nn.Parameter(layer.weight.data)
    assert memory.real_bytes(both) == 400, "another parameter over the same numbers"


def test_real_bytes_of_a_plain_model_are_what_transformers_says() -> None:
    model = tiny("idefics3").model
    assert memory.real_bytes(model) == pytest.approx(model.get_memory_footprint(), rel=0.01)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_the_estimate_of_a_large_build_is_within_ten_percent_of_its_real_bytes(
    large: Path, quantize: str | None
) -> None:
    """Measured: within a quarter of a percent."""
    options = LoadOptions(quantize=quantize, dtype="bfloat16")
    made = estimate(large, options)
    loaded = load_model(large, options)
    real = memory.real_bytes(loaded.model)
    assert made.n_parameters > 100_000_000
    assert made.weights_bytes == pytest.approx(real, rel=0.1)
    assert memory.release(loaded) == pytest.approx(real, rel=0.001)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(TINY))
def test_the_estimate_of_every_family_is_within_ten_percent(name: str) -> None:
    for quantize in (None, "bnb-8bit"):
        options = LoadOptions(quantize=quantize)
        made = estimate(folder_of(name), options)
        real = memory.real_bytes(load_model(folder_of(name), options).model)
        assert made.weights_bytes == pytest.approx(real, rel=0.1), quantize


# ---- what it will need -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hundred_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 8 billion parameters in 100 shards: real headers over files that take no room."""
    from transformers import Idefics2Config

    folder = tmp_path_factory.mktemp("shards")
    config = Idefics2Config(
        text_config={
            "model_type": "mistral", "vocab_size": 32003, "num_hidden_layers": 32, "hidden_size": 4096,
            "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 32768, "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
            "num_attention_heads": 16, "image_size": 980, "patch_size": 14,
        },
    )  # fmt: skip
    config.architectures = ["Idefics2ForConditionalGeneration"]
    config.save_pretrained(folder)
    tensors = list(empty_model("idefics2", config).state_dict().items())
    weight_map = {}
    for shard in range(100):
        name = f"model-{shard + 1:05d}-of-00100.safetensors"
        header: dict[str, Any] = {}
        offset = 0
        for key, tensor in tensors[shard::100]:
            end = offset + 2 * tensor.numel()
            header[key] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
            weight_map[key], offset = name, end
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + offset)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("quantize", [None, "bnb-4bit", "quanto-int8"])
def test_the_headers_of_a_hundred_shards_take_less_than_a_second(
    hundred_shards: Path, quantize: str | None
) -> None:
    began = time.process_time()
    made = estimate(hundred_shards, LoadOptions(quantize=quantize))
    assert time.process_time() - began < 1
    assert made.n_parameters == pytest.approx(8.4e9, rel=0.01)


def test_an_estimate_says_all_that_a_person_asks(
    hundred_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20 * 10**9)
    made = estimate(hundred_shards)
    assert not made.fits
    assert made.advice.startswith("--dtype bfloat16 needs 18.")
    assert made.cache_token_bytes == 2 * 32 * 8 * 128 * 4
    assert made.context_tokens == 32768
    assert made.needed_bytes == made.weights_bytes + made.cache_bytes + made.picture_bytes
    shown = str(made)
    for words in ("does not fit", "33.6 GB", "8,192 tokens of a context of 32,768", "free 20.0 GB", "sdpa"):
        assert words in shown


def test_less_room_asks_for_more_quantization(hundred_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = []
    for free in (14, 9, 8, 1):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free * 10**9)
        advice.append(estimate(hundred_shards, LoadOptions(dtype="bfloat16")).advice.partition(" needs")[0])
    assert advice == ["--quantize 8bit", "--quantize 4bit", "--quantize 4bit", ""]


def test_the_estimate_of_a_text_model_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ModelKindError):
        estimate(tmp_path)


def test_free_memory_knows_this_process_s_own_limit() -> None:
    script = (
        "import resource\n"
        "from vlm_magic.models import memory\n"
        "free = memory.free_bytes('cpu')\n"
        "pages = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + 10**8,) * 2)\n"
        "assert memory.free_bytes('cpu') <= 10**8 < free, (free, memory.free_bytes('cpu'))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# ---- giving back -------------------------------------------------------------------------------


FIVE_ROUNDS = """
import json, sys
from vlm_magic.models import memory
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.load_options import LoadOptions

# another type than the file's: truly copied
options = LoadOptions(quantize=sys.argv[2] or None, dtype="float16")
after = []
for _ in range(5):
    loaded = load_model(sys.argv[1], options)
    held = memory.real_bytes(loaded.model)
    back = memory.release(loaded)
    assert abs(back - held) <= 0.001 * held, (back, held)
    after.append(memory.resident_bytes())
print(json.dumps(after))
"""


@pytest.mark.parametrize("quantize", ["", "bnb-8bit", "quanto-int8"])
def test_five_rounds_of_loading_and_unloading_do_not_drift(large: Path, quantize: str) -> None:
    """In a process of its own, where nobody else's memory comes and goes, and with one heap for all threads.

    glibc gives every thread that reads a file a heap of its own and never trims that heap's free top: up to
    tens of megabytes that the next load uses again, a different number after each round.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIVE_ROUNDS, str(large), quantize],
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    after = json.loads(done.stdout.splitlines()[-1])
    # 208 MB and more came and went each round
    assert max(after) - after[0] < 5_000_000, [n // 10**6 for n in after]


def test_what_somebody_still_holds_does_not_come_back() -> None:
    loaded = load_model(folder_of("idefics3"))
    held = memory.real_bytes(loaded.model)
    kept = loaded.model.lm_head
    back = memory.release(loaded)
    assert back == held - kept.weight.untyped_storage().nbytes()
    assert memory.release(loaded) == 0


# ---- running out -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("MPS backend out of memory"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("could not create a primitive"),
    ],
)
def test_allocators_errors_are_known(error: BaseException) -> None:
    assert memory.is_out_of_memory(error)
    outer = RuntimeError("while loading")
    outer.__cause__ = error
    assert memory.is_out_of_memory(outer)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        RuntimeError("shapes"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        OSError("disk"),
        KeyError("x"),
    ],
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not memory.is_out_of_memory(error)


def test_our_error_keeps_the_cause_as_text_and_lets_the_tensors_go() -> None:
    watched: list[weakref.ref[Any]] = []
    tracebacks: list[Any] = []

    def fail() -> None:
        tensor = torch.ones(1000)
        watched.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def ours() -> None:
        failure = None
        try:
            fail()
        except RuntimeError as error:
            tracebacks.append(error.__traceback__)  # as IPython keeps that of the last error
            failure = memory.out_of_memory(error, what="it ran out of memory")
        raise failure

    with pytest.raises(OutOfMemoryError) as caught:
        ours()
    gc.collect()
    assert watched[0]() is None
    assert "Tried to allocate 2.00 GiB" in caught.value.cause  # type: ignore[attr-defined]
    assert "free on cpu" in caught.value.have
    assert caught.value.__cause__ is None


LIMITED = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from PIL import Image
from vlm_magic.errors import OutOfMemoryError
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.load_options import LoadOptions

large = sys.argv[1]
engine = LocalEngine(load_model(sys.argv[2]))
picture = Picture(None, "red", Image.new("RGB", (96, 96), "red"), "red")
small = [Turn("user", (picture, Text("What is it?")))]
big = [Turn("user", (picture,) * 280 + (Text("What are they?"),))]  # 60 MB of keys and values
said = engine.generate(small, Settings(max_tokens=4)).text
load_model(large, LoadOptions(force=True, dtype="float16"))  # imports what a load imports
memory.give_back()
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 22_000_000,) * 2)
n_errors = n_fine = n_loads = 0
for _ in range(10):
    try:
        engine.generate(big, Settings(max_tokens=2))
    except OutOfMemoryError as error:
        n_errors += 1
        sys.last_value = error  # as IPython keeps it
    n_fine += engine.generate(small, Settings(max_tokens=4)).text == said
    try:
        load_model(large, LoadOptions(force=True, dtype="float32"))
    except OutOfMemoryError as error:
        n_loads += 1
        sys.last_value = error
print(json.dumps([n_errors, n_fine, n_loads]))
"""


def test_running_out_of_memory_is_an_error_after_which_the_next_cell_works(
    large: Path, tmp_path: Path
) -> None:
    """With a real limit: a prompt and a load that do not fit, then a prompt that does; ten times."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(large), str(build_wide_cache(tmp_path / "wide"))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [10, 10, 10]


LIMITED_MAP = """
import json, resource, sys, threading
import torch
torch.set_num_threads(1)
threading.stack_size(512 * 1024)  # what threads reserve counts against the limit
from PIL import Image
from vlm_magic.messages import Settings
from vlm_magic.models.engine import LocalEngine
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.tasks.map.mapping import PictureMap

engine = LocalEngine(load_model(sys.argv[1]))
pictures = [Image.new("RGB", (96, 96), (n, 100, 255 - n)) for n in range(64)]
how = Settings(max_tokens=4)

def mapped(n_rows):
    run = PictureMap(engine, "What is it?", pictures, batch_size=n_rows, resume=False, settings=how)
    rows = sorted(run, key=lambda row: row.position)
    return [row.text for row in rows], [row.error for row in rows if row.error], run.notes

expected, _, _ = mapped(2)
lines = open("/proc/self/status").read().splitlines()
taken = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + 60_000_000,) * 2)
said, errors, notes = mapped(64)
print(json.dumps([said == expected, errors, notes[:1]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit of a process's memory")
def test_a_map_that_runs_out_of_memory_goes_on_in_smaller_batches(tmp_path: Path) -> None:
    """With a real limit: 64 rows do not fit, fewer do, and every row has its answer."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_MAP, str(build_wide_cache(tmp_path / "wide"))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    right, errors, notes = json.loads(done.stdout)
    assert right
    assert errors == []
    assert re.fullmatch(r"memory ran out, so batches were halved to (32|16|8) rows", notes[0])
