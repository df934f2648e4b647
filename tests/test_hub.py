"""Models from the hub, with a hub on this machine: two steps, progress, tokens, and what can go wrong.

In a child process, because the client reads its settings once, when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, serve
from tiny_models import build_large, copy_of

HEAD = """
import json, sys
import torch
torch.set_num_threads(1)
from vlm_magic.errors import VLMError
from vlm_magic.models.checkpoints.estimate import estimate
from vlm_magic.models.checkpoints.loading import load_model
from vlm_magic.models.load_options import LoadOptions
def tried(work):
    try:
        return work()
    except VLMError as error:
        return [type(error).__name__, str(error)]
"""


def child(hub: FakeHub, cache: Path, script: str, **environment: str) -> Any:
    """What a fresh process prints as JSON, with this hub and this cache."""
    env = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("repos")
    pickled = copy_of("llava", root / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    return {
        "somebody/tiny": copy_of("idefics3", root / "tiny"),
        "somebody/gated": copy_of("idefics3", root / "gated"),
        "somebody/pickled": pickled,
        "somebody/large": build_large(root / "large"),
    }


@pytest.fixture(scope="module")
def downloaded(repos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeHub, Path, Any]:
    """A model fetched once and loaded twice: the hub (gone by now), the cache, and what the child printed."""
    cache = tmp_path_factory.mktemp("cache")
    script = """
stages = []
loaded = load_model("somebody/tiny", on_progress=lambda *stage: stages.append(stage))
again = []
load_model("somebody/tiny", on_progress=lambda *stage: again.append(stage))
print(json.dumps([loaded.name, stages, again]))
"""
    with serve(repos) as hub:
        printed = child(hub, cache, script, HF_TOKEN="hf_secret")
    return hub, cache, printed


def test_a_download_tells_its_progress_and_sends_the_token(
    repos: dict[str, Path], downloaded: tuple[FakeHub, Path, Any]
) -> None:
    hub, _, (name, stages, again) = downloaded
    assert name == "somebody/tiny"
    downloads = [stage for stage in stages if stage[0] == "download"]
    size = (repos["somebody/tiny"] / "model.safetensors").stat().st_size
    assert downloads
    assert downloads[-1][1] == downloads[-1][2] >= size
    assert {stage[0] for stage in again} == {"weights"}
    assert hub.tokens == {"Bearer hf_secret"}
    assert hub.peeked == [("somebody/tiny", "model.safetensors")]  # its header, for the estimate
    files = [file for _, file in hub.fetched]
    assert len(files) == len(set(files))
    assert files.index("config.json") < files.index("model.safetensors")


def test_what_is_refused_is_refused_in_words_before_the_weights(
    repos: dict[str, Path], tmp_path: Path
) -> None:
    script = """
from vlm_magic.models import memory
said = [tried(lambda: load_model("somebody/gated")),
        tried(lambda: load_model("nobody/nothing")),
        tried(lambda: load_model("somebody/tiny", LoadOptions(revision="v9"))),
        tried(lambda: load_model("somebody/pickled")),
        tried(lambda: load_model("somebody/tiny", LoadOptions(attn="flash"))),
        tried(lambda: load_model("somebody/tiny", LoadOptions(device="cuda:5")))]
memory.free_bytes = lambda device: 1000
said.append(tried(lambda: load_model("somebody/tiny")))
print(json.dumps(said))
"""
    with serve(repos, gated={"somebody/gated"}) as hub:
        said = child(hub, tmp_path, script)
    gated, missing, revision, pickled, *_, too_big = said
    assert [kind for kind, _ in said] == [
        *["ModelNotFoundError"] * 3,
        "ModelLoadError",
        *["OptionError"] * 2,
        "OutOfMemoryError",
    ]
    assert "wants its terms accepted" in gated[1]
    assert "hf auth login" in gated[1]
    assert "no model 'nobody/nothing' on the hub" in missing[1]
    assert "has no revision 'v9'" in revision[1]
    assert "--unsafe-weights" in pickled[1]
    assert "--force" in too_big[1]
    assert not [file for _, file in hub.fetched if file.endswith((".safetensors", ".bin"))]


def test_a_download_can_be_stopped_and_taken_up_again(repos: dict[str, Path], tmp_path: Path) -> None:
    script = """
import time
seen = []
began = time.perf_counter()
said = tried(lambda: load_model("somebody/large", on_progress=lambda *stage: seen.append(stage),
                                is_stopped=lambda: len(seen) > 2))
print(json.dumps([said, time.perf_counter() - began, len(seen)]))
"""
    with serve(repos, slow_s=0.01) as hub:
        (kind, said), seconds, n_seen = child(hub, tmp_path, script)
    assert kind == "ModelLoadError"
    assert "was stopped" in said
    assert n_seen < 50
    assert seconds < 45, "the whole download would take a minute"


def test_a_hub_that_is_gone_leaves_the_cache(downloaded: tuple[FakeHub, Path, Any]) -> None:
    hub, cache, _ = downloaded
    script = """
print(json.dumps([load_model("somebody/tiny").name, tried(lambda: load_model("somebody/other"))]))
"""
    name, (kind, said) = child(hub, cache, script)
    assert name == "somebody/tiny"
    assert kind == "ModelNotFoundError"
    assert "the hub is out of reach" in said
    assert "in the local cache: somebody/tiny" in said
