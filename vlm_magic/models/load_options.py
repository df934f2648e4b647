"""How people want a model loaded: the options and their short names.

Pure data, checked where it is made so that a typing error costs nothing. Neighbours: `plan` decides
what the options come to on this machine, `loading` does it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

from vlm_magic.errors import OptionError, near_names

__all__ = ["ATTENTIONS", "COMPILES", "DTYPES", "QUANTIZATIONS", "LoadOptions"]

DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
    "half": "float16",
}
QUANTIZATIONS = {
    "bnb-4bit": "bnb-4bit",
    "4bit": "bnb-4bit",
    "nf4": "bnb-4bit",
    "8bit": "8bit",
    "bnb-8bit": "bnb-8bit",
    "quanto-int8": "quanto-int8",
    "int8": "quanto-int8",
    "torchao-int8": "torchao-int8",
}
COMPILES = {"auto": "auto", "yes": "yes", "no": "no"}
ATTENTIONS = {
    "auto": "auto",
    "sdpa": "sdpa",
    "eager": "eager",
    "flex": "flex_attention",
    "flex_attention": "flex_attention",
    "flash": "flash_attention_2",
    "flash_attention_2": "flash_attention_2",
    "flash_attention_3": "flash_attention_3",
}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load. Short names are taken too; the attribute holds the long one.

    Attributes:
        dtype: "auto", "float32", "bfloat16" or "float16".
        quantize: None, "bnb-4bit" ("4bit"), "8bit" (on a CPU the fastest that is installed, else
            "bnb-8bit"), "bnb-8bit", "quanto-int8" ("int8") or "torchao-int8".
        attn: "auto", "sdpa", "eager", "flex", "flash", "flash_attention_3" or a kernel's hub id.
        device: "auto", "cpu", "cuda", "cuda:1", "mps", or "offload" (GPUs first, the rest on the CPU).
        splitting: whether pictures are cut into tiles; None leaves it to the checkpoint.
        picture_tokens: about the most tokens that a picture may cost; None leaves it to the checkpoint.
        compile: whether tokens are computed by a kernel that this machine's compiler builds: "auto" has it
            built beside the first answers, "yes" waits for it, "no" does without.
        revision: branch, tag or commit on the hub.
        adapter: a LoRA adapter, folder or hub id.
        trust_remote_code: run code that comes with the checkpoint.
        unsafe_weights: load pickled weights where there are no safetensors (they can run code).
        sampling: answer with the checkpoint's own sampling defaults unless a cell says otherwise.
        force: load although the estimate says it will not fit.
    """

    dtype: str = "auto"
    quantize: str | None = None
    attn: str = "auto"
    device: str = "auto"
    splitting: bool | None = None
    picture_tokens: int | None = None
    compile: Literal["auto", "yes", "no"] = "auto"
    revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    unsafe_weights: bool = False
    sampling: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "dtype", _known("dtype", str(self.dtype).removeprefix("torch."), DTYPES))
        if self.quantize in ("", "none", "None"):
            set_(self, "quantize", None)
        if self.quantize is not None:
            set_(self, "quantize", _known("quantize", self.quantize, QUANTIZATIONS))
        set_(self, "compile", _known("compile", _word(self.compile), COMPILES))
        if "/" not in self.attn:
            set_(self, "attn", _known("attn", self.attn, ATTENTIONS))
        if self.picture_tokens is not None and self.picture_tokens < 1:
            raise OptionError(f"picture_tokens is {self.picture_tokens}", have="at least 1")

    @classmethod
    def from_values(cls, values: dict[str, object]) -> LoadOptions:
        """Options from names and values, as a magic or a keyword call gives them.

        Raises:
            OptionError: a name that is no option, or a value that is none.
        """
        names = [f.name for f in fields(cls)]
        for name in values:
            if name not in names:
                near = near_names(name, names)
                raise OptionError(f"no load option {name!r}", have=", ".join(near or names), name=name)
        return replace(cls(), **values)  # type: ignore[arg-type]


def _word(value: object) -> object:
    """True and False, as people write them in Python, in the words of the option."""
    return {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value


def _known(name: str, value: object, choices: dict[str, str]) -> str:
    """The long name of a value."""
    if isinstance(value, str) and value in choices:
        return choices[value]
    near = near_names(str(value), choices)
    listed = ", ".join(dict.fromkeys(choices))
    raise OptionError(
        f"{name} {value!r} is not known",
        have=listed,
        hint=f"{name}={near[0]}" if near else "",
        name=name,
        value=value,
    )
