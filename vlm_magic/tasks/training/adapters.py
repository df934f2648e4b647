"""LoRA adapters on a model that is resident: put on, switched off by taking them off, saved, put on again.

The adapted layers are the linear layers of the language model (what `--quantize` quantises too): the vision
tower, the connector and the head stay as they are. Pieces of new words get rows of their own beside the
embedding, because a piece that was never trained has no place among the words.

Knows networks and peft; nothing of examples or loops. Neighbour: `lesson` keeps what was learned.

Source: Hu et al. 2021, "LoRA" (arXiv 2106.09685), section 4; peft's ``LoraConfig`` and
``trainable_token_indices``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import torch

from vlm_magic.errors import OptionError
from vlm_magic.models.checkpoints.estimate import language_layers
from vlm_magic.models.loaded import Loaded

__all__ = ["Adapter", "need_peft", "new_pieces"]

_NUMBERS = count(1)  # a name is never used twice: caches know adapters by their names
_SCALE = 2  # alpha / rank


def need_peft() -> None:
    """Raise where peft is not installed."""
    if find_spec("peft") is None:
        raise OptionError(
            "LoRA needs the package peft, and it is not installed",
            have='method="all" works without it',
            hint='pip install peft, or "vlm_magic[train]"',
        )


def new_pieces(loaded: Loaded, words: Sequence[str]) -> list[int]:
    """The token ids of words that take several pieces, inside a sentence and at its start."""
    found: dict[int, None] = {}
    for word in words:
        for written in (word, f" {word}"):
            ids = loaded.tokenizer(written, add_special_tokens=False)["input_ids"]
            if len(ids) > 1:
                found |= dict.fromkeys(ids)
    return list(found)


class Adapter:
    """One LoRA adapter of a loaded model.

    Args:
        loaded: the model.
        rank: of the two thin matrices beside each layer.
        token_ids: pieces whose embeddings are learned, too.

    Attributes:
        rank: as given.
        token_ids: as given; () where the model's embedding is not a plain one.
        n_parameters: how many numbers it has.
    """

    def __init__(self, loaded: Loaded, rank: int, token_ids: Sequence[int] = ()) -> None:
        need_peft()
        self._loaded = loaded
        self._was_trainable: dict[str, bool] = {}
        self._kept: dict[str, torch.Tensor] = {}
        self._name = ""
        self.rank = rank
        self.token_ids = tuple(token_ids) if type(self._embedding[1]) is torch.nn.Embedding else ()
        self.n_parameters = 0

    @property
    def is_on(self) -> bool:
        """Whether the model answers with it."""
        return bool(self._name)

    def put_on(self) -> None:
        """Put it into the model: as new, or with what it had learned when it was taken off.

        Raises:
            OptionError: the model has an adapter already.
        """
        model = self._loaded.model
        if getattr(model, "peft_config", None):
            raise OptionError(
                f"{self._loaded.name} has an adapter already",
                have=", ".join(map(str, model.peft_config)),
                hint="take it off first: vlm_magic.lesson(engine).take_off(), or load without --adapter",
            )
        from peft import LoraConfig

        self._was_trainable = {name: p.requires_grad for name, p in model.named_parameters()}
        extra = (
            {"trainable_token_indices": {self._embedding[0]: list(self.token_ids)}} if self.token_ids else {}
        )
        config = LoraConfig(
            r=self.rank, lora_alpha=_SCALE * self.rank, target_modules=language_layers(model), **extra
        )
        config.base_model_name_or_path = self._loaded.name
        name = f"lesson_{next(_NUMBERS)}"
        model.add_adapter(config, adapter_name=name)
        model.eval()
        self._name = name
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()  # small steps vanish in 16 bits
        self.n_parameters = sum(p.numel() for p in self.parameters().values())
        if self._kept:
            self.restore(self._kept)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """Its weights by name, whatever it is called in the model; {} while it is off."""
        named = self._loaded.model.named_parameters() if self._name else ()
        return {name.replace(f".{self._name}", ""): p for name, p in named if p.requires_grad}

    def restore(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set its weights to earlier ones."""
        with torch.no_grad():
            for name, parameter in self.parameters().items():
                parameter.copy_(weights[name])

    def take_off(self) -> None:
        """Take it out of the model, which is then as it was; what it learned is kept for `put_on`."""
        if not self._name:
            return
        model = self._loaded.model
        self._kept = {name: p.detach().clone() for name, p in self.parameters().items()}
        wrapped = {name: base for name, m in model.named_modules() if (base := _base_of(m)) is not None}
        for name, base in wrapped.items():
            parent, _, child = name.rpartition(".")
            if not any(f"{parent}.".startswith(f"{outer}.") for outer in wrapped):  # wrappers hold wrappers
                setattr(model.get_submodule(parent), child, base)
        del model.peft_config
        model._hf_peft_config_loaded = False
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self._was_trainable.get(name, False))
        self._name = ""

    def save(self, folder: Path) -> None:
        """Write it in peft's format, for ``%vlm_load --adapter``."""
        from transformers.utils import logging as bars

        was_on = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            with _unheard("transformers"):
                self._loaded.model.save_pretrained(folder)
        finally:
            if was_on:
                bars.enable_progress_bar()

    @property
    def _embedding(self) -> tuple[str, Any]:
        """The name and the module of the token embedding."""
        model = self._loaded.model
        wanted = model.get_input_embeddings()
        return next(((name, m) for name, m in model.named_modules() if m is wanted), ("", None))


def _base_of(module: Any) -> Any:
    """The layer that peft has wrapped here; None of any other module."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(module, AuxiliaryTrainingWrapper):
        return module.token_adapter.get_base_layer()
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else None


@contextmanager
def _unheard(name: str) -> Iterator[None]:
    """A library's remarks kept out of the notebook."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
