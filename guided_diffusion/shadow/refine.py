"""Refine the pixels of a relit image: removing a shadow amplifies its noise.

A pixel's light is known up to sigma / T: sigma is the deviation of the input's noise, T the transmission. In
a light shadow next to nothing is in doubt, in a deep one much is; in the penumbra the matte itself is. The
diffusion prior, in overlapping windows of its training size, weighs as much as the doubt allows
(samplers/refine.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.images.colour import to_linear, to_srgb
from guided_diffusion.inpainting.tiled_denoiser import TiledDenoiser
from guided_diffusion.operators import ShadowOperator
from guided_diffusion.samplers import Noise, Problem, sample
from guided_diffusion.samplers.refine import Refine
from guided_diffusion.scheduler import count_nfe

# Chosen by experiment: docs/reports/shadow.md.
SAMPLER = Refine(t_start=0.2, steps=10, doubt=0.1, eta=1.0)
_MATTE_DEVIATION = 0.1  # of the matte where it is 1/2


def refine(
    srgb: Tensor,
    transmission: Tensor,
    matte: Tensor,
    noise: float,
    side: int,
    denoise: Denoise,
    process: GaussianDiffusion,
    generator: torch.Generator,
) -> Tensor:
    """Return the image without its shadow, sRGB (3, H, W) in [0, 1]; arbitrary where the matte is 0.

    Args:
        srgb: the image with shadow, sRGB in [0, 1], (3, H, W).
        transmission: share of light that arrives, in (0, 1], (3, H, W).
        matte: alpha in [0, 1], (H, W).
        noise: standard deviation of the input's noise, levels of 255.
        side: of the windows, pixels.
        denoise: the diffusion model.
        process: its process.
        generator: source of the noise, on the network's device.
    """
    height, width = matte.shape
    padding = (0, max(0, side - width), 0, max(0, side - height))  # to hold a window at least
    variance = light_variance(srgb, noise) + matte_variance(srgb, transmission, matte)
    planes = F.pad(torch.stack([srgb, transmission, variance]), padding, mode="replicate")
    y, share, variance = planes.to(generator.device)[:, None]
    tiled = TiledDenoiser(denoise, side, 3 * side // 4, F.pad(matte > 0, padding))
    operator = ShadowOperator(share, variance, lambda x: to_linear((x + 1) / 2), lambda x: 2 * to_srgb(x) - 1)
    problem = Problem(2 * y - 1, operator, tiled, process, Noise([generator], y.shape[1:]))
    *_, last = sample(SAMPLER, problem)
    return ((last.x[0, :, :height, :width] + 1) / 2).cpu()


def count_passes(process: GaussianDiffusion) -> int:
    """Count the network function evaluations; each is a pass over all windows."""
    return count_nfe(SAMPLER.times(process))[0]


def light_variance(srgb: Tensor, noise: float) -> Tensor:
    """Variance of linear light, (3, H, W), where sRGB values (3, H, W) vary by `noise` levels of 255."""
    above, below = ((srgb + sign / 255).clamp(0, 1) for sign in (1, -1))
    slope = (to_linear(above) - to_linear(below)) / (above - below)
    return (slope * noise / 255) ** 2


def matte_variance(srgb: Tensor, transmission: Tensor, matte: Tensor) -> Tensor:
    """Variance of linear light, (3, H, W), from errors of the matte (H, W) in the penumbra."""
    wrong = _MATTE_DEVIATION * 4 * (1 - matte) * (1 - transmission)  # error of T = 1 - matte * depth
    return (to_linear(srgb) / transmission * wrong) ** 2
