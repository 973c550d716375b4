"""Likelihood terms of the variational bound, weights of the simple loss over times, losses of coarser images.

Papers: Ho et al. 2020 (section 3.3, discretised decoder), Nichol & Dhariwal 2021 (section 3.1), Hang et al.
2023 (arXiv 2303.09556, min-SNR), Choi et al. 2022 (arXiv 2204.00227, P2), Hoogeboom et al. 2023 (arXiv
2301.11093, section 3.4, losses of coarser images).
Where we differ: the weights have mean 1.
Likelihoods are in nats, elementwise, same shape as the inputs; log-variances are natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

LossWeighting: TypeAlias = Literal["none", "min_snr", "p2"]
_MIN_SNR_GAMMA = 5.0  # Hang et al., section 3.4


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)), elementwise, in nats."""
    spread = torch.exp(logvar1 - logvar2)
    return 0.5 * (-1.0 + logvar2 - logvar1 + spread + (mean1 - mean2) ** 2 * torch.exp(-logvar2))


def discretized_gaussian_log_likelihood(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """log P(x) of 8-bit images under a Gaussian cut into 256 bins over [-1, 1]; the end bins are open.

    Args:
        x: the image, in [-1, 1].
        means: mean of the Gaussian, same shape.
        log_scales: natural logarithm of its standard deviation, same shape.
    """
    normal = torch.distributions.Normal(means, torch.exp(log_scales), validate_args=False)
    upper = torch.where(x > 0.999, torch.ones_like(x), normal.cdf(x + 1 / 255))
    lower = torch.where(x < -0.999, torch.zeros_like(x), normal.cdf(x - 1 / 255))
    return (upper - lower).clamp(min=1e-12).log()


def mean_flat(x: Tensor, where: Tensor | None = None) -> Tensor:
    """Mean over everything but the batch: (B, ...) -> (B,).

    Args:
        x: (B, ...); with `where` (B, C, H, W).
        where: pixels to average over, (B, 1, H, W), 0 or 1, at least one 1 in each image; None = all.
    """
    if where is None:
        return x.flatten(1).mean(1)
    where = where.expand_as(x)
    return torch.where(where > 0, x, 0).flatten(1).sum(1) / where.flatten(1).sum(1)


def coarse_error(error: Tensor, factors: Sequence[int], where: Tensor | None = None) -> Tensor:
    """Squared error of coarser images, (B,) ("simple diffusion", section 3.4).

    The sum, over the factors f, of f times the mean square of the error averaged over f x f pixels. White
    noise contributes 1 / f of its square, an error of the mean colour f times its square.

    Args:
        error: (B, C, H, W).
        factors: sides of the squares in pixels; they divide H and W.
        where: as for `mean_flat`. Errors elsewhere count as 0, and the result is divided by the share of the
            image that counts.
    """
    total = error.new_zeros(len(error))
    if where is not None:
        error = error * where
    for factor in factors:
        total = total + factor * mean_flat(F.avg_pool2d(error, factor) ** 2)
    return total if where is None else total / mean_flat(where)


def time_weights(kind: LossWeighting, alpha_bar: Tensor) -> Tensor:
    """Weights (T,) of the squared error of eps at each time; their mean is 1.

    Args:
        kind: none = 1; min_snr = min(SNR, 5) / SNR; p2 = 1 / (k + SNR)^gamma with k = gamma = 1.
        alpha_bar: share of the signal in the variance, (T,), in (0, 1); SNR = alpha_bar / (1 - alpha_bar).
    """
    if kind == "none":
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    weights = (_MIN_SNR_GAMMA / snr).clamp(max=1) if kind == "min_snr" else 1 / (1 + snr)
    return weights / weights.mean()


def nats_to_bits(x: Tensor) -> Tensor:
    """Convert nats to bits."""
    return x / math.log(2.0)
