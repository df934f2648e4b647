"""Conversations of an earlier kernel, brought back from a saved notebook.

Knows records of notebooks and kept pictures; nothing of models. Neighbours: `vlm_magic.outputs.records`
reads the file, `vlm_magic.conversation` merges the turns.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from vlm_magic.errors import ConversationError, VLMError
from vlm_magic.inputs.picture_store import PictureStore
from vlm_magic.inputs.pictures import to_picture
from vlm_magic.messages import Part, Picture
from vlm_magic.outputs.records import SavedNotebook, read_notebook
from vlm_magic.wording import count_words, list_words
from vlm_magic.workspace.conversations import Conversations

__all__ = ["ONLY_SMALL", "Restored", "restore"]

ONLY_SMALL = "only its thumbnail is left: the model is shown it small"


@dataclass(frozen=True)
class Restored:
    """What `restore` brought back.

    Attributes:
        notebook: the file that it came from.
        n_turns: turns that came back, by conversation.
        n_pictures: pictures in them.
        lost: names of those whose pixels are no longer on this machine.
        small: names of those of which only the thumbnail in the notebook is left.
    """

    notebook: SavedNotebook
    n_turns: dict[str, int]
    n_pictures: int = 0
    lost: tuple[str, ...] = ()
    small: tuple[str, ...] = ()

    def __str__(self) -> str:
        saved_at = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.notebook.saved_at))
        turns = ", ".join(
            f"{count_words(n, 'turn')} of conversation {name!r}" for name, n in self.n_turns.items() if n
        )
        lines = [f"restored from {self.notebook.path.name}, saved {saved_at}: {turns or 'nothing new'}"]
        if self.lost:
            names = list_words(self.lost)
            lines.append(
                f"{len(self.lost)} of {self.n_pictures} pictures no longer on this machine: {names}; "
                "their turns are shown to the model in words"
            )
        if self.small:
            lines.append(
                f"{len(self.small)} of {count_words(self.n_pictures, 'picture')} small, from the thumbnails "
                f"that the notebook holds: {list_words(self.small)}; the model is shown them as they are"
            )
        return "\n".join(lines)


def restore(
    conversations: Conversations, notebook: str | Path | SavedNotebook, name: str | None = None
) -> Restored:
    """Bring conversations back from a saved notebook, to go on with them; see `Conversation.restore`.

    Args:
        conversations: where to.
        notebook: the file, or what `read_notebook` made of it.
        name: only the conversation of this name; None is all of them.

    Raises:
        ConversationError: no such file, or nothing of a conversation in it.
    """
    saved = notebook if isinstance(notebook, SavedNotebook) else read_notebook(Path(notebook))
    found = {n: turns for n, turns in saved.conversations.items() if name in (None, n)}
    if not found:
        what = "a conversation" if name is None else f"conversation {name!r}"
        raise ConversationError(
            f"nothing of {what} in {saved.path.name}",
            have=", ".join(saved.conversations) or "outputs without turns; was the notebook saved?",
            hint="save the notebook before the kernel is restarted",
            path=saved.path,
        )
    n_turns: dict[str, int] = {}
    pictures: list[Picture] = []
    for each, turns in found.items():
        conversation = conversations.session(each).conversation
        missing = conversation.missing(turns)
        for turn in missing:
            turn.parts = tuple(_with_pixels(conversations.pictures, turn.parts, saved))
            pictures += turn.pictures
        n_turns[each] = conversation.restore(turns)
    conversations.take_up(found)
    lost = tuple(picture.name or "picture" for picture in pictures if picture.is_lost)
    small = tuple(picture.name or "picture" for picture in pictures if picture.note == ONLY_SMALL)
    return Restored(saved, n_turns, len(pictures), lost, small)


def _with_pixels(store: PictureStore, parts: Iterable[Part], saved: SavedNotebook) -> Iterable[Part]:
    """The parts, with the pictures that this machine has kept, or else their thumbnails in the notebook."""
    for part in parts:
        if isinstance(part, Picture):
            found = (store.find(key, part.digest) for key in (store.key, *saved.picture_keys))
            image = next((image for image in found if image is not None), None)
            small = None if image is not None else _thumbnail(part, saved.thumbnails.get(part.digest, ""))
            yield small or replace(part, image=image)
        else:
            yield part


def _thumbnail(picture: Picture, src: str) -> Picture | None:
    """The small picture in the place of the full one, as a picture of its own; None where there is none."""
    try:
        found = to_picture(base64.b64decode(src.partition(",")[2], validate=True), name=picture.name)
    except (VLMError, ValueError):
        return None
    return replace(found, note=ONLY_SMALL)
