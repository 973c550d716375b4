"""Child processes that import this package."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]  # a checkout, or site-packages


def import_path() -> str:
    """Return a PYTHONPATH with which a child process imports this copy of the package, wherever it runs."""
    return os.pathsep.join(filter(None, [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")]))
