"""Keys: what an image carries so that a later run knows whether it is finished."""

from __future__ import annotations

import hashlib

import numpy as np


def image_key(fingerprint: str, name: str, *arrays: np.ndarray | None) -> str:
    """Hash everything that decides one output, as SHA-256 in hex.

    Args:
        fingerprint: of settings and weights.
        name: of the image.
        arrays: image and mask; None where there is none.
    """
    key = hashlib.sha256(f"{fingerprint} {name}".encode("utf-8", "surrogateescape"))
    for array in arrays:
        key.update(b"-" if array is None else repr(array.shape).encode() + array.tobytes())
    return key.hexdigest()
