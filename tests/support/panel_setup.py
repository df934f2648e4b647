"""What browser tests over the real magics begin with: a scripted model, pictures, and looking on."""

from __future__ import annotations

from typing import Any

import numpy as np
from panel_scenes import RICH, reply
from PIL import Image

from vlm_magic.messages import Picture, Settings, Text, digest_of
from vlm_magic.testing import ScriptedEngine
from vlm_magic.workspace import current

__all__ = ["last_pictures", "long_conversation", "noise", "script"]


def script(*replies: str, **options: Any) -> ScriptedEngine:
    """A scripted model, resident in this kernel and the default."""
    engine = ScriptedEngine(*replies, **options)
    current().models.add(engine.name, engine)
    return engine


def noise(width: int, height: int) -> Image.Image:
    """A picture of which no two parts are alike."""
    rng = np.random.default_rng(7)
    coarse = Image.fromarray(rng.integers(0, 255, (height // 20, width // 20, 3), dtype="uint8"))
    fine = rng.integers(0, 8, (height, width, 3), dtype="uint8")
    return Image.fromarray(np.asarray(coarse.resize((width, height))) // 8 * 8 + fine)


def last_pictures(engine: ScriptedEngine) -> list[Picture]:
    """The pictures of the last question that the model was shown."""
    return list(engine.history[-1][0][-1].pictures)


def long_conversation(n_turns: int, n_pictures: int = 1) -> None:
    """Fill the conversation of this kernel with answered turns, each with pictures of its own."""
    conversation = current().conversations.session().conversation
    answers = [RICH, "The circle is.", "A longer answer. " * 40]
    for n in range(n_turns):
        image = Image.effect_noise((160, 120), 60 + n % 50).convert("RGB")
        shown = [Picture(None, f"p{n}", image, digest_of(image)) for _ in range(n_pictures)]
        question = conversation.draft((Text(f"Question {n}: what is in "), *shown, Text("?")), Settings())
        conversation.commit(question, reply(answers[n % 3]))
