"""``%vlm_code``: the plain transformers program of the last answer, shown or written to a file.

Neighbours: `vlm_magic.tasks.code` writes the program.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vlm_magic.errors import ConversationError, OptionError, shorten
from vlm_magic.messages import Engine, Exchange
from vlm_magic.session import Session
from vlm_magic.shell.showing import show_bundle
from vlm_magic.workspace import Workspace

__all__ = ["show_code"]


def show_code(workspace: Workspace, name: str | None, file: str) -> None:
    """Show the program of the last answer, or write it to ``file``.

    Args:
        workspace: what is resident.
        name: the conversation whose last turn it is; without one, the turn answered last in any.
        file: where to write; "" shows it.

    Raises:
        ConversationError: nothing was asked yet. OptionError: no program, or the file cannot be written.
    """
    from vlm_magic.tasks.code import program_of

    session, exchange = _last(workspace, name)
    engine: Any = _who_answered(workspace, exchange)
    if not file:
        code = program_of(session, exchange, engine=engine)
        fence = "`" * (max((len(run) for run in re.findall("`+", code)), default=0) + 3)
        show_bundle({"text/plain": code, "text/markdown": f"{fence}python\n{code}{fence}"})
        return
    path = Path(file).expanduser()
    code = program_of(session, exchange, engine=engine, folder=path.parent / f"{path.stem}_pictures")
    try:
        path.write_text(code, encoding="utf-8")
    except OSError as error:
        raise OptionError(
            f"cannot write {file}", have=shorten(error, 100), hint="%vlm_code program.py"
        ) from error
    print(f"{path}: python {path.name} gives the same answer without this package")


def _last(workspace: Workspace, name: str | None) -> tuple[Session, Exchange]:
    """The conversation's last turn, or the one answered last of all."""
    if name is not None:
        session = workspace.known_session(name)
        turns = [(exchange, session) for exchange in session.conversation.exchanges[-1:]]
    else:
        known = list(workspace.sessions.values())
        turns = [(exchange, session) for session in known for exchange in session.conversation.exchanges]
    answered = [turn for turn in turns if turn[0].reply is not None]
    if not answered:
        raise ConversationError("nothing was answered yet", hint="%%vlm with a question, then %vlm_code")
    exchange, session = max(answered, key=lambda turn: turn[0].answered_at)
    return session, exchange


def _who_answered(workspace: Workspace, exchange: Exchange) -> Engine:
    """The engine that gave the answer, if it is still there; else the one in use."""
    model = exchange.reply.model if exchange.reply is not None else ""
    found = [engine for engine in workspace.engines.values() if engine.name == model]
    return found[-1] if found else workspace.engine()
