"""Exceptions for mistakes of the user and of the machine. Every message is one line that names the remedy.

PenumbraError
 ├── ConfigError       a setting is wrong
 │    └── DeviceError      the device named is not there
 ├── DatasetError      images or masks are missing, or do not fit together
 ├── ImageError        one image cannot be read, processed or written
 ├── CheckpointError   weights are missing, unreadable or do not fit the settings
 ├── LaunchError       the ranks of torchrun cannot find each other
 ├── ClusterError      a Ray cluster is not there, or a worker cannot go on
 └── TrainingError     training cannot go on
"""

from __future__ import annotations


class PenumbraError(Exception):
    """Base of all exceptions that this package raises for its users."""


class ConfigError(PenumbraError, ValueError):
    """A setting is wrong; the message names the key, the value and the remedy."""


class DeviceError(ConfigError):
    """The device named is not there."""


class DatasetError(PenumbraError, ValueError):
    """Images or masks are missing, or do not fit together."""


class ImageError(PenumbraError, ValueError):
    """One image cannot be read, processed or written; the message names the file, then the reason."""


class CheckpointError(PenumbraError, ValueError):
    """Weights are missing, unreadable or do not fit the settings."""


class LaunchError(PenumbraError, ValueError):
    """The ranks of torchrun cannot find each other."""


class ClusterError(PenumbraError, RuntimeError):
    """A Ray cluster is not there, or a worker cannot go on."""


class TrainingError(PenumbraError, RuntimeError):
    """Training cannot go on."""
