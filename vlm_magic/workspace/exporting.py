"""A conversation as a file: what ``%vlm_export`` writes, and what a panel's menu does.

Knows conversations and files. Neighbour: `vlm_magic.outputs.export` makes the text.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from vlm_magic.conversation import Conversation
from vlm_magic.errors import OptionError
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.outputs.export import export_conversation

__all__ = ["export_to", "free_path"]


def export_to(conversation: Conversation, path: Path, *, save_thumbnails: bool = True) -> str:
    """Write a conversation to a file, in the format that its ending names; what to tell the person.

    Args:
        conversation: the turns.
        path: the file; one that is there is written over.
        save_thumbnails: whether Markdown and page show pictures.

    Raises:
        OptionError: no such format, or the file cannot be written.
    """
    text = export_conversation(
        conversation.exchanges,
        path.suffix,
        name=conversation.name,
        thumbnail=thumbnail_data_uri if save_thumbnails else None,
        full_picture=lambda picture: thumbnail_data_uri(picture, max(picture.size_px)),
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"cannot write {path}", have=error.strerror or "", hint="another folder") from error
    return f"conversation {conversation.name!r} is in {path}"


def free_path(name: str, suffix: str, folder: Path) -> Path:
    """A file of that name which is not there yet: letters that file names may lack are left out."""
    stem = re.sub(r"[^\w .-]+", "_", name).strip(" .") or "conversation"
    paths = (folder / f"{stem}{f' {n}' if n > 1 else ''}{suffix}" for n in itertools.count(1))
    return next(path for path in paths if not path.exists())
