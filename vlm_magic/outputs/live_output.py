"""One output that is shown first and updated afterwards, wherever the code runs.

    output = LiveOutput()
    for sheet in sheets:
        if output.is_watched:
            output.show(sheet_bundle(sheet))
    output.show(sheet_bundle(last))

A notebook that somebody looks at gets one output that changes in place; a notebook that a program runs
and a terminal get each `show` as it comes, so there the caller shows the end alone.
Neighbours: `surroundings` says where the code runs; every view that changes after it was shown uses this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlm_magic.outputs.surroundings import Surroundings, surroundings

__all__ = ["LiveOutput", "show_bundle"]


class LiveOutput:
    """A mimebundle on the page that later ones take the place of.

    Args:
        where: what the surroundings are; asked if not given.
    """

    def __init__(self, where: Surroundings | None = None) -> None:
        self.where = where or surroundings()
        self._handle: Any = None

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks, so that showing work in progress makes sense."""
        return self.where == "person"

    @property
    def is_shown(self) -> bool:
        """Whether there is an output that can be updated."""
        return self._handle is not None

    def show(self, bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> None:
        """Show the bundle, in the place of the one before; a terminal gets its ``text/plain``.

        Args:
            bundle: by MIME type; ``text/plain`` is in it.
            metadata: of the output, saved with the notebook.
        """
        if self.where == "terminal":
            print(bundle["text/plain"])
            return
        from IPython.display import display

        kept = dict(metadata or {})
        if self._handle is not None:
            self._handle.update(dict(bundle), raw=True, metadata=kept)
        elif self.is_watched:
            self._handle = display(dict(bundle), raw=True, metadata=kept, display_id=True)
        else:  # a program that runs notebooks compares what was displayed, and knows no updates
            display(dict(bundle), raw=True, metadata=kept)


def show_bundle(bundle: Mapping[str, str], metadata: Mapping[str, Any] | None = None) -> None:
    """Show a bundle once; see `LiveOutput.show`."""
    LiveOutput().show(bundle, metadata)
