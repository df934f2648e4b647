"""The starter: a small vision-language model that ships with the package, and all that made it.

It is honest about a small world: drawn scenes of a few coloured shapes, and bar charts. `CARD.md` holds what
it was measured to be right about; nothing else is claimed.

Importing this package costs nothing: no torch, no transformers, no matplotlib. Neighbours inside:

- `scenes` draws seeded pictures together with their truth; `charts` does the same with matplotlib.
- `grammar`, `questions`, `pairs`, `dialogues` turn truth into questions and answers in many wordings.
- `architecture` builds the configuration, the tokenizer, the processor and the chat template.
- `network` is the fast training-time forward pass over the standard modules; `train` the recipe;
  `evaluate` the measurement that writes the card.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["WEIGHTS"]

WEIGHTS: Path = Path(__file__).parent / "weights"
"""Folder of the trained weights, loadable with transformers' Auto classes alone."""
