"""Vision-language models as a natural part of a notebook.

    %load_ext vlm_magic
    %vlm_load

    %%vlm -o answer
    What changed between {before} and {after}?

The same in plain Python:

    engine = vlm_magic.load()
    session = vlm_magic.Session(engine)
    print(session.ask("What is in ", picture, "?"))

Importing this package imports neither torch nor transformers; loading a model does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import VLMError
from vlm_magic.messages import Bill, Chunk, Engine, Picture, Reply, Settings, Text, Turn
from vlm_magic.session import Session

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from vlm_magic.models.engine import LocalEngine
    from vlm_magic.tasks.choices import Choices
    from vlm_magic.tasks.classifying import Classified
    from vlm_magic.tasks.compare import Comparison

__version__ = "0.1.0"

__all__ = [
    "Bill",
    "Chunk",
    "Engine",
    "Picture",
    "Reply",
    "Session",
    "Settings",
    "Text",
    "Turn",
    "VLMError",
    "classify",
    "compare",
    "engine",
    "load",
    "load_ipython_extension",
    "map_pictures",
    "session",
    "to_pil",
    "typed",
    "unload_ipython_extension",
]


def load(model: str | Path = "starter", *, name: str | None = None, **options: Any) -> LocalEngine:
    """Load a model and keep it in this process; loading the same thing again costs nothing.

    Args:
        model: "starter" (the small trained model of this package), a folder, or an id on the hub.
        name: how to call it; the model's own name if not given.
        **options: dtype, quantize, attn, device, revision, …; see
            `vlm_magic.models.loading.LoadOptions`.

    Returns:
        The engine, also what the magics use from now on.

    Raises:
        OptionError: an option that does not exist or fit.
        ModelError: a model that is not there, is of the wrong kind, or does not load.
    """
    from vlm_magic.workspace import current

    return current().load(model, name=name, **options)


def engine(name: str | None = None) -> Engine:
    """The engine that the magics use, or the loaded one of this name.

    Raises:
        ModelNotFoundError: nothing is loaded, or nothing of that name.
    """
    from vlm_magic.workspace import current

    return current().engine(name)


def compare(
    *parts: object,
    examples: object = None,
    on_change: Callable[[Comparison], None] | None = None,
    **values: Any,
) -> Comparison:
    """Answer one prompt under a grid of settings, outside every conversation.

        grid = vlm_magic.compare("What is in ", picture, "?", model=["starter", "folder"], beams=[1, 2])
        grid.to_frame()

    What is resident before is resident afterwards; other models are loaded while they answer.

    Args:
        *parts: the prompt, as for `Session.ask`.
        examples: few-shot examples for ``n_examples`` (see `vlm_magic.tasks.examples.example_turns`).
        on_change: called with the comparison whenever there is news.
        **values: a list or tuple is an axis of the grid (``model``, ``quantize``, ``temperature``,
            ``n_examples``, …; see `vlm_magic.tasks.compare.AXES`); anything else, and a tuple for ``stop``
            or ``bad_words``, holds for all answers.

    Returns:
        The `Comparison`: iterate it for its rows; an answer that failed has its error in its row.

    Raises:
        PromptError, PictureError: the prompt cannot be read.
        OptionError: an axis or a setting that does not exist or fit.
    """
    from vlm_magic.session import to_parts
    from vlm_magic.tasks.compare import Comparison, run
    from vlm_magic.tasks.examples import example_turns
    from vlm_magic.workspace import current

    texts = ("stop", "bad_words")  # whose value is a tuple itself
    is_axis = {n: isinstance(v, list) or (isinstance(v, tuple) and n not in texts) for n, v in values.items()}
    settings = {n: v for n, v in values.items() if n in Settings.names() and not is_axis[n]}
    axes = {n: v if is_axis[n] else [v] for n, v in values.items() if n not in settings}
    question = to_parts(parts)
    turns = () if examples is None else example_turns(examples, prompt=question)
    comparison = Comparison(question, axes, Settings().updated(settings), turns)
    with current().lending() as lender:
        return run(comparison, lender, on_change)


def map_pictures(engine: Engine, prompt: str, pictures: object, **options: Any) -> pd.DataFrame:
    """Ask one prompt about many pictures, each outside any conversation.

        captions = vlm_magic.map_pictures(engine, "Describe {picture}.", frame.photo)

    Args:
        engine: who answers, from `load`.
        prompt: the words; ``{picture}`` is the place of the picture (first if absent), ``{row.title}`` a
            column of ``table``.
        pictures: a column, list, dict (name → picture), array batch, generator, glob or folder.
        **options: table, names, examples, choices, type, batch_size, journal, resume, progress, and the
            settings of a question; see `vlm_magic.tasks.map_calls.map_pictures`.

    Returns:
        A pandas DataFrame in the order of the pictures: ``answer``, ``tokens``, ``seconds`` and ``error``.

    Raises:
        OptionError: pandas is not installed, or a journal that cannot be used.
        PromptError: the generator of the pictures raised; the rows before it are kept for the next call.
    """
    from vlm_magic.tasks.map_calls import map_pictures as run

    return run(engine, prompt, pictures, **options)


def session(name: str | None = None) -> Session:
    """The conversation that the magics use now, or the one of this name (made when it is new)."""
    from vlm_magic.workspace import current

    return current().session(name)


def to_pil(obj: object, *, allow_hosts: Sequence[str] = ()) -> Image.Image:
    """Anything picture-like as an upright RGB `PIL.Image`; the original is never changed.

    Args:
        obj: a PIL image, array, tensor, figure, path, URL, data URI, bytes, ….
        allow_hosts: private or local hosts that a URL may name.

    Raises:
        PictureError: it is none, cannot be found, fetched or decoded, or is too large.
    """
    from vlm_magic.inputs.pictures import to_pil as convert

    return convert(obj, allow_hosts=allow_hosts)


def typed(who: Session | Engine, type_: object, *parts: object, **settings: Any) -> Any:
    """Ask a question whose answer is a value of a type; every token is held to it.

        n = vlm_magic.typed(session, int, "How many circles are there in ", picture, "?")

    Args:
        who: a session, whose conversation gets the turn, or an engine for a question on its own.
        type_: a Pydantic model, dataclass, ``TypedDict``, ``Enum``, ``Literal``, `bool`, `int`, ``list[…]``,
            …, a JSON schema as a dict, or a compiled regular expression.
        *parts: the question, as for `Session.ask`.
        **settings: for this question only.

    Returns:
        The value: an instance of the type; JSON's own values for a JSON schema, the text for a pattern.

    Raises:
        OptionError: no type of an answer, or nothing satisfies it.
        ModelKindError: the model's tokenizer cannot be held to a type.
        TypedAnswerError: the answer was cut short, or the type refuses it; ``text`` has what was said.
    """
    from vlm_magic.tasks.typed import typed as ask_typed

    return ask_typed(who, type_, *parts, **settings)


def classify(
    engine: Engine, picture: object, choices: object, prompt: str | None = None, **options: Any
) -> Choices | Classified:
    """Choose among replies for one picture or many, with probabilities; outside any conversation.

        vlm_magic.classify(engine, photo, ["animals", "vegetables", "city landscape"]).best

    Args:
        engine: who answers, from `load`.
        picture: a picture; or a list, Series, array batch or generator of them.
        choices: a list, tuple, Series, Enum or dict of replies.
        prompt: what is asked; ``{picture}`` marks the picture's place, first if absent.
        **options: truth, examples, normalize, …; see `vlm_magic.tasks.classifying.classify`.

    Returns:
        `Choices` for one picture; `Classified` for many, with accuracy, confusion and calibration where
        the truth is given.

    Raises:
        OptionError: choices or a truth that do not fit.
        PictureError: the one picture cannot be read.
    """
    from vlm_magic.tasks.classifying import classify as ask

    return ask(engine, picture, choices, prompt, **options)


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; called by ``%load_ext vlm_magic``."""
    from vlm_magic.shell.magics import register

    register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the hooks out again; called by ``%unload_ext vlm_magic``. Loaded models stay."""
    from vlm_magic.shell.magics import unregister

    unregister(shell)
