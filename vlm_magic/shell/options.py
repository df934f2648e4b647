"""The magics and their options as one table: parsing, help, completion and the README read it.

A line is options first, then the rest as it stands, quotes and all. Knows nothing of how anything
works; what an option means is its receiver's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlm_magic.errors import OptionError, near_names

__all__ = ["LIST", "MAGICS", "Magic", "Option", "help_text", "parse_line", "split_list", "typed_value"]


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


@dataclass(frozen=True)
class Magic:
    """One magic: its name with percent signs, what follows it, and its options."""

    name: str
    argument: str
    summary: str
    options: tuple[Option, ...] = ()
    details: str = ""

    @property
    def usage(self) -> str:
        """The line that shows how to write it."""
        return " ".join(filter(None, (self.name, "[options]" if self.options else "", self.argument)))


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


def split_axes(text: str) -> dict[str, tuple[str, ...]]:
    """The lists of `AXES` by their names, as they stand.

    Raises:
        ValueError: a name that is there twice, a value that is missing.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for found in re.finditer(_AXIS, text):
        name, _, values = found[0].partition("=")
        if name in axes:
            raise ValueError(f"{name} is there twice")
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
        items.append(_unquote(found[0].strip()))
        at = found.end() + 1
    return tuple(items)


def _identifier(text: str) -> str:
    if not text.isidentifier():
        raise ValueError("a variable name is letters, digits and _")
    return text


def _bare(text: str) -> str:
    return _unquote(text)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "no", "true", "false", "on", "off"):
        raise ValueError("yes or no")
    return text.lower() in ("yes", "true", "on")


ASK_OPTIONS = (
    Option(("-o", "--out"), "Put the text of the answer into this variable.", "NAME", _identifier),
    Option(
        ("--type",),
        "Hold the answer to a type of the notebook (a Pydantic model, dataclass, TypedDict, Literal[…], int, "
        "bool, JSON schema, compiled pattern …); -o gets a value of it.",
        "TYPE",
        _bare,
        takes=TYPE,
    ),
    Option(
        ("--choices",),
        "Choose among these replies, with their probabilities; a list, or a variable that holds them. "
        "-o gets the result.",
        "A,B,…",
        takes=CHOICES,
    ),
    Option(
        ("--normalize",),
        "How choices are compared: none (log-probability), length (per token), prior (less that without the "
        "picture).",
        "HOW",
    ),
    Option(
        ("--examples",),
        "Few-shot examples before the question: a table with columns picture and answer, or a list of "
        "pairs or turns.",
        "NAME",
    ),
    Option(("-c", "--conversation"), "Which conversation the turn belongs to; made when new.", "NAME"),
    Option(("--new",), "Start another conversation with this cell."),
    Option(("-m", "--model"), "Which of the loaded models answers.", "NAME"),
    Option(("--system",), "System text that stands before the conversation.", "TEXT"),
    Option(("--max-tokens",), "The most new tokens (512).", "N", int),
    Option(("--temperature",), "Above 0 draws tokens at random; without it answers are greedy.", "T", float),
    Option(("--top-p",), "Draw from the smallest set of tokens with this probability.", "P", float),
    Option(("--top-k",), "Draw from this many tokens.", "K", int),
    Option(("--sampling",), "Answer with the checkpoint's own sampling defaults."),
    Option(("--seed",), "Make random answers repeatable.", "N", int),
    Option(("--beams",), "Beams of a beam search (1, that is none).", "N", int),
    Option(
        ("--time-limit",), "Stop after this many seconds with what there is.", "S", _seconds, "time_limit_s"
    ),
    Option(("--stop",), "End the answer before this text.", "TEXT", lambda text: (text,)),
    Option(("--bad-words",), "Words that the answer must not contain.", "A,B,…", split_list, takes=LIST),
    Option(("--repetition-penalty",), "Above 1 discourages tokens that are there already.", "P", float),
    Option(("--continuation",), "Continue the text as it stands, without the chat template."),
    Option(("--special-tokens",), "Let the text name the model's control tokens on purpose."),
    Option(("--raw",), "Take the text as it stands: no {variables}, no pictures in it."),
    Option(
        ("--compare",),
        "Answers under a grid of settings, side by side: models=a,b quantize=none,4bit temperature=0,0.7.",
        "AXIS=A,B …",
        split_axes,
        takes=AXES,
    ),
    Option(
        ("--map",),
        "Ask about each picture of a column, list, glob or generator; {picture} is its place, {row.title} "
        "a column.",
        "PICTURES",
    ),
    Option(("--journal",), "A file that the rows of a map are kept in and found again.", "FILE"),
    Option(("--batch-size",), "Pictures of a map that are asked together.", "N", int),
    Option(("--no-panel",), "Stream plain text instead of the panel."),
    Option(("--dry-run",), "Show what the model would be given, and generate nothing."),
)

LOAD_OPTIONS = (
    Option(("--as",), "Call the model so and keep the others loaded; -m NAME asks it.", "NAME", name="name"),
    Option(("--dtype",), "auto, float32, bfloat16 or float16.", "TYPE"),
    Option(("--quantize",), "4bit, 8bit (bitsandbytes), int8 (Quanto) or torchao-int8.", "HOW"),
    Option(("--attn",), "auto, sdpa, eager, flash or flex.", "HOW"),
    Option(("--device",), "auto, cpu, cuda, cuda:1, mps, or offload (GPU first, then CPU).", "WHERE"),
    Option(("--splitting",), "Cut pictures into tiles, yes or no.", "YES", _yes_or_no),
    Option(("--picture-tokens",), "About the most tokens that a picture may cost.", "N", int),
    Option(("--revision",), "A branch, tag or commit on the hub.", "REV"),
    Option(("--adapter",), "A LoRA adapter, folder or hub id.", "PATH"),
    Option(("--sampling",), "Answer with the checkpoint's own sampling defaults."),
    Option(("--trust-remote-code",), "Run code that comes with the checkpoint."),
    Option(("--unsafe-weights",), "Load pickled weights, which can run code."),
    Option(("--force",), "Load although the estimate says that it will not fit."),
    Option(("--dry-run",), "Say what it would need and what is free, and load nothing."),
)

_CONVERSATION = Option(("-c", "--conversation"), "Which conversation (the current one).", "NAME")

MAGICS = (
    Magic(
        "%%vlm",
        "",
        "Ask the model about the text and pictures of the cell.",
        ASK_OPTIONS,
        details=(
            "In the cell, {name} puts a variable at its place: a picture (PIL image, array, tensor, figure, "
            "path) as a picture, a list of pictures as several, anything else as its text. "
            "![alt](path or URL) and a bare image URL are pictures too. Braces that are no expression stay "
            "as they are, and {{name}} is the literal {name}.\n\n"
            "Running a cell again replaces its turn in the conversation; later turns are marked stale.\n\n"
            "Example:\n\n"
            "    %%vlm -o answer\n"
            "    What changed between {before} and {after}?"
        ),
    ),
    Magic(
        "%vlm",
        "PROMPT",
        "Ask in one line; options end at the first word that is none.",
        ASK_OPTIONS,
        details="The rest of the line is the prompt as it stands, quotes and all.",
    ),
    Magic(
        "%vlm_chat",
        "",
        "Open a conversation as a panel with an input box; cells and panel share it.",
        (_CONVERSATION,),
        details=(
            "Enter sends, Shift+Enter starts a line; pictures come by paste, drag and drop, the file "
            "chooser, or {name} of a variable. Text typed there may use names, attributes and items, "
            "but no calls."
        ),
    ),
    Magic(
        "%vlm_load",
        "[MODEL]",
        "Load a model and keep it in the kernel; without a name, the starter.",
        LOAD_OPTIONS,
        details=(
            "MODEL is a folder or an id on the Hugging Face hub. Loading the same thing again costs nothing; "
            "loading another one unloads the one before, unless --as names it."
        ),
    ),
    Magic("%vlm_status", "", "Show what is loaded, what it holds, and the conversations."),
    Magic("%vlm_unload", "[NAME]", "Unload a model and say how much memory came back."),
    Magic(
        "%vlm_forget",
        "",
        "Empty the stores: reused computations, downloaded and kept pictures, answered rows of maps.",
    ),
    Magic(
        "%vlm_history",
        "[FILE]",
        "Show a conversation; with --restore, after bringing it back.",
        (
            _CONVERSATION,
            Option(("--restore",), "Bring conversations back from the saved notebook, or from FILE."),
        ),
        details=(
            "After a restart of the kernel, %vlm_history --restore brings back what the outputs of the "
            "saved notebook hold, to go on with it. Save before you restart. Full pictures come from "
            "this machine (%config VLMMagics.keep_pictures_mb); a turn whose picture is gone says so."
        ),
    ),
    Magic(
        "%vlm_export",
        "FILE",
        "Write a conversation to a file: .md, .html, .json (messages of a chat template) or .ipynb.",
        (_CONVERSATION,),
    ),
    Magic(
        "%vlm_code",
        "[FILE]",
        "Show the plain transformers program that gives the last answer, or write it to FILE.",
        (_CONVERSATION,),
        details=(
            "The program runs without this package. Its pictures are saved as PNG beside it, in "
            "vlm_code_pictures, or in FILE_pictures."
        ),
    ),
    Magic("%vlm_reset", "", "Forget a conversation; the model stays loaded.", (_CONVERSATION,)),
)


def magic(name: str) -> Magic:
    """The table's row for a magic, by its name with percent signs."""
    return next(m for m in MAGICS if m.name == name)


def help_text(name: str) -> str:
    """What ``%%vlm?`` shows: usage, summary, every option, details."""
    row = magic(name)
    lines = [row.usage, "", row.summary]
    if row.options:
        width = max(len(option.usage) for option in row.options)
        lines += ["", "Options:", *(f"  {option.usage:<{width}}  {option.help}" for option in row.options)]
    if row.details:
        lines += ["", row.details]
    return "\n".join(lines)


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
        values[option.dest] = typed_value(option, flag, value[1] if option.takes else _unquote(value[1]))
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
        raise OptionError(
            f"{what} does not know {word!r}",
            have=", ".join(known) or "it takes no options",
            hint="the prompt goes below the line" if what == "%%vlm" else what,
            option=word,
        )
    return values


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
            have=f"{option.help} ({error})",
            hint=f"{flag} {option.metavar}",
            option=flag,
            value=text,
        ) from error


def _unquote(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
