"""What programs are made of: literals that read well, pictures in files, quantisation settings.

Knows Python's syntax and files; knows nothing of prompts. Neighbour: `program` puts programs together.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Picture
from vlm_magic.wording import shorten

__all__ = ["PictureFiles", "block", "literal", "messages_lines", "quantization_lines", "short_ids"]

_LINE = 110


def literal(value: object) -> str:
    """A value as Python code with double quotes; characters that do not show are spelt out."""
    if isinstance(value, str):
        shows = all(c.isprintable() or c in "\n\t" for c in value)
        return json.dumps(value, ensure_ascii=False) if shows else ascii(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        inside = ", ".join(map(literal, value)) + comma
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    return repr(value)


def messages_lines(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Messages of a chat template, a line for each part."""
    lines = ["messages = ["]
    for message in messages:
        opening = f'    {{"role": {literal(message["role"])}, "content": '
        content = message["content"]
        if isinstance(content, str):
            lines.append(f"{opening}{literal(content)}}},")
            continue
        lines += [opening + "[", *(f"        {literal(part)}," for part in content), "    ]},"]
    return [*lines, "]"]


def short_ids(ids: Sequence[int]) -> str:
    """A list of numbers with long runs of one number written as such."""
    items = []
    for value, run in itertools.groupby(ids):
        n = len(list(run))
        items += [f"*[{value}] * {n}"] if n > 4 else [str(value)] * n
    return f"[{', '.join(items)}]"


def block(opening: str, inside: Sequence[str], closing: str) -> list[str]:
    """A call or list on one line where it fits, else one line for each item."""
    line = opening + ", ".join(inside) + closing
    if len(line) <= _LINE and "\n" not in line:
        return [line]
    return [opening, *(f"    {item}," for item in inside), closing]


class PictureFiles:
    """Pictures of a program as PNG files beside it.

    What a picture came from would not do: files turn, shrink and change their mode while they are decoded,
    variables and pages change.

    Args:
        folder: where they go; a picture that is there already is not written again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}  # digest -> variable
        self._lines: list[str] = []  # that were not given yet

    def add(self, pictures: Sequence[Picture]) -> list[str]:
        """The variable of each picture; the same picture again has the same one.

        Raises:
            OptionError: a picture cannot be written.
        """
        return [self._names.get(picture.digest) or self._new(picture) for picture in pictures]

    def lines(self, imports: set[str]) -> list[str]:
        """The lines that open the pictures, but for those that an earlier call gave."""
        lines, self._lines = self._lines, []
        if not lines:
            return []
        imports.add("from PIL import Image")
        return ["# The pictures as the model was shown them, pixel for pixel: upright, RGB.", *lines]

    def _new(self, picture: Picture) -> str:
        word = re.sub(r"\W+", "_", picture.name.rpartition("/")[2].partition(".")[0]).strip("_").lower()
        taken = set(self._names.values())
        plain = word.isascii() and word not in ("", "model", "processor", "prompt", "inputs", "messages")
        base = (word if word.startswith("picture") else f"picture_{word}")[:30] if plain else "picture"
        name = next(n for i in range(1, 10_000) if (n := base if i == 1 else f"{base}_{i}") not in taken)
        self._names[picture.digest] = name
        path = self._write(picture, name)
        called = f"  # {ascii(shorten(picture.name, 60))[1:-1]}" if picture.name else ""
        self._lines.append(f"{name} = Image.open({literal(str(path))}){called}")
        return name

    def _write(self, picture: Picture, name: str) -> Path:
        path = self._folder.expanduser().resolve() / f"{name}-{picture.digest[:8]}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                picture.rgb.save(path)
        except OSError as error:
            raise OptionError(
                f"cannot write {path.name} for the program",
                have=f"{path.parent}: {shorten(error, 80)}",
                hint="%vlm_code FILE with a file in a folder that can be written",
            ) from error
        return path


def quantization_lines(model: Any, classes: set[str], imports: set[str]) -> tuple[list[str], set[str]]:
    """The lines that make ``quantization``, and the classes that they need; none for weights saved so."""
    config = model.config.quantization_config
    kind = type(config).__name__
    values = dict(config.to_dict())
    for name in ("quant_method", "_load_in_4bit", "_load_in_8bit"):
        values.pop(name, None)
    default = type(config)() if kind == "BitsAndBytesConfig" else None
    if default is not None:
        same = default.to_dict()
        values = {name: value for name, value in values.items() if value != same.get(name, ...)}
    if kind == "TorchAoConfig":
        imports.add("from torchao.quantization import Int8WeightOnlyConfig")
        kept = literal(config.modules_to_not_convert)
        inside = ["Int8WeightOnlyConfig()", f"modules_to_not_convert={kept}"]
    else:
        inside = [f"{name}={literal(value)}" for name, value in values.items() if value is not None]
    return block(f"quantization = {kind}(", inside, ")"), classes | {kind}
