"""Conversations as files: each format whole, inert, and as its readers expect it."""

from __future__ import annotations

import json
import re

import nbformat
import pytest
from panel_scenes import RICH, picture, question, reply, thumbnail
from script_vectors import VECTOR_LIST, live_things, render_with_html

from vlm_magic.errors import OptionError
from vlm_magic.inputs.cell_text.marks import Reference
from vlm_magic.inputs.prompt import parse_prompt
from vlm_magic.messages import Exchange, Picture, Settings, Text
from vlm_magic.outputs.export import FORMATS, export_conversation


def talk() -> list[Exchange]:
    first, second = question(1), Exchange("y", (Text("And {this}?"),), Settings(system="Be brief."))
    first.reply, second.reply = reply(RICH), reply("Yes.")
    return [first, second, Exchange("z", (Text("unanswered"),))]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_has_the_whole_conversation(suffix: str) -> None:
    text = export_conversation(talk(), suffix, thumbnail=thumbnail, full_picture=thumbnail)
    for words in ("What changed between", "The two scenes differ", "And ", "Yes.", "data:image/png;base64,"):
        assert words in text
    assert "unanswered" not in text


def test_the_json_is_the_messages_format_of_chat_templates() -> None:
    messages = json.loads(export_conversation(talk(), ".json", full_picture=thumbnail))
    assert [m["role"] for m in messages] == ["user", "assistant", "system", "user", "assistant"]
    kinds = [part["type"] for part in messages[0]["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]
    assert messages[0]["content"][1]["url"].startswith("data:image/")
    assert messages[3]["content"][0]["text"] == "And {this}?"


def test_the_notebook_is_valid_and_asks_the_same() -> None:
    notebook = nbformat.reads(export_conversation(talk(), ".ipynb", thumbnail=thumbnail), as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[2].source == "%%vlm\nWhat changed between {before} and {after}?"
    assert notebook.cells[3].source == "%%vlm\nAnd {{this}}?", "words are not looked up again"


def test_the_notebook_carries_its_pictures_and_runs_again_without_their_variables() -> None:
    shown = question(
        1, picture("before"), picture("my cat (1).png", "teal"), Text(" "), picture("before", "red")
    )
    shown.reply = reply("Three.")
    text = export_conversation([shown], ".ipynb", thumbnail=thumbnail, full_picture=thumbnail)
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    attached, made, asked = notebook.cells[2], notebook.cells[3], notebook.cells[4]
    assert list(attached.attachments) == ["before.png", "my_cat_1_png.png", "before_2.png"]
    assert asked.source == "%%vlm\n{before}{my_cat_1_png} {before_2}"
    names: dict[str, object] = {}
    exec(made.source, names)  # our own code, of data URIs
    sizes = [names[name].size for name in ("before", "my_cat_1_png", "before_2")]  # type: ignore[attr-defined]
    assert sizes == [(160, 120)] * 3


def test_the_markdown_has_its_pictures_where_they_stand() -> None:
    shown = question(1, Text("Is "), picture("a] (b)"), Text(" red?"))
    shown.reply = reply("Yes.")
    text = export_conversation([shown], ".md", thumbnail=thumbnail)
    assert re.search(r"Is !\[a_ _b_\]\(data:image/png;base64,[^)]+\) red\?", text)
    assert text.count("data:image") == 1


@pytest.mark.parametrize("name", ["my cat (1).png", "folder with spaces/cat.png", "a<b>.png"])
def test_odd_file_names_are_found_again(name: str) -> None:
    """Where the pixels are gone, the address stands there, as this package reads it."""
    lost = Picture(name, name=name, digest="d")
    exchange = Exchange("x", (Text("See "), lost), reply=reply("Yes."))
    cells = json.loads(export_conversation([exchange], ".ipynb"))["cells"]
    marks = parse_prompt(cells[2]["source"].partition("\n")[2])
    assert [mark.source for mark in marks if isinstance(mark, Reference)] == [name]


def test_the_page_may_load_nothing() -> None:
    page = export_conversation(talk(), ".html", name="<b>", thumbnail=thumbnail)
    assert "default-src 'none'" in page
    assert "<title>&lt;b&gt;</title>" in page


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_pages_and_markdown_are_inert(vector: str) -> None:
    shown = Picture("p", name=vector, image=picture().image, digest="d")
    exchange = Exchange("x", (Text(vector), shown), reply=reply(vector, model=vector))
    page = export_conversation([exchange], ".html", name=vector, thumbnail=thumbnail)
    body = re.sub(r"(?s)<style>.*?</style>", "", page.partition("<body>")[2])
    ours = {"img", f"img@src={thumbnail(shown)}", "details", "summary"}  # its figures are folded
    assert set(live_things(body)) <= ours
    markdown = export_conversation([exchange], ".md", name=vector, thumbnail=thumbnail)
    assert set(live_things(render_with_html(markdown))) <= ours - {"details", "summary"}


def test_an_unknown_format_is_an_error_that_names_the_known() -> None:
    with pytest.raises(OptionError, match=r"have: \.html, \.ipynb, \.json, \.md"):
        export_conversation(talk(), ".pdf")
