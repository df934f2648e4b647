"""The "Explain" button at an answer: what is found is shown below it, and stays out of the conversation.

Pressed again it stops, or takes away what it showed. A word that might have come, pressed in it, becomes
another answer of the turn. Neighbours: `vlm_magic.session` looks, the panel shows;
`vlm_magic.shell.chat` and `cell_panel` have the button.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from vlm_magic.errors import VLMError
from vlm_magic.explain.explanation import Explanation
from vlm_magic.messages import Engine, Exchange
from vlm_magic.outputs.explain.bundle import waiting_bundle
from vlm_magic.session import Answer, Session

__all__ = ["Explaining"]

_PAUSE_S = 0.4  # between two looks at how far it is


class Explaining:
    """Serves the button of one panel.

    Args:
        panel: gives the panel; None where there is none any more.
    """

    def __init__(self, panel: Callable[[], Any]) -> None:
        self._panel = panel
        self._stops: dict[str, threading.Event] = {}
        self._found: dict[str, Explanation] = {}

    def press(self, session: Session, exchange_id: str, engine: Engine | None = None) -> None:
        """Begin to look at an answer; stop where that is under way, or take away what is shown."""
        panel = self._panel()
        if panel is None:
            return
        under_way = self._stops.get(exchange_id)
        if under_way is not None:
            under_way.set()
        elif panel.why(exchange_id):
            panel.explain(exchange_id, "")
            self._found.pop(exchange_id, None)
        else:
            stop = self._stops[exchange_id] = threading.Event()
            panel.explain(exchange_id, waiting_bundle("the answer", 0, 0)["text/html"], is_under_way=True)
            work = (session, exchange_id, engine, panel, stop)
            threading.Thread(target=self._look, args=work, name="vlm_magic why", daemon=True).start()

    def another(self, session: Session, exchange: Exchange, place: int, word: str) -> Callable[..., Answer]:
        """What lets the model go on from another word of an answer, by what was found out about it.

        Args:
            session: the conversation.
            exchange: the turn.
            place: of the token that the word takes the place of, from 1.
            word: what to say there.
        """
        found = self._found.get(exchange.id)
        is_of_it = found is not None and found.exchange.reply is exchange.reply and "words" in found
        words = found.words if found is not None and is_of_it else ()

        def go_on(exchange_id: str, **options: Any) -> Answer:
            return session.continue_with(word, place, turn=exchange_id, words=words, **options)

        return go_on

    def _look(
        self, session: Session, exchange_id: str, engine: Engine | None, panel: Any, stop: threading.Event
    ) -> None:
        told_at = 0.0

        def tell(view: str, done: int, total: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at > _PAUSE_S:
                told_at = time.monotonic()
                waiting = waiting_bundle(view, done, total)["text/html"]
                panel.explain(exchange_id, waiting, is_under_way=True)

        html = ""
        try:
            found = session.explain(turn=exchange_id, engine=engine, on_progress=tell, is_stopped=stop.is_set)
            self._found[exchange_id] = found
            html = found.to_html()
        except VLMError as error:
            if not stop.is_set():
                panel.notify(f"{type(error).__name__}: {error}")
        finally:
            self._stops.pop(exchange_id, None)
            panel.explain(exchange_id, html)
