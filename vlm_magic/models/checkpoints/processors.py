"""Load a checkpoint's processor, also where the machine has no torchvision.

Families that can take video have a processor that insists on torchvision even when only pictures are
wanted. Then their own class is put together with the picture part alone; asked for a video it would fail,
which is never done.

Knows folders and transformers' classes; knows nothing of weights or prompts. Neighbours: `loading`;
`picture_budget` changes what is loaded here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm_magic.errors import ModelKindError, ModelLoadError, VLMError
from vlm_magic.models.checkpoints.packages import missing_package
from vlm_magic.models.loaded import Family
from vlm_magic.wording import shorten

__all__ = ["load_processor"]

_NOT_ARGUMENTS = {
    "processor_class",
    "auto_map",
    "image_processor",
    "video_processor",
    "feature_extractor",
    "tokenizer",
}


def load_processor(
    name: str, folder: Path, config: Any, family: Family, *, trust_remote_code: bool = False
) -> Any:
    """The processor of a folder.

    Args:
        name: of the model, for messages.
        folder: with the processor's files.
        config: the model's configuration.
        family: its row.
        trust_remote_code: run a processor class that comes with the checkpoint.

    Raises:
        ModelKindError: there is none, or it takes no pictures.
        ModelLoadError: it is there and does not load.
    """
    from transformers import AutoProcessor

    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        try:
            processor = AutoProcessor.from_pretrained(folder, config=config, **options)
        except Exception as error:  # where a package is missing it may be anything
            if not missing_package(error):
                raise
            processor = _without_video(folder, config, family, error)
    except VLMError:
        raise
    except Exception as error:  # processors of checkpoints fail in any way
        package = missing_package(error)
        if package:
            raise ModelLoadError(
                f"the processor of {name} needs the package {package}",
                have="it is not installed, and nothing that is can do exactly what it does",
                hint=f"pip install {package}",
                package=package,
            ) from error
        raise ModelKindError(
            f"the processor of {name} does not load",
            have=shorten(f"{type(error).__name__}: {error}", 200),
            hint=_where_processors_are(folder),
        ) from error
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise ModelKindError(
            f"{name} has no processor for pictures",
            have=f"only a {type(processor).__name__}",
            hint=_where_processors_are(folder),
        )
    _give_padding(processor.tokenizer)
    return processor


def _where_processors_are(folder: Path) -> str:
    names = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
    missing = [name for name in names if not (folder / name).is_file()]
    return f"the folder lacks {', '.join(missing)}" if missing else ""


def _give_padding(tokenizer: Any) -> None:
    """Generation in batches pads on the left; a tokenizer without a padding token borrows the end token."""
    tokenizer.padding_side = "left"
    # transformers' remark on long prompts; what does not fit is an error of ours, with the numbers
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token


def _without_video(folder: Path, config: Any, family: Family, error: Exception) -> Any:
    """The family's own processor class with the picture part alone."""
    from transformers import AutoImageProcessor, AutoTokenizer

    base = _processor_class(folder, config, family)
    if base is None or not ("video_processor" in base.get_attributes() or family.stand_in_processor):
        raise error
    saved, _ = base.get_processor_dict(folder, local_files_only=True)
    settings = {key: value for key, value in saved.items() if key not in _NOT_ARGUMENTS}
    image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    for name in ("video_processor", "feature_extractor"):
        if name in base.get_attributes():
            parts[name] = _Absent(saved.get(name) or {}, image_processor)
    settings.setdefault("chat_template", getattr(tokenizer, "chat_template", None))
    return _picture_part(base)(**parts, **settings)


def _processor_class(folder: Path, config: Any, family: Family) -> Any:
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if family.stand_in_processor:
        return getattr(transformers, family.stand_in_processor)
    return PROCESSOR_MAPPING.get(type(config), None) or getattr(transformers, _saved_class(folder), None)


def _saved_class(folder: Path) -> str:
    """The processor class that a checkpoint names itself; "" for none."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if path.is_file():
            named = json.loads(path.read_text("utf-8")).get("processor_class")
            if isinstance(named, str):
                return named
    return ""


def _picture_part(base: Any) -> Any:
    """A subclass that takes stand-ins for the parts that see videos and hear, without looking at them."""

    def check_argument_for_proper_class(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name in ("video_processor", "feature_extractor"):
            return None
        return base.check_argument_for_proper_class(self, argument_name, argument)

    return type(base.__name__, (base,), {"check_argument_for_proper_class": check_argument_for_proper_class})


class _Absent:
    """What stands where a part for videos or sounds would: neither is ever given.

    Processors read settings off it when they are made; these are as saved, else as the pictures' part has
    them.
    """

    model_input_names: tuple[str, ...] = ()
    merge_size = temporal_patch_size = 1

    def __init__(self, saved: dict[str, Any], pictures: Any) -> None:
        self._saved = saved
        self._pictures = pictures

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._saved[name] if name in self._saved else getattr(self._pictures, name)

    def to_dict(self) -> dict[str, Any]:
        """For transformers' printing and saving."""
        return {}
