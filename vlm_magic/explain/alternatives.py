"""Another word at a place of an answer, for the model to go on from.

Finds the place and the token; `vlm_magic.session` lets the model go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_magic.errors import OptionError
from vlm_magic.messages import Engine, Likely, Reply, SaidToken, is_here
from vlm_magic.wording import count_words, list_words

__all__ = ["begun_with", "remark"]


def begun_with(
    engine: Engine, words: Sequence[SaidToken], word: str, place: int | None = None
) -> tuple[Reply, int]:
    """The answer up to a place with another word there, and which of its tokens the word takes the place of.

    Args:
        engine: who goes on; the tokens are its own where it is here.
        words: the answer, token by token.
        word: what to say there.
        place: from 1; the first where the word was among the likeliest if not given.

    Raises:
        OptionError: no such place, no word, or one that ends the answer.
    """
    n = _place_of(words, word) if place is None else place - 1
    if not word.strip() or not 0 <= n < len(words):
        raise OptionError(
            f"the answer has no place {place}" if word.strip() else "no word to go on with",
            have=f"places 1 to {len(words)}",
            hint="--continue-with N:WORD, with N from the view words",
        )
    chosen = _chosen(words[n].likeliest, word)
    ends = {token.token_id for token in words if token.is_end} - {-1}
    if chosen is not None and chosen.token_id in ends:
        raise OptionError(
            f"{word.strip()!r} ends the answer: there is nothing to go on with",
            have=f"place {n + 1}",
            hint="--continue-with N:WORD with another word",
        )
    if chosen is None:
        blank = " " if words[n].text[:1].isspace() or words[n].is_end or n else ""
        chosen = Likely(f"{blank}{word.strip()}", 0.0)
    before = words[:n]
    text = "".join(token.text for token in before) + chosen.text
    ids = (*(token.token_id for token in before), chosen.token_id)
    knows = is_here(engine) and min(ids) >= 0
    return (
        Reply(
            text.lstrip(),
            finish_reason="length",
            n_new_tokens=len(ids),
            model=engine.loaded.name if is_here(engine) else engine.name,
            token_ids=ids if knows else (),
        ),
        n,
    )


def _chosen(likeliest: Sequence[Likely], word: str) -> Likely | None:
    """The token that is meant: written just so, or the likeliest that differs in blanks alone."""
    near = [other for other in likeliest if _same(other.text, word)]
    return next((other for other in near if other.text == word), near[0] if near else None)


def _place_of(words: Sequence[SaidToken], word: str) -> int:
    """The first place where a word was likely and something else was said."""
    for n, token in enumerate(words):
        if not _same(token.text, word) and any(_same(other.text, word) for other in token.likeliest):
            return n
    raise OptionError(
        f"{word!r} was likely at none of the {count_words(len(words), 'place')} of the answer",
        have=list_words((repr(other.text.strip()) for other in words[0].likeliest), 5) + " at the first",
        hint=f"--continue-with 1:{word} says it all the same",
    )


def _same(one: str, other: str) -> bool:
    return one.strip() == other.strip()


def remark(said: SaidToken, word: str) -> str:
    """What to tell of an answer that a person turned another way."""
    before = "where it ended" if said.is_end else f"in place of ‘{said.text.strip()}’"
    return f"you put ‘{word.strip()}’ {before}; the model went on from there"
