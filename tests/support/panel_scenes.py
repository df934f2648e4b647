"""Small plays for the panel, run in a kernel of the browser tests: exchanges without a model."""

from __future__ import annotations

import base64
import io
import threading
import time
from dataclasses import replace
from typing import Any

from PIL import Image, ImageDraw

from vlm_magic.messages import Chunk, Exchange, Picture, Progress, Reply, Text
from vlm_magic.outputs.answer_views import choose_view
from vlm_magic.outputs.panel.composer import Typed

RICH = """The two scenes differ in **three** ways:

1. The red circle moved from the *left* to the right.
2. A small `blue` square is new.
3. The area of the circle, $\\pi r^2$, is about \\(12.6\\) cm².

| shape | before | after |
|:------|-------:|------:|
| circle | 1 | 1 |
| square | 0 | 1 |

```python
from PIL import ImageChops

difference = ImageChops.difference(before, after)  # zero where nothing changed
print(difference.getbbox())
```

> The background did not change.

See [the documentation](https://pillow.readthedocs.io/en/stable/) for more."""


def picture(name: str = "before", color: str = "crimson", size: tuple[int, int] = (640, 480)) -> Picture:
    """A drawn picture with a name."""
    image = Image.new("RGB", size, "#f4f1ea")
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.ellipse((width // 8, height // 4, width // 2, height * 3 // 4), fill=color)
    draw.rectangle((width * 5 // 8, height // 3, width * 7 // 8, height * 2 // 3), fill="steelblue")
    return Picture(image, name=name, image=image, digest=f"{name}{color}{size}")


def thumbnail(shown: Picture) -> str:
    """A thumbnail as the real ones are."""
    small = shown.rgb.copy()
    small.thumbnail((160, 160))
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def question(number: int = 1, *parts: object) -> Exchange:
    """A question about two pictures."""
    default = (
        Text("What changed between "),
        picture(),
        Text(" and "),
        picture("after", "seagreen"),
        Text("?"),
    )
    return Exchange(f"x{number}", tuple(parts) or default)  # type: ignore[arg-type]


def reply(text: str, reason: str = "stop", **figures: Any) -> Reply:
    """A reply with plausible figures."""
    values = {
        "n_prompt_tokens": 214, "n_picture_tokens": 128, "n_reused_tokens": 64,
        "n_new_tokens": len(text.split()), "ttft_s": 0.2, "tokens_per_s": 31.0, "total_s": 2.4,
        "model": "starter",
    }  # fmt: skip
    return Reply(text, finish_reason=reason, **{**values, **figures})  # type: ignore[arg-type]


def ask(
    text: str = RICH,
    number: int = 1,
    *,
    tokens_per_s: float = 100.0,
    parts: tuple[object, ...] = (),
    wait_s: float = 0.0,
    **options: Any,
) -> None:
    """What ``%%vlm`` does for one cell: blocks until the answer is there, stops when the panel says so."""
    exchange = question(number, *parts)
    stopped = threading.Event()

    def act(action: dict[str, Any]) -> None:
        if action == {"kind": "stop", "exchange": exchange.id}:
            stopped.set()

    view = choose_view(thumbnail=thumbnail, model="starter", on_action=act, **options)
    view.begin(exchange)
    view.progress(Progress("prefill", 1, 2))
    reason, said = "stop", ""
    try:
        stopped.wait(wait_s)
        for n, piece in enumerate(_pieces(text), start=1):
            if stopped.is_set():
                reason = "interrupted"
                break
            said += piece
            view.push(Chunk(piece, n))
            if tokens_per_s:
                time.sleep(1 / tokens_per_s)
    except KeyboardInterrupt:
        exchange.reply = reply(said, "interrupted")
        view.finish(exchange)
        raise
    exchange.reply = reply(said, reason)
    view.finish(exchange)


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


class Chat:
    """What ``%vlm_chat`` does, with scripted answers: every action of the panel, one answer at a time."""

    def __init__(
        self,
        *texts: str,
        tokens_per_s: float = 100.0,
        exchanges: tuple[Exchange, ...] = (),
        thought: str = "",
    ) -> None:
        from vlm_magic.outputs.chat import ChatView

        self.texts = list(texts)
        self.thought = thought
        self.tokens_per_s = tokens_per_s
        self.exchanges = list(exchanges)
        self.actions: list[dict[str, Any]] = []
        self.stops: set[str] = set()
        self.turn = threading.Lock()
        self.view = ChatView(
            "main", thumbnail=thumbnail, model="starter", on_action=self.act, completer=self.complete,
            settings={"temperature": None, "max_tokens": 512, "system": ""},
        )  # fmt: skip
        self.view.show(self.exchanges)

    def complete(self, prefix: str) -> list[str]:
        return [name for name in ("before", "after", "beach") if name.startswith(prefix)]

    def act(self, action: dict[str, Any]) -> None:
        self.actions.append(action)
        kind = action["kind"]
        found = [e for e in self.exchanges if e.id == action.get("exchange")]
        if kind == "stop":
            self.stops.add(action["exchange"])
        elif kind == "send":
            self.start(Exchange(f"c{len(self.actions)}", tuple(map(self.decoded, action["parts"]))))
        elif kind in ("regenerate", "refresh", "edit"):
            exchange = found[0]
            if kind == "edit":
                asked, exchange.parts = exchange.parts, tuple(map(self.decoded, action["parts"]))
                exchange.reply = replace(exchange.reply, asked=asked)  # type: ignore[type-var]
                for later in self.exchanges[self.exchanges.index(exchange) + 1 :]:
                    later.is_stale = True
            exchange.alternatives += [exchange.reply] if exchange.reply else []
            exchange.reply, exchange.is_stale = None, False
            self.start(exchange)
        elif kind == "choose":
            earlier = found[0].alternatives.pop(action["alternative"])
            found[0].alternatives.append(found[0].reply)  # type: ignore[arg-type]
            found[0].reply = earlier
            self.view.update(self.exchanges)
        elif kind in ("delete", "clear"):
            self.exchanges = [e for e in self.exchanges if kind == "delete" and e not in found]
            self.view.update(self.exchanges)

    def decoded(self, part: Any) -> Any:
        if isinstance(part, Typed):
            if "{missing}" in part.text:
                raise LookupError("no variable 'missing' in this notebook")
            return Text(part.text)
        if isinstance(part, Text) or part.image is not None:
            return part
        image = Image.open(io.BytesIO(part.source)).convert("RGB")
        return Picture(part.source, name=part.name, image=image, digest=part.name)

    def start(self, exchange: Exchange) -> None:
        if exchange not in self.exchanges:
            self.exchanges.append(exchange)
        self.stops.discard(exchange.id)
        self.view.update(self.exchanges)
        text = self.texts.pop(0) if self.texts else "Understood."
        threading.Thread(target=self.answer, args=(exchange, text), daemon=True).start()

    def answer(self, exchange: Exchange, text: str) -> None:
        if self.turn.locked():
            self.view.progress(exchange, Progress("queued", 1))
        with self.turn:
            said, reason = "", "stop"
            thoughts = _pieces(self.thought) if self.thought else []
            for n, piece in enumerate(thoughts, start=1):
                self.view.push(exchange, Chunk("", n, thinking=piece))
                time.sleep(1 / self.tokens_per_s)
            for n, piece in enumerate(_pieces(text), start=len(thoughts) + 1):
                if exchange.id in self.stops:
                    reason = "interrupted"
                    break
                said += piece
                self.view.push(exchange, Chunk(piece, n))
                time.sleep(1 / self.tokens_per_s)
            exchange.reply = reply(said, reason, thinking=self.thought, n_thinking_tokens=len(thoughts))
            self.view.finish(exchange)
            self.view.save(self.exchanges)
