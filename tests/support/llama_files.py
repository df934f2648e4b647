"""Makes what `real_servers.llama_server` needs: llama.cpp's server from Debian, and the starter as GGUF.

    pip install gguf
    python tests/support/llama_files.py FOLDER
    VLM_MAGIC_LLAMA=FOLDER python -m pytest tests/test_remote_servers.py

Nothing is installed on the machine: Debian's packages (19 MB, of sid) are unpacked into the folder, with
their own C library, and ``llama-server`` there is a script that starts the program with it. Needs apt and
dpkg; takes about ten seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = Path(__file__).parents[2] / "vlm_magic" / "starter" / "weights"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_CONTROL, _NORMAL = 3, 1  # kinds of tokens, as gguf numbers them
_LINE_BREAKS = "ĊĊ"  # llama.cpp looks this token up beside each picture of an Idefics3; ours has none

_START = """#!/bin/sh
# Its own loader and C library, for sid's are newer; the working folder is where it finds its backends.
lib="{lib}"
cd "$lib/ggml/backends0" && exec "$lib/ld-linux-x86-64.so.2" \\
  --library-path "$lib:$lib/llama:$lib/ggml/backends0" "{root}/usr/bin/llama-server" "$@"
"""


def fetch_server(folder: Path) -> None:
    """Debian's llama.cpp-tools with all that it needs, unpacked; the script that starts it."""
    for each in ("lists/partial", "cache/archives/partial", "root"):
        (folder / "apt" / each).mkdir(parents=True, exist_ok=True)
    apt = folder.resolve() / "apt"
    (apt / "status").write_text("")  # as if nothing were installed
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian sid main\n")
    settings = {
        "Dir::State::lists": "lists",
        "Dir::State::status": "status",
        "Dir::Cache": "cache",
        "Dir::Etc::sourcelist": "sources.list",
        "Dir::Etc::sourceparts": "none",
    }
    (apt / "apt.conf").write_text("".join(f'{name} "{apt / at}";\n' for name, at in settings.items()))
    env = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    subprocess.run(["apt-get", "-qq", "update"], env=env, check=True)
    install = ["apt-get", "-qq", "-y", "--no-install-recommends", "--download-only", "install"]
    subprocess.run([*install, "llama.cpp-tools"], env=env, check=True)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(apt / "root")], check=True)
    start = folder / "llama-server"
    lib = apt / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    start.write_text(_START.format(lib=lib, root=apt / "root"))
    start.chmod(0o755)


def write_models(folder: Path) -> None:
    """``starter.gguf``, the language model with its tokenizer, and ``mmproj.gguf``, tower and projection."""
    import torch
    from safetensors.torch import load_file

    config = json.loads((WEIGHTS / "config.json").read_text())
    tensors = {
        name: value.to(torch.float32).numpy()
        for name, value in load_file(WEIGHTS / "model.safetensors").items()
    }
    _write_text(folder / "starter.gguf", config, tensors)
    _write_vision(folder / "mmproj.gguf", config, tensors)


def _write_text(path: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    import gguf

    text = config["text_config"]
    n_heads, n_layers = text["num_attention_heads"], text["num_hidden_layers"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("starter")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_block_count(n_layers)
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_dimension_count(text["head_dim"])
    writer.add_rope_freq_base(text["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(text["vocab_size"] + 1)
    _add_tokenizer(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, n_layers)
    for name, found in tensors.items():
        if ".text_model." not in name:
            continue
        value = found
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # it turns pairs of neighbours, not of halves
            value = value.reshape(n_heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        if name.endswith("embed_tokens.weight"):
            value = np.concatenate([value, np.zeros_like(value[:1])])  # (V + 1, D)
        writer.add_tensor(_named(names, name.replace(".text_model", "")), np.ascontiguousarray(value))
    _finish(writer)


def _add_tokenizer(writer: Any, config: dict[str, Any]) -> None:
    found = json.loads((WEIGHTS / "tokenizer.json").read_text())
    vocabulary = dict(found["model"]["vocab"])
    special = {token["content"]: token["id"] for token in found["added_tokens"]}
    tokens = [*sorted(vocabulary | special, key=(vocabulary | special).__getitem__), _LINE_BREAKS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in special else _NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in found["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template((WEIGHTS / "chat_template.jinja").read_text())


def _write_vision(path: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    import gguf

    vision = config["vision_config"]
    processor = json.loads((WEIGHTS / "processor_config.json").read_text())["image_processor"]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("idefics3")
    writer.add_vision_projection_dim(config["text_config"]["hidden_size"])
    writer.add_vision_image_size(vision["image_size"])
    writer.add_vision_preproc_image_size(processor["size"]["longest_edge"])
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_block_count(vision["num_hidden_layers"])
    writer.add_vision_head_count(vision["num_attention_heads"])
    writer.add_vision_attention_layernorm_eps(vision["layer_norm_eps"])
    writer.add_vision_projector_scale_factor(config["scale_factor"])
    writer.add_vision_use_gelu(True)
    writer.add_vision_image_mean(processor["image_mean"])
    writer.add_vision_image_std(processor["image_std"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, vision["num_hidden_layers"])
    for name, value in tensors.items():
        if ".text_model." not in name:
            writer.add_tensor(_named(names, name), np.ascontiguousarray(value))
    _finish(writer)


def _named(names: Any, name: str) -> str:
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert found, name
    return found


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    made = Path(sys.argv[1])
    made.mkdir(parents=True, exist_ok=True)
    write_models(made)
    fetch_server(made)
