"""A small language of wordings: patterns that unfold into the many ways people say one thing.

`[a|b|]` is a choice (here of three, one of them nothing), `<name>` a slot that the caller fills or a rule
from `RULES`. `unfold` makes one wording; `roughen` says it the way people type: contractions, lower case, no
question mark, American or British spelling, a stray courtesy. Knows nothing of scenes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from random import Random

__all__ = ["MARK", "RULES", "roughen", "spell", "unfold"]

MARK = "\ufffc"
"""Stands in a wording where a picture stands (Unicode's object replacement character)."""

RULES: dict[str, str] = {
    "pic": "[the|the|this|this] [picture|picture|picture|image|image|image|photo|drawing|scene|pic|figure]",
    "in": "[||||||| in <pic>| in <pic>| in <pic>| here| on <pic>]",
    "shapes": "[shapes|shapes|shapes|objects|objects|things|figures|items]",
    "shape": "[shape|shape|shape|object|object|thing|figure|item]",
    "tellme": "[Tell me|Tell me|Say|Please tell me|Please say|Can you tell me|Could you tell me|Can you "
    "say|Do you know"
    "|I want to know|I would like to know|I wonder|Let me know|Explain|Would you tell me|Show me|Guess|See]",
    "name": "[Name|Name|Give|Give me|Tell me|State|Say|Identify|Determine|Find|Please give|Please name|"
    "Report|Write]",
    "see": "[see|see|see|find|notice|spot|recognise|make out|observe|detect]",
    "cin": "[||||| in <chart>| in <chart>| here]",
    "chart": "[the|this] [chart|chart|bar chart|graph|bar graph|plot|diagram|picture|image|figure]",
}


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple[_Sequence, ...]


@dataclass(frozen=True, slots=True)
class _Slot:
    name: str


_Sequence = tuple[str | _Choice | _Slot, ...]


@cache
def _parse(pattern: str) -> _Sequence:
    """A pattern as a sequence of literals, slots and choices."""
    sequence, end = _parse_from(pattern, 0, top=True)
    if end != len(pattern):
        raise ValueError(f"unbalanced bracket in {pattern!r}")
    return sequence


def _parse_from(pattern: str, i: int, *, top: bool = False) -> tuple[_Sequence, int]:
    items: list[str | _Choice | _Slot] = []
    literal = ""
    while i < len(pattern):
        c = pattern[i]
        if not top and c in "|]":
            break
        if c == "[":
            items.append(literal)
            literal, options = "", []
            i += 1
            while True:
                option, i = _parse_from(pattern, i)
                options.append(option)
                if pattern[i] == "]":
                    break
                i += 1
            items.append(_Choice(tuple(options)))
        elif c == "<":
            end = pattern.index(">", i)
            items += [literal, _Slot(pattern[i + 1 : end])]
            literal, i = "", end
        else:
            literal += c
        i += 1
    return (*items, literal), i


def unfold(rng: Random, pattern: str, slots: Mapping[str, str] | None = None) -> str:
    """Make one wording of a pattern.

    Args:
        rng: Chooses.
        pattern: See the module's first lines.
        slots: Values for `<name>`, patterns themselves; they go before the rules.

    Returns:
        The wording, its spaces tidied.
    """
    text = _unfold(rng, _parse(pattern), slots or {})
    return re.sub(r" +([?.!,:])", r"\1", re.sub(r"  +", " ", text)).strip()


def _unfold(rng: Random, sequence: _Sequence, slots: Mapping[str, str]) -> str:
    out = []
    for item in sequence:
        if isinstance(item, str):
            out.append(item)
        elif isinstance(item, _Choice):
            out.append(_unfold(rng, item.options[int(rng.random() * len(item.options))], slots))
        else:  # <A> is <a> at the beginning of a sentence
            name = item.name[0].lower() + item.name[1:]
            text = _unfold(rng, _parse(slots[name] if name in slots else RULES[name]), slots)
            out.append(text[:1].upper() + text[1:] if item.name[0].isupper() else text)
    return "".join(out)


_AMERICAN = (
    ("colour", "color"),
    ("Colour", "Color"),
    ("grey", "gray"),
    ("centre", "center"),
    ("recognise", "recognize"),
)
_CONTRACTIONS = (
    ("hat is ", "hat's "), ("here is ", "here's "), ("I would ", "I'd "), ("I am ", "I'm "), ("s there not",
    "sn't there"),
    ("do not ", "don't "), ("is not ", "isn't "), ("cannot ", "can't "), ("have you ", "have you "),
)  # fmt: skip
_BEFORE = (
    "Hi! ", "Hello. ", "Hey, ", "Please answer: ", "Question: ", "Q: ", "OK, ", "Now, ", "So, ", "Well, ",
    "Quick question: ",
    "One more question: ", "I have a question. ", "Look closely. ", "Please: ", "And now: ", "Hmm, ",
    "Please look. ",
    "Let us see. ", "Sorry, ", "Tell me: ", "Thanks. ", "Great. ", "Next: ", "Right, ", "Be honest: ",
    "Just tell me: ",
)  # fmt: skip
_AFTER = (
    " Please.", " Thanks!", " Thank you.", " Answer briefly.", " Be brief.", " Keep it short.",
    " I can't tell.", " I am not sure.",
    " Just the answer.", " Answer in one word.", " Take your time.", " Any idea?", " I need to know.",
    " Answer:", " Short answer.",
    " Give a short answer.", " What do you think?", " Look carefully.", " My eyes are bad.", " Tell me.",
)  # fmt: skip


_CHATTER = (
    "My daughter drew this.", "I made this yesterday.", "This is for school.", "I am colour-blind.",
    "Help me with this one.",
    "It is for a quiz.", "I found this on my desk.", "My teacher wants to know.", "Somebody sent me this.",
    "I like this one.",
    "This is a test.", "I have a small question.", "It is only a sketch.", "There was an argument about it.",
    "We are learning shapes.",
    "A friend wants to know this.", "I am writing a report.", "Let me ask you something.", "It looks nice.",
    "I forgot my glasses.",
    "Here is the next one.", "Do not guess.", "This should be easy.", "I hope you can help.", "Listen.",
    "One thing I want to know:",
    "My son asks:", "The exercise says:", "He wants to know:", "They ask:", "The next question is:",
    "Riddle:", "Task:", "Exercise 3.",
)  # fmt: skip
_FILLERS = (
    "really", "exactly", "actually", "maybe", "just", "now", "kindly", "again", "perhaps", "simply",
    "quickly", "precisely", "roughly",
    "here", "still", "even", "also", "clearly", "currently", "possibly", "probably", "truly", "overall",
    "today", "quite", "rather",
    "ever", "anyway", "first", "mainly", "surely", "basically", "honestly", "please", "um", "well", "indeed",
    "obviously", "whole",
    "little", "nice", "simple", "funny", "own", "current", "given", "shown", "good", "beautiful", "strange",
)  # fmt: skip


def spell(rng: Random, text: str) -> str:
    """British or American spelling, by chance."""
    if rng.random() < 0.5:
        for british, american in _AMERICAN:
            text = text.replace(british, american)
    return text


def roughen(rng: Random, text: str, *, courtesy: float = 0.13) -> str:
    """Say a wording the way people type."""
    text = spell(rng, text)
    if rng.random() < 0.45:
        for full, short in _CONTRACTIONS:
            text = text.replace(full, short)
    if rng.random() < courtesy:
        before = rng.choice(_BEFORE)
        text = before + (text if before[-2] in ".!:" else _lower_first(text))
    if rng.random() < 0.3:
        text = _lower_first(text)
        if rng.random() < 0.1:
            text = text.lower()
    text = _punctuate(rng, text)
    if rng.random() < courtesy * 0.6:
        if text[-1] not in ".?!:":
            text += "."
        text += rng.choice(_AFTER)
    if rng.random() < 0.05:
        text = f"{rng.choice(_CHATTER)} {text}"
    draw = rng.random()
    if draw < 0.04:
        text = _slip(rng, text)
    elif draw < 0.11:
        text = _fill(rng, text)
    return text


def _punctuate(rng: Random, text: str) -> str:
    """Another end of the sentence, or none."""
    if text.endswith("?") and rng.random() < 0.2:
        text = text[:-1] if rng.random() < 0.8 else text[:-1] + rng.choice((".", "??", " ?", "?!"))
    elif text.endswith(".") and rng.random() < 0.35:
        text = text[:-1] if rng.random() < 0.7 else text[:-1] + "!"
    elif text.endswith("?") and rng.random() < 0.04:
        text = text[:-1] + ", please?"
    return text


def _lower_first(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[:1].lower() + text[1:]


def _slip(rng: Random, text: str) -> str:
    """A slip in a short word that carries no meaning: left out, or a letter too many or too few."""
    words = text.split(" ")
    places = [
        i
        for i, w in enumerate(words)
        if w.lower() in {"is", "the", "are", "of", "in", "a", "there", "does", "do", "you", "can"}
    ]
    if not places or len(words) < 5:
        return text
    i = rng.choice(places)
    word = words[i]
    if rng.random() < 0.5:
        del words[i]
    elif len(word) > 2:
        k = rng.randrange(1, len(word))
        words[i] = word[:k] + (word[k - 1] if rng.random() < 0.5 else "") + word[k + (rng.random() < 0.5) :]
    return " ".join(words)


def _fill(rng: Random, text: str) -> str:
    """A word that changes nothing, somewhere in the first half or at the end."""
    words = text.split(" ")
    i = rng.randint(1, max(1, len(words) // 2)) if rng.random() < 0.7 else len(words)
    if i == len(words) and words[-1][-1:] in "?.!":
        words[-1], end = words[-1][:-1], words[-1][-1]
        last = rng.choice(("then", "now", "please", "here", "exactly", "again", "today", "there"))
        return " ".join([*words, last]) + end
    words.insert(i, rng.choice(_FILLERS))
    return " ".join(words)
