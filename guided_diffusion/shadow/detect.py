"""Detect the shadows of an image.

1. A small network predicts the share of shadow at each pixel.
2. A guided filter makes that map follow the image's edges.
3. Each region has to look like a shadow by the pixels on both sides of its edge (evidence.py), so that an
   image without shadow stays as it is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion import checkpoints
from guided_diffusion.images.colour import to_linear
from guided_diffusion.images.masks import ShadowMask
from guided_diffusion.shadow import guided_filter
from guided_diffusion.shadow.detector import MULTIPLE, Detector
from guided_diffusion.shadow.evidence import select_shadows
from guided_diffusion.shadow.light import log_light

# Chosen by experiment: docs/reports/detection.md.
_NETWORK_SIDE = 160  # pixels: square root of the area at which the network sees the image
_WORKING_SIDE = 256  # pixels: square root of the area at which regions are examined
_RADIUS, _SMOOTH = 12, 0.02  # of the guided filter, at the working size
_GROWTH = 4  # pixels of the working size by which a region may grow at full size

DETECTOR = checkpoints.ShippedNetwork(
    checkpoints.shipped("shadow_detector.pt"),
    Detector,
    _NETWORK_SIDE,
    purpose="finding shadows",
    remedy="train it as confs/train/shadow_detector.yml says, or mark the shadows and set "
    "relight.second_pass: false",
)


def find_shadow(image: np.ndarray, region: ShadowMask | None = None) -> ShadowMask:
    """Find the shadows of an image; all False when there is none. Deterministic.

    Raises CheckpointError, with the remedy, if the network's weights are not there.

    Args:
        image: uint8 (H, W, 3).
        region: where a shadow was removed already. Only a second one inside it is looked for, and only
            what is a shadow beyond doubt is returned.
    """
    with torch.no_grad():
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        small = _resize_to_area(x, _WORKING_SIDE, 1)
        log = log_light(to_linear(small))
        share = predict_shadow(x, (log.shape[1], log.shape[2]))
        coefficients = guided_filter.coefficients(log, share, _RADIUS, _SMOOTH)
        dark = guided_filter.apply(coefficients, log) > 0.5
        if region is not None:
            dark &= F.interpolate(torch.from_numpy(region)[None, None].float(), size=dark.shape)[0, 0] > 0
        shadows = select_shadows(log, dark, certain=region is not None)
        if not shadows.any():
            return ShadowMask(np.zeros(image.shape[:2], dtype=bool))
        near = F.max_pool2d(shadows[None].float(), 2 * _GROWTH + 1, 1, _GROWTH)
        near = F.interpolate(near[None], size=image.shape[:2], mode="nearest")[0, 0] > 0
        fine = ((guided_filter.apply(coefficients, log_light(to_linear(x))) > 0.5) & near).numpy()
        return ShadowMask(fine if region is None else fine & region)


def predict_shadow(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Predict the share of shadow, in [0, 1], at each pixel: the mean over the image and its mirror image.

    Args:
        image: sRGB in [0, 1], (3, H, W).
        size: (height, width) of the result, pixels.
    """
    x = _resize_to_area(image, _NETWORK_SIDE, MULTIPLE)[None]
    logits = DETECTOR.network()(torch.cat([x, x.flip(3)]))
    share = torch.sigmoid((logits[:1] + logits[1:].flip(3)) / 2)
    return F.interpolate(share, size=size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _resize_to_area(planes: Tensor, side: int, multiple: int) -> Tensor:
    """Resize (C, H, W) to about side^2 pixels in the same proportions, to multiples of `multiple`."""
    scale = side / math.sqrt(planes.shape[-2] * planes.shape[-1])
    size = [max(multiple, 8, round(length * scale / multiple) * multiple) for length in planes.shape[-2:]]
    resized = F.interpolate(planes[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)
