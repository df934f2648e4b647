"""Lets ``%vlm Where is the cat?`` be a question: IPython takes a line that ends in ``?`` for a call for help.

``%vlm?`` stays help. Knows the shell's input transformers and nothing else; `magics` switches it on and off.
"""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from typing import Any

from IPython.core.inputtransformer2 import EscapedCommand, HelpEnd, MagicAssign

__all__ = ["QuestionAssignment", "QuestionLine", "allow_questions", "forbid_questions"]


class QuestionLine(EscapedCommand):
    """A line magic ``%vlm`` with a prompt, found before IPython's help looks at its question mark."""

    priority = HelpEnd.priority - 1

    @classmethod
    def find(cls, tokens_by_line: Sequence[Sequence[tokenize.TokenInfo]]) -> QuestionLine | None:
        """The first such line of the cell, or None."""
        for line in tokens_by_line:
            tokens = [token for token in line if token.type not in (tokenize.INDENT, tokenize.DEDENT)]
            if _is_question(tokens):
                return cls(tokens[0].start)
        return None


class QuestionAssignment(MagicAssign):
    """The same behind an assignment: ``reply = %vlm Where is the cat?``."""

    _magic_col = 0
    priority = HelpEnd.priority - 1

    @classmethod
    def find(cls, tokens_by_line: Sequence[Sequence[tokenize.TokenInfo]]) -> QuestionAssignment | None:
        """The first such line of the cell, or None."""
        for line in tokens_by_line:
            found: QuestionAssignment | None = super().find([line])
            if found is None:
                continue
            place = (found.start_line + 1, found.start_col)
            if _is_question([token for token in line if token.start >= place]):
                found._magic_col, found.start_col = found.start_col, 0  # what begins further left goes first
                return found
        return None

    def transform(self, lines: list[str]) -> list[str]:
        """The cell with the magic's call in place of the line's right side."""
        self.start_col = self._magic_col
        changed: list[str] = super().transform(lines)
        return changed


def _is_question(tokens: Sequence[tokenize.TokenInfo]) -> bool:
    """Whether these are the magic and a prompt, not a call for the magic's own help."""
    words = [token.string for token in tokens[:3]]
    return words[:2] == ["%", "vlm"] and len(words) == 3 and words[2].strip() not in ("", "?")


def allow_questions(shell: Any) -> None:
    """Switch it on for a shell, once."""
    transformers = shell.input_transformer_manager.token_transformers
    transformers += [kind for kind in (QuestionLine, QuestionAssignment) if kind not in transformers]


def forbid_questions(shell: Any) -> None:
    """Switch it off."""
    transformers = shell.input_transformer_manager.token_transformers
    for kind in (QuestionLine, QuestionAssignment):
        if kind in transformers:
            transformers.remove(kind)
