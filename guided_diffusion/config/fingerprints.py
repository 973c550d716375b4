"""Fingerprints of a Config: they decide whether a finished image is still valid.

Fingerprints hash the key names of the first release, so that a renamed key does not invalidate finished
images.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from guided_diffusion.config.builder import to_plain
from guided_diffusion.config.legacy import METHODS, RENAMED
from guided_diffusion.config.schema import Config, to_mapping

_IGNORED = (
    "data",
    "paths",
    "name",
    "device",
    "ray",
    "seeds",
    "show_progress",
    "generate",
    "outputs",
    "model_path",
    "classifier_path",
    "save_npz",
    "compile",
    "relight",
    # The weights' digest in `extra` tells the first; `extra` holds the precision that was chosen.
    "per_pixel_time",
    "precision",
)
"""Keys that do not change what a sampler makes."""

_TASK_NAMES = {"inpaint": "", **{new["task"]: old for old, new in METHODS.items()}}
"""Task -> its prefix in the hashed method, where that is not the task's name."""


def fingerprint(config: Config, extra: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of every setting that changes what the sampler makes.

    extra: plain values that identify the weights, wherever they are stored, and the precision.
    """
    mapping = {key: value for key, value in to_mapping(config).items() if key not in _IGNORED}
    method = _method_to_hash(mapping.pop("task"), config.method)
    return digest([{**mapping, "method": method, "use_kl": "use_kl" in config.retired}, extra])


def relight_fingerprint(config: Config, extra: Mapping[str, Any] | None, finder: str | None = None) -> str:
    """SHA-256 (hex) of every setting that changes the output `shadow_free`.

    Args:
        extra: Plain values that identify the prior's weights and the precision; None = no network is used.
        finder: Digest of the shadow detector's weights; None = it is not used.
    """
    sampled = config if config.relight.inpaint_black else replace(config, options={}, windows="holes")
    prior = None if extra is None else fingerprint(sampled, extra)
    old_names = {new: old.removeprefix("relight.") for old, new in RENAMED.items()}
    settings = {old_names.get(f"relight.{key}", key): value for key, value in asdict(config.relight).items()}
    return digest([settings, config.seed, prior, finder])


def digest(values: Any) -> str:
    """SHA-256 (hex) of plain values; the order of mapping keys does not matter."""
    text = json.dumps(to_plain(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _method_to_hash(task: str, method: str) -> str:
    prefix = _TASK_NAMES.get(task, task)
    if not prefix:
        return method
    return prefix if method == METHODS.get(prefix, {}).get("method") else f"{prefix}:{method}"
