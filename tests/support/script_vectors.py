"""Texts that try to run or fetch something, and a detector of what would."""

from __future__ import annotations

import re
from html.parser import HTMLParser

ALLOWED_TAGS = set(
    re.findall(
        r"\S+",
        """p br hr h1 h2 h3 h4 h5 h6 strong em b small s code pre ul ol li blockquote table thead tbody
        tr th td a span div
        math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover
        mtable mtr mtd mstyle mpadded mphantom menclose mmultiscripts mprescripts mfenced merror""",
    )
)
OUR_STYLES = ("display:none", "display:block", "display:inline-block;vertical-align:middle")
URL_ATTRIBUTES = {
    "href",
    "src",
    "srcset",
    "action",
    "formaction",
    "xlink:href",
    "background",
    "poster",
    "data",
}

# One line each, in the families that security notes name: handlers, addresses, foreign content,
# attributes that JupyterLab itself acts on, Markdown's own ways to an address, and formulas.
VECTORS = (
    r"""
<script>window.PWNED=1</script>
<img src=x onerror="window.PWNED=1">
<img src="https://evil.example/a.png">
<svg onload=window.PWNED=1><image href="https://evil.example/b.png"></svg>
<iframe srcdoc="<script>parent.PWNED=1</script>"></iframe>
<iframe src="https://evil.example/c"></iframe>
<object data="https://evil.example/d"></object>
<link rel=stylesheet href="https://evil.example/e.css">
<style>@import 'https://evil.example/f.css';</style>
<style>*{background:url(https://evil.example/g.png)}</style>
<p style="background:url(https://evil.example/h.png)">x</p>
<video><source onerror="window.PWNED=1"></video>
<video poster="https://evil.example/i.png"></video>
<details open ontoggle=window.PWNED=1>x</details>
<input autofocus onfocus=window.PWNED=1>
<form action="javascript:window.PWNED=1"><button>x</button></form>
<math><mtext><script>window.PWNED=1</script></mtext></math>
<math href="javascript:window.PWNED=1">x</math>
<a href="javascript:window.PWNED=1">x</a>
<button data-commandlinker-command="notebook:run-all-cells">x</button>
<base href="https://evil.example/">
<meta http-equiv=refresh content="0;url=https://evil.example/j">
<noscript><p title="</noscript><img src=x onerror=window.PWNED=1>">
<template><img src=x onerror=window.PWNED=1></template>
<!--><img src=x onerror=window.PWNED=1>-->
<![CDATA[<img src=x onerror=window.PWNED=1>]]>
<?xml <img src=x onerror=window.PWNED=1> ?>
<IMG """
    + '"""'
    + r"""><SCRIPT>window.PWNED=1</SCRIPT>">
![x](https://evil.example/k.png)
![x](//evil.example/l.png)
![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)
![x](javascript:window.PWNED=1)
[![x](https://evil.example/m.png)](https://evil.example/n)
[x](javascript:window.PWNED=1)
[x](JaVaScRiPt&colon;window.PWNED=1)
[x](&#106;avascript:window.PWNED=1)
[x](vbscript:msgbox(1))
[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)
[x](/api/shutdown)
[x](<javascript:window.PWNED=1>)
[x]: javascript:window.PWNED=1 "y"
<javascript:window.PWNED=1>
[x](https://evil.example/"onmouseover="window.PWNED=1)
[x](https://evil.example/ '"><img src=x onerror=window.PWNED=1>')
$\text{<img src=x onerror=window.PWNED=1>}$
$\href{javascript:window.PWNED=1}{x}$
$$\style{background:url(https://evil.example/o.png)}{x}$$
\(\unicode{<script>window.PWNED=1</script>}\)
$\require{html}\cssId{x}{y}$
`<img src=x onerror=window.PWNED=1>`
``` "><img src=x onerror=window.PWNED=1>
~~~<script>window.PWNED=1</script>
| <img src=x onerror=window.PWNED=1> | b |
0 <script>window.PWNED=1</script> $x$ 1
1. x\n\n   ```\n   <script>window.PWNED=1</script>\n   ```
> ```\n> <img src=x onerror=window.PWNED=1>\n> ```
\`<img src=x onerror=window.PWNED=1>`
`` ` <img src=x onerror=window.PWNED=1> ` ``
<div>\n\n<img src=x onerror=window.PWNED=1>\n\n</div>
    <img src=x onerror=window.PWNED=1>
&lt;img src=x onerror=window.PWNED=1&gt;
&#60;img src=x onerror=window.PWNED=1&#62;
"""
)
VECTOR_LIST = [line.replace(r"\n", "\n") for line in VECTORS.strip().splitlines()]


class _Tags(HTMLParser):
    """Collects what a browser would see as elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def live_things(html: str) -> list[str]:
    """Elements and attributes that could run or fetch something."""
    parser = _Tags()
    parser.feed(html)
    found = []
    for tag, attributes in parser.found:
        if tag not in ALLOWED_TAGS:
            found.append(tag)
        for name, value in attributes.items():
            is_link = (
                tag == "a" and name == "href" and re.match(r"(https?|mailto):", value or "", re.IGNORECASE)
            )
            is_ours = tag == "span" and name == "style" and value in OUR_STYLES
            if name.startswith(("on", "data-")) or name in URL_ATTRIBUTES - ({"href"} if is_link else set()):
                found.append(f"{tag}@{name}={value}")
            if name in ("style", "id", "name", "srcdoc") and not is_ours:
                found.append(f"{tag}@{name}={value}")
    return found


def render_with_html(markdown: str) -> str:
    """Markdown as a renderer sees it that lets HTML through, as notebooks do."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown))
