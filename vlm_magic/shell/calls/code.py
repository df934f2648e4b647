"""``%vlm_code``: the plain transformers program of the last answer, shown or written to a file.

Neighbours: `vlm_magic.tasks.code.program` writes the program.
"""

from __future__ import annotations

import re
from pathlib import Path

from vlm_magic.errors import ConversationError, OptionError
from vlm_magic.messages import Engine, Exchange
from vlm_magic.outputs.live_output import show_bundle
from vlm_magic.session import Session
from vlm_magic.wording import list_words, shorten
from vlm_magic.workspace import Workspace

__all__ = ["last_answered", "show_code", "who_answered"]


def show_code(workspace: Workspace, name: str | None, file: str) -> None:
    """Show the program of the last answer, or write it to ``file``.

    Args:
        workspace: what is resident.
        name: the conversation whose last turn it is; without one, the one answered in last.
        file: where to write; "" shows it.

    Raises:
        ConversationError: nothing was asked yet. OptionError: no program, or the file cannot be written.
    """
    from vlm_magic.tasks.code.program import program_of

    session, exchange = last_answered(workspace, name)
    engine = who_answered(workspace, exchange)
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


def last_answered(workspace: Workspace, name: str | None) -> tuple[Session, Exchange]:
    """The last turn of this conversation; without a name, of the one that was answered in last."""
    session = workspace.conversations.known_session(name)
    answered = [turn for turn in session.conversation.exchanges if turn.reply is not None]
    if not answered:
        others = list_words(n for n, s in workspace.conversations.sessions.items() if len(s.conversation))
        raise ConversationError(
            f"nothing has been answered yet in conversation {session.conversation.name!r}",
            have=f"turns in {others}" if others else "no turns yet",
            hint="-c NAME" if others else "%%vlm with a question first",
        )
    if name is not None:
        return session, answered[-1]
    return session, max(answered, key=lambda turn: turn.answered_at)


def who_answered(workspace: Workspace, exchange: Exchange) -> Engine:
    """The engine that gave the answer, if it is still there; else the one in use."""
    model = exchange.reply.model if exchange.reply is not None else ""
    return workspace.models.answering_as(model) or workspace.models.engine()
