"""What a server is and can do, found out by asking: its kind, its models, a small question for each ability.

That a field was taken says nothing: many servers ignore what they do not know. So a form must show in the
answer, log-probabilities must be there and not all zero, and a second picture must make a longer prompt.
Neighbours: `dialects` knows kinds, `payload` writes the questions.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlm_magic.errors import EngineGoneError, KeyRefusedError, ModelNotFoundError, VLMError, near_names
from vlm_magic.messages import Picture, Settings, Text, Turn
from vlm_magic.remote.continuing import begun_fields, begun_message
from vlm_magic.remote.dialects import Dialect, dialect_of
from vlm_magic.remote.payload import body_of, messages_of
from vlm_magic.remote.pictures_sent import PictureEncoder
from vlm_magic.remote.transport.wire import Wire
from vlm_magic.wording import list_words

__all__ = ["Found", "find_out"]

_WORD = "zq7"  # nothing that a model would say by itself
_PATTERN = json.dumps({"regex": f"[{_WORD[0]}-{_WORD[0]}]{_WORD[1:]}"})  # a class: else it is enumerated
_FORMS = {
    "structured_outputs": json.dumps({"regex": _WORD}),
    "gbnf": json.dumps({"regex": _WORD}),
    "response_format": json.dumps(
        {
            "json_schema": {
                "type": "object",
                "properties": {"word": {"type": "string", "enum": [_WORD]}},
                "required": ["word"],
                "additionalProperties": False,
            }
        }
    ),
}


@dataclass
class Found:
    """What was found out about a server.

    Attributes:
        dialect: its kind.
        model: the model's name there.
        context_tokens: the model's context, None where the server does not say.
        abilities: "pictures", "several_pictures", "log_probabilities", "forms", "patterns", "scores",
            "counts", "continues".
        opening: what stands before the first word of a reply.
        remarks: what a person should know.
        n_slots: answers that it makes side by side, None where it does not say.
    """

    dialect: Dialect
    model: str
    context_tokens: int | None = None
    abilities: dict[str, bool] = field(default_factory=dict)
    opening: str = ""
    remarks: tuple[str, ...] = ()
    n_slots: int | None = None


def find_out(wire: Wire, model: str | None) -> Found:
    """Ask a server what it is, which model is meant, and what that can do.

    Raises:
        EngineGoneError, KeyRefusedError: it does not answer, or not without a key.
        ModelNotFoundError: no such model there, or several and none was named.
    """
    models = _models(wire)
    owners = dialect_of(models, None)
    openapi = _quiet(wire, f"{wire.address.root}/openapi.json") if owners.kind == "openai" else None
    dialect = dialect_of(models, openapi)
    entry = _chosen(wire, dialect, models, model)
    meta = entry.get("meta") or {}
    context = entry.get("max_model_len") or meta.get("n_ctx") or entry.get("max_context_length")
    found = Found(dialect, str(entry["id"]), int(context) if context else None)
    if dialect.kind == "llamacpp":
        props = _quiet(wire, f"{wire.address.root}/props")
        slots = props.get("total_slots") if isinstance(props, Mapping) else None
        found.n_slots = slots if isinstance(slots, int) and slots > 0 else None
    _try_abilities(wire, found)
    return found


def _models(wire: Wire) -> Any:
    try:
        return wire.get("/models")
    except (EngineGoneError, KeyRefusedError):
        raise
    except VLMError:  # transformers' own server, while the hub's cache is empty
        return None


def _quiet(wire: Wire, path: str) -> Any:
    with contextlib.suppress(VLMError):
        return wire.get(path)
    return None


def _chosen(wire: Wire, dialect: Dialect, models: Any, model: str | None) -> Mapping[str, Any]:
    """The entry of the model that is meant."""
    entries = models.get("data", ()) if isinstance(models, Mapping) else ()
    known = {str(entry["id"]): entry for entry in entries if isinstance(entry, Mapping) and entry.get("id")}
    if model is None and len(known) == 1:
        return next(iter(known.values()))
    if model in known:
        return known[str(model)]
    if model is not None and (not known or dialect.kind == "transformers"):
        return {"id": model}  # it loads what it is asked for
    names = near_names(model, known) if model else []
    raise ModelNotFoundError(
        f"{wire.address.host} has no model {model!r}" if model else f"which model of {wire.address.host}?",
        have=list_words(names or known) or "it lists none",
        hint=f"%vlm_load {wire.address.base} {next(iter(names or known), 'NAME')}",
        name=model,
    )


def _try_abilities(wire: Wire, found: Found) -> None:
    """One small question for each ability."""
    dialect, able, remarks = found.dialect, found.abilities, list[str]()
    plain = _ask(wire, found, [], Settings(max_tokens=2))
    if isinstance(plain, VLMError):
        raise plain
    raw = _content(plain)
    found.opening = " " if raw.startswith(" ") else ""
    counts = [_ask(wire, found, [_square(n) for n in range(n)], Settings(max_tokens=1)) for n in (1, 2)]
    able["pictures"] = not isinstance(counts[0], VLMError)
    sizes = [_prompt_tokens(each) for each in (plain, *counts)]
    is_counted = None not in sizes
    able["several_pictures"] = not isinstance(counts[1], VLMError) and (
        not is_counted or sizes[1] != sizes[2]
    )
    if is_counted and sizes[0] == sizes[1]:
        able["pictures"] = False
    if not able["pictures"]:
        remarks.append("it does not take pictures")
    elif not able["several_pictures"]:
        remarks.append("of several pictures it looks at the first alone")
    elif dialect.kind == "mlx":  # its prompt grows with each, so that nothing else would tell
        remarks.append("of several pictures mlx-vlm 0.7 was seen to look at the first alone")
    if dialect.has_log_probabilities:
        told = _ask(wire, found, [], Settings(max_tokens=2, log_probabilities=True))
        able["log_probabilities"] = _has_log_probabilities(told)
    if dialect.forms:
        said = _ask(wire, found, [], Settings(max_tokens=16, grammar=_FORMS[dialect.forms]))
        able["forms"] = _WORD in _content(said)
    if dialect.forms == "response_format" and able["forms"]:
        said = _ask(wire, found, [], Settings(max_tokens=24, grammar=_PATTERN))
        able["patterns"] = _WORD in _content(said)
    able["scores"] = bool(dialect.scores) and able.get("log_probabilities", False)
    able["counts"] = dialect.counts == "one_token" and is_counted
    if dialect.counts == "tokenize":
        body = {"model": found.model, "messages": [{"role": "user", "content": "a"}]}
        with contextlib.suppress(VLMError, TypeError, KeyError):
            able["counts"] = int(wire.post(f"{wire.address.root}/tokenize", body)["count"]) > 0
        able["scores"] = able["scores"] and able["counts"]
    able["continues"] = bool(dialect.continues) and _goes_on(wire, found)
    if dialect.kind == "transformers":
        remarks.append("it draws at random only where the checkpoint says so")
    found.remarks = tuple(remarks)


def _goes_on(wire: Wire, found: Found) -> bool:
    """Whether a begun answer at the end of a prompt is left open: nothing stands behind its words."""
    begun = [{"role": "user", "content": "Hello"}, begun_message(_WORD, found.dialect, found.opening)]
    if found.dialect.continues == "last_message":  # which llama.cpp can be told not to do
        with contextlib.suppress(VLMError, TypeError, KeyError):
            prompt = wire.post(f"{wire.address.root}/apply-template", {"messages": begun})["prompt"]
            return str(prompt).endswith(_WORD)
        return False
    body = body_of(found.model, begun, Settings(max_tokens=1), found.dialect) | {"stream": False}
    body.pop("stream_options", None)
    with contextlib.suppress(VLMError):
        fields = begun_fields(found.dialect)
        ways = ({name: value for name, value in fields.items() if value is False}, fields)
        closed, left_open = (_prompt_tokens(wire.post("/chat/completions", body | way)) for way in ways)
        return closed is not None and left_open is not None and left_open < closed
    return False


def _ask(wire: Wire, found: Found, pictures: list[Picture], settings: Settings) -> Any:
    """The whole answer to a small question, or the error."""
    turns = [Turn("user", (*pictures, Text("Hello")))]
    body = body_of(found.model, messages_of(turns, settings, _ENCODER), settings, found.dialect)
    body.pop("stream_options", None)
    try:
        return wire.post("/chat/completions", {**body, "stream": False})
    except (EngineGoneError, KeyRefusedError):
        raise
    except VLMError as error:
        return error


_ENCODER = PictureEncoder(64)


def _square(n: int) -> Picture:
    from PIL import Image

    return Picture(None, "probe", Image.new("RGB", (32, 32), ("red", "blue")[n]), f"probe {n}")


def _content(answer: Any) -> str:
    with contextlib.suppress(KeyError, IndexError, TypeError):
        return str(answer["choices"][0]["message"]["content"] or "")
    return ""


def _prompt_tokens(answer: Any) -> int | None:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return int(answer["usage"]["prompt_tokens"]) or None
    return None


def _has_log_probabilities(answer: Any) -> bool:
    with contextlib.suppress(KeyError, IndexError, TypeError, ValueError):
        entries = answer["choices"][0]["logprobs"]["content"]
        logs = [float(entry["logprob"]) for entry in entries]
        return bool(logs) and (any(logs) or bool(entries[0].get("top_logprobs")))
    return False
