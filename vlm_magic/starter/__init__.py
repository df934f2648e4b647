"""The starter: a small vision-language model that ships with the package.

It is honest about a small world: drawn scenes of a few coloured shapes, and bar charts. `CARD.md` holds what
it was measured to be right about; nothing else is claimed. `scope` tells pictures of that world from others.

Importing this package costs nothing: no torch, no transformers, no matplotlib. Knows nothing of how a model
is loaded; the loader finds it by `WEIGHTS`. Begin with `CARD.md`; what made the weights lies in `making`, of
which the world and its questions are installed, too (`questions` hands them out); the training is not.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["WEIGHTS"]

WEIGHTS: Path = Path(__file__).parent / "weights"
"""Folder of the trained weights, loadable with transformers' Auto classes alone."""
