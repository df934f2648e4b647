"""Did it need the picture? The same question without it, with a grey one and with another one.

Many questions can be answered blind: then the answer stays, whatever is shown. Neighbour: `asking` asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from vlm_magic.errors import VLMError
from vlm_magic.explain.asking import Asker, swapped
from vlm_magic.explain.needed import numbered_pictures
from vlm_magic.messages import Picture, Turn, WithoutPicture, digest_of

__all__ = ["ask_without"]

_GREY = (127, 127, 127)


def ask_without(asker: Asker, others: Sequence[Picture] = ()) -> tuple[WithoutPicture, ...]:
    """The answer as it was given, and what comes without its picture, with grey, and with another picture.

    Args:
        asker: asks about the answer.
        others: pictures that may stand in, the best first; the first that is not in the question is taken.
    """
    shown = numbered_pictures(asker.turns)
    rows = [WithoutPicture("as asked", asker.answer, asker.base.probability, choices=asker.base.choices)]
    several = len(shown) > 1
    rows.append(_row(asker, "no picture", dict.fromkeys(shown), None))
    grey = {n: _grey(picture) for n, picture in shown.items()}
    rows.append(
        _row(asker, "grey pictures" if several else "a grey picture", grey, next(iter(grey.values())))
    )
    own = {picture.digest or digest_of(picture.rgb) for picture in shown.values()}
    other = next((p for p in others if (p.digest or digest_of(p.rgb)) not in own), None)
    if other is not None:
        name = other.name or "picture"
        rows.append(_row(asker, f"another picture: {name}", dict.fromkeys(shown, other), other))
    return tuple(rows)


def _row(
    asker: Asker, shown: str, changed: Mapping[int, Picture | None], picture: Picture | None
) -> WithoutPicture:
    prompt: tuple[Turn, ...] = swapped(asker.turns, dict(changed))
    try:
        held = asker.ask([prompt])[0]
        says = asker.says(prompt)
    except VLMError as error:  # a family that needs a picture in every prompt says so
        return WithoutPicture(shown, "", None, picture, note=error.what)
    return WithoutPicture(shown, says, held.probability, picture, held.choices)


def _grey(picture: Picture) -> Picture:
    return Picture(None, "grey", Image.new("RGB", picture.size_px, _GREY))
