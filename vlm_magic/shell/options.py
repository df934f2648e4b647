"""The magics and their options as one table: parsing, help, completion and the README read it.

Knows nothing of how anything works; what an option means is its receiver's business. Neighbour: `line`
parses with it.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass

from vlm_magic.shell.line import AXES, CHOICES, LIST, PICTURES, TYPE, Option, split_axes, split_list, unquoted

__all__ = ["ASK_OPTIONS", "LOAD_OPTIONS", "MAGICS", "Magic", "help_text", "magic"]


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


def _identifier(text: str) -> str:
    if not text.isidentifier():
        raise ValueError("a variable name is letters, digits and _")
    if keyword.iskeyword(text):
        raise ValueError(f"{text} is a word of Python's own")
    return text


def _bare(text: str) -> str:
    return unquoted(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a whole number is wanted") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number is wanted") from None


def _seconds(text: str) -> float:
    return _number(text.removesuffix("s"))


def _thought(text: str) -> bool | int:
    if text.lower() in ("on", "off"):
        return text.lower() == "on"
    if not text.isdigit() or not int(text):
        raise ValueError("on, off or a number of tokens is wanted")
    return int(text)


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "no", "true", "false", "on", "off"):
        raise ValueError("yes or no is wanted")
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
    Option(("--max-tokens",), "The most new tokens (512).", "N", _whole),
    Option(
        ("--think",),
        "Whether the model thinks before it answers: on, off, or the most tokens of a thought.",
        "on|off|N",
        _thought,
    ),
    Option(
        ("--temperature",), "Above 0 draws tokens at random; without it answers are greedy.", "T", _number
    ),
    Option(("--top-p",), "Draw from the smallest set of tokens with this probability.", "P", _number),
    Option(("--top-k",), "Draw from this many tokens.", "K", _whole),
    Option(("--sampling",), "Answer with the checkpoint's own sampling defaults."),
    Option(("--seed",), "Make random answers repeatable.", "N", _whole),
    Option(("--beams",), "Beams of a beam search (1, that is none).", "N", _whole),
    Option(
        ("--time-limit",), "Stop after this many seconds with what there is.", "S", _seconds, "time_limit_s"
    ),
    Option(("--stop",), "End the answer before this text.", "TEXT", lambda text: (text,)),
    Option(("--bad-words",), "Words that the answer must not contain.", "A,B,…", split_list, takes=LIST),
    Option(("--repetition-penalty",), "Above 1 discourages tokens that are there already.", "P", _number),
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
        convert=unquoted,
        takes=PICTURES,
    ),
    Option(
        ("--truth",),
        "What is right about each picture of a map: a column of its table, or a list. Shows how many answers "
        "are right, with the 95 % interval, and the wrong ones, the most confident first; -o gets them too.",
        "COLUMN",
        _bare,
    ),
    Option(
        ("--match",),
        "How answers and --truth are compared: exact, normalised (case, punctuation, articles aside), or a "
        "function of (answer, truth).",
        "HOW",
    ),
    Option(("--journal",), "A file that the rows of a map are kept in and found again.", "FILE"),
    Option(
        ("--into",),
        "A folder that gets the rows of a map as Parquet files, where a table would not fit.",
        "FOLDER",
    ),
    Option(("--batch-size",), "Pictures of a map that are asked together.", "N", _whole),
    Option(
        ("--on",),
        "Answer a map on a cluster: dask or ray (a local one is started and ended), tcp://scheduler:8786, "
        "ray://head:10001, or a variable that holds a Dask client.",
        "WHERE",
    ),
    Option(
        ("--workers",),
        "Processes of a cluster that is started here, or of Ray, each with a model.",
        "N",
        _whole,
    ),
    Option(
        ("--explain",),
        "Look at the answer as well: needed (which part of the picture it hangs on), without (whether it "
        "needed the picture), words (how likely each was), tokens, memory, layers.",
        "VIEWS",
        split_list,
        takes=LIST,
    ),
    Option(("--no-panel",), "Stream plain text instead of the panel."),
    Option(("--dry-run",), "Show what the model would be given, and generate nothing."),
)

LOAD_OPTIONS = (
    Option(("--as",), "Call the model so and keep the others loaded; -m NAME asks it.", "NAME", name="name"),
    Option(("--dtype",), "auto, float32, bfloat16 or float16.", "TYPE"),
    Option(("--quantize",), "4bit, 8bit (the fastest here), bnb-8bit, int8 (Quanto) or torchao-int8.", "HOW"),
    Option(("--attn",), "auto, sdpa, eager, flash or flex.", "HOW"),
    Option(("--compile",), "auto, yes or no: a kernel built by this machine's compiler, for CPUs.", "HOW"),
    Option(("--device",), "auto, cpu, cuda, cuda:1, mps, or offload (GPU first, then CPU).", "WHERE"),
    Option(("--splitting",), "Cut pictures into tiles, yes or no.", "YES", _yes_or_no),
    Option(("--picture-tokens",), "About the most tokens that a picture may cost.", "N", _whole),
    Option(("--revision",), "A branch, tag or commit on the hub.", "REV"),
    Option(("--adapter",), "A LoRA adapter, folder or hub id.", "PATH"),
    Option(("--sampling",), "Answer with the checkpoint's own sampling defaults."),
    Option(("--trust-remote-code",), "Run code that comes with the checkpoint."),
    Option(("--unsafe-weights",), "Load pickled weights, which can run code."),
    Option(("--force",), "Load although the estimate says that it will not fit."),
    Option(("--dry-run",), "Say what it would need and what is free, and load nothing."),
    Option(
        ("--key-env",),
        "Of a server: the environment variable that holds its key; A,B for two hosts.",
        "VARIABLE",
    ),
    Option(("--timeout",), "Of a server: its longest silence, in seconds.", "S", _seconds, name="timeout_s"),
    Option(("--at-once",), "Of a server: rows of a map that are under way at a time.", "N", _whole),
    Option(
        ("--picture-size",),
        "Of a server: the longest side of pictures sent.",
        "PX",
        _whole,
        name="picture_px",
    ),
    Option(("--allow-plain-key",), "Of a server: send the key without TLS, over a network that you trust."),
)

_CONVERSATION = Option(("-c", "--conversation"), "Which conversation (the one answered in last).", "NAME")

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
            "loading another one unloads the one before, unless --as names it. Or the address of an "
            "OpenAI-compatible server, http://host:8000/v1, and the name of its model where it has several: "
            "pictures go there, and nowhere else. Several addresses are of servers that hold the same model."
        ),
    ),
    Magic("%vlm_status", "", "Show what is loaded, what it holds, and the conversations."),
    Magic("%vlm_unload", "[NAME]", "Unload a model and say how much memory came back."),
    Magic(
        "%vlm_forget",
        "",
        "Empty this notebook's stores: reused computations, pictures, answered rows of maps.",
        (Option(("--all",), "Also what other notebooks have on this machine: downloads and kept pictures."),),
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
    Magic(
        "%vlm_explain",
        "[VIEWS]",
        "Show why the last answer is what it is: needed, without, words, tokens, memory, layers.",
        (
            _CONVERSATION,
            Option(("-o", "--out"), "Put the explanation into this variable.", "NAME", _identifier),
            Option(
                ("--continue-with",),
                "Take this word in the answer (N:WORD in place of token N) and let the model go on from "
                "there, as another answer of the turn.",
                "N:WORD",
            ),
        ),
        details=(
            "needed hides parts of the picture and asks again: which part the answer hangs on, or that no "
            "single part decides. without asks without the picture, with a grey one and with another one. "
            "words shows each token with its probability and what else was likely. tokens shows how the "
            "picture became tokens and whose each token of the prompt is, memory what each turn reused, "
            "layers what each layer would say. The conversation stays as it is."
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
