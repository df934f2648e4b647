"""What the head of a whole conversation's panel offers: conversations, models, and first questions.

Says what there is, as the page shows it, and does what a person chooses. What is chosen holds for later
questions only. Neighbour: `chat` serves the panel and goes from one conversation to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_magic.errors import VLMError
from vlm_magic.inputs.pictures import is_picture_like
from vlm_magic.messages import Engine, can_continue
from vlm_magic.session import Session
from vlm_magic.shell.completion import picture_names_first
from vlm_magic.wording import count_words, shorten
from vlm_magic.workspace import Workspace
from vlm_magic.workspace.exporting import export_to, free_path

__all__ = ["PanelMenu", "first_questions"]

_MOST_NAMES = 200  # of the notebook that are looked at for pictures


class PanelMenu:
    """The menus of one panel.

    Args:
        workspace: the models and conversations.
        names: the notebook's, for first questions.
        save_thumbnails: whether exported files show pictures.
    """

    def __init__(self, workspace: Workspace, names: Mapping[str, object], save_thumbnails: bool) -> None:
        self._workspace = workspace
        self._names = names
        self._save_thumbnails = save_thumbnails

    def state(self, session: Session) -> dict[str, Any]:
        """What there is to choose from now, as plain data for the page."""
        models, sessions = self._workspace.models, dict(self._workspace.conversations.sessions)
        conversation = session.conversation
        sessions.setdefault(conversation.name, session)
        return {
            "conversation": conversation.name,
            "conversations": [
                {"name": name, "note": count_words(len(each.conversation), "turn")}
                for name, each in sessions.items()
            ],
            "model": models.default_name or "",
            "models": [
                {"name": name, "note": _about(engine)} for name, engine in dict(models.engines).items()
            ],
            "can_continue": session.engine is None or can_continue(session.engine),
            "examples": [] if len(conversation) else first_questions(self._names),
        }

    def use(self, name: str) -> None:
        """Let a resident model answer later questions, here and in cells."""
        self._workspace.models.use(name)

    def rename(self, session: Session, name: str) -> None:
        """Call the conversation something else."""
        self._workspace.conversations.rename(session.conversation.name, name)

    def export(self, session: Session, suffix: str) -> str:
        """Write the conversation to a new file beside the notebook; what to tell the person."""
        conversation = session.conversation
        path = free_path(conversation.name, suffix, Path())
        return export_to(conversation, path, save_thumbnails=self._save_thumbnails)


def _about(engine: Engine) -> str:
    """What a model is, in a few words."""
    try:
        return shorten(engine.about.line.removeprefix(engine.name).lstrip(" ·"), 90)
    except VLMError:  # it is away at the moment
        return ""


def first_questions(names: Mapping[str, object]) -> list[str]:
    """Two or three questions to begin with: about the pictures that the notebook holds, the newest first.

    Args:
        names: the notebook's variables.
    """
    known = picture_names_first(names, "")
    latest = list(names)[-_MOST_NAMES:]
    figures = {id(names[name]) for name in latest}
    recent = [
        name
        for name in reversed(latest)
        if name in known and _is_one(names[name]) and not _is_part_of(names[name], figures)
    ]
    if not recent:
        return ["What is in this picture?", "Describe this picture in one sentence."]
    questions = [f"What is in {{{recent[0]}}}?", f"Describe {{{recent[0]}}} in one sentence."]
    if len(recent) > 1:
        earlier, later = recent[1], recent[0]
        questions[1:1] = [f"What changed between {{{earlier}}} and {{{later}}}?"]
    return questions


def _is_part_of(value: object, figures: set[int]) -> bool:
    """Whether it is the axes of a figure that has a name itself: one picture, not two."""
    try:
        figure = getattr(value, "figure", None)
        return figure is not None and figure is not value and id(figure) in figures
    except Exception:  # an odd object's own attribute access
        return False


def _is_one(value: object) -> bool:
    """Whether it is a single picture: not a list of them, nor words that name one."""
    try:
        return is_picture_like(value) and not isinstance(value, (str, list, tuple, dict))
    except Exception:  # an odd object's own attribute access
        return False
