"""Which releases a load needs: an older one is said with the version that is wanted, not by a symptom.

The floors are those of the package's own requirements; a test compares them. Neighbours: `loading` asks first
of all.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from vlm_magic.errors import ModelLoadError

__all__ = ["OLDEST", "check_versions"]

# Found by running. Up to transformers 5.22 a long prompt with pictures that is prefilled in pieces gets other
# tokens, and so does one that has passed a sliding window; with 5.17 no processor loads without torchvision.
OLDEST = {"transformers": "5.23", "torch": "2.4", "accelerate": "1.1"}


def check_versions() -> None:
    """Compare what is installed with what is needed.

    Raises:
        ModelLoadError: a package is too old.
    """
    for package, oldest in OLDEST.items():
        try:
            found = version(package)
        except PackageNotFoundError:  # it says so itself, where it is needed
            continue
        if _numbers(found) < _numbers(oldest):
            raise ModelLoadError(
                f"vlm_magic needs {package} {oldest} or newer",
                have=f"{package} {found}",
                hint=f'pip install "{package}>={oldest}", then restart the kernel',
                package=package,
            )


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with: (2, 13, 0) of "2.13.0+cpu"."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found.group().split("."))) if found else ()
