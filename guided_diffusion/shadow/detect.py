"""Finds the shadows of an image: a small network proposes, the image's edges refine, the light decides.

The network's shares of shadow are made to follow the image's edges (guided filter); each region then has to
pass for a shadow by what faces each other across its edge, so that an image without shadow stays as it is.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion import checkpoints
from guided_diffusion.errors import CheckpointError
from guided_diffusion.shadow import guided_filter
from guided_diffusion.shadow.detector import MULTIPLE, Detector
from guided_diffusion.shadow.evidence import shadows_among
from guided_diffusion.shadow.light import log_light, to_linear

WEIGHTS = Path(__file__).parents[2] / "data" / "pretrained" / "shadow_detector.pt"
_SIGHT = 160  # pixels: square root of the area at which the network looks
_WORK = 256  # pixels: square root of the area at which regions are weighed
_RADIUS, _SMOOTH = 12, 0.02  # of the guided filter, at the working size
_REACH = 4  # pixels of the working size by which a region may grow at full size


def find_shadow(image: np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
    """The shadows of an image uint8 (H, W, 3), bool (H, W), True = shadow; all False when none is found.

    within: bool (H, W), a place where one shadow was lifted already: what is still dark there, beyond doubt.
    Deterministic. Raises CheckpointError, with the remedy, if the network's weights are not there.
    """
    with torch.no_grad():
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        small = _resized(x, _WORK, 1)
        log = log_light(to_linear(small))
        filtered = guided_filter.coefficients(
            log, shadow_share(x, (log.shape[1], log.shape[2])), _RADIUS, _SMOOTH
        )
        dark = guided_filter.apply(filtered, log) > 0.5
        if within is not None:
            dark &= F.interpolate(torch.from_numpy(within)[None, None].float(), size=dark.shape)[0, 0] > 0
        regions = shadows_among(log, dark, certain=within is not None)
        if not regions.any():
            return np.zeros(image.shape[:2], dtype=bool)
        side = 2 * _REACH + 1
        reach = F.max_pool2d(regions[None].float(), side, 1, _REACH)
        reach = F.interpolate(reach[None], size=image.shape[:2], mode="nearest")[0, 0] > 0
        fine = ((guided_filter.apply(filtered, log_light(to_linear(x))) > 0.5) & reach).numpy()
        return fine if within is None else fine & within


def shadow_share(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The network's opinion of an image (3, H, W), sRGB in [0, 1]: shares of shadow in [0, 1], `size`.

    The mean over the image and its mirror image.
    """
    sight = _resized(image, _SIGHT, MULTIPLE)[None]
    logits = _network(weights())(torch.cat([sight, sight.flip(3)]))
    share = torch.sigmoid((logits[:1] + logits[1:].flip(3)) / 2)
    return F.interpolate(share, size=size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def weights() -> str:
    """The path of the network's weights. Raises CheckpointError, with the remedy, if they are not there."""
    if not WEIGHTS.exists():
        raise CheckpointError(
            f"finding shadows needs {WEIGHTS}, which is not there; restore it from the repository, train it "
            "as confs/train/shadow_detector.yml says, or mark the shadows and set relight.look_twice: false"
        )
    return str(WEIGHTS)


@cache
def _network(path: str) -> Detector:
    network = Detector()
    checkpoints.load(network, path, _SIGHT)
    return network


def _resized(planes: Tensor, side: int, multiple: int) -> Tensor:
    """(C, H, W) at about side^2 pixels in the same proportions; its sides are multiples of `multiple`."""
    scale = side / math.sqrt(planes.shape[-2] * planes.shape[-1])
    size = [max(multiple, 8, round(length * scale / multiple) * multiple) for length in planes.shape[-2:]]
    grown = F.interpolate(planes[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return grown[0].clamp(0, 1)
