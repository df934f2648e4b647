"""What a cell put into its outputs, in place of a kernel's display; the fixture is in conftest."""

from __future__ import annotations

from typing import Any


class Published:
    """Takes the place of `IPython.display.display`.

    Attributes:
        outputs: for each output the bundles that it held, oldest first.
        metadata: theirs.
    """

    def __init__(self) -> None:
        self.outputs: list[list[dict[str, Any]]] = []
        self.metadata: list[list[Any]] = []

    def __call__(
        self, bundle: dict[str, Any], *, raw: bool = False, metadata: Any = None, display_id: bool = False
    ) -> Any:
        assert raw
        states, facts = [bundle], [metadata]
        self.outputs.append(states)
        self.metadata.append(facts)

        class Handle:
            def update(self, newer: dict[str, Any], *, raw: bool = False, metadata: Any = None) -> None:
                states.append(newer)
                facts.append(metadata)

        return Handle() if display_id else None
