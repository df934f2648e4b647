"""TeX to MathML that can neither run nor fetch anything.

The converter's output is not trusted: it is parsed as XML, and every element and attribute that is
not on a short list throws the whole formula back to plain code. Nothing of the input reaches the
page but as escaped text. Neighbours: `markdown.html` calls this for dollar maths.
"""

from __future__ import annotations

import re
from html import escape
from xml.etree import ElementTree

__all__ = ["to_mathml"]

_MAX_TEX_CHARS = 2_000  # longer is no formula; the converter is recursive
_MAX_DEPTH = 60

_TAG_NAMES = (
    "math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover "
    "mtable mtr mtd mstyle mpadded mphantom menclose mmultiscripts mprescripts mfenced merror"
)
_ATTRIBUTE_NAMES = (
    "display displaystyle scriptlevel mathvariant stretchy fence form separator lspace rspace width height "
    "depth minsize maxsize symmetric largeop movablelimits accent accentunder linethickness rowspacing "
    "columnspacing columnalign rowalign columnlines rowlines frame notation open close separators voffset "
    "mathcolor mathbackground mathsize"
)
_TAGS = frozenset(_TAG_NAMES.split())
_ATTRIBUTES = frozenset(_ATTRIBUTE_NAMES.split())
_MOST_STEPS = 14  # half lines that a bracket is stretched to
_TALL = {f"vlm-tall-{n}": f' class="vlm-tall-{n}"' for n in range(3, _MOST_STEPS + 1)}
_VALUE = re.compile(r"[\w.%+\- #]{0,40}")
_TEXT_ATTRIBUTES = frozenset({"open", "close", "separators"})  # these hold brackets


_BRACKETS = frozenset("()[]{}|‖⟨⟩⌊⌋⌈⌉")
_SCRIPTS = {"msub": 0.3, "msup": 0.3, "msubsup": 0.6, "munder": 0.8, "mover": 0.8, "munderover": 1.6}


class _ForbiddenMathError(ValueError):
    """The converter produced something that is not on the list."""


def to_mathml(tex: str, *, display: bool = False) -> str:
    """Safe HTML for a formula: MathML, or its TeX as code where that cannot be had.

    The TeX stands beside the MathML, and each is hidden where the other shows: a site that strips
    MathML and styles shows the TeX.

    Args:
        tex: TeX without its dollars.
        display: whether it stands on a line of its own.

    Returns:
        One `span` of class ``vlm-math``. Never raises.
    """
    shown = escape(tex.strip())
    kind = "vlm-math vlm-display" if display else "vlm-math"
    math = _convert(tex, display=display)
    if math is None:
        return f'<span class="{kind}"><code>{shown}</code></span>'
    return (
        f'<span class="{kind}"><code class="vlm-tex">{shown}</code>'
        f'<span class="vlm-mathml" style="display:none">{math}</span></span>'
    )


def _convert(tex: str, *, display: bool) -> str | None:
    if len(tex) > _MAX_TEX_CHARS or not tex.strip():
        return None
    try:
        from latex2mathml.converter import convert

        markup = convert(tex, display="block" if display else "inline")
        formula = ElementTree.fromstring(markup)
        _stretch(formula, 1.0 if display else 0.75)
        return _serialise(formula, 0)
    except Exception:  # whatever the converter does not know is shown as TeX
        return None
    except RecursionError:
        return None


def _stretch(element: ElementTree.Element, fraction: float) -> float:
    """Mark brackets with how tall they have to be, since a browser without a maths font stretches none.

    The style sheet draws them taller by their class, and no maths font stretches them a second time.

    Args:
        element: a part of a formula.
        fraction: how large the parts of a fraction are: smaller within a line.

    Returns:
        About how tall it is, in lines.
    """
    tag, parts = element.tag.rpartition("}")[2], list(element)
    heights = [_stretch(part, 0.75 if tag == "mfrac" else fraction) for part in parts]
    for n, part in enumerate(parts):
        if _is_fence(part):
            beside = [h for other, h in zip(parts, heights, strict=True) if not _is_fence(other)]
        elif part.text in _BRACKETS:  # a matrix has its brackets right beside it
            beside = [heights[m] for m in (n - 1, n + 1) if 0 <= m < len(parts) and _is_table(parts[m])]
        else:
            continue
        steps = min(round(2 * max(beside, default=1.0)), _MOST_STEPS)
        if steps > 2 and part.text:
            part.set("class", f"vlm-tall-{steps}")
            part.set("stretchy", "false")
    tallest = max(heights, default=1.0)
    if tag in ("mfrac", "mtable"):
        return sum(heights) * (fraction if tag == "mfrac" else 1.3) + 0.2
    return tallest + _SCRIPTS.get(tag, 0.0)


def _is_fence(element: ElementTree.Element) -> bool:
    return element.get("stretchy") == "true" and element.get("minsize") is None


def _is_table(element: ElementTree.Element) -> bool:
    return element.tag.endswith("mtable")


def _serialise(element: ElementTree.Element, depth: int) -> str:
    """Write an element anew from the lists above.

    Raises:
        _ForbiddenMathError: something is not on them.
    """
    tag = element.tag.rpartition("}")[2]
    if tag not in _TAGS or depth > _MAX_DEPTH:
        raise _ForbiddenMathError(tag)
    attributes = _TALL.get(element.get("class", ""), "")
    attributes += "".join(
        f' {name}="{escape(value)}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and (name in _TEXT_ATTRIBUTES or _VALUE.fullmatch(value))
    )
    inner = escape(element.text or "")
    for child in element:
        inner += _serialise(child, depth + 1) + escape(child.tail or "")
    return f"<{tag}{attributes}>{inner}</{tag}>"
