"""A conversation as a file of its own: Markdown, a web page, messages as JSON, a notebook.

Pure functions from exchanges to text; the caller writes the file. All but the JSON show thumbnails;
the JSON is the messages format of chat templates and carries what the model was shown.
Neighbours: `transcript` makes the pieces, the shell is the caller.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

from vlm_magic.errors import OptionError
from vlm_magic.messages import Exchange, Part, Picture, Text
from vlm_magic.outputs.cards import Thumbnailer, thumbnail_src
from vlm_magic.outputs.parsing import clean_text
from vlm_magic.outputs.transcript import conversation_bundle, exchange_bundle, squeezed_css

__all__ = ["FORMATS", "export_conversation"]

FORMATS = (".html", ".ipynb", ".json", ".md")


def export_conversation(
    exchanges: Sequence[Exchange],
    suffix: str,
    *,
    name: str = "Conversation",
    thumbnail: Thumbnailer | None = None,
    full_picture: Thumbnailer | None = None,
) -> str:
    """The text of a file that holds the conversation.

    Args:
        exchanges: oldest first; those without an answer are left out.
        suffix: ".md", ".html", ".json" or ".ipynb".
        name: what the conversation is called.
        thumbnail: makes the small data URI of a picture; None shows captions alone.
        full_picture: makes the data URI of a whole picture, for the JSON; None leaves its name.

    Raises:
        OptionError: no such format.
    """
    answered = [exchange for exchange in exchanges if exchange.reply is not None]
    writers: dict[str, Callable[[], str]] = {
        ".md": lambda: _markdown(answered, name, thumbnail),
        ".html": lambda: _page(answered, name, thumbnail),
        ".json": lambda: _dumps(messages(answered, full_picture)),
        ".ipynb": lambda: _dumps(_notebook(answered, name, thumbnail)),
    }
    writer = writers.get(suffix.lower())
    if writer is None:
        raise OptionError(
            f"no format {suffix!r} to export to",
            have=", ".join(FORMATS),
            hint="conversation.md",
            suffix=suffix,
        )
    return writer()


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _markdown(exchanges: list[Exchange], name: str, thumbnail: Thumbnailer | None) -> str:
    """The inert Markdown of the transcript, and after it the thumbnails, each once, by their names."""
    text = conversation_bundle(exchanges, name)["text/markdown"]
    shown: dict[str, str] = {}
    for exchange in exchanges:
        for picture in exchange.pictures:
            src = thumbnail_src(picture, thumbnail)
            label = re.sub(r"[^\w .,-]", "_", clean_text(picture.name))[:60] or "picture"
            if src:
                shown.setdefault(picture.digest or label, f"![{label}]({src})")
    return "\n\n".join([text.rstrip(), *shown.values()]) + "\n"


def _page(exchanges: list[Exchange], name: str, thumbnail: Thumbnailer | None) -> str:
    """A page that needs nothing else and may load nothing else."""
    body = conversation_bundle(exchanges, name, thumbnail=thumbnail)["text/html"]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(clean_text(name))}</title>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{squeezed_css('page.css')}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def messages(
    exchanges: Iterable[Exchange], full_picture: Thumbnailer | None = None
) -> list[dict[str, object]]:
    """Turns in the messages format of chat templates: role, and content as a list of typed parts."""
    found: list[dict[str, object]] = []
    system = ""
    for exchange in exchanges:
        if exchange.settings.system != system:
            system = exchange.settings.system
            found.append({"role": "system", "content": [{"type": "text", "text": system}]})
        for turn in exchange.turns:
            content = [_content(part, full_picture) for part in turn.parts]
            found.append({"role": turn.role, "content": content})
    return found


def _content(part: Part, full_picture: Thumbnailer | None) -> dict[str, str]:
    if isinstance(part, Text):
        return {"type": "text", "text": clean_text(part.text)}
    if full_picture is None or part.image is None:
        return {"type": "image", "name": part.name}
    return {"type": "image", "url": full_picture(part)}


def _notebook(exchanges: list[Exchange], name: str, thumbnail: Thumbnailer | None) -> dict[str, object]:
    """A notebook that asks the same again, with the answers as its outputs."""
    cells: list[dict[str, object]] = [_cell("markdown", 0, f"# {clean_text(name)}")]
    cells.append(_cell("code", 1, "%load_ext vlm_magic"))
    for n, exchange in enumerate(exchanges, start=2):
        cell = _cell("code", n, f"%%vlm{_options(exchange)}\n{''.join(map(_source, exchange.parts))}")
        data = exchange_bundle(exchange, thumbnail=thumbnail)
        cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}]
        cells.append(cell)
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}


def _options(exchange: Exchange) -> str:
    """How the line says that the answer was chosen, and among what."""
    how = exchange.settings
    if not how.choices:
        return ""
    listed = json.dumps([clean_text(choice) for choice in how.choices], ensure_ascii=False)
    return f" --choices {listed}" + (f" --normalize {how.normalize}" if how.normalize != "none" else "")


def _cell(kind: str, n: int, source: str) -> dict[str, object]:
    cell: dict[str, object] = {"cell_type": kind, "id": f"turn-{n}", "metadata": {}, "source": source}
    return {**cell, "outputs": [], "execution_count": None} if kind == "code" else cell


def _source(part: Part) -> str:
    """A part as a cell's text: words with their braces doubled, a picture by its variable or its address."""
    if isinstance(part, Text):
        return clean_text(part.text).replace("{", "{{").replace("}", "}}")
    return _picture_source(part)


def _picture_source(picture: Picture) -> str:
    if re.fullmatch(r"[^\W\d]\w*(?:\[\w+\]|\.\w+)*", picture.name):
        return f"{{{picture.name}}}"
    where = picture.source if isinstance(picture.source, str) else picture.name
    label = re.sub(r"[^\w .-]", "_", picture.name)
    return f"![{label}]({where})"
