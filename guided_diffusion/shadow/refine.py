"""Refine the pixels of a relit image: what was noise in the dark is louder noise in the light.

A pixel's light is known up to sigma / T, sigma the deviation of the input's noise, T the transmission: next
to nothing is in doubt in a light shadow, much in a deep one; and in the penumbra the matte itself is. The
diffusion prior, in overlapping windows of its training size, is heard just as far (samplers/refine.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.denoiser import Denoise
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.inpainting.tiled_denoiser import Tiled
from guided_diffusion.operators import Shade
from guided_diffusion.samplers import Noise, Problem, Refine, walk
from guided_diffusion.scheduler import count_nfe
from guided_diffusion.shadow.light import to_linear, to_srgb

SAMPLER = Refine(t_start=0.2, steps=10, doubt=0.1, eta=1.0)
_MATTE = 0.1  # deviation of the matte where it is 1/2


def refine(
    srgb: Tensor,
    through: Tensor,
    matte: Tensor,
    noise: float,
    side: int,
    denoise: Denoise,
    process: GaussianDiffusion,
    generator: torch.Generator,
) -> Tensor:
    """The image without its shadow, sRGB (3, H, W) in [0, 1]; arbitrary where the matte is 0.

    srgb (3, H, W): the input; through (3, H, W): its transmission T in (0, 1]; matte (H, W); noise: standard
    deviation of the input's, in levels of 255; side: of the windows. generator lies on the network's device.
    """
    height, width = matte.shape
    frame = (0, max(0, side - width), 0, max(0, side - height))  # to hold one window at least
    variance = light_variance(srgb, noise) + matte_variance(srgb, through, matte)
    planes = F.pad(torch.stack([srgb, through, variance]), frame, mode="replicate")
    y, transmission, variance = planes.to(generator.device)[:, None]
    tiled = Tiled(denoise, side, 3 * side // 4, F.pad(matte > 0, frame))
    operator = Shade(transmission, variance, lambda x: to_linear((x + 1) / 2), lambda x: 2 * to_srgb(x) - 1)
    problem = Problem(2 * y - 1, operator, tiled, process, Noise([generator], y.shape[1:]))
    *_, last = walk(SAMPLER, problem)
    return ((last.x[0, :, :height, :width] + 1) / 2).cpu()


def passes(process: GaussianDiffusion) -> int:
    """Evaluations of the network, each over all windows."""
    return count_nfe(SAMPLER.times(process))[0]


def light_variance(srgb: Tensor, noise: float) -> Tensor:
    """Of linear light, (3, H, W), where the sRGB values (3, H, W) vary by `noise` levels of 255."""
    above, below = ((srgb + sign / 255).clamp(0, 1) for sign in (1, -1))
    slope = (to_linear(above) - to_linear(below)) / (above - below)
    return (slope * noise / 255) ** 2


def matte_variance(srgb: Tensor, through: Tensor, matte: Tensor) -> Tensor:
    """Of linear light, (3, H, W), where the matte (H, W) may be wrong: in the penumbra."""
    wrong = _MATTE * 4 * (1 - matte) * (1 - through)  # of T = 1 - matte * depth
    return (to_linear(srgb) / through * wrong) ** 2
