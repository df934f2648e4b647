"""Loading: where models are found, what options come to, what is refused and how it says so."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from tiny_models import TINY, copy_of, first_of_decoder, folder_of, tiny
from transformers import AutoConfig

from vlm_magic.errors import (
    ModelKindError,
    ModelLoadError,
    ModelNotFoundError,
    OptionError,
    OutOfMemoryError,
)
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.models import memory
from vlm_magic.models.checkpoints import plan
from vlm_magic.models.checkpoints.estimate import estimate
from vlm_magic.models.checkpoints.loading import describe, load_model
from vlm_magic.models.checkpoints.plan import make_plan
from vlm_magic.models.cpu_numbers import bfloat16_speedup
from vlm_magic.models.load_options import LoadOptions
from vlm_magic.models.loaded import Loaded
from vlm_magic.models.prompts.families import family_of
from vlm_magic.models.prompts.prepare import prepare
from vlm_magic.workspace import Workspace

torch.set_num_threads(1)
_matrix: dict[tuple[str, str], str] = {}


def question(words: str = "What is it?", size: tuple[int, int] = (64, 48)) -> list[Turn]:
    picture = Picture(None, "red", Image.new("RGB", size, "red"), "red")
    return [Turn("user", (picture, Text(words)))]


def answer(loaded: Loaded, n_tokens: int = 2) -> list[int]:
    inputs = memory.to_device(prepare(loaded, question(), Settings()).inputs, loaded)
    with torch.inference_mode():
        out = loaded.model.generate(**inputs, max_new_tokens=n_tokens, do_sample=False)
    new: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
    return new


def last_logits(loaded: Loaded) -> torch.Tensor:
    inputs = memory.to_device(prepare(loaded, question(), Settings()).inputs, loaded)
    with torch.inference_mode():
        logits: torch.Tensor = loaded.model(**inputs, **first_of_decoder(loaded.model)).logits[0, -1]  # (V,)
    return logits.float()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


# ---- the starter -------------------------------------------------------------------------------


def test_the_starter_loads_by_its_name() -> None:
    loaded = load_model()
    assert loaded.name == "starter"
    assert loaded.device == "cpu"
    assert loaded.dtype == "float32"
    line = r"starter · float32 · cpu · \d\.\d M parameters · \d+(\.\d)? MB · \d\.\d s"
    assert re.fullmatch(line, describe(loaded))


def test_the_starter_loads_in_half_a_second() -> None:
    load_model()  # imports what is imported on first use
    began = time.process_time()
    load_model()
    assert time.process_time() - began < 0.5


def test_loading_imports_no_library_that_was_not_asked_for() -> None:
    """What transformers imports by itself does not count; what it does not, we do not."""
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor, AutoConfig\n"
        "before = set(sys.modules)\n"
        "from vlm_magic.models.checkpoints.loading import load_model\n"
        "load_model()\n"
        "heavy = {'bitsandbytes', 'peft', 'optimum', 'torchvision', 'torchao', 'matplotlib', 'IPython'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- where models are --------------------------------------------------------------------------


def test_a_folder_loads_by_its_path_and_by_its_name() -> None:
    folder = folder_of("idefics3")
    assert load_model(folder).name == load_model(str(folder)).name == str(folder)


def test_a_missing_folder_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    with pytest.raises(ModelNotFoundError) as error:
        load_model(f"{tmp_path}/my-modle")
    assert "my-model" in error.value.have


def test_a_folder_of_folders_says_which_has_a_model(tmp_path: Path) -> None:
    copy_of("idefics3", tmp_path / "step-100")
    with pytest.raises(ModelNotFoundError, match="step-100"):
        load_model(tmp_path)


def test_an_empty_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="an empty folder"):
        load_model(tmp_path)


@pytest.fixture
def cached() -> Iterator[str]:
    """A model in the local hub cache, in the layout that the client writes."""
    root = Path(constants.HF_HUB_CACHE) / "models--somebody--tiny-idefics3"
    commit = "0123456789abcdef0123456789abcdef01234567"
    copy_of("idefics3", root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    yield "somebody/tiny-idefics3"
    shutil.rmtree(root)


def test_a_hub_id_loads_from_the_cache_without_the_hub(cached: str) -> None:
    loaded = load_model(cached)
    assert loaded.name == cached
    assert len(answer(loaded)) == 2


def test_a_hub_id_that_is_not_here_lists_what_is(cached: str) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        load_model("somebody/tiny-idefics2")
    assert "HF_HUB_OFFLINE" in error.value.what
    assert cached in error.value.have
    assert cached in error.value.hint


def test_an_empty_cache_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="the local cache is empty"):
        load_model("somebody/else")


def test_a_revision_that_is_not_in_the_cache_is_not_found(cached: str) -> None:
    with pytest.raises(ModelNotFoundError):
        load_model(cached, LoadOptions(revision="v2"))


# ---- what is no model for us -------------------------------------------------------------------


def _text_only(folder: Path) -> Path:
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2).save_pretrained(folder)
    return folder


def test_a_model_for_text_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelKindError, match="takes no pictures"):
        load_model(_text_only(tmp_path / "llama"))


def test_a_missing_processor_is_said(tmp_path: Path) -> None:
    folder = copy_of("idefics3", tmp_path / "copy")
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").unlink()
    with pytest.raises(ModelKindError, match="processor"):
        load_model(folder)


def test_an_unknown_architecture_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "from_next_year"}')
    with pytest.raises(ModelKindError, match="from_next_year"):
        load_model(tmp_path)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    config = {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(ModelKindError, match="--trust-remote-code"):
        load_model(tmp_path)
    assert not ran.exists()


def test_a_configuration_that_is_no_json_is_said(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_model(tmp_path)


def test_a_checkpoint_without_a_template_says_that_it_continues() -> None:
    assert any("no chat template" in note for note in tiny("idefics2-base").notes)
    assert tiny("idefics-instruct").notes == ()


# ---- weights -----------------------------------------------------------------------------------


def _pickled(folder: Path) -> Path:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_load_only_when_asked_for_by_name(tmp_path: Path) -> None:
    folder = _pickled(copy_of("idefics3", tmp_path / "copy"))
    with pytest.raises(ModelLoadError, match="--unsafe-weights"):
        load_model(folder)
    loaded = load_model(folder, LoadOptions(unsafe_weights=True))
    assert torch.equal(last_logits(loaded), last_logits(tiny("idefics3")))


def test_a_missing_shard_is_said_before_loading(tmp_path: Path) -> None:
    folder = copy_of("idefics3", tmp_path / "copy")
    tiny("idefics3").model.save_pretrained(folder, max_shard_size="200KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(last_logits(load_model(folder)), last_logits(tiny("idefics3")))
    shards[0].unlink()
    with pytest.raises(ModelLoadError, match="no complete safetensors"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"", b"x" * 7, b"\xff" * 16, b"\x08\0\0\0\0\0\0\0not json"])
def test_a_broken_weights_file_is_an_error_in_words(tmp_path: Path, content: bytes) -> None:
    folder = copy_of("idefics3", tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelLoadError):
        load_model(folder)


def test_weights_that_are_missing_in_the_checkpoint_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_of("idefics3", tmp_path / "copy")
    state = load_file(folder / "model.safetensors")
    del state[next(name for name in state if "connector" in name)]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert any("are random" in note and "connector" in note for note in load_model(folder).notes)


# ---- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "have"),
    [
        ({"quantize": "5bit"}, "4bit"),
        ({"dtype": "float8"}, "bfloat16"),
        ({"attn": "flush"}, "flash"),
        ({"quantise": "4bit"}, "quantize"),
        ({"picture_tokens": 0}, "at least 1"),
    ],
)
def test_a_wrong_option_names_the_right_ones(values: dict[str, object], have: str) -> None:
    with pytest.raises(OptionError) as error:
        LoadOptions.from_values(values)
    assert have in error.value.have


def test_short_names_stand_for_long_ones() -> None:
    options = LoadOptions(quantize="4bit", dtype="bf16", attn="flash")
    assert (options.quantize, options.dtype, options.attn) == ("bnb-4bit", "bfloat16", "flash_attention_2")
    assert options == LoadOptions(quantize="bnb-4bit", dtype="torch.bfloat16", attn="flash_attention_2")


def test_options_are_refused_before_a_download(monkeypatch: pytest.MonkeyPatch, cached: str) -> None:
    from vlm_magic.models.checkpoints import hub

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(hub, "fetch_weights", never)
    for wrong in ({"device": "cuda:7"}, {"attn": "flash"}, {"quantize": "8bit", "device": "offload"}):
        with pytest.raises(OptionError):
            load_model(cached, LoadOptions(**wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "dtype"), [("auto", "float32"), ("bf16", "bfloat16"), ("float16", "float16")]
)
def test_a_cpu_computes_in_what_is_asked_for_and_else_in_float32(wish: str, dtype: str) -> None:
    loaded = load_model(folder_of("idefics2-chatty"), LoadOptions(dtype=wish))
    assert loaded.dtype == dtype
    assert next(loaded.model.parameters()).dtype == getattr(torch, dtype)
    assert len(answer(loaded)) == 2


@pytest.mark.parametrize(
    ("saved", "width", "speedup", "wish", "expected"),
    [
        ("bfloat16", 576, 2.9, {}, "bfloat16"),
        ("bfloat16", 576, 0.2, {}, "float32"),
        ("bfloat16", 128, 2.9, {}, "float32"),
        ("float32", 576, 2.9, {}, "float32"),
        ("bfloat16", 576, 2.9, {"dtype": "float32"}, "float32"),
        ("bfloat16", 576, 2.9, {"quantize": "torchao-int8"}, "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_where_it_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch,
    saved: str,
    width: int,
    speedup: float,
    wish: dict[str, object],
    expected: str,
) -> None:
    """Of checkpoints that were saved so, and no small ones: the starter says the same everywhere."""
    monkeypatch.setattr(plan, "bfloat16_speedup", lambda: speedup)
    config = AutoConfig.from_pretrained(folder_of("idefics3"))
    config.dtype = saved
    config.get_text_config().hidden_size = width
    made = make_plan("x", config, family_of("idefics3"), LoadOptions(device="cpu", **wish))
    assert made.dtype == expected
    assert ("times as fast" in made.numbers_reason) == (expected == "bfloat16")


def test_the_processor_is_asked_by_a_product_of_its_own() -> None:
    assert 0.01 < bfloat16_speedup() < 100
    assert bfloat16_speedup() == bfloat16_speedup(), "measured once"


def test_a_device_that_is_not_here_is_refused_with_those_that_are() -> None:
    with pytest.raises(OptionError) as error:
        load_model("starter", LoadOptions(device="cuda:3"))
    assert "cpu" in error.value.have


@pytest.mark.parametrize(
    ("name", "attn", "words"),
    [
        ("idefics", "flash", "does not support"),
        ("idefics", "flex", "does not support"),
        ("llava", "flash", "needs a CUDA device"),
        ("llava", "flash_attention_3", "needs a CUDA device"),
        ("llava", "kernels-community/flash-attn2", "package kernels"),
    ],
)
def test_an_attention_that_cannot_be_says_what_is_missing(name: str, attn: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        load_model(folder_of(name), LoadOptions(attn=attn))


def test_auto_says_which_attention_and_why() -> None:
    assert tiny("llava").attention == "sdpa: the best on this device"


def _gpus(monkeypatch: pytest.MonkeyPatch, free: list[int], *, bfloat16: bool = True) -> None:
    """Pretend that this machine has GPUs; nothing is put on them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i=0: (free[int(str(i)[-1])], 10**11))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i=0: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda i=0: 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bfloat16)


@cache
def _config(name: str) -> Any:
    return AutoConfig.from_pretrained(folder_of(name))


def _plan(name: str, **options: Any) -> plan.Plan:
    config = _config(name)
    return make_plan(name, config, family_of(config.model_type), LoadOptions(**options))


def test_the_gpu_with_the_most_room_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, [10**9, 4 * 10**9])
    assert _plan("llava").device == "cuda:1"
    assert _plan("llava", device="cuda:0").device == "cuda:0"
    assert _plan("llava", device="cpu").dtype == "float32"


def test_a_gpu_computes_in_bfloat16_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpus(monkeypatch, [10**9])
    assert _plan("gemma3").dtype == "bfloat16"


def test_an_older_gpu_computes_in_float16_only_for_families_that_are_safe_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _gpus(monkeypatch, [10**9], bfloat16=False)
    assert _plan("llava").dtype == "float16"
    assert _plan("gemma3").dtype == "float32"


def test_flash_attention_is_taken_where_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils

    _gpus(monkeypatch, [10**9])
    assert _plan("llava").reason.startswith("no flash attention: the package flash-attn")
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    assert _plan("llava").attention == "flash_attention_2"
    assert _plan("llava", dtype="float32").attention == "sdpa"
    assert _plan("idefics").attention == "sdpa"


def test_a_model_too_big_for_one_gpu_is_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_magic.models.checkpoints import loading

    source = loading.hub.find(folder_of("llava"), LoadOptions())
    arguments = (source, _config("llava"), family_of("llava"))
    needed = estimate(folder_of("llava"), LoadOptions(dtype="bfloat16")).needed_bytes
    _gpus(monkeypatch, [needed * 2 // 3] * 2)
    assert loading._plan_that_fits(*arguments, LoadOptions()).device == "spread"
    with pytest.raises(OutOfMemoryError):
        loading._plan_that_fits(*arguments, LoadOptions(device="cuda:0"))


# ---- memory refuses ----------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_the_option_that_would(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = memory.real_bytes(tiny("llava").model)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed + 300_000)
    with pytest.raises(OutOfMemoryError) as error:
        load_model(folder_of("llava"))
    assert "--dtype bfloat16" in error.value.hint
    assert "--force" in error.value.hint
    assert error.value.needed_bytes > error.value.free_bytes  # type: ignore[attr-defined]
    assert len(answer(load_model(folder_of("llava"), LoadOptions(force=True)))) == 2


# ---- quantisation ------------------------------------------------------------------------------


@cache
def _plain_logits(name: str) -> torch.Tensor:
    return last_logits(tiny(name))


@pytest.fixture(scope="module", autouse=True)
def printed_matrix(closing_lines: list[str]) -> Iterator[None]:
    yield
    if not _matrix:
        return
    columns = sorted({column for _, column in _matrix})
    closing_lines += ["", f"{'cosine with float32':22}" + "".join(f"{column:>21}" for column in columns)]
    for row in dict.fromkeys(row for row, _ in _matrix):
        cells = "".join(f"{_matrix.get((row, column), ''):>21}" for column in columns)
        closing_lines.append(f"{row:22}{cells}")


QUANTIZATIONS = [None, "bnb-8bit", "bnb-4bit", "quanto-int8", "torchao-int8"]


@pytest.mark.parametrize(
    ("quantize", "attn", "dtype"),
    [
        *itertools.product(QUANTIZATIONS, ["sdpa", "eager", "flash"], ["float32", "bfloat16", "float16"]),
        (None, "flex", "float32"),  # one: it compiles for seconds
    ],
)
@pytest.mark.filterwarnings("ignore")  # the quantisers' own
def test_the_loading_matrix(quantize: str | None, attn: str, dtype: str) -> None:
    """Every combination loads and answers, or is refused in words before the weights are read."""
    row, column = f"{quantize or 'none'} / {dtype}", attn
    options = LoadOptions(quantize=quantize, attn=attn, dtype=dtype)
    if attn == "flash":
        with pytest.raises(OptionError, match="needs a CUDA device"):
            load_model(folder_of("idefics3"), options)
        _matrix[row, column] = "refused"
        return
    loaded = load_model(folder_of("idefics3"), options)
    similarity = cosine(last_logits(loaded), _plain_logits("idefics3"))
    _matrix[row, column] = f"{similarity:.4f}"
    assert math.isfinite(similarity)
    assert similarity > (0.9 if quantize == "bnb-4bit" else 0.99)
    assert loaded.quantization == (quantize or "")


SEES = (
    "vision",
    "visual",
    "connector",
    "projector",
    "perceiver",
    "lm_head",
    "merger",
    "qformer",
    "resampler",
)


@pytest.mark.parametrize(
    "name", ["idefics", "idefics2-chatty", "llava", "qwen2-vl", "qwen3-vl", "internvl", "blip-2"]
)
@pytest.mark.parametrize("quantize", ["bnb-8bit", "quanto-int8"])
@pytest.mark.filterwarnings("ignore")
def test_only_the_language_models_layers_are_quantized(name: str, quantize: str) -> None:
    model = load_model(folder_of(name), LoadOptions(quantize=quantize)).model
    kinds = {n: type(m).__name__ for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    quantized = {n for n, kind in kinds.items() if kind in ("Linear8bitLt", "QLinear")}
    assert quantized
    assert [n for n in quantized if any(word in n for word in SEES)] == []
    assert [n for n in set(kinds) - quantized if "layers." in n and not any(word in n for word in SEES)] == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in TINY if name not in ("idefics3",)])
def test_every_family_answers_in_8_bits(name: str) -> None:
    loaded = load_model(folder_of(name), LoadOptions(quantize="int8"))
    assert cosine(last_logits(loaded), _plain_logits(name)) > 0.99


def test_a_quantization_whose_package_is_missing_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_is_installed", lambda module: module == "torchao")
    with pytest.raises(OptionError) as error:
        load_model(folder_of("llava"), LoadOptions(quantize="4bit"))
    assert error.value.hint == "pip install bitsandbytes"
    assert "torchao-int8" in error.value.have


def test_a_checkpoint_that_is_quantized_already_is_not_quantized_again(tmp_path: Path) -> None:
    folder = copy_of("llava", tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(OptionError, match="quantised already"):
        load_model(folder, LoadOptions(quantize="4bit"))


# ---- adapters ----------------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = load_model(folder_of("idefics3")).model
    lora = LoraConfig(r=2, target_modules=r".*text_model.*q_proj", init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers deprecates
        get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_changes_what_the_model_says(adapter: Path) -> None:
    loaded = load_model(folder_of("idefics3"), LoadOptions(adapter=str(adapter)))
    assert cosine(last_logits(loaded), _plain_logits("idefics3")) < 0.9999
    assert any("with the adapter" in note for note in loaded.notes)
    assert len(answer(loaded)) == 2


def test_an_adapter_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is not an adapter"):
        load_model(folder_of("idefics3"), LoadOptions(adapter=str(tmp_path)))
    with pytest.raises(ModelNotFoundError, match="no adapter folder"):
        load_model(folder_of("idefics3"), LoadOptions(adapter=str(tmp_path / "none")))


def test_a_pickled_adapter_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match="--unsafe-weights"):
        load_model(folder_of("idefics3"), LoadOptions(adapter=str(adapter)))


# ---- how many tokens a picture costs -----------------------------------------------------------


def _cost(name: str, **options: Any) -> int:
    loaded = load_model(folder_of(name), LoadOptions(**options))
    prepared = prepare(loaded, question(size=(96, 80)), Settings())
    with torch.inference_mode():
        loaded.model.generate(**prepared.inputs, max_new_tokens=1, do_sample=False)  # shapes still fit
    return prepared.picture_tokens[0]


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [("idefics2-chatty", 6, 26), ("idefics3", 7, 34), ("smolvlm", 7, 34), ("internvl", 6, 22)],
)
def test_splitting_cuts_pictures_into_tiles_or_not(name: str, off: int, on: int) -> None:
    assert (_cost(name, splitting=False), _cost(name, splitting=True)) == (off, on)


@pytest.mark.parametrize(
    "name", ["idefics3-tiles", "smolvlm", "qwen2-vl", "qwen3-vl", "internvl", "idefics2-chatty"]
)
@pytest.mark.parametrize("n_tokens", [9, 12, 15, 17, 20, 25, 30, 33, 40, 63, 69])
def test_picture_tokens_is_a_limit(name: str, n_tokens: int) -> None:
    assert 1 < _cost(name, picture_tokens=n_tokens) <= n_tokens


def test_picture_tokens_choose_grids_for_llava_next() -> None:
    assert _cost("llava-next", picture_tokens=60) <= 60 < _cost("llava-next")


def test_a_limit_below_the_least_names_the_least() -> None:
    with pytest.raises(OptionError) as error:
        load_model(folder_of("idefics3"), LoadOptions(picture_tokens=3))
    assert error.value.hint == "--picture-tokens 7"


def test_splitting_without_tiles_is_refused() -> None:
    with pytest.raises(OptionError, match="does not cut pictures"):
        load_model(folder_of("llava"), LoadOptions(splitting=True))
    with pytest.raises(OptionError, match="same number of tokens"):
        load_model(folder_of("llava"), LoadOptions(picture_tokens=10))


# ---- chat templates are programs ---------------------------------------------------------------

ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% if a < 0 %}x{% endif %}{% endfor %}{% endfor %}"
)
GREEDY = (
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x }}"
)


QUICK = "{{ ('x' * 600000000) | length }}"  # done in no time, with more memory than it may take


@pytest.mark.parametrize("template", [ENDLESS, GREEDY, QUICK])
def test_a_template_that_takes_too_much_is_stopped_at_load(tmp_path: Path, template: str) -> None:
    folder = copy_of("idefics3", tmp_path / "copy")
    (folder / "chat_template.jinja").write_text(template)
    began = time.perf_counter()
    with pytest.raises(ModelLoadError, match="takes too long or too much memory"):
        load_model(folder)
    assert time.perf_counter() - began < 15


def test_a_template_that_is_none_is_said_at_load(tmp_path: Path) -> None:
    folder = copy_of("idefics3", tmp_path / "copy")
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(ModelLoadError, match="cannot be used"):
        load_model(folder)


# ---- progress and stopping ---------------------------------------------------------------------


def test_progress_is_told_by_tensor() -> None:
    stages: list[tuple[str, int, int]] = []
    loaded = load_model(folder_of("idefics3"), on_progress=lambda *stage: stages.append(stage))
    total = len(loaded.model.state_dict())
    assert stages == [("weights", n, total) for n in range(total + 1)]


def test_a_load_can_be_stopped() -> None:
    with pytest.raises(ModelLoadError, match="was stopped"):
        load_model(folder_of("idefics3"), is_stopped=lambda: True)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A checkpoint in several files."""
    folder = copy_of("idefics3", tmp_path / "shards")
    (folder / "model.safetensors").unlink()
    tiny("idefics3").model.save_pretrained(folder, max_shard_size="200KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


ASK = [Turn("user", (Text("What do we see?"),))]


def _stopped_in_the_middle(workspace: Workspace, folder: Path, **options: Any) -> list[int]:
    """Load and have another thread stop it a third of the way; how many tensors were there each time."""
    seen: list[int] = []
    reached, stopped, asked = threading.Event(), threading.Event(), threading.Event()

    def stop() -> None:
        reached.wait(60)
        stopped.set()
        asked.set()

    def watch(stage: str, done: int, total: int) -> None:
        seen.append(done)
        if done == total // 3:
            reached.set()
            asked.wait(60)  # a tensor of a real shard takes its time; a tiny one does not

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(ModelLoadError, match="was stopped"):
            workspace.models.load(folder, on_progress=watch, is_stopped=stopped.is_set, **options)
    finally:
        reached.set()
        thread.join()
    return seen


def test_a_stop_from_another_thread_ends_a_load_between_shards_and_the_resident_model_stays(
    shards: Path,
) -> None:
    """Within one tensor; nothing of the new model is kept, and a second try loads it."""
    workspace = Workspace()
    resident = workspace.models.load(folder_of("llava"))
    said = resident.generate(ASK, Settings(max_tokens=5)).token_ids
    n_tensors = len(tiny("idefics3").model.state_dict())
    seen = _stopped_in_the_middle(workspace, shards, replace=True)
    assert seen == list(range(n_tensors // 3 + 1))
    assert workspace.models.engine() is resident
    assert resident.generate(ASK, Settings(max_tokens=5)).token_ids == said
    assert workspace.models.load(shards, replace=True).generate(ASK, Settings(max_tokens=5)).n_new_tokens > 0
    assert resident.is_closed


def test_a_model_that_had_to_make_room_is_back_after_a_stop(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory's figure is made up, as if the two did not fit side by side; all else is real."""
    workspace = Workspace()
    resident = workspace.models.load(folder_of("llava"))
    said = resident.generate(ASK, Settings(max_tokens=5)).token_ids
    was_away: list[bool] = []

    def free_bytes(device: str) -> int:
        was_away.append(resident.is_closed)
        return 10**9 if resident.is_closed else 0

    monkeypatch.setattr(memory, "free_bytes", free_bytes)
    _stopped_in_the_middle(workspace, shards, replace=True)
    assert True in was_away
    assert not resident.is_closed
    assert workspace.models.engine() is resident
    assert resident.generate(ASK, Settings(max_tokens=5)).token_ids == said


def test_no_bar_is_drawn(capfd: pytest.CaptureFixture[str]) -> None:
    load_model(folder_of("llava"))
    assert "Loading weights" not in capfd.readouterr().err


# ---- packages that are not there ---------------------------------------------------------------


@pytest.mark.parametrize(
    "model_type",
    [
        "cohere2_vision", "inkling2", "kimi_k25", "lfm2_vl", "llama4", "minicpm_ocr", "minicpmv4_6",
        "minimax_m3_vl", "mistral3", "mistral_large4", "molmo2", "muse_glimmer", "muse_spark",
        "nemotron_h_omni", "perception_lm", "step3p7", "unlimited_ocr",
    ],
)  # fmt: skip
def test_a_processor_that_needs_torchvision_says_so_by_its_name(tmp_path: Path, model_type: str) -> None:
    """However long transformers' own words are, and wherever in them the name stands."""
    from importlib.util import find_spec

    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    from vlm_magic.models.checkpoints.processors import load_processor

    if find_spec("torchvision") is not None:
        pytest.skip("torchvision is installed here")
    folder = copy_of("qwen2-vl", tmp_path / "copy")
    names = IMAGE_PROCESSOR_MAPPING_NAMES[model_type]
    kind = names.get("torchvision") if isinstance(names, dict) else next(filter(None, reversed(names)))
    processor = {"processor_class": PROCESSOR_MAPPING_NAMES[model_type]}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "image_processor_type": kind}))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ModelLoadError, match="needs the package torchvision") as caught:
        load_processor("it", folder, CONFIG_MAPPING[model_type](), family_of(model_type))
    assert str(caught.value).endswith("pip install torchvision")


def test_a_missing_package_is_found_in_any_wording() -> None:
    from vlm_magic.models.checkpoints.packages import missing_package

    said = ImportError("requires the TIMM library but it was not found in your environment. " + "x" * 500)
    assert missing_package(ValueError("odd")) == ""
    assert missing_package(ImportError("No module named 'torch'")) == ""  # it is there
    wrapped = RuntimeError("something else")
    wrapped.__cause__ = said
    assert missing_package(wrapped) == "timm"
