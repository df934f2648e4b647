"""What a model writes becomes inert HTML and inert Markdown, quickly, whatever it is."""

from __future__ import annotations

import re
import time
from html import unescape

import markdown_it
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_vectors import VECTOR_LIST, live_things, render_with_html

from vlm_magic.outputs.markdown.blocks import BlockSplitter, split_blocks
from vlm_magic.outputs.markdown.html import clean_text, to_html, to_safe_markdown
from vlm_magic.outputs.markdown.maths import to_mathml


def test_the_detector_sees_what_these_vectors_do_without_us() -> None:
    seen = [vector for vector in VECTOR_LIST if live_things(render_with_html(vector))]
    assert len(seen) > 25


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_script_vectors_are_inert_in_html_and_in_markdown(vector: str) -> None:
    assert live_things(to_html(vector)) == []
    assert live_things(to_html(f"before\n\n{vector}\n\nafter {vector}")) == []
    assert live_things(render_with_html(to_safe_markdown(vector))) == []
    assert live_things(render_with_html(to_safe_markdown(f"- a\n  > {vector}\n\n{vector}"))) == []


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_every_prefix_of_a_vector_is_inert(vector: str) -> None:
    for end in range(len(vector)):
        assert live_things(to_html(vector[:end])) == []
        assert live_things(render_with_html(to_safe_markdown(vector[:end]))) == []


_FRAGMENTS = st.sampled_from(
    [*VECTOR_LIST, "`", "```\n", "$", "$$", "[", "](", ")", "<", ">", "\n", "\n\n", "    ", "- ", "1. ", "> ",
     "|", "*", "**", "_", "~~", "\\", "&", "#", "!", "\u202e", "\ud800", "\x00", "\ue0000\ue001", "é",
     "\\(", "\\]"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_FRAGMENTS | st.text(max_size=8), max_size=12).map("".join))
def test_any_mixture_is_inert_and_renders(text: str) -> None:
    assert live_things(to_html(text)) == []
    assert live_things(render_with_html(to_safe_markdown(text))) == []


@pytest.mark.parametrize("vector", VECTOR_LIST)
def test_what_a_hole_in_the_parser_lets_through_stops_at_the_second_wall(
    vector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were Markdown rendered with HTML allowed, it would still be inert."""
    monkeypatch.setattr(markdown_it.MarkdownIt, "render", lambda self, text, env: text)
    assert live_things(to_html(f"second wall {vector}")) == []


def test_what_models_write_is_rendered() -> None:
    html = to_html(
        "# Title\n\n**bold** ~~gone~~ `x<y`\n\n| a | b |\n|:-|-:|\n| 1 | 2 |\n\n"
        "```python\nif a < b: pass\n```\n\n1. one\n2. two\n"
    )
    assert '<p class="vlm-h vlm-h1" role="heading" aria-level="4"><strong>Title</strong></p>' in html
    assert "<strong>bold</strong> <s>gone</s> <code>x&lt;y</code>" in html
    assert '<td class="vlm-right">2</td>' in html
    assert '<span class="k">if</span>' in html
    assert "<li>one</li>" in html
    assert not re.search(r"<h[1-6]", html), "real headings would enter the notebook's table of contents"


def test_links_open_elsewhere_and_show_their_host() -> None:
    html = to_html("[click](https://example.org/a?b=1) and [example.org](https://example.org)")
    assert 'rel="noopener noreferrer' in html
    assert html.count('target="_blank"') == 2
    assert html.count("(example.org)") == 1, "the host is added only where the text does not say it"


def test_a_picture_is_named_and_not_loaded() -> None:
    html = to_html("![a cat](https://example.org/cat.png)")
    assert "<img" not in html
    assert "not loaded: a cat" in html


@pytest.mark.parametrize("tex", [r"$a^2$", r"\(a^2\)", r"$$a^2$$", "\\[\na^2\n\\]"])
def test_formulas_become_mathml_with_their_source_beside(tex: str) -> None:
    html = to_html(tex)
    assert "<msup>" in html
    assert '<code class="vlm-tex">a^2</code>' in html


def test_prices_are_no_formulas() -> None:
    assert "<math" not in to_html("It costs $5 or $6, not US$7.")


def test_a_formula_that_reaches_outside_stays_text() -> None:
    for tex in (r"\href{javascript:x}{y}", r"\text{<img src=x>}", "x" * 3000, "{" * 500):
        html = to_mathml(tex)
        assert live_things(html) == []


@pytest.mark.parametrize(
    "markup",
    [
        "<math><script>alert(1)</script></math>",
        "<math><mtext><img src='https://example.org/x.png'/></mtext></math>",
        "<math><maction actiontype='statusline'><mi>x</mi></maction></math>",
        "<svg onload='alert(1)'/>",
        "<math>" + "<mrow>" * 61 + "</mrow>" * 61 + "</math>",
    ],
)
def test_a_converter_is_not_trusted_with_elements(markup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes out of it that is not on the list throws the whole formula back to code."""
    import latex2mathml.converter

    monkeypatch.setattr(latex2mathml.converter, "convert", lambda tex, display: markup)
    assert to_mathml("a^2") == '<span class="vlm-math"><code>a^2</code></span>'


def test_a_converter_is_not_trusted_with_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and values that are not on the list are left out; the formula stays."""
    import latex2mathml.converter

    markup = (
        "<math display='block' onclick='a()' href='https://example.org'>"
        "<mi style='color:red' mathvariant='bold' mathcolor='url(https://example.org)'>x</mi></math>"
    )
    monkeypatch.setattr(latex2mathml.converter, "convert", lambda tex, display: markup)
    assert '<math display="block"><mi mathvariant="bold">x</mi></math>' in to_mathml("x")


@pytest.mark.parametrize(
    "piece", ["[", "*", "_", "`", "$", "![", "[a](", "> ", "- ", "a\n\n", "|a|b\n|-|-\n", "\\("]
)
def test_a_megabyte_of_anything_takes_under_a_second(piece: str) -> None:
    text = (piece * 1_000_000)[:1_000_000]
    began = time.process_time()
    to_html(text)
    to_safe_markdown(text)
    assert time.process_time() - began < 1.0


def test_text_is_shown_without_what_no_page_can_show() -> None:
    assert clean_text("a\r\nb\x00\x1b[31m\ud800\u202e") == "a\nb��[31m��"


@pytest.mark.parametrize(
    "command", ["href", "url", "class", "style", "require", "text", "newcommand", "def", "input"]
)
def test_a_formula_of_saved_markdown_reaches_nowhere(command: str) -> None:
    """A page may render it with commands of its own: it is shown as it stands, not as a formula."""
    tex = rf"\{command}{{x}}{{y}}"
    for text in (f"${tex}$", f"$$\n{tex}\n$$", f"a $b + {tex}$ c"):
        assert "$" not in to_safe_markdown(text).replace("&#36;", "")
    assert to_safe_markdown("$a^2$").strip() == "$a^2$"


def test_safe_markdown_says_the_same() -> None:
    text = (
        "# T\n\nwords *it* **bo** `co<de` [l](https://e.org/x)\n\n- a\n- b\n  1. c\n\n> q\n\n"
        "| a | b |\n|---|---|\n| 1 | x\\|y |\n\n```py\n<b>`$x$`\n```\n\n1 * 2 # 3_4_5 [no] <tag> $5\n"
    )

    def words(html: str) -> str:
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()

    rewritten = render_with_html(to_safe_markdown(text))
    original = render_with_html(text.replace("<tag>", "&lt;tag&gt;"))
    assert words(rewritten).replace("(e.org)", "").replace("  ", " ") == words(original)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="a`~#-1. >\n*|$", max_size=80), st.integers(1, 5))
def test_blocks_join_to_the_text_however_it_arrives(text: str, step: int) -> None:
    splitter = BlockSplitter()
    blocks = [block for at in range(0, len(text), step) for block in splitter.feed(text[at : at + step])]
    assert "".join(blocks) + splitter.open == text
    assert "".join(split_blocks(text)) == text


def test_a_paragraph_leaves_with_the_first_letter_after_it() -> None:
    splitter = BlockSplitter()
    assert splitter.feed("One.\n\nT") == ["One.\n\n"]
    assert splitter.feed("wo.\n\n- a\n\n") == ["Two.\n\n"]
    assert splitter.feed("-") == [], "it may go on with the list"


def test_finished_blocks_leave_and_code_and_lists_stay_whole() -> None:
    text = "para\n\n- a\n\n- b\n\n```\nx\n\ny\n```\n# H\nlast"
    assert split_blocks(text) == ["para\n\n", "- a\n\n- b\n\n", "```\nx\n\ny\n```\n", "# H\n", "last"]


# One of our own for each construct of the CommonMark specification (0.31.2, sections 2 and 4 to 6), and the
# tables and strikethrough of GitHub that models write: the source, and what must be in its HTML.
COMMONMARK = {
    "tab": ("\tcode by a tab", "<code>code by a tab\n</code>"),
    "tab after a bullet": ("-\titem", "<li>item</li>"),
    "backslash escape": ("\\*stars\\* and \\a", "<p>*stars* and \\a</p>"),
    "entity": ("&copy; &#65; &nosuch; `&amp;`", "© A &amp;nosuch; <code>&amp;amp;</code>"),
    "thematic break": ("above\n\n* * *\n\nbelow", "<hr>"),
    "heading": ("## two ##", 'aria-level="5"><strong>two</strong>'),
    "seven marks are no heading": ("####### seven", "<p>####### seven</p>"),
    "underlined heading": ("Title\n=====", 'aria-level="4"><strong>Title</strong>'),
    "indented code": ("text\n\n    x\n      y", "<code>x\n  y\n</code>"),
    "fence in a fence": ("````\n```\ninner\n```\n````", "<code>```\ninner\n```\n</code>"),
    "tilde fence": ("~~~\nplain\n~~~", "<code>plain\n</code>"),
    "open fence": ("```\nx = 1", "<code>x = 1</code>"),
    "HTML block is text": ("<div>\n*words*\n</div>", "&lt;div&gt;\n<em>words</em>\n&lt;/div&gt;"),
    "link by reference": ("[this]\n\n[this]: https://example.org/t", 'href="https://example.org/t"'),
    "paragraphs": ("one\ntwo\n\n\nthree", "<p>one\ntwo</p>\n<p>three</p>"),
    "quote with a lazy line": ("> quoted\nlazy", "<blockquote>\n<p>quoted\nlazy</p>\n</blockquote>"),
    "quote in a quote": (">> deeper", "<blockquote>\n<blockquote>\n<p>deeper</p>"),
    "list that starts later": ("7) seven\n8) eight", '<ol start="7">\n<li>seven</li>'),
    "list in a list": ("- a\n  1. one", "<li>a\n<ol>\n<li>one</li>"),
    "loose list": ("- a\n\n- b", "<li>\n<p>a</p>\n</li>"),
    "code span with a backtick": ("`` a ` b ``", "<code>a ` b</code>"),
    "emphasis": ("*a* __b__ ***c***", "<em>a</em> <strong>b</strong> <em><strong>c</strong></em>"),
    "underscores in a word": ("snake_case_name", "<p>snake_case_name</p>"),
    "link with parentheses": ("[x](https://example.org/a_(b))", 'href="https://example.org/a_(b)"'),
    "picture": ("![alt](https://example.org/x.png)", "[picture, not loaded: alt"),
    "address in brackets": ("<https://example.org/?b=c&d>", 'href="https://example.org/?b=c&amp;d"'),
    "inline HTML is text": ("a <b>c</b>", "a &lt;b&gt;c&lt;/b&gt;"),
    "hard break by spaces": ("one  \ntwo", "one<br>\ntwo"),
    "hard break by a backslash": ("one\\\ntwo", "one<br>\ntwo"),
    "soft break": ("one\ntwo", "one\ntwo"),
    "table": ("|a|\n|-|\n|1|", "<th>a</th>"),
    "strikethrough": ("~~gone~~", "<s>gone</s>"),
}


@pytest.mark.parametrize("construct", COMMONMARK)
def test_constructs_of_commonmark_are_rendered_and_stay_the_same_in_safe_markdown(construct: str) -> None:
    """In under 50 ms each, and so that the words of the saved Markdown are those of the page."""
    source, expected = COMMONMARK[construct]
    to_html(source)  # the first call loads a lexer
    began = time.process_time()
    html = to_html(source)
    assert time.process_time() - began < 0.05
    assert expected in html
    assert _words(render_with_html(to_safe_markdown(source))) <= _words(html)


def _words(html: str) -> set[str]:
    """The words that a person reads on a page."""
    return set(re.findall(r"\w+", unescape(re.sub(r"<[^>]*>", " ", html))))


def test_each_piece_of_a_block_with_right_to_left_script_has_its_own_direction() -> None:
    """And a text without any has no such attribute."""
    html = to_html("# כותרת\n\nשלום, world!\n\n- אחת\n- two\n\n| א | b |\n|---|---|\n| ג | 4 |\n\nplain")
    for tag in ("p", "ul", "li", "th", "td"):
        assert re.search(rf'<{tag}\b[^>]* dir="auto"', html), tag
    assert html.endswith("<p>plain</p>\n")
    assert "dir=" not in to_html("# Title\n\n- one\n\n| a |\n|---|\n| 1 |\n\n> quote")


def test_brackets_are_marked_with_how_tall_they_have_to_be() -> None:
    """Only where they stretch; a font that could does not stretch them once more."""
    small, fraction, matrix = (
        to_mathml(tex, display=True)
        for tex in (
            r"\left(a\right)",
            r"\left(\frac{a}{b}\right)",
            r"\begin{bmatrix}1\\2\\3\end{bmatrix} (x)",
        )
    )
    assert "vlm-tall" not in small
    assert re.findall(r'<mo class="(vlm-tall-\d+)" stretchy="false"[^>]*>(.)<', fraction) == [
        ("vlm-tall-4", "("),
        ("vlm-tall-4", ")"),
    ]
    assert re.findall(r'<mo( class="vlm-tall-8" stretchy="false")?[^>]*>([^<])<', matrix) == [
        (' class="vlm-tall-8" stretchy="false"', "["),
        (' class="vlm-tall-8" stretchy="false"', "]"),
        ("", "("),
        ("", ")"),
    ]
