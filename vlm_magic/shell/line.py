"""The line of a magic: options first, then the rest as it stands, quotes and all.

Knows what an option is and how its value is written, not which options there are. Neighbours: `options`
is the table; what an option means is its receiver's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm_magic.errors import OptionError, near_names

__all__ = [
    "AXES",
    "CHOICES",
    "LIST",
    "PICTURES",
    "TYPE",
    "Option",
    "parse_around",
    "parse_line",
    "parse_options_only",
    "split_axes",
    "split_list",
    "typed_value",
    "unquoted",
]


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        flags: all spellings, the long one last.
        help: what it does, in one sentence.
        metavar: what stands for the value in the help; "" for a flag without value.
        convert: text to value; raises ValueError with a reason.
        name: how the receiver calls it; the long flag with underscores if not given.
        takes: what a value looks like, for one that is more than a word or a quoted text; `convert`
            then gets it as it stands, quotes and all.
    """

    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    convert: Callable[[str], object] = str
    name: str = ""
    takes: re.Pattern[str] | None = None

    @property
    def dest(self) -> str:
        """The key in the parsed values."""
        return self.name or self.flags[-1].lstrip("-").replace("-", "_")

    @property
    def usage(self) -> str:
        """All spellings with the value, as the help shows them."""
        return ", ".join(self.flags) + (f" {self.metavar}" if self.metavar else "")


_QUOTED = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')"""
_ITEM = re.compile(rf"(?:{_QUOTED}|[^,])*")
LIST = re.compile(rf"\s*((?:{_QUOTED}|[^\s\"'])+)")
"""The form of `a,b,"c d"`: items between commas without spaces, quoted ones with what they like."""

_BRACKETS = rf"\[(?:{_QUOTED}|\[(?:{_QUOTED}|\[[^\[\]]*\]|[^\[\]])*\]|[^\[\]])*\]"
TYPE = re.compile(rf"\s*({_QUOTED}|(?:{_BRACKETS}|[^\s\"'\[])+)")
"""The form of `Scene`, `list[int]` and `Literal["dark red", "blue"]`: brackets may hold spaces and quotes."""


_AXIS = rf"[A-Za-z][\w-]*=(?:{_QUOTED}|[^\s\"'])*"
AXES = re.compile(rf"\s*({_AXIS}(?:\s+{_AXIS})*)")
"""The form of `models=a,b temperature=0,0.7`: words with lists, up to the first word that is none."""


_WORDS = rf"(?:{_QUOTED}|[^\s,\"'\[(][^\s,]*)"
CHOICES = re.compile(rf"\s*({_BRACKETS}|\([^()]*\)|{_WORDS}(?:\s*,(?:{_WORDS}|\s+(?!-){_WORDS})?)*)")
"""The form of `a, b,"c d"`: as `LIST`, but with blanks behind commas, and quotes within words; or `["a"]`."""

PICTURES = re.compile(rf"\s*({_QUOTED}(?!\S)|(?:{_BRACKETS}|\((?:{_QUOTED}|[^()])*\)|\S)+)")
"""The form of `photos`, `[before, after]` and `df[df.year > 2000].photo`: brackets hold spaces; or quoted."""


def split_axes(text: str) -> dict[str, tuple[str, ...]]:
    """The lists of `AXES` by their names, as they stand.

    Raises:
        ValueError: a name that is there twice, a value that is missing.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for found in re.finditer(_AXIS, text):
        name, _, values = found[0].partition("=")
        if name in axes:
            raise ValueError(f"{name} appears twice")
        if not all(re.sub(_QUOTED, "quoted", values).split(",")):
            raise ValueError(f"{name} lacks a value")
        axes[name] = split_list(values)
    return axes


def split_list(text: str) -> tuple[str, ...]:
    """The items of a list such as `a,b,"c d, e"`, without their quotes and the spaces around them."""
    items, at = [], 0
    while at <= len(text):
        found = _ITEM.match(text, at)
        assert found is not None  # it may be empty, but it is there
        items.append(unquoted(found[0].strip()))
        at = found.end() + 1
    return tuple(items)


_WORD = re.compile(r"\s*(\S+)")
_VALUE = re.compile(rf"\s*({_QUOTED}|\S+)")


def parse_line(line: str, options: Sequence[Option]) -> tuple[dict[str, object], str]:
    """The options at the beginning of ``line`` by name, and the rest as it stands.

    A word that begins with a dash and is no option ends the options, unless it looks like a
    misspelt one. ``--`` ends them as well.

    Raises:
        OptionError: a misspelt option, a value that is missing or does not convert.
    """
    by_flag = {flag: option for option in options for flag in option.flags}
    values: dict[str, object] = {}
    at = 0
    while (word := _WORD.match(line, at)) and word[1].startswith("-"):
        if word[1] == "--":
            at = word.end()
            break
        flag, equals, _ = word[1].partition("=")
        option = by_flag.get(flag)
        if option is None:
            _refuse_misspelt(flag, by_flag)
            break
        at = word.start(1) + len(flag) + len(equals)
        if not option.metavar:
            if equals:
                raise OptionError(f"{flag} takes no value", hint=flag, option=flag)
            values[option.dest] = True
            continue
        value = (option.takes or _VALUE).match(line, at)
        if value is None:
            raise OptionError(
                f"{flag} needs a value", have=option.help, hint=f"{flag} {option.metavar}", option=flag
            )
        values[option.dest] = typed_value(option, flag, value[1] if option.takes else unquoted(value[1]))
        at = value.end()
    return values, line[at:].strip()


def parse_options_only(line: str, options: Sequence[Option], what: str) -> dict[str, object]:
    """Like `parse_line` for a magic that takes options alone.

    Raises:
        OptionError: anything else on the line.
    """
    values, rest = parse_line(line, options)
    if rest:
        word = rest.split()[0]
        known = [flag for option in options for flag in option.flags]
        hint = f"{what} -c {word}" if "-c" in known and not word.startswith("-") else what
        raise OptionError(
            f"{what} does not know {word!r}",
            have=", ".join(known) or "it takes no options",
            hint="the prompt goes below the line" if what == "%%vlm" else hint,
            option=word,
        )
    return values


_OPTION_BEHIND = re.compile(r"(?<!\S)--?[A-Za-z]")


def parse_around(line: str, options: Sequence[Option], what: str) -> tuple[dict[str, object], str]:
    """The options of a magic with one argument, before it or behind it, and the argument without its quotes.

    An argument with spaces needs no quotes, unless a word of it looks like an option.

    Raises:
        OptionError: as `parse_line`, and anything else behind the argument's options.
    """
    values, rest = parse_line(line, options)
    if quoted := re.match(rf"{_QUOTED}(?!\S)", rest):
        end = quoted.end()
    else:
        behind = _OPTION_BEHIND.search(rest)
        end = behind.start() if behind else len(rest)
    values |= parse_options_only(rest[end:], options, what)
    return values, unquoted(rest[:end].strip())


def _refuse_misspelt(flag: str, by_flag: dict[str, Option]) -> None:
    near = near_names(flag, by_flag) if flag.startswith("--") else []
    if near:
        raise OptionError(f"no option {flag}", have=", ".join(near), hint=by_flag[near[0]].usage, option=flag)


def typed_value(option: Option, flag: str, text: str) -> object:
    """What an option makes of a text.

    Raises:
        OptionError: nothing, and why.
    """
    try:
        return option.convert(text)
    except OptionError:
        raise
    except ValueError as error:
        raise OptionError(
            f"{flag} {text} does not fit",
            have=str(error),
            hint=f"{flag} {option.metavar}",
            option=flag,
            value=text,
        ) from error


def unquoted(text: str) -> str:
    """A word without the quotes around it."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
