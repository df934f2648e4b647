"""TeX to MathML that can neither run nor fetch anything.

The converter's output is not trusted: it is parsed as XML, and every element and attribute that is
not on a short list throws the whole formula back to plain code. Nothing of the input reaches the
page but as escaped text. Neighbours: `markdown` calls this for dollar maths.
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
_VALUE = re.compile(r"[\w.%+\- #]{0,40}")
_TEXT_ATTRIBUTES = frozenset({"open", "close", "separators"})  # these hold brackets


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
        return _serialise(ElementTree.fromstring(markup), 0)
    except Exception:  # whatever the converter does not know is shown as TeX
        return None
    except RecursionError:
        return None


def _serialise(element: ElementTree.Element, depth: int) -> str:
    """Write an element anew from the lists above.

    Raises:
        _ForbiddenMathError: something is not on them.
    """
    tag = element.tag.rpartition("}")[2]
    if tag not in _TAGS or depth > _MAX_DEPTH:
        raise _ForbiddenMathError(tag)
    attributes = "".join(
        f' {name}="{escape(value)}"'
        for name, value in element.attrib.items()
        if name in _ATTRIBUTES and (name in _TEXT_ATTRIBUTES or _VALUE.fullmatch(value))
    )
    inner = escape(element.text or "")
    for child in element:
        inner += _serialise(child, depth + 1) + escape(child.tail or "")
    return f"<{tag}{attributes}>{inner}</{tag}>"
