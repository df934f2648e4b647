"""Vision-language models as a natural part of a notebook.

    %load_ext vlm_magic
    %vlm_load

    %%vlm -o answer
    What changed between {before} and {after}?

The same in plain Python:

    engine = vlm_magic.load()
    session = vlm_magic.Session(engine)
    print(session.ask("What is in ", picture, "?"))

Importing this package imports neither torch nor transformers; loading a model does. Every public name is
imported when it is first used, from the module that `_WHERE` names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_magic.errors import VLMError
    from vlm_magic.explain.explanation import Explanation
    from vlm_magic.front import compare, connect, engine, load, session
    from vlm_magic.inputs.pictures import to_pil
    from vlm_magic.messages import Bill, Chunk, Engine, Picture, Reply, Settings, Text, Turn
    from vlm_magic.session import Session
    from vlm_magic.starter.questions import starter_questions
    from vlm_magic.tasks.classify import classify
    from vlm_magic.tasks.evaluate.evaluate import evaluate
    from vlm_magic.tasks.map.calls import map_pictures
    from vlm_magic.tasks.training.batch import training_batch
    from vlm_magic.tasks.training.teach import lesson, teach
    from vlm_magic.tasks.typed import typed

__version__ = "0.1.0"

__all__ = [
    "Bill",
    "Chunk",
    "Engine",
    "Explanation",
    "Picture",
    "Reply",
    "Session",
    "Settings",
    "Text",
    "Turn",
    "VLMError",
    "classify",
    "compare",
    "connect",
    "engine",
    "evaluate",
    "lesson",
    "load",
    "load_ipython_extension",
    "map_pictures",
    "session",
    "starter_questions",
    "teach",
    "to_pil",
    "training_batch",
    "typed",
    "unload_ipython_extension",
]

_WHERE = {
    "Bill": "messages",
    "Chunk": "messages",
    "Engine": "messages",
    "Explanation": "explain.explanation",
    "Picture": "messages",
    "Reply": "messages",
    "Session": "session",
    "Settings": "messages",
    "Text": "messages",
    "Turn": "messages",
    "VLMError": "errors",
    "classify": "tasks.classify",
    "compare": "front",
    "connect": "front",
    "engine": "front",
    "evaluate": "tasks.evaluate.evaluate",
    "lesson": "tasks.training.teach",
    "load": "front",
    "map_pictures": "tasks.map.calls",
    "session": "front",
    "starter_questions": "starter.questions",
    "teach": "tasks.training.teach",
    "to_pil": "inputs.pictures",
    "training_batch": "tasks.training.batch",
    "typed": "tasks.typed",
}

if not TYPE_CHECKING:
    importlib.import_module(f"{__name__}.session")  # once, and now: an import puts the module under its name,
    globals().pop(
        "session", None
    )  # the name is the function's; gone already when this module is loaded again


def __getattr__(name: str) -> Any:
    """A public name at its first use; see `_WHERE`."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, those that were not used yet as well."""
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; called by ``%load_ext vlm_magic``."""
    from vlm_magic.shell.magics import register

    register(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the hooks out again; called by ``%unload_ext vlm_magic``. Loaded models stay."""
    from vlm_magic.shell.magics import unregister

    unregister(shell)
