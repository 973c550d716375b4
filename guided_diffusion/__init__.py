"""Penumbra: fills holes and lifts shadows with diffusion models.

`load_config` and `Engine` are the Python API; they are imported when first asked for, so that the small
modules (config, scheduler) stay light.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["Engine", "load_config"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from guided_diffusion import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'guided_diffusion' has no attribute {name!r}")
