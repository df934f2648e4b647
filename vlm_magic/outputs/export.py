"""A conversation as a file of its own: Markdown, a web page, messages as JSON, a notebook.

Pure functions from exchanges to text; the caller writes the file. All but the JSON show thumbnails;
the JSON is the messages format of chat templates and carries what the model was shown.
Neighbours: `transcript` makes the pieces, the shell is the caller.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from keyword import iskeyword

from vlm_magic.errors import OptionError
from vlm_magic.messages import Exchange, Part, Picture, Text
from vlm_magic.outputs.fragments import Thumbnailer
from vlm_magic.outputs.markdown.markdown_parser import clean_text
from vlm_magic.outputs.styles import style_sheet
from vlm_magic.outputs.transcript import conversation_bundle, exchange_bundle

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
        full_picture: makes the data URI of a whole picture, for JSON and notebook; None leaves its name.

    Raises:
        OptionError: no such format.
    """
    answered = [exchange for exchange in exchanges if exchange.reply is not None]
    writers: dict[str, Callable[[], str]] = {
        ".md": lambda: _markdown(answered, name, thumbnail),
        ".html": lambda: _page(answered, name, thumbnail),
        ".json": lambda: _dumps(messages(answered, full_picture)),
        ".ipynb": lambda: _dumps(_notebook(answered, name, thumbnail, full_picture)),
    }
    writer = writers.get(suffix.lower())
    if writer is None:
        raise OptionError(
            f"cannot export to {suffix!r} files",
            have=", ".join(FORMATS),
            hint="conversation.md",
            suffix=suffix,
        )
    return writer()


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _markdown(exchanges: list[Exchange], name: str, thumbnail: Thumbnailer | None) -> str:
    """The inert Markdown of the transcript, with each picture as a data URI where it stands."""
    bundle = conversation_bundle(exchanges, name, thumbnail=thumbnail, pictures_in_markdown=True)
    return bundle["text/markdown"]


def _page(exchanges: list[Exchange], name: str, thumbnail: Thumbnailer | None) -> str:
    """A page that needs nothing else and may load nothing else."""
    body = conversation_bundle(exchanges, name, thumbnail=thumbnail)["text/html"]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(clean_text(name))}</title>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{style_sheet('page')}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
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


def _notebook(
    exchanges: list[Exchange], name: str, thumbnail: Thumbnailer | None, full_picture: Thumbnailer | None
) -> dict[str, object]:
    """A notebook that asks the same again, with the answers as its outputs and the pictures within it.

    A picture of the conversation may come from a variable of a kernel that is gone. So the notebook carries
    the pixels: an attachment of the cell that shows it, and a code cell that makes the variable again.
    """
    cells: list[dict[str, object]] = [_cell("markdown", 0, f"# {clean_text(name)}")]
    cells.append(_cell("code", 1, "%load_ext vlm_magic"))
    names = _variables(exchanges, full_picture)
    if names:
        cells += _picture_cells(names, full_picture)
    for n, exchange in enumerate(exchanges, start=len(cells)):
        source = "".join(_source(part, names) for part in exchange.parts)
        cell = _cell("code", n, f"%%vlm{_options(exchange)}\n{source}")
        data = exchange_bundle(exchange, thumbnail=thumbnail)
        cell["outputs"] = [{"output_type": "display_data", "metadata": {}, "data": data}]
        cells.append(cell)
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}


def _variables(exchanges: list[Exchange], full_picture: Thumbnailer | None) -> dict[str, tuple[str, Picture]]:
    """A variable for each picture whose pixels are there, by its digest: its own name where that is one."""
    found: dict[str, tuple[str, Picture]] = {}
    if full_picture is None:
        return found
    taken: set[str] = set()
    for picture in (picture for exchange in exchanges for picture in exchange.pictures):
        if picture.image is None or picture.digest in found:
            continue
        base = re.sub(r"\W+", "_", picture.name, flags=re.ASCII).strip("_")[:40] or "picture"
        base = base if base.isidentifier() and not iskeyword(base) else f"picture_{base}"
        fitting = (base if n == 1 else f"{base}_{n}" for n in itertools.count(1))
        variable = next(name for name in fitting if name not in taken)
        taken.add(variable)
        found[picture.digest] = variable, picture
    return found


def _picture_cells(
    names: dict[str, tuple[str, Picture]], full_picture: Thumbnailer | None
) -> list[dict[str, object]]:
    """A cell that shows the pictures, with their data attached, and one that makes variables of the data."""
    assert full_picture is not None
    attachments, shown, made = {}, [], []
    for variable, picture in names.values():
        kind, _, data = full_picture(picture).removeprefix("data:").partition(";base64,")
        attachments[f"{variable}.{kind.rpartition('/')[2]}"] = {kind: data}
        shown.append(f"![{variable}](attachment:{variable}.{kind.rpartition('/')[2]})")
        made.append(f'{variable} = to_pil("data:{kind};base64,{data}")')
    words = _cell("markdown", 2, "The pictures of this conversation:\n\n" + "\n".join(shown))
    words["attachments"] = attachments
    code = _cell("code", 3, "\n".join(["from vlm_magic import to_pil", "", *made]))
    code["metadata"] = {"jupyter": {"source_hidden": True}}  # long lines that nobody reads
    return [words, code]


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


def _source(part: Part, names: Mapping[str, tuple[str, Picture]]) -> str:
    """A part as a cell's text: words with their braces doubled, a picture by its variable or its address."""
    if isinstance(part, Text):
        return clean_text(part.text).replace("{", "{{").replace("}", "}}")
    if part.digest in names:
        return f"{{{names[part.digest][0]}}}"
    return _picture_source(part)


def _picture_source(picture: Picture) -> str:
    """How a picture without pixels is asked for again: its variable, or its address in angle brackets."""
    if re.fullmatch(r"[^\W\d]\w*(?:\[\w+\]|\.\w+)*", picture.name):
        return f"{{{picture.name}}}"
    where = picture.source if isinstance(picture.source, str) else picture.name
    label = re.sub(r"[^\w .-]", "_", picture.name)
    return f"![{label}](<{where}>)" if re.search(r"[\s()<>]", where) else f"![{label}]({where})"
