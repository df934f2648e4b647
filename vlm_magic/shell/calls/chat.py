"""A question as a turn of a conversation: asked, shown as it is answered, its value put into the notebook.

Neighbours: `ask` has read the line; `vlm_magic.session` asks, `vlm_magic.outputs.answer_views` shows,
`vlm_magic.shell.cell_panel` serves the panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from vlm_magic.conversation import CellKey
from vlm_magic.inputs.thumbnails import thumbnail_data_uri
from vlm_magic.messages import Engine, Part, Reply, Turn
from vlm_magic.outputs.answer_views import AnswerView, choose_view
from vlm_magic.session import Answer, Session
from vlm_magic.shell.calls import typed
from vlm_magic.shell.calls.call import Call, Context
from vlm_magic.shell.calls.choices import fit_remark
from vlm_magic.shell.calls.explain import explain_turn, settings_for
from vlm_magic.shell.cell_panel import CellPanel
from vlm_magic.shell.cells import prompt_above
from vlm_magic.shell.chat import ChatController
from vlm_magic.shell.interrupted import Interrupted
from vlm_magic.tasks.choices.choices import Choices
from vlm_magic.tasks.forms import AnswerForm
from vlm_magic.tasks.typed import constraint_for

__all__ = ["answer", "engine_for", "show"]


class ShownReply(Reply):
    """A reply that stands in its cell's output already: that cell does not show it again, later ones do."""

    __slots__ = ("_shell", "_shown_in")

    _shell: Any
    _shown_in: int

    @classmethod
    def of(cls, reply: Reply, shell: Any) -> ShownReply:
        """The same reply, shown by the cell that runs in ``shell`` now."""
        shown = cls(**{f.name: getattr(reply, f.name) for f in fields(reply)})
        object.__setattr__(shown, "_shell", shell)
        object.__setattr__(shown, "_shown_in", shell.execution_count)
        return shown

    def _ipython_display_(self) -> None:
        shell = getattr(self, "_shell", None)  # copies and what was pickled have none
        if shell is None or shell.execution_count != self._shown_in:
            print(repr(self))


def answer(
    context: Context, call: Call, form: AnswerForm, parts: Sequence[Part], examples: Sequence[Turn]
) -> Reply | None:
    """Ask, show the answer as it comes, and put it into the notebook where ``-o`` says so."""
    engine = engine_for(context, call)
    constraint = None if form.schema is None else constraint_for(engine, form.schema)
    settings = {**settings_for(engine, call.explain), **form.settings_with(call.settings)}
    workspace = context.workspace
    key = workspace.cell.next_key()
    session = workspace.conversations.session_for(key, call.conversation, call.new)
    try:
        reply = _answer(context, call, parts, examples, engine, session, key, settings)
    except KeyboardInterrupt:
        raise  # its words may still be on their way: the worker brings them, however often somebody presses
    except BaseException:
        workspace.conversations.abandon(session)  # nothing will come of it
        raise
    if constraint is not None:
        typed.take(context, constraint, reply, call.out)
    elif call.out:
        context.names[call.out] = _value(reply, form)
    if call.explain and reply is not None and reply.text:
        explain_turn(context, session, key, call.explain, engine)
    return None if reply is None else ShownReply.of(reply, context.shell)


def _answer(
    context: Context,
    call: Call,
    parts: Sequence[Part],
    examples: Sequence[Turn],
    engine: Engine,
    session: Session,
    key: CellKey | None,
    settings: Mapping[str, Any],
) -> Reply | None:
    workspace = context.workspace
    remarks = fit_remark(engine, session, examples, parts, key, call.examples, fresh=call.new, **settings)
    panel = CellPanel(workspace, session, lambda shown: _controller(context, session, shown))
    view = _view(context, call, engine, session, panel)
    asked = session.start(
        parts,
        key=key,
        fresh=call.new,
        engine=engine,
        on_commit=lambda exchange: workspace.conversations.settle(session, exchange),
        on_progress=view.progress,
        examples=examples,
        remarks=remarks,
        **settings,
    )
    try:
        panel.serve(asked, view)
    except BaseException:
        asked.stop()
        raise
    show(asked, view)
    return asked.exchange.reply


def engine_for(context: Context, call: Call) -> Engine:
    """The model that a call names, or the one in use; the starter is loaded where there is none."""
    if remark := context.workspace.models.ensure_one():
        print(remark)
    return context.workspace.models.engine(call.model)


def show(answer: Answer, view: AnswerView) -> None:
    """Let the answer run through the view, whatever happens on the way."""
    try:
        view.begin(answer.exchange)
        for chunk in answer:
            view.push(chunk)
    except KeyboardInterrupt:
        answer.stop()
        answer.wait()
        view.finish(answer.exchange)
        raise Interrupted("the answer so far is kept, the model stays loaded.") from None
    except BaseException:
        view.fail()
        raise
    try:
        view.finish(answer.exchange)
    except KeyboardInterrupt:
        raise Interrupted("the answer was complete.") from None


def _controller(context: Context, session: Session, shown: object) -> ChatController:
    """What serves a cell's panel once it shows the whole conversation."""
    return ChatController(context.shell, context.workspace, session, pictures=context.pictures, panel=shown)


def _view(context: Context, call: Call, engine: Engine, session: Session, panel: CellPanel) -> AnswerView:
    return choose_view(
        use_panel=not call.no_panel,
        thumbnail=thumbnail_data_uri,
        save_thumbnails=context.save_thumbnails,
        model=engine.name,
        conversation=session.conversation.name,
        pictures_key=context.workspace.conversations.pictures.shown_key,
        prompt_above=prompt_above(context.workspace, call.text),
        title=panel.title,
        on_action=panel.act,
        actions=panel.actions_with(engine),
    )


def _value(reply: Reply | None, form: AnswerForm) -> object:
    """What ``-o`` gets of an answer: its text, or the `Choices`."""
    if reply is None:
        return ""
    return reply.text if form.choices is None else Choices(reply, form.choices)
