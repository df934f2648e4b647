"""A folder that a lesson is kept in, so that another kernel goes on where this one stopped.

Two files beside the adapter: ``lesson.json`` says which lesson it is and how far it came;
``lesson-60.safetensors`` holds weights and the optimiser's moments after 60 steps. Knows files, not engines.
Neighbour: `lesson`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_magic.errors import OptionError
from vlm_magic.tasks.training.loop import Loop

if TYPE_CHECKING:
    import torch

__all__ = ["KeptLesson"]

_KIND, _VERSION = "vlm_magic lesson", 1


class KeptLesson:
    """A lesson's folder.

    Args:
        folder: made when it is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def read(self, key: str) -> tuple[dict[str, torch.Tensor], list[float], float] | None:
        """(weights and moments, losses, seconds) of an earlier run; None where there is none yet.

        Raises:
            OptionError: the folder holds another lesson.
        """
        path = self.folder / "lesson.json"
        if not path.is_file():
            return None
        from safetensors.torch import load_file

        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            told = {}
        if told.get("kind") != _KIND or told.get("version") != _VERSION or told.get("key") != key:
            raise OptionError(
                f"{self.folder} holds another lesson",
                have="other examples, another model or other settings",
                hint="the same call as before, or keep= with a new folder",
            )
        return load_file(self.folder / _weights_name(told["losses"])), told["losses"], told["seconds"]

    def write(self, key: str, loop: Loop, seconds: float) -> None:
        """Keep how far a lesson came; a run that is cut off in the middle of it leaves the last one whole.

        The weights get a name of their own: as long as ``lesson.json`` names the ones before, these count.
        """
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        told = {
            "kind": _KIND,
            "version": _VERSION,
            "key": key,
            "losses": loop.losses,
            "seconds": seconds,
        }
        weights = self.folder / _weights_name(loop.losses)
        fresh = self.folder / f"{weights.name}.new"
        save_file(loop.state(), fresh)
        fresh.replace(weights)
        fresh = self.folder / "lesson.json.new"
        fresh.write_text(json.dumps(told), encoding="utf-8")
        fresh.replace(self.folder / "lesson.json")
        for other in self.folder.glob("lesson-*.safetensors*"):
            if other != weights:
                other.unlink()


def _weights_name(losses: Sequence[float]) -> str:
    return f"lesson-{len(losses)}.safetensors"
