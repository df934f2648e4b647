"""What a saved notebook keeps of a conversation for going on with it: records in the outputs' metadata.

A record is plain JSON: words, names and digests of pictures, the answer with its figures. Pixels
are not in it; whoever restores looks them up by their digest. A notebook may come from anybody, so
reading believes nothing: a record of another shape is left out, sizes are bounded.

Records of one turn may stand in several outputs, of different age: the newest counts. An output
that shows a whole conversation says what belonged to it at that time; older turns that it does not
show were deleted.
Pure functions but for `read_notebook`. Neighbours: `answer_views` and `chat` write records, the workspace
reads them.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vlm_magic.errors import ConversationError, OptionError
from vlm_magic.messages import Choice, Exchange, Part, Picture, Reply, Settings, Text, Turn
from vlm_magic.wording import size_words

__all__ = [
    "METADATA_KEY",
    "SavedNotebook",
    "exchanges_in",
    "from_record",
    "metadata_for",
    "metadata_of_several",
    "read_notebook",
    "to_record",
]

METADATA_KEY = "vlm_magic"
_VERSION = 1
_MAX_CHARS = 1_000_000  # of one text; no question or answer is longer
_MAX_ALTERNATIVES = 3  # that a record keeps, the latest ones
_MAX_FILE_BYTES = 500_000_000
_ENDINGS = ("stop", "length", "interrupted", "time")
_COUNTS = ("n_prompt_tokens", "n_picture_tokens", "n_reused_tokens", "n_new_tokens")
_TIMES = ("ttft_s", "tokens_per_s", "total_s")
_CHOICE = ("text", "probability", "log_probability", "n_tokens", "score")  # a choice's row in a record
_PIC = re.compile(
    r'<span class="vlm-pic(?: vlm-pic-missing)?"[^>]*>'
    r'(?:<img src="(data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/]{1,80000}={0,2})")?'
)
_MAX_ROWS = 10_000  # of choices or examples


def metadata_for(
    exchanges: Iterable[Exchange], conversation: str, *, pictures: str = "", is_whole: bool = False
) -> dict[str, Any]:
    """The metadata of an output that shows these exchanges.

    Args:
        exchanges: what it shows; those without an answer are left out.
        conversation: the name of their conversation.
        pictures: the key under which their full pictures are kept on this machine; "" for nowhere.
        is_whole: whether they are all that the conversation has now.
    """
    records = [to_record(exchange) for exchange in exchanges if exchange.reply is not None]
    kept: dict[str, Any] = {"version": _VERSION, "conversation": conversation, "exchanges": records}
    if pictures:
        kept["pictures"] = pictures
    if is_whole:
        kept["whole_at"] = time.time()
    return {METADATA_KEY: kept}


def metadata_of_several(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The metadata of an output that shows several conversations, one after the other in this order."""
    first, *others = (metadata[METADATA_KEY] for metadata in each)
    return {METADATA_KEY: {**first, "also": others} if others else first}


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
    if exchange.examples:
        record["examples"] = [
            {"role": turn.role, "parts": [_part_record(part) for part in turn.parts]}
            for turn in exchange.examples
        ]
    if exchange.place:
        record |= {"place": exchange.place, "answered_at": exchange.answered_at}
    if exchange.reply is not None:
        record["reply"] = _reply_record(exchange.reply) | {"picture_tokens": list(exchange.picture_tokens)}
    if exchange.alternatives:
        record["alternatives"] = [_reply_record(r) for r in exchange.alternatives[-_MAX_ALTERNATIVES:]]
    return record


def _part_record(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    return {"picture": part.name, "digest": part.digest}


def _reply_record(reply: Reply) -> dict[str, Any]:
    names = ("text", "finish_reason", "model", *_COUNTS, *_TIMES)
    record = {**{name: getattr(reply, name) for name in names}, "notes": list(reply.notes)}
    if reply.asked:
        record["asked"] = [_part_record(part) for part in reply.asked]
    if reply.choices:
        record["choices"] = [[getattr(c, name) for name in _CHOICE] for c in reply.choices]
    return record


@dataclass(frozen=True)
class SavedNotebook:
    """The conversations of a notebook file, as its outputs keep them.

    Attributes:
        path: the file.
        saved_at: when it was written, in seconds since 1970.
        conversations: the exchanges by the name of their conversation, in its order; pictures come
            without pixels, with their digests.
        picture_keys: under which the full pictures are kept, where the outputs say.
        thumbnails: the small pictures that the outputs show, as data URIs, by the digest of the full one.
    """

    path: Path
    saved_at: float
    conversations: dict[str, list[Exchange]] = field(default_factory=dict)
    picture_keys: tuple[str, ...] = ()
    thumbnails: dict[str, str] = field(default_factory=dict)


def read_notebook(path: Path) -> SavedNotebook:
    """The conversations of a notebook file.

    Raises:
        ConversationError: no such file, or it is no notebook.
    """
    try:
        found = path.stat()
        if found.st_size > _MAX_FILE_BYTES:
            raise ConversationError(
                f"{path.name} is too large to search for turns",
                have=f"{size_words(found.st_size)}; {size_words(_MAX_FILE_BYTES)} are read",
            )
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversationError(
            f"no notebook {path.name!r}",
            have=f"{error.strerror or error} in {path.parent}",
            hint="%vlm_history --restore FILE.ipynb",
            path=path,
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConversationError(
            f"{path.name} cannot be read as a notebook", have=str(error), path=path
        ) from error
    notebook = _mapping(notebook)
    conversations: dict[str, list[Exchange]] = {}
    for name, exchange in exchanges_in(notebook):
        conversations.setdefault(name, []).append(exchange)
    keys = {str(kept.get("pictures", ""))[:100] for kept in _kept_by_outputs(notebook)}
    return SavedNotebook(
        path, found.st_mtime, conversations, tuple(sorted(keys - {""})), _thumbnails_in(notebook)
    )


def exchanges_in(notebook: Mapping[str, Any]) -> Iterator[tuple[str, Exchange]]:
    """All exchanges that the outputs of a notebook keep, by conversation and in its order.

    Of several records of one turn the newest counts; what is no proper record is left out. A turn
    that was answered before one ahead of it is stale. Pictures come without pixels, with their
    digests.

    Args:
        notebook: a notebook of format 4, as `json.load` gives it.

    Yields:
        The name of the conversation and the exchange.
    """
    shown: dict[str, list[_Shown]] = {}
    for kept in _kept_by_outputs(notebook):
        name = kept.get("conversation")
        if isinstance(name, str):
            found = [from_record(record) for record in _list(kept.get("exchanges"))]
            known = [exchange for exchange in found if exchange is not None]
            shown.setdefault(name[:200], []).append(_Shown(known, _seconds(kept.get("whole_at"))))
    for name, outputs in shown.items():
        for exchange in _merged(outputs):
            yield name, exchange


def _thumbnails_in(notebook: Mapping[str, Any]) -> dict[str, str]:
    """The thumbnails of pictures by digest: an output shows them in the order of its record's pictures."""
    found: dict[str, str] = {}
    for output, kept in _outputs_with_records(notebook):
        html = _mapping(output.get("data")).get("text/html", "")
        html = "".join(html) if isinstance(html, list) else html
        every = [kept, *map(_mapping, _list(kept.get("also")))]
        turns = [from_record(record) for one in every for record in _list(one.get("exchanges"))]
        pictures = [picture for turn in turns if turn is not None for picture in turn.pictures]
        shown = [match[1] or "" for match in _PIC.finditer(html)] if isinstance(html, str) else []
        if None not in turns and len(shown) == len(pictures):
            found.update((p.digest, src) for p, src in zip(pictures, shown, strict=True) if src)
    return found


@dataclass(frozen=True)
class _Shown:
    """What one output shows of a conversation; ``whole_at`` is 0.0 where it does not show all of it."""

    exchanges: list[Exchange]
    whole_at: float


def _kept_by_outputs(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for _, kept in _outputs_with_records(notebook):
        yield kept
        yield from map(_mapping, _list(kept.get("also")))


def _outputs_with_records(
    notebook: Mapping[str, Any],
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for cell in _list(notebook.get("cells")):
        for output in map(_mapping, _list(_mapping(cell).get("outputs"))):
            kept = _mapping(_mapping(output.get("metadata")).get(METADATA_KEY))
            if kept.get("version") == _VERSION:
                yield output, kept


def _merged(outputs: list[_Shown]) -> list[Exchange]:
    """The turns of one conversation: the newest record of each, in their places, without deleted ones."""
    latest = max(outputs, key=lambda shown: shown.whole_at)
    members = {_identity(exchange) for exchange in latest.exchanges}
    turns: dict[object, Exchange] = {}
    # Of equally old records that of a whole conversation counts: it alone knows what was hidden or chosen.
    for shown in sorted(outputs, key=lambda shown: shown.whole_at):
        for exchange in shown.exchanges:
            is_older = 0 < exchange.answered_at <= latest.whole_at
            was_deleted = is_older and _identity(exchange) not in members
            other = turns.get(exchange.key or _identity(exchange))
            if not was_deleted and (other is None or other.answered_at <= exchange.answered_at):
                turns[exchange.key or _identity(exchange)] = exchange
    # Where places are the same, the order is that of the notebook.
    order = {id(e): n for n, e in enumerate(e for shown in outputs for e in shown.exchanges)}
    merged = sorted(turns.values(), key=lambda exchange: (exchange.place, order[id(exchange)]))
    newest = 0.0
    for exchange in merged:
        exchange.is_stale = exchange.is_stale or 0 < exchange.answered_at < newest
        newest = max(newest, exchange.answered_at)
    return merged


def _identity(exchange: Exchange) -> tuple[str, float]:
    return exchange.id, exchange.answered_at


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
        alternatives=_replies(kept.get("alternatives")),
        place=kept["place"] if type(kept.get("place")) is int else 0,
        answered_at=_seconds(kept.get("answered_at")),
        examples=_examples(kept.get("examples")),
    )


def _examples(records: object) -> tuple[Turn, ...]:
    """The examples of a record; none where one of them is no turn."""
    found = []
    for record in _list(records)[:_MAX_ROWS]:
        kept = _mapping(record)
        parts = [_part(part) for part in _list(kept.get("parts"))]
        role, known = kept.get("role"), tuple(part for part in parts if part is not None)
        if role not in ("user", "assistant") or not parts or len(known) < len(parts):
            return ()
        found.append(Turn(role, known))
    return tuple(found)


def _choices(records: object) -> tuple[Choice, ...]:
    """The choices of a record; none where one of them is of another shape."""
    found = []
    for record in _list(records)[:_MAX_ROWS]:
        match record:
            case [
                str() as text,
                int() | float() as share,
                int() | float() as log,
                int() as n,
                int() | float() as score,
            ]:
                if not (0 <= share <= 1 and math.isfinite(log) and math.isfinite(score)):
                    return ()
                found.append(Choice(text[:_MAX_CHARS], float(share), float(log), n, float(score)))
            case _:
                return ()
    return tuple(found)


def _replies(records: object) -> list[Reply]:
    found = [_reply(_mapping(record)) for record in _list(records)[:_MAX_ALTERNATIVES]]
    return [reply for reply in found if reply is not None]


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 < value < 1e12 else 0.0


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
        name: float(kept[name]) for name in _TIMES if type(kept.get(name)) in (int, float)
    }
    notes = tuple(note[:500] for note in _list(kept.get("notes")) if isinstance(note, str))
    choices = _choices(kept.get("choices"))
    tokens = tuple(n for n in _list(kept.get("picture_tokens")) if type(n) is int)
    asked = [_part(part) for part in _list(kept.get("asked"))]
    known = tuple(part for part in asked if part is not None)
    figures = {**counts, **seconds, "notes": notes, "choices": choices, "picture_tokens": tokens}
    if len(known) == len(asked):
        figures["asked"] = known
    return Reply(text, reason, model=model[:200], **figures)


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
