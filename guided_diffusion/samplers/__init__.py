"""Samplers: one file, one frozen dataclass, one paper each. `SAMPLERS`: the YAML's `method` -> class.

A new file in this folder is found by itself: its method is called as the file, and its class is the one
subclass of `Sampler` that the file defines.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from guided_diffusion.samplers.base import Noise, Problem, Sampler, Step, sample

__all__ = ["SAMPLERS", "Noise", "Problem", "Sampler", "Step", "sample"]


def _find(module: str) -> type[Sampler]:
    """The one Sampler that a module of this package defines."""
    members = vars(import_module(f"{__name__}.{module}")).values()
    classes = [c for c in members if isinstance(c, type) and issubclass(c, Sampler)]
    (cls,) = (c for c in classes if c.__module__.endswith(f".{module}"))
    return cls


_ALL = {module.name: _find(module.name) for module in iter_modules(__path__) if module.name != "base"}
SAMPLERS: dict[str, type[Sampler]] = {name: cls for name, cls in _ALL.items() if cls.selectable}
