"""The saved conversation: complete, inert, the same each time, readable without styles."""

from __future__ import annotations

import dataclasses
import re

import nh3
import pytest
from panel_scenes import RICH, picture, question, reply, thumbnail
from script_vectors import VECTOR_LIST, live_things, render_with_html

from vlm_magic.messages import Exchange, Picture, Text
from vlm_magic.outputs.cards import proof_items
from vlm_magic.outputs.transcript import base_css, conversation_bundle, exchange_bundle, growing_bundle


def answered(text: str = "Two **circles**.", reason: str = "stop", **figures: object) -> Exchange:
    exchange = question()
    exchange.reply = reply(text, reason, **figures)
    return exchange


def without_style(html: str) -> str:
    return re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)


def visible(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", without_style(html))).strip()


def test_all_formats_show_question_answer_and_figures() -> None:
    bundle = exchange_bundle(answered(), thumbnail=thumbnail)
    assert set(bundle) == {"text/html", "text/markdown", "text/plain"}
    for text in (visible(bundle["text/html"]), bundle["text/plain"]):
        assert "What changed between" in text
        assert "before, 640×480 px" in text
        assert "starter" in text
        assert "2 tokens" in text
        assert "31 tokens/s" in text
        assert "prompt 214 tokens (128 for pictures, 64 reused)" in text
    assert "Two **circles**." in bundle["text/markdown"]


def test_thumbnails_stand_at_their_place_in_the_text() -> None:
    html = exchange_bundle(answered(), thumbnail=thumbnail)["text/html"]
    order = [
        html.index("What changed between"),
        html.index('alt="picture before'),
        html.index(" and "),
        html.index('alt="picture after'),
    ]
    assert order == sorted(order)
    assert html.count("data:image/png;base64,") == 2
    assert 'width="160" height="120"' in html, "sites that strip styles must not show it at full width"


def test_without_a_thumbnailer_no_picture_is_in_the_file() -> None:
    bundle = exchange_bundle(answered())
    assert "data:" not in without_style(bundle["text/html"])
    assert "[picture: before, 640×480 px]" in bundle["text/html"]


@pytest.mark.parametrize(
    "src",
    [
        "https://evil.example/x.png",
        "data:image/svg+xml;base64,PHN2Zz48L3N2Zz4=",
        'data:image/png;base64,AAAA" onerror="x',
        "data:text/html;base64,AAAA",
        "data:image/png;base64," + "A" * 100_000,
    ],
)
def test_only_small_raster_data_is_embedded(src: str) -> None:
    html = exchange_bundle(answered(), thumbnail=lambda _: src)["text/html"]
    assert "<img" not in html


def test_a_thumbnailer_that_fails_leaves_the_caption() -> None:
    def broken(_: Picture) -> str:
        raise ValueError("no pixels")

    assert "[picture: before" in exchange_bundle(answered(), thumbnail=broken)["text/html"]


def test_the_bytes_of_all_thumbnails_are_bounded() -> None:
    src = "data:image/png;base64," + "A" * 50_000
    parts = tuple(picture(f"p{n}") for n in range(60))
    exchange = Exchange("x", parts, reply=reply("many"))
    html = exchange_bundle(exchange, thumbnail=lambda _: src)["text/html"]
    assert len(html) < 1_700_000
    assert "[picture: p59" in html


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_nothing_live_comes_through_from_any_side(vector: str) -> None:
    named = dataclasses.replace(picture(), name=vector, note=vector)
    exchange = Exchange("x", (Text(vector), named), reply=reply(vector, notes=(vector,), model=vector))
    bundle = conversation_bundle([exchange], vector, thumbnail=thumbnail, model=vector)
    ours = [f"img@src={thumbnail(named)}", "img"]
    live = [thing for thing in live_things(without_style(bundle["text/html"])) if thing not in ours]
    assert live == []
    assert live_things(render_with_html(bundle["text/markdown"])) == []


def test_the_style_sheet_fetches_nothing_and_styles_only_below_its_class() -> None:
    css = base_css()
    assert "url(" not in css
    assert "@import" not in css
    assert "</" not in css
    for selector in re.findall(r"([^{}]+)\{", css):
        for one in selector.split(","):
            assert one.strip().startswith((".vlm", ".jp-OutputArea-child:has")), one


def test_how_an_answer_ended_and_that_it_is_stale_is_said() -> None:
    stopped = exchange_bundle(answered(reason="interrupted"))
    assert "( stopped )" in visible(stopped["text/html"])
    assert "stopped" in stopped["text/plain"]
    assert "cut off at the token limit" in visible(exchange_bundle(answered(reason="length"))["text/html"])
    exchange = answered()
    exchange.is_stale = True
    assert "stale" in visible(exchange_bundle(exchange)["text/html"])


def test_remarks_are_shown_and_are_not_the_models_words() -> None:
    bundle = exchange_bundle(answered(notes=("a control token in your text was neutralised",)))
    assert "neutralised" in visible(bundle["text/html"])
    assert "[a control token in your text was neutralised]" in bundle["text/plain"]


def test_the_same_exchange_gives_the_same_bundle() -> None:
    first, second = (exchange_bundle(answered(RICH), thumbnail=thumbnail) for _ in range(2))
    assert first == second
    assert not re.search(r"0x[0-9a-f]{6,}", "".join(first.values()))


def test_a_question_without_an_answer_is_shown_alone() -> None:
    assert "What changed" in exchange_bundle(question())["text/plain"]
    assert "tokens" not in exchange_bundle(question())["text/plain"]


def test_a_conversation_has_its_name_and_its_turns_in_order() -> None:
    first, second = answered("First."), answered("Second.")
    bundle = conversation_bundle([first, second], "Conversation main")
    assert bundle["text/plain"].startswith("Conversation main\n=================\n\nYou: ")
    for text in bundle.values():
        assert text.index("First.") < text.index("Second.")
    assert "No turns yet" in conversation_bundle([], "main")["text/html"]


def test_an_answer_that_grows_is_shown_as_it_stands() -> None:
    bundle = growing_bundle(question(), "so **far** <b>", model="m")
    assert "so **far** &lt;b&gt;" in bundle["text/html"]


def test_figures_that_are_unknown_are_left_out() -> None:
    assert proof_items(reply("x", n_prompt_tokens=0, tokens_per_s=0.0, total_s=0.0)) == ["1 token"]
    assert proof_items(reply("x", tokens_per_s=3.14159))[2] == "3.1 tokens/s"


def test_a_site_that_strips_scripts_and_styles_still_shows_who_said_what_with_pictures_of_a_modest_size() -> (
    None
):
    """As GitHub does: no style sheet, no classes, no style attributes."""
    exchange = question()
    exchange.reply = reply("A **red** circle.", "length", picture_tokens=(64, 81))
    html = exchange_bundle(exchange, thumbnail=thumbnail)["text/html"]
    bare = nh3.clean(
        html,
        attributes={"img": {"src", "alt", "width", "height"}, "a": {"href", "title"}},
        clean_content_tags={"style", "script"},
        url_schemes={"https", "data"},
    )
    assert "class=" not in bare
    assert "style" not in bare
    sized = r'<img src="data:image/png[^"]*" alt="picture (\w+)" width="(\d+)" height="(\d+)">'
    assert re.findall(sized, bare) == [("before", "160", "120"), ("after", "160", "120")]
    assert re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", bare)).strip() == (
        "YouWhat changed between (before, 640×480 px, 64 tokens) and (after, 640×480 px, 81 tokens) ?"
        "starter (cut off at the token limit) A red circle. "
        "3 tokens · 2.4 s · 31 tokens/s · prompt 214 tokens (128 for pictures, 64 reused)"
    )
