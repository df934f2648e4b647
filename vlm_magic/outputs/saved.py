"""What a saved notebook keeps of a conversation for going on with it: records in the outputs' metadata.

A record is plain JSON: words, names and digests of pictures, the answer with its figures. Pixels
are not in it; whoever restores looks them up by their digest. A notebook may come from anybody, so
reading believes nothing: a record of another shape is left out, sizes are bounded.
Pure functions. Neighbours: `views` and `chat` write records, the shell reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from vlm_magic.errors import OptionError
from vlm_magic.messages import Exchange, Part, Picture, Reply, Settings, Text

__all__ = ["METADATA_KEY", "exchanges_in", "from_record", "metadata_for", "to_record"]

METADATA_KEY = "vlm_magic"
_VERSION = 1
_MAX_CHARS = 1_000_000  # of one text; no question or answer is longer
_ENDINGS = ("stop", "length", "interrupted", "time")
_COUNTS = ("n_prompt_tokens", "n_picture_tokens", "n_reused_tokens", "n_new_tokens")
_SECONDS = ("ttft_s", "tokens_per_s", "total_s")


def metadata_for(exchanges: Iterable[Exchange], conversation: str) -> dict[str, Any]:
    """The metadata of an output that shows these exchanges."""
    records = [to_record(exchange) for exchange in exchanges if exchange.reply is not None]
    return {METADATA_KEY: {"version": _VERSION, "conversation": conversation, "exchanges": records}}


def to_record(exchange: Exchange) -> dict[str, Any]:
    """An exchange as JSON, without pixels."""
    default = Settings()
    settings = {
        f.name: getattr(exchange.settings, f.name)
        for f in fields(Settings)
        if getattr(exchange.settings, f.name) != getattr(default, f.name)
    }
    record: dict[str, Any] = {
        "id": exchange.id,
        "key": list(exchange.key) if exchange.key else None,
        "parts": [_part_record(part) for part in exchange.parts],
        "settings": settings,
        "is_stale": exchange.is_stale,
        "is_hidden": exchange.is_hidden,
    }
    if exchange.reply is not None:
        record["reply"] = _reply_record(exchange.reply)
    return record


def _part_record(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    return {"picture": part.name, "digest": part.digest}


def _reply_record(reply: Reply) -> dict[str, Any]:
    names = ("text", "finish_reason", "model", *_COUNTS, *_SECONDS)
    return {**{name: getattr(reply, name) for name in names}, "notes": list(reply.notes)}


def exchanges_in(notebook: Mapping[str, Any]) -> Iterator[tuple[str, Exchange]]:
    """All exchanges that the outputs of a notebook keep, in its order, with their conversation's name.

    A later record of the same exchange takes the place of an earlier one; what is no proper record
    is left out. Pictures come without pixels, with their digests.

    Args:
        notebook: a notebook of format 4, as `json.load` gives it.
    """
    found: dict[tuple[str, str], Exchange] = {}
    for cell in _list(notebook.get("cells")):
        for output in _list(_mapping(cell).get("outputs")):
            kept = _mapping(_mapping(_mapping(output).get("metadata")).get(METADATA_KEY))
            if kept.get("version") != _VERSION:
                continue
            name = kept.get("conversation")
            for record in _list(kept.get("exchanges")):
                exchange = from_record(record)
                if exchange is not None and isinstance(name, str):
                    found[name[:200], exchange.id] = exchange
    for (name, _), exchange in found.items():
        yield name, exchange


def from_record(record: object) -> Exchange | None:
    """The exchange of a record, or None where it is none."""
    kept = _mapping(record)
    parts = [_part(part) for part in _list(kept.get("parts"))]
    reply = _reply(_mapping(kept.get("reply")))
    known = [part for part in parts if part is not None]
    if not isinstance(kept.get("id"), str) or reply is None or not parts or len(known) < len(parts):
        return None
    return Exchange(
        kept["id"][:200],
        tuple(known),
        _settings(_mapping(kept.get("settings"))),
        reply,
        _key(kept.get("key")),
        is_stale=kept.get("is_stale") is True,
        is_hidden=kept.get("is_hidden") is True,
    )


def _part(record: object) -> Part | None:
    kept = _mapping(record)
    text, name, digest = kept.get("text"), kept.get("picture"), kept.get("digest")
    if isinstance(text, str) and len(text) <= _MAX_CHARS:
        return Text(text)
    if isinstance(name, str) and isinstance(digest, str):
        return Picture(None, name=name[:200], digest=digest[:200])
    return None


def _reply(kept: Mapping[str, Any]) -> Reply | None:
    text, reason, model = kept.get("text"), kept.get("finish_reason"), kept.get("model", "")
    if (
        not isinstance(text, str)
        or len(text) > _MAX_CHARS
        or reason not in _ENDINGS
        or not isinstance(model, str)
    ):
        return None
    counts: dict[str, Any] = {name: kept[name] for name in _COUNTS if type(kept.get(name)) is int}
    seconds: dict[str, Any] = {
        name: float(kept[name]) for name in _SECONDS if type(kept.get(name)) in (int, float)
    }
    notes = tuple(note[:500] for note in _list(kept.get("notes")) if isinstance(note, str))
    return Reply(text, reason, model=model[:200], notes=notes, **counts, **seconds)


def _settings(kept: Mapping[str, Any]) -> Settings:
    """Settings that hold; one that does not is left at its default."""
    settings = Settings()
    for name, value in kept.items():
        if name == "special_tokens":  # nobody's file may make text into control tokens
            continue
        try:
            settings = settings.updated({name: tuple(value) if isinstance(value, list) else value})
        except (OptionError, TypeError, ValueError):
            continue
    return settings


def _key(kept: object) -> tuple[str, int] | None:
    match kept:
        case [str() as cell, int() as call]:
            return cell, call
        case _:
            return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
