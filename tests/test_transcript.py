"""The saved conversation: complete, inert, the same each time, readable without styles."""

from __future__ import annotations

import dataclasses
import re

import nh3
import pytest
from panel_scenes import RICH, picture, question, reply, thumbnail
from script_vectors import VECTOR_LIST, live_things, render_with_html

from vlm_magic.messages import Exchange, Picture, Text
from vlm_magic.outputs.fragments import proof_items
from vlm_magic.outputs.styles import style_sheet
from vlm_magic.outputs.transcript import conversation_bundle, exchange_bundle, growing_bundle


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


def test_numbers_stand_at_the_place_of_pictures_and_thumbnails_in_a_row_below_the_words() -> None:
    html = exchange_bundle(answered(), thumbnail=thumbnail)["text/html"]
    places = ("What changed between", ">1<", " and ", ">2<", "?", 'alt="picture before', 'alt="picture after')
    assert re.findall("|".join(map(re.escape, places)), without_style(html))[:7] == [
        "What changed between", ">1<", " and ", ">2<", "?", 'alt="picture before', ">1<",
    ]  # fmt: skip
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
    live = live_things(without_style(bundle["text/html"]))
    for ours in (
        f"img@src={thumbnail(named)}",
        "img",
        "details",
        "summary",
    ):  # one picture, one row of figures
        live.remove(ours)
    assert live == []
    assert live_things(render_with_html(bundle["text/markdown"])) == []


def test_the_style_sheet_fetches_nothing_and_styles_only_below_its_class() -> None:
    css = style_sheet("transcript")
    assert "url(" not in css
    assert "@import" not in css
    assert "</" not in css
    for selector in re.findall(r"([^{}]+)\{", css):
        for one in selector.split(","):
            ours = (".vlm", ".jp-OutputArea-child:has", ".jp-RenderedHTMLCommon:has(> .vlm)", "@container")
            ours += (".jp-CodeCell.jp-mod-outputsScrolled .jp-OutputArea:has(.vlm-transcript)",)
            assert one.strip().startswith(ours), one


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
        "YouWhat changed between (picture 1) and (picture 2)? (picture 1: before, 640×480 px, 64 tokens)"
        " (picture 2: after, 640×480 px, 81 tokens) starter (cut off at the token limit) A red circle. "
        "3 tokens · 2.4 s 31 tokens/s · prompt 214 tokens (128 for pictures, 64 reused)"
    )


def test_words_alone_are_not_repeated_below_the_cell_that_says_them() -> None:
    exchange = Exchange("x", (Text("What is a circle?"),), reply=reply("Round."))
    whole = exchange_bundle(exchange)
    below = exchange_bundle(exchange, prompt_above="\nWhat is a  circle?\n")
    assert "What is a circle?" in whole["text/html"]
    assert "What is a circle?" in whole["text/markdown"]
    assert "circle" not in below["text/html"]
    assert "circle" not in below["text/markdown"]
    assert below["text/plain"] == whole["text/plain"], "which is read elsewhere, too"
    for kind in ("text/html", "text/markdown"):
        assert "Round." in below[kind]
        assert "starter" in below[kind]
    assert "circle" not in growing_bundle(exchange, "Rou", prompt_above="What is a circle?")["text/html"]
    # What was put in for a name stands nowhere above, nor do pictures.
    assert exchange_bundle(exchange, prompt_above="What is a {shape}?") == whole
    shown = Exchange("x", (Text("Of "), picture()), reply=reply("Round."))
    assert exchange_bundle(shown, prompt_above="Of ") == exchange_bundle(shown)


def test_the_middle_of_a_long_text_is_folded_and_nothing_is_lost() -> None:
    log = "\n".join(f"line {n} of the log" for n in range(40))
    words = "".join(f"word{n} " for n in range(400))
    for text, more in (
        (f"Look:\n{log}\nWhat is wrong?", "34 more lines"),
        (f"{words}Why?", " more characters"),
    ):
        html = exchange_bundle(Exchange("x", (Text(text), picture()), reply=reply("Nothing.")))["text/html"]
        asked = re.search(r'<div class="vlm-words" dir="auto">(.*?)</div>', html)[1]  # type: ignore[index]
        words_alone = asked.partition('<span class="vlm-no"')[0]
        head, middle, tail = re.split(r"<details.*?</summary>|</details>", words_alone)
        assert more in asked
        assert re.sub(r"<[^>]*>", " ", f"{head} {middle} {tail}").split() == text.split()
        assert len(middle) > len(head) + len(tail)
        assert tail.endswith(("What is wrong?", "Why?"))
    short = "\n".join("short" for _ in range(10))
    assert "<details" not in exchange_bundle(Exchange("x", (Text(short),)))["text/html"]


def test_two_figures_are_in_sight_and_the_others_a_click_away() -> None:
    html = exchange_bundle(answered())["text/html"]
    brief, rest = re.search(
        r'<details class="vlm-proof"><summary>(.*?)</summary>(.*?)</details>', html
    ).groups()  # type: ignore[union-attr]
    assert visible(brief) == "2 tokens · 2.4 s"
    assert visible(rest) == "31 tokens/s · prompt 214 tokens (128 for pictures, 64 reused)"
