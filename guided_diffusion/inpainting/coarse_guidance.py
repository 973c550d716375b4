"""A denoiser that follows, while there is much noise, the colours of a coarser result for the same hole.

Overlapping windows of the model's size agree with their neighbours, not with what lies beyond them: in a hole
of many windows colours and structure drift. Inpainting the same hole at a reduced size avoids that.
Paper: Choi et al. 2021, "ILVR" (arXiv 2108.02938), eq. 9. Where we differ: it is the predicted x_0, not x_t,
whose low frequencies are replaced, as DDNM does (Wang et al. 2022), so it works with every sampler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.denoiser import Denoise, Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion


@dataclass(frozen=True)
class CoarseGuidedDenoiser:
    """`denoise` with the low frequencies of x0 taken from `coarse`; it is again a Denoise."""

    denoise: Denoise
    process: GaussianDiffusion
    coarse: Tensor
    """(B, C, H, W), the coarse result, enlarged to the image's size, in model space."""
    region: Tensor
    """(B, 1, H, W), 1 where x0 follows `coarse`, else 0."""
    blocks: tuple[int, int]
    """Number of blocks (down, across); the mean of each is a low frequency."""
    min_t: int
    """The last time at which `coarse` counts."""
    clamp: Callable[[Tensor], Tensor]
    """Limits x0 to what the model space holds."""

    def __call__(self, x: Tensor, t: int, clean: Tensor | None = None) -> Prediction:
        """Predict from x (B, C, H, W); see Denoise."""
        p = self.denoise(x, t, clean)
        if t < self.min_t:
            return p
        missing = self._smooth(self.region * (self.coarse - p.x0)) / self._weight
        x0 = self.clamp(p.x0 + self.region * missing)
        return replace(p, x0=x0, eps=self.process.eps_from_x0(x, t, x0))

    @cached_property
    def _weight(self) -> Tensor:
        return self._smooth(self.region).clamp_min(1e-6)

    def _smooth(self, plane: Tensor) -> Tensor:
        means = F.interpolate(plane, self.blocks, mode="area")
        return F.interpolate(means, plane.shape[-2:], mode="bilinear", align_corners=False)
