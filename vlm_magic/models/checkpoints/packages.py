"""Which package an error is about: what is not installed is said by its name, not by a symptom.

transformers words a missing package in many ways, and the name may stand far back in a long message. Knows
errors and package names alone. Neighbours: `estimate` and `processors` ask here when something does not load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec

__all__ = ["missing_package"]

# What pip calls it → what Python imports. Further parts of transformers' models that not everybody has.
_PACKAGES = {
    "torchvision": "torchvision",
    "num2words": "num2words",
    "timm": "timm",
    "sentencepiece": "sentencepiece",
    "tiktoken": "tiktoken",
    "protobuf": "google.protobuf",
    "mistral-common": "mistral_common",
    "torchaudio": "torchaudio",
    "librosa": "librosa",
    "soundfile": "soundfile",
    "pytesseract": "pytesseract",
    "einops": "einops",
    "kernels": "kernels",
}


def missing_package(error: BaseException) -> str:
    """The package that an error asks for and that is not there, as pip calls it; "" for none."""
    text = "\n".join(str(each) for each in _chain(error)).lower()
    for package, module in _PACKAGES.items():
        names = {re.escape(package), re.escape(module.split(".")[-1]), re.escape(package.replace("-", "_"))}
        if re.search(rf"\b(?:{'|'.join(sorted(names))})\b", text) and not _is_there(module):
            return package
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False
