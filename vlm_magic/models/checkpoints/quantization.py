"""The quantisation settings that transformers is given: the language model's layers alone.

The vision tower, the connector and the head keep their precision; they are small beside the language model
and cost the most when they lose it. Neighbours: `estimate` finds their names, `loading` passes the settings
on.
"""

from __future__ import annotations

from typing import Any

from vlm_magic.models.checkpoints.estimate import empty_model, kept_modules
from vlm_magic.models.checkpoints.plan import Plan

__all__ = ["quantization_config"]


def quantization_config(name: str, config: Any, plan: Plan) -> Any:
    """What to pass as ``quantization_config``.

    Args:
        name: of the model, for messages.
        config: its configuration; the real module names are read from an empty model of it.
        plan: with the quantisation's long name and the type to compute in.
    """
    kept = kept_modules(empty_model(name, config), plan)
    if plan.quantization.startswith("bnb"):
        return _bitsandbytes(plan, kept)
    if plan.quantization == "quanto-int8":
        from transformers import QuantoConfig

        return QuantoConfig(weights="int8", modules_to_not_convert=kept)
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=kept)


def _bitsandbytes(plan: Plan, kept: list[str]) -> Any:
    from transformers import BitsAndBytesConfig

    if plan.quantization == "bnb-8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=plan.torch_dtype,
        llm_int8_skip_modules=kept,
    )
