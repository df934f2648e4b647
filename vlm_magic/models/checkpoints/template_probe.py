"""Try a chat template out while the weights are read: three short turns, in each form of message.

What hangs, eats memory or is no template is an error of the load; what merely does not like one form of
message is not. Neighbours: `templates` renders in a child process, `loading` calls.
"""

from __future__ import annotations

from typing import Any

from vlm_magic.errors import ModelLoadError
from vlm_magic.models.prompts import templates

__all__ = ["try_template"]

_PICTURE = {"type": "image"}
_BLOCKS = [
    {"role": "user", "content": [_PICTURE, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A red circle."}]},
    {"role": "user", "content": [{"type": "text", "text": "And this?"}, _PICTURE]},
]
_STRINGS = [
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "A red circle."},
    {"role": "user", "content": "And this?"},
]


def try_template(name: str, template: str, names: dict[str, Any]) -> None:
    """Render it once in each form.

    Args:
        name: of the model, for messages.
        template: its chat template.
        names: what transformers passes beside the messages (``bos_token`` and the like).

    Raises:
        ModelLoadError: it took too long or too much, or it is no template.
    """
    for conversation in (_BLOCKS, _STRINGS):
        made = templates.render(template, names, conversation)
        if made.took_too_much:
            raise ModelLoadError(
                f"the chat template of {name} takes too long or too much memory",
                have=f"it was given {templates.LIMIT_S:g} s and {templates.LIMIT_BYTES >> 20} MB to render "
                "three short turns",
                hint="another checkpoint; a template is a program, and this one is broken or hostile",
            )
        if made.kind == "broken":
            raise ModelLoadError(f"the chat template of {name} cannot be used", have=made.words)
