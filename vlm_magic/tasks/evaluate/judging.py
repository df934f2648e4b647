"""Whether one answer is right: exactly, after normalising, or by a function of the person's own.

Knows answers and truths, not who answered. Neighbours: `evaluate` judges rows, the shell the rows of a map.

Source of "normalised": the evaluation script of SQuAD (Rajpurkar et al. 2016): lower case, no punctuation, no
articles, single spaces.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import TypeAlias

from vlm_magic.errors import OptionError, PromptError
from vlm_magic.tasks.frames import is_missing
from vlm_magic.wording import shorten

__all__ = ["Match", "Matcher", "matcher_of", "normalised", "truth_words"]

Match: TypeAlias = "str | Callable[[object, object], object]"
"""How answers are compared: "exact", "normalised", or a function of (answer, truth)."""

Matcher: TypeAlias = Callable[[object, object], "bool | None"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "“”‘’„«»…")


def normalised(text: object) -> str:
    """Lower case, no punctuation, no articles, single spaces: "The  red one." and "red one" are equal."""
    bare = str(text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def matcher_of(match: Match) -> Matcher:
    """A function that says whether an answer is the truth, and None where there is no truth.

    A truth that is a list, tuple or set holds several right answers, any of which will do.

    Raises:
        OptionError: neither of the words nor a function.
    """
    if callable(match):
        return _by_function(match)
    if match == "exact":
        return lambda answer, truth: _any(lambda one: answer == one or str(answer) == str(one), truth)
    if match in ("normalised", "normalized"):
        return lambda answer, truth: _any(
            lambda one: answer == one or normalised(answer) == normalised(one), truth
        )
    raise OptionError(
        f"answers cannot be compared by {shorten(repr(match), 60)}",
        have="exact, normalised, or a function of (answer, truth)",
        hint='match="normalised"',
    )


def truth_words(truth: object) -> str:
    """A truth as people read it; several with "or" between them, "" for none."""
    if is_missing(truth):
        return ""
    return " or ".join(map(str, _several(truth)))


def _any(is_it: Callable[[object], bool], truth: object) -> bool | None:
    return None if is_missing(truth) else any(is_it(one) for one in _several(truth))


def _by_function(match: Callable[[object, object], object]) -> Matcher:
    def judge(answer: object, truth: object) -> bool | None:
        if is_missing(truth):
            return None
        try:
            return bool(match(answer, truth))
        except Exception as error:  # a stranger's function
            raise PromptError(
                f"the function that compares answers failed: "
                f"{shorten(f'{type(error).__name__}: {error}', 90)}",
                have=f"answer {shorten(repr(answer), 60)}, truth {shorten(repr(truth), 60)}",
                hint="lambda answer, truth: truth in answer",
            ) from error

    return judge


def _several(truth: object) -> list[object]:
    return list(truth) if isinstance(truth, (list, tuple, set, frozenset)) else [truth]
