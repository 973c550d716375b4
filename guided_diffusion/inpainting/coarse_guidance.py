"""A denoiser that keeps, while there is much noise, to the colours of a coarser fill of the same hole.

Windows of the model's size that overlap agree with their neighbours, not with what lies beyond them: in a
hole of many windows colours and structure wander. What the model makes of the same hole reduced to its size
knows better.
Paper: Choi et al. 2021, "ILVR" (arXiv 2108.02938), eq. 9. Where we differ: it is the predicted x_0, not x_t,
whose low frequencies are replaced, as DDNM does (Wang et al. 2022), so every sampler may go its own way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.denoiser import Denoise, DenoiseGiven, Prediction
from guided_diffusion.gaussian_diffusion import GaussianDiffusion


@dataclass(frozen=True)
class Sketched:
    """`denoise`, whose x0 has from time `until` up the low frequencies of `sketch`; it is again a Denoise.

    sketch (B, C, H, W), in [-1, 1]; where (B, 1, H, W): 1 where it counts, else 0; there alone x0 is changed.
    blocks: how many (down, across) the image has; the mean of each is a low frequency.
    """

    denoise: Denoise
    process: GaussianDiffusion
    sketch: Tensor
    where: Tensor
    blocks: tuple[int, int]
    until: int

    def __call__(self, x: Tensor, t: int) -> Prediction:
        """x (B, C, H, W)."""
        return self._drawn(x, t, self.denoise(x, t))

    def given(self, x: Tensor, t: int, known: Tensor) -> Prediction:
        """As DenoiseGiven, which `denoise` must be."""
        assert isinstance(self.denoise, DenoiseGiven)
        return self._drawn(x, t, self.denoise.given(x, t, known))

    def _drawn(self, x: Tensor, t: int, p: Prediction) -> Prediction:
        if t < self.until:
            return p
        missing = self._smooth(self.where * (self.sketch - p.x0)) / self._counted
        x0 = (p.x0 + self.where * missing).clamp(-1, 1)
        return replace(p, x0=x0, eps=self.process.eps_from_x0(x, t, x0))

    @cached_property
    def _counted(self) -> Tensor:
        return self._smooth(self.where).clamp_min(1e-6)

    def _smooth(self, plane: Tensor) -> Tensor:
        means = F.interpolate(plane, self.blocks, mode="area")
        return F.interpolate(means, plane.shape[-2:], mode="bilinear", align_corners=False)
