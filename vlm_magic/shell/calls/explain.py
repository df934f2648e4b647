"""``%vlm_explain`` and ``%%vlm --explain``: an answer looked at from several sides, shown below it.

Neighbours: `vlm_magic.session` asks, `vlm_magic.explain` looks, `vlm_magic.outputs.live_output` shows how far
it is. Nothing of it enters the conversation.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence

from vlm_magic.conversation import CellKey
from vlm_magic.explain.explanation import Explanation, check_views
from vlm_magic.explain.words import N_LIKELIEST
from vlm_magic.inputs.pictures import to_pictures
from vlm_magic.messages import Engine, Exchange, Picture
from vlm_magic.outputs.explain.bundle import waiting_bundle
from vlm_magic.outputs.live_output import LiveOutput, show_bundle
from vlm_magic.outputs.records import metadata_for
from vlm_magic.outputs.transcript import exchange_bundle
from vlm_magic.session import Session
from vlm_magic.shell.calls.call import Context
from vlm_magic.shell.calls.code import last_answered, who_answered
from vlm_magic.shell.interrupted import Interrupted

__all__ = ["continue_last", "explain_last", "explain_turn", "settings_for"]

_PAUSE_S = 0.25  # between two looks at how far it is
_MOST_OTHERS = 4


def explain_last(context: Context, name: str | None, views: str, out: object = None) -> None:
    """Show why the last answer of a conversation is what it is.

    Args:
        context: where the call runs.
        name: of the conversation; the one answered in last if not given.
        views: their names, with commas or blanks between them; "" for the usual ones.
        out: variable of the notebook that gets the explanation.
    """
    asked = check_views(tuple(word for word in re.split(r"[\s,]+", views) if word))
    session, exchange = last_answered(context.workspace, name)
    found = _explain(context, session, exchange, asked, who_answered(context.workspace, exchange))
    if isinstance(out, str):
        context.names[out] = found


def continue_last(context: Context, name: str | None, written: str) -> None:
    """Take another word in the last answer, let the model go on from there, and show what comes.

    Args:
        context: where the call runs.
        name: of the conversation; the one answered in last if not given.
        written: ``WORD``, or ``N:WORD`` for the token at place N.
    """
    number, colon, word = written.partition(":")
    place = int(number) if colon and number.strip().isdigit() else None
    session, exchange = last_answered(context.workspace, name)
    answer = session.continue_with(
        written if place is None else word,
        place,
        turn=exchange.id,
        engine=who_answered(context.workspace, exchange),
    )
    try:
        for _ in answer:
            pass
    except KeyboardInterrupt:
        answer.stop()
        raise Interrupted("the answer before it is an alternative of the turn.") from None
    shown, conversation = answer.exchange, session.conversation.name
    key = context.workspace.conversations.pictures.shown_key
    show_bundle(
        exchange_bundle(shown, thumbnail=context.thumbnail),
        metadata_for([shown], conversation, pictures=key),
    )


def settings_for(engine: Engine, views: Sequence[str]) -> dict[str, int]:
    """What to ask a server with, so that its answer tells of its words."""
    is_asked = "words" in views and bool(engine.host)
    return {"top_log_probabilities": N_LIKELIEST} if is_asked else {}


def explain_turn(
    context: Context, session: Session, key: CellKey | None, views: Sequence[str], engine: Engine
) -> None:
    """Show why the answer that a cell has just got is what it is."""
    own = [
        turn for turn in session.conversation if turn.reply is not None and (key is None or turn.key == key)
    ]
    _explain(context, session, own[-1], views, engine, is_beside_panel=True)


def _explain(
    context: Context,
    session: Session,
    exchange: Exchange,
    views: Sequence[str],
    engine: Engine,
    *,
    is_beside_panel: bool = False,
) -> Explanation:
    output, shown_at = LiveOutput(), 0.0

    def tell(view: str, done: int, total: int) -> None:
        nonlocal shown_at
        if output.is_watched and time.monotonic() - shown_at > _PAUSE_S:
            shown_at = time.monotonic()
            output.show(waiting_bundle(view, done, total))

    try:
        found = session.explain(
            *views,
            turn=exchange.id,
            engine=engine,
            others=list(_others(context, exchange)),
            on_progress=tell,
        )
    except KeyboardInterrupt:
        raise Interrupted("the answer and the conversation are as they were.") from None
    is_live = is_beside_panel and output.is_watched
    output.show(found.bundle(pictures=context.save_thumbnails, is_beside_panel=is_live))
    return found


def _others(context: Context, exchange: Exchange) -> Iterator[Picture]:
    """Other pictures of the notebook: of its conversations, the newest first, then of its variables."""
    sessions = context.workspace.conversations.sessions.values()
    turns = sorted((turn for s in sessions for turn in s.conversation), key=lambda turn: -turn.answered_at)
    yield from (p for turn in turns if turn.id != exchange.id for p in turn.pictures if not p.is_lost)
    images = [
        (name, value)
        for name, value in context.names.items()
        if not name.startswith("_")
        and type(value).__module__.partition(".")[0] == "PIL"
        and hasattr(value, "size")
    ]
    for name, value in images[-_MOST_OTHERS:]:
        yield from to_pictures(Picture(value, name))
