"""Every error that a person can cause, and how it looks in a notebook.

    VLMError
    ├── PromptError (ValueError)             a prompt that cannot be read
    │   └── ExpressionError                  a {expression} that raised
    ├── PictureError (ValueError)            something about one picture
    │   ├── PictureNotFoundError (LookupError)   no such variable or file
    │   ├── PictureTypeError (TypeError)         an object that is not a picture
    │   ├── PictureDecodeError                   bytes that are no readable picture
    │   ├── PictureTooLargeError                 more pixels than allowed
    │   └── FetchError (OSError)                 a URL that gave no picture
    │       ├── FetchStatusError                     the server said no (404, 500, …)
    │       ├── FetchTimeoutError (TimeoutError)     the total deadline passed
    │       ├── FetchTooLargeError                   more bytes than allowed
    │       └── FetchRefusedError (PermissionError)  an address we do not go to
    ├── OptionError (ValueError)             an option or a setting that does not exist or fit
    ├── TypedAnswerError (ValueError)        an answer that is not, or not wholly, of its type
    ├── ConversationError (LookupError)      no such conversation or turn
    ├── ClusterError (ConnectionError)       workers that are gone, or are not as they should be
    └── ModelError (RuntimeError)            something about one model
        ├── ModelNotFoundError (LookupError)     no such model here or on the hub
        ├── ModelKindError (TypeError)           a model that takes no pictures
        ├── ModelLoadError                       the checkpoint is there and does not load
        ├── ContextLengthError (ValueError)      the prompt does not fit the context
        ├── GenerationError                      the model failed while answering
        ├── EngineGoneError (ConnectionError)    a server that cannot be reached any more
        ├── KeyRefusedError (PermissionError)    a server that wants a key, or another one
        └── OutOfMemoryError (MemoryError)       the device ran out of memory

Each error is three lines: what failed, what there is, what to try. In IPython these errors print
just those lines; ``VLM_MAGIC_TRACEBACK=1`` in the environment brings the full traceback back. Bugs
are not of this tree and keep their traceback. This module knows nothing of anything else.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable

from vlm_magic.wording import shorten

__all__ = [
    "ClusterError",
    "ContextLengthError",
    "ConversationError",
    "EngineGoneError",
    "ExpressionError",
    "FetchError",
    "FetchRefusedError",
    "FetchStatusError",
    "FetchTimeoutError",
    "FetchTooLargeError",
    "GenerationError",
    "KeyRefusedError",
    "ModelError",
    "ModelKindError",
    "ModelLoadError",
    "ModelNotFoundError",
    "OptionError",
    "OutOfMemoryError",
    "PictureDecodeError",
    "PictureError",
    "PictureNotFoundError",
    "PictureTooLargeError",
    "PictureTypeError",
    "PromptError",
    "TypedAnswerError",
    "VLMError",
    "near_names",
]


def near_names(name: str, known: Iterable[str], n: int = 5) -> list[str]:
    """The names of ``known`` that look most like ``name``, best first."""
    return difflib.get_close_matches(name, [k for k in known if isinstance(k, str)], n=n, cutoff=0.6)


class VLMError(Exception):
    """The root of all errors of this package.

    Args:
        what: what failed, with the name of the thing, in a few words.
        have: what there is instead (near names, sizes, limits).
        hint: what to try; the line after ``try:``.
        **values: the facts of the failure, kept as attributes (never a secret).
    """

    def __init__(self, what: str, *, have: str = "", hint: str = "", **values: object) -> None:
        self.what = shorten(what)
        self.have = shorten(have)
        self.hint = shorten(hint)
        for name, value in values.items():
            setattr(self, name, value)
        super().__init__(self.what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.have:
            lines.append(f"  have: {self.have}")
        if self.hint:
            lines.append(f"  try:  {self.hint}")
        return "\n".join(lines)

    def _render_traceback_(self) -> list[str]:
        """What IPython prints for this error: its lines alone, or everything on request."""
        if os.environ.get("VLM_MAGIC_TRACEBACK", "") not in ("", "0"):
            return "".join(traceback.format_exception(self)).splitlines()
        return f"{type(self).__name__}: {self}".splitlines()


class PromptError(VLMError, ValueError):
    """A prompt that cannot be read."""


class ExpressionError(PromptError):
    """A ``{expression}`` of a prompt that raised; the cause is chained."""


class PictureError(VLMError, ValueError):
    """Something about one picture."""


class PictureNotFoundError(PictureError, LookupError):
    """No variable or file of that name."""


class PictureTypeError(PictureError, TypeError):
    """An object that is not a picture."""


class PictureDecodeError(PictureError):
    """Bytes or a file that are no readable picture."""


class PictureTooLargeError(PictureError):
    """A picture of more pixels than allowed; decided before decoding."""


class FetchError(PictureError, OSError):
    """A URL that gave no picture."""


class FetchStatusError(FetchError):
    """The server answered with an error status."""


class FetchTimeoutError(FetchError, TimeoutError):
    """The total deadline of a download passed."""


class FetchTooLargeError(FetchError):
    """The server sent more bytes than allowed."""


class FetchRefusedError(FetchError, PermissionError):
    """An address that is not fetched: private, local, or not http(s)."""


class OptionError(VLMError, ValueError):
    """An option of a magic, or a setting of a call, that does not exist or does not fit."""


class TypedAnswerError(VLMError, ValueError):
    """An answer that is not of its type: cut short, or refused by a validator; it keeps its text."""


class ConversationError(VLMError, LookupError):
    """No such conversation or turn."""


class ClusterError(VLMError, ConnectionError):
    """A cluster whose workers are gone, or are not as they should be."""


class ModelError(VLMError, RuntimeError):
    """Something about one model."""


class ModelNotFoundError(ModelError, LookupError):
    """No such model: not a folder, not in the cache, not on the hub (or the hub is out of reach)."""


class ModelKindError(ModelError, TypeError):
    """A model that takes no pictures, or lacks a processor or a chat template."""


class ModelLoadError(ModelError):
    """The checkpoint was found and does not load."""


class ContextLengthError(ModelError, ValueError):
    """The prompt does not fit the model's context; nothing was trimmed."""


class GenerationError(ModelError):
    """The model failed while it answered."""


class EngineGoneError(ModelError, ConnectionError):
    """The server cannot be reached, or not any more: what was answered is kept."""


class KeyRefusedError(ModelError, PermissionError):
    """The server wants a key, or another one."""


class OutOfMemoryError(ModelError, MemoryError):
    """The device ran out of memory; the cause is kept as text so that no frame holds tensors."""
