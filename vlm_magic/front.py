"""The functions of the package's front door that use what is resident in this kernel.

`vlm_magic` hands them out. Neighbours: `vlm_magic.workspace` keeps models and conversations; what needs
nothing resident (`map_pictures`, `classify`, `typed`, `to_pil`) is handed out from where it lives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_magic.messages import Engine, Settings
from vlm_magic.session import Session, to_parts
from vlm_magic.workspace import current

if TYPE_CHECKING:
    from vlm_magic.models.engine import LocalEngine
    from vlm_magic.remote.engine import RemoteEngine
    from vlm_magic.tasks.compare.grid import Comparison

__all__ = ["compare", "connect", "engine", "load", "session"]

_TUPLES = ("stop", "bad_words")  # settings whose value is a tuple itself


def load(model: str | Path = "starter", *, name: str | None = None, **options: Any) -> LocalEngine:
    """Load a model and keep it in this process; loading the same thing again costs nothing.

    Args:
        model: "starter" (the small trained model of this package), a folder, or an id on the hub.
        name: how to call it; the model's own name if not given.
        **options: dtype, quantize, attn, device, revision, …; see
            `vlm_magic.models.load_options.LoadOptions`.

    Returns:
        The engine, also what the magics use from now on.

    Raises:
        OptionError: an option that does not exist or fit.
        ModelError: a model that is not there, is of the wrong kind, or does not load.
    """
    return current().models.load(model, name=name, **options)


def connect(
    url: str | Sequence[str],
    model: str | None = None,
    *,
    name: str | None = None,
    key_env: str | Sequence[str] | None = None,
    **options: Any,
) -> RemoteEngine:
    """Use a model on an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, LM Studio, hosted APIs, ….

    Args:
        url: ``http://host:8000/v1``; several are of servers that hold the same model.
        model: its name there; not needed where there is one.
        name: how to call it; the model's own name if not given.
        key_env: the environment variable that holds the key for this host; of several hosts one for each.
        **options: timeout_s, at_once, picture_px, allow_plain_key; see
            `vlm_magic.remote.connect.connect_to`.

    Returns:
        The engine, also what the magics use from now on.

    Raises:
        OptionError: an address, a key or a name that does not do.
        ModelError: nobody answers, the key is refused, or there is no such model.
    """
    return current().models.connect(url, model, name=name, key_env=key_env, **options)


def engine(name: str | None = None) -> Engine:
    """The engine that the magics use, or the loaded one of this name.

    Raises:
        ModelNotFoundError: nothing is loaded, or nothing of that name.
    """
    return current().models.engine(name)


def session(name: str | None = None) -> Session:
    """The conversation that the magics use now, or the one of this name (made when it is new)."""
    return current().conversations.session(name)


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
            ``n_examples``, …; see `vlm_magic.tasks.compare.grid.AXES`); anything else, and a tuple for
            ``stop`` or ``bad_words``, holds for all answers.

    Returns:
        The `Comparison`: iterate it for its rows; an answer that failed has its error in its row.

    Raises:
        PromptError, PictureError: the prompt cannot be read.
        OptionError: an axis or a setting that does not exist or fit.
    """
    from vlm_magic.tasks.compare.grid import Comparison
    from vlm_magic.tasks.compare.run import run
    from vlm_magic.tasks.examples import example_turns

    is_axis = {
        n: isinstance(v, list) or (isinstance(v, tuple) and n not in _TUPLES) for n, v in values.items()
    }
    settings = {n: v for n, v in values.items() if n in Settings.names() and not is_axis[n]}
    axes = {n: v if is_axis[n] else [v] for n, v in values.items() if n not in settings}
    question = to_parts(parts)
    turns = () if examples is None else example_turns(examples, prompt=question)
    comparison = Comparison(question, axes, Settings().updated(settings), turns)
    with current().models.lending() as lender:
        return run(comparison, lender, on_change)
