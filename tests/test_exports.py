"""The public names: adding, renaming or dropping one is a decision that is seen here."""

from __future__ import annotations

import vlm_magic

PUBLIC = [
    "Bill",
    "Chunk",
    "Engine",
    "Picture",
    "Reply",
    "Session",
    "Settings",
    "Text",
    "Turn",
    "VLMError",
    "classify",
    "compare",
    "engine",
    "load",
    "load_ipython_extension",
    "map_pictures",
    "session",
    "to_pil",
    "typed",
    "unload_ipython_extension",
]


def test_the_public_names_are_these_and_sorted() -> None:
    assert vlm_magic.__all__ == PUBLIC
    assert sorted(PUBLIC) == PUBLIC


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in PUBLIC:
        assert getattr(vlm_magic, name).__doc__, name


def test_nothing_else_is_there_without_an_underscore() -> None:
    """Rooms that were imported and helpers of typing aside, a name that shows is a public one."""
    import types

    helpers = {"Any", "Callable", "Path", "Sequence", "TYPE_CHECKING", "annotations"}
    shown = {
        name
        for name, value in vars(vlm_magic).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert shown - helpers == {
        name for name in PUBLIC if not isinstance(getattr(vlm_magic, name), types.ModuleType)
    }
