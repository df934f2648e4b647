"""Lets ``%vlm Where is the cat?`` be a question: IPython takes a line that ends in ``?`` for a call for help.

``%vlm?`` stays help. Knows the shell's input transformers and nothing else; `magics` switches it on and off.
"""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from typing import Any

from IPython.core.inputtransformer2 import EscapedCommand, HelpEnd

__all__ = ["QuestionLine", "allow_questions", "forbid_questions"]


class QuestionLine(EscapedCommand):
    """A line magic ``%vlm`` with a prompt, found before IPython's help looks at its question mark."""

    priority = HelpEnd.priority - 1

    @classmethod
    def find(cls, tokens_by_line: Sequence[Sequence[tokenize.TokenInfo]]) -> QuestionLine | None:
        """The first such line of the cell, or None."""
        for line in tokens_by_line:
            tokens = [token for token in line if token.type not in (tokenize.INDENT, tokenize.DEDENT)]
            words = [token.string for token in tokens[:3]]
            if words[:2] == ["%", "vlm"] and len(words) == 3 and words[2].strip() not in ("", "?"):
                return cls(tokens[0].start)
        return None


def allow_questions(shell: Any) -> None:
    """Switch it on for a shell, once."""
    transformers = shell.input_transformer_manager.token_transformers
    if QuestionLine not in transformers:
        transformers.append(QuestionLine)


def forbid_questions(shell: Any) -> None:
    """Switch it off."""
    transformers = shell.input_transformer_manager.token_transformers
    if QuestionLine in transformers:
        transformers.remove(QuestionLine)
