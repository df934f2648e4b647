"""Load a checkpoint's processor, also where the machine has no torchvision.

Families that can take video have a processor that insists on torchvision even when only pictures are
wanted. Then their own class is put together with the picture part alone; asked for a video it would fail,
which is never done.

Knows folders and transformers' classes; knows nothing of weights or prompts. Neighbours: `loading`;
`picture_budget` changes what is loaded here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm_magic.errors import ModelKindError, ModelLoadError, VLMError, shorten
from vlm_magic.models.families import Family

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
        except (ImportError, OSError, ValueError) as error:
            if not any(word in str(error) for word in ("orchvision", "num2words")):
                raise
            processor = _without_video(folder, config, family, error)
    except VLMError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelKindError(
            f"{name} has no processor that loads",
            have=shorten(error, 200),
            hint=_where_processors_are(folder),
        ) from error
    except ImportError as error:
        raise ModelLoadError(
            f"the processor of {name} needs a package that is not installed",
            have=shorten(error, 160),
            hint="pip install torchvision" if "orchvision" in str(error) else "",
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
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token


def _without_video(folder: Path, config: Any, family: Family, error: Exception) -> Any:
    """The family's own processor class with the picture part alone."""
    from transformers import AutoImageProcessor, AutoTokenizer

    base = _processor_class(config, family)
    if base is None or not ("video_processor" in base.get_attributes() or family.stand_in_processor):
        raise error
    settings, _ = base.get_processor_dict(folder, local_files_only=True)
    settings = {key: value for key, value in settings.items() if key not in _NOT_ARGUMENTS}
    image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    if "video_processor" in base.get_attributes():
        parts["video_processor"] = _NoVideo()
    settings.setdefault("chat_template", getattr(tokenizer, "chat_template", None))
    return _picture_part(base)(**parts, **settings)


def _processor_class(config: Any, family: Family) -> Any:
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    if family.stand_in_processor:
        return getattr(transformers, family.stand_in_processor)
    return PROCESSOR_MAPPING.get(type(config), None)


def _picture_part(base: Any) -> Any:
    """A subclass that takes a stand-in for the video processor without looking at it."""

    def check_argument_for_proper_class(self: Any, argument_name: str, argument: Any) -> Any:
        if argument_name == "video_processor":
            return None
        return base.check_argument_for_proper_class(self, argument_name, argument)

    return type(base.__name__, (base,), {"check_argument_for_proper_class": check_argument_for_proper_class})


class _NoVideo:
    """What stands where a video processor would: no video is ever given."""

    model_input_names: tuple[str, ...] = ()
    merge_size = temporal_patch_size = 1

    def to_dict(self) -> dict[str, Any]:
        """For transformers' printing and saving."""
        return {}
