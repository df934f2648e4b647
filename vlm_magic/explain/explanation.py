"""What was found out about one answer: a view under each name, and how it shows itself.

Neighbours: `looking` makes it, `vlm_magic.outputs.explain` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from vlm_magic.errors import OptionError, near_names
from vlm_magic.messages import (
    Choice,
    Exchange,
    LayerWords,
    NeededParts,
    Picture,
    PromptTokens,
    SaidToken,
    TurnCost,
    WithoutPicture,
)
from vlm_magic.outputs.explain.bundle import explanation_bundle, explanation_png
from vlm_magic.uninterrupted import import_whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["VIEWS", "Explanation", "check_views"]

VIEWS: Mapping[str, str] = {
    "needed": "which part of the picture the answer hangs on",
    "without": "whether it needed the picture at all",
    "words": "how likely each word was, and what else was",
    "tokens": "how the picture became tokens, and the prompt token by token",
    "memory": "what each turn reused, computed and holds",
    "layers": "at which layer the words come on top",
}
"""Each view, and what it shows."""


class Explanation:
    """What was found out about one answer.

    Args:
        exchange: the question with the answer.
        views: what each view found, by its name.
        model: who was asked.
        notes: remarks for the person.

    Attributes:
        exchange: the question with the answer.
        views: what each view found, by its name, in the order asked for.
        model: who was asked.
        notes: remarks for the person.
        needed: `NeededParts`, the parts that the answer hangs on; empty where no single part decides.
        without: `WithoutPicture` rows: as asked, no picture, a grey one, another one.
        words: a `SaidToken` for each token of the answer.
        tokens: `PromptTokens`, the prompt token by token, with how each picture became tokens.
        memory: a `TurnCost` for each turn of the conversation.
        layers: `LayerWords` for each token of the answer: what each layer would say there.
    """

    needed: NeededParts
    without: tuple[WithoutPicture, ...]
    words: tuple[SaidToken, ...]
    tokens: PromptTokens
    memory: tuple[TurnCost, ...]
    layers: tuple[LayerWords, ...]

    def __init__(
        self, exchange: Exchange, views: Mapping[str, Any], model: str = "", notes: tuple[str, ...] = ()
    ) -> None:
        self.exchange = exchange
        self.views = dict(views)
        self.model = model
        self.notes = notes
        self.__dict__.update(views)

    def __getattr__(self, name: str) -> Any:
        """A view that was not asked for is an error that says how to ask for it."""
        if name in VIEWS:
            raise OptionError(
                f"the view {name!r} was not asked for",
                have=", ".join(self.views),
                hint=f"session.explain({name!r})",
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def to_frame(self, view: str | None = None) -> pd.DataFrame:
        """A view as a pandas table, a row for each part, word or turn.

        Args:
            view: which one; the first that was asked for if not given.

        Raises:
            OptionError: pandas is not installed, or no such view.
        """
        name = view or next(iter(self.views))
        if name not in self.views:
            check_views([name])
            getattr(self, name)
        try:
            import_whole("pandas")
            import pandas
        except ImportError:
            raise OptionError(
                "to_frame gives a pandas table, and pandas is not installed",
                have=f".{name} works without it",
                hint="pip install pandas",
            ) from None
        rows = [row for n, each in enumerate(self.views[name], start=1) for row in _rows(n, each)]
        return pandas.DataFrame(rows)

    def to_html(self, *, pictures: bool = True) -> str:
        """Static HTML without scripts; its pictures hold what its styles say, for places that strip them."""
        return explanation_bundle(self.exchange, self.views, self.model, self.notes, pictures=pictures)[
            "text/html"
        ]

    def to_png(self) -> bytes:
        """The pictures with what was found drawn into them, as one PNG; empty where no view has a picture."""
        return explanation_png(self.views)

    def bundle(self, *, pictures: bool = True, is_beside_panel: bool = False) -> dict[str, str]:
        """HTML, PNG (base64), Markdown-free plain text: what a notebook saves.

        Args:
            pictures: whether pictures are kept; False leaves words and numbers.
            is_beside_panel: whether the answer's live panel stands in the same cell.
        """
        return explanation_bundle(
            self.exchange,
            self.views,
            self.model,
            self.notes,
            pictures=pictures,
            is_beside_panel=is_beside_panel,
        )

    def __str__(self) -> str:
        return self.bundle(pictures=False)["text/plain"]

    def __repr__(self) -> str:
        return f"<Explanation of {str(self.exchange.reply)!r}: {', '.join(self.views)}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return self.bundle()


def check_views(names: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """The names of views, each once, in their order.

    Raises:
        OptionError: one that is none, with those that are near.
    """
    for name in names:
        if name not in VIEWS:
            near = near_names(name, VIEWS)
            raise OptionError(
                f"no view {name!r}",
                have=", ".join(VIEWS),
                hint=f"%vlm_explain {near[0] if near else 'needed,words'}",
                name=name,
            )
    return tuple(dict.fromkeys(names))


def _rows(n: int, record: Any) -> list[dict[str, Any]]:
    """A record as rows: one, or one for each layer."""
    if isinstance(record, LayerWords):
        layers = enumerate(record.layers, start=1)
        return [{"place": n, "token": record.text, "layer": k, **_row(layer)} for k, layer in layers]
    return [_row(record)]


def _row(record: Any) -> dict[str, Any]:
    """A record as a row: pictures by their names, the rest as it is."""
    assert is_dataclass(record)
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    row: dict[str, Any] = {
        name: value.name if isinstance(value, Picture) else value
        for name, value in fields.items()
        if name != "choices" or value
    }
    if "choices" in row:
        choices: tuple[Choice, ...] = row.pop("choices")
        row |= {f"p({choice.text})": choice.probability for choice in choices}
    if isinstance(record, SaidToken):
        row["probability"] = record.probability
    return row
