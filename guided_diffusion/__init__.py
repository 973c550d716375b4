"""Penumbra: inpaints images and removes shadows with diffusion models.

`load_config`, `Engine` and the exceptions are the Python API. The first two are imported when first asked
for, so that small modules (config, scheduler) load no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guided_diffusion.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DatasetError,
    DeviceError,
    ImageError,
    LaunchError,
    PenumbraError,
    TrainingError,
)

if TYPE_CHECKING:
    from guided_diffusion.engine import Engine, load_config

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DatasetError",
    "DeviceError",
    "Engine",
    "ImageError",
    "LaunchError",
    "PenumbraError",
    "TrainingError",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from guided_diffusion import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'guided_diffusion' has no attribute {name!r}")
